"""Messages of scalars through filters of the distance, ``m_i = sum_j W(r_ij) * y_j``, with hand-written derivatives.

Filters come as splines (:mod:`epot.blocks.filter_tables`): coefficients ``c`` of shape (rows, F), of which six times
``weights(0)`` make ``W_ij``, times ``weights(1)`` its derivative by the distance. Pairs are complete and sorted by
receiver, so sums over senders are sums of segments, and since ``W_ij = W_ji`` the transpose of the operator is the
operator. With ``E = sum_i D_i . m_i`` per pair

    dE/dr = D_i . (W' y_j),    dE/dy_i = sum_j W_ij D_j,    dE/dW_ij = D_i y_j,

and along a change (X of dE/dy, V of dE/dc, Z of dE/dr) what is differentiated again is, with ``U = Z W' + V``,

    S = D_i . (W X_j + U y_j).

Filters are made, used and dropped a few hundred pairs at a time, so they stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ..features.engine import wanted
from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor
from .filter_tables import TERMS, Taps, sums

BLOCK = 512  # pairs whose filters are made at a time


class Block(NamedTuple):
    """Receivers ``atoms`` with all their ``pairs``; ``starts`` is the first pair of each, counted from the first."""

    atoms: slice
    pairs: slice
    starts: Tensor


class Segments(NamedTuple):
    """The pairs of a graph in blocks of whole receivers.

    Attributes:
        receivers, senders: of each pair; receivers ascend.
        pointers: first pair of each receiver, and the number of pairs.
        blocks: about :data:`BLOCK` pairs each; all pairs in one where there is no cache to stay in.
        terms: ``0, 6, 12, ...``: where the terms of each pair start.
    """

    receivers: Int[Tensor, " pairs"]
    senders: Int[Tensor, " pairs"]
    pointers: Int[Tensor, " atoms_plus_one"]
    blocks: tuple[Block, ...]
    terms: Int[Tensor, " pairs"]


def segments(graph: Graph) -> Segments:
    """Those of a graph, made once for each."""
    return graph._once("segments", lambda: _segments(graph))


def _segments(graph: Graph) -> Segments:
    receivers, senders = graph.pairs
    pointers, device = graph.row_pointers(), graph.pairs.device
    size = BLOCK if device.type == "cpu" else max(graph.n_pairs, 1)
    cuts = torch.searchsorted(pointers, torch.arange(size, max(graph.n_pairs, size), size, device=device), right=True)
    ends = sorted({0, *(int(c) - 1 for c in cuts.tolist()), graph.n_atoms} - {-1})
    bounds = pointers.index_select(0, torch.tensor(ends, device=device)).tolist()
    blocks = tuple(
        Block(slice(a, b), slice(p, q), pointers[a:b] - p)
        for a, b, p, q in zip(ends[:-1], ends[1:], bounds[:-1], bounds[1:], strict=True)
    )
    return Segments(receivers, senders, pointers, blocks, torch.arange(0, TERMS * graph.n_pairs, TERMS, device=device))


class Filters(NamedTuple):
    """The geometry of the messages, the same for every layer.

    Attributes:
        segments: which pairs.
        taps: terms of the splines.
        distances: Å, to differentiate by.
    """

    segments: Segments
    taps: Taps
    distances: Float[Tensor, " pairs"]


def scalar_messages(
    y: Float[Tensor, "atoms F"], coefficients: Float[Tensor, "rows F"], filters: Filters
) -> Float[Tensor, "atoms F"]:
    """``sum_j W(r_ij) * y_j``.

    Args:
        y: of each sender.
        coefficients: of the splines.
        filters: complete pairs (both directions), as a :class:`~epot.geometry.graph.Graph` has them.

    Differentiable twice in everything; the distances only along changes with ``r_ij = r_ji``.
    """
    return _Messages.apply(y, coefficients, filters.distances, filters)


def element_messages(
    curves: Float[Tensor, "elements rows F"], kinds: Int[Tensor, " atoms"], filters: Filters
) -> Float[Tensor, "atoms F"]:
    """``sum_j C_(e_j)(r_ij)``: the same where ``y_j`` depends on the sender's element alone, which goes into the curve.

    Sums over neighbors and over terms of the splines are one. Differentiable twice in everything.

    Args:
        curves: coefficients of ``W(r) y_e``.
        kinds: element of each atom, counted within ``curves``.
        filters: the geometry.
    """
    n = curves.shape[1]
    rows = filters.taps.first + kinds.index_select(0, filters.segments.senders) * n
    return _Curves.apply(curves.flatten(0, 1), filters.distances, filters, rows)


def _made(part: slice, taps: Taps, order: int, table: Tensor, terms: Tensor) -> Tensor:
    """Filters of some pairs, or their derivative of that order."""
    weights = taps.weights(order)[part].reshape(-1)
    return sums(table, taps.index()[part].reshape(-1), terms[: part.stop - part.start], weights)


def _blocks(filters: Filters) -> Iterator[tuple[Block, Tensor, Tensor, Tensor]]:
    """Each block with receivers, senders and the numbers of its pairs."""
    s = filters.segments
    for block in s.blocks:
        part = block.pairs
        yield block, s.receivers[part], s.senders[part], torch.arange(part.stop - part.start, device=s.terms.device)


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, table: Tensor, r: Tensor, filters: Filters) -> Tensor:
        ctx.save_for_backward(y, table, r)
        ctx.filters = filters
        return _sum(y, table, filters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, table, r = ctx.saved_tensors
        want = tuple(map(wanted, (y, table, r)))
        if not torch.is_grad_enabled():  # nobody will differentiate it
            return *_gradient(grad.contiguous(), y, table, ctx.filters, want), None
        return *_Gradient.apply(grad.contiguous(), y, table, r, ctx.filters, want), None


def _sum(y: Tensor, table: Tensor, filters: Filters) -> Tensor:
    out, taps, terms = torch.empty_like(y), filters.taps, filters.segments.terms
    for block, _, senders, numbers in _blocks(filters):
        w = _made(block.pairs, taps, 0, table, terms)
        out[block.atoms] = sums(w.mul_(y.index_select(0, senders)), numbers, block.starts, None)
    return out


def _gradient(
    grad: Tensor, y: Tensor, table: Tensor, filters: Filters, want: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """dE/dy, dE/dc and dE/dr."""
    taps, terms = filters.taps, filters.segments.terms
    to_y, to_table, to_r = want
    d_y = torch.empty_like(y) if to_y else None
    d_r = y.new_empty(len(terms)) if to_r else None
    d_w = y.new_empty(len(terms), y.shape[1]) if to_table else None
    for block, receivers, senders, numbers in _blocks(filters):
        if d_y is not None:
            w = _made(block.pairs, taps, 0, table, terms)
            d_y[block.atoms] = sums(w.mul_(grad.index_select(0, senders)), numbers, block.starts, None)
        if d_r is not None or d_w is not None:
            room = None if d_w is None else d_w[block.pairs]
            both = torch.mul(y.index_select(0, senders), grad.index_select(0, receivers), out=room)
            if d_r is not None:
                torch.linalg.vecdot(_made(block.pairs, taps, 1, table, terms), both, out=d_r[block.pairs])
    d_table = None if d_w is None else _to_table([(d_w, taps.weights(0))], len(table), taps)
    return d_y, d_table, d_r


class _Gradient(torch.autograd.Function):
    """The gradient as a function of its own, whose gradient a loss on forces asks for."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, y: Tensor, table: Tensor, r: Tensor, filters: Filters, want: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(grad, y, table, r)
        ctx.filters = filters
        ctx.set_materialize_grads(False)
        return _gradient(grad, y, table, filters, want)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *along: Tensor | None) -> tuple[Tensor | None, ...]:
        want = tuple(map(wanted, ctx.saved_tensors))
        found = _second(along, *ctx.saved_tensors[:3], ctx.filters, want)
        return *found, None, None


