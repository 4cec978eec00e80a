"""Potentials of other codes. Each module with ``matches(path)`` and ``load(path, **options)`` is a format."""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, ModelFileError
from ..registry import nearest, parameters

if TYPE_CHECKING:
    from ..potential import Potential


def formats() -> dict[str, ModuleType]:
    """The formats by name."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    found = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: m for name, m in found.items() if hasattr(m, "matches") and hasattr(m, "load")}


def find(path: str | os.PathLike) -> str:
    """The format of a file or folder, by its content.

    Raises:
        ModelFileError: there is nothing at the path, or nothing that is known, or it could be several things.
    """
    path = Path(path)
    if not path.exists():
        raise ModelFileError(f"There is nothing at {path}.")
    known = formats()
    try:
        found = [name for name, module in known.items() if module.matches(path)]
    except ModelFileError as why:
        raise ModelFileError(str(why) if str(path) in str(why) else f"{path}: {why}") from None
    if len(found) == 1:
        return found[0]
    if path.is_file() and not path.stat().st_size:
        raise ModelFileError(f"{path} is empty.")
    what = f"could be {' or '.join(found)}" if found else "is no potential of a known format, by its content"
    raise ModelFileError(f"{path} {what}: name the format, one of {', '.join(known)}.")


def load(path: str | os.PathLike, format: str | None = None, **options: Any) -> Potential:
    """The potential in a file or folder of another code.

    Args:
        path: file or folder.
        format: one of :func:`formats`; found from the content if not given.
        **options: of the format.

    Raises:
        ModelFileError: it cannot be read, or is of a kind that has no counterpart here.
        ConfigError: an unknown format or option.
    """
    if format is None:
        format = find(path)
    known = formats()
    if format not in known:
        raise ConfigError(f"There is no format {format!r} to import; {nearest(format, known)}")
    if not Path(path).exists():
        raise ModelFileError(f"There is nothing at {path}.")
    module = known[format]
    taken = parameters(module.load)
    if len(taken) > 1:  # formats that pass their options on check them themselves
        for key in set(options) - set(taken):
            raise ConfigError(f"{format} has no option {key!r}; {nearest(key, set(taken) - {'path'})}")
    return module.load(Path(path), **options)
