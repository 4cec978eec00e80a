"""Periodic density-functional theory through GPAW.

Mortensen et al., J. Chem. Phys. 160, 092503 (2024). GPAW has to be compiled (see docs/labels.md)::

    apt-get install libxc-dev libopenblas-dev
    CC=g++ pip install gpaw gpaw-data
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar

import numpy as np

from ....errors import EngineError
from ...structure import LABELS, Structure
from . import unpaired
from .external import compute

INSTALL = "apt-get install libxc-dev libopenblas-dev, then CC=g++ pip install gpaw gpaw-data (see docs/labels.md)"


@dataclass(frozen=True)
class GPAW:
    """Plane waves and projector-augmented waves; crystals, liquids, slabs and molecules in a box.

    Args:
        functional: ``PBE``, ``PBEsol``, ``LDA``, ``RPBE``, ...
        cutoff: of the plane waves, eV.
        kpoint_density: points per Å^-1 along each periodic axis, as in GPAW (Gamma-centred).
        kpoints: a fixed grid instead of a density.
        smearing: width of the Fermi-Dirac occupations, eV.
        convergence: of the energy, eV per valence electron.
        max_iterations: of the self-consistent field.
        vacuum: Å, put around the axes that have no cell.

    Energies are extrapolated to zero smearing, as ASE's convention wants them, unless ``free_energy``; the forces
    and the stress are derivatives of the free energy, so ``free_energy`` (the default) keeps the labels consistent.
    """

    functional: str = "PBE"
    cutoff: float = 400.0
    kpoint_density: float = 3.5
    kpoints: tuple[int, int, int] | None = None
    smearing: float = 0.05
    convergence: float = 1e-6
    max_iterations: int = 200
    vacuum: float = 5.0
    free_energy: bool = True

    name: ClassVar[str] = "gpaw"
    provides: ClassVar[tuple[str, ...]] = ("energy", "forces", "stress")

    def version(self) -> str:
        try:
            return f"gpaw {metadata.version('gpaw')}"
        except metadata.PackageNotFoundError:
            raise EngineError(f"Engine 'gpaw' needs GPAW: {INSTALL}.") from None

    @property
    def level(self) -> str:
        points = "x".join(map(str, self.kpoints)) if self.kpoints else f"{self.kpoint_density:g}/Å"
        return f"{self.functional} PW({self.cutoff:g} eV) k={points}"

    def __call__(self, structure: Structure, properties: tuple[str, ...] = LABELS) -> dict[str, Any]:
        try:
            from gpaw import GPAW as Calculator
            from gpaw import PW
        except ImportError as why:
            raise EngineError(f"GPAW cannot be imported ({why}): {INSTALL}.") from None
        two_s = unpaired(structure)
        density = {"density": self.kpoint_density, "gamma": True}
        try:
            calculator = Calculator(
                mode=PW(self.cutoff),
                xc=self.functional,
                kpts=self.kpoints or density,
                occupations={"name": "fermi-dirac", "width": self.smearing, "fixmagmom": two_s > 0},
                convergence={"energy": self.convergence, "forces": 1e-3},
                maxiter=self.max_iterations,
                charge=round(structure.charge),
                spinpol=two_s > 0,
                symmetry={"point_group": False},
                txt=None,
            )
        except Exception as why:  # GPAW checks its parameters in many places
            raise EngineError(f"GPAW does not take these settings: {type(why).__name__}: {why}") from why
        prepared = self._boxed(structure)
        labels = compute(
            _Polarized(calculator, two_s), prepared, tuple(p for p in properties if p in self.provides), "GPAW"
        )
        if self.free_energy and "energy" in labels:
            labels["energy"] = float(calculator.get_property("free_energy"))
        return {k: v for k, v in labels.items() if k in properties}

    def _boxed(self, structure: Structure) -> Structure:
        """With a cell along every axis: ``vacuum`` on both sides where there was none."""
        cell = np.asarray(structure.cell)
        missing = [k for k in range(3) if np.linalg.norm(cell[k]) < 1e-6]
        if not missing:
            return structure
        if len(missing) != 3:
            raise EngineError("Engine 'gpaw' needs the cell vectors of all three axes (vacuum included) or of none.")
        low, high = structure.positions.min(0), structure.positions.max(0)
        cell = np.diag(high - low + 2 * self.vacuum)
        return structure.replace(cell=cell, positions=structure.positions - low + self.vacuum)


class _Polarized:
    """Starts from the wanted number of unpaired electrons, spread over the atoms."""

    def __init__(self, calculator: Any, two_s: int) -> None:
        self.calculator, self.two_s = calculator, two_s

    def get_property(self, name: str, atoms: Any) -> Any:
        if self.two_s:
            atoms.set_initial_magnetic_moments([self.two_s / len(atoms)] * len(atoms))
        return self.calculator.get_property(name, atoms)
