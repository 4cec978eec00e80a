"""Which atoms of molecules are bonded, and what follows from it: angles, torsions, kinds of atoms.

A molecule, or a liquid of molecules in a periodic cell: bonds may run through its faces, but none may lead from a
molecule to an image of itself, as they do in crystals and metals.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from ase.data import covalent_radii

from ..data.structure import Structure
from ..elements import SYMBOLS
from ..errors import DataError
from ..typing import Bool, Float, Tensor
from .neighbors import neighbor_pairs

BONDED = 1.25
"""Two atoms are bonded where they are nearer than this times the sum of their covalent radii (Cordero et al., Dalton
Trans. 2832 (2008), doi:10.1039/b801115j, as in ASE)."""
BROKEN = 1.7
"""A bond is broken where it is longer than this times the sum."""
STRAIGHT = 170.0
"""Degrees: around bonds of angles wider than this nothing can turn."""
INSTEAD = (
    "Use a model that does not refer to bonds: lennard_jones, morse or stillinger_weber of the classical forms, or "
    "linear, gap, acsf_nn."
)


@dataclass(frozen=True, eq=False)
class Topology:
    """Bonds of a molecule, or of several, with atoms in a given order.

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

    def labels(self, rows: np.ndarray, depth: int = 1) -> list[str]:
        """Kinds of bonds, angles or torsions, by those of their atoms: ``"C(C,H,H,H)-H(C)"``, the same both ways."""
        kinds = self.kinds(depth)
        forward = lambda row: "-".join(kinds[k] for k in row)  # noqa: E731
        return [min(forward(row), forward(row[::-1])) for row in rows.tolist()]

    def close_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs ``(pairs, 2)``, smaller index first, sorted, of the ends of at most three bonds, and how many."""
        found: dict[tuple[int, int], int] = {}
        neighbors = self.neighbors()
        for a, b in self.bonds.tolist():
            for i, j in ((i, j) for i in neighbors[a] for j in neighbors[b] if len({i, j, a, b}) == 4):
                found[min(i, j), max(i, j)] = 3
        found |= {(min(a, c), max(a, c)): 2 for a, _, c in self.angles.tolist()}
        found |= {(a, b): 1 for a, b in self.bonds.tolist()}
        pairs = sorted(found)
        return np.array(pairs, np.int64).reshape(-1, 2), np.array([found[p] for p in pairs], np.int64)

    def tree(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Bonds that reach every atom of each molecule from its first one: parents and children, level by level."""
        neighbors, seen = self.neighbors(), [False] * len(self.numbers)
        levels: list[list[tuple[int, int]]] = []
        for root in range(len(self.numbers)):
            level, depth = [] if seen[root] else [root], 0
            seen[root] = True
            while level:
                steps = []
                for a in level:
                    for b in neighbors[a]:
                        if not seen[b]:
                            seen[b] = True
                            steps.append((a, b))
                if len(levels) == depth:
                    levels.append([])
                levels[depth] += steps
                level, depth = [b for _, b in steps], depth + 1
        made = [np.array(steps, np.int64) for steps in levels if steps]
        return [(steps[:, 0], steps[:, 1]) for steps in made]


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
    """The topology of a molecule, or of molecules in a cell, from its distances.

    Raises:
        DataError: nothing is bonded, or bonds lead from an atom to its own image: a crystal, a metal, a network.
    """
    name = structure.source or structure.formula
    if len(structure) < 2:
        raise DataError(f"Bonds are looked for in molecules of at least two atoms; {name} has one. {INSTEAD}")
    bonds = _near(structure, BONDED)
    if not len(bonds):
        raise DataError(f"No two atoms of {name} are near enough to be bonded. {INSTEAD}")
    plain = from_bonds(structure.numbers, bonds)
    positions = unwrapped(structure, plain)
    twice = len(plain.bonds) < len(bonds) or (bonds[:, 0] == bonds[:, 1]).any()
    if structure.pbc.any() and (twice or (_ratios(structure.numbers, positions, plain.bonds) > BONDED).any()):
        raise DataError(
            f"Bonds of {name} run on from one periodic image to the next: it is a crystal, a metal or a network, or "
            f"its cell is narrower than a molecule. A bonded force field is of molecules. {INSTEAD}"
        )
    bent = angles_of(positions, plain.angles)
    straight = frozenset(plain.angles[np.degrees(bent) > STRAIGHT, 1].tolist())
    return from_bonds(structure.numbers, bonds, straight)


def _near(structure: Structure, factor: float) -> np.ndarray:
    """Pairs nearer than a multiple of their covalent radii, ``(pairs, 2)``, each once for each image."""
    radii = covalent_radii[structure.numbers]
    i, j, shifts = neighbor_pairs(structure, factor * 2 * float(radii.max()))
    once = i <= j
    i, j, shifts = i[once], j[once], shifts[once]
    r = np.linalg.norm(structure.positions[j] - structure.positions[i] + shifts @ structure.cell, axis=1)
    kept = r < factor * (radii[i] + radii[j])
    return np.stack([i, j], 1)[kept]


def _ratios(numbers: np.ndarray, positions: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Lengths of bonds over the sums of covalent radii."""
    radii = covalent_radii[numbers]
    lengths = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
    return lengths / radii[bonds].sum(1)


def images(
    positions: Float[Tensor, "structures n 3"],
    cell: Float[Tensor, "structures 3 3"],
    pbc: Bool[Tensor, "structures 3"],
    tree: list[tuple[Tensor, Tensor]],
) -> Float[Tensor, "structures n 3"]:
    """Cells by which to move atoms so that molecules are whole: each to the image nearest to what it is bonded to.

    Args:
        positions: Å.
        cell: Å, rows.
        pbc: which axes are periodic.
        tree: of :meth:`Topology.tree`.
    """
    moves = torch.zeros_like(positions)
    if not bool(pbc.any()):
        return moves
    axes = cell * pbc[:, :, None]
    inverse = torch.linalg.pinv(axes)
    for parents, children in tree:
        step = positions[:, children] - positions[:, parents] - moves[:, parents] @ axes
        moves = moves.index_copy(1, children, -(step @ inverse).round())
    return moves


def unwrapped(structure: Structure, topology: Topology) -> np.ndarray:
    """Å, positions with molecules whole, ``(atoms, 3)``."""
    tree = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in topology.tree()]
    positions, cell = torch.from_numpy(structure.positions)[None], torch.from_numpy(structure.cell)[None]
    moves = images(positions, cell, torch.from_numpy(structure.pbc)[None], tree)[0]
    return structure.positions + moves.numpy() @ structure.cell


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
    broken = _ratios(structure.numbers, unwrapped(structure, topology), topology.bonds) > BROKEN
    if broken.any():
        a, b = topology.bonds[broken][0]
        return f"the bond of atoms {a} and {b} ({formula[a]}-{formula[b]}) is broken"
    known = {tuple(b) for b in topology.bonds.tolist()}
    formed = next((p for p in _near(structure, 1.0).tolist() if tuple(p) not in known), None)
    if formed is not None:
        a, b = formed
        return f"atoms {a} and {b} ({formula[a]}, {formula[b]}) are bonded, which they should not be"
    return None
