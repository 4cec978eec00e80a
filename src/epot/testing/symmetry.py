"""Checks of what must not matter: labels of atoms, orientation, origin, images, the choice of the cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.structure import Structure
from .case import Case, as_array
from .check import Found, check
from .systems import bare, supercell

ALLOWED = 1e-9  # of the largest value: rounding in float64


class Alike(NamedTuple):
    """Two structures that must be predicted alike.

    Attributes:
        name: of the first.
        structure, changed: the two.
        order: which atom of the first each atom of the second is.
        rotation: the matrix ``Q`` that maps its vectors, ``v -> v @ Q``.
    """

    name: str
    structure: Structure
    changed: Structure
    order: np.ndarray | None = None
    rotation: np.ndarray = np.eye(3)


def compare(case: Case, pairs: Sequence[Alike]) -> Found:
    """The largest difference of energies, forces and virials of structures that must be alike."""
    worst, where = 0.0, "nothing differs"
    for name, structure, changed, order, rotation in pairs:
        a, b = (case.predict(s, ("forces", "virial")) for s in (structure, changed))
        index = np.arange(len(structure)) if order is None else order
        copies = len(changed) / max(1, len(structure))
        virial = rotation.T @ as_array(a.virial)[0] @ rotation
        for what, x, y in (
            ("energies", copies * as_array(a.energy), as_array(b.energy)),
            ("forces", as_array(a.forces)[index] @ rotation, as_array(b.forces)),
            ("virials", copies * virial, as_array(b.virial)[0]),
        ):
            size = max(np.abs(x).max(initial=0), np.abs(y).max(initial=0), 1e3 * case.noise(changed))
            difference = float(np.abs(x - y).max(initial=0) / size)
            if not difference <= worst:
                worst, where = difference, f"{what} of '{name}' differ (relative)"
    return Found(worst, ALLOWED, where)


@check
def permutation(case: Case) -> Found:
    """Renumbering the atoms renumbers the forces and changes nothing else."""
    rng, pairs = case.rng(), []
    for name, s in case.systems.items():
        order = rng.permutation(len(s))
        pairs.append(Alike(name, s, bare(s, numbers=s.numbers[order], positions=s.positions[order]), order))
    return compare(case, pairs)


@check
def rotation(case: Case) -> Found:
    """Turned systems have the same energy, turned forces and turned stress."""
    return compare(case, [_turned(name, s, case, 1.0) for name, s in case.systems.items()])


@check
def inversion(case: Case) -> Found:
    """A mirror image has the same energy: a potential is invariant under O(3), not only under SO(3)."""
    return compare(case, [_turned(name, s, case, -1.0) for name, s in case.systems.items()])


def _turned(name: str, structure: Structure, case: Case, sign: float) -> Alike:
    q, _ = np.linalg.qr(case.rng().normal(size=(3, 3)))
    q = q * (sign * np.linalg.det(q))
    turned = bare(structure, positions=structure.positions @ q, cell=np.asarray(structure.cell) @ q)
    return Alike(name, structure, turned, rotation=q)


@check
def translation(case: Case) -> Found:
    """The origin does not matter, near or far."""
    far = np.array([13.7, -150.3, 71.9])
    systems = case.systems.items()
    return compare(case, [Alike(name, s, bare(s, positions=s.positions + far)) for name, s in systems])


@check
def wrapping(case: Case) -> Found:
    """Which periodic image of an atom is written down does not matter."""
    rng, pairs = case.rng(), []
    for name, s in case.periodic().items():
        images = rng.integers(-3, 4, (len(s), 3)) * s.pbc
        pairs.append(Alike(name, s, bare(s, positions=s.positions + images @ np.asarray(s.cell))))
    return compare(case, pairs)


@check
def supercells(case: Case) -> Found:
    """E of 2 x 2 x 2 cells is 8 E, with the forces repeated; along open axes nothing is repeated."""
    pairs = []
    for name, s in case.periodic().items():
        if len(s) <= 64:
            larger = supercell(s, tuple(2 if periodic else 1 for periodic in s.pbc))  # type: ignore[arg-type]
            order = np.tile(np.arange(len(s)), len(larger) // len(s))
            pairs.append(Alike(name, s, larger, order))
    return compare(case, pairs)


@check
def cell_choice(case: Case) -> Found:
    """Other vectors that span the same lattice give the same: the cell is a choice, the lattice is not."""
    pairs = []
    for name, s in case.periodic().items():
        a, b = int(np.argmax(s.pbc)), 2 - int(np.argmax(s.pbc[::-1]))
        change = np.eye(3)
        if a == b:
            change[a, a] = -1.0
        else:
            change[a, b], change[b, b] = 1.0, -1.0
        pairs.append(Alike(name, s, bare(s, cell=change @ np.asarray(s.cell))))
    return compare(case, pairs)
