"""Labeled molecules of a Morse pair potential."""

import numpy as np

from epot.data.dataset import Dataset
from epot.data.structure import Structure

SITES = np.array([[0, 0, 0], [1.1, 0, 0], [0, 1.1, 0], [1.2, 1.2, 0.4], [0, 0.2, 1.3], [1.2, 0, 1.4]])


def morse(structure: Structure) -> Structure:
    """Labels of a Morse pair potential with offsets: E0(H) = -3 eV, E0(O) = -7 eV."""
    x, z = structure.positions, structure.numbers
    vectors = x[None] - x[:, None]
    r = np.linalg.norm(vectors, axis=-1) + np.eye(len(x)) * 99.0
    a, r0, depth = 1.4, 1.3, 0.8
    e = np.exp(-a * (r - r0))
    slope = depth * (-2 * a * e * e + 2 * a * e)  # dV/dr
    energy = 0.5 * (depth * (e * e - 2 * e)).sum() + np.where(z == 1, -3.0, -7.0).sum()
    forces = (slope[..., None] * vectors / r[..., None]).sum(1)
    return structure.replace(energy=float(energy), forces=forces)


def molecules(n: int = 24, seed: int = 0) -> Dataset:
    """Molecules of 3 to 6 atoms of H and O, three formulas, each a group of its own."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        numbers = np.array([[8, 1, 1], [8, 8, 1, 1], [8, 1, 1, 8, 1, 1]][k % 3])
        x = SITES[: len(numbers)] + 0.08 * rng.normal(size=(len(numbers), 3))
        made.append(morse(Structure(numbers, x, source=f"toy frame {k}", group=f"g{k}")))
    return Dataset(made, {"file": "toy"})
