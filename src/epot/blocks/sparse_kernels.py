"""Kernels of a sparse Gaussian process on local environments, each with sparse points of its own; SOAP's.

A kernel makes of a graph the sums ``sum_d k(x_d, x_m)`` over the descriptors d of each atom (its environment, its
pairs, its triples), one column for each sparse point m, and their derivatives in closed form (Bartok and Csanyi,
Int. J. Quantum Chem. 115, 1051 (2015), Eqs. 21 to 25; Deringer et al., Chem. Rev. 121, 10073 (2021), section 4.1).
Descriptors of different groups (elements of the center, pairs, triples of elements) have nothing in common: their
covariance is zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ..elements import SYMBOLS, to_number
from ..errors import ConfigError, ModelError
from ..features.descriptors.soap import PairDerivatives, Soap
from ..geometry.graph import Graph
from ..typing import Float, Tensor
from .design import Design
from .sparse_energy import Group, sparse_energy

ROWS = 2**19
"""Numbers in a block of gradients: it stays in the cache between the product that makes it and the sums over it."""


class SparseKernel(nn.Module, ABC):
    """One term of the covariance, ``k = delta^2 ...``, and its sparse points.

    Attributes:
        labels: names of the groups, in their order: ``"Si"``, ``"Si-O"``, ``"O-Si-O"`` (the center in the middle).
        points: the sparse points, those of a group together, ``(points, size)``; in float32 where that is exact.
        counts: how many of each group.
        method: how a fit chooses them by default.
    """

    name: ClassVar[str]
    method: str
    labels: list[str]
    points: Tensor
    counts: Tensor
    unit: Tensor

    def __init__(self, elements: Sequence[int], cutoff: float, n_sparse: int, delta: float) -> None:
        super().__init__()
        self.elements, self.cutoff, self.n_sparse, self.delta = tuple(elements), float(cutoff), n_sparse, float(delta)
        if n_sparse < 1 or not delta > 0 or not cutoff > 0:
            raise ConfigError(
                f"The kernel {self.name} needs n_sparse, delta, cutoff above 0; given: {n_sparse}, {delta}, {cutoff}."
            )
        self.register_buffer("unit", torch.ones((), dtype=torch.float64), persistent=False)  # says the precision
        self._held: tuple[Tensor, int, Any] | None = None

    def _start(self, labels: Sequence[str], size: int) -> None:
        self.labels = list(labels)
        self.register_buffer("points", torch.zeros(0, size, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(len(self.labels), dtype=torch.int64))

    def set_points(self, points: Sequence[Float[Tensor, "_ size"]]) -> None:
        """Take sparse points, one tensor for each group.

        Raises:
            ConfigError: another number of groups.
        """
        if len(points) != len(self.labels):
            raise ConfigError(
                f"The kernel {self.name} has {len(self.labels)} groups ({', '.join(self.labels)}); sparse points of "
                f"{len(points)} were given."
            )
        self.points = torch.cat(list(points)).detach().clone()
        self.counts = torch.tensor([len(p) for p in points], device=self.points.device)

    def sizes(self) -> list[int]:
        """Sparse points of each group.

        Raises:
            ModelError: none were chosen yet.
        """
        if not len(self.points):
            raise ModelError("This GAP has no sparse points yet: fit it, with the stages SelectSparse and Solve.")
        return self.counts.tolist()

    def _kept(self, like: Tensor) -> Any:
        """What :meth:`_prepare` makes of the sparse points, made once for each set of them."""
        now = (self.points, self.points._version)
        if self._held is None or self._held[0] is not now[0] or self._held[1] != now[1]:
            self._held = (*now, {})
        if like.dtype not in self._held[2]:
            self._held[2][like.dtype] = self._prepare(self.points.to(like))
        return self._held[2][like.dtype]

    def _prepare(self, points: Tensor) -> Any:
        return points.split(self.sizes())

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Name and settings, JSON."""

    @abstractmethod
    def forward(self, graph: Graph) -> Float[Tensor, "atoms points"]:
        """Sums of the kernels over the descriptors of each atom. Differentiable twice."""

    @abstractmethod
    def design(self, graph: Graph, *, forces: bool, virial: bool) -> Design:
        """Their sums over atoms and derivatives, in closed form."""

    @abstractmethod
    def gram(self) -> Float[Tensor, "points points"]:
        """``K_MM``, eV^2."""

    @abstractmethod
    def candidates(self, graph: Graph) -> list[Tensor]:
        """For each group its descriptors in the graph, as sparse points are kept, ``(descriptors, size)``."""

    @abstractmethod
    def cross(self, graph: Graph, other: Graph) -> Float[Tensor, "atoms others"]:
        """Prior covariance of the energies of the atoms of two graphs, eV^2. Differentiable."""


