"""Descriptors by name: ``epot.features.soap(structures, cutoff=5.0)``, ``epot.features.acsf(...)``, ...

Each name of a file in :mod:`epot.features.descriptors` is a function here: see :func:`epot.features.describe.describe`
for what it takes and gives.
"""

from collections.abc import Callable
from functools import partial
from typing import Any


def __getattr__(name: str) -> Callable[..., Any]:
    from ..registry import names

    if name in names("epot.features.descriptors"):
        from .describe import describe

        return partial(describe, name)
    raise AttributeError(f"module 'epot.features' has no attribute {name!r}")


def __dir__() -> list[str]:
    from ..registry import names

    return names("epot.features.descriptors")
