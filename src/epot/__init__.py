"""epot: from quantum-mechanical reference data to molecular dynamics that can be trusted.

``import epot`` imports neither torch nor anything else that is slow: names are looked up when they are used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Structure": "epot.data.structure",
    "Dataset": "epot.data.dataset",
    "Graph": "epot.geometry.graph",
    "Potential": "epot.potential",
    "Output": "epot.potential",
    "Sum": "epot.potential",
    "Committee": "epot.potential",
    "Prediction": "epot.predict",
    "predict": "epot.predict",
    "Fitted": "epot.fitted",
    "read": "epot.data.readers",
    "combine": "epot.combine",
    "distill": "epot.distill",
    "label": "epot.api",
    "fit": "epot.api",
    "load": "epot.api",
    "models": "epot.registry",
    "EpotError": "epot.errors",
}
__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module("epot.registry").names()
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'epot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """``epot.fit`` and ``epot.predict`` stay the functions when the modules of the same names are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
