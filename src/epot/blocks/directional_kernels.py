"""Directional sums and their first and second gradients, a block of atoms at a time.

For a block of m atoms with w slots for neighbors, ``C (m, degrees rows, w)`` holds the harmonics, ``rows = 2 l_max + 1``
for each degree of which the last are empty for low ones, and ``R (m, degrees n, w)`` the radial functions: both can be
seen as one matrix for each atom or for each atom and degree, so everything is a batched product. With ``h_l = R_l V_l``,

    y_l = h_l x,    A_l = C_l y_l,    T = C^T A - sum_l y_l,

and with ``E(D; x, V, R, C) = <D, T>`` :func:`backward` gives the gradient of E by x, V, R and C and
:func:`second_backward` the gradient of ``S = <x', dE/dx> + <V', dE/dV> + <R', dE/dR> + <C', dE/dC>``, which is the
derivative of E along (x', V', R', C'): ``<D, T'>`` with

    h' = R' V + R V',    y' = h' x + h x',    A' = C' y + C y',    T' = C'^T A + C^T A' - sum_l y'.
"""

from __future__ import annotations

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


def arrange(values: Tensor, layout: Layout) -> Tensor:
    """From ``(rows, slots)`` to blocks ``(m, rows, w)``, one after the other."""
    flat = values.new_empty(values.numel())
    for (start, stop, slot, width), block in zip(layout.blocks, _blocks(flat, layout, len(values)), strict=True):
        part = values[:, slot : slot + (stop - start) * width]
        block.copy_(part.view(-1, stop - start, width).transpose(0, 1))
    return flat


