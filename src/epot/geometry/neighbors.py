"""Neighbor pairs of one structure: the only place that knows which library finds them (vesin; none for molecules)."""

import numpy as np
from vesin import NeighborList

from ..data.structure import Structure
from ..errors import ConfigError, DataError

CLOSEST = 1e-3  # Å: atoms nearer than this are at one place
FEW = 64  # atoms of an open structure: up to so many, all distances at once are faster than a search


def complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell with unit vectors, orthogonal to the periodic ones, in place of those of open axes.

    The neighbor search needs three independent vectors; along an open axis their length does not matter.
    """
    cell = np.where(np.asarray(pbc)[:, None], cell, 0.0)
    missing = [k for k in range(3) if not pbc[k]]
    if missing:
        _, _, basis = np.linalg.svd(cell)
        for k, vector in zip(missing, basis[3 - len(missing) :], strict=True):
            cell[k] = vector
    return cell


def neighbor_pairs(structure: Structure, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All ordered pairs (i, j, S) with ``|r_j - r_i + S @ cell| < cutoff``, sorted by receiver ``i``.

    Periodic images are different pairs; an atom is a neighbor of its own images, never of itself.

    Args:
        structure: any mixture of periodic and open axes; cells may be smaller than the cutoff, or skewed.
        cutoff: Å; zero for no pairs.

    Returns:
        ``i (pairs,)`` int64, ``j (pairs,)`` int64, ``S (pairs, 3)`` int32.

    Raises:
        DataError: two atoms are at one place, or the periodic cell vectors are linearly dependent.
        ConfigError: the cutoff is negative or not finite.
    """
    if not 0 <= cutoff < np.inf:
        raise ConfigError(f"A cutoff is a length in Å, finite and not negative; it was given {cutoff}.")
    n = len(structure)
    pbc = structure.pbc
    if n == 0 or cutoff == 0 or (n == 1 and not pbc.any()):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int32)
    if n <= FEW and not pbc.any():
        return _all_distances(structure, cutoff)
    cell = complete_cell(structure.cell, pbc)
    lengths = np.linalg.norm(cell, axis=1)
    if abs(np.linalg.det(cell)) < 1e-8 * lengths.prod():
        raise DataError(f"The periodic cell vectors are linearly dependent{_where(structure)}:\n{structure.cell}")
    search = NeighborList(cutoff=float(cutoff), full_list=True, sorted=True)
    i, j, shift, distance = search.compute(
        points=structure.positions, box=cell, periodic=[bool(p) for p in pbc], quantities="ijSd"
    )
    i, j, shift = i.astype(np.int64), j.astype(np.int64), shift.astype(np.int32)
    if len(distance) and distance.min() < CLOSEST:
        _refuse(i, j, distance, structure)
    if len(i) and (np.diff(i) < 0).any():
        order = np.argsort(i, kind="stable")
        i, j, shift = i[order], j[order], shift[order]
    return i, j, shift


def _all_distances(structure: Structure, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of an open structure, in the order (i, j)."""
    n, x = len(structure), structure.positions
    apart = x[:, None] - x
    square = np.einsum("ija,ija->ij", apart, apart).ravel()
    square[:: n + 1] = np.inf  # no atom with itself
    found = (square < cutoff * cutoff).nonzero()[0]
    i, j = np.divmod(found, n)
    if len(found) and square.min() < CLOSEST**2:
        _refuse(i, j, np.sqrt(square[found]), structure)
    return i, j, np.zeros((len(found), 3), np.int32)


def _refuse(i: np.ndarray, j: np.ndarray, distance: np.ndarray, structure: Structure) -> None:
    k = int(distance.argmin())
    raise DataError(
        f"Atoms {i[k]} and {j[k]} are at one place (distance {distance[k]:.1e} Å){_where(structure)}: "
        "remove one, or look at how the file was made."
    )


def _where(structure: Structure) -> str:
    return f" in {structure.source or structure.formula}"
