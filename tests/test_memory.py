"""What is freed stays with the process, where the C library is glibc."""

import ctypes
import platform
import subprocess
import sys

import pytest

from epot.memory import keep_freed

LIBC = ctypes.CDLL(None)
IS_GLIBC = platform.libc_ver()[0] == "glibc" and hasattr(LIBC, "mallinfo2")

MAPPED = """
import ctypes
from epot.memory import keep_freed
if {told}:
    assert keep_freed()
libc = ctypes.CDLL(None)
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = libc.mallinfo2()
arrays = [libc.malloc(24 * 2**20) for _ in range(4)]
mappings = libc.mallinfo2().hblks - before.hblks
for array in arrays[::-1]:
    libc.free(array)
after = libc.mallinfo2()
print(mappings, (after.arena - before.arena) // 2**20)
"""


def large_arrays(told: bool) -> tuple[int, int]:
    """Four arrays of 24 MB: how many of them are mappings of their own, and MB that the process keeps of them all."""
    out = subprocess.run([sys.executable, "-c", MAPPED.format(told=told)], capture_output=True, text=True, check=True)
    mappings, kept = map(int, out.stdout.split())
    return mappings, kept


@pytest.mark.skipif(not IS_GLIBC, reason="the C library is not glibc, or older than 2.33")
def test_large_arrays_stay_with_the_process():
    mappings, kept = large_arrays(told=True)
    assert mappings == 0
    assert kept >= 95
    mappings, kept = large_arrays(told=False)  # the control
    assert mappings == 4
    assert kept < 24


def test_other_libraries_are_left_alone(monkeypatch):
    keep_freed.cache_clear()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed() is False
    keep_freed.cache_clear()
