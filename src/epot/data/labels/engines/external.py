"""Any ASE calculator, by its import path."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module, metadata
from typing import Any, ClassVar

from ....errors import ConfigError, EngineError
from ...structure import LABELS, Structure
from . import finite, full_stress


@dataclass(frozen=True)
class External:
    """An ASE calculator such as ``ase.calculators.emt:EMT``.

    Args:
        name: ``module:Class`` (or ``module:function`` that returns a calculator).
        options: its keyword arguments, JSON-able.
        charge_option: which keyword argument takes the total charge; None where it takes none. A charged structure
            is refused then, for the calculator would silently compute the neutral one.
        spin_option: the same for the spin multiplicity 2S+1.

    A calculator that works through files gets a temporary folder of its own, unless ``options`` names a
    ``directory``, so that parallel labels never share one.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    charge_option: str | None = None
    spin_option: str | None = None

    EXTRA: ClassVar[tuple[str, ...]] = ("charge_option", "spin_option")

    def ready(self) -> External:
        """Itself, once it is known that the calculator can be made.

        Raises:
            ConfigError: it does not take the options.
            EngineError: it cannot be imported.
        """
        self._make()
        return self

    @cached_property
    def _maker(self) -> Any:
        module, _, attribute = self.name.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as why:
            raise EngineError(f"Cannot import {attribute!r} from {module!r}: {why}. Give module:Class.") from None

    def _make(self, **more: Any) -> Any:
        try:
            return self._maker(**(self.options | more))
        except TypeError as why:
            raise ConfigError(f"{self.name} does not take these options: {why}") from None
        except Exception as why:  # an arbitrary class: a missing program, a key without a value, ...
            raise EngineError(f"{self.name} cannot be made: {type(why).__name__}: {why}") from None

    @cached_property
    def provides(self) -> tuple[str, ...]:
        known = getattr(self._make(), "implemented_properties", ("energy", "forces"))
        return tuple(name for name in LABELS if name in known)

    def version(self) -> str:
        package = self.name.split(".")[0].split(":")[0]
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            return package

    @property
    def level(self) -> str:
        given = ", ".join(f"{k}={v}" for k, v in sorted(self.options.items()))
        return self.name.partition(":")[2] + (f"({given})" if given else "")

    def __call__(self, structure: Structure, properties: tuple[str, ...] = LABELS) -> dict[str, Any]:
        more: dict[str, Any] = {}
        for value, default, option, what in (
            (round(structure.charge), 0, self.charge_option, "charge"),
            (structure.spin or 1, 1, self.spin_option, "spin"),
        ):
            if option:
                more[option] = value
            elif value != default:
                raise EngineError(
                    f"The structure has {what} {value}, which {self.name} was not told: name its keyword argument "
                    f"with the option {what}_option."
                )
        calculator = self._make(**more)
        with tempfile.TemporaryDirectory(prefix="epot-label-") as scratch:
            if "directory" not in self.options and _works_through_files(calculator):
                calculator.directory = scratch
            return compute(calculator, structure, tuple(p for p in properties if p in self.provides), self.name)


def _works_through_files(calculator: Any) -> bool:
    from ase.calculators.calculator import FileIOCalculator
    from ase.calculators.genericfileio import GenericFileIOCalculator

    return isinstance(calculator, (FileIOCalculator, GenericFileIOCalculator))


def compute(calculator: Any, structure: Structure, properties: tuple[str, ...], name: str) -> dict[str, Any]:
    """Labels of one structure from an ASE calculator.

    Raises:
        EngineError: whatever the calculator raised, as a reason to record.
    """
    import ase

    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    periodic = bool(structure.pbc.all())
    wanted = [p for p in properties if p != "stress" or periodic]
    wanted = [p for p in wanted if p != "dipole" or not structure.pbc.any()]
    found: dict[str, Any] = {}
    try:
        for label in wanted:
            value = calculator.get_property(label, atoms)
            found[label] = full_stress(value) if label == "stress" and len(value) == 6 else value
    except Exception as why:  # a calculator may raise anything
        raise EngineError(f"{name} failed for {structure.formula}: {type(why).__name__}: {why}") from why
    return finite({k: v for k, v in found.items() if v is not None})
