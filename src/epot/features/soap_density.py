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
from . import soap_native
from .angular import n_harmonics, pull_harmonics, solid_recursion, spherical_harmonics
from .arrays import arrays
from .scratch import Scratch
from .series import ChebyshevSeries, polynomials
from .soap_dialects import Gaussians
from .soap_fade import Fade
from .soap_gaussians import GaussianSums

POINTS = 8000
"""Points of a part, about: two hundred rows of numbers for each stay in the large cache."""
MIXED = 2000
"""Points times species that one species more may cost before each species has a block of its own."""
KEPT = 30_000
"""Points of a graph whose basis functions are kept for the backward pass (1.3 kB each) rather than made again."""


class Block(NamedTuple):
    """Neighbors of one species: points ``start`` to ``stop`` of a part, ``width`` for each atom.

    Or of all species together where ``members`` is one for the species of a point and zero for others.
    """

    species: int
    start: int
    stop: int
    width: int
    members: Float[Tensor, "species points"] | None = None


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
            and in small graphs of several species one block.
    """
    return graph._once(f"points{points}{elements}", lambda: _plan(graph, species, len(elements), points))


def _plan(graph: Graph, species: Tensor, n_species: int, wanted: int) -> Plan:
    n, pairs, most = graph.n_atoms, graph.n_pairs, wanted or POINTS
    size = max(min(n, most * n // max(pairs, 1)), 1)
    count = max(-(-n // size), 1)
    together = _together(graph, species, n_species) if not wanted and count == 1 < n_species and pairs else None
    if together is not None:
        return together
    i, j = graph.pairs
    part = torch.div(i, size, rounding_mode="floor") if count > 1 else torch.zeros_like(i)
    row = part * n_species + species.index_select(0, j) if n_species > 1 else part
    local = i - part * size
    key = row * size + local
    found = torch.bincount(key, minlength=count * n_species * size)
    widths = found.view(count, n_species, size).amax(2)
    parts, starts, total = [], [], 0
    for k, wide in enumerate(widths.tolist()):
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
    offset = torch.tensor(starts, device=i.device).index_select(0, row)
    offset += local * widths.flatten().index_select(0, row)
    points = offset.index_add_(0, order, rank)
    slots = torch.full((total,), pairs, device=i.device)
    slots[points] = torch.arange(pairs, device=i.device)
    return Plan(slots, points, parts)


def _together(graph: Graph, species: Tensor, n_species: int) -> Plan | None:
    """One part and one block: fewer calls, for more arithmetic with zeros. None where that costs more."""
    n, pairs = graph.n_atoms, graph.n_pairs
    i, j = graph.pairs.numpy(force=True)
    counts = np.bincount(i, minlength=n)
    width = int(counts.max())
    if n * width * n_species > MIXED * (n_species - 1):
        return None
    order = np.arange(pairs)
    points = order + np.repeat(np.arange(n) * width - counts.cumsum() + counts, counts)
    slots = np.full(n * width, pairs)
    slots[points] = order
    members = np.zeros((n_species, n * width))
    members[species.numpy(force=True)[j], points] = 1
    tensors = [torch.from_numpy(x).to(species.device) for x in (slots, points, members)]
    return Plan(tensors[0], tensors[1], [Part(0, n, 0, n * width, [Block(0, 0, n * width, width, tensors[2])])])


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
        self.tables: soap_native.Gaussians | None = None

    def forward(self, graph: Graph, species: Tensor) -> Float[Tensor, "atoms channels components"]:
        """Coefficients, the atom's own density included; components are ``l*l + l + m``.

        Differentiable to any order, or where the graph says so (``first_order``) once, at half the cost.
        """
        vectors = graph.vectors().to(self.center.dtype)
        plainly = not (torch.is_grad_enabled() and vectors.requires_grad)
        if plainly and self.sums is not None and soap_native.available(vectors):
            return self._compiled(graph, vectors.detach(), species).transpose(1, 2)
        made = plan(graph, species, self.elements)
        if plainly:
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

    def _compiled(self, graph: Graph, vectors: Tensor, species: Tensor) -> Tensor:
        """Coefficients by a compiled kernel, ``(atoms, components, channels)``."""
        assert self.sums is not None  # noqa: S101 (asked before)
        if self.tables is None or self.tables.center is not self.center:  # new where the module was converted
            self.tables = soap_native.gaussians(self.sums.rates, self.sums.mix, self.center)
        weights = None if self.fade.plain else self.fade(vectors.square().sum(1).sqrt_())
        return soap_native.density(graph, vectors, weights, species, self.sums.reach, self.tables)

    def padded(self, vectors: Tensor) -> Tensor:
        """One more vector, for empty slots: of the length at which nothing counts any more."""
        return torch.cat([vectors, vectors.new_tensor([[self.reach, 0.0, 0.0]])])

    def _rows(self, block: Block, atoms: int, radial: Any, members: Any) -> Any:
        """Radial functions at the points of a block, ``(degrees, atoms, width, its channels)``."""
        here = radial[:, block.start : block.stop].reshape(self.l_max + 1, 1, self.n_max, -1)
        if members is not None:
            here = here * members[:, None]
        return here.reshape(self.l_max + 1, -1, atoms, block.width).swapaxes(1, 2).swapaxes(2, 3)

    def _factors(self, part: Part, block: Block, radial: Any, angular: Any, members: Any) -> Iterator[tuple]:
        """For each degree its components and the matrices ``Y`` and ``R`` of every atom: sums are ``Y R``.

        All of tensors, or all of arrays.
        """
        atoms = part.last - part.first
        radii = self._rows(block, atoms, radial, members)
        angles = angular[:, block.start : block.stop].reshape(-1, atoms, block.width).swapaxes(0, 1)
        for degree in range(self.l_max + 1):
            to = slice(degree * degree, n_harmonics(degree))
            yield to, angles[:, to], radii[degree]

    def _joined(self, part: Part, radial: Tensor, angular: Tensor) -> Tensor:
        """Coefficients of the atoms of a part, with a history, ``(atoms, channels, components)``."""
        found = {}
        for block in part.blocks:
            members = None if block.members is None else block.members.to(radial.dtype)
            factors = self._factors(part, block, radial, angular, members)
            found[block.species] = torch.cat([torch.bmm(y, r) for _, y, r in factors], 1)
        if any(block.members is not None for block in part.blocks):
            return found[0].transpose(1, 2)
        empty = radial.new_zeros(part.last - part.first, len(angular), self.n_max)
        return torch.cat([found.get(s, empty) for s in range(len(self.elements))], 2).transpose(1, 2)

    def values(self, vectors: Tensor, made: Plan, species: Tensor, slopes: bool = False) -> Tensor:
        """Coefficients without a history; with ``slopes`` the basis functions of small graphs stay in the scratch."""
        padded, keep = self.padded(vectors.detach()), slopes and len(made.slots) <= KEPT
        self.scratch.mark = None
        blocks = [part.blocks for part in made.parts]
        absent = any(len(some) < len(self.elements) and not (some and some[0].members is not None) for some in blocks)
        make = padded.new_zeros if absent else padded.new_empty
        out = make(len(species), n_harmonics(self.l_max), self.center.shape[1])
        for k, part in enumerate(made.parts):
            v = padded.index_select(0, made.slots[part.start : part.stop])
            if self.sums is not None and not slopes:
                radial, angular = self.sums(v, self.fade, self.scratch)
            else:
                at = self._basis(v, keep * k, slopes=keep)
                angular = self.scratch.take("faded", *at.angular.shape, like=v)
                torch.mul(at.angular, self.fade(at.distances), out=angular)
                radial = at.series[0]
            for block in part.blocks:
                members = () if block.members is None else (block.members.to(out.dtype),)
                xp, (here, r, y, *of) = arrays(out[part.first : part.last], radial, angular, *members)
                first = block.species * self.n_max
                for to, left, right in self._factors(part, block, r, y, of[0] if of else None):
                    xp.matmul(left, right, out=here[:, to, first : first + right.shape[2]])
        out[:, 0] += self.center.index_select(0, species)
        return out.transpose(1, 2)

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
        for block in part.blocks:
            members = () if block.members is None else (block.members.to(grads.dtype),)
            xp, (g, out, series, *of) = arrays(grads.transpose(1, 2), pulled, at.series, *members)
            for k in range(2):
                radii = self._rows(block, len(grads), series[k], of[0] if of else None).swapaxes(2, 3)
                first, here = block.species * self.n_max, out[k, :, block.start : block.stop]
                to = here.reshape(-1, len(grads), block.width).swapaxes(0, 1)
                for degree in range(self.l_max + 1):
                    m = slice(degree * degree, n_harmonics(degree))
                    xp.matmul(g[:, m, first : first + radii.shape[2]], radii[degree], out=to[:, m])
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
