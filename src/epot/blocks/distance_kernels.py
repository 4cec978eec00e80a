"""Kernels of a sparse Gaussian process on pairs and triples of atoms: squared exponentials of distances.

Bartok and Csanyi, Int. J. Quantum Chem. 115, 1051 (2015); descriptors ``distance_2b`` and ``angle_3b`` and covariance
``ARD_SE`` of gap_fit, whose conventions these are:

    k(x, x') = delta^2 exp(-1/2 sum_k ((x_k - x'_k) / theta_k)^2) fc fc'

with the cutoff function as a factor of the covariance. Every atom counts each of its pairs, so each pair counts twice,
and both orders of the two neighbors of a triple.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import Any, ClassVar, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from ..elements import SYMBOLS, to_number
from ..errors import ConfigError
from ..features.cutoff import shifted_cosine_cutoff
from ..features.triples import triples
from ..geometry.graph import Graph
from ..typing import Float, Tensor
from .design import Design
from .sparse_kernels import ROWS, Gradients, SparseKernel, total


class Sites(NamedTuple):
    """Descriptors of one group.

    Attributes:
        at: atom that counts each, ``(descriptors,)``.
        x: ``(descriptors, size)``.
        fade: product of the cutoff functions, ``(descriptors,)``.
        legs: the pairs of the graph that it depends on, one index for each leg, ``(descriptors,)``.
        dx: ``dx/dr_leg``, for each leg ``(descriptors, 3, size)``; empty unless asked for.
        dfade: ``dfade/dr_leg``, for each leg ``(descriptors, 3)``.
    """

    at: Tensor
    x: Tensor
    fade: Tensor
    legs: list[Tensor]
    dx: list[Tensor]
    dfade: list[Tensor]


class DistanceKernel(SparseKernel):
    """What pairs and triples share: a squared exponential of a few lengths, faded by cutoff functions.

    Args:
        elements: atomic numbers of the potential.
        cutoff: Å.
        cutoff_width: Å, over which a neighbor fades in.
        theta: length scales of the components of x: one number for all or one for each.
        n_sparse: of each group.
        delta: eV.
        groups: ``["Si-O", ...]``; ``X`` stands for any element; None for all combinations of elements.
        method: how sparse points are chosen; None for the default.

    Raises:
        ConfigError: a number is out of range, or a group is not made of elements of the potential.
    """

    length: ClassVar[int]
    size: ClassVar[int]
    usual: ClassVar[str]
    copies: ClassVar[float]

    def __init__(
        self, elements: Sequence[int], cutoff: float = 5.0, cutoff_width: float = 0.5,
        theta: float | Sequence[float] = 1.0, n_sparse: int = 20, delta: float = 1.0,
        groups: Sequence[str] | None = None, method: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(elements, cutoff, n_sparse, delta)
        self.cutoff_width, self.groups, self.method = float(cutoff_width), groups, method or self.usual
        given = [theta] * self.size if isinstance(theta, (int, float)) else list(theta)
        if len(given) != self.size or not all(t > 0 for t in given):
            raise ConfigError(
                f"The kernel {self.name} needs one theta above 0, or {self.size} of them; given: {theta}."
            )
        if not 0 < self.cutoff_width <= self.cutoff:
            raise ConfigError(
                f"The kernel {self.name} needs a cutoff_width between 0 and its cutoff {cutoff}; given: {cutoff_width}."
            )
        self.theta = [float(t) for t in given]
        if groups is None:
            self.members = self._all()
        else:
            self.members = [self._parse(g) for g in groups]
        self._start(["-".join(SYMBOLS[z] if z else "X" for z in m) for m in self.members], self.size + 1)

    @abstractmethod
    def _all(self) -> list[tuple[int, ...]]:
        """The elements of every group; 0 for any element."""

    @abstractmethod
    def sites(self, graph: Graph, members: tuple[int, ...], derivatives: bool = False) -> Sites:
        """The descriptors of one group."""

    def _parse(self, group: str) -> tuple[int, ...]:
        words = str(group).split("-")
        found = tuple(0 if w == "X" else to_number(w) for w in words)
        if len(found) != self.length or any(z and z not in self.elements for z in found):
            known = ", ".join(SYMBOLS[z] for z in self.elements)
            raise ConfigError(
                f"A group of the kernel {self.name} is {self.length} elements of the potential ({known}) or X for any, "
                f"joined by '-'; given: {group!r}."
            )
        return found

    def config(self) -> dict[str, Any]:
        own = {"name": self.name, "cutoff": self.cutoff, "cutoff_width": self.cutoff_width, "theta": self.theta}
        groups = None if self.groups is None else list(self.groups)
        return own | {"n_sparse": self.n_sparse, "delta": self.delta, "groups": groups, "method": self.method}

    def _exponential(self, x: Tensor, points: Tensor) -> Tensor:
        """``delta^2 exp(...) fc_m``, with the factor of the sparse points, not that of x."""
        squares: Tensor | None = None
        for k, theta in enumerate(self.theta):
            apart = ((x[:, k, None] - points[:, k]) / theta).square()
            squares = apart if squares is None else squares + apart
        assert squares is not None  # noqa: S101
        return torch.exp(-0.5 * squares) * (points[:, -1] * (self.copies * self.delta**2))

    def forward(self, graph: Graph) -> Float[Tensor, "atoms points"]:
        blocks = []
        for members, points in zip(self.members, self._kept(self.unit), strict=True):
            found = self.sites(graph, members)
            sums = found.x.new_zeros(graph.n_atoms, len(points))
            for part in _parts(len(found.at), ROWS, max(len(points), 1)):
                # many triples: their kernels are made again in the backward pass instead of being kept
                pieces = (found.x[part], found.fade[part])
                if len(found.at) * len(points) > ROWS and found.x.requires_grad:
                    made = checkpoint(self._faded, *pieces, points, use_reentrant=False)
                else:
                    made = self._faded(*pieces, points)
                sums = sums.index_add(0, found.at[part], made)
            blocks.append(sums)
        return torch.cat(blocks, 1)

    def _faded(self, x: Tensor, fade: Tensor, points: Tensor) -> Tensor:
        return self._exponential(x, points) * fade[:, None]

    def gram(self) -> Float[Tensor, "points points"]:
        blocks = [self._exponential(p[:, :-1], p) * p[:, -1:] for p in self.points.double().split(self.sizes())]
        return torch.block_diag(*[b / self.copies for b in blocks])

    @torch.no_grad()
    def candidates(self, graph: Graph) -> list[Tensor]:
        made = [self.sites(graph, m) for m in self.members]
        return [torch.cat([s.x, s.fade[:, None]], 1) for s in made]

    def cross(self, graph: Graph, other: Graph) -> Float[Tensor, "atoms others"]:
        out = self.unit.new_zeros(graph.n_atoms, other.n_atoms)
        for members in self.members:
            mine, theirs = self.sites(graph, members), self.sites(other, members)
            points = torch.cat([theirs.x, theirs.fade[:, None]], 1)
            block = self._faded(mine.x, mine.fade, points) * self.copies
            half = block.new_zeros(graph.n_atoms, len(theirs.at)).index_add(0, mine.at, block)
            out = out.index_add(1, theirs.at, half)
        return out

    @torch.no_grad()
    def design(self, graph: Graph, *, forces: bool, virial: bool) -> Design:
        """Rows in closed form: ``dk = k (-sum_c (x_c - x_mc) / theta_c^2 dx_c + dfc / fc)``."""
        energy = total(graph, self.forward(graph))
        if not (forces or virial):
            return Design(energy)
        found, column = Gradients(graph, energy.shape[1], virial, energy), 0
        vectors = graph.vectors().to(energy)
        for members, points in zip(self.members, self._kept(energy), strict=True):
            block = slice(column, column + len(points))
            column += len(points)
            made = self.sites(graph, members, derivatives=True)
            for part in _parts(len(made.at), ROWS // 3, max(len(points), 1)):
                value = self._exponential(made.x[part], points)
                faded = value * made.fade[part, None]
                for leg, dx, dfade in zip(made.legs, made.dx, made.dfade, strict=True):
                    g = value[:, None, :] * dfade[part, :, None]
                    for c, theta in enumerate(self.theta):
                        slope = faded * (points[:, c] - made.x[part, c, None]) / theta**2
                        g.addcmul_(slope[:, None, :], dx[part, :, c, None])
                    at = leg[part]
                    found.add(block, graph.pairs[0][at], graph.pairs[1][at], vectors[at], g)
        return found.design(energy)

    def _fade(self, r: Tensor) -> Tensor:
        return shifted_cosine_cutoff(r, self.cutoff, self.cutoff_width)

    def _fade_slope(self, r: Tensor) -> Tensor:
        x = ((r - (self.cutoff - self.cutoff_width)) / self.cutoff_width).clamp(0, 1)
        return -0.5 * math.pi / self.cutoff_width * torch.sin(math.pi * x)

    def _geometry(self, graph: Graph) -> tuple[Tensor, Tensor]:
        vectors = graph.vectors().to(self.unit)
        return vectors, vectors.square().sum(1).sqrt()


class PairKernel(DistanceKernel):
    """Pairs of atoms: ``x = r_ij`` (``distance_2b``)."""

    name: ClassVar[str] = "distance_2b"
    length: ClassVar[int] = 2
    size: ClassVar[int] = 1
    usual: ClassVar[str] = "uniform"
    copies: ClassVar[float] = 1.0

    def _all(self) -> list[tuple[int, ...]]:
        return list(combinations_with_replacement(self.elements, 2))

    def sites(self, graph: Graph, members: tuple[int, ...], derivatives: bool = False) -> Sites:
        a, b = (_is(graph.numbers, z).index_select(0, at) for z, at in zip(members, graph.pairs, strict=True))
        c, d = (_is(graph.numbers, z).index_select(0, at) for z, at in zip(members[::-1], graph.pairs, strict=True))
        chosen = ((a & b) | (c & d)).nonzero()[:, 0]
        vectors, r = (t.index_select(0, chosen) for t in self._geometry(graph))
        dx, dfade = [], []
        if derivatives:
            units = vectors / r[:, None]
            dx, dfade = [units[:, :, None]], [units * self._fade_slope(r)[:, None]]
        at = graph.pairs[0].index_select(0, chosen)
        return Sites(at, r[:, None], self._fade(r), [chosen], dx, dfade)


class AngleKernel(DistanceKernel):
    """Triples: ``x = (r_ij + r_ik, (r_ij - r_ik)^2, r_jk)`` of two neighbors of i (``angle_3b``)."""

    name: ClassVar[str] = "angle_3b"
    length: ClassVar[int] = 3
    size: ClassVar[int] = 3
    usual: ClassVar[str] = "fps"
    copies: ClassVar[float] = 2.0

    def _all(self) -> list[tuple[int, ...]]:
        ends = list(combinations_with_replacement(self.elements, 2))
        return [(a, center, b) for center in self.elements for a, b in ends]

    def sites(self, graph: Graph, members: tuple[int, ...], derivatives: bool = False) -> Sites:
        first, second = triples(graph)
        z = graph.numbers
        at = graph.pairs[0].index_select(0, first)
        one, two = (z.index_select(0, graph.pairs[1].index_select(0, p)) for p in (first, second))
        ends = (_is(one, members[0]) & _is(two, members[2])) | (_is(one, members[2]) & _is(two, members[0]))
        chosen = (ends & _is(z.index_select(0, at), members[1])).nonzero()[:, 0]
        first, second, at = (t.index_select(0, chosen) for t in (first, second, at))
        vectors, r = self._geometry(graph)
        v, w = vectors.index_select(0, first), vectors.index_select(0, second)
        a, b = r.index_select(0, first), r.index_select(0, second)
        across = w - v
        far = across.square().sum(1).sqrt()
        x = torch.stack([a + b, (a - b).square(), far], 1)
        fa, fb = self._fade(a), self._fade(b)
        dx, dfade = [], []
        if derivatives:
            u, t, s = v / a[:, None], w / b[:, None], across / far[:, None]
            twice = 2 * (a - b)[:, None]
            dx = [torch.stack([u, twice * u, -s], 2), torch.stack([t, -twice * t, s], 2)]
            dfade = [u * (self._fade_slope(a) * fb)[:, None], t * (self._fade_slope(b) * fa)[:, None]]
        return Sites(at, x, fa * fb, [first, second], dx, dfade)


def _is(numbers: Tensor, z: int) -> Tensor:
    return numbers == z if z else torch.ones_like(numbers, dtype=torch.bool)


def _parts(count: int, numbers: int, width: int) -> Iterator[slice]:
    """Slices of ``count`` things, few enough for ``numbers`` numbers where each has ``width``."""
    step = max(numbers // width, 1)
    return (slice(start, start + step) for start in range(0, count, step))
