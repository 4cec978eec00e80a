"""Sums over neighbors of products, ``D_i = sum_j a_ij (x) b_ij``, as matrix products on a dense neighbor axis.

Two operators, each the other's derivative, so derivatives of any order are again the two:

    outer(a, b)_i = sum_j a_ij (x) b_ij,        inner(D, b)_ij = D_i b_ij.

Pairs lie in slots (:mod:`epot.blocks.neighborhood`); what is in an empty slot must be zero in one of the factors.
"""

from __future__ import annotations

from typing import Any

import torch

from ..typing import Float, Tensor
from .neighborhood import Layout


def outer(a: Float[Tensor, "slots A"], b: Float[Tensor, "slots B"], layout: Layout) -> Float[Tensor, "atoms A B"]:
    """``sum_j a_ij (x) b_ij`` of each receiver. Differentiable to any order."""
    return _Outer.apply(a, b, layout)


def inner(d: Float[Tensor, "atoms A B"], b: Float[Tensor, "slots B"], layout: Layout) -> Float[Tensor, "slots A"]:
    """``D_i b_ij`` in each slot. Differentiable to any order."""
    return _Inner.apply(d, b, layout)


class _Outer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.layout = layout
        out = a.new_empty(layout.rows.shape[0], a.shape[1], b.shape[1])
        for start, stop, slot, width in layout.blocks:
            m, slots = stop - start, slice(slot, slot + (stop - start) * width)
            sums = torch.bmm(a[slots].view(m, width, -1).transpose(1, 2), b[slots].view(m, width, -1))
            out.index_copy_(0, layout.rows[start:stop], sums)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        d, layout = grads[0], ctx.layout
        to_a = inner(d, b, layout) if ctx.needs_input_grad[0] else None
        return to_a, inner(d.transpose(1, 2), a, layout) if ctx.needs_input_grad[1] else None, None


class _Inner(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, d: Tensor, b: Tensor, layout: Layout) -> Tensor:
        ctx.save_for_backward(d, b)
        ctx.layout = layout
        out = b.new_empty(b.shape[0], d.shape[1])
        for start, stop, slot, width in layout.blocks:
            m, slots = stop - start, slice(slot, slot + (stop - start) * width)
            own = d.index_select(0, layout.rows[start:stop])
            torch.bmm(b[slots].view(m, width, -1), own.transpose(1, 2), out=out[slots].view(m, width, -1))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d, b = ctx.saved_tensors
        g, layout = grads[0].contiguous(), ctx.layout
        to_d = outer(g, b, layout) if ctx.needs_input_grad[0] else None
        return to_d, inner(d.transpose(1, 2), g, layout) if ctx.needs_input_grad[1] else None, None
