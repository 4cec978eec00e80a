"""GAP: sparse Gaussian-process regression of atomic energies on SOAP power spectra, pairs and triples.

Bartok, Payne, Kondor, Csanyi, Phys. Rev. Lett. 104, 136403 (2010), doi:10.1103/PhysRevLett.104.136403;
Deringer et al., Chem. Rev. 121, 10073 (2021), doi:10.1021/acs.chemrev.1c00022 (equations below).

    E   = sum_d sum_i eps_d(x_i),   eps_d(x) = sum_m alpha_m k_d(x, x_m)            (Eq. 24, 42)
    k   = delta^2 (x . x' / |x| |x'|)^zeta     for one species of center, else 0    (Eq. 36; SOAP)
    k   = delta^2 exp(-1/2 sum ((x - x')/theta)^2) fc fc'                           (pairs, triples)
    alpha = (K_MM + K_MN Sigma^-1 K_NM)^-1 K_MN Sigma^-1 y                          (Eq. 26)

Each descriptor d has a kernel with its own scale, cutoff and sparse points (:mod:`epot.blocks.sparse_kernels`,
:mod:`epot.blocks.distance_kernels`). ``Output.features`` are the sums of the kernels k(x_i, x_m) of each atom, one
descriptor after the other; the readout's weights are alpha, the precision of their prior K_MM. So energies, forces and
virials of a structure are linear in alpha, and :class:`epot.fit.stages.solve.Solve` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from .. import registry
from ..blocks.design import Design
from ..blocks.distance_kernels import AngleKernel, PairKernel
from ..blocks.readout import LinearReadout
from ..blocks.sparse_kernels import SoapKernel, SparseKernel
from ..data.structure import Structure
from ..elements import names, to_number
from ..errors import ConfigError, UnknownElementError
from ..features.descriptors.soap import Soap
from ..geometry.graph import Graph, build
from ..potential import Output, Potential
from ..typing import Float, Tensor

KERNELS: dict[str, type[SparseKernel]] = {k.name: k for k in (SoapKernel, PairKernel, AngleKernel)}


class GAP(Potential):
    """Sparse Gaussian process on SOAP, pairs and triples, each group of elements with sparse points of its own.

    Without ``kernels``, one on SOAP with the arguments given here; with them, those arguments are what SOAP kernels
    that say nothing else take. Three at once, the pair term first, with the largest scale::

        kernels=[{"name": "distance_2b", "cutoff": 5.0, "delta": 2.0, "theta": 1.0, "n_sparse": 20},
                 {"name": "angle_3b", "cutoff": 3.0, "delta": 0.3, "n_sparse": 100},
                 {"name": "soap", "cutoff": 5.0, "delta": 0.3, "n_sparse": 2000}]

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
        kernels: several at once, each a mapping with a ``name`` (``soap``, ``distance_2b``, ``angle_3b``) and the
            arguments of its kernel (:class:`epot.blocks.sparse_kernels.SoapKernel`,
            :class:`epot.blocks.distance_kernels.DistanceKernel`); None for the one on SOAP.

    Raises:
        ConfigError: an argument is out of range, or a kernel or one of its arguments is unknown.
    """

    recipe: ClassVar[str] = "solve"
    pairwise = True
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
        kernels: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        self.cutoff, self.n_max, self.l_max, self.sigma = float(cutoff), n_max, l_max, float(sigma)
        self.zeta, self.n_sparse, self.delta = zeta, n_sparse, float(delta)
        self.cutoff_width = None if cutoff_width is None else float(cutoff_width)
        self.center_weight = float(center_weight)
        if zeta < 1 or n_sparse < 1 or not delta > 0:
            raise ConfigError(f"GAP needs zeta, n_sparse and delta above 0; given: {zeta}, {n_sparse}, {delta}.")
        if kernels is not None and (isinstance(kernels, (str, Mapping)) or not kernels):
            raise ConfigError(f"GAP.kernels is a list of mappings, [{{'name': 'soap', ...}}, ...]; given: {kernels!r}.")
        made = [self._kernel(k) for k in ([{"name": "soap"}] if kernels is None else kernels)]
        self.terms = torch.nn.ModuleList(made)
        self.kernels = None if kernels is None else [k.config() for k in made]
        self.cutoff = max(k.cutoff for k in made)
        self.readout = LinearReadout(0, bias=False).double()

    def _kernel(self, config: Mapping[str, Any]) -> SparseKernel:
        """One kernel of its configuration, with the SOAP arguments of the potential where that has none."""
        given = dict(config) if isinstance(config, Mapping) else {"name": config}
        kind = KERNELS.get(given.pop("name", None))
        if kind is None:
            raise ConfigError(f"A kernel of GAP has a 'name': {', '.join(KERNELS)}; given: {config!r}.")
        if kind is not SoapKernel:
            return kind(**registry.check(kind, {"elements": self.elements, **given}))
        own = {k: v for k, v in given.items() if k in registry.parameters(SoapKernel)}
        soap = {k: getattr(self, k) for k in ("cutoff", "n_max", "l_max", "sigma", "center_weight")}
        soap |= {k: v for k, v in given.items() if k not in own}
        width = soap.get("cutoff_width", self.cutoff_width)
        soap["cutoff_width"] = float(soap["cutoff"] if width is None else width)
        usual = {k: getattr(self, k) for k in ("elements", "zeta", "n_sparse", "delta")}
        registry.check(Soap, {"elements": self.elements, **soap})
        return SoapKernel(**registry.check(SoapKernel, usual | own), **soap)

    @classmethod
    def tiny(cls) -> GAP:
        """Three elements and three kernels; points from a chain of six atoms, and weights from a fixed generator."""
        made = cls(
            elements=(1, 6, 8), cutoff=4.0, n_max=3, l_max=3, n_sparse=6,
            kernels=[{"name": "soap"},
                     {"name": "distance_2b", "cutoff": 3.63, "cutoff_width": 1.4, "delta": 0.3, "n_sparse": 2},
                     {"name": "angle_3b", "cutoff": 3.17, "cutoff_width": 1.4, "delta": 0.3, "groups": ["X-X-X"]}],
        )  # fmt: skip
        chain = np.array(
            [[0, 0, 0], [1.1, 0.2, 0], [1.5, 1.4, 0.3], [-0.4, 0.9, 0.2], [2.0, -0.9, 0.4], [2.9, 1.6, 1.0]]
        )
        graph = build(Structure(np.array([1, 6, 8, 1, 6, 8]), chain), made.cutoff)
        for k, kernel in enumerate(made.kernel_list()):
            made.set_sparse([p[[0, -1]] for p in kernel.candidates(graph.within(kernel.cutoff))], k)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            size = len(made.readout.weight)
            made.readout.weight.copy_(torch.randn(size, generator=random, dtype=torch.float64))
        return made

    def kernel_list(self) -> list[SparseKernel]:
        """Its kernels, in their order."""
        return list(self.terms)  # type: ignore[arg-type]

    @property
    def soap(self) -> Soap:
        """The descriptor of the first kernel on SOAP."""
        return next(k.soap for k in self.kernel_list() if isinstance(k, SoapKernel))

    def set_sparse(self, points: Sequence[Float[Tensor, "_ size"]], kernel: int = 0) -> None:
        """Take sparse points of one kernel, one tensor for each of its groups; all weights become zero.

        Points of SOAP are power spectra of any length; those of pairs and triples have the product of their cutoff
        functions in a last column (1 for points that no structure has).

        Raises:
            ConfigError: another number of groups than the kernel has.
        """
        self.kernel_list()[kernel].set_points(points)
        count = sum(len(k.points) for k in self.kernel_list())
        self.readout = LinearReadout(count, bias=False).double().to(points[0].device)
        torch.nn.init.zeros_(self.readout.weight)

    def most_points(self) -> int:
        """Sparse points of all kernels together that a fit would choose, if the data have as many."""
        return sum(k.n_sparse * (1 if isinstance(k, SoapKernel) else len(k.labels)) for k in self.kernel_list())

    def rescale(self, factor: float) -> float:
        """Multiply the delta of every kernel, with weights that leave the energies as they are.

        Returns what weights were divided by: the root of their precision is to be multiplied by it.
        """
        for kernel in self.kernel_list():
            kernel.delta *= factor
        self.delta *= factor
        self.kernels = None if self.kernels is None else [k.config() for k in self.kernel_list()]
        with torch.no_grad():
            self.readout.weight.div_(factor**2)
        return factor**2

    def precision(self) -> Float[Tensor, "features features"]:
        """``K_MM``: of the prior on the weights. Made of the sparse points, never stored."""
        return torch.block_diag(*[k.gram() for k in self.kernel_list()])

    def forward(self, graph: Graph) -> Output:
        """Energies per atom, with kernels as features; without, where SOAP is alone and only forces are asked for.

        Raises:
            ModelError: no sparse points were chosen yet.
            UnknownElementError: an element that this potential was not made for.
        """
        self._refuse_unknown(graph)
        only, readout = self.kernel_list()[0], self.readout
        if graph.first_order and len(self.terms) == 1 and isinstance(only, SoapKernel) and not readout.n_members:
            return Output(only.energies(graph.within(only.cutoff), readout.weight * readout.scale))
        made = [kernel(graph.within(kernel.cutoff)) for kernel in self.kernel_list()]
        features = made[0] if len(made) == 1 else torch.cat(made, 1)
        energy, members = self.readout(features)
        return Output(energy, members=members, features=features)

    def _refuse_unknown(self, graph: Graph) -> None:
        """Pairs and triples of other elements belong to no group: without SOAP, nothing else would refuse them."""
        if any(isinstance(k, SoapKernel) for k in self.kernel_list()):
            return
        if extra := sorted(set(graph.numbers.unique().tolist()) - set(self.elements)):
            raise UnknownElementError(f"This GAP knows {names(self.elements)}; the graph holds {names(extra)}.")

    @torch.no_grad()
    def design(self, graph: Graph, *, forces: bool = True, virial: bool = True) -> Design:
        """Rows of energies, forces and virials in closed form (Deringer 2021, section 4.1; :class:`Design`)."""
        parts = [k.design(graph.within(k.cutoff), forces=forces, virial=virial) for k in self.kernel_list()]
        if len(parts) == 1:
            return parts[0]

        def join(found: Sequence[Tensor | None]) -> Tensor | None:
            there = [f for f in found if f is not None]
            return torch.cat(there, -1) if there else None

        energy = torch.cat([p.energy for p in parts], -1)
        return Design(energy, join([p.forces for p in parts]), join([p.virial for p in parts]))

    def prior_covariance(self, graph: Graph, other: Graph) -> Float[Tensor, "atoms others"]:
        """``k(x_i, x_j)`` of the energies of the atoms of two graphs, eV^2, all kernels together. Differentiable."""
        found = [k.cross(graph.within(k.cutoff), other.within(k.cutoff)) for k in self.kernel_list()]
        return torch.stack(found).sum(0)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, and the sparse points."""
        each = [
            ", ".join(f"{n}: {c}" for n, c in zip(k.labels, k.counts.tolist(), strict=True)) for k in self.kernel_list()
        ]
        return f"{super().extra_repr()}, sparse points: {'; '.join(each)}"
