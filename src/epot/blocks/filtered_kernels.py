"""Filtered messages and their first and second gradients, a block of pairs at a time.

With ``E(D; T, B, u, w) = sum_i D_i . M(T, B, u, w)_i`` for the operator M of :mod:`epot.blocks.filtered_messages`,
:func:`backward` gives dE/dT, dE/dw, dE/dB and dE/du, and :func:`second_backward` the gradient of

    S = <X, dE/dT> + <V, dE/dw> + <Y, dE/dB> + <Z, dE/du>,

which is the derivative of E along (X, V, Y, Z): per pair, with ``dW = Y w + B V``, ``g = T_j``, ``x = X_j``,

    D^q (W^q x^q + dW^q g^q) + D^mu . [u (W^R x^R + dW^R g^R) + Z W^R g^R + W^mu x^mu + dW^mu g^mu].

Everything is written into room that outlives a call. Tables are ``[R | q | x | y | z]``, filters ``[R | q | mu]``,
results and their gradients ``[q | x | y | z]``, each block F channels.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from ..typing import Tensor
from .neighborhood import Layout


class _Scratch(threading.local):
    """Room for one block that outlives a call: fresh memory costs more, page by page, than what is done with it."""

    def __init__(self) -> None:
        self.room: dict[torch.dtype, Tensor] = {}

    def take(self, like: Tensor, slots: int, *channels: int) -> list[Tensor]:
        """Tensors ``(slots, c)`` for each of ``channels``; what was there before is overwritten."""
        if like.device.type != "cpu":
            return [like.new_empty(slots, c) for c in channels]
        room = self.room.get(like.dtype)
        if room is None or room.numel() < slots * sum(channels):
            room = self.room[like.dtype] = like.new_empty(slots * sum(channels))
        parts = room[: slots * sum(channels)].split([slots * c for c in channels])
        return [part.view(slots, c) for part, c in zip(parts, channels, strict=True)]


_scratch = _Scratch()


def _room(layout: Layout) -> int:
    """Slots of the largest block."""
    return max(((stop - start) * width for start, stop, _, width in layout.blocks), default=0)


def forward(table: Tensor, weight: Tensor, basis: Tensor, directions: Tensor, layout: Layout) -> Tensor:
    """M(T), ``(atoms, 4 F)``."""
    f = table.shape[1] // 5
    filters, taken = _scratch.take(table, _room(layout), 3 * f, 5 * f)
    out = table.new_empty(table.shape[0], 4 * f)
    for start, stop, slot, width in layout.blocks:
        m, p = stop - start, (stop - start) * width
        slots = slice(slot, slot + p)
        w = torch.mm(basis[slots], weight, out=filters[:p])
        x = torch.index_select(table, 0, layout.senders[slots], out=taken[:p])
        x[:, : 2 * f].mul_(w[:, : 2 * f])
        x[:, 2 * f :].view(p, 3, f).mul_(w[:, None, 2 * f :])
        x = x.view(m, width, 5 * f)
        sums = x[:, :, f:].sum(1)
        sums[:, f:] += torch.bmm(directions[slots].view(m, width, 3).transpose(1, 2), x[:, :, :f]).view(m, 3 * f)
        out.index_copy_(0, layout.rows[start:stop], sums)
    return out


def backward(
    grad: Tensor,
    table: Tensor,
    weight: Tensor,
    basis: Tensor,
    directions: Tensor,
    layout: Layout,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """dE/dT, dE/dw, dE/dB and dE/du; those wanted of them (B and u both or neither)."""
    f, k = table.shape[1] // 5, basis.shape[1]
    filters, taken, spare = _scratch.take(table, _room(layout), 3 * f, 5 * f, 3 * f)
    to_table, to_weight, to_geometry = wanted[0], wanted[1], any(wanted[2:])
    d_table = torch.empty_like(table) if to_table else None
    d_weight = torch.zeros_like(weight) if to_weight else None
    d_basis, back = _wide(basis, weight) if to_geometry else (None, weight)
    d_directions = torch.empty_like(directions) if to_geometry else None
    for start, stop, slot, width in layout.blocks:
        m, p = stop - start, (stop - start) * width
        slots = slice(slot, slot + p)
        senders, rows = layout.senders[slots], layout.rows[start:stop]
        u = directions[slots].view(m, width, 3)
        w = torch.mm(basis[slots], weight, out=filters[:p])
        if d_table is not None:
            h = torch.index_select(grad, 0, senders, out=taken.view(-1)[: p * 4 * f].view(p, 4 * f))
            d_table.index_copy_(0, rows, _transposed(h, w, u, spare[:p]))
        if to_geometry or to_weight:
            g = torch.index_select(table, 0, senders, out=taken[:p]).view(m, width, 5 * f)
            part = spare.view(-1)[: p * f].view(m, width, f)
            d_out = grad.index_select(0, rows)
            d_mu = d_out[:, f:].reshape(m, 3, f)
            w3 = w.view(m, width, 3 * f)
            if d_directions is not None:
                torch.mul(g[:, :, :f], w3[:, :, :f], out=part)
                torch.bmm(part, d_mu.transpose(1, 2), out=d_directions[slots].view(m, width, 3))
            _outer(g, d_out, torch.bmm(u, d_mu, out=part), w3)
            if d_basis is not None:
                torch.mm(w, back, out=d_basis[slots])
            if d_weight is not None:
                d_weight.addmm_(basis[slots].T, w)
    return d_table, d_weight, None if d_basis is None else d_basis[:, :k], d_directions


def second_backward(
    cotangents: Sequence[Tensor | None],
    grad: Tensor,
    table: Tensor,
    weight: Tensor,
    basis: Tensor,
    directions: Tensor,
    layout: Layout,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """dS/dD, dS/dT, dS/dw, dS/dB and dS/du; those wanted of them (B and u both or neither)."""
    f = table.shape[1] // 5
    along = [torch.zeros_like(t) if c is None else c.contiguous() for c, t in zip(
        cotangents, (table, weight, basis, directions), strict=True)]  # fmt: skip
    turned = cotangents[1] is not None
    rooms = _scratch.take(table, _room(layout), 3 * f, 3 * f, 5 * f, 5 * f, 5 * f, f, f)
    d_grad = torch.empty_like(grad)
    d_table = torch.zeros_like(table) if wanted[1] else None
    d_weight = torch.zeros_like(weight) if wanted[2] else None
    d_basis, d_directions = (torch.empty_like(basis), torch.empty_like(directions)) if any(wanted[3:]) else (None, None)
    for start, stop, slot, width in layout.blocks:
        m, p = stop - start, (stop - start) * width
        slots = slice(slot, slot + p)
        senders, rows = layout.senders[slots], layout.rows[start:stop]
        w, dw, g, x, t, along_u, along_z = (room[:p] for room in rooms)
        b, y = basis[slots], along[2][slots]
        u, z = directions[slots].view(m, width, 3), along[3][slots].view(m, width, 3)
        torch.mm(b, weight, out=w)
        torch.mm(y, weight, out=dw)
        if turned:
            dw.addmm_(b, along[1])
        torch.index_select(table, 0, senders, out=g)
        torch.index_select(along[0], 0, senders, out=x)
        shaped = [v.view(m, width, -1) for v in (w, dw, g, x, t, along_u, along_z)]
        w3, dw3, g3, x3, t3, u3, z3 = shaped
        d_out = grad.index_select(0, rows)
        d_mu = d_out[:, f:].reshape(m, 3, f)
        torch.bmm(u, d_mu, out=u3)
        torch.bmm(z, d_mu, out=z3)
        d_grad.index_copy_(0, rows, _second_result(shaped, u, z))
        if d_directions is not None:  # left behind by _second_result: W^R x^R + dW^R g^R
            torch.bmm(t3[:, :, :f], d_mu.transpose(1, 2), out=d_directions[slots].view(m, width, 3))
        if d_table is not None:
            _second_table(shaped, d_out)
            d_table.index_add_(0, senders, t)
        if d_weight is not None or d_basis is not None:
            _outer(x3, d_out, u3, w3)  # W is not needed any more: dS/dW in its place,
            w3[:, :, :f].addcmul_(g3[:, :, :f], z3)
            _outer(g3, d_out, u3, dw3)  # and dS/d(dW) in that of dW
        if d_weight is not None:
            d_weight.addmm_(b.T, w).addmm_(y.T, dw)
        if d_basis is not None:
            torch.mm(w, weight.T, out=d_basis[slots])
            if turned:
                d_basis[slots].addmm_(dw, along[1].T)
    return d_grad if wanted[0] else None, d_table, d_weight, d_basis, d_directions


def _wide(basis: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Room for dE/dB and ``w^T``, of K rounded up to a multiple of the vector length, which is faster."""
    slots, k = basis.shape
    wide = -(-k // 8) * 8
    return basis.new_empty(slots, wide), torch.nn.functional.pad(weight, (0, 0, 0, wide - k)).T


def _transposed(h: Tensor, w: Tensor, u: Tensor, spare: Tensor) -> Tensor:
    """dE/dT of a block from the gradients at the senders, ``h``, which are overwritten."""
    m, n_slots, _ = u.shape
    f = w.shape[1] // 3
    vectors = h[:, f:].view(-1, 3, f)
    along = torch.mul(vectors, w[:, None, :f], out=spare.view(-1, 3, f))
    scalars = torch.bmm(u.reshape(m, 1, -1), along.view(m, 3 * n_slots, f)).view(m, f).neg_()
    h[:, :f].mul_(w[:, f : 2 * f])
    vectors.mul_(w[:, None, 2 * f :])
    return torch.cat([scalars, h.view(m, n_slots, 4 * f).sum(1)], 1)


def _outer(g: Tensor, grad: Tensor, along: Tensor, out: Tensor) -> None:
    """What multiplies the filters in E: ``[g^R (u . D^mu) | g^q D^q | g^mu . D^mu]``."""
    f = along.shape[2]
    g_r, g_q, x, y, z = g.split(f, -1)
    d_q, d_x, d_y, d_z = grad.unsqueeze(1).split(f, -1)
    torch.mul(g_r, along, out=out[:, :, :f])
    torch.mul(g_q, d_q, out=out[:, :, f : 2 * f])
    torch.mul(x, d_x, out=out[:, :, 2 * f :]).addcmul_(y, d_y).addcmul_(z, d_z)


def _second_result(shaped: list[Tensor], u: Tensor, z: Tensor) -> Tensor:
    """dS/dD of a block; leaves ``W^R x^R + dW^R g^R`` in the first block of the spare table."""
    w, dw, g, x, t, _, _ = shaped
    m, f = u.shape[0], w.shape[2] // 3
    torch.mul(x[:, :, : 2 * f], w[:, :, : 2 * f], out=t[:, :, : 2 * f])
    t[:, :, : 2 * f].addcmul_(g[:, :, : 2 * f], dw[:, :, : 2 * f])
    apart = lambda v: v[:, :, 2 * f :].unflatten(-1, (3, f))  # noqa: E731
    torch.mul(apart(x), w[:, :, None, 2 * f :], out=apart(t))
    apart(t).addcmul_(apart(g), dw[:, :, None, 2 * f :])
    out = t[:, :, f:].sum(1)
    vectors = torch.bmm(u.transpose(1, 2), t[:, :, :f])
    vectors.baddbmm_(z.transpose(1, 2), g[:, :, :f] * w[:, :, :f])
    out[:, f:] += vectors.view(m, 3 * f)
    return out


def _second_table(shaped: list[Tensor], grad: Tensor) -> None:
    """dS/dT of each pair, in the spare table."""
    w, dw, _, _, t, along_u, along_z = shaped
    f = along_u.shape[2]
    torch.mul(dw[:, :, :f], along_u, out=t[:, :, :f]).addcmul_(w[:, :, :f], along_z)
    torch.mul(dw[:, :, f : 2 * f], grad[:, None, :f], out=t[:, :, f : 2 * f])
    d_mu = grad[:, None, f:].unflatten(-1, (3, f))
    torch.mul(dw[:, :, None, 2 * f :], d_mu, out=t[:, :, 2 * f :].unflatten(-1, (3, f)))
