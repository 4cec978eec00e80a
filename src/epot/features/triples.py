"""Triples: two neighbors of one atom. What angles are made of."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..geometry.graph import Graph
from ..typing import Int, Tensor


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
