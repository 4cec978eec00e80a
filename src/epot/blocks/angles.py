"""Legendre polynomials of the angles between all neighbors of every atom, with first and second derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..features.engine import wanted
from ..typing import Float, Tensor
from .directional_kernels import squares
from .neighborhood import Layout


def legendre_angles(units: Float[Tensor, "slots 3"], layout: Layout, degrees: int) -> Float[Tensor, " polynomials"]:
    """``P_l(-u_k . u_i)`` of each two neighbors k and i of an atom, 0 for i = k and where a slot is empty.

    The minus: two messages ``k -> j -> i`` go straight on where k and i are opposite. Differentiable twice; no angle is
    made, so there is nothing to fear where atoms are in line.

    Args:
        units: from receiver to sender.
        layout: which slots are of one atom.
        degrees: l = 0 .. degrees - 1.

    Returns:
        Blocks ``(m, degrees w, w)`` one after the other (:mod:`epot.blocks.directional_kernels`).
    """
    return _Angles.apply(units, layout, degrees)


class _Angles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, units: Tensor, layout: Layout, degrees: int) -> Tensor:
        ctx.save_for_backward(units)
        ctx.layout, ctx.degrees = layout, degrees
        flat = units.new_empty(sum((stop - start) * w * w for start, stop, _, w in layout.blocks) * degrees)
        masks = _masks(units, layout)
        for u, mask, out in zip(_by_atom(units, layout), masks, squares(flat, layout, degrees), strict=True):
            made = _polynomials(u, degrees, 0, out.view(len(u), degrees, *mask.shape[1:]))
            made.mul_(mask.unsqueeze(1))
        return flat

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (units,) = ctx.saved_tensors
        return _Gradient.apply(grad.contiguous(), units, ctx.layout, ctx.degrees), None, None


class _Gradient(torch.autograd.Function):
    """``du_k = -sum_i (q + q^T)_ki u_i`` with ``q = sum_l dP_l P'_l``."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, units: Tensor, layout: Layout, degrees: int) -> Tensor:
        ctx.save_for_backward(grad, units)
        ctx.layout, ctx.degrees = layout, degrees
        out = torch.empty_like(units)
        parts = zip(
            _by_atom(units, layout),
            _masks(units, layout),
            squares(grad, layout, degrees),
            _by_atom(out, layout),
            strict=True,
        )
        for u, mask, g, o in parts:
            q = _weighted(_polynomials(u, degrees, 1), g, mask)
            torch.bmm(q, u, out=o)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        """Of ``sum_l dP_l P'_l c'`` with ``c' = -(u' u^T + u u'^T)``."""
        grad, units = ctx.saved_tensors
        layout, degrees = ctx.layout, ctx.degrees
        d_grad = torch.empty_like(grad)
        d_units = torch.empty_like(units) if wanted(units) else None
        parts = zip(
            _by_atom(units, layout),
            _by_atom(along.contiguous(), layout),
            _masks(units, layout),
            squares(grad, layout, degrees),
            squares(d_grad, layout, degrees),
            strict=True,
        )
        outs = iter(_by_atom(d_units, layout) if d_units is not None else ())
        for u, u1, mask, g, d_g in parts:
            turn = torch.bmm(u1, u.transpose(1, 2))
            turn = (turn + turn.transpose(1, 2)).mul_(mask).neg_()
            slopes = _polynomials(u, degrees, 1)
            torch.mul(slopes, turn.unsqueeze(1), out=d_g.view(slopes.shape))
            if d_units is not None:
                bent = _weighted(_polynomials(u, degrees, 2), g, turn)
                torch.bmm(bent, u, out=(o := next(outs)))
                o.baddbmm_(_weighted(slopes, g, mask), u1)
        return d_grad, d_units, None, None


def _by_atom(values: Tensor, layout: Layout) -> list[Tensor]:
    """``(m, w, 3)`` of each block."""
    return [values[slot : slot + (stop - start) * w].view(stop - start, w, 3) for start, stop, slot, w in layout.blocks]


def _masks(units: Tensor, layout: Layout) -> list[Tensor]:
    """1 for two different neighbors, ``(m, w, w)`` of each block."""
    filled = units.new_zeros(len(units)).index_fill_(0, layout.place, 1.0)
    masks = []
    for start, stop, slot, width in layout.blocks:
        there = filled[slot : slot + (stop - start) * width].view(stop - start, width)
        mask = there.unsqueeze(1) * there.unsqueeze(2)
        mask.diagonal(dim1=1, dim2=2).zero_()
        masks.append(mask)
    return masks


def _weighted(slopes: Tensor, grad: Tensor, mask: Tensor) -> Tensor:
    """``-(q + q^T)`` of ``q = mask sum_l grad_l slopes_l``."""
    q = (slopes * grad.view(slopes.shape)).sum(1).mul_(mask)
    return (q + q.transpose(1, 2)).neg_()


def _polynomials(u: Tensor, degrees: int, order: int, out: Tensor | None = None) -> Tensor:
    """``P_l(-u u^T)`` or their first or second derivatives, ``(m, degrees, w, w)``."""
    m, width, _ = u.shape
    cosine = torch.bmm(u, u.transpose(1, 2)).neg_()
    p = u.new_empty(m, degrees, width, width) if out is None else out
    p[:, 0] = 1
    if degrees > 1:
        p[:, 1] = cosine
    for n in range(1, degrees - 1):
        torch.mul(p[:, n], cosine, out=p[:, n + 1]).mul_((2 * n + 1) / (n + 1))
        p[:, n + 1].sub_(p[:, n - 1], alpha=n / (n + 1))
    for k in range(order):  # P'_(l+1) = P'_(l-1) + (2l + 1) P_l, and the same for the next derivative
        lower, p = p, torch.zeros_like(p)
        for n in range(k, degrees - 1):
            torch.mul(lower[:, n], 2 * n + 1, out=p[:, n + 1])
            if n:
                p[:, n + 1].add_(p[:, n - 1])
    return p
