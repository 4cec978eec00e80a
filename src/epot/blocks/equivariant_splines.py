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
from .channels import mixed
from .element_order import Sites
from .equivariant_messages import Paths
from .filter_tables import TERMS, sums
from .neighborhood import BLOCK

KEPT = 1024  # slots in all, up to which each block has memory of its own
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
        return sums(table, self.rows, self.starts[: len(self.rows) // TERMS], self.factors[order])

    def both(self, table: Float[Tensor, "rows F"]) -> Float[Tensor, "slots_both F"]:
        """Functions and their derivatives, those of a slot after those of another."""
        rows = self.rows.view(-1, 1, TERMS).expand(-1, 2, -1).reshape(-1)
        factors = torch.stack([f.view(-1, TERMS) for f in self.factors], 1).view(-1)
        return sums(table, rows, self.starts, factors)

    def split(self, slots: Sequence[int]) -> Iterator[Terms]:
        """Those of so many slots, and of the next."""
        cuts = [n * TERMS for n in slots]
        for n, rows, *factors in zip(slots, *(t.split(cuts) for t in (self.rows, *self.factors)), strict=True):
            yield Terms(rows, self.starts[: 2 * n], tuple(factors))


def spline_sums(
    features: Float[Tensor, "atoms components_channels"],
    table: Float[Tensor, "rows paths_channels"],
    distances: Float[Tensor, " slots"],
    harmonics: Float[Tensor, "slots harmonics"],
    sites: Sites,
    paths: Paths,
    terms: Terms,
    mix: Sequence[Float[Tensor, "_ _"]],
) -> list[Tensor]:
    """Messages summed over the neighbors of each receiver, mixed, for each degree l3 ``(atoms, 2 l3 + 1, out)``.

    Args:
        features: of senders, components (l1, m1) before channels.
        table: coefficients of the splines, paths before channels; a constant.
        distances: Å, of which ``terms`` are.
        harmonics: Y of each slot.
        sites: where the pairs lie.
        paths: which degrees are coupled.
        terms: of each slot.
        mix: what mixes the channels of all paths of each l3; a constant.
    """
    call = _Call(table, sites, paths, terms, mix)
    return list(_Sums.apply(features, distances, harmonics, call))


class _Call:
    """What is constant."""

    def __init__(self, table: Tensor, sites: Sites, paths: Paths, terms: Terms, mix: Sequence[Tensor]) -> None:
        self.table, self.sites, self.paths, self.terms, self.mix = table, sites, paths, terms, mix
        self.channels = table.shape[1] // len(paths)


class _Block:
    """Arrays for one block of receivers, which outlive a call, cut into the views that it takes.

    Attributes:
        shape: rows and slots per row; ``slots`` in all.
        place: of its memory; None where blocks share it.
        h: senders' features, ``(slots, components * channels)``.
        weights: R and R' of each path, ``(slots, 2, 1, c)``.
        x: products of each degree of the harmonics, ``(rows, slots, columns)``; ``groups`` of each group.
        u: dE/dX alike.
        both: ``sum_p R_p U_p`` and the same with R', ``(slots, 2, components * channels)``.
        sums: for each path its U ``(slots, 1, m1, c)``, where in ``both`` it is added, and whether it is the first.
    """

    def __init__(self, room: _Room, place: int | None, rows: int, width: int) -> None:
        paths, c, n = room.paths, room.channels, rows * width
        self.room, self.place, self.shape, self.slots = room, place, (rows, width), n
        self.members = [len(g.paths) for g in paths.groups]
        self.weights: Sequence[Tensor] = ()
        columns = [c * (2 * l1 + 1) for l1 in range(paths.l_sender + 1)]
        widths = [c * paths.width(l2) for l2 in range(paths.l_harmonic + 1)]
        self.h, x = room.take(f"h {place}", n, sum(columns)), room.take(f"x {place}", n, sum(widths))
        parts = [part.view(n, 1, -1, c) for part in self.h.split(columns, 1)]
        own = [c * len(g.paths) * (2 * g.sender + 1) for g in paths.groups]
        pairs = list(zip(x.split(own, 1), paths.groups, strict=True))
        self.groups = [(part.view(n, len(g.paths), -1, c), parts[g.sender]) for part, g in pairs]
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

    def fill(self, features: Tensor, senders: Tensor, terms: Terms, call: _Call, slopes: bool) -> None:
        """Features, products ``X = R h`` and, with ``slopes``, weights for :meth:`pull`, if they are not here."""
        owners = self.room.owners
        if self.place is not None:
            if owners.get(self.place) is call:
                return
            owners[self.place] = call
        torch.index_select(features, 0, senders, out=self.h)
        if slopes or self.place is not None:
            weights = terms.both(call.table).view(self.slots, 2, -1, 1, call.channels)
            self.weights, values = weights.unbind(2), weights.select(1, 0)
        else:
            values = terms.whole(call.table, 0).view(self.slots, -1, 1, call.channels)
        for (x, h), r in zip(self.groups, values.split(self.members, 1), strict=True):
            torch.mul(r, h, out=x)

    def pull(self) -> tuple[Tensor, Tensor]:
        """``sum_p R_p U_p``, and the same with R', ``(slots, components * channels)``."""
        for (u, out, first), r in zip(self.sums, self.weights, strict=True):
            if first:
                torch.mul(u, r, out=out)
            else:
                out.addcmul_(u, r)
        value, slope = self.both.unbind(1)
        return value, slope


class _Room:
    """Memory for blocks, cut for each shape of them: neighbors change in dynamics, these rarely do.

    Few slots have memory of their own in each block, so that the gradient finds what the sums were made of; more of
    them share that of one block, which stays in the processor's cache.

    Attributes:
        degrees: components of each degree of the harmonics.
        widths: columns of X of each.
        owners: whose features, weights and products lie in each place.
    """

    def __init__(self, like: Tensor, paths: Paths, channels: int) -> None:
        self.like, self.paths, self.channels = like.new_empty(0), paths, channels
        self.degrees = [2 * l2 + 1 for l2 in range(paths.l_harmonic + 1)]
        self.widths = [channels * paths.width(l2) for l2 in range(paths.l_harmonic + 1)]
        self.owners: dict[int, _Call] = {}
        self._memory: dict[str, Tensor] = {}
        self._cut: dict[tuple[int | None, int, int], _Block] = {}
        self._most = BLOCK

    def take(self, name: str, *shape: int) -> Tensor:
        """An array of a block, ``(slots, ..)``."""
        if name not in self._memory:
            self._memory[name] = self.like.new_empty(self._most * math.prod(shape[1:]))
        return self._memory[name][: math.prod(shape)].view(shape)

    def blocks(self, shapes: list[tuple[int, int]]) -> list[_Block]:
        """For so many rows and slots per row each."""
        slots = [rows * width for rows, width in shapes]
        most, kept = max(slots, default=0), sum(slots) <= KEPT
        if most > self._most or len(self._cut) > MANY:
            self._most = max(most, self._most)
            self._memory, self._cut, self.owners = {}, {}, {}
        found = []
        for n, shape in enumerate(shapes):
            key = (n if kept else None, *shape)
            if key not in self._cut:
                self._cut[key] = _Block(self, *key)
            found.append(self._cut[key])
        return found

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
        (room, blocks), n_atoms = _rooms.of(features, call), len(features)
        rows, slots = [p.shape[0] for p in blocks], [p.slots for p in blocks]
        out = [features.new_empty(n_atoms, m, n) for m, n in zip(room.degrees, room.widths, strict=True)]
        own_out = zip(*(g.split(rows) for g in out), strict=True)
        senders, terms = call.sites.layout.senders.split(slots), call.terms.split(slots)
        parts = zip(blocks, senders, terms, room.harmonics(harmonics, blocks), own_out, strict=True)
        for block, sender, term, ys, to in parts:
            block.fill(features, sender, term, call, slopes=False)
            for y, x, g in zip(ys, block.x, to, strict=True):
                torch.bmm(y, x, out=g)
        made = torch.cat([g.view(-1, call.channels) for g in out])
        made = made.index_select(0, _places(call)[0]).view(n_atoms, -1, call.channels)
        return tuple(mixed(call.paths.coupled(made), call.mix))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, harmonics = ctx.saved_tensors
        call: _Call = ctx.call
        (room, blocks), c, n_slots, n_atoms = _rooms.of(features, call), call.channels, len(harmonics), len(features)
        rows, slots = [p.shape[0] for p in blocks], [p.slots for p in blocks]
        d_slots = _scratch.take("slots", n_slots, features.shape[1], like=features)
        d_r = features.new_empty(n_slots)
        d_y = [features.new_empty(n_slots, m) for m in room.degrees]
        sizes = [n_atoms * m * n // c for m, n in zip(room.degrees, room.widths, strict=True)]
        made = call.paths.uncoupled(mixed(grads, [w.T for w in call.mix]), c)
        made = made.flatten(0, 1).index_select(0, _places(call)[1]).split(sizes)
        own_grads = zip(
            *(g.view(n_atoms, m, -1).split(rows) for g, m in zip(made, room.degrees, strict=True)), strict=True
        )
        outs = zip(*(d.split(slots) for d in (d_slots, d_r, *d_y)), strict=True)
        senders, terms = call.sites.layout.senders.split(slots), call.terms.split(slots)
        parts = zip(blocks, senders, terms, room.harmonics(harmonics, blocks), own_grads, outs, strict=True)
        for block, sender, term, ys, ds, (to_h, to_r, *to_y) in parts:
            block.fill(features, sender, term, call, slopes=True)
            for y, d, x, u, to in zip(ys, ds, block.x, block.u, to_y, strict=True):
                torch.bmm(y.transpose(1, 2), d, out=u)
                torch.bmm(x, d.transpose(1, 2), out=to.view(*block.shape, -1))
            value, slope = block.pull()
            to_h.copy_(value)
            torch.sum(slope.mul_(block.h), 1, out=to_r)
        return _to_senders(d_slots, call.sites), d_r, torch.cat(d_y, 1), None


def _places(call: _Call) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Where G's rows (l2, row, m2, path, m1) are found for each atom in the order of results, and the inverse."""
    paths, made = call.paths, call.sites.made
    key = "places", paths.l_sender, paths.l_harmonic, paths.l_result
    if key not in made:
        atoms = _inverse(call.sites)
        sizes = torch.tensor([(2 * l2 + 1) * paths.width(l2) for l2 in range(paths.l_harmonic + 1)])
        each, before = sizes.repeat_interleave(sizes), (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        within = before * (len(atoms) - 1) + torch.arange(len(each))
        first, size = (t.index_select(0, paths.order).to(atoms.device) for t in (within, each))
        to = (first + atoms.unsqueeze(1) * size).flatten()
        made[key] = to, torch.empty_like(to).index_copy_(0, to, torch.arange(len(to), device=to.device))
    return made[key]


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