def restore(flat: Tensor, layout: Layout, rows: int) -> Tensor:
    """The inverse of :func:`arrange`."""
    values = flat.new_empty(rows, flat.numel() // rows)
    for (start, stop, slot, width), block in zip(layout.blocks, _blocks(flat, layout, rows), strict=True):
        values[:, slot : slot + (stop - start) * width].view(-1, stop - start, width).copy_(block.transpose(0, 1))
    return values


def _blocks(flat: Tensor, layout: Layout, rows: int) -> list[Tensor]:
    """Views ``(m, rows, w)``."""
    return [
        flat[rows * slot : rows * (slot + (stop - start) * width)].view(stop - start, rows, width)
        for start, stop, slot, width in layout.blocks
    ]


class _Weights:
    """``V (degrees, n, channels)`` once for each atom of the largest block: what a batched product takes."""

    def __init__(self, weights: Tensor, layout: Layout) -> None:
        self.degrees, self.n, self.channels = weights.shape
        most = max(stop - start for start, stop, _, _ in layout.blocks)
        self.all = weights.expand(most, *weights.shape).reshape(-1, self.n, self.channels)

    def filters(self, radial: Tensor) -> Tensor:
        """``h``, ``(m degrees, w, channels)``."""
        return torch.bmm(radial.transpose(1, 2), self.all[: len(radial)])

    def back(self, d_filters: Tensor) -> Tensor:
        """``dE/dR``, ``(m degrees, n, w)``."""
        return torch.bmm(self.all[: len(d_filters)], d_filters.transpose(1, 2))

    def own(self, radial: Tensor, d_filters: Tensor) -> Tensor:
        """``dE/dV``."""
        return torch.bmm(radial, d_filters).view(-1, self.degrees, self.n, self.channels).sum(0)


def _views(flat: Tensor | None, layout: Layout, degrees: int) -> list[tuple[Tensor, Tensor]]:
    """Each block for each atom and for each atom and degree."""
    if flat is None:
        return []
    n_slots = len(layout.senders)
    rows = flat.numel() // max(n_slots, 1)
    return [(b, b.view(-1, rows // degrees, b.shape[2])) for b in _blocks(flat, layout, rows)]


def forward(x: Tensor, weights: Tensor, radial: Tensor, harmonics: Tensor, slots: Slots) -> Tensor:
    """``T`` at the pairs, ``(pairs, channels)``."""
    v = _Weights(weights, slots.layout)
    out = x.new_empty(len(slots.pair), v.channels)
    parts = zip(
        slots.layout.blocks,
        _views(radial, slots.layout, v.degrees),
        _views(harmonics, slots.layout, v.degrees),
        strict=True,
    )
    for (start, stop, slot, width), (_, r), (c, c_l) in parts:
        m, here = stop - start, slice(slot, slot + (stop - start) * width)
        mine = x.index_select(0, slots.pair[here]).view(m, 1, width, -1)
        y = v.filters(r).view(m, -1, width, v.channels).mul_(mine)
        sums = torch.bmm(c_l, y.flatten(0, 1)).view(m, -1, v.channels)
        t = out[here].view(m, width, -1)
        torch.sum(y, 1, out=t)
        t.baddbmm_(c.transpose(1, 2), sums, beta=-1)
    return out.index_select(0, slots.back)


def backward(
    grad: Tensor,
    x: Tensor,
    weights: Tensor,
    radial: Tensor,
    harmonics: Tensor,
    slots: Slots,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """dE/dx, dE/dV, dE/dR and dE/dC; those wanted of x, V and the geometry (both R and C)."""
    layout, v = slots.layout, _Weights(weights, slots.layout)
    d_x = x.new_empty(len(slots.pair), v.channels)
    d_weights = torch.zeros_like(weights) if wanted[1] else None
    d_radial, d_harmonics = (torch.empty_like(radial), torch.empty_like(harmonics)) if wanted[2] else (None, None)
    rs, cs = _views(radial, layout, v.degrees), _views(harmonics, layout, v.degrees)
    d_rs, d_cs = _views(d_radial, layout, v.degrees), _views(d_harmonics, layout, v.degrees)
    for k, (start, stop, slot, width) in enumerate(layout.blocks):
        m, here = stop - start, slice(slot, slot + (stop - start) * width)
        (_, r), (c, c_l) = rs[k], cs[k]
        shape = (m, v.degrees, width, v.channels)
        d_t = grad.index_select(0, slots.target[here]).view(m, width, -1)
        h = v.filters(r).view(shape)
        mine = x.index_select(0, slots.pair[here]).view(m, 1, width, -1)
        d_sums = torch.bmm(c, d_t)
        d_sums_l = d_sums.view(m * v.degrees, -1, v.channels)
        d_y = torch.bmm(c_l.transpose(1, 2), d_sums_l).view(shape).sub_(d_t.unsqueeze(1))
        if d_harmonics is not None:
            y = (h * mine).flatten(0, 1)
            sums = torch.bmm(c_l, y).view(m, -1, v.channels)
            torch.bmm(sums, d_t.transpose(1, 2), out=d_cs[k][0])
            d_cs[k][1].baddbmm_(d_sums_l, y.transpose(1, 2))
        if wanted[0]:
            torch.sum(h.mul_(d_y), 1, out=d_x[here].view(m, width, -1))
        if d_radial is not None or d_weights is not None:
            d_h = d_y.mul_(mine).flatten(0, 1)
            if d_radial is not None:
                torch.bmm(v.all[: len(d_h)], d_h.transpose(1, 2), out=d_rs[k][1])
            if d_weights is not None:
                d_weights += v.own(r, d_h)
    return d_x.index_select(0, layout.place) if wanted[0] else None, d_weights, d_radial, d_harmonics


def second_backward(
    cotangents: tuple[Tensor | None, ...],
    grad: Tensor,
    x: Tensor,
    weights: Tensor,
    radial: Tensor,
    harmonics: Tensor,
    slots: Slots,
    wanted: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """dS/dD, dS/dx, dS/dV, dS/dR and dS/dC; those wanted of D, x, V and the geometry (both R and C)."""
    layout, v = slots.layout, _Weights(weights, slots.layout)
    along = [torch.zeros_like(t) if c is None else c.contiguous() for c, t in zip(
        cotangents, (x, weights, radial, harmonics), strict=True)]  # fmt: skip
    turned = _Weights(along[1], layout) if cotangents[1] is not None else None
    d_grad, d_x = (x.new_empty(len(slots.pair), v.channels) for _ in range(2))
    d_weights = torch.zeros_like(weights)
    d_radial, d_harmonics = (torch.empty_like(radial), torch.empty_like(harmonics)) if wanted[3] else (None, None)
    rs, cs, rs1, cs1, d_rs, d_cs = (
        _views(t, layout, v.degrees) for t in (radial, harmonics, along[2], along[3], d_radial, d_harmonics)
    )
    for k, (start, stop, slot, width) in enumerate(layout.blocks):
        m, here = stop - start, slice(slot, slot + (stop - start) * width)
        (_, r), (c, c_l), (_, r1), (c1, c1_l) = rs[k], cs[k], rs1[k], cs1[k]
        shape, flat = (m, v.degrees, width, v.channels), (m * v.degrees, -1, v.channels)
        d_t = grad.index_select(0, slots.target[here]).view(m, width, -1)
        mine, mine1 = (t.index_select(0, slots.pair[here]).view(m, 1, width, -1) for t in (x, along[0]))
        h, h1 = v.filters(r).view(shape), v.filters(r1).view(shape)
        if turned is not None:
            h1 += turned.filters(r).view(shape)
        y = (h * mine).view(flat)
        y1 = (h1 * mine).addcmul_(h, mine1)
        sums = torch.bmm(c_l, y)
        sums1 = torch.bmm(c1_l, y).baddbmm_(c_l, y1.view(flat))
        t1 = d_grad[here].view(m, width, -1)
        torch.sum(y1, 1, out=t1)
        t1.baddbmm_(c.transpose(1, 2), sums1.view(m, -1, v.channels), beta=-1)
        t1.baddbmm_(c1.transpose(1, 2), sums.view(m, -1, v.channels))
        e, e1 = torch.bmm(c, d_t).view(flat), torch.bmm(c1, d_t).view(flat)
        d_y = torch.bmm(c1_l.transpose(1, 2), e).baddbmm_(c_l.transpose(1, 2), e1).view(shape)
        d_y1 = torch.bmm(c_l.transpose(1, 2), e).view(shape).sub_(d_t.unsqueeze(1))
        if d_harmonics is not None:
            torch.bmm(sums1.view(m, -1, v.channels), d_t.transpose(1, 2), out=d_cs[k][0])
            d_cs[k][1].baddbmm_(e, y1.view(flat).transpose(1, 2)).baddbmm_(e1, y.transpose(1, 2))
        torch.sum(h1.mul_(d_y1).addcmul_(h, d_y), 1, out=d_x[here].view(m, width, -1))
        d_h = (d_y.mul_(mine).addcmul_(d_y1, mine1)).view(flat)
        d_h1 = d_y1.mul_(mine).view(flat)
        d_weights += v.own(r, d_h) + v.own(r1, d_h1)
        if d_radial is not None:
            torch.bmm(v.all[: len(d_h)], d_h.transpose(1, 2), out=d_rs[k][1])
            if turned is not None:
                d_rs[k][1].baddbmm_(turned.all[: len(d_h1)], d_h1.transpose(1, 2))
    found = d_grad.index_select(0, slots.back), d_x.index_select(0, layout.place), d_weights
    return *(t if w else None for t, w in zip(found, wanted[:3], strict=True)), d_radial, d_harmonics