class Gradients:
    """Rows of forces and virials, to which derivatives by pair vectors are added.

    Args:
        graph: a batch.
        n_points: columns.
        virial: whether those rows are wanted.
        like: for type and device.
    """

    def __init__(self, graph: Graph, n_points: int, virial: bool, like: Tensor) -> None:
        self.graph, self.virial = graph, virial
        self.rows = like.new_zeros(graph.n_atoms, 3, n_points)
        self.strain = like.new_zeros(graph.n_structures * 3, 3, n_points) if virial else None

    def add(self, block: slice, i: Tensor, j: Tensor, vectors: Tensor, g: Float[Tensor, "pairs 3 columns"]) -> None:
        """``dk/dr_ij`` of some pairs for some columns."""
        self.rows[:, :, block].index_add_(0, i, g).index_add_(0, j, g, alpha=-1)
        if self.strain is None:
            return
        graph = self.graph
        weights = g.new_zeros(graph.n_structures, 3, len(i))
        weights[graph.owner[i], :, torch.arange(len(i), device=i.device)] = vectors
        pulled = weights.view(-1, len(i)) @ g.reshape(len(i), -1)
        self.strain[:, :, block] -= pulled.view(-1, 3, g.shape[2])

    def design(self, energy: Tensor) -> Design:
        """With the rows of the energies, everything together."""
        strain = None if self.strain is None else self.strain.view(self.graph.n_structures, 9, -1)
        return Design(energy, self.rows.view(3 * self.graph.n_atoms, -1), strain)


def total(graph: Graph, features: Tensor) -> Tensor:
    """Sums over the atoms of each structure."""
    return features.new_zeros(graph.n_structures, features.shape[1]).index_add_(0, graph.owner, features)