def _second(
    along: tuple[Tensor | None, ...], grad: Tensor, y: Tensor, table: Tensor, filters: Filters, want: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """dS/dD, dS/dy, dS/dc and dS/dr."""
    x, v, z = along
    taps, terms, n = filters.taps, filters.segments.terms, y.shape[1]
    x = torch.zeros_like(y) if x is None else x.contiguous()
    z = y.new_zeros(len(terms)) if z is None else z
    d_grad, d_y = torch.empty_like(grad), torch.zeros_like(y) if want[1] else None
    d_w, d_slope = (y.new_empty(len(terms), n) if want[2] else None for _ in range(2))
    d_r = y.new_empty(len(terms)) if want[3] else None
    for block, receivers, senders, numbers in _blocks(filters):
        part = block.pairs
        w = _made(part, taps, 0, table, terms)
        slope = _made(part, taps, 1, table, terms)
        d, x_j, y_j = grad.index_select(0, receivers), x.index_select(0, senders), y.index_select(0, senders)
        if d_r is not None:
            _second_distance(part, filters, table, (d, x_j, y_j, slope, z[part]), v, d_r)
        u = slope.mul_(z[part].unsqueeze(1))
        if v is not None:
            u += _made(part, taps, 0, v, terms)
        d_grad[block.atoms] = sums(w.mul_(x_j).addcmul_(u, y_j), numbers, block.starts, None)
        if d_y is not None:
            d_y.index_add_(0, senders, u.mul_(d))
        if d_w is not None and d_slope is not None:
            torch.mul(x_j, d, out=d_w[part])
            torch.mul(y_j, d.mul_(z[part].unsqueeze(1)), out=d_slope[part])
    d_table = None
    if d_w is not None and d_slope is not None:
        d_table = _to_table([(d_w, taps.weights(0)), (d_slope, taps.weights(1))], len(table), taps)
    return d_grad if want[0] else None, d_y, d_table, d_r


def _second_distance(
    part: slice, filters: Filters, table: Tensor, at: tuple[Tensor, ...], v: Tensor | None, out: Tensor
) -> None:
    """dS/dr of some pairs: ``D_i . (W' X_j + (Z W'' + V') y_j)``, for Hessians."""
    d, x_j, y_j, slope, z = at
    taps, terms = filters.taps, filters.segments.terms
    u = _made(part, taps, 2, table, terms).mul_(z.unsqueeze(1))
    if v is not None:
        u += _made(part, taps, 1, v, terms)
    torch.linalg.vecdot(d, (slope * x_j).addcmul_(u, y_j), out=out[part])


def _to_table(parts: list[tuple[Tensor, Tensor]], n_rows: int, taps: Taps) -> Tensor:
    """``sum_p weights_pk d_p`` of the pairs that touch each row, over the parts; ``d`` may be of the receivers."""
    return _turned([(d, None, w) for d, w in parts], taps.first, n_rows)


def _turned(parts: list[tuple[Tensor, Tensor | None, Tensor]], first: Tensor, n_rows: int) -> Tensor:
    """The transpose of a sum of six terms: each part is rows ``d``, which of them each pair takes, and its weights."""
    key = (first.unsqueeze(1) + torch.arange(TERMS, device=first.device)).view(-1)
    order = torch.argsort(key)
    counts = torch.bincount(key, minlength=n_rows)
    starts = counts.cumsum(0) - counts
    pair = order.div(TERMS, rounding_mode="floor")
    total = None
    for d, which, weights in parts:
        index = pair if which is None else which.index_select(0, pair)
        made = sums(d, index, starts, weights.reshape(-1).index_select(0, order))
        total = made if total is None else total.add_(made)
    assert total is not None  # noqa: S101
    return total


class _Curves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, r: Tensor, filters: Filters, rows: Tensor) -> Tensor:
        ctx.save_for_backward(table, r)
        ctx.filters, ctx.rows = filters, rows
        return _curve_sum(table, filters, rows, filters.taps.weights(0))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        want = tuple(map(wanted, ctx.saved_tensors))
        args = (grad.contiguous(), *ctx.saved_tensors, ctx.filters, ctx.rows, want)
        if not torch.is_grad_enabled():
            return *_curve_gradient(args[0], args[1], *args[3:]), None, None
        return *_CurveGradient.apply(*args), None, None


