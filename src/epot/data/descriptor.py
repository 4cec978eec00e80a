"""A cheap fingerprint that no rotation, translation, permutation or choice of cell changes, for covering data.

For every pair of elements the distances below a cutoff, smeared by Gaussians and weighted to vanish at the cutoff,
per atom; and the composition. Not for fitting: for farthest-point selection.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from ..progress import track
from .dataset import Dataset
from .structure import Structure

CUTOFF = 5.0
BINS = 12
WIDEST = 256  # features, above which element pairs share features by a fixed random projection


def pair_distances(structure: Structure, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ordered pairs (i, j, distance) below the cutoff, each twice, periodic images included: ``(pairs,)`` each.

    Without the neighbor search of :mod:`epot.geometry`: a search tree over the atoms and their images.
    """
    n, pbc = len(structure), np.asarray(structure.pbc)
    positions, images, owner = structure.positions, structure.positions, np.arange(n)
    home = np.ones(n, dtype=bool)
    if pbc.any():
        cell = np.where(pbc[:, None], np.asarray(structure.cell), 0.0)
        if not pbc.all():  # open axes get unit vectors orthogonal to the periodic ones
            _, _, basis = np.linalg.svd(cell)
            cell[~pbc] = basis[int(pbc.sum()) :]
        if abs(np.linalg.det(cell)) < 1e-9:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        inverse = np.linalg.inv(cell)
        reach = cutoff * np.linalg.norm(inverse, axis=0)  # of the cutoff, in cell vectors
        scaled = positions @ inverse
        scaled -= np.where(pbc, np.floor(scaled), 0.0)
        positions = scaled @ cell
        far = np.where(pbc, np.ceil(reach), 0).astype(int)
        steps = [np.arange(-f, f + 1) for f in far]
        shifts = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
        everywhere = (scaled[None] + shifts[:, None]).reshape(-1, 3)
        near = ((everywhere > -reach) & (everywhere < 1 + reach) | ~pbc).all(axis=1)
        images, owner = everywhere[near] @ cell, np.tile(np.arange(n), len(shifts))[near]
        home = np.repeat((shifts == 0).all(axis=1), n)[near]
    found = cKDTree(positions).sparse_distance_matrix(cKDTree(images), cutoff, output_type="ndarray")
    i, j = found["i"], found["j"]
    other = ~(home[j] & (owner[j] == i))
    return i[other], owner[j[other]], found["v"][other]


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
