"""Lattice and elastic constants: of a potential by derivatives, of labeled strained cells by regression.

Voigt order is xx yy zz yz xz xy with engineering shear strains; stress is positive under tension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.build import bulk
from ase.data import reference_states
from scipy.optimize import brentq

from ..data.structure import Structure
from ..elements import SYMBOLS
from ..errors import DataError, ModelError
from ..geometry.graph import build
from ..potential import Potential
from ..predict import predict
from ..units import GPA

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
STEP = 1e-3
"""Strain of the central differences."""
SMALL = 0.09
"""Largest strain component of a labeled cell that the regression uses."""
PER_CELL = {"diamond": 8, "bcc": 2, "fcc": 4}


@dataclass(frozen=True, eq=False)
class Elastic:
    """Elastic constants of a crystal.

    Attributes:
        clamped: GPa, ``(6, 6)``, atoms moving with the cell.
        relaxed: GPa, ``(6, 6)``, atoms free to move; None where that is not known.
    """

    clamped: np.ndarray
    relaxed: np.ndarray | None = None

    def cubic(self, relaxed: bool = True) -> dict[str, float]:
        """C11, C12 and C44 in GPa, averaged over the axes of a cubic crystal."""
        c = self.relaxed if relaxed and self.relaxed is not None else self.clamped
        off = (c[0, 1] + c[0, 2] + c[1, 2] + c[1, 0] + c[2, 0] + c[2, 1]) / 6
        return {"C11": float(np.trace(c[:3, :3]) / 3), "C12": float(off), "C44": float(np.trace(c[3:, 3:]) / 3)}


def elastic_constants(potential: Potential, crystal: Structure, *, device: str = "cpu") -> Elastic:
    """Elastic constants of a crystal without forces and stress, by derivatives at its own geometry.

    ``C = d(stress)/d(strain)`` by central differences; what free atoms give way by follows from the Hessian and the
    forces that a strain brings: ``C_relaxed = C - L^T H^+ L / V`` with ``L = dF/d(strain)`` (Born and Huang, Dynamical
    Theory of Crystal Lattices (1954), section 11).

    Args:
        potential: any that gives stress.
        crystal: periodic along three axes; a small cell (the Hessian costs a backward pass a coordinate).
        device: where the potential is.

    Raises:
        ModelError: the crystal is not periodic, or under more than 0.1 GPa of stress: relax it first.
    """
    rest = predict(potential, build(crystal, potential.cutoff, device=device), ("stress", "hessian"))
    assert rest.stress is not None
    assert rest.hessian is not None  # they were asked for
    worst = float(rest.stress.abs().max()) / GPA
    if worst > 0.1:
        raise ModelError(
            f"The crystal is under a stress of {worst:.2f} GPa, and elastic constants are of one at rest: relax it "
            "first with `epot relax --cell`; a cubic one is scaled with `epot elastic --rest`."
        )
    stress, forces = np.zeros((6, 6)), np.zeros((3 * len(crystal), 6))
    for k in range(6):
        for sign in (1, -1):
            made = predict(
                potential, build(strained(crystal, k, sign * STEP), potential.cutoff, device=device), ("stress",)
            )
            assert made.stress is not None
            assert made.forces is not None
            stress[:, k] += sign * voigt(made.stress[0].cpu().numpy()) / (2 * STEP)
            forces[:, k] += sign * made.forces.cpu().double().numpy().ravel() / (2 * STEP)
    given = forces.T @ np.linalg.pinv(rest.hessian.cpu().double().numpy(), rcond=1e-8, hermitian=True) @ forces
    return Elastic(stress / GPA, (stress - given / crystal.volume) / GPA)


def strained(crystal: Structure, component: int, strain: float) -> Structure:
    """The crystal under one component of strain (Voigt), atoms moving with the cell."""
    a, b = VOIGT[component]
    matrix = np.eye(3)
    matrix[a, b] += strain / (1 if a == b else 2)
    matrix[b, a] = matrix[a, b]
    return crystal.replace(
        positions=crystal.positions @ matrix, cell=crystal.cell @ matrix, energy=None, forces=None, stress=None
    )


def voigt(tensor: np.ndarray) -> np.ndarray:
    """``(3, 3)`` to ``(6,)``: the symmetric part."""
    return np.array([(tensor[a, b] + tensor[b, a]) / 2 for a, b in VOIGT])


def at_rest(potential: Potential, crystal: Structure, *, device: str = "cpu") -> Structure:
    """A cubic crystal scaled to zero pressure: the lattice constant, within 8 % of the one given.

    Raises:
        ModelError: the pressure does not change its sign there: no minimum.
    """

    def pressure(scale: float) -> float:
        s = crystal.replace(positions=crystal.positions * scale, cell=crystal.cell * scale)
        made = predict(potential, build(s, potential.cutoff, device=device), ("stress",))
        assert made.stress is not None
        return float(made.stress[0].diagonal().sum())

    for reach in (0.01, 0.02, 0.04, 0.08):
        low, high = 1 - reach, 1 + reach
        if pressure(low) < 0 < pressure(high):
            scale = float(brentq(pressure, low, high, xtol=1e-9))
            return crystal.replace(positions=crystal.positions * scale, cell=crystal.cell * scale)
    raise ModelError(f"No lattice constant within 8 % of {crystal.volume ** (1 / 3):.3f} Å has zero pressure.")


def strained_cells(structures: Sequence[Structure]) -> tuple[Structure, list[int], np.ndarray]:
    """Cells with stress that are the least stressed one under a homogeneous strain.

    Returns:
        The least stressed perfect cell, indices of the others and itself, and their strains ``(cells, 6)``.

    Raises:
        DataError: there are fewer than twelve, as many as a regression needs.
    """
    labeled = [(k, s, s.stress, s.forces) for k, s in enumerate(structures)]
    quiet = [(np.abs(t).max(), k) for k, _, t, f in labeled if t is not None and f is not None and abs(f).max() < 0.01]
    if not quiet:
        raise DataError("No cell with a stress is free of forces: there is no crystal at rest to measure strains from.")
    rest = structures[min(quiet)[1]]
    inverse = np.linalg.inv(rest.cell)
    fractions = rest.positions @ inverse
    found, strains = [], []
    for k, s, stress, _ in labeled:
        if stress is None or len(s) != len(rest) or not np.array_equal(s.numbers, rest.numbers):
            continue
        apart = s.positions @ np.linalg.inv(s.cell) - fractions
        gradient = inverse @ s.cell - np.eye(3)
        strain = (gradient + gradient.T) / 2
        strain[~np.eye(3, dtype=bool)] *= 2  # engineering shear
        if np.abs(apart - np.round(apart)).max() < 1e-3 and np.abs(strain).max() < SMALL:
            found.append(k)
            strains.append(voigt(strain))
    if len(found) < 12:
        raise DataError(f"{len(found)} strained cells of one crystal have a stress; a regression needs at least 12.")
    return rest, found, np.array(strains)


def regress(strains: np.ndarray, stresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stress at no strain ``(6,)`` and the clamped constants ``(6, 6)``: ``s = s0 + C e + D e^2``, least squares."""
    rows = np.concatenate([np.ones((len(strains), 1)), strains, strains**2], 1)
    solution = np.linalg.lstsq(rows, stresses, rcond=1e-10)[0]
    return solution[0], solution[1:7].T


