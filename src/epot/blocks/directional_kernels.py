"""Directional sums and their first and second gradients, a block of atoms at a time.

For a block of m atoms with w slots for neighbors, ``P (m, degrees w, w)`` holds Legendre polynomials of the cosines
between all neighbors of an atom and ``R (m degrees, n, w)`` the radial functions, so everything is a batched product.
With ``h_l = R_l V_l`` and ``y_l = h_l x``,

    T_e = sum_lf P_l,fe y_l,f,

and with ``E(D; x, V, R, P) = <D, T>`` :func:`backward` gives the gradient of E by x, V, R and P and
:func:`second_backward` the gradient of ``S = <x', dE/dx> + <V', dE/dV> + <R', dE/dR> + <P', dE/dP>``, which is the
derivative of E along (x', V', R', P'): ``<D, T'>`` with ``h' = R' V + R V'``, ``y' = h' x + h x'`` and
``T' = P'^T y + P^T y'``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..typing import Int, Tensor
from .neighborhood import Layout


class Slots(NamedTuple):
    """Where messages come from and go to.

    Attributes:
        layout: the neighbors of each atom j, in blocks.
        pair: the pair ``k -> j`` in each slot; of an empty slot any.
        target: the reverse of it, ``j -> k``, to which belongs what is summed at the slot.
        back: the slot of the reverse of each pair.
    """

    layout: Layout
    pair: Int[Tensor, " slots"]
    target: Int[Tensor, " slots"]
    back: Int[Tensor, " pairs"]


def blocks(flat: Tensor | None, layout: Layout, rows: int) -> list[Tensor]:
    """Views ``(m, rows, w)`` of blocks that lie one after the other; none of None."""
    if flat is None:
        return []
    return [
        flat[rows * slot : rows * (slot + (stop - start) * width)].view(stop - start, rows, width)
        for start, stop, slot, width in layout.blocks
    ]


def squares(flat: Tensor | None, layout: Layout, rows: int) -> list[Tensor]:
    """Views ``(m, rows w, w)`` of blocks that lie one after the other; none of None."""
    if flat is None:
        return []
    sizes = [rows * (stop - start) * width * width for start, stop, _, width in layout.blocks]
    parts = zip(flat.split(sizes), layout.blocks, strict=True)
    return [part.view(stop - start, rows * width, width) for part, (start, stop, _, width) in parts]


def arrange(values: Tensor, layout: Layout) -> Tensor:
    """From ``(rows, slots)`` to blocks ``(m, rows, w)``, one after the other."""
    flat = values.new_empty(values.numel())
    for (start, stop, slot, width), block in zip(layout.blocks, blocks(flat, layout, len(values)), strict=True):
        part = values[:, slot : slot + (stop - start) * width]
        block.copy_(part.view(-1, stop - start, width).transpose(0, 1))
    return flat


def restore(flat: Tensor, layout: Layout, rows: int) -> Tensor:
    """The inverse of :func:`arrange`."""
    values = flat.new_empty(rows, flat.numel() // rows)
    for (start, stop, slot, width), block in zip(layout.blocks, blocks(flat, layout, rows), strict=True):
        values[:, slot : slot + (stop - start) * width].view(-1, stop - start, width).copy_(block.transpose(0, 1))
    return values


class _Weights:
    """``V (degrees, n, channels)`` once for each atom of the largest block: what a batched product takes."""

    def __init__(self, weights: Tensor, layout: Layout) -> None:
        self.degrees, self.n, self.channels = weights.shape
        most = max(stop - start for start, stop, _, _ in layout.blocks)
        self.all = weights.expand(most, *weights.shape).reshape(-1, self.n, self.channels)

    def radial(self, flat: Tensor | None, layout: Layout) -> list[Tensor]:
        """``R`` of each block, ``(m degrees, n, w)``."""
        return [b.view(-1, self.n, b.shape[2]) for b in blocks(flat, layout, self.degrees * self.n)]

    def filters(self, radial: Tensor) -> Tensor:
        """``h``, ``(m, degrees, w, channels)``."""
        made = torch.bmm(radial.transpose(1, 2), self.all[: len(radial)])
        return made.view(-1, self.degrees, radial.shape[2], self.channels)

    def own(self, radial: Tensor, d_filters: Tensor) -> Tensor:
        """``dE/dV``."""
        return torch.bmm(radial, d_filters).view(-1, self.degrees, self.n, self.channels).sum(0)


def forward(x: Tensor, weights: Tensor, radial: Tensor, angles: Tensor, slots: Slots) -> Tensor:
    """``T`` at the pairs, ``(pairs, channels)``."""
    layout, v = slots.layout, _Weights(weights, slots.layout)
    out = x.new_empty(len(slots.pair), v.channels)
    rs, ps = v.radial(radial, layout), squares(angles, layout, v.degrees)
    for (start, stop, slot, width), r, p in zip(layout.blocks, rs, ps, strict=True):
        m, here = stop - start, slice(slot, slot + (stop - start) * width)
        mine = x.index_select(0, slots.pair[here]).view(m, 1, width, -1)
        y = v.filters(r).mul_(mine).flatten(1, 2)
        torch.bmm(p.transpose(1, 2), y, out=out[here].view(m, width, -1))
    return out.index_select(0, slots.back)


def backward(
    grad: Tensor,
    x: Tensor,
    weights: Tensor,
    radial: Tensor,
    angles: Tensor,
    slots: Slots,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """dE/dx, dE/dV, dE/dR and dE/dP; those wanted of them (R and P both or neither)."""
    layout, v, to_geometry = slots.layout, _Weights(weights, slots.layout), any(wanted[2:])
    d_x = x.new_empty(len(slots.pair), v.channels)
    d_weights = torch.zeros_like(weights) if wanted[1] else None
    d_radial, d_angles = (torch.empty_like(radial), torch.empty_like(angles)) if to_geometry else (None, None)
    rs, ps = v.radial(radial, layout), squares(angles, layout, v.degrees)
    d_rs, d_ps = v.radial(d_radial, layout), squares(d_angles, layout, v.degrees)
    for k, (start, stop, slot, width) in enumerate(layout.blocks):
        m, here, r, p = stop - start, slice(slot, slot + (stop - start) * width), rs[k], ps[k]
        d_t = grad.index_select(0, slots.target[here]).view(m, width, -1)
        mine = x.index_select(0, slots.pair[here]).view(m, 1, width, -1)
        h = v.filters(r)
        d_y = torch.bmm(p, d_t).view(h.shape)
        if d_angles is not None:
            torch.bmm((h * mine).flatten(1, 2), d_t.transpose(1, 2), out=d_ps[k])
        torch.sum(h.mul_(d_y), 1, out=d_x[here].view(m, width, -1))
        if wanted[1] or to_geometry:
            d_h = d_y.mul_(mine).flatten(0, 1)
            if d_weights is not None:
                d_weights += v.own(r, d_h)
            if d_radial is not None:
                torch.bmm(v.all[: len(d_h)], d_h.transpose(1, 2), out=d_rs[k])
    return d_x.index_select(0, layout.place) if wanted[0] else None, d_weights, d_radial, d_angles


def second_backward(
    cotangents: Sequence[Tensor | None],
    grad: Tensor,
    x: Tensor,
    weights: Tensor,
    radial: Tensor,
    angles: Tensor,
    slots: Slots,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """dS/dD, dS/dx, dS/dV, dS/dR and dS/dP; those wanted of them (R and P both or neither)."""
    layout, v = slots.layout, _Weights(weights, slots.layout)
    along = [torch.zeros_like(t) if c is None else c.contiguous() for c, t in zip(
        cotangents, (x, weights, radial, angles), strict=True)]  # fmt: skip
    turned = _Weights(along[1], layout) if cotangents[1] is not None else None
    d_grad, d_x = (x.new_empty(len(slots.pair), v.channels) for _ in range(2))
    d_weights = torch.zeros_like(weights)
    d_radial, d_angles = (torch.empty_like(radial), torch.empty_like(angles)) if any(wanted[3:]) else (None, None)
    rs, rs1, d_rs = (v.radial(t, layout) for t in (radial, along[2], d_radial))
    ps, ps1, d_ps = (squares(t, layout, v.degrees) for t in (angles, along[3], d_angles))
    for k, (start, stop, slot, width) in enumerate(layout.blocks):
        m, here = stop - start, slice(slot, slot + (stop - start) * width)
        r, r1, p, p1 = rs[k], rs1[k], ps[k], ps1[k]
        d_t = grad.index_select(0, slots.target[here]).view(m, width, -1)
        mine, mine1 = (t.index_select(0, slots.pair[here]).view(m, 1, width, -1) for t in (x, along[0]))
        h, h1 = v.filters(r), v.filters(r1)
        if turned is not None:
            h1 += turned.filters(r)
        y, y1 = (h * mine).flatten(1, 2), (h1 * mine).addcmul_(h, mine1).flatten(1, 2)
        t1 = torch.bmm(p.transpose(1, 2), y1, out=d_grad[here].view(m, width, -1))
        t1.baddbmm_(p1.transpose(1, 2), y)
        if d_angles is not None:
            torch.bmm(y1, d_t.transpose(1, 2), out=d_ps[k])
        d_y, d_y1 = torch.bmm(p1, d_t).view(h.shape), torch.bmm(p, d_t).view(h.shape)
        torch.sum(h1.mul_(d_y1).addcmul_(h, d_y), 1, out=d_x[here].view(m, width, -1))
        d_h = d_y.mul_(mine).addcmul_(d_y1, mine1).flatten(0, 1)
        d_h1 = d_y1.mul_(mine).flatten(0, 1)
        d_weights += v.own(r, d_h) + v.own(r1, d_h1)
        if d_radial is not None:
            torch.bmm(v.all[: len(d_h)], d_h.transpose(1, 2), out=d_rs[k])
            if turned is not None:
                d_rs[k].baddbmm_(turned.all[: len(d_h1)], d_h1.transpose(1, 2))
    found = d_grad.index_select(0, slots.back), d_x.index_select(0, layout.place), d_weights
    return *(t if w else None for t, w in zip(found, wanted[:3], strict=True)), d_radial, d_angles