class SoapKernel(SparseKernel):
    """``k = delta^2 (p . p' / |p| |p'|)^zeta`` for one species of center, else 0 (Deringer 2021, Eq. 36).

    Args:
        elements: atomic numbers of the potential.
        zeta: power of the normalized dot product, a whole number.
        n_sparse: of all groups together.
        delta: eV.
        groups: symbols of the centers; None for all elements.
        method: how sparse points are chosen (:class:`epot.fit.stages.sparse.SelectSparse`); None leaves it to the fit.
        soap: arguments of :class:`epot.features.descriptors.soap.Soap`.

    Raises:
        ConfigError: a number is out of range, or a group is not an element of the potential.
    """

    name: ClassVar[str] = "soap"

    def __init__(
        self, elements: Sequence[int], zeta: int = 4, n_sparse: int = 4000, delta: float = 1.0,
        groups: Sequence[str] | None = None, method: str | None = None, **soap: Any,
    ) -> None:  # fmt: skip
        self.soap_arguments = dict(soap)
        if soap.get("normalize") is False:
            raise ConfigError("The kernel soap is of normalized power spectra; leave normalize=False out.")
        made = Soap(elements, **{**soap, "normalize": True})
        super().__init__(elements, made.cutoff, n_sparse, delta)
        if zeta < 1 or int(zeta) != zeta:
            raise ConfigError(f"The kernel soap needs a whole zeta above 0; given: {zeta}.")
        self.zeta, self.groups, self.method = int(zeta), groups, method or ""
        self.soap = made
        numbers = [to_number(g) for g in groups] if groups is not None else list(self.elements)
        if extra := [SYMBOLS[z] for z in numbers if z not in self.elements]:
            raise ConfigError(f"The groups of a kernel are elements of the potential; {', '.join(extra)} is not.")
        self.centers = [self.elements.index(z) for z in numbers]
        self._start([SYMBOLS[z] for z in numbers], made.size)

    def set_points(self, points: Sequence[Float[Tensor, "_ size"]]) -> None:
        """Power spectra of any length, one tensor for each group; kept in their own precision, of length 1."""
        made = [p.double() / p.double().square().sum(1, keepdim=True).sqrt() for p in points]
        super().set_points([m.to(p.dtype) for m, p in zip(made, points, strict=True)])

    def config(self) -> dict[str, Any]:
        own = {"name": self.name, "zeta": self.zeta, "n_sparse": self.n_sparse, "delta": self.delta}
        own |= {"groups": None if self.groups is None else list(self.groups), "method": self.method or None}
        return own | self.soap_arguments

    def forward(self, graph: Graph) -> Float[Tensor, "atoms points"]:
        return self.kernel(self.soap(graph), self.soap.species(graph))

    def energies(self, graph: Graph, weights: Float[Tensor, " points"]) -> Float[Tensor, " atoms"]:
        """``forward(graph) @ weights``, with first derivatives by the geometry alone, and fast."""
        spectra, species = self.soap(graph), self.soap.species(graph)
        sets, parts = self._kept(spectra)[0], weights.detach().to(spectra).split(self.sizes())
        groups = [Group(*g) for g in zip(self.centers, sets, parts, strict=True)]
        alone = len(self.elements) == len(groups) == 1
        return sparse_energy(spectra, None if alone else species, groups, self.zeta, self.delta**2)

    def kernel(self, spectra: Tensor, species: Tensor) -> Float[Tensor, "atoms points"]:
        """``k(x_i, x_m)``: zero where the species of the two centers differ."""
        sets, sizes = self._kept(spectra)[0], self.sizes()
        if len(sizes) == len(self.elements) == 1:
            return self._power(spectra @ sets[0].T)
        order, blocks, column = [], [], 0
        for center, size, points in zip(self.centers, sizes, sets, strict=True):
            rows = (species == center).nonzero()[:, 0]
            order.append(rows)
            block = self._power(spectra.index_select(0, rows) @ points.T)
            blocks.append(nn.functional.pad(block, (column, sum(sizes) - column - size)))
            column += size
        rest = [k for k in range(len(self.elements)) if k not in self.centers]
        if rest:
            order.append(torch.isin(species, torch.tensor(rest, device=species.device)).nonzero()[:, 0])
            blocks.append(spectra.new_zeros(len(order[-1]), sum(sizes)))
        return torch.cat(blocks).index_select(0, torch.cat(order).argsort())

    def _power(self, dots: Tensor, less: int = 0) -> Tensor:
        """``delta^2 d^(zeta - less)`` by squaring: powers of tensors are slow."""
        result, base, left = None, dots, self.zeta - less
        while left:
            if left & 1:
                result = base if result is None else result * base
            left >>= 1
            base = base * base if left else base
        return (torch.ones_like(dots) if result is None else result) * self.delta**2

    def gram(self) -> Float[Tensor, "points points"]:
        return torch.block_diag(*[self._power(p @ p.T) for p in self.points.double().split(self.sizes())])

    @torch.no_grad()
    def candidates(self, graph: Graph) -> list[Tensor]:
        spectra, species = self.soap(graph), self.soap.species(graph)
        return [spectra[species == center] for center in self.centers]

    def cross(self, graph: Graph, other: Graph) -> Float[Tensor, "atoms others"]:
        mine, theirs = self.soap.species(graph), self.soap.species(other)
        known = torch.isin(mine, torch.tensor(self.centers, device=mine.device))
        same = (mine[:, None] == theirs) & known[:, None]
        return torch.where(same, self._power(self.soap(graph) @ self.soap(other).T), 0.0)

    @torch.no_grad()
    def design(self, graph: Graph, *, forces: bool, virial: bool) -> Design:
        """Rows in closed form.

        With ``d = x_i . x_m`` and ``G = delta^2 zeta d^(zeta-1)``,
        ``dk/dr_ij = G / |p| (dp/dr_ij . x_m - d dp/dr_ij . x_i)``. Derivatives of p are never stored in full: those
        of the coefficients meet the sparse points through their channel matrices, in one matrix product for each
        pair of species, a few pairs at a time.
        """
        species, sizes, count = self.soap.species(graph), self.sizes(), len(self.elements)
        if not (forces or virial):
            return Design(total(graph, self.kernel(self.soap(graph), species)))
        i, j = graph.pairs
        kind = species[i] * count + species[j]
        order = torch.argsort(kind, stable=True)
        made = self.soap.pair_derivatives(graph, order)
        i, j, vectors = i[order], j[order], graph.vectors()[order].to(made.norms)
        energy = total(graph, self.kernel(made.spectrum, species))
        found = Gradients(graph, sum(sizes), virial, energy)
        stops = [0, *torch.bincount(kind, minlength=count**2).cumsum(0).tolist()]
        sets, folded = self._kept(energy)
        column = 0
        for group, (center, size) in enumerate(zip(self.centers, sizes, strict=True)):
            block = slice(column, column + size)
            column += size
            if not size:
                continue
            dots = made.spectrum @ sets[group].T
            slope = self._power(dots, less=1) * (self.zeta * 2 / made.norms[:, None])
            step = max(ROWS // (3 * size), 1)
            for sender in range(count):
                which = center * count + sender
                for start in range(stops[which], stops[which + 1], step):
                    part = slice(start, min(start + step, stops[which + 1]))
                    at = i[part]
                    g = self._pair_gradient(made, part, dots[at], folded[group, sender])
                    found.add(block, at, j[part], vectors[part], g.mul_(slope[at][:, None, :]))
        return found.design(energy)

    def _pair_gradient(self, made: PairDerivatives, pairs: slice, dots: Tensor, folded: _Folded) -> Tensor:
        """``(dP . x_m - d_im dP . x_i) / 2`` for pairs of one (center, sender), ``(pairs, 3, points)``."""
        halves = [folded.symmetric(half[pairs].reshape(3 * len(dots), -1)) for half in made.halves]
        found = (torch.cat(halves, 1) @ folded.matrix).view(len(dots), 3, -1)
        return found.addcmul_(made.along[pairs, :, None], dots[:, None, :], value=-1)

    def _prepare(self, points: Tensor) -> tuple[list[Tensor], _FoldedSets]:
        """Sparse points by group, and on demand their channel matrices by group and sender."""
        sets = list(points.split(self.sizes()))
        return sets, _FoldedSets(self.soap, sets)


class _Folded:
    """Channel matrices of sparse points for neighbors of one species.

    ``sum_nk H_nk Q_nk`` over the neighbor's own n functions and all channels k. Where k is of the same species Q is
    symmetric, and H_nk and H_kn are added first: for one species, that is nearly half of the product.

    Args:
        matrices: ``(points, degrees, n_max, channels)``.
        sender: position of the species; -1 where channels are sums of species and nothing is symmetric.
    """

    def __init__(self, matrices: Tensor, sender: int) -> None:
        n_max, channels = matrices.shape[2:]
        n, k = torch.arange(n_max)[:, None], torch.arange(channels) - sender * n_max
        own = (k >= 0) & (k < n_max) & (sender >= 0)
        lower = (own & (k <= n)).flatten().nonzero()[:, 0]
        self.across = (lower % channels - sender * n_max) * channels + lower // channels + sender * n_max
        self.kept = torch.cat([lower, (~own).expand(n_max, -1).flatten().nonzero()[:, 0]])
        weight = torch.where(own & (k == n), 0.5, 1.0).flatten()[self.kept].to(matrices)
        flat = matrices.flatten(2)[:, :, self.kept] * weight
        self.matrix = flat.flatten(1).T.contiguous()

    def symmetric(self, half: Float[Tensor, "rows channels"]) -> Tensor:
        """The distinct sums of elements of H."""
        found = half.index_select(1, self.kept)
        found[:, : len(self.across)] += half.index_select(1, self.across)
        return found


class _FoldedSets:
    """A :class:`_Folded` for each group of sparse points and species of neighbor, made when first asked for."""

    def __init__(self, soap: Soap, sets: list[Tensor]) -> None:
        self.soap, self.sets = soap, sets
        self.made: dict[int, list[_Folded]] = {}

    def __getitem__(self, which: tuple[int, int]) -> _Folded:
        group, sender = which
        if group not in self.made:
            soap, points = self.soap, self.sets[group]
            shape = (len(points), soap.l_max + 1, soap.n_species, soap.n_max, soap.n_channels)
            matrices = soap.unfold(points).view(shape).unbind(2)
            self.made[group] = [_Folded(m, k if soap.mixing is None else -1) for k, m in enumerate(matrices)]
        return self.made[group][sender]
