"""GFN1-xTB and GFN2-xTB through tblite, in process.

Periodic structures are sampled at the Gamma point only: take cells large enough for that, and compare only cells of
one size. tblite sums its electrostatics in three dimensions whatever ``periodic`` says (a slab gets the energy of the
three-dimensional crystal without a word), so structures periodic along one or two axes are refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar

import numpy as np

from ....errors import EngineError
from ....units import BOHR, HARTREE, KB
from ...structure import LABELS, Structure
from . import finite, unpaired

_LANTHANIDES = range(57, 72)  # the f electrons are in the core: 3 valence electrons each


@dataclass(frozen=True)
class _Tblite:
    """The settings of both methods.

    Args:
        accuracy: of the self-consistent charges; smaller is tighter.
        electronic_temperature: K, of the Fermi smearing.
        max_iterations: of the self-consistent charges.
        solvent: ALPB implicit solvent ("water"), molecules only; None for vacuum.
        spin_polarized: add the spin-polarization energy (spGFN) where electrons are unpaired.
    """

    accuracy: float = 1.0
    electronic_temperature: float = 300.0
    max_iterations: int = 250
    solvent: str | None = None
    spin_polarized: bool = False

    name: ClassVar[str] = ""
    method: ClassVar[str] = ""
    provides: ClassVar[tuple[str, ...]] = LABELS

    def version(self) -> str:
        try:
            return f"tblite {metadata.version('tblite')}"
        except metadata.PackageNotFoundError:
            raise EngineError(f"Engine {self.name!r} needs tblite: pip install 'epot[qm]' (or tblite).") from None

    @property
    def level(self) -> str:
        extra = f" ALPB({self.solvent})" if self.solvent else ""
        return ("sp" if self.spin_polarized else "") + self.method + extra

    def __call__(self, structure: Structure, properties: tuple[str, ...] = LABELS) -> dict[str, Any]:
        from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError

        periodic = bool(structure.pbc.all())
        try:
            calculator = self._calculator(structure, periodic)
            result = calculator.singlepoint()
            energy, gradient = result["energy"], result["gradient"]
            found = {
                "energy": float(energy) * HARTREE,
                "forces": -np.asarray(gradient) * HARTREE / BOHR,
                "charges": np.array(result["charges"]),
            }
            if periodic:  # tblite's "virial" is dE/d(strain), so it has the sign of the stress
                found["stress"] = np.asarray(result["virial"]) * HARTREE / structure.volume
            else:
                found["dipole"] = np.asarray(result["dipole"]) * BOHR
        except (TBLiteRuntimeError, TBLiteValueError) as why:
            raise EngineError(f"{self.method} failed for {structure.formula}: {' '.join(str(why).split())}") from None
        return finite({k: found[k] for k in properties if k in found})

    def _calculator(self, structure: Structure, periodic: bool) -> Any:
        from tblite.interface import Calculator

        if structure.pbc.any() and not periodic:
            raise EngineError(
                f"{self.method} in tblite is periodic along three axes or none, this structure along "
                f"{int(structure.pbc.sum())}: give it a cell with vacuum and set pbc to True along every axis."
            )
        if periodic and self.solvent:
            raise EngineError("Implicit solvent is for molecules; this structure is periodic.")
        frozen = int(sum(z in _LANTHANIDES for z in structure.numbers) % 2 and structure.spin is None)
        uhf = unpaired(structure)
        if frozen:
            valence = sum(3 if z in _LANTHANIDES else int(z) for z in structure.numbers) - round(structure.charge)
            uhf = valence % 2
        calculator = Calculator(
            self.method,
            structure.numbers,
            structure.positions / BOHR,
            float(round(structure.charge)),
            uhf,
            np.asarray(structure.cell) / BOHR if periodic else None,
            structure.pbc if periodic else None,
        )
        calculator.set("verbosity", 0)
        calculator.set("accuracy", self.accuracy)
        calculator.set("temperature", self.electronic_temperature * KB / HARTREE)
        calculator.set("max-iter", self.max_iterations)
        if self.solvent:
            calculator.add("alpb-solvation", self.solvent)
        if self.spin_polarized:
            calculator.add("spin-polarization", 1.0)
        return calculator


@dataclass(frozen=True)
class GFN2(_Tblite):
    """GFN2-xTB: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019)."""

    name: ClassVar[str] = "gfn2"
    method: ClassVar[str] = "GFN2-xTB"


@dataclass(frozen=True)
class GFN1(_Tblite):
    """GFN1-xTB: Grimme, Bannwarth, Shushkov, J. Chem. Theory Comput. 13, 1989 (2017)."""

    name: ClassVar[str] = "gfn1"
    method: ClassVar[str] = "GFN1-xTB"
