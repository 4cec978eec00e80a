"""Quantum-mechanical engines behind one call: a structure in, its labels out.

An engine is a frozen dataclass. Its fields are its settings: they are checked when it is made, hashed into the
key of every label and written beside the labels as their level of theory. Calling it with a structure and the
wanted properties returns labels in eV, Å, e.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ....errors import ConfigError, EngineError
from ....registry import check, nearest
from ...structure import LABELS, Structure

BUILT_IN = {
    "gfn2": ("tblite", "GFN2"),
    "gfn1": ("tblite", "GFN1"),
    "pyscf": ("pyscf", "PySCF"),
    "gpaw": ("gpaw", "GPAW"),
}


@runtime_checkable
class Engine(Protocol):
    """What labels a structure."""

    @property
    def name(self) -> str:
        """As in ``--engine``."""

    @property
    def provides(self) -> tuple[str, ...]:
        """Labels that it can give (stress only where all three axes are periodic)."""

    def version(self) -> str:
        """Name and version of the program behind it.

        Raises:
            EngineError: the program is not installed; the message says how to install it.
        """

    @property
    def level(self) -> str:
        """Level of theory in a few words."""

    def __call__(self, structure: Structure, properties: tuple[str, ...] = LABELS) -> dict[str, Any]:
        """Labels of one structure: those of ``properties`` that exist for it.

        Raises:
            EngineError: the calculation failed or the engine cannot treat this structure.
        """


def make(name: str | Engine, options: Mapping[str, Any] | None = None) -> Engine:
    """The engine called ``name`` with these options.

    Args:
        name: ``gfn2``, ``gfn1``, ``pyscf``, ``gpaw``, or an ASE calculator by its import path
            (``"ase.calculators.emt:EMT"``); an engine is returned as it is.
        options: fields of the engine; for an ASE calculator its keyword arguments.

    Raises:
        ConfigError: an unknown name or option.
        EngineError: the program is not installed.
    """
    if not isinstance(name, str):
        if options:
            raise ConfigError("Options were given together with a ready engine; give them when you make it.")
        return name
    options = dict(options or {})
    if ":" in name:
        from .external import External

        extra = {k: options.pop(k) for k in External.EXTRA if k in options}
        return External(name, options, **extra).ready()
    if name not in BUILT_IN:
        raise ConfigError(
            f"There is no engine called {name!r}; {nearest(name, BUILT_IN)} "
            "Any ASE calculator goes by its import path, such as ase.calculators.emt:EMT."
        )
    module, kind = BUILT_IN[name]
    found = getattr(import_module(f".{module}", __name__), kind)
    engine: Engine = found(**check(found, options))
    engine.version()
    return engine


def settings(engine: Engine) -> dict[str, Any]:
    """Everything that decides what the engine computes, JSON-able: its name and all of its fields."""
    fields = dataclasses.asdict(engine) if dataclasses.is_dataclass(engine) else {"level": engine.level}  # type: ignore[arg-type]
    return {"engine": engine.name} | fields


def options_of(engine: Engine) -> dict[str, Any]:
    """The options from which :func:`make` makes the same engine again.

    Raises:
        ConfigError: an engine of another kind, which no process but this one can have.
    """
    if not dataclasses.is_dataclass(engine):
        raise ConfigError(f"Engine {engine.name!r} cannot be made again in another process: give workers=0.")
    fields: dict[str, Any] = dataclasses.asdict(engine)  # type: ignore[arg-type]
    if engine.name in BUILT_IN:
        return fields
    return fields["options"] | {k: v for k, v in fields.items() if k not in ("name", "options") and v is not None}


def unpaired(structure: Structure) -> int:
    """Number of unpaired electrons (2S): from the spin multiplicity, else the lowest the number of electrons allows.

    Raises:
        EngineError: the total charge is not an integer or the multiplicity does not fit the number of electrons.
    """
    charge = round(structure.charge)
    if abs(structure.charge - charge) > 1e-6:
        raise EngineError(f"The total charge is {structure.charge}; engines need a whole number of electrons.")
    electrons = int(structure.numbers.sum()) - charge
    if electrons < 0:
        raise EngineError(f"A total charge of {charge} takes more electrons than {structure.formula} has.")
    if structure.spin is None:
        return electrons % 2
    if structure.spin < 1 or (structure.spin - 1 - electrons) % 2 or structure.spin - 1 > electrons:
        raise EngineError(
            f"Spin multiplicity {structure.spin} is impossible with {electrons} electrons ({structure.formula}, "
            f"charge {charge}): it must be {'even' if electrons % 2 else 'odd'}. Set `spin` (2S+1) or `charge`."
        )
    return structure.spin - 1


def finite(labels: Mapping[str, Any]) -> dict[str, Any]:
    """The labels as float64.

    Raises:
        EngineError: some of them are not finite.
    """
    checked: dict[str, Any] = {}
    for name, value in labels.items():
        array = np.asarray(value, dtype=np.float64)
        if not np.isfinite(array).all():
            raise EngineError(f"The engine returned `{name}` with values that are not finite.")
        checked[name] = float(array) if array.ndim == 0 else array
    return checked


def full_stress(voigt: Any) -> np.ndarray:
    """``(3, 3)`` from ASE's order xx yy zz yz xz xy."""
    xx, yy, zz, yz, xz, xy = np.asarray(voigt, dtype=np.float64).ravel()
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
