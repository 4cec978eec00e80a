"""Relaxation of positions and, if wished, the cell: :func:`relax`."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import ase
import ase.io
import numpy as np
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from ..data.structure import Structure
from ..errors import ConfigError, DataError, SimulationError
from ..potential import Potential
from ..progress import bar
from ..registry import nearest
from ..uncertainty.domain import Domain
from .calculator import Calculator

OPTIMIZERS = {"bfgs": BFGS, "lbfgs": LBFGS, "fire": FIRE}
Cell = Literal["fixed", "full", "volume", "shape"]


@dataclass(frozen=True, eq=False)
class Relaxed:
    """What a relaxation gave.

    Attributes:
        atoms: relaxed, with calculator.
        converged: whether the largest force fell below ``fmax``.
        steps: taken.
        energy: eV, at the end.
        energy_change: eV, end less start.
        max_force: eV/Å, at the end (with a moving cell: of the generalized forces, per atom).
        max_stress: eV/Å^3, largest component at the end; None without three periodic axes.
        violations: why the end lies outside the domain of the potential; empty where it does not or
            where the domain is not known.
    """

    atoms: ase.Atoms
    converged: bool
    steps: int
    energy: float
    energy_change: float
    max_force: float
    max_stress: float | None = None
    violations: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """JSON."""
        return {
            "converged": self.converged, "steps": self.steps, "energy_eV": self.energy,
            "energy_change_eV": self.energy_change, "max_force_eV_A": self.max_force,
            "max_stress_eV_A3": self.max_stress, "violations": list(self.violations),
        }  # fmt: skip


def relax(
    atoms: ase.Atoms | Structure,
    potential: Potential | BaseCalculator,
    *,
    about: Mapping[str, Any] | None = None,
    cell: Cell = "fixed",
    pressure: float = 0.0,
    fmax: float = 0.01,
    steps: int = 1000,
    optimizer: str = "lbfgs",
    symmetry: bool = False,
    trajectory: str | os.PathLike | None = None,
    device: str = "cpu",
) -> Relaxed:
    """Move atoms to where no force is larger than ``fmax``; the atoms that are given stay as they are.

    Args:
        atoms: where to start; their constraints hold.
        potential: a potential, or any ASE calculator.
        about: what travelled with the potential (domain).
        cell: ``fixed``, ``full``, ``volume`` (shape kept) or ``shape`` (volume kept); through the logarithm of
            the deformation (ASE's FrechetCellFilter).
        pressure: eV/Å^3, on a cell that moves.
        fmax: eV/Å; with a moving cell the generalized force on it counts too.
        steps: at most.
        optimizer: ``lbfgs``, ``bfgs`` or ``fire`` (the most robust far from a minimum).
        symmetry: keep the space group of the start (needs spglib).
        trajectory: extended XYZ with every step; replaced if it exists.
        device: of the potential.

    Raises:
        ConfigError: an unknown optimizer or kind of cell; a moving cell without three periodic axes.
        SimulationError: an energy or force is not finite, or atoms fell onto each other.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"There is no optimizer {optimizer!r}; {nearest(optimizer, OPTIMIZERS)}")
    if not fmax > 0:
        raise ConfigError(f"fmax is {fmax!r}; expected eV/Å, more than 0.")
    moving = atoms.to_ase() if isinstance(atoms, Structure) else atoms.copy()
    moving.calc = Calculator(potential, about, device=device) if isinstance(potential, Potential) else potential
    if symmetry:
        moving.set_constraint([*moving.constraints, _symmetry(moving)])
    target = _with_cell(moving, cell, pressure)
    path = None if trajectory is None else Path(trajectory)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    converged, taken, change = _descend(moving, target, OPTIMIZERS[optimizer], fmax, steps, path)
    return Relaxed(
        atoms=moving,
        converged=converged,
        steps=taken,
        energy=float(moving.get_potential_energy()),
        energy_change=change,
        max_force=_largest(target),
        max_stress=float(np.abs(moving.get_stress()).max()) if moving.pbc.all() else None,
        violations=_violations(moving),
    )


