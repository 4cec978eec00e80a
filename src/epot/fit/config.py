"""What a fit is made of, as configuration: potentials and stages from names, mappings, YAML and ``key=value`` words."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from .. import modelfile, registry
from ..data.structure import Structure
from ..errors import ConfigError
from ..potential import Committee, Potential, Sum, make
from ..registry import nearest
from ..terms.offsets import Offsets
from .recipe import Stage, check_order, offsets_of, readout_of

STAGES = {
    "offsets": "FitOffsets",
    "sparse": "SelectSparse",
    "standardize": "FitStatistics",
    "scaling": "FitScaling",
    "kernel": "FitKernel",
    "topology": "FindTopology",
    "solve": "Solve",
    "descend": "Descend",
    "posterior": "Posterior",
    "calibrate": "Calibrate",
}
RECIPES = {
    "solve": ("offsets", "sparse", "standardize", "kernel", "solve", "posterior", "calibrate"),
    "descend": ("offsets", "topology", "standardize", "scaling", "descend", "posterior", "calibrate"),
}
KEYS = ("train", "valid", "model", "stages", "seed", "device", "out", "targets", "holdout", *STAGES)
"""What a configuration file may hold; a section of a stage's name changes that stage's settings."""
RECORDED = ("data", "versions", "start")
"""What a run's own ``config.yaml`` holds besides: read again, and ignored, but for the model file to start from."""
HARMLESS = ("checkpoint_every", "memory", "tensorboard")
"""Settings that do not change the numbers of a fit: an interrupted one may go on with others."""


TUNE: tuple[str | dict[str, Any], ...] = (
    {"stage": "offsets", "method": "correct"},
    {"stage": "descend", "learning_rate": 1e-3},
    "posterior",
    "calibrate",
)
"""Of a potential that was fitted before, from which the descent starts, at a quarter of the usual rate: with that a
long fit to few structures forgets more (force errors of a toy after 150 epochs: 12.2 meV/Å against 7.7)."""


def is_file(what: Any) -> bool:
    """Whether it names a model file instead of a model."""
    return isinstance(what, (str, os.PathLike)) and Path(what).suffix == ".epot"


def build_potential(
    what: Potential | str | os.PathLike | Mapping[str, Any],
    elements: Sequence[int],
    seed: int = 0,
    data: Sequence[Sequence[Structure]] = (),
) -> Potential:
    """A potential with energies per element.

    Args:
        what: a potential (changed in place by a fit), a model file to start from (``.epot``), a name or a
            configuration; ``elements`` that a configuration leaves open are those of the data, other arguments what
            :meth:`epot.potential.Potential.for_data` makes.
        elements: atomic numbers in the data.
        seed: of the initial weights; the caller's random state is left alone.
        data: the sets of structures of the fit.

    Returns:
        ``what``, if it is a Sum or has an :class:`Offsets`; otherwise ``Sum(offset=Offsets(elements), body=what)``.

    Raises:
        ConfigError: an unknown name or key, or a value of the wrong type.
        ModelFileError: the model file cannot be read.
    """
    if isinstance(what, (str, os.PathLike)) and is_file(what):
        what, _ = modelfile.load(what)
        readout = readout_of(what)
        if readout is not None:
            readout.forget_members()
    if isinstance(what, Committee):
        raise ConfigError(
            f"This is {what.n_members} potentials that were fitted apart: fit on from each one's own model file, then "
            "put them together again with `epot combine`."
        )
    if isinstance(what, os.PathLike):
        raise ConfigError(f"{what} is not a model file (.epot); read another code's potential with `epot import`.")
    if not isinstance(what, Potential):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            what = make(_completed(what, elements, data))
    if isinstance(what, Sum) or offsets_of(what) is not None:
        return what
    return Sum(offset=Offsets(what.elements or elements), body=what)


def _completed(
    config: str | Mapping[str, Any], elements: Sequence[int], data: Sequence[Sequence[Structure]]
) -> dict[str, Any]:
    """With what the data decide."""
    config = registry.expand(config)
    if config.get("name") == "sum":
        if isinstance(config.get("terms"), Mapping):
            config["terms"] = {k: _completed(v, elements, data) for k, v in config["terms"].items()}
        return config
    if "name" not in config:
        return config
    kind = registry.get(config["name"])
    if config.get("elements") is None and "elements" in registry.parameters(kind):
        config["elements"] = list(elements)
    return kind.for_data(config, data) if data and issubclass(kind, Potential) else config


def recipe_of(potential: Potential) -> str:
    """``"solve"`` where a term asks for it, else ``"descend"``."""
    kinds = {getattr(m, "recipe", None) for m in potential.modules()}
    return "solve" if "solve" in kinds and "descend" not in kinds else "descend"


def stage_class(name: str) -> type[Stage] | None:
    """The class of a stage by its section (``"descend"``) or class name; None where this installation lacks it.

    Raises:
        ConfigError: there is no such stage; the nearest is named.
    """
    section = next((k for k, v in STAGES.items() if name in (k, v)), None)
    if section is None:
        raise ConfigError(f"There is no stage called {name!r}; {nearest(name, [*STAGES, *STAGES.values()])}")
    module = f"epot.fit.stages.{section}"
    if importlib.util.find_spec(module) is None:
        return None
    return getattr(importlib.import_module(module), STAGES[section])