def cubic_crystal(potential: Potential, data: Sequence[Structure], *, device: str = "cpu") -> dict[str, Any]:
    """Lattice and elastic constants of an element's cubic crystal, beside those of its labeled strained cells.

    Both are taken from the same cells by the same regression (``"data"`` and ``"same cells"``); ``"at rest"`` is what
    the potential has at its own lattice constant, with atoms that are free to move.

    Args:
        potential: fitted to the element.
        data: labeled structures, among them strained cells of the ideal crystal.
        device: where the potential is.

    Returns:
        Å and GPa: ``{"data" | "same cells" | "at rest": {"a", "C11", "C12", "C44"}}``.

    Raises:
        DataError: there are not enough strained cells, or the element's crystal is not cubic.
    """
    rest, chosen, strains = strained_cells(data)
    symbol = SYMBOLS[int(rest.numbers[0])]
    kind = (reference_states[int(rest.numbers[0])] or {}).get("symmetry", "")
    if kind not in PER_CELL or len(set(rest.numbers.tolist())) > 1:
        raise DataError(
            f"The crystal of {symbol} is {kind or 'not an element'}; expected one of {', '.join(PER_CELL)}."
        )
    per_cell = PER_CELL[kind]
    labels = np.array([voigt(data[k].stress) for k in chosen])  # type: ignore[arg-type]
    graph = build([data[k] for k in chosen], potential.cutoff, device=device)
    made = predict(potential, graph, ("stress",)).stress
    assert made is not None
    ours = np.array([voigt(t) for t in made.cpu().numpy()])
    found = {name: _constants(rest, strains, s, per_cell) for name, s in (("data", labels), ("same cells", ours))}
    crystal = Structure.from_ase(bulk(symbol, kind, a=found["data"]["a"], cubic=True))
    own = at_rest(potential, crystal, device=device)
    constants = elastic_constants(potential, own, device=device)
    return found | {"at rest": {"a": float(own.volume ** (1 / 3))} | constants.cubic()}


def _constants(rest: Structure, strains: np.ndarray, stresses: np.ndarray, per_cell: int) -> dict[str, float]:
    offset, matrix = regress(strains, stresses)
    cubic = Elastic(matrix / GPA).cubic()
    stretch = -offset[:3].mean() / GPA / (cubic["C11"] + 2 * cubic["C12"])
    a = (rest.volume / len(rest) * per_cell) ** (1 / 3) * (1 + stretch)
    return {"a": float(a)} | cubic


def table(found: dict[str, Any]) -> str:
    """Constants beside each other, and how far the potential is from the data in percent."""
    keys = ("a", "C11", "C12", "C44")
    lines = [f"{'Å and GPa':24s}" + "".join(f"{k:>10s}" for k in keys)]
    for name, row in found.items():
        lines.append(f"{name:24s}" + "".join(f"{row[k]:10.3f}" for k in keys))
    off = {k: 100 * (found["same cells"][k] / found["data"][k] - 1) for k in keys}
    lines.append(f"{'same cells - data, %':24s}" + "".join(f"{off[k]:+10.2f}" for k in keys))
    return "\n".join(lines)
