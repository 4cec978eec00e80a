"""Where the neighbors and the triples of a graph lie while atomic environment vectors are computed.

Neighbors lie on a dense axis, one row for each atom: once those of the radial part, once the nearer ones of the angular
part, sorted by element. Two neighbors of an atom make one cell of a matrix on that axis (cosines, sums of distances),
so that all there is to know of a triple is three numbers at one place. Triples of one atom and one pair of elements
are a row of slots; rows of about equal length make a block, in which sums over triples are matrix products.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch

from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor

BLOCK = 8192  # slots: what is computed for them at a time should stay in the processor's cache
EMPTY = 1024  # empty slots of a block, at most: computing them costs about as much as a block of its own


class Block(NamedTuple):
    """Rows of triples with equally many slots.

    Attributes:
        rows: first row and the row after the last.
        slots: first slot and the slot after the last; ``rows`` times ``width`` of them.
        width: slots in a row.
        cells: cell of the matrix that each slot is, ``(slots,)``; an empty slot is a cell of the diagonal.
        mirror: the cell across the diagonal.
    """

    rows: tuple[int, int]
    slots: tuple[int, int]
    width: int
    cells: Int[Tensor, " slots"]
    mirror: Int[Tensor, " slots"]


class Layout(NamedTuple):
    """Topology of a graph for one set of elements and one angular cutoff.

    Attributes:
        radial: index of the pair in each slot of the radial axis, ``(atoms * n)``; 0 where it is empty.
        place: slot of each pair on that axis.
        senders: 1 where the slot's neighbor is of the element, else 0, ``(elements, atoms, n)``.
        near: pairs within the angular cutoff, by receiver, then by element of the sender.
        angular: index of the pair in each slot of the angular axis, ``(atoms * m)``; 0 where it is empty.
        near_place: slot of each near pair on that axis.
        blocks: of the rows of triples.
        rows: row of ``(atom, pair of elements)`` of each row of triples, ascending in length.
        row_place: row of triples of each (atom, pair of elements); ``len(rows)`` where it has none.
        width: m.
    """

    radial: Int[Tensor, " radial_slots"]
    place: Int[Tensor, " pairs"]
    senders: Float[Tensor, "elements atoms n"]
    near: Int[Tensor, " near"]
    angular: Int[Tensor, " angular_slots"]
    near_place: Int[Tensor, " near"]
    blocks: tuple[Block, ...]
    rows: Int[Tensor, " rows"]
    row_place: Int[Tensor, " atoms_times_element_pairs"]
    width: int


def layout(
    graph: Graph, species: Tensor, distances: Tensor, n_elements: int, cutoff: float, dtype: torch.dtype
) -> Layout:
    """The layout of a graph, made anew only where the set of near pairs has changed.

    Args:
        graph: its pairs.
        species: position of each atom's element.
        distances: of the pairs, Å.
        n_elements: how many there are.
        cutoff: of the angular part, Å.
        dtype: of the weights ``senders``.
    """
    near = distances.detach() < cutoff
    key = f"aev {n_elements} {cutoff} {dtype}"
    kept = graph._made.get(key)
    if kept is not None and not torch.equal(kept[1], species):
        kept = None
    if kept is not None and torch.equal(kept[0], near):
        return kept[2]
    first = kept[2][:3] if kept is not None else _radial(graph, species, n_elements, dtype)
    made = Layout(*first, *_angular(graph, species, near, n_elements))
    graph._made[key] = (near, species, made)
    return made


def _radial(graph: Graph, species: Tensor, n_elements: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """What only depends on the pairs: the first three of a layout."""
    padded = graph.padded()
    there = padded < graph.n_pairs
    radial = torch.where(there, padded, 0).flatten()
    place = there.flatten().nonzero()[:, 0]
    elements = torch.arange(n_elements, device=species.device)[:, None, None]
    if not graph.n_pairs:
        return radial, place, torch.zeros(n_elements, *padded.shape, dtype=dtype, device=species.device)
    kinds = species.index_select(0, graph.pairs[1]).index_select(0, radial).view(padded.shape)
    return radial, place, ((kinds == elements) & there).to(dtype)


def _angular(graph: Graph, species: Tensor, near: Tensor, n_elements: int) -> tuple[Any, ...]:
    """The rest of a layout: whole numbers only, for which numpy is faster than torch, of small systems above all."""
    device, n_atoms = species.device, graph.n_atoms
    atoms, others = (x.cpu().numpy() for x in graph.pairs)
    index = near.cpu().numpy().nonzero()[0]
    kind = atoms[index] * n_elements + species.cpu().numpy()[others[index]]
    if n_atoms * n_elements < 2**16:
        kind = kind.astype(np.uint16)  # sorted by digits
    index = index[np.argsort(kind, kind="stable")]
    counts = np.bincount(kind, minlength=n_atoms * n_elements).reshape(n_atoms, n_elements)
    total = counts.sum(1)
    width = max(int(total.max(initial=0)), 1)
    near_place = (np.arange(width) < total[:, None]).ravel().nonzero()[0]
    angular = np.zeros(n_atoms * width, np.int64)
    angular[near_place] = index
    blocks, rows = _blocks(counts, width)
    row_place = np.full(n_atoms * (n_elements * (n_elements + 1) // 2), len(rows))
    row_place[rows] = np.arange(len(rows))
    tensor = lambda x: torch.from_numpy(x).to(device)  # noqa: E731
    made = tuple(block._replace(cells=tensor(block.cells), mirror=tensor(block.mirror)) for block in blocks)
    return tensor(index), tensor(angular), tensor(near_place), made, tensor(rows), tensor(row_place), width


def _blocks(counts: np.ndarray, width: int) -> tuple[list[Block], np.ndarray]:
    """Rows of triples, ascending in length, cut into blocks of about BLOCK slots; cells as numpy arrays.

    Args:
        counts: near neighbors of each element, ``(atoms, elements)``.
        width: of the angular axis.
    """
    n_elements = counts.shape[1]
    a, b = np.triu_indices(n_elements)
    first, second = counts[:, a], counts[:, b]
    like = a == b
    lengths = np.where(like, first * (first - 1) // 2, first * second).ravel()
    rows = lengths.nonzero()[0]
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    offsets = counts.cumsum(1) - counts
    atom, pair = np.divmod(rows, len(a))
    empty = atom * width**2
    down, right = offsets[atom, a[pair]], offsets[atom, b[pair]]
    across, alike = second.ravel()[rows], like[pair]
    sizes = lengths[rows].tolist()
    filled = [0, *accumulate(sizes)]
    q, p = np.tril_indices(width, -1)  # p < q, ascending in q
    made: list[Block] = []
    start = slot = 0
    while start < len(sizes):
        stop = _stop(sizes, filled, start)
        part, n = slice(start, stop), sizes[stop - 1]
        t = np.arange(n)
        row = t // across[part, None]
        column = t - row * across[part, None]
        alone = alike[part].nonzero()[0]
        if len(alone):
            m = min(n, len(p))  # no row of one element is longer
            row[alone, :m], column[alone, :m] = p[:m], q[:m]
        row, column = row + down[part, None], column + right[part, None]
        there = t < lengths[rows[part], None]
        row, column = row * there, column * there  # else the first cell of the atom, which is on the diagonal
        cells = (row * width + column + empty[part, None]).ravel()
        mirror = (column * width + row + empty[part, None]).ravel()
        made.append(Block((start, stop), (slot, slot + len(cells)), n, cells, mirror))  # type: ignore[arg-type]
        slot, start = slot + len(cells), stop
    return made, rows


def _stop(sizes: list[int], filled: list[int], start: int) -> int:
    """Where the block that starts here ends: before it has too many slots, or too many empty ones, but not at once."""

    def excess(stop: int) -> bool:
        slots = (stop - start) * sizes[stop - 1]
        return slots > BLOCK or slots - filled[stop] + filled[start] > EMPTY

    return max(start + bisect_right(range(start + 1, len(sizes) + 1), False, key=excess), start + 1)
