"""DimeNet's directional messages: sums over triplets k -> j -> i as products of matrices for each atom j.

What a message from j to i takes from the messages from all k to j is (DimeNet++, arXiv:2011.14115, section 2)

    t_ji = sum_(k != i) f(r_kj, cos theta) * x_kj,    f = sum_ln W_ln R_ln(r_kj) Y_l0(theta),

with the angle theta between the directions of the two messages. A filter of each triplet (with c channels, K neighbors
and 8 dimensions to squeeze it through: 8 (c + 7) K multiplications a message and layer, and c K to use it) is never
made: the radial part belongs to the pair alone, so

    t_ji = sum_l sum_(k != i) P_l(cos theta) y_l,kj,    y_l,kj = (sum_n V_ln R_ln(r_kj)) * x_kj,

of which the inner sum is, for all i and c at once, a product of a matrix of angles between neighbors of j, the same for
all layers, with the messages that reach j: 7 c K multiplications at the speed of matrix products. (The addition theorem
of spherical harmonics would take i and k apart, with 98 c instead. As batched products of matrices with few rows these
were measured to be slower than the former below some 50 neighbors, and not by much faster above.)

Compiled kernels (:mod:`epot.blocks.directional_native`) do the same for one atom at a time.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ..geometry.graph import Graph
from ..typing import Float, Tensor
from . import directional_kernels as kernels
from .angles import legendre_angles
from .directional_kernels import Slots
from .directional_native import Pairs, available, native_angles, native_sums, pairs_of
from .neighborhood import Layout, Neighborhood
from .operator import Written, applied


class Around(NamedTuple):
    """The neighbors of every atom as the sums need them, the same for every layer.

    Attributes:
        slots: where messages come from and go to; with compiled kernels the pairs themselves.
        radial: ``R_ln``, in blocks, or of each pair.
        angles: ``P_l``, zero for k = i, in blocks, or of each atom.
    """

    slots: Slots | Pairs
    radial: Float[Tensor, " radial_of_slots"]
    angles: Float[Tensor, " angles_of_slots"]


def around(graph: Graph, near: Neighborhood, radial: Float[Tensor, "degrees n slots"]) -> Around:
    """Lay out angles and radial functions, which must vanish at the cutoff, where empty slots lie."""
    layout = near.layout
    if available(radial.device, radial.dtype):
        pairs = pairs_of(graph)
        units = near.directions.index_select(0, layout.place)
        own = radial.flatten(0, 1).t().index_select(0, layout.place)
        return Around(pairs, own, native_angles(units, pairs, len(radial)))
    slots = graph._once("directional_slots", lambda: _slots(graph, layout))
    arranged = _Arranged.apply(radial.flatten(0, 1), layout)
    return Around(slots, arranged, legendre_angles(near.directions, layout, len(radial)))


def directional_sums(
    x: Float[Tensor, "pairs channels"], weights: Float[Tensor, "degrees n channels"], around: Around
) -> Float[Tensor, "pairs channels"]:
    """``t_ji`` of every pair from ``x_kj``; differentiable twice in everything.

    Args:
        x: of every pair ``k -> j``.
        weights: ``W_ln``.
        around: the geometry.
    """
    if not len(x):
        return x
    weights = weights * _norms(len(weights), x.dtype, x.device)
    if isinstance(around.slots, Pairs):
        return native_sums(x, weights, around.radial, around.angles, around.slots)
    return applied(Written(kernels, around.slots), x, weights, around.radial, around.angles)


class _Arranged(torch.autograd.Function):
    """:func:`epot.blocks.directional_kernels.arrange`, which only moves numbers."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, layout: Layout) -> Tensor:
        ctx.layout, ctx.rows = layout, len(values)
        return kernels.arrange(values, layout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Restored.apply(grad.contiguous(), ctx.layout, ctx.rows), None


class _Restored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, layout: Layout, rows: int) -> Tensor:
        ctx.layout = layout
        return kernels.restore(flat, layout, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Arranged.apply(grad, ctx.layout), None, None


def _slots(graph: Graph, layout: Layout) -> Slots:
    reverse = graph.reverse_pairs()
    pair = torch.zeros_like(layout.senders)
    pair[layout.place] = torch.arange(graph.n_pairs, device=pair.device)
    target = reverse.index_select(0, pair) if graph.n_pairs else pair
    return Slots(layout, pair, target, layout.place.index_select(0, reverse))


@lru_cache(maxsize=32)
def _norms(degrees: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``Y_l0 / P_l = sqrt((2l+1)/4pi)``, ``(degrees, 1, 1)``."""
    made = [math.sqrt((2 * k + 1) / (4 * math.pi)) for k in range(degrees)]
    return torch.tensor(made, dtype=dtype, device=device)[:, None, None]
