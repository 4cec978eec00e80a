"""Which atoms of a molecule are bonded, and what follows from it: angles, torsions, kinds of atoms."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from ase.data import covalent_radii

from ..data.structure import Structure
from ..elements import SYMBOLS
from ..errors import DataError

BONDED = 1.25
"""Two atoms are bonded where they are nearer than this times the sum of their covalent radii (Cordero et al., Dalton
Trans. 2832 (2008), doi:10.1039/b801115j, as in ASE)."""
BROKEN = 1.7
"""A bond is broken where it is longer than this times the sum."""
STRAIGHT = 170.0
"""Degrees: around bonds of angles wider than this nothing can turn."""


@dataclass(frozen=True, eq=False)
class Topology:
    """Bonds of a molecule, with atoms in a given order.

    Attributes:
        numbers: atomic numbers, ``(atoms,)``.
        bonds: ``(bonds, 2)``, the smaller index first, sorted.
        angles: the middle one is the center, ``(angles, 3)``.
        torsions: four atoms in a row, ``(torsions, 4)``.
    """

    numbers: np.ndarray
    bonds: np.ndarray
    angles: np.ndarray
    torsions: np.ndarray

    def neighbors(self) -> list[list[int]]:
        """Atoms bonded to each atom."""
        found: list[list[int]] = [[] for _ in self.numbers]
        for a, b in self.bonds.tolist():
            found[a].append(b)
            found[b].append(a)
        return found

    def kinds(self, depth: int = 1) -> list[str]:
        """What each atom is: its element with those it is bonded to, ``"C(C,H,H,H)"``; their neighbors at depth 2.

        Args:
            depth: 0 for the element alone.
        """
        symbols = [SYMBOLS[int(z)] for z in self.numbers]
        labels, neighbors = symbols, self.neighbors()
        for _ in range(depth):
            labels = [f"{symbols[k]}({','.join(sorted(labels[j] for j in neighbors[k]))})" for k in range(len(symbols))]
        return labels

    def far_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs that no bond and no angle joins, ``(pairs, 2)``, and which of them are the ends of three bonds."""
        close = {tuple(b) for b in self.bonds.tolist()}
        close |= {(min(a, c), max(a, c)) for a, _, c in self.angles.tolist()}
        neighbors = self.neighbors()
        three = set()
        for a, b in self.bonds.tolist():
            three |= {(min(i, j), max(i, j)) for i in neighbors[a] for j in neighbors[b] if len({i, j, a, b}) == 4}
        pairs = [p for p in combinations(range(len(self.numbers)), 2) if p not in close]
        return np.array(pairs, np.int64).reshape(-1, 2), np.array([p in three for p in pairs], bool)


def from_bonds(numbers: np.ndarray, bonds: np.ndarray, straight: frozenset[int] = frozenset()) -> Topology:
    """Angles and torsions that follow from bonds.

    Args:
        numbers: ``(atoms,)``.
        bonds: ``(bonds, 2)``.
        straight: atoms with a straight angle: no torsion has one of them in the middle.
    """
    bonds = np.sort(np.asarray(bonds, np.int64).reshape(-1, 2), axis=1)
    bonds = np.unique(bonds, axis=0) if len(bonds) else bonds
    made = Topology(np.asarray(numbers), bonds, np.zeros((0, 3), np.int64), np.zeros((0, 4), np.int64))
    neighbors = made.neighbors()
    angles = [(a, k, c) for k, near in enumerate(neighbors) for a, c in combinations(sorted(near), 2)]
    torsions = [
        (a, b, c, d)
        for b, c in bonds.tolist()
        if b not in straight and c not in straight
        for a in neighbors[b]
        for d in neighbors[c]
        if len({a, b, c, d}) == 4
    ]
    return Topology(
        made.numbers, bonds, np.array(angles, np.int64).reshape(-1, 3), np.array(torsions, np.int64).reshape(-1, 4)
    )


def perceive(structure: Structure) -> Topology:
    """The topology of a molecule, from its distances.

    Raises:
        DataError: it is periodic, or has fewer than two atoms.
    """
    if structure.pbc.any() or len(structure) < 2:
        raise DataError(
            f"Bonds are looked for in molecules of at least two atoms; {structure.source or structure.formula} "
            + ("is periodic." if structure.pbc.any() else "has one.")
        )
    ratios = bond_ratios(structure)
    a, b = np.nonzero(np.triu(ratios < BONDED, 1))
    bonds = np.stack([a, b], 1)
    plain = from_bonds(structure.numbers, bonds)
    bent = angles_of(structure.positions, plain.angles)
    straight = frozenset(plain.angles[np.degrees(bent) > STRAIGHT, 1].tolist())
    return from_bonds(structure.numbers, bonds, straight)


def bond_ratios(structure: Structure) -> np.ndarray:
    """Distances over the sums of covalent radii, ``(atoms, atoms)``; infinite on the diagonal."""
    radii = covalent_radii[structure.numbers]
    r = np.linalg.norm(structure.positions[:, None] - structure.positions, axis=2)
    np.fill_diagonal(r, np.inf)
    return r / (radii[:, None] + radii)


def angles_of(positions: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Radians, ``(angles,)``."""
    u, v = positions[angles[:, 0]] - positions[angles[:, 1]], positions[angles[:, 2]] - positions[angles[:, 1]]
    return np.arctan2(np.linalg.norm(np.cross(u, v), axis=1), (u * v).sum(1))


def difference(structure: Structure, topology: Topology) -> str | None:
    """How a structure departs from a topology: other atoms, a broken bond, a new one; None where it does not."""
    formula = [SYMBOLS[int(z)] for z in topology.numbers]
    if len(structure) != len(topology.numbers) or (structure.numbers != topology.numbers).any():
        same = sorted(structure.numbers.tolist()) == sorted(topology.numbers.tolist())
        return f"its atoms are {'in another order than' if same else 'not'} {' '.join(formula)}"
    ratios = bond_ratios(structure)
    bonded = np.zeros_like(ratios, bool)
    bonded[topology.bonds[:, 0], topology.bonds[:, 1]] = True
    broken = np.argwhere(bonded & (ratios > BROKEN))
    if len(broken):
        a, b = broken[0]
        return f"the bond of atoms {a} and {b} ({formula[a]}-{formula[b]}) is broken"
    formed = np.argwhere(np.triu(ratios < 1.0, 1) & ~bonded)
    if len(formed):
        a, b = formed[0]
        return f"atoms {a} and {b} ({formula[a]}, {formula[b]}) are bonded, which they should not be"
    return None