def _index(rows: Tensor) -> Tensor:
    return (rows.unsqueeze(1) + torch.arange(TERMS, device=rows.device)).view(-1)


def _curve_sum(table: Tensor, filters: Filters, rows: Tensor, weights: Tensor) -> Tensor:
    return sums(table, _index(rows), filters.segments.pointers[:-1] * TERMS, weights.reshape(-1))


def _curve_dot(grad: Tensor, table: Tensor, filters: Filters, rows: Tensor, weights: Tensor) -> Tensor:
    """``D_i`` times what each pair adds to ``m_i``."""
    out, terms = grad.new_empty(len(rows)), filters.segments.terms
    for block, receivers, _, _ in _blocks(filters):
        part = block.pairs
        each = sums(table, _index(rows[part]), terms[: len(receivers)], weights[part].reshape(-1))
        torch.linalg.vecdot(each, grad.index_select(0, receivers), out=out[part])
    return out


def _curve_gradient(
    grad: Tensor, table: Tensor, filters: Filters, rows: Tensor, want: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """dE/dC and dE/dr."""
    taps, receivers = filters.taps, filters.segments.receivers
    d_table = _turned([(grad, receivers, taps.weights(0))], rows, len(table)) if want[0] else None
    return d_table, _curve_dot(grad, table, filters, rows, taps.weights(1)) if want[1] else None


class _CurveGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, table: Tensor, r: Tensor, filters: Filters, rows: Tensor, want: tuple[bool, ...]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(grad, table, r)
        ctx.filters, ctx.rows = filters, rows
        ctx.set_materialize_grads(False)
        return _curve_gradient(grad, table, filters, rows, want)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, z: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, table, _ = ctx.saved_tensors
        filters, rows, taps = ctx.filters, ctx.rows, ctx.filters.taps
        want = tuple(map(wanted, ctx.saved_tensors))
        d_grad, d_table, d_r = torch.zeros_like(grad), None, None
        if want[2]:
            d_r = grad.new_zeros(len(rows))
        if z is not None:
            slopes = taps.weights(1) * z.unsqueeze(1)
            d_grad += _curve_sum(table, filters, rows, slopes)
            if want[1]:
                d_table = _turned([(grad, filters.segments.receivers, slopes)], rows, len(table))
            if d_r is not None:
                d_r += _curve_dot(grad, table, filters, rows, taps.weights(2)) * z
        if v is not None:
            d_grad += _curve_sum(v.contiguous(), filters, rows, taps.weights(0))
            if d_r is not None:
                d_r += _curve_dot(grad, v.contiguous(), filters, rows, taps.weights(1))
        return d_grad if want[0] else None, d_table, d_r, None, None, None
