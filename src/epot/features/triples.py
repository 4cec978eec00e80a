"""Triples: two neighbors of one atom. What angles are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor

CHUNK = 2**16
"""Triples that are evaluated at a time."""
MOST = 4096
"""Atoms that are taken at a time."""


class Triples(NamedTuple):
    """Pairs of pairs with one receiver, each once.

    Two periodic images of one atom are two neighbors like any others, and images of the atom itself are neighbors.

    Attributes:
        first: a pair of the graph, (i, j), ``(triples,)``; never descending.
        second: another pair of the same receiver, (i, k), that comes after it, ``(triples,)``.
    """

    first: Int[Tensor, " triples"]
    second: Int[Tensor, " triples"]


def triples(graph: Graph) -> Triples:
    """All triples of a graph. They depend on its pairs alone and are kept with it."""
    return graph._once("triples", lambda: _triples(graph.row_pointers(), graph.pairs[0]))


def _triples(pointers: Tensor, receivers: Tensor) -> Triples:
    pairs = torch.arange(len(receivers), device=receivers.device)
    after = pointers[1:].index_select(0, receivers) - pairs - 1  # pairs of the same receiver that follow
    first = torch.repeat_interleave(pairs, after)
    return Triples(first, ranges(pairs + 1, after))


def ranges(starts: Int[Tensor, " rows"], counts: Int[Tensor, " rows"]) -> Int[Tensor, " total"]:
    """``starts[0], starts[0] + 1, ...``, ``counts[0]`` numbers; then ``counts[1]`` from ``starts[1]``; and so on."""
    ends = counts.cumsum(0)
    offsets = torch.repeat_interleave(starts - ends + counts, counts)
    return offsets + torch.arange(len(offsets), device=counts.device)


class Layout(NamedTuple):
    """How triples are counted: by species of the neighbors.

    Attributes:
        species: of each atom, as a neighbor, ``(atoms,)``.
        kinds: which row of the sum two species belong to, -1 for none, ``(species, species)``, symmetric.
        weights: of each atom, as a neighbor, ``(atoms,)``.
    """

    species: Int[Tensor, " atoms"]
    kinds: Int[Tensor, "species species"]
    weights: Float[Tensor, " atoms"]

    @property
    def n_kinds(self) -> int:
        return int(self.kinds.max()) + 1


class Atoms(NamedTuple):
    """The pairs of some neighboring atoms and their triples; pairs by position in ``order``.

    Attributes:
        n: how many atoms.
        width: most neighbors that one of them has.
        order: indices of their pairs, by atom, then species, ``(p,)``.
        slots: position of each in the dense array (atom, neighbor), ``(p,)``.
        rank: position among the neighbors, ``(p,)``.
        species, weights: of its neighbor, ``(p,)``.
        first, second: triples, ``(t,)``.
        row: which sum they belong to, ascending, ``(t,)``.
        rows: how many sums.
    """

    n: int
    width: int
    order: Tensor
    slots: Tensor
    rank: Tensor
    species: Tensor
    weights: Tensor
    first: Tensor
    second: Tensor
    row: Tensor
    rows: int


def chunks(graph: Graph, layout: Layout, *, ordered: bool = False) -> Iterator[tuple[int, Atoms]]:
    """Atoms with their triples, about :data:`CHUNK` at a time, and the first atom of each.

    With ``ordered`` every triple comes both ways, and a row is not an atom and two species but a pair and one species.
    """
    pointers = graph.row_pointers()
    counts = pointers[1:] - pointers[:-1]
    total = (counts * (counts - 1)).cumsum(0) // (1 if ordered else 2)
    stop = 0
    while stop < graph.n_atoms:
        start = stop
        before = int(total[start - 1]) if start else 0
        stop = max(int(torch.searchsorted(total, before + CHUNK, right=True)), start + 1)
        stop = min(stop, start + MOST, graph.n_atoms)
        yield start, _atoms(graph, layout, start, stop, ordered)


def _atoms(graph: Graph, layout: Layout, start: int, stop: int, ordered: bool) -> Atoms:
    pointers = graph.row_pointers()[start : stop + 1]
    begin, end = int(pointers[0]), int(pointers[-1])
    n, n_species = stop - start, len(layout.kinds)
    order = torch.arange(begin, end, device=pointers.device)
    atom = graph.pairs[0, begin:end] - start
    species = layout.species.index_select(0, graph.pairs[1, begin:end])
    if n_species > 1:
        ranked = torch.argsort(atom * n_species + species, stable=True)
        order, species = order.index_select(0, ranked), species.index_select(0, ranked)  # atoms are in order already
    own = torch.arange(end - begin, device=order.device)
    degrees = pointers[1:] - pointers[:-1]
    width = int(degrees.max()) if n else 0
    rank = own - (pointers[:-1] - begin).index_select(0, atom)
    many = torch.bincount(atom * n_species + species, minlength=n * n_species).view(n, n_species)
    first = (many.flatten().cumsum(0) - many.flatten()).view(n, n_species)
    counts, starts = many.index_select(0, atom), first.index_select(0, atom)  # (pairs, species of the second)
    kinds = layout.kinds.index_select(0, species)
    if ordered:
        row, rows = torch.arange(len(own) * n_species, device=order.device).view(-1, n_species), len(own) * n_species
    else:
        others = torch.arange(n_species, device=order.device)
        same, after = others == species[:, None], others > species[:, None]
        starts = torch.where(same, own[:, None] + 1, starts)
        ends = torch.where(same | after, first.index_select(0, atom) + counts, starts)
        counts = (ends - starts).clamp(min=0)
        row, rows = atom[:, None] * layout.n_kinds + kinds, n * layout.n_kinds
    counts = torch.where(kinds >= 0, counts, 0).flatten()
    used = counts.nonzero()[:, 0]
    row, counts, starts = row.flatten()[used], counts[used], starts.flatten()[used]
    if n_species > 1 and not ordered:
        ranked = torch.argsort(row, stable=True)
        used, row, counts, starts = used[ranked], row[ranked], counts[ranked], starts[ranked]
    a, b, row = (
        torch.repeat_interleave(used // n_species, counts),
        ranges(starts, counts),
        row.repeat_interleave(counts),
    )
    if ordered:
        other = (a != b).nonzero()[:, 0]
        a, b, row = a[other], b[other], row[other]
    weights = layout.weights.index_select(0, graph.pairs[1].index_select(0, order))
    return Atoms(n, width, order, atom * width + rank, rank, species, weights, a, b, row, rows)
