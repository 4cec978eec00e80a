"""Where the neighbors and the triples of a graph lie while atomic environment vectors are computed.

Neighbors lie on a dense axis, one row for each atom: once those of the radial part, once the nearer ones of the angular
part, sorted by element. Two neighbors of an atom make one cell of a matrix on that axis (cosines, sums of distances),
so that all there is to know of a triple is three numbers at one place. Triples of one atom and one pair of elements
are a row of slots; rows of about equal length make a block, in which sums over triples are matrix products.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

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
    if kept is not None and torch.equal(kept[0], near) and torch.equal(kept[1], species):
        return kept[2]
    made = _layout(graph, species, near, n_elements, dtype)
    graph._made[key] = (near, species, made)
    return made


def _layout(graph: Graph, species: Tensor, near: Tensor, n_elements: int, dtype: torch.dtype) -> Layout:
    radial = graph.padded()
    there = radial.flatten() < graph.n_pairs
    place = there.nonzero()[:, 0]
    elements = torch.arange(n_elements, device=species.device)
    kinds = torch.nn.functional.pad(species.index_select(0, graph.pairs[1]), (0, 1), value=-1)
    senders = (kinds.index_select(0, radial.flatten()).view(radial.shape) == elements[:, None, None]).to(dtype)
    radial = torch.where(there, radial.flatten(), 0)
    index = near.nonzero()[:, 0]
    atoms, n_atoms = graph.pairs[0].index_select(0, index), graph.n_atoms
    kind = atoms * n_elements + kinds.index_select(0, index)
    index = index.index_select(0, torch.argsort(kind, stable=True))
    counts = torch.bincount(kind, minlength=n_atoms * n_elements).view(n_atoms, n_elements)
    total = counts.sum(1)
    width = max(int(total.max()) if n_atoms else 0, 1)
    slot = torch.arange(width, device=total.device)
    filled = slot < total[:, None]
    angular = torch.zeros(n_atoms * width, dtype=torch.int64, device=total.device)
    near_place = filled.flatten().nonzero()[:, 0]
    angular.index_copy_(0, near_place, index)
    blocks, rows = _blocks(counts, width)
    row_place = torch.full((n_atoms * (n_elements * (n_elements + 1) // 2),), len(rows), device=total.device)
    row_place.index_copy_(0, rows, torch.arange(len(rows), device=total.device))
    return Layout(radial, place, senders, index, angular, near_place, blocks, rows, row_place, width)


def _blocks(counts: Int[Tensor, "atoms elements"], width: int) -> tuple[tuple[Block, ...], Tensor]:
    """Rows of triples, ascending in length, cut into blocks of about BLOCK slots.

    Args:
        counts: near neighbors of each element.
        width: of the angular axis.
    """
    n_atoms, n_elements = counts.shape
    device = counts.device
    a, b = torch.triu_indices(n_elements, n_elements, device=device).unbind(0)
    first, second = counts[:, a], counts[:, b]
    like = a == b
    lengths = torch.where(like, first * (first - 1) // 2, first * second).flatten()
    rows = lengths.nonzero()[:, 0]
    lengths, order = torch.sort(lengths.index_select(0, rows), stable=True)
    rows = rows.index_select(0, order)
    offsets = counts.cumsum(1) - counts
    atoms = torch.arange(n_atoms, device=device)[:, None] * width**2
    base = (atoms + offsets[:, a] * width + offsets[:, b]).flatten().index_select(0, rows)[:, None]
    turned = (atoms + offsets[:, b] * width + offsets[:, a]).flatten().index_select(0, rows)[:, None]
    empty = atoms.expand(-1, len(a)).flatten().index_select(0, rows)[:, None]
    across = second.flatten().index_select(0, rows)[:, None]
    alike = like.expand(n_atoms, -1).flatten().index_select(0, rows)[:, None]
    sizes = lengths.tolist()
    filled = [0, *accumulate(sizes)]
    q, p = torch.tril_indices(width, width, -1, device=device).unbind(0)  # p < q, ascending in q
    p, q = (torch.nn.functional.pad(x, (0, max(int(sizes[-1]) - len(x), 0) if sizes else 0)) for x in (p, q))
    made, start, slot = [], 0, 0
    while start < len(sizes):
        stop = _stop(sizes, filled, start)
        part, n = slice(start, stop), sizes[stop - 1]
        t = torch.arange(n, device=device)
        there = t < lengths[part, None]
        row = torch.div(t, across[part], rounding_mode="floor")
        column = t - row * across[part]
        row, column = torch.where(alike[part], p[:n], row), torch.where(alike[part], q[:n], column)
        cells = torch.where(there, row * width + column + base[part], empty[part]).flatten()
        mirror = torch.where(there, column * width + row + turned[part], empty[part]).flatten()
        made.append(Block((start, stop), (slot, slot + len(cells)), n, cells, mirror))
        slot, start = slot + len(cells), stop
    return tuple(made), rows


def _stop(sizes: list[int], filled: list[int], start: int) -> int:
    """Where the block that starts here ends: before it has too many slots, or too many empty ones, but not at once."""

    def excess(stop: int) -> bool:
        slots = (stop - start) * sizes[stop - 1]
        return slots > BLOCK or slots - filled[stop] + filled[start] > EMPTY

    return max(start + bisect_right(range(start + 1, len(sizes) + 1), False, key=excess), start + 1)
