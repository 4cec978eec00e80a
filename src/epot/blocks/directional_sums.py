"""Sums over triplets k -> j -> i without triplets: DimeNet's directional messages at a cost linear in the pairs.

What a message from j to i takes from the messages from all k to j is (DimeNet++, arXiv:2011.14115, section 2)

    t_ji = sum_(k != i) f(r_kj, cos theta) * x_kj,    f = sum_ln W_ln R_ln(r_kj) Y_l0(theta),

with the angle theta between the directions of the two messages, k -> j and j -> i. As functions of ``u``, the unit
vectors from j to its neighbors, ``cos theta = -u_i . u_k``, so ``P_l(cos theta) = (-1)^l P_l(u_i . u_k)``, and the
addition theorem of spherical harmonics takes the two directions apart (``C_lm``: harmonics with
``sum_m C_lm(u) C_lm(v) = P_l(u . v)``):

    A_j,lm = sum_k C_lm(u_k) y_l,kj,    y_l,kj = (sum_n V_ln R_ln(r_kj)) * x_kj,
    t_ji = sum_lm C_lm(u_i) A_j,lm - sum_l y_l,ij,     V_ln = (-1)^l sqrt((2l+1)/4pi) W_ln.

The last sum is the term k = i (the same image of it, no other), where ``P_l(1) = 1``. With K neighbors, 7 degrees and
64 channels that is 6300 multiplications for a message, as products of matrices, where a sum over triplets takes 64 K
beside the 56 K and 512 K that make its filters; and nothing as large as the number of triplets is ever stored.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ..features.angular import n_harmonics, spherical_harmonics
from ..features.engine import wanted as is_wanted
from ..geometry.graph import Graph
from ..typing import Float, Tensor
from . import directional_kernels as kernels
from .directional_kernels import Slots
from .neighborhood import Layout, Neighborhood


class Around(NamedTuple):
    """The neighbors of every atom as the sums need them, the same for every layer.

    Attributes:
        slots: where messages come from and go to.
        radial: ``R_ln``, in blocks.
        harmonics: ``C_lm``, zero in empty slots, in blocks.
    """

    slots: Slots
    radial: Float[Tensor, " radial_of_slots"]
    harmonics: Float[Tensor, " harmonics_of_slots"]


def around(graph: Graph, near: Neighborhood, radial: Float[Tensor, "degrees n slots"]) -> Around:
    """Lay out directions and radial functions, which must vanish at the cutoff, where empty slots lie."""
    layout, l_max = near.layout, radial.shape[0] - 1
    slots = graph._once("directional_slots", lambda: _slots(graph, layout))
    factors, rows = _rows(l_max, radial.dtype, radial.device)
    filled = torch.zeros_like(near.distances).index_fill(0, layout.place, 1.0)
    harmonics = torch.nn.functional.pad(spherical_harmonics(near.directions, l_max) * factors, (0, 0, 0, 1)) * filled
    return Around(
        slots,
        _Arranged.apply(radial.flatten(0, 1), layout),
        _Arranged.apply(harmonics.index_select(0, rows), layout),
    )


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
    weights = weights * _signs(len(weights), x.dtype, x.device)
    return _Sums.apply(x, weights, around.radial, around.harmonics, around.slots)


class _Arranged(torch.autograd.Function):
    """:func:`epot.blocks.directional_kernels.arrange`, which only moves numbers."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, layout: Layout) -> Tensor:
        ctx.layout, ctx.rows = layout, len(values)
        return kernels.arrange(values, layout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Restored.apply(grad, ctx.layout, ctx.rows), None


class _Restored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, layout: Layout, rows: int) -> Tensor:
        ctx.layout = layout
        return kernels.restore(flat, layout, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Arranged.apply(grad, ctx.layout), None, None


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, radial: Tensor, harmonics: Tensor, slots: Slots) -> Tensor:
        ctx.save_for_backward(x, weights, radial, harmonics)
        ctx.slots = slots
        return kernels.forward(x, weights, radial, harmonics, slots)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, radial, harmonics = ctx.saved_tensors
        wanted = (is_wanted(x), is_wanted(weights), is_wanted(radial) or is_wanted(harmonics))
        if not torch.is_grad_enabled():  # nobody will differentiate it
            return *kernels.backward(grad.contiguous(), *ctx.saved_tensors, ctx.slots, wanted), None
        return *_Gradient.apply(grad.contiguous(), *ctx.saved_tensors, ctx.slots, wanted), None


class _Gradient(torch.autograd.Function):
    """The gradient as a function of its own, whose gradient a loss on forces asks for."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weights: Tensor,
        radial: Tensor,
        harmonics: Tensor,
        slots: Slots,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(grad, x, weights, radial, harmonics)
        ctx.slots = slots
        return kernels.backward(grad, x, weights, radial, harmonics, slots, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, x, weights, radial, harmonics = ctx.saved_tensors
        wanted = (is_wanted(grad), is_wanted(x), is_wanted(weights), is_wanted(radial) or is_wanted(harmonics))
        return *kernels.second_backward(cotangents, *ctx.saved_tensors, ctx.slots, wanted), None, None


def _slots(graph: Graph, layout: Layout) -> Slots:
    reverse = graph.reverse_pairs()
    pair = torch.zeros_like(layout.senders)
    pair[layout.place] = torch.arange(graph.n_pairs, device=pair.device)
    target = reverse.index_select(0, pair) if graph.n_pairs else pair
    return Slots(layout, pair, target, layout.place.index_select(0, reverse))


@lru_cache(maxsize=32)
def _rows(l_max: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """``C_lm / Y_lm`` as a column, and which harmonic is in which of ``2 l_max + 1`` rows of each degree."""
    factors, rows = [], torch.full((l_max + 1, 2 * l_max + 1), n_harmonics(l_max))
    for degree in range(l_max + 1):
        factors += [math.sqrt(4 * math.pi / (2 * degree + 1))] * (2 * degree + 1)
        rows[degree, : 2 * degree + 1] = torch.arange(degree**2, (degree + 1) ** 2)
    return torch.tensor(factors, dtype=dtype, device=device)[:, None], rows.flatten().to(device)


@lru_cache(maxsize=32)
def _signs(degrees: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``(-1)^l sqrt((2l+1)/4pi)``, ``(degrees, 1, 1)``."""
    made = [(-1) ** k * math.sqrt((2 * k + 1) / (4 * math.pi)) for k in range(degrees)]
    return torch.tensor(made, dtype=dtype, device=device)[:, None, None]
