"""NeuralIL: one dense network on spherical Bessel power spectra, for ionic liquids and beyond.

H. Montes-Campos, J. Carrete, S. Bichelmaier, L. M. Varela, G. K. H. Madsen, J. Chem. Inf. Model. 62, 88 (2022),
doi:10.1021/acs.jcim.1c01380 (dense core); J. Carrete, H. Montes-Campos, R. Wanzenboeck, E. Heid, G. K. H. Madsen,
J. Chem. Phys. 158, 204801 (2023), doi:10.1063/5.0146905 (residual core, deep ensembles).

    E_i = w . core(p_i, e_(Z_i)) + b  [ + Morse baseline ]

``p_i`` is the power spectrum (:mod:`epot.features.descriptors.spherical_bessel`), ``e_Z`` a learned vector of the
element; one network serves all elements. The paper fits forces alone by their log-cosh; here energies and forces, by
their norms, are the default (``descend.loss="logcosh"`` and ``descend.targets=[forces]`` are the paper's); Muon takes
the place of one-cycle AdamW and VeLO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn.functional import silu

from ..blocks.member_layers import MemberDense
from ..blocks.member_readout import MemberReadout
from ..blocks.neuralil_core import CORES, MorseBaseline, VarianceHead
from ..blocks.readout import LinearReadout
from ..elements import to_number
from ..errors import ConfigError
from ..features.descriptors.spherical_bessel import SphericalBessel
from ..geometry.graph import Graph
from ..potential import Output, Potential, Shared
from ..typing import Tensor


class NeuralIL(Potential):
    """Dense or residual network on spherical Bessel power spectra; deep ensembles.

    Args:
        elements: symbols or atomic numbers; the order of the descriptor's channels.
        cutoff: Å.
        n_max: highest order of the radial and angular functions; the paper's 4 is three times as fast, less accurate.
        embedding: length of the vector of an element.
        core: ``"dense"`` (2022) or ``"resnet"`` (2023).
        widths: of the layers; of ``"resnet"`` at least two. Published: (64, 32, 16, 16, 16) and (64, 32, 16).
        morse: baseline between pairs: ``"none"``, ``"repulsive"`` (2022) or ``"full"`` (2023).
        n_members: potentials side by side on one descriptor; more than one make a committee.
        variance_heads: also learn the variances of energies and forces (2023; loss ``"nll"``).
        outlet: ``"linear"``: the energy is linear in the last hidden layer; ``"swish"``: one more neuron with a swish,
            and the energy is linear in that, which bounds it on one side (as published, for published weights).

    Raises:
        ConfigError: a size that is not positive, or too few widths.
    """

    recipe: ClassVar[str] = "descend"
    pairwise = True
    CITATION = """@article{montescampos2022neuralil,
  title = {A Differentiable Neural-Network Force Field for Ionic Liquids},
  author = {Montes-Campos, Hadri{\\'a}n and Carrete, Jes{\\'u}s and Bichelmaier, Sebastian and Varela, Luis M. and
            Madsen, Georg K. H.},
  journal = {J. Chem. Inf. Model.}, volume = {62}, pages = {88--101}, year = {2022}, doi = {10.1021/acs.jcim.1c01380}
}
@article{carrete2023deep,
  title = {Deep ensembles vs committees for uncertainty estimation in neural-network force fields},
  author = {Carrete, Jes{\\'u}s and Montes-Campos, Hadri{\\'a}n and Wanzenb{\\"o}ck, Ralf and Heid, Esther and
            Madsen, Georg K. H.},
  journal = {J. Chem. Phys.}, volume = {158}, pages = {204801}, year = {2023}, doi = {10.1063/5.0146905}
}"""

    elements: tuple[int, ...]

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        cutoff: float = 4.0,
        n_max: int = 8,
        embedding: int = 2,
        core: Literal["dense", "resnet"] = "resnet",
        widths: Sequence[int] = (192, 96, 48),
        morse: Literal["none", "repulsive", "full"] = "none",
        n_members: int = 1,
        variance_heads: bool = False,
        outlet: Literal["linear", "swish"] = "linear",
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        self.cutoff, self.n_max, self.embedding, self.core = float(cutoff), n_max, embedding, core
        self.widths, self.morse, self.n_members = tuple(widths), morse, n_members
        self.variance_heads, self.outlet = variance_heads, outlet
        self._refuse()
        members = n_members if n_members > 1 else 0
        self.descriptor = SphericalBessel(self.elements, self.cutoff, n_max).float()
        axis = (members,) if members else ()
        self.embed = nn.Parameter(torch.randn(*axis, len(self.elements), embedding, dtype=torch.float32))
        self.layers = CORES[core](self.descriptor.size + embedding, self.widths, members)
        self.last = MemberDense(self.widths[-1], 1, members) if outlet == "swish" else None
        n_features = 1 if outlet == "swish" else self.widths[-1]
        self.readout = MemberReadout(members, n_features) if members else LinearReadout(n_features).float()
        heads = [VarianceHead(self.widths[-1], members) for _ in range(2)] if variance_heads else []
        self.heads = nn.ModuleList(heads)  # of the energy, of the forces
        self.pair = None if morse == "none" else MorseBaseline(len(self.elements), self.cutoff, morse, members)

    def _refuse(self) -> None:
        least = 2 if self.core == "resnet" else 1
        for name, value in (("embedding", self.embedding), ("n_members", self.n_members)):
            if value < 1:
                raise ConfigError(f"NeuralIL got {name}={value}; it needs at least 1.")
        if len(self.widths) < least or min(self.widths) < 2:
            raise ConfigError(
                f"NeuralIL's core {self.core!r} needs at least {least} widths of at least 2; given: {self.widths}."
            )

    @property
    def committee(self) -> bool:  # type: ignore[override]
        """Whether there are several potentials, of which none shares a parameter with another."""
        return self.n_members > 1

    @classmethod
    def tiny(cls) -> NeuralIL:
        return cls((1, 6, 8), cutoff=3.5, n_max=2, widths=(12, 8), morse="repulsive")

    def forward(self, graph: Graph) -> Output:
        rows, kinds = self.descriptor(graph), self.descriptor.species(graph)
        distances = None if self.pair is None else graph.vectors().to(rows).square().sum(1).sqrt()
        if self.committee:
            return self._members(graph, rows, kinds, distances)
        hidden = self.layers(torch.cat([rows, self.embed.index_select(0, kinds)], 1))
        features = hidden if self.last is None else silu(self.last(hidden))
        energy, members = self.readout(features)
        if distances is not None:
            baseline = self._baseline(graph, kinds, distances)
            energy = energy + baseline
            members = None if members is None else members + baseline[:, None]
        return Output(energy, members, features, variance=self._variance(hidden))

    def _members(self, graph: Graph, rows: Tensor, kinds: Tensor, distances: Tensor | None) -> Output:
        """All members at once: each sees the descriptor and the distances through a copy of its own."""
        sources = (rows,) if distances is None else (rows, distances)
        copies = tuple(s.expand(self.n_members, *s.shape) for s in sources)
        hidden = self.layers(torch.cat([copies[0], self.embed.index_select(1, kinds)], 2))
        features = hidden if self.last is None else silu(self.last(hidden))
        members = self.readout(features)
        if distances is not None:
            members = members + self._baseline(graph, kinds, copies[1]).T
        variance = self._variance(hidden)
        return Output(members.mean(1), members, variance=variance, shared=Shared(sources, copies))

    def _baseline(self, graph: Graph, kinds: Tensor, distances: Tensor) -> Tensor:
        assert self.pair is not None  # distances were made for it
        i, j = graph.pairs
        return self.pair(distances, (kinds[i], kinds[j]), i, graph.n_atoms)

    def _variance(self, hidden: Tensor) -> Tensor | None:
        """Of the energy and of the forces, eV^2 and (eV/Å)^2, ``(atoms, 2[, members])``."""
        if not self.heads:
            return None
        each = torch.stack([head(hidden) for head in self.heads], -1)
        return (each.movedim(0, -1) if self.committee else each) * self.readout.scale.square()
