"""What is freed stays with the process: fresh pages cost more than the arithmetic on them."""

from __future__ import annotations

import ctypes
import functools
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt`` (malloc.h)."""
LARGEST_KEPT = 32 * 2**20
"""Bytes: the most that glibc lets an array have that is not a mapping of its own."""
TOP_KEPT = 2**30
"""Bytes of freed memory at the end of the heap that are not given back."""


@functools.cache
def keep_freed() -> bool:
    """Tell the C library to keep freed memory for the next array, once in a process; whether it could be told.

    Every step of a fit and of dynamics allocates the same arrays again. By default glibc gives large ones back to the
    system, which fills new pages with zeros: a seventh of a training step of ``gemnet``, a tenth of one of
    ``dimenet``. Peaks of memory stay what they are. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, TOP_KEPT))
