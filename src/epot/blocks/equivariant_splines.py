"""Equivariant messages for forces alone, by torch: radial weights from splines, differentiated once, by the geometry.

The operator is that of :mod:`epot.blocks.equivariant_messages` and :mod:`epot.blocks.spline_messages`,

    G_p[i, m2, m1, c] = sum_j Y_ij[l2 m2] R_p,c(r_ij) h_j[l1 m1, c],       R(r) = sum_t N_t(r) table[first(r) + t].

Six rows of the table make the weights of a pair: fewer operations than any matrix product of radial functions. With
``U = sum_m2 Y[l2 m2] D[m2]`` for the gradient D of G, a sender gets ``sum_p R_p U_p`` and the distance
``sum h (sum_p R'_p U_p)``: the same sum with the slopes of the weights, and both are made together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ..features.scratch import Scratch
from ..typing import Float, Int, Tensor
from .element_order import Sites
from .equivariant_messages import Paths
from .filter_tables import TERMS, sums

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
    factors: Float[Tensor, "2 terms"]

    def values(self, table: Float[Tensor, "rows F"], first: int, last: int, order: int = 0) -> Float[Tensor, "slots F"]:
        """Functions, or with order 1 their derivatives, in slots from ``first`` up to ``last``."""
        own = slice(first * TERMS, last * TERMS)
        return sums(table, self.rows[own], self.starts[: last - first], self.factors[order, own])

    def both(self, table: Float[Tensor, "rows F"], first: int, last: int) -> Float[Tensor, "2 slots F"]:
        """Functions and their derivatives."""
        own, n = slice(first * TERMS, last * TERMS), last - first
        factors = self.factors[:, own].reshape(-1)
        return sums(table, self.rows[own].repeat(2), self.starts[: 2 * n], factors).view(2, n, -1)


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
    """What is constant, and how arrays of one block are cut."""

    table: Tensor
    sites: Sites
    paths: Paths
    terms: Terms
    channels: int

    def widths(self) -> list[int]:
        """Columns of X for each degree of the harmonics."""
        return [self.channels * self.paths.width(l2) for l2 in range(self.paths.l_harmonic + 1)]

    def harmonics(self, y: Tensor) -> tuple[Tensor, ...]:
        """Components of each degree, as columns."""
        return y.split([2 * l2 + 1 for l2 in range(self.paths.l_harmonic + 1)], 1)

    def slots(self) -> int:
        """Of the largest block."""
        return max(((stop - start) * width for start, stop, _, width in self.sites.layout.blocks), default=0)

    def grouped(self, w: Tensor, h: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each group R ``(.., paths, 1, c)`` and h ``(.., 1, m1, c)``, of the same leading axes."""
        c, lead = self.channels, w.shape[:-1]
        of_groups = w.split([c * len(g.paths) for g in self.paths.groups], -1)
        of_degrees = h.split([c * (2 * n + 1) for n in range(self.paths.l_sender + 1)], -1)
        of_degrees = tuple(part.view(*lead, 1, -1, c) for part in of_degrees)
        for group, r in zip(self.paths.groups, of_groups, strict=True):
            yield r.view(*lead, -1, 1, c), of_degrees[group.sender]

    def products(self, w: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """``X = R h`` of some slots, cut into columns of each degree."""
        x = _scratch.take("x", self.slots(), sum(self.widths()), like=w)[: w.shape[0]]
        sizes = [self.channels * len(g.paths) * (2 * g.sender + 1) for g in self.paths.groups]
        for own, (r, part) in zip(x.split(sizes, 1), self.grouped(w, h), strict=True):
            torch.mul(r, part, out=own.view(w.shape[0], -1, part.shape[2], self.channels))
        return x.split(self.widths(), 1)

    def pulled(self, u: list[Tensor], w: Tensor, out: Tensor) -> None:
        """``sum_p R_p U_p``.

        Args:
            u: U of each degree of the harmonics, ``(slots, columns)``.
            w: two kinds of weights, ``(2, slots, paths * channels)``.
            out: ``(2, slots, components * channels)``.
        """
        parts = [
            p
            for own, columns in zip(self._of_degrees(), u, strict=True)
            for p in columns.split([self.channels * len(g.paths) * (2 * g.sender + 1) for g in own], 1)
        ]
        begun: set[int] = set()
        for group, part, (r, to) in zip(self.paths.groups, parts, self.grouped(w, out), strict=True):
            d, target = 2 * group.sender + 1, to.squeeze(2)
            each = part.view(1, part.shape[0], -1, d, self.channels).unbind(2)
            for one, weight in zip(each, r.unbind(2), strict=True):
                if group.sender in begun:
                    target.addcmul_(one, weight)
                else:
                    torch.mul(one, weight, out=target)
                    begun.add(group.sender)

    def _of_degrees(self) -> list[list[Any]]:
        """Groups of each degree of the harmonics."""
        degrees = range(self.paths.l_harmonic + 1)
        return [[g for g in self.paths.groups if g.harmonic == l2] for l2 in degrees]


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, distances: Tensor, harmonics: Tensor, call: _Call) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, harmonics)
        ctx.call = call
        layout, of_degrees = call.sites.layout, call.harmonics(harmonics)
        out = [
            features.new_empty(features.shape[0], y.shape[1], n) for y, n in zip(of_degrees, call.widths(), strict=True)
        ]
        for start, stop, slot, width in layout.blocks:
            last = slot + (stop - start) * width
            h = features.index_select(0, layout.senders[slot:last])
            x = call.products(call.terms.values(call.table, slot, last), h)
            for y, own, sums_of in zip(of_degrees, x, out, strict=True):
                left = y[slot:last].view(stop - start, width, -1).transpose(1, 2)
                torch.bmm(left, own.view(stop - start, width, -1), out=sums_of[start:stop])
        back = _inverse(call.sites)
        return tuple(g.index_select(0, back) for g in out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, harmonics = ctx.saved_tensors
        call: _Call = ctx.call
        layout, most, of_degrees = call.sites.layout, call.slots(), call.harmonics(harmonics)
        own_grads = [g.index_select(0, layout.rows) for g in grads]
        n_slots, n_columns = layout.senders.shape[0], features.shape[1]
        d_slots = _scratch.take("slots", n_slots, n_columns, like=features)
        d_r, d_y = features.new_empty(n_slots), features.new_empty(harmonics.shape[1], n_slots)
        for start, stop, slot, width in layout.blocks:
            rows, last = stop - start, slot + (stop - start) * width
            h = features.index_select(0, layout.senders[slot:last])
            w = call.terms.both(call.table, slot, last)
            u, to_y = [], []
            for l2, (d, y, x) in enumerate(zip(own_grads, of_degrees, call.products(w[0], h), strict=True)):
                d = d[start:stop]
                made = _scratch.take(f"u{l2}", most, d.shape[2], like=d)[: last - slot]
                torch.bmm(y[slot:last].view(rows, width, -1), d, out=made.view(rows, width, -1))
                u.append(made)
                to_y.append(torch.bmm(d, x.view(rows, width, -1).transpose(1, 2)))
            d_y[:, slot:last].view(-1, rows, width).copy_(torch.cat(to_y, 1).transpose(0, 1))
            both = _scratch.take("both", 2, last - slot, n_columns, like=h)
            call.pulled(u, w, both)
            d_slots[slot:last] = both[0]
            torch.sum(both[1].mul_(h), 1, out=d_r[slot:last])
        return _to_senders(d_slots, call.sites), d_r, d_y.t(), None


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
    return sums(slots, *sites.made["sent"], None)
