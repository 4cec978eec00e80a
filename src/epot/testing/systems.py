"""Small systems of every kind of boundary, made of whatever elements a potential knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import covalent_radii

from ..data.structure import Structure

SHORTEST = 1.3  # Å: between neighbors, so that the lightest elements do not pack too densely


def systems(elements: Sequence[int], seed: int = 0) -> dict[str, Structure]:
    """A molecule, a crystal, a cell smaller than any cutoff, a skewed cell, a slab, a wire and one atom.

    Neighbors are about 1.1 times the sum of two covalent radii apart; nothing is symmetric.

    Args:
        elements: atomic numbers; they alternate, and the molecule holds as many of them as it has atoms.
        seed: of the random displacements.
    """
    rng = np.random.default_rng(seed)
    spacing = max(SHORTEST, 2.2 * float(np.mean([covalent_radii[z] for z in elements])))
    cube = spacing * np.eye(3)
    skew = spacing * np.array([[1.25, 0.0, 0.0], [0.8, 1.2, 0.0], [-0.5, 0.7, 1.3]])
    flat = np.diag([1.5 * spacing, 1.6 * spacing, 0.0])
    return {
        "molecule": molecule(elements, rng, 6),
        "crystal": _filled(elements, rng, cube * [[2.0], [2.1], [1.05]], (2, 2, 1), True),
        "small_cell": _filled(elements, rng, cube * [[1.7], [1.2], [1.3]], (2, 1, 1), True),
        "skewed": _filled(elements, rng, skew, (1, 1, 2), True),
        "slab": _filled(elements, rng, flat, (1, 1, 1), (True, True, False), extra=2, spacing=spacing),
        "wire": _filled(elements, rng, cube * 1.6, (1, 1, 1), (False, True, False), extra=2, spacing=spacing),
        "atom": Structure(np.array(elements[:1]), np.array([[0.3, -0.2, 0.1]]), source="the check's single atom"),
    }


def molecule(elements: Sequence[int], rng: np.random.Generator, n_atoms: int) -> Structure:
    """A random cluster in which each atom is bonded to an earlier one and none is too near another."""
    numbers = [int(elements[k % len(elements)]) for k in range(n_atoms)]
    radii = [max(covalent_radii[z], SHORTEST / 2.2) for z in numbers]
    positions = np.zeros((1, 3))
    for k in range(1, n_atoms):
        while True:
            anchor = int(rng.integers(k))
            direction = rng.normal(size=3)
            place = positions[anchor] + direction / np.linalg.norm(direction) * 1.1 * (radii[anchor] + radii[k])
            nearest = np.linalg.norm(positions - place, axis=1) / (np.array(radii[:k]) + radii[k])
            if nearest.min() > 1.0:
                break
        positions = np.concatenate([positions, place[None]])
    return Structure(np.array(numbers), positions, source="the check's molecule")


def _filled(
    elements: Sequence[int],
    rng: np.random.Generator,
    cell: np.ndarray,
    grid: tuple[int, int, int],
    pbc: bool | tuple[bool, bool, bool],
    extra: int = 0,
    spacing: float = 1.0,
) -> Structure:
    """A cell with one atom in each of ``grid`` parts (and ``extra`` ones stacked along z), all displaced a little."""
    fractions = np.stack(np.meshgrid(*(np.arange(n) / n for n in grid), indexing="ij"), -1).reshape(-1, 3)
    positions = fractions @ cell
    for k in range(extra):
        positions = np.concatenate([positions, positions[:1] + [[0.3 * k * spacing, 0.2, (k + 1) * 0.95 * spacing]]])
    positions = positions + rng.uniform(-0.06, 0.06, positions.shape) * spacing
    numbers = [int(elements[k % len(elements)]) for k in range(len(positions))]
    return Structure(np.array(numbers), positions, cell, pbc, source="the check's periodic system")


def supercell(structure: Structure, repeats: tuple[int, int, int]) -> Structure:
    """``structure`` repeated along its periodic axes, image by image: atoms of the first image come first."""
    steps = np.stack(np.meshgrid(*(np.arange(n) for n in repeats), indexing="ij"), -1).reshape(-1, 3)
    lattice = np.asarray(structure.cell)
    positions = (structure.positions[None] + (steps @ lattice)[:, None]).reshape(-1, 3)
    cell = lattice * np.array(repeats)[:, None]
    return Structure(np.tile(structure.numbers, len(steps)), positions, cell, structure.pbc)


def strained(structure: Structure, strain: np.ndarray) -> Structure:
    """``structure`` with positions and cell mapped by ``1 + strain`` from the right."""
    change = np.eye(3) + strain
    return bare(structure, positions=structure.positions @ change, cell=np.asarray(structure.cell) @ change)


def bare(structure: Structure, **changes: object) -> Structure:
    """A copy without labels, with some attributes changed."""
    kept = {name: getattr(structure, name) for name in ("numbers", "positions", "cell", "pbc", "charge", "spin")}
    return Structure(**(kept | changes))  # type: ignore[arg-type]
