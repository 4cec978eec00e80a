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

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from ..features.scratch import Scratch
from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor
from .filter_tables import TERMS, Taps, Turned, sums
from .operator import Gradients, applied

BLOCK = 1024  # pairs whose filters are made at a time


class Block(NamedTuple):
    """Some receivers with all their pairs.

    Attributes:
        atoms, pairs, taps: which they are, and the terms of their splines among those of all pairs.
        receivers, senders: of each pair.
        starts: first pair of each receiver, counted from the block's first.
        numbers: 0, 1, 2, ... of each pair.
        terms: 0, 6, 12, ...: where the terms of each pair start.
    """

    atoms: slice
    pairs: slice
    taps: slice
    receivers: Int[Tensor, " pairs"]
    senders: Int[Tensor, " pairs"]
    starts: Int[Tensor, " atoms"]
    numbers: Int[Tensor, " pairs"]
    terms: Int[Tensor, " pairs"]


class Segments(NamedTuple):
    """The pairs of a graph in blocks of whole receivers.

    Attributes:
        receivers, senders: of each pair; receivers ascend.
        pointers: first pair of each receiver, and the number of pairs.
        blocks: about :data:`BLOCK` pairs each; all pairs in one where there is no cache to stay in.
    """

    receivers: Int[Tensor, " pairs"]
    senders: Int[Tensor, " pairs"]
    pointers: Int[Tensor, " atoms_plus_one"]
    blocks: tuple[Block, ...]


def segments(graph: Graph) -> Segments:
    """Those of a graph, made once for each."""
    return graph._once("segments", lambda: _segments(graph))


def _segments(graph: Graph) -> Segments:
    receivers, senders = graph.pairs.unbind()
    pointers, device = graph.row_pointers(), graph.pairs.device
    size = BLOCK if device.type == "cpu" else graph.n_pairs
    atoms, first = [0, graph.n_atoms], [0, graph.n_pairs]
    if graph.n_pairs > size:
        cuts = torch.searchsorted(pointers, torch.arange(size, graph.n_pairs, size, device=device), right=True) - 1
        atoms = sorted({*cuts.tolist(), 0, graph.n_atoms})
        first = pointers.index_select(0, torch.tensor(atoms, device=device)).tolist()
    numbers = torch.arange(max((q - p for p, q in pairwise(first)), default=0), device=device)
    terms = numbers * TERMS
    blocks = tuple(
        Block(
            slice(a, b), slice(p, q), slice(p * TERMS, q * TERMS),
            receivers[p:q], senders[p:q], pointers[a:b] - p, numbers[: q - p], terms[: q - p],
        )
        for (a, b), (p, q) in zip(pairwise(atoms), pairwise(first), strict=True)
    )  # fmt: skip
    return Segments(receivers, senders, pointers, blocks)


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

    def messages(self, y: Float[Tensor, "atoms F"], table: Float[Tensor, "rows F"]) -> Float[Tensor, "atoms F"]:
        """:func:`scalar_messages` of these pairs."""
        return scalar_messages(y, table, self)


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
    return applied(_Messages(filters), y, coefficients, filters.distances)


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
    index = curve_index(curves, kinds, filters)
    return applied(_Curves(filters, index), curves.flatten(0, 1), filters.distances)


def curve_index(curves: Tensor, kinds: Tensor, filters: Filters) -> Int[Tensor, " terms"]:
    """Which coefficients each pair takes, of the curves one after the other."""
    index = filters.taps.index()
    if len(curves) == 1:
        return index
    rows = kinds.index_select(0, filters.segments.senders).mul_(curves.shape[1])
    return (index.view(-1, TERMS) + rows.unsqueeze(1)).view(-1)


_scratch = Scratch()


def _taken(name: str, table: Tensor, rows: Tensor) -> Tensor:
    """Rows of a table, in room that is used again."""
    return torch.index_select(table, 0, rows, out=_scratch.take(name, len(rows), table.shape[1], like=table))


def _room(n: int, y: Tensor, filters: Filters) -> Tensor:
    """For n gradients of all filters."""
    return _scratch.take("filters", n, len(filters.segments.senders), y.shape[1], like=y)


def _made(block: Block, taps: Taps, order: int, table: Tensor) -> Tensor:
    """Filters of a block, or their derivative of that order."""
    return sums(table, taps.index()[block.taps], block.terms, taps.weights(order)[block.taps])


class _Messages(NamedTuple):
    """The kernels of :func:`scalar_messages`."""

    filters: Filters

    def forward(self, y: Tensor, table: Tensor, r: Tensor) -> Tensor:
        return message_sum(y, table, self.filters)

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]) -> Gradients:
        y, table, _ = inputs
        return gradient(grad, y, table, self.filters, want)

    def second(
        self, along: Sequence[Tensor | None], grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]
    ) -> Gradients:
        y, table, _ = inputs
        return _second(along, grad, y, table, self.filters, want)


def message_sum(y: Tensor, table: Tensor, filters: Filters) -> Tensor:
    """:func:`scalar_messages`, without a history."""
    parts = []
    for block in filters.segments.blocks:
        w = _made(block, filters.taps, 0, table)
        parts.append(sums(w.mul_(_taken("y", y, block.senders)), block.numbers, block.starts, None))
    return _joined(parts)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def gradient(grad: Tensor, y: Tensor, table: Tensor, filters: Filters, want: Sequence[bool]) -> Gradients:
    """dE/dy, dE/dc and dE/dr."""
    taps, (to_y, to_table, to_r) = filters.taps, want
    d_y = message_sum(grad, table, filters) if to_y else None
    d_r: list[Tensor] = []
    d_w = _room(1, y, filters) if to_table else None
    for block in filters.segments.blocks if to_table or to_r else ():
        both = _taken("y", y, block.senders).mul_(_taken("d", grad, block.receivers))
        if d_w is not None:
            d_w[0, block.pairs] = both
        if to_r:
            d_r.append(_made(block, taps, 1, table).mul_(both).sum(1))
    d_table = None if d_w is None else _to_table([(d_w[0], taps.weights(0))], len(table), taps)
    return d_y, d_table, _joined(d_r) if to_r else None


