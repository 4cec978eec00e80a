"""Equivariant messages for forces alone, by torch: radial weights from splines, differentiated once, by the geometry.

The operator is that of :mod:`epot.blocks.equivariant_messages` and :mod:`epot.blocks.spline_messages`,

    G_p[i, m2, m1, c] = sum_j Y_ij[l2 m2] R_p,c(r_ij) h_j[l1 m1, c],       R(r) = sum_t N_t(r) table[first(r) + t].

Six rows of the table make the weights of a pair: fewer operations than any matrix product of radial functions. With
``U = sum_m2 Y[l2 m2] D[m2]`` for the gradient D of G, a sender gets ``sum_p R_p U_p`` and the distance
``sum h (sum_p R'_p U_p)``: the same sum with the slopes of the weights, and both are made together.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ..features.scratch import Scratch
from ..typing import Float, Int, Tensor
from .element_order import Sites
from .equivariant_messages import Paths
from .filter_tables import TERMS, sums
from .neighborhood import BLOCK

MANY = 500  # shapes of blocks that are kept
_scratch = Scratch()


class Terms(NamedTuple):
    """Six rows of a table of splines for each slot, and what multiplies them.

    Attributes:
        rows: of the table.
        starts: of the terms of each slot, for twice as many slots as there are.
        factors: in the functions, and in their derivatives by the distance; zero in empty slots.
    """

    rows: Int[Tensor, " terms"]
    starts: Int[Tensor, " starts"]
    factors: tuple[Float[Tensor, " terms"], Float[Tensor, " terms"]]

    def whole(self, table: Float[Tensor, "rows F"], order: int) -> Float[Tensor, "slots F"]:
        """Functions, or with order 1 their derivatives, in all slots."""
        return sums(table, self.rows, self.starts[: len(self.starts) // 2], self.factors[order])

    def values(self, table: Float[Tensor, "rows F"], sizes: Sequence[int]) -> Iterator[Float[Tensor, "slots F"]]:
        """Functions in so many slots, and the next."""
        cuts = [n * TERMS for n in sizes]
        for n, rows, factors in zip(sizes, self.rows.split(cuts), self.factors[0].split(cuts), strict=True):
            yield sums(table, rows, self.starts[:n], factors)

    def both(self, table: Float[Tensor, "rows F"], sizes: Sequence[int]) -> Iterator[Float[Tensor, "slots_both F"]]:
        """Functions and their derivatives, those of a slot after those of another."""
        cuts = [2 * n * TERMS for n in sizes]
        rows = self.rows.view(-1, 1, TERMS).expand(-1, 2, -1).reshape(-1)
        factors = torch.stack([f.view(-1, TERMS) for f in self.factors], 1).view(-1)
        for n, own, by in zip(sizes, rows.split(cuts), factors.split(cuts), strict=True):
            yield sums(table, own, self.starts[: 2 * n], by)


def spline_sums(
    features: Float[Tensor, "atoms components_channels"],
    table: Float[Tensor, "rows paths_channels"],
    distances: Float[Tensor, " slots"],
    harmonics: Float[Tensor, "slots harmonics"],
    sites: Sites,
    paths: Paths,
    terms: Terms,
) -> list[Tensor]:
    """Messages summed over the neighbors of each receiver, for each degree l3 ``(atoms, 2 l3 + 1, paths * channels)``.

    Args:
        features: of senders, components (l1, m1) before channels.
        table: coefficients of the splines, paths before channels; a constant.
        distances: Å, of which ``terms`` are.
        harmonics: Y of each slot.
        sites: where the pairs lie.
        paths: which degrees are coupled.
        terms: of each slot.
    """
    call = _Call(table, sites, paths, terms, table.shape[1] // len(paths))
    made = _Sums.apply(features, distances, harmonics, call)
    return paths.coupled(list(made), call.channels)


class _Call(NamedTuple):
    """What is constant."""

    table: Tensor
    sites: Sites
    paths: Paths
    terms: Terms
    channels: int


class _Block:
    """Arrays for one block of receivers, which outlive a call, cut into the views that it takes.

    Attributes:
        shape: rows and slots per row; ``slots`` in all.
        h: senders' features, ``(slots, components * channels)``; ``parts`` of each degree ``(slots, 1, m1, c)``.
        x: products of each degree of the harmonics, ``(rows, slots, columns)``; ``groups`` of each group.
        u: dE/dX alike.
        both: two kinds of sums, ``(slots, 2, components * channels)``.
        sums: for each path its U ``(slots, 1, m1, c)``, where in ``both`` it is added, and whether it is the first.
    """

    def __init__(self, room: _Room, rows: int, width: int) -> None:
        paths, c, n = room.paths, room.channels, rows * width
        self.shape, self.slots = (rows, width), n
        columns = [c * (2 * l1 + 1) for l1 in range(paths.l_sender + 1)]
        widths = [c * paths.width(l2) for l2 in range(paths.l_harmonic + 1)]
        self.h, x = room.take("h", n, sum(columns)), room.take("x", n, sum(widths))
        self.parts = [part.view(n, 1, -1, c) for part in self.h.split(columns, 1)]
        own = [c * len(g.paths) * (2 * g.sender + 1) for g in paths.groups]
        pairs = list(zip(x.split(own, 1), paths.groups, strict=True))
        self.groups = [(part.view(n, len(g.paths), -1, c), self.parts[g.sender]) for part, g in pairs]
        self.x = [part.view(rows, width, -1) for part in x.split(widths, 1)]
        self.u = [room.take(f"u{l2}", n, size).view(rows, width, size) for l2, size in enumerate(widths)]
        self.both = room.take("both", n, 2, sum(columns))
        sums_of = [part.view(n, 2, -1, c) for part in self.both.split(columns, 2)]
        self.sums: list[tuple[Tensor, Tensor, bool]] = []
        begun: set[int] = set()
        for l2, u in enumerate(self.u):
            mine = [p for p in paths.paths if p.harmonic == l2]
            for part, p in zip(u.view(n, -1).split([columns[p.sender] for p in mine], 1), mine, strict=True):
                self.sums.append((part.view(n, 1, -1, c), sums_of[p.sender], p.sender not in begun))
                begun.add(p.sender)

    def multiply(self, weights: Sequence[Tensor]) -> None:
        """``X = R h``, R of each group ``(slots, paths, 1, c)``."""
        for (x, h), r in zip(self.groups, weights, strict=True):
            torch.mul(r, h, out=x)

    def pull(self, weights: Sequence[Tensor]) -> None:
        """``sum_p R_p U_p`` with two kinds of weights of each path, ``(slots, 2, 1, c)``."""
        for (u, out, first), r in zip(self.sums, weights, strict=True):
            if first:
                torch.mul(u, r, out=out)
            else:
                out.addcmul_(u, r)


class _Room:
    """Memory for the largest block so far, cut for each shape of them: neighbors change in dynamics, these rarely do.

    Attributes:
        members: how many paths each group has.
        degrees: components of each degree of the harmonics.
        widths: columns of X of each.
    """

    def __init__(self, like: Tensor, paths: Paths, channels: int) -> None:
        self.like, self.paths, self.channels = like.new_empty(0), paths, channels
        self.members = [len(g.paths) for g in paths.groups]
        self.degrees = [2 * l2 + 1 for l2 in range(paths.l_harmonic + 1)]
        self.widths = [channels * paths.width(l2) for l2 in range(paths.l_harmonic + 1)]
        self._memory: dict[str, Tensor] = {}
        self._cut: dict[tuple[int, int], _Block] = {}
        self._most = BLOCK

    def take(self, name: str, *shape: int) -> Tensor:
        """An array of a block, ``(slots, ..)``, in memory that all blocks share."""
        if name not in self._memory:
            self._memory[name] = self.like.new_empty(self._most * math.prod(shape[1:]))
        return self._memory[name][: math.prod(shape)].view(shape)

    def blocks(self, shapes: list[tuple[int, int]]) -> list[_Block]:
        """For so many rows and slots per row each."""
        most = max((rows * width for rows, width in shapes), default=0)
        if most > self._most or len(self._cut) > MANY:
            self._most = max(most, self._most)
            self._memory, self._cut = {}, {}
        for shape in shapes:
            if shape not in self._cut:
                self._cut[shape] = _Block(self, *shape)
        return [self._cut[shape] for shape in shapes]

    def harmonics(self, y: Float[Tensor, "slots harmonics"], blocks: list[_Block]) -> Iterator[tuple[Tensor, ...]]:
        """Of each block, those of each degree ``(rows, 2 l2 + 1, slots)``."""
        for block, part in zip(blocks, y.t().split([p.slots for p in blocks], 1), strict=True):
            yield part.unflatten(1, block.shape).transpose(0, 1).split(self.degrees, 1)


class _Rooms(threading.local):
    """One for each kind of messages, each thread its own."""

    def __init__(self) -> None:
        self.held: dict[object, _Room] = {}

    def of(self, features: Tensor, call: _Call) -> tuple[_Room, list[_Block]]:
        """Memory and blocks for a call."""
        p = call.paths
        key = features.dtype, features.device, call.channels, p.l_sender, p.l_harmonic, p.l_result
        if key not in self.held:
            with torch.inference_mode(False):
                self.held[key] = _Room(features, p, call.channels)
        shapes = [(stop - start, width) for start, stop, _, width in call.sites.layout.blocks]
        with torch.inference_mode(False):
            return self.held[key], self.held[key].blocks(shapes)


_rooms = _Rooms()


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, distances: Tensor, harmonics: Tensor, call: _Call) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, harmonics)
        ctx.call = call
        (room, blocks), c = _rooms.of(features, call), call.channels
        rows, slots = [p.shape[0] for p in blocks], [p.slots for p in blocks]
        out = [features.new_empty(len(features), m, n) for m, n in zip(room.degrees, room.widths, strict=True)]
        own_out = zip(*(g.split(rows) for g in out), strict=True)
        weights, senders = call.terms.values(call.table, slots), call.sites.layout.senders.split(slots)
        parts = zip(blocks, senders, weights, room.harmonics(harmonics, blocks), own_out, strict=True)
        for block, sender, w, ys, to in parts:
            torch.index_select(features, 0, sender, out=block.h)
            block.multiply(w.view(block.slots, -1, 1, c).split(room.members, 1))
            for y, x, g in zip(ys, block.x, to, strict=True):
                torch.bmm(y, x, out=g)
        back = _inverse(call.sites)
        return tuple(g.index_select(0, back) for g in out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, harmonics = ctx.saved_tensors
        call: _Call = ctx.call
        (room, blocks), c, layout = _rooms.of(features, call), call.channels, call.sites.layout
        rows, slots, n_slots = [p.shape[0] for p in blocks], [p.slots for p in blocks], len(harmonics)
        d_slots = _scratch.take("slots", n_slots, features.shape[1], like=features)
        d_r = features.new_empty(n_slots)
        d_y = [features.new_empty(n_slots, m) for m in room.degrees]
        own_grads = zip(*(g.index_select(0, layout.rows).split(rows) for g in grads), strict=True)
        outs = zip(*(d.split(slots) for d in (d_slots, d_r, *d_y)), strict=True)
        weights, harmonic = call.terms.both(call.table, slots), room.harmonics(harmonics, blocks)
        parts = zip(blocks, layout.senders.split(slots), weights, harmonic, own_grads, outs, strict=True)
        for block, sender, w, ys, ds, (to_h, to_r, *to_y) in parts:
            torch.index_select(features, 0, sender, out=block.h)
            w = w.view(block.slots, 2, -1, 1, c)
            block.multiply(w.select(1, 0).split(room.members, 1))
            for y, d, x, u, to in zip(ys, ds, block.x, block.u, to_y, strict=True):
                torch.bmm(y.transpose(1, 2), d, out=u)
                torch.bmm(x, d.transpose(1, 2), out=to.view(*block.shape, -1))
            block.pull(w.unbind(2))
            value, slope = block.both.unbind(1)
            to_h.copy_(value)
            torch.sum(slope.mul_(block.h), 1, out=to_r)
        return _to_senders(d_slots, call.sites), d_r, torch.cat(d_y, 1), None


def _inverse(sites: Sites) -> Int[Tensor, " atoms"]:
    """The row of each place."""
    if "row" not in sites.made:
        sites.made["row"] = torch.argsort(sites.layout.rows)
    return sites.made["row"]


def _to_senders(slots: Float[Tensor, "slots columns"], sites: Sites) -> Float[Tensor, "atoms columns"]:
    """Sums over the slots of which an atom is the sender: those of the reverse pairs are the slots of its row."""
    if "sent" not in sites.made:
        mine = torch.argsort(sites.layout.senders.index_select(0, sites.layout.place), stable=True)
        lengths = sites.neighbors.index_select(0, _inverse(sites))
        sites.made["sent"] = sites.layout.place.index_select(0, mine), lengths.cumsum(0) - lengths
    index, starts = sites.made["sent"]
    return sums(slots, index, starts, None)
