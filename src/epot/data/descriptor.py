"""A cheap fingerprint that no rotation, translation, permutation or choice of cell changes, for covering data.

For every pair of elements the distances below a cutoff, smeared by Gaussians and weighted to vanish at the cutoff,
per atom; and the composition. Not for fitting: for farthest-point selection.
"""

from __future__ import annotations

import numpy as np

from ..progress import track
from .dataset import Dataset
from .structure import Structure

CUTOFF = 5.0
BINS = 12
WIDEST = 256  # features, above which element pairs share features by a fixed random projection


def pair_distances(structure: Structure, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unordered pairs (i, j, distance) below the cutoff, images included: ``(pairs,)`` each."""
    from vesin import NeighborList

    n, pbc = len(structure), structure.pbc
    if n == 0 or (n == 1 and not pbc.any()):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    cell = np.where(pbc[:, None], structure.cell, 0.0)
    if not pbc.all():  # open axes get unit vectors orthogonal to the periodic ones
        _, _, basis = np.linalg.svd(cell)
        cell[~pbc] = basis[int(pbc.sum()) :]
    search = NeighborList(cutoff=cutoff, full_list=False)
    i, j, d = search.compute(structure.positions, cell, [bool(p) for p in pbc], "ijd")
    return i.astype(np.int64), j.astype(np.int64), d


def descriptors(data: Dataset) -> np.ndarray:
    """``(len(data), features)``, each feature per atom."""
    elements = np.array(data.elements)
    slot = np.zeros(int(elements.max(initial=0)) + 1, dtype=np.int64)
    slot[elements] = np.arange(len(elements))
    n = len(elements)
    upper = np.zeros((n, n), dtype=np.int64)
    rows, columns = np.triu_indices(n)
    upper[rows, columns] = upper[columns, rows] = np.arange(len(rows))
    centers = np.linspace(0.6, CUTOFF - 0.2, BINS)
    width = centers[1] - centers[0]
    features = len(rows) * BINS + n
    mix = None
    if features > WIDEST:
        mix = np.random.default_rng(0).normal(size=(features, WIDEST)) / np.sqrt(WIDEST)
    made = np.empty((len(data), features if mix is None else WIDEST))
    for k, structure in enumerate(track(data, "Fingerprints")):
        z = slot[structure.numbers]
        i, j, d = pair_distances(structure, CUTOFF)
        weight = 0.5 * (np.cos(np.pi * d / CUTOFF) + 1)
        smeared = weight[:, None] * np.exp(-0.5 * ((d[:, None] - centers) / width) ** 2)
        table = np.zeros((len(rows), BINS))
        np.add.at(table, upper[z[i], z[j]], smeared)
        row = np.concatenate([table.ravel(), np.bincount(z, minlength=n).astype(float)]) / max(len(structure), 1)
        made[k] = row if mix is None else row @ mix
    return made


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """Indices of ``count`` points: first the one nearest to the mean, then always the one farthest from those chosen.

    Args:
        points: ``(n, features)``.
        count: at most n.

    Source: Gonzalez, Theor. Comput. Sci. 38, 293 (1985).
    """
    chosen = np.empty(count, dtype=np.int64)
    squares = np.einsum("nf,nf->n", points, points)
    nearest = np.full(len(points), np.inf)
    middle = points.mean(axis=0)
    pick = int(np.argmin(squares - 2 * points @ middle))
    for k in track(range(count), "Farthest points"):
        chosen[k] = pick
        distance = squares - 2 * points @ points[pick] + squares[pick]
        nearest = np.minimum(nearest, distance)
        nearest[pick] = -np.inf
        pick = int(np.argmax(nearest))
    return chosen