def build_stages(
    stages: Iterable[Stage | str | Mapping[str, Any]] | None,
    potential: Potential,
    has_valid: bool,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    tune: bool = False,
) -> list[Stage]:
    """The stages of a fit, in order.

    Args:
        stages: stages, their names, or mappings ``{"stage": name, ...settings}``; None for the model's own recipe.
        potential: says its recipe.
        has_valid: posterior and calibration of the recipe need validation data.
        options: settings by section, ``{"descend": {"epochs": 200}}``; they change stages that were given by name
            or left to the recipe.
        tune: the potential was fitted before, and its own recipe goes on from there.

    Raises:
        ConfigError: an unknown stage or setting, settings for a stage that is not in the list, a wrong order.
    """
    options = {_section(k): dict(v) for k, v in (options or {}).items()}
    default = stages is None
    if stages is None:
        left_out = ("posterior", "calibrate") if not has_valid else ()
        recipe = recipe_of(potential)
        names = [s for s in (TUNE if tune and recipe == "descend" else RECIPES[recipe]) if s not in left_out]
        kinds = [stage_class(s if isinstance(s, str) else s["stage"]) for s in names]
        stages = [s for s, kind in zip(names, kinds, strict=True) if kind is None or kind.applies(potential)]
    made: list[Stage] = []
    for entry in stages:
        if isinstance(entry, Stage):
            made.append(entry)
            continue
        settings = {"stage": entry} if isinstance(entry, str) else dict(entry)
        if "stage" not in settings:
            has = ", ".join(map(str, settings)) or "nothing"
            raise ConfigError(f"A stage's configuration needs a 'stage'; this one has {has}.")
        name = settings.pop("stage")
        kind = stage_class(name)
        if kind is None and not default:
            raise ConfigError(f"This installation of epot has no stage {name!r}.")
        if kind is not None:
            given = {**settings, **options.pop(_section(name), {})}
            made.append(kind(**registry.check(kind, {**settings_of(potential, _section(name)), **given})))
    if options:
        raise ConfigError(
            f"Settings were given for {next(iter(options))!r}, which is not a stage that this fit builds; its stages "
            f"are {', '.join(type(s).__name__ for s in made)}."
        )
    if not made:
        raise ConfigError("A fit needs at least one stage.")
    check_order(made)
    return made


def settings_of(potential: Potential, section: str) -> dict[str, Any]:
    """What the terms of a potential say of a stage, ``SETTINGS``; of two that say something the first."""
    terms = [m for m in potential.modules() if isinstance(m, Potential) and m.SETTINGS.get(section)]
    found: dict[str, Any] = {}
    for term in reversed(terms):
        found |= term.SETTINGS[section]
    return found


def _section(name: str) -> str:
    if name in STAGES:
        return name
    for section, kind in STAGES.items():
        if name == kind:
            return section
    raise ConfigError(f"There is no stage called {name!r}; {nearest(name, STAGES)}")


def read(path: str | os.PathLike) -> dict[str, Any]:
    """A YAML configuration file, its keys checked.

    Raises:
        ConfigError: there is no such file, it is not YAML, or a key is unknown (the nearest is named).
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"There is no configuration file {path}.")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as why:
        raise ConfigError(f"{path} is not YAML: {why}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no keys; a configuration has {', '.join(KEYS[:4])}, ...")
    return checked(found, str(path))


def checked(config: Mapping[str, Any], where: str = "The configuration") -> dict[str, Any]:
    """The configuration without what a run recorded in it.

    Raises:
        ConfigError: a key is unknown, or a section is not a mapping.
    """
    for key in config:
        if key not in KEYS + RECORDED:
            raise ConfigError(f"{where}: {key!r} is not a key of a fit; {nearest(str(key), KEYS)}")
    for key in STAGES:
        if key in config and not isinstance(config[key], Mapping):
            raise ConfigError(f"{where}: {key!r} holds the settings of a stage, as a mapping; it is {config[key]!r}.")
    made = {k: v for k, v in config.items() if k not in RECORDED}
    return made | ({"model": config["start"]} if config.get("start") else {})


def override(config: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """The configuration with ``"model.cutoff=6.0"``, ``"descend.epochs=200"``, ``"seed=3"`` put in.

    Raises:
        ConfigError: a word without ``=``, or an unknown key.
    """
    made = dict(config)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} is not a setting; write key=value, as in model.cutoff=6.0 descend.epochs=200.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        _put(made, key.split("."), _number(value), word)
    return checked(made, "On the command line")


def _put(made: dict[str, Any], path: list[str], value: Any, word: str) -> None:
    head, *rest = path
    if not rest:
        made[head] = value
        return
    inner = made.get(head)
    if head == "model" and isinstance(inner, str):
        inner = {"name": inner}
    if inner is not None and not isinstance(inner, Mapping):
        raise ConfigError(f"{word!r}: {head!r} is {inner!r} and has no settings of its own.")
    made[head] = dict(inner or {})
    _put(made[head], rest, value, word)


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-3`` as text; a person means a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first key in which two configurations differ, with both values; None where they agree."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            if key in HARMLESS:
                continue
            found = first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return next((d for k, (a, b) in pairs if (d := first_difference(a, b, f"{path}[{k}]"))), None)
    return None if old == new else f"`{path}` was {old!r} and is now {new!r}"