def relax_all(
    structures: Iterable[ase.Atoms | Structure],
    potential: Potential | BaseCalculator,
    out: str | os.PathLike,
    *,
    trajectory: str | os.PathLike | None = None,
    **options: Any,
) -> list[Relaxed]:
    """Relax several structures and write the ends as extended XYZ; each is in the file as soon as it is done.

    Args:
        structures: where to start.
        potential: as for :func:`relax`.
        out: extended XYZ, replaced if it exists.
        trajectory: with every step; of several structures each gets its own, numbered.
        **options: of :func:`relax`.

    Raises:
        ConfigError, SimulationError: as :func:`relax`.
    """
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    starts = list(structures)
    found = []
    for k, start in enumerate(starts):
        own = None if trajectory is None else Path(trajectory)
        if own is not None and len(starts) > 1:
            own = own.with_name(f"{own.stem}-{k}{own.suffix}")
        found.append(relax(start, potential, trajectory=own, **options))
        if k == 0:
            path.write_text("", encoding="utf-8")
        _write_frame(path, found[-1].atoms, found[-1].steps)
    return found


def _descend(
    moving: ase.Atoms, target: Any, kind: type, fmax: float, steps: int, path: Path | None
) -> tuple[bool, int, float]:
    try:
        start = float(moving.get_potential_energy())
        dynamics = kind(target, logfile=None)
        with bar("relax", None) as shown:
            converged, taken = False, 0
            for done in dynamics.irun(fmax=fmax, steps=steps):
                converged = bool(done)
                taken = dynamics.nsteps
                shown.advance(1.0)
                shown.note(f"{moving.get_potential_energy():.4f} eV, max force {_largest(target):.4f} eV/Å")
                if path is not None:
                    _write_frame(path, moving, taken)
    except (SimulationError, DataError) as why:
        raise SimulationError(
            f"The relaxation broke down: {why} Start from a better structure, or try the optimizer 'fire'."
        ) from why
    return converged, taken, float(moving.get_potential_energy()) - start


def _with_cell(atoms: ase.Atoms, cell: str, pressure: float) -> Any:
    if cell not in get_args(Cell):
        raise ConfigError(f"cell is {cell!r}; {nearest(cell, get_args(Cell))}")
    if cell == "fixed":
        return atoms
    if not atoms.pbc.all():
        raise ConfigError("A cell can be relaxed only where it is periodic along all three axes; take cell='fixed'.")
    options = {"volume": {"hydrostatic_strain": True}, "shape": {"constant_volume": True}, "full": {}}[cell]
    return FrechetCellFilter(atoms, scalar_pressure=pressure, **options)


def _symmetry(atoms: ase.Atoms) -> FixSymmetry:
    try:
        return FixSymmetry(atoms)
    except ImportError as why:
        raise ConfigError("symmetry=True needs the package spglib: pip install spglib.") from why


def _largest(target: Any) -> float:
    return float(np.linalg.norm(target.get_forces(), axis=1).max(initial=0.0))


def _violations(atoms: ase.Atoms) -> tuple[str, ...]:
    calc = atoms.calc
    if not isinstance(calc, Calculator) or not calc.about.get("domain") or calc.graph is None:
        return ()
    return tuple(Domain.from_json(calc.about["domain"]).violations(calc.graph))


def _write_frame(path: Path, atoms: ase.Atoms, step: int) -> None:
    frame = atoms.copy()
    kept = {k: v for k, v in atoms.calc.results.items() if k in ("energy", "forces", "stress")}
    frame.calc = SinglePointCalculator(frame, **kept)
    frame.info["step"] = step
    frame.set_constraint()
    buffer = io.StringIO()
    ase.io.write(buffer, frame, format="extxyz")
    with path.open("a", encoding="utf-8") as out:
        out.write(buffer.getvalue())
