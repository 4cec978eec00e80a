"""Names to classes, and constructors' signatures as configuration.

A model's name is the name of its file in :mod:`epot.models` (a term's in :mod:`epot.terms`, a descriptor's in
:mod:`epot.features.descriptors`), or
an entry point in the group ``epot.models`` of another package. Its configuration is the signature
of its constructor: the same keys in Python, YAML, on the command line and in a model file. A class may
name sets of arguments, ``PRESETS``: ``"mace:small"`` is the model with those, and what is given besides goes first.
"""

import copy
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from .errors import ConfigError

FOLDERS = ("epot.models", "epot.terms", "epot.features.descriptors")
GROUP = "epot.models"


class Preset(NamedTuple):
    """Arguments of a constructor under a name, ``PRESETS["small"]`` of a class: users write ``mace:small``.

    Attributes:
        about: one line for ``epot models``.
        arguments: those that differ from the constructor's defaults.
    """

    about: str
    arguments: Mapping[str, Any]


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence ending that names the nearest known word, or lists them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}."


def names(folder: str = "epot.models") -> list[str]:
    """Names of all models (or of all terms, for ``folder="epot.terms"``), sorted."""
    found = [m.name for m in pkgutil.iter_modules(importlib.import_module(folder).__path__) if m.name[0] != "_"]
    if folder == GROUP:
        found += [entry.name for entry in entry_points(group=GROUP)]
    return sorted(set(found))


def get(name: str) -> type:
    """The class called ``name`` (``mace``, ``mace:small``): imports that one module and nothing else.

    Raises:
        ConfigError: no model or term has this name, or it has no such preset; the nearest one is named.
    """
    name, colon, preset = name.partition(":")
    kind = _kind(name)
    if colon:
        _preset(kind, name, preset)
    return kind


def presets(kind: type) -> Mapping[str, Preset]:
    """Presets of a class, from the smallest to the largest."""
    return getattr(kind, "PRESETS", {})


def _preset(kind: type, name: str, preset: str) -> Preset:
    known = presets(kind)
    if preset in known:
        return known[preset]
    if not known:
        raise ConfigError(f"{name} has no presets; {name}:{preset} is none.")
    listed = ", ".join(f"{name}:{k}" for k in known)
    close = difflib.get_close_matches(preset, known, n=1, cutoff=0.5)
    hint = f"did you mean {name}:{close[0]}? " if close else ""
    raise ConfigError(f"{name} has no preset {preset!r}; {hint}Presets: {listed}.")


def expand(config: str | Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as a mapping, a preset's arguments in place of its name; what is given besides goes first.

    Raises:
        ConfigError: an unknown name or preset.
    """
    config = {"name": config} if isinstance(config, str) else dict(config)
    name = config.get("name")
    if not isinstance(name, str) or ":" not in name:
        return config
    model, _, preset = name.partition(":")
    return {**copy.deepcopy(dict(_preset(_kind(model), model, preset).arguments)), **config, "name": model}


def _kind(name: str) -> type:
    for folder in FOLDERS:
        if name in names(folder):
            spec = f"{folder}.{name}"
            if importlib.util.find_spec(spec) is not None:
                return _main_class(importlib.import_module(spec))
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return entry.load()
    known = [n for folder in FOLDERS for n in names(folder)]
    raise ConfigError(f"There is no model called {name!r}; {nearest(name, known)}")


def _main_class(module: types.ModuleType) -> type:
    wanted = module.__name__.rsplit(".", 1)[1].replace("_", "")
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__ and value.__name__.lower() == wanted:
            return value
    raise ConfigError(f"{module.__name__} has no class called like its file ({wanted}, in any case).")


def name_of(kind: type) -> str:
    """The registered name of a class: the inverse of :func:`get`."""
    folder, _, name = kind.__module__.rpartition(".")
    if folder in FOLDERS:
        return name
    for entry in entry_points(group=GROUP):
        if entry.load() is kind:
            return entry.name
    raise ConfigError(f"{kind.__name__} is not in {' or '.join(FOLDERS)} and not an entry point of {GROUP!r}.")


def parameters(kind: Any) -> dict[str, inspect.Parameter]:
    """The configuration of a class (or keyword arguments of a function): name to parameter."""
    target = kind.__init__ if isinstance(kind, type) else kind  # type: ignore[misc]
    found = inspect.signature(target).parameters
    skip = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {k: p for k, p in found.items() if k != "self" and p.kind not in skip}


def check(kind: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Check ``config`` against the signature of ``kind``; returns it with lists where tuples are meant made tuples.

    Raises:
        ConfigError: a key is unknown (the nearest is named) or a value has the wrong type.
    """
    known = parameters(kind)
    label = getattr(kind, "__name__", str(kind))
    hints = typing.get_type_hints(kind.__init__ if isinstance(kind, type) else kind)  # type: ignore[misc]
    checked = {}
    for key, value in config.items():
        if key not in known:
            raise ConfigError(f"{key!r} is not an argument of {label}; {nearest(key, known)}")
        checked[key] = _coerce(value, hints.get(key, Any), f"{label}.{key}")
    missing = [k for k, p in known.items() if p.default is p.empty and k not in checked]
    if missing:
        raise ConfigError(f"{label} needs {', '.join(missing)}, which the configuration does not give.")
    return checked


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the type ``hint`` asks for, or a ConfigError; hints that are not simple pass through."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _coerce(value, option, where)
            except ConfigError:
                continue
    elif origin is typing.Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{where} is {value!r}; expected one of {', '.join(map(repr, arguments))}.")
    elif origin is tuple and isinstance(value, (list, tuple)):
        return tuple(value)
    elif hint in (bool, str, type(None)):
        if isinstance(value, hint):
            return value
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is not float and origin is not tuple:
        return value
    raise ConfigError(f"{where} is {value!r} of type {type(value).__name__}; expected {hint}.")


def make(config: str | Mapping[str, Any]) -> Any:
    """Build from ``"painn"``, ``"painn:fast"`` or ``{"name": "painn", "cutoff": 5.0}``.

    Potentials inside a configuration are built by :func:`epot.potential.make`.

    Raises:
        ConfigError: an unknown name or key, or a value of the wrong type.
    """
    config = expand(config)
    if "name" not in config:
        raise ConfigError(f"A configuration needs a 'name'; this one has {', '.join(config) or 'nothing'}.")
    name = config.pop("name")
    if not isinstance(name, str):
        raise ConfigError(f"The name of a model is a word; it was given {name!r}.")
    kind = get(name)
    if hasattr(kind, "from_config"):
        return kind.from_config(config)
    return kind(**check(kind, config))
