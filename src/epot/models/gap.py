"""GAP: sparse Gaussian-process regression of atomic energies on SOAP power spectra.

Bartok, Payne, Kondor, Csanyi, Phys. Rev. Lett. 104, 136403 (2010), doi:10.1103/PhysRevLett.104.136403;
Deringer et al., Chem. Rev. 121, 10073 (2021), doi:10.1021/acs.chemrev.1c00022 (equations below).

    E   = sum_i eps(x_i),   eps(x) = sum_m alpha_m k(x, x_m)                       (Eq. 24, 42)
    k   = delta^2 (x . x' / |x| |x'|)^zeta     for one species of center, else 0    (Eq. 36)
    alpha = (K_MM + K_MN Sigma^-1 K_NM)^-1 K_MN Sigma^-1 y                          (Eq. 26)

``x`` is the SOAP power spectrum (:mod:`epot.features.descriptors.soap`). ``Output.features`` are the kernels
k(x_i, x_m), blocks of one species after the other; the readout's weights are alpha, the precision of their prior
K_MM. So energies, forces and virials of a structure are linear in alpha, and :class:`epot.fit.stages.solve.Solve` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from ..blocks.design import Design
from ..blocks.readout import LinearReadout
from ..data.structure import Structure
from ..elements import names, to_number
from ..errors import ConfigError, ModelError
from ..features.descriptors.soap import PairDerivatives, Soap
from ..geometry.graph import Graph, build
from ..potential import Output, Potential
from ..typing import Float, Tensor


class GAP(Potential):
    """Sparse Gaussian process on SOAP, one sparse set for each species of center.

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å. Shorter ones need fewer data and sparse points: 4 suits molecules, metals may need 5 to 6.
        n_max: radial basis functions.
        l_max: highest degree of the spherical harmonics.
        sigma: Å, width of the Gaussians that stand for the neighbors (``atom_sigma``).
        zeta: power of the normalized dot product, a whole number.
        n_sparse: sparse points, of all species together; a fit chooses them
            (:class:`epot.fit.stages.sparse.SelectSparse`).
        delta: eV, scale of the kernel: the spread of atomic energies that it expects.
        cutoff_width: Å, over which a neighbor fades in (``cutoff_transition_width``); None for the whole cutoff, which
            weighs near neighbors more than far ones and makes the same data go farther.
        center_weight: of the atom's own Gaussian.

    Raises:
        ConfigError: an argument is out of range.
    """

    recipe: ClassVar[str] = "solve"
    CITATION: ClassVar[str] = """@article{Bartok2010,
  author = {Bart{\\'o}k, Albert P. and Payne, Mike C. and Kondor, Risi and Cs{\\'a}nyi, G{\\'a}bor},
  title = {Gaussian Approximation Potentials: The Accuracy of Quantum Mechanics, without the Electrons},
  journal = {Phys. Rev. Lett.}, volume = {104}, pages = {136403}, year = {2010},
  doi = {10.1103/PhysRevLett.104.136403}
}
@article{Bartok2013,
  author = {Bart{\\'o}k, Albert P. and Kondor, Risi and Cs{\\'a}nyi, G{\\'a}bor},
  title = {On representing chemical environments},
  journal = {Phys. Rev. B}, volume = {87}, pages = {184115}, year = {2013}, doi = {10.1103/PhysRevB.87.184115}
}"""

    elements: tuple[int, ...]
    sparse: Tensor
    counts: Tensor

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        cutoff: float = 4.5,
        n_max: int = 8,
        l_max: int = 6,
        sigma: float = 0.4,
        zeta: int = 4,
        n_sparse: int = 4000,
        delta: float = 1.0,
        cutoff_width: float | None = None,
        center_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        self.cutoff, self.n_max, self.l_max, self.sigma = float(cutoff), n_max, l_max, float(sigma)
        self.zeta, self.n_sparse, self.delta = zeta, n_sparse, float(delta)
        self.cutoff_width = None if cutoff_width is None else float(cutoff_width)
        self.center_weight = float(center_weight)
        if zeta < 1 or n_sparse < 1 or not delta > 0:
            raise ConfigError(f"GAP needs zeta, n_sparse and delta above 0; given: {zeta}, {n_sparse}, {delta}.")
        self.soap = Soap(
            self.elements, self.cutoff, n_max, l_max, self.sigma,
            cutoff_width=self.cutoff_width or self.cutoff, center_weight=self.center_weight,
        )  # fmt: skip
        self.register_buffer("sparse", torch.zeros(0, self.soap.size, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(len(self.elements), dtype=torch.int64))
        self.readout = LinearReadout(0, bias=False).double()
        self._folded: list[list[Tensor]] | None = None

    @classmethod
    def tiny(cls) -> GAP:
        """Three elements; two sparse points of each, from a chain of six atoms, and weights from a fixed generator."""
        made = cls(elements=(1, 6, 8), cutoff=4.0, n_max=3, l_max=3, n_sparse=6)
        chain = np.array(
            [[0, 0, 0], [1.1, 0.2, 0], [1.5, 1.4, 0.3], [-0.4, 0.9, 0.2], [2.0, -0.9, 0.4], [2.9, 1.6, 1.0]]
        )
        spectra = made.soap(build(Structure(np.array([1, 6, 8, 1, 6, 8]), chain), made.cutoff))
        made.set_sparse([spectra[[k, k + 3]] for k in range(3)])
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            made.readout.weight.copy_(torch.randn(6, generator=random, dtype=torch.float64))
        return made

    def set_sparse(self, spectra: Sequence[Float[Tensor, "_ size"]]) -> None:
        """Take sparse points, one tensor of power spectra for each element; weights become zero.

        The readout is made anew, with ``K_MM`` as the precision of its prior.
        """
        if len(spectra) != len(self.elements):
            raise ConfigError(f"GAP has {len(self.elements)} elements; sparse points of {len(spectra)} were given.")
        points = torch.cat(list(spectra)).to(self.sparse)
        self.sparse = points / points.square().sum(1, keepdim=True).sqrt()
        self.counts = torch.tensor([len(s) for s in spectra], device=points.device)
        self._folded = None
        readout = LinearReadout(len(points), bias=False).to(points)
        torch.nn.init.zeros_(readout.weight)
        species = torch.arange(len(spectra), device=points.device).repeat_interleave(self.counts)
        readout.precision = self.kernel(self.sparse, species)
        self.readout = readout

    def forward(self, graph: Graph) -> Output:
        """Energies per atom, with kernels as features.

        Raises:
            ModelError: no sparse points were chosen yet.
            UnknownElementError: an element that this potential was not made for.
        """
        features = self.kernel(self.soap(graph), self.soap.species(graph))
        energy, members = self.readout(features)
        return Output(energy, members=members, features=features)

    def kernel(self, spectra: Tensor, species: Tensor) -> Float[Tensor, "atoms features"]:
        """``k(x_i, x_m)``: zero where the species of the two centers differ."""
        sizes = self._sizes()
        if len(sizes) == 1:
            return self._power(spectra @ self.sparse.T)
        order, blocks, column = [], [], 0
        for k, (size, points) in enumerate(zip(sizes, self.sparse.split(sizes), strict=True)):
            rows = (species == k).nonzero()[:, 0]
            order.append(rows)
            block = self._power(spectra.index_select(0, rows) @ points.T)
            blocks.append(torch.nn.functional.pad(block, (column, sum(sizes) - column - size)))
            column += size
        return torch.cat(blocks).index_select(0, torch.cat(order).argsort())

    def _sizes(self) -> list[int]:
        if not len(self.sparse):
            raise ModelError("This GAP has no sparse points yet: fit it, with the stages SelectSparse and Solve.")
        return self.counts.tolist()

    def _power(self, dots: Tensor, less: int = 0) -> Tensor:
        """``delta^2 d^(zeta - less)`` by squaring: powers of tensors are slow."""
        result, base, left = None, dots, self.zeta - less
        while left:
            if left & 1:
                result = base if result is None else result * base
            left >>= 1
            base = base * base if left else base
        return (torch.ones_like(dots) if result is None else result) * self.delta**2

    @torch.no_grad()
    def design(self, graph: Graph, *, forces: bool = True, virial: bool = True) -> Design:
        """Rows of energies, forces and virials in closed form (Deringer 2021, section 4.1; :class:`Design`).

        With ``d = x_i . x_m`` and ``G = delta^2 zeta d^(zeta-1)``,
        ``dk/dr_ij = G / |p| (dp/dr_ij . x_m - d dp/dr_ij . x_i)``.
        Derivatives of p are never stored in full: those of the coefficients meet the sparse points through their
        channel matrices, one matrix product for each l and each pair of species.
        """
        species, sizes = self.soap.species(graph), self._sizes()
        if not (forces or virial):
            return Design(self._sum(graph, self.kernel(self.soap(graph), species)))
        i, j = graph.pairs
        kind = species[i] * len(sizes) + species[j]
        order = torch.argsort(kind, stable=True)
        made = self.soap.pair_derivatives(graph, order)
        i, j, vectors = i[order], j[order], graph.vectors()[order].to(made.norms)
        energy = self._sum(graph, self.kernel(made.spectrum, species))
        rows = energy.new_zeros(graph.n_atoms, 3, sum(sizes))
        stress = energy.new_zeros(graph.n_structures * 3, 3, sum(sizes))
        stops = torch.bincount(kind, minlength=len(sizes) ** 2).cumsum(0).tolist()
        column = 0
        for center, size in enumerate(sizes):
            block = slice(column, column + size)
            column += size
            dots = made.spectrum @ self.sparse[block].T
            slope = self._power(dots, less=1) * (self.zeta * 2 / made.norms[:, None])
            for sender in range(len(sizes)):
                which = center * len(sizes) + sender
                pairs = slice(stops[which - 1] if which else 0, stops[which])
                if not size or pairs.start == pairs.stop:
                    continue
                g = self._pair_gradient(made, pairs, dots[i[pairs]], center, sender)
                g *= slope[i[pairs]][:, None, :]
                rows[:, :, block].index_add_(0, i[pairs], g).index_add_(0, j[pairs], g, alpha=-1)
                if virial:
                    stress[:, :, block] -= self._pull(graph, i[pairs], vectors[pairs], g)
        return Design(
            energy, rows.view(3 * graph.n_atoms, -1), stress.view(graph.n_structures, 9, -1) if virial else None
        )

    def _pair_gradient(self, made: PairDerivatives, pairs: slice, dots: Tensor, center: int, sender: int) -> Tensor:
        """``(dP . x_m - d_im dP . x_i) / 2`` for pairs of one (center, sender), ``(pairs, 3, points)``."""
        width = self.n_max * self.soap.n_channels
        found = dots.new_zeros(3 * len(dots), dots.shape[1])
        for half, folded in zip(made.halves, self._fold()[center], strict=True):
            found.addmm_(half[pairs].view(-1, width), folded[sender])
        return found.view(len(dots), 3, -1).sub_(made.along[pairs, :, None] * dots[:, None, :])

    @staticmethod
    def _pull(graph: Graph, at: Tensor, vectors: Tensor, g: Tensor) -> Tensor:
        """``sum_ij r_ij (x) g_ij`` of each structure, ``(3 structures, 3, points)``."""
        weights = g.new_zeros(graph.n_structures, 3, len(at))
        weights[graph.owner[at], :, torch.arange(len(at), device=at.device)] = vectors
        return (weights.view(-1, len(at)) @ g.view(len(at), -1)).view(-1, 3, g.shape[2])

    def _fold(self) -> list[list[Tensor]]:
        """Channel matrices of the sparse points, for each element and l ``(senders, n_max * channels, points)``."""
        if self._folded is None:
            self._folded = []
            for points in self.sparse.split(self._sizes()):
                matrices = self.soap.unfold(points).view(
                    len(points), self.l_max + 1, len(self.elements), self.n_max * self.soap.n_channels
                )
                self._folded.append([m.permute(1, 2, 0).contiguous() for m in matrices.unbind(1)])
        return self._folded

    @staticmethod
    def _sum(graph: Graph, features: Tensor) -> Tensor:
        return features.new_zeros(graph.n_structures, features.shape[1]).index_add_(0, graph.owner, features)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, and the sparse points."""
        points = ", ".join(f"{names([z])}: {c}" for z, c in zip(self.elements, self.counts.tolist(), strict=True))
        return f"{super().extra_repr()}, sparse points: {points}"