def _second(
    along: Sequence[Tensor | None], grad: Tensor, y: Tensor, table: Tensor, filters: Filters, want: Sequence[bool]
) -> Gradients:
    """dS/dD, dS/dy, dS/dc and dS/dr."""
    x, v, z = along
    taps, n_pairs = filters.taps, len(filters.segments.senders)
    x = torch.zeros_like(y) if x is None else x
    z = y.new_zeros(n_pairs) if z is None else z
    d_grad, d_r = [], []
    d_y = torch.zeros_like(y) if want[1] else None
    d_w = _room(2, y, filters) if want[2] else None
    for block in filters.segments.blocks:
        w, slope = _made(block, taps, 0, table), _made(block, taps, 1, table)
        d = _taken("d", grad, block.receivers)
        x_j, y_j = _taken("x", x, block.senders), _taken("y", y, block.senders)
        along_r = z[block.pairs].unsqueeze(1)
        if want[3]:
            d_r.append(_second_distance(block, taps, table, (d, x_j, y_j, slope, along_r), v))
        u = slope.mul_(along_r)
        if v is not None:
            u += _made(block, taps, 0, v)
        d_grad.append(sums(w.mul_(x_j).addcmul_(u, y_j), block.numbers, block.starts, None))
        if d_y is not None:
            d_y.index_add_(0, block.senders, u.mul_(d))
        if d_w is not None:
            torch.mul(x_j, d, out=d_w[0, block.pairs])
            torch.mul(y_j, d.mul_(along_r), out=d_w[1, block.pairs])
    d_table = None
    if d_w is not None:
        d_table = _to_table([(d_w[0], taps.weights(0)), (d_w[1], taps.weights(1))], len(table), taps)
    return _joined(d_grad) if want[0] else None, d_y, d_table, _joined(d_r) if want[3] else None


def _second_distance(block: Block, taps: Taps, table: Tensor, at: tuple[Tensor, ...], v: Tensor | None) -> Tensor:
    """dS/dr of some pairs: ``D_i . (W' X_j + (Z W'' + V') y_j)``, for Hessians."""
    d, x_j, y_j, slope, z = at
    u = _made(block, taps, 2, table).mul_(z)
    if v is not None:
        u += _made(block, taps, 1, v)
    return (slope * x_j).addcmul_(u, y_j).mul_(d).sum(1)


def _to_table(parts: list[tuple[Tensor, Tensor]], n_rows: int, taps: Taps) -> Tensor:
    """``sum_p weights_pk d_p`` over the pairs that touch each row, and over the parts."""
    turned = taps.once("turned", lambda: Turned(taps.index()[::TERMS], n_rows))
    return turned.sums([(d, None, w) for d, w in parts])


def curve_sum(table: Tensor, filters: Filters, index: Tensor, weights: Tensor) -> Tensor:
    """Sums over neighbors and terms of the splines at once, without a history; ``weights`` of the terms."""
    return sums(table, index, filters.segments.pointers[:-1] * TERMS, weights)


def curve_dot(grad: Tensor, table: Tensor, filters: Filters, index: Tensor, weights: Tensor) -> Tensor:
    """``D_i`` times what each pair adds to ``m_i``."""
    parts = []
    for block in filters.segments.blocks:
        each = sums(table, index[block.taps], block.terms, weights[block.taps])
        parts.append(each.mul_(_taken("d", grad, block.receivers)).sum(1))
    return _joined(parts)


class _Curves(NamedTuple):
    """The kernels of :func:`element_messages`."""

    filters: Filters
    places: Tensor

    def forward(self, table: Tensor, r: Tensor) -> Tensor:
        return curve_sum(table, self.filters, self.places, self.filters.taps.weights(0))

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]) -> Gradients:
        (filters, index), table, d_table = self, inputs[0], None
        if want[0]:
            d_table = self._turned(table).sums([(grad, filters.segments.receivers, filters.taps.weights(0))])
        return d_table, curve_dot(grad, table, filters, index, filters.taps.weights(1)) if want[1] else None

    def second(
        self, along: Sequence[Tensor | None], grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]
    ) -> Gradients:
        """Of ``S = D_i . (Z C' + V)``."""
        (v, z), (filters, index), table, taps = along, self, inputs[0], self.filters.taps
        d_grad, d_table = torch.zeros_like(grad), None
        d_r = grad.new_zeros(len(filters.segments.senders)) if want[2] else None
        if z is not None:
            slopes = taps.weights(1) * z.repeat_interleave(TERMS)
            d_grad += curve_sum(table, filters, index, slopes)
            if want[1]:
                d_table = self._turned(table).sums([(grad, filters.segments.receivers, slopes)])
            if d_r is not None:
                d_r += curve_dot(grad, table, filters, index, taps.weights(2)) * z
        if v is not None:
            d_grad += curve_sum(v, filters, index, taps.weights(0))
            if d_r is not None:
                d_r += curve_dot(grad, v, filters, index, taps.weights(1))
        return d_grad if want[0] else None, d_table, d_r

    def _turned(self, table: Tensor) -> Turned:
        return self.filters.taps.once("turned curves", lambda: Turned(self.places[::TERMS], len(table)))
