"""Energy differences between neighboring structures against the work of forces and stresses on the way.

From structure 0 to structure 1, with the same atoms in the same order, to second order in the displacement
(trapezoidal rule; exact where the forces are linear in it):

    E_1 - E_0  =  V mean(stress) : strain  -  mean(forces) . displacement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.structure import Structure
from .doctor_pairs import Relation

FARTHEST = 0.25  # Å: root mean square displacement up to which two structures are neighbors
MOST = 160  # structures of one composition that are all compared with each other
KEPT = 400  # pairs, the nearest
BUDGET = 12_000  # pairs that are looked at


class Work(NamedTuple):
    """One pair of structures.

    Attributes:
        first, second: frame numbers.
        difference: of the energies, eV.
        forces: work of the forces, eV.
        stress: work of the stresses, eV; NaN where the cell changes and there is none.
        distance: Å, root mean square displacement without the strain.
        strain: largest component.
    """

    first: int
    second: int
    difference: float
    forces: float
    stress: float
    distance: float
    strain: float


def works(structures: Sequence[tuple[int, Structure]]) -> list[Work]:
    """Of the nearest pairs of structures with the same atoms in the same order."""
    groups: dict[tuple, list[tuple[int, Structure]]] = defaultdict(list)
    for frame, s in structures:
        labelled = s.energy is not None and s.forces is not None and len(s) > 1
        if labelled and np.isfinite(np.asarray(s.energy, dtype=float)) and np.isfinite(np.asarray(s.forces)).all():
            groups[(s.numbers.tobytes(), s.pbc.tobytes())].append((frame, s))
    found = []
    most = min(MOST, int((2 * BUDGET / max(1, len(groups))) ** 0.5) + 2)
    for group in list(groups.values())[:BUDGET]:
        follow = np.unique(np.linspace(0, len(group) - 2, min(len(group) - 1, 2 * most)).astype(int))
        pairs = {(int(k), int(k) + 1) for k in follow if len(group) > 1}
        if len(group[0][1]) <= 40:
            chosen = np.unique(np.linspace(0, len(group) - 1, min(most, len(group))).astype(int))
            pairs |= {(int(a), int(b)) for n, a in enumerate(chosen) for b in chosen[n + 1 :]}
        for a, b in sorted(pairs):
            made = work(*group[a], *group[b])
            if made.distance < FARTHEST and made.strain < 0.06:
                found.append(made)
    return sorted(found, key=lambda w: w.distance + w.strain)[:KEPT]


def work(first: int, a: Structure, second: int, b: Structure) -> Work:
    """Of the way from ``a`` to ``b``; open systems are laid upon each other first."""
    difference = float(b.energy or 0.0) - float(a.energy or 0.0)
    fa, fb = np.asarray(a.forces), np.asarray(b.forces)
    if not a.pbc.any():
        xa, xb = a.positions - a.positions.mean(0), b.positions - b.positions.mean(0)
        u, _, vt = np.linalg.svd(xb.T @ xa)
        turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt)) or 1]) @ vt
        moved = xb @ turn - xa
        forces = -0.5 * float(((fa + fb @ turn) * moved).sum())
        return Work(first, second, difference, forces, 0.0, float(np.sqrt((moved**2).sum(1).mean())), 0.0)
    ca, cb = np.asarray(a.cell), np.asarray(b.cell)
    if not a.pbc.all() or abs(np.linalg.det(ca)) < 1e-8:
        moved, strain = b.positions - a.positions, np.zeros((3, 3))
        unequal = not np.allclose(ca, cb, atol=1e-6)
    else:
        fractions = b.positions @ np.linalg.inv(cb) - a.positions @ np.linalg.inv(ca)
        moved = (fractions - np.round(fractions)) @ (0.5 * (ca + cb))
        strain = np.linalg.inv(0.5 * (ca + cb)) @ (cb - ca)
        unequal = bool(np.abs(strain).max() > 1e-7)
    forces = -0.5 * float(((fa + fb) * moved).sum())
    stress = 0.0
    if unequal:
        stress = np.nan
        if a.stress is not None and b.stress is not None:
            stress = 0.25 * (a.volume + b.volume) * float(((a.stress + b.stress) * strain).sum())
    return Work(
        first, second, difference, forces, stress, float(np.sqrt((moved**2).sum(1).mean())), float(np.abs(strain).max())
    )


def forces_against_energies(found: Sequence[Work]) -> Relation | None:
    """Over the pairs whose cells are equal; None where there are too few."""
    chosen = [w for w in found if w.stress == 0.0 and w.distance > 1e-5]
    return _line([w.forces for w in chosen], [w.difference for w in chosen])


def strained(found: Sequence[Work]) -> tuple[Relation | None, Relation | None]:
    """Forces and stresses against energies at once, over the pairs whose cells differ: ``dE = a W_f + b W_s``.

    Each slope comes with the correlation that is left when the other part is taken off; None where its part of
    the work is too small to tell.
    """
    chosen = [w for w in found if np.isfinite(w.stress) and w.strain > 1e-5]
    if len(chosen) < 8:
        return None, None
    x = np.array([[w.forces, w.stress] for w in chosen])
    y = np.array([w.difference for w in chosen])
    weight = 1 / np.maximum(np.abs(y), np.median(np.abs(y)) + 1e-12)  # large strains must not decide alone
    scale = np.sqrt(np.square(x * weight[:, None]).mean(0)) + 1e-300
    slopes = np.linalg.lstsq(x / scale * weight[:, None], y * weight, rcond=1e-8)[0] / scale
    relations: list[Relation | None] = []
    for k in range(2):
        part, rest = x[:, k] * weight, (y - x[:, 1 - k] * slopes[1 - k]) * weight
        sizes = np.sqrt((part @ part) * (rest @ rest))
        share = np.abs(slopes[k]) * scale[k] / (np.abs(slopes * scale).max() + 1e-300)
        clear = sizes > 0 and share > 0.15
        relations.append(Relation(float(slopes[k]), float(part @ rest / sizes), len(y)) if clear else None)
    return relations[0], relations[1]


def _line(work: Sequence[float], difference: Sequence[float]) -> Relation | None:
    x, y = np.array(work), np.array(difference)
    if len(x) < 6:
        return None
    keep = (np.abs(x) <= 20 * np.median(np.abs(x))) & (np.abs(y) <= 20 * max(float(np.median(np.abs(y))), 1e-12))
    x, y = x[keep], y[keep]
    if len(x) < 6 or not (x @ x > 0 and y @ y > 0):
        return None
    return Relation(float(x @ y / (x @ x)), float(x @ y / np.sqrt((x @ x) * (y @ y))), len(x))
