"""Messages on directed edges: to the atoms at their ends, to the opposite edge, and on a dense neighbor axis.

Edge e is a pair of the graph, its receiver a and its sender c: the message c -> a. All moves are gathers whose
derivatives are gathers again (nothing is scattered), to any order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor
from . import directional_native


class Edges(NamedTuple):
    """Where the edges of a graph lie.

    Attributes:
        place: slot of each edge on the dense neighbor axis, slots of all atoms after each other.
        gaps: the slots that are empty.
        swap: index of the opposite edge, c -> a for a -> c.
        others: how many other edges end at the same atom.
        shape: receivers, and slots of each.
        graph: whose pairs they are.
    """

    place: Int[Tensor, " edges"]
    gaps: Int[Tensor, " gaps"]
    swap: Int[Tensor, " edges"]
    others: Int[Tensor, " edges"]
    shape: tuple[int, int]
    graph: Graph

    @classmethod
    def of(cls, graph: Graph) -> Edges:
        """The pairs of a graph."""
        padded = graph.padded()
        width = padded.shape[1]
        gaps = (padded.flatten() == graph.n_pairs).nonzero()[:, 0]
        receivers = graph.pairs[0]
        first = graph.row_pointers()
        counts = first[1:] - first[:-1]
        place = torch.arange(graph.n_pairs, device=receivers.device) - first.index_select(0, receivers)
        others = counts.index_select(0, receivers) - 1
        return cls(place + receivers * width, gaps, graph.reverse_pairs(), others, (graph.n_atoms, width), graph)

    def dense(self, x: Float[Tensor, "edges features"]) -> Float[Tensor, "atoms slots features"]:
        """On the neighbor axis, zero where a slot is empty."""
        return _Spread.apply(x, self.place, self.gaps).view(*self.shape, -1)

    def flat(self, x: Float[Tensor, "atoms slots *features"]) -> Float[Tensor, "edges features"]:
        """The inverse of :meth:`dense`."""
        return picked(x.flatten(0, 1).flatten(1), self.place, self.gaps)

    def filtered_sums(
        self, x: Float[Tensor, "edges F"], rbf: Float[Tensor, "edges n"], weight: Float[Tensor, "n F"]
    ) -> Float[Tensor, "atoms F"]:
        """Sum of ``x (rbf weight)`` of the edges that end at an atom."""
        if directional_native.available(x.device, x.dtype):
            return directional_native.filtered(x, rbf, weight, self.graph)
        return self.dense(x * rbf.mm(weight)).sum(1)

    def from_receivers(self, h: Float[Tensor, "atoms features"]) -> Float[Tensor, "edges features"]:
        """What each edge's receiver has."""
        return self.flat(h.unsqueeze(1).expand(-1, self.shape[1], -1))

    def opposite(self, x: Float[Tensor, "edges features"]) -> Float[Tensor, "edges features"]:
        """What the opposite edge has (``id_swap`` of the reference code)."""
        return _Permute.apply(x, self.swap)


def picked(
    x: Float[Tensor, "slots F"], place: Int[Tensor, " rows"], gaps: Int[Tensor, " gaps"]
) -> Float[Tensor, "rows F"]:
    """Some rows of x, each once; ``gaps`` are the others."""
    return _Pick.apply(x, place, gaps)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, place: Tensor, gaps: Tensor) -> Tensor:
        ctx.save_for_backward(place, gaps)
        out = x.new_empty(len(place) + len(gaps), x.shape[1]).index_copy_(0, place, x)
        return out.index_fill_(0, gaps, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Pick.apply(grads[0], *ctx.saved_tensors), None, None


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, place: Tensor, gaps: Tensor) -> Tensor:
        ctx.save_for_backward(place, gaps)
        return x.index_select(0, place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Spread.apply(grads[0], *ctx.saved_tensors), None, None


class _Permute(torch.autograd.Function):
    """By an involution, which is its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, swap: Tensor) -> Tensor:
        ctx.save_for_backward(swap)
        return x.index_select(0, swap)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Permute.apply(grads[0], *ctx.saved_tensors), None
