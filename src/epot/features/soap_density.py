"""Neighbors of many atoms on a dense axis, species by species, in parts that fit into a processor's cache.

Sums over neighbors are then products of matrices, batched over atoms. Points are the slots of that axis: those of
a part are in one piece, in it those of a species, in it those of an atom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor
from .angular import n_harmonics, pull_harmonics, solid_recursion, spherical_harmonics
from .scratch import Scratch
from .series import ChebyshevSeries, polynomials
from .soap_dialects import Gaussians
from .soap_fade import Fade
from .soap_gaussians import GaussianSums

POINTS = 3000
"""Points of a part, about: two hundred rows of numbers for each stay in the cache."""
SPARED = 400
"""Empty slots that one species less is worth: as much time as its calls."""
KEPT = 10 * POINTS
"""Points of a graph whose basis functions are kept for the backward pass (1.3 kB each) rather than made again."""


class Block(NamedTuple):
    """Neighbors of one species: points ``start`` to ``stop`` of a part, ``width`` for each atom.

    Or of ``count`` species, from ``species`` on: ``width`` for each atom and, in it, for each of them.
    """

    species: int
    start: int
    stop: int
    width: int
    count: int = 1


class Part(NamedTuple):
    """Some atoms in a row, ``first`` to ``last``, and points ``start`` to ``stop``."""

    first: int
    last: int
    start: int
    stop: int
    blocks: list[Block]


class Plan(NamedTuple):
    """Points of a graph.

    Attributes:
        slots: the pair of each point, ``n_pairs`` where a slot is empty, ``(points,)``.
        points: the point of each pair, ``(pairs,)``.
    """

    slots: Int[Tensor, " points"]
    points: Int[Tensor, " pairs"]
    parts: list[Part]


def plan(graph: Graph, species: Int[Tensor, " atoms"], elements: tuple[int, ...], points: int = 0) -> Plan:
    """The points of a graph for these elements; kept with it.

    Args:
        points: to a part, about; then each species has a block of its own. With 0 there are :data:`POINTS` to a part,
            and all species share a block where that leaves few slots empty.
    """
    return graph._once(
        f"points{points}{elements}", lambda: _plan(graph, species, len(elements), points or POINTS, not points)
    )


def _plan(graph: Graph, species: Tensor, n_species: int, most: int, may_share: bool) -> Plan:
    n, pairs = graph.n_atoms, graph.n_pairs
    size = max(min(n, most * n // max(pairs, 1)), 1)
    count = max(-(-n // size), 1)
    i, j = graph.pairs
    part = torch.div(i, size, rounding_mode="floor") if count > 1 else torch.zeros_like(i)
    row = part * n_species + species.index_select(0, j) if n_species > 1 else part
    local = i - part * size
    key = row * size + local
    found = torch.bincount(key, minlength=count * n_species * size)
    widths = found.view(count, n_species, size).amax(2)
    listed = widths.tolist()
    parts, starts, total = [], [], 0
    widest = max(listed[0])
    spared = widest > 0 and n * (n_species * widest - sum(listed[0])) < SPARED * (n_species - 1)
    share = may_share and count == 1 and spared
    if share:
        total = n * n_species * widest
        parts, listed = [Part(0, n, 0, total, [Block(0, 0, total, widest, n_species)])], []
    for k, wide in enumerate(listed):
        first, begin, blocks = k * size, total, []
        atoms = min(size, n - first)
        for s, width in enumerate(wide):
            starts.append(total)
            if width:
                blocks.append(Block(s, total - begin, total - begin + atoms * width, width))
            total += atoms * width
        parts.append(Part(first, first + atoms, begin, total, blocks))
    order = torch.argsort(key, stable=True) if n_species > 1 else torch.arange(pairs, device=i.device)
    begins = found.cumsum(0) - found
    rank = torch.arange(pairs, device=i.device) - begins.index_select(0, key.index_select(0, order))
    if share:
        offset = (i * n_species + row) * widest
    else:
        offset = torch.tensor(starts, device=i.device).index_select(0, row)
        offset += local * widths.flatten().index_select(0, row)
    points = offset.index_add_(0, order, rank)
    slots = torch.full((total,), pairs, device=i.device)
    slots[points] = torch.arange(pairs, device=i.device)
    return Plan(slots, points, parts)


class Points(NamedTuple):
    """Basis functions at the points of a part.

    Attributes:
        distances: Å, ``(points,)``.
        units: ``(3, points)``.
        series: radial functions without the cutoff function and, where wanted, their slopes,
            ``(1 or 2, degrees * n_max, points)``.
        angular: ``Y_lm``, ``(components, points)``.
    """

    distances: Tensor
    units: Tensor
    series: Tensor
    angular: Tensor


class Density(nn.Module):
    """``c^a_nlm`` of the neighbors' density: sums over neighbors of species a of ``R_nl(r) Y_lm``.

    Args:
        elements: atomic numbers, one channel each.
        radial: distances to radial functions, without the cutoff function: see
            :class:`epot.features.soap_dialects.Dialect`. Their closed form is used for values alone.
        reach: Å, of the last neighbor that counts.
        n_max: radial functions.
        l_max: highest degree.
        fade: what every radial function is multiplied by.
        center: what an atom adds to its own species' ``c_n00``, ``(n_max,)``.
    """

    center: Tensor

    def __init__(
        self, elements: tuple[int, ...], radial: Callable[[np.ndarray], np.ndarray], reach: float, n_max: int,
        l_max: int, fade: Fade, center: np.ndarray,
    ) -> None:  # fmt: skip
        super().__init__()
        self.elements, self.reach, self.n_max, self.l_max, self.fade = elements, reach, n_max, l_max, fade
        self.scratch = Scratch()
        self.sums = GaussianSums(radial, reach) if isinstance(radial, Gaussians) else None
        self.series = ChebyshevSeries(lambda r: radial(r).reshape(-1, len(r)), reach)
        own = torch.zeros(len(elements), len(elements), n_max, dtype=torch.float64)
        own[range(len(elements)), range(len(elements))] = torch.from_numpy(center)
        self.register_buffer("center", own.view(len(elements), -1), persistent=False)

    def forward(self, graph: Graph, species: Tensor) -> Float[Tensor, "atoms channels components"]:
        """Coefficients, the atom's own density included; components are ``l*l + l + m``.

        Differentiable to any order, or where the graph says so (``first_order``) once, at half the cost.
        """
        made = plan(graph, species, self.elements)
        vectors = graph.vectors().to(self.center.dtype)
        if not (torch.is_grad_enabled() and vectors.requires_grad):
            return self.values(vectors, made, species)
        if graph.first_order:
            return _Coefficients.apply(vectors, self, made, species)
        padded = self.padded(vectors)
        found = []
        for part in made.parts:
            v = padded.index_select(0, made.slots[part.start : part.stop])
            r = v.square().sum(1).sqrt()
            angular = spherical_harmonics(v / r[:, None], self.l_max) * self.fade(r)
            found.append(self._joined(part, self.series(r), angular))
        own = nn.functional.pad(self.center.index_select(0, species)[:, :, None], (0, n_harmonics(self.l_max) - 1))
        return torch.cat(found) + own

    def padded(self, vectors: Tensor) -> Tensor:
        """One more vector, for empty slots: of the length at which nothing counts any more."""
        return torch.cat([vectors, vectors.new_tensor([[self.reach, 0.0, 0.0]])])

    def _sums(self, part: Part, radial: Tensor, angular: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Degree, first species of a block and its sums over neighbors, ``(atoms, count * n_max, 2l + 1)``."""
        widths = [2 * degree + 1 for degree in range(self.l_max + 1)]
        for degree, (r, y) in enumerate(zip(radial.split(self.n_max), angular.split(widths), strict=True)):
            for species, start, stop, width, count in part.blocks:
                of_r = r[:, start:stop].view(self.n_max, -1, width).transpose(0, 1)
                of_y = y[:, start:stop].view(len(y), -1, width).permute(1, 2, 0)
                yield degree, species, torch.bmm(of_r, of_y).view(-1, count * self.n_max, len(y))

    def _joined(self, part: Part, radial: Tensor, angular: Tensor) -> Tensor:
        """Coefficients of the atoms of a part, with a history, ``(atoms, channels, components)``."""
        found = {(degree, species): c for degree, species, c in self._sums(part, radial, angular)}
        out = []
        species = range(1 if any(block.count > 1 for block in part.blocks) else len(self.elements))
        for degree in range(self.l_max + 1):
            empty = radial.new_zeros(part.last - part.first, self.n_max, 2 * degree + 1)
            out.append(torch.cat([found.get((degree, s), empty) for s in species], 1))
        return torch.cat(out, 2)

    def values(self, vectors: Tensor, made: Plan, species: Tensor, slopes: bool = False) -> Tensor:
        """Coefficients without a history; with ``slopes`` the basis functions of small graphs stay in the scratch."""
        padded, keep = self.padded(vectors.detach()), slopes and len(made.slots) <= KEPT
        self.scratch.mark = None
        absent = any(sum(block.count for block in part.blocks) < len(self.elements) for part in made.parts)
        make = padded.new_zeros if absent else padded.new_empty
        out = make(len(species), self.center.shape[1], n_harmonics(self.l_max))
        for k, part in enumerate(made.parts):
            v = padded.index_select(0, made.slots[part.start : part.stop])
            if self.sums is not None and not slopes:
                radial, angular = self.sums(v, self.fade, self.scratch)
            else:
                at = self._basis(v, keep * k, slopes=keep)
                angular = self.scratch.take("faded", *at.angular.shape, like=v)
                torch.mul(at.angular, self.fade(at.distances), out=angular)
                radial = at.series[0]
            here = out[part.first : part.last]
            for degree, s, c in self._sums(part, radial, angular):
                first = s * self.n_max
                here[:, first : first + c.shape[1], degree * degree : n_harmonics(degree)] = c
        out[:, :, 0] += self.center.index_select(0, species)
        return out

    def _basis(self, vectors: Float[Tensor, "points 3"], number: int, slopes: bool) -> Points:
        """Basis functions at some points, in the scratch under a number."""
        points, take = len(vectors), partial(self.scratch.take, like=vectors)
        units = take(f"units{number}", 3, points).copy_(vectors.T)
        x, y, z = units  # a norm over the first axis would run through memory in strides
        r = torch.mul(x, x, out=take(f"distances{number}", points)).addcmul_(y, y).addcmul_(z, z).sqrt_()
        units /= r
        tables = self.series.tables
        t = polynomials(r, self.reach, tables.shape[2], out=take("polynomials", tables.shape[2], points))
        wanted, functions = 2 if slopes else 1, self.series.n_functions
        series = take(f"series{number}", wanted * functions, points)
        torch.mm(tables[:wanted].view(-1, tables.shape[2]), t, out=series)
        angular = take(f"angular{number}", n_harmonics(self.l_max), points)
        solid_recursion(units, self.l_max, out=angular)
        return self._kept(number, points, vectors, wanted)

    def _kept(self, number: int, points: int, like: Tensor, wanted: int = 2) -> Points:
        """What :meth:`_basis` left under a number."""
        take = partial(self.scratch.take, like=like)
        return Points(
            take(f"distances{number}", points),
            take(f"units{number}", 3, points),
            take(f"series{number}", wanted, self.series.n_functions, points),
            take(f"angular{number}", n_harmonics(self.l_max), points),
        )

    def pull(self, part: Part, at: Points, grads: Tensor) -> Float[Tensor, "3 points"]:
        """Gradient by the vectors of a part's points from that by its coefficients.

        With ``g_m = sum_n grads_nm R_n`` and ``h_m = sum_n grads_nm R'_n``, it is
        ``fc sum_m (h_m Y_m u + g_m dY_m/dr) + fc' sum_m g_m Y_m u``.
        """
        pulled = self.scratch.take("pulled", 2, *at.angular.shape, like=grads)
        for degree in range(self.l_max + 1):
            rows = slice(degree * self.n_max, (degree + 1) * self.n_max)
            to = slice(degree * degree, n_harmonics(degree))
            for species, start, stop, width, count in part.blocks:
                g = grads[:, species * self.n_max : (species + count) * self.n_max, to]
                g = g.reshape(-1, self.n_max, g.shape[2]).transpose(1, 2)
                for k in range(2):
                    of_r = at.series[k, rows, start:stop].view(self.n_max, -1, width).transpose(0, 1)
                    of_y = pulled[k, to, start:stop].view(2 * degree + 1, -1, width)
                    of_y.copy_(torch.bmm(g, of_r).transpose(0, 1))
        across = pull_harmonics(at.angular, pulled[0], self.l_max)
        across.addcmul_(at.units, (at.units * across).sum(0), value=-1).div_(at.distances)
        fade, steep = self.fade.with_slope(at.distances)
        flat, along = pulled.mul_(at.angular).sum(1)
        along.mul_(fade).addcmul_(flat, steep)
        return across.mul_(fade).addcmul_(at.units, along)


class _Coefficients(torch.autograd.Function):
    """Coefficients with a backward pass written out; basis functions of large graphs are made again in it."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, density: Density, made: Plan, species: Tensor) -> Tensor:
        out = density.values(vectors, made, species, slopes=True)
        ctx.density, ctx.plan, ctx.vectors = density, made, vectors.detach()
        ctx.mark = density.scratch.mark = object()
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        density, made, g = ctx.density, ctx.plan, grads[0]
        kept = density.scratch.mark is ctx.mark and len(made.slots) <= KEPT
        padded = density.padded(ctx.vectors)
        out = g.new_empty(3, len(made.slots))
        for k, part in enumerate(made.parts):
            if kept:
                at = density._kept(k, part.stop - part.start, g)
            else:
                at = density._basis(padded.index_select(0, made.slots[part.start : part.stop]), 0, slopes=True)
                density.scratch.mark = None
            out[:, part.start : part.stop] = density.pull(part, at, g[part.first : part.last])
        return out.index_select(1, made.points).T, None, None, None
