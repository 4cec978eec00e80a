"""Where the neighbors and the triples of a graph lie while atomic environment vectors are computed.

Neighbors lie on a dense axis, one row for each atom: once those of the radial part, once the nearer ones of the angular
part, sorted by element. Two neighbors of an atom make one cell of a matrix on that axis (cosines, sums of distances),
so that all there is to know of a triple is three numbers at one place. Triples of one atom and one pair of elements
are a row of slots; rows of about equal length make a block, in which sums over triples are matrix products. What is
computed triple by triple is computed for a chunk of some blocks at a time.
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
CHUNK = 16384  # slots: the more at a time, the fewer operations are started
EMPTY = 1024  # empty slots of a block, at most: computing them costs about as much as a block of its own


class Block(NamedTuple):
    """Rows of triples with equally many slots.

    Attributes:
        rows: first row and the row after the last.
        slots: first slot and the slot after the last; ``rows`` times ``width`` of them.
        width: slots in a row.
    """

    rows: tuple[int, int]
    slots: tuple[int, int]
    width: int


class Chunk(NamedTuple):
    """Blocks that follow each other.

    Attributes:
        slots: first slot and the slot after the last.
        blocks: the blocks.
        cells: cell of the matrix that each slot is, ``(slots,)``; an empty slot is a cell of the diagonal.
        mirror: the cell across the diagonal.
    """

    slots: tuple[int, int]
    blocks: tuple[Block, ...]
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
        chunks: of the rows of triples.
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
    chunks: tuple[Chunk, ...]
    rows: Int[Tensor, " rows"]
    row_place: Int[Tensor, " atoms_times_element_pairs"]
    width: int

    @property
    def n_slots(self) -> int:
        return self.chunks[-1].slots[1] if self.chunks else 0

    @property
    def blocks(self) -> list[Block]:
        return [block for chunk in self.chunks for block in chunk.blocks]

    @property
    def cells(self) -> Int[Tensor, " slots"]:
        """Of all chunks."""
        return torch.cat([chunk.cells for chunk in self.chunks]) if self.chunks else self.near[:0]


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
    blocks, rows, cells, mirror = _blocks(counts, width)
    row_place = np.full(n_atoms * (n_elements * (n_elements + 1) // 2), len(rows))
    row_place[rows] = np.arange(len(rows))
    tensor = lambda x: torch.from_numpy(x).to(device)  # noqa: E731
    made = []
    for part in _chunks(blocks):
        slots = part[0].slots[0], part[-1].slots[1]
        made.append(Chunk(slots, tuple(part), tensor(cells[slice(*slots)]), tensor(mirror[slice(*slots)])))
    return tensor(index), tensor(angular), tensor(near_place), tuple(made), tensor(rows), tensor(row_place), width


def _chunks(blocks: list[Block]) -> list[list[Block]]:
    made: list[list[Block]] = []
    for block in blocks:
        if made and block.slots[1] - made[-1][0].slots[0] <= CHUNK:
            made[-1].append(block)
        else:
            made.append([block])
    return made


def _blocks(counts: np.ndarray, width: int) -> tuple[list[Block], np.ndarray, np.ndarray, np.ndarray]:
    """Rows of triples, ascending in length, cut into blocks of about BLOCK slots: blocks, rows, cells, mirror.

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
    lengths = lengths[rows]
    sizes = lengths.tolist()
    filled = [0, *accumulate(sizes)]
    made: list[Block] = []
    start = slot = 0
    while start < len(sizes):
        stop = _stop(sizes, filled, start)
        n = sizes[stop - 1]
        made.append(Block((start, stop), (slot, slot + (stop - start) * n), n))
        slot, start = slot + (stop - start) * n, stop
    widths = np.repeat([block.width for block in made], [block.rows[1] - block.rows[0] for block in made])
    of = np.repeat(np.arange(len(rows)), widths.astype(np.int64))  # the row of each slot
    t = np.arange(slot) - np.repeat(np.cumsum(widths) - widths, widths.astype(np.int64))
    offsets = counts.cumsum(1) - counts
    atom, pair = np.divmod(rows, len(a))
    row = t // np.maximum(second.ravel()[rows], 1)[of]
    column = t - row * second.ravel()[rows][of]
    alone = like[pair][of]
    if alone.any():
        q, p = np.tril_indices(width, -1)  # p < q, ascending in q
        which = np.minimum(t[alone], len(p) - 1)
        row[alone], column[alone] = p[which], q[which]
    row, column = row + offsets[atom, a[pair]][of], column + offsets[atom, b[pair]][of]
    there = t < lengths[of]
    row, column = row * there, column * there  # else the first cell of the atom, which is on the diagonal
    empty = (atom * width**2)[of]
    return made, rows, row * width + column + empty, column * width + row + empty


def _stop(sizes: list[int], filled: list[int], start: int) -> int:
    """Where the block that starts here ends: before it has too many slots, or too many empty ones, but not at once."""

    def excess(stop: int) -> bool:
        slots = (stop - start) * sizes[stop - 1]
        return slots > BLOCK or slots - filled[stop] + filled[start] > EMPTY

    return max(start + bisect_right(range(start + 1, len(sizes) + 1), False, key=excess), start + 1)
