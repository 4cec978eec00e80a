"""Steps on atoms for forces alone: one function each, differentiated once and by geometry only.

A loss on forces needs second derivatives and the weights' gradients, which autograd makes of ordinary operations
(:class:`epot.models.painn.Message`, :class:`~epot.models.painn.Update`, :class:`epot.models.schnet.Interaction`).
Molecular dynamics needs neither, and there small systems spend most of their time on starting small operations. These
are the same formulas with few of them. Weights are constants here. Equation numbers of PaiNN's are those of
arXiv:2102.03150.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ..typing import Float, Int, Tensor
from . import scalar_messages as messages
from .scalar_messages import Filters

LN2 = math.log(2)
_silu_backward = torch.ops.aten.silu_backward


def message_table(
    q: Float[Tensor, "atoms F"], mu: Float[Tensor, "atoms 3 F"], phi: Sequence[Tensor]
) -> Float[Tensor, "atoms five_F"]:
    """What each atom sends (Eqs. 7 and 8), ``[phi_R | phi_q | phi_mu * mu]``.

    Args:
        q: scalars.
        mu: vectors.
        phi: weight and bias of the two layers of phi.
    """
    return _Table.apply(q, mu, *(t.detach() for t in phi))


def update(
    q: Float[Tensor, "atoms F"],
    mu: Float[Tensor, "atoms 3 F"],
    weights: Sequence[Tensor],
    epsilon: float,
    vectors: bool,
) -> tuple[Tensor, Tensor]:
    """New q and, if ``vectors``, mu, else the old one (Eqs. 9 and 10).

    Args:
        q: scalars.
        mu: vectors.
        weights: of ``V, U``; weight and bias of the hidden layer, of ``a_q, a_qmu`` and of ``a_mu``.
        epsilon: inside the norm of V.
        vectors: whether mu is wanted.
    """
    new_q, new_mu = _Update.apply(q, mu, epsilon, vectors, *(t.detach() for t in weights))
    return new_q, mu if new_mu is None else new_mu


class Layer(NamedTuple):
    """An interaction of SchNet, all constant and without history.

    Attributes:
        table: the filters as splines.
        project: of what is sent, ``(G, F)``.
        update: weight and bias of the two layers of v.
    """

    table: Tensor
    project: Tensor
    update: Sequence[Tensor]


def curve_interactions(
    x: Float[Tensor, "atoms F"],
    curves: Float[Tensor, "elements rows G"],
    kinds: Int[Tensor, " atoms"],
    layers: Sequence[Layer],
    filters: Filters,
) -> Float[Tensor, "atoms F"]:
    """``x_i + v(sum_j W(r_ij) * (W_in x_j))`` of all interactions of SchNet, a function of the distances alone.

    Args:
        x: features that each atom starts with.
        curves, kinds: of the messages of the first layer (:func:`~epot.blocks.scalar_messages.element_messages`).
        layers: all of them; of the first only ``update`` is used.
        filters: the geometry.
    """
    index = messages.curve_index(curves, kinds, filters)
    sums = _Curves(filters, curves.flatten(0, 1), index)
    return _Scalars.apply(filters.distances, x.detach(), list(layers), sums)


class _Curves(NamedTuple):
    """Messages of SchNet's layers and their gradients; messages of the first layer are curves."""

    filters: Filters
    curves: Tensor
    places: Tensor

    def sum(self, k: int, x: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        if k == 0:
            found = messages.curve_sum(self.curves, self.filters, self.places, self.filters.taps.weights(0))
            return found, self.curves
        y = x.mm(layer.project.t())
        return messages.message_sum(y, layer.table, self.filters), y

    def gradient(self, k: int, grad: Tensor, y: Tensor, layer: Layer) -> tuple[Tensor | None, Tensor | None]:
        if k == 0:
            return None, messages.curve_dot(grad, y, self.filters, self.places, self.filters.taps.weights(1))
        d_y = messages.message_sum(grad, layer.table, self.filters)
        _, _, slopes = messages.gradient(grad, y, layer.table, self.filters, (False, False, True))
        return d_y, slopes


class _Scalars(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, x: Tensor, layers: list[Layer], sums: _Curves) -> Tensor:
        kept = []
        for k, layer in enumerate(layers):
            m, y = sums.sum(k, x, layer)
            w1, b1, w2, b2 = layer.update
            h = torch.addmm(b1, m, w1.t())
            kept.append((y, h))
            x = torch.addmm(b2, torch.nn.functional.softplus(h).sub_(LN2), w2.t()).add_(x)
        ctx.made = kept, layers, sums
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, layers, sums = ctx.made
        d_r: Tensor | None = None
        for k, layer in reversed(list(enumerate(layers))):
            y, h = kept[k]
            w1, _, w2, _ = layer.update
            d_y, slopes = sums.gradient(k, grad.mm(w2).mul_(h.sigmoid()).mm(w1), y, layer)
            if d_y is not None:
                grad = torch.addmm(grad, d_y, layer.project)
            assert slopes is not None  # noqa: S101  (they are always wanted)
            d_r = slopes if d_r is None else d_r.add_(slopes)
        return d_r, None, None, None


class _Table(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, mu: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        n, f = q.shape
        h = torch.addmm(b1, q, w1.t())
        p = torch.addmm(b2, torch.nn.functional.silu(h), w2.t())
        table = q.new_empty(n, 5 * f)
        table[:, : 2 * f] = p[:, : 2 * f]
        torch.mul(p[:, None, 2 * f :], mu, out=table[:, 2 * f :].view(n, 3, f))
        ctx.save_for_backward(h, p, mu, w1, w2)
        return table

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, p, mu, w1, w2 = ctx.saved_tensors
        n, f = mu.shape[0], mu.shape[2]
        along = grad[:, 2 * f :].view(n, 3, f)
        d_p = torch.cat([grad[:, : 2 * f], (along * mu).sum(1)], 1)
        d_q = _silu_backward(d_p.mm(w2), h).mm(w1)
        return d_q, along * p[:, None, 2 * f :], None, None, None, None


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, mu: Tensor, epsilon: float, vectors: bool,
        mix: Tensor, wh: Tensor, bh: Tensor, wa: Tensor, ba: Tensor, wm: Tensor, bm: Tensor,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        n, f = q.shape
        m = mu.view(3 * n, f).mm(mix.t()).view(n, 3, 2 * f)
        v, u = m[:, :, :f], m[:, :, f:]
        both = v * m.view(n, 3, 2, f).transpose(1, 2).transpose(0, 1)  # v v and v u
        norm, dot = both.sum(2).unbind(0)
        norm = norm.add_(epsilon).sqrt_()
        h = torch.addmm(bh, torch.cat([q, norm], 1), wh.t())
        hidden = torch.nn.functional.silu(h)
        a = torch.addmm(ba, hidden, wa.t())
        new_q = torch.addcmul(a[:, :f], a[:, f:], dot).add_(q)
        a_mu, new_mu = None, None
        if vectors:
            a_mu = torch.addmm(bm, hidden, wm.t()).unsqueeze(1)
            new_mu = torch.addcmul(mu, a_mu, u)
        ctx.save_for_backward(m, norm, dot, h, a, a_mu, mix, wh, wa, wm)
        return new_q, new_mu

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_q: Tensor, d_mu: Tensor | None) -> tuple[Tensor | None, ...]:
        m, norm, dot, h, a, a_mu, mix, wh, wa, wm = ctx.saved_tensors
        n, f = norm.shape
        v, u = m[:, :, :f], m[:, :, f:]
        d_hidden = torch.cat([d_q, d_q * dot], 1).mm(wa)
        d_dot = (d_q * a[:, f:]).unsqueeze(1)
        d_m = torch.empty_like(m)
        d_v, d_u = d_m[:, :, :f], d_m[:, :, f:]
        torch.mul(v, d_dot, out=d_u)
        if a_mu is not None and d_mu is not None:
            d_hidden.addmm_((d_mu * u).sum(1), wm)
            d_u.addcmul_(a_mu, d_mu)
        d_in = _silu_backward(d_hidden, h).mm(wh)
        torch.mul(u, d_dot, out=d_v)
        d_v.addcmul_(v, d_in[:, f:].div_(norm).unsqueeze(1))
        back = d_m.view(3 * n, 2 * f)
        d_in_mu = back.mm(mix) if d_mu is None else torch.addmm(d_mu.reshape(3 * n, f), back, mix)
        return d_in[:, :f] + d_q, d_in_mu.view(n, 3, f), *(None,) * 9
