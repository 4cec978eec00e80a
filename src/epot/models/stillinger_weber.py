"""The Stillinger-Weber potential: pairs, and triples that prefer an angle.

Stillinger and Weber, Phys. Rev. B 31, 5262 (1985), doi:10.1103/PhysRevB.31.5262; the energy scale is that of Balamane,
Halicioglu, Tiller, Phys. Rev. B 46, 2250 (1992), which all codes use: eps = 2.1683 eV.

    E  = sum_i [ 1/2 sum_j v2(r_ij) + sum_(j<k) v3(r_ij, r_ik, theta_jik) ]                                (Eq. 1)
    v2 = eps A ( B (sigma/r)^p - (sigma/r)^q ) exp( sigma / (r - rc) )                                     (Eq. 2.3)
    v3 = eps lambda (cos theta - cos theta_0)^2 exp( gamma sigma / (r_ij - rc) + gamma sigma / (r_ik - rc) )   (Eq. 2.4)

with rc = a sigma. All derivatives vanish at rc. The triples of an atom are sums over its neighbors of
``g, g u, g u u^T`` (u: directions, g: the exponential), so the cost is linear in the number of neighbors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ..blocks.pair_parameters import Pairs, Positive, Species, bond_length, half_sums
from ..elements import SYMBOLS, to_number
from ..errors import ConfigError
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..typing import Tensor

SILICON = 2.0951
"""Å, sigma of silicon: other elements start from it, scaled by their covalent radii."""
NEAREST_TO_CUTOFF = 2e-3
"""Å: nearer than this to the cutoff the exponentials are below 1e-400 and are taken as zero."""


class StillingerWeber(Potential):
    """Stillinger-Weber: seven fitted numbers for each pair of elements and one strength for each triple.

    Args:
        elements: symbols or atomic numbers.
        cutoff: rc, Å, the same for all pairs.
        epsilon: eV, of the pairs, to start from: for all, or by pair ``{"Si-Ge": 2.05}``.
        sigma: Å, likewise; None scales that of silicon by covalent radii.
        strength: lambda of the triples, to start from.
        cos_angle: cos theta_0, to start from, of every element in the center.
        powers: whether p and q are fitted too (they are 4 and 0, and q = 0 stays).

    Raises:
        ConfigError: an argument is out of range.
    """

    recipe: ClassVar[str] = "descend"
    optimizer: ClassVar[str] = "lbfgs"
    pairwise = True
    CITATION: ClassVar[str] = """@article{Stillinger1985,
  author = {Stillinger, Frank H. and Weber, Thomas A.},
  title = {Computer simulation of local order in condensed phases of silicon},
  journal = {Phys. Rev. B}, volume = {31}, pages = {5262--5271}, year = {1985}, doi = {10.1103/PhysRevB.31.5262}
}"""

    def __init__(
        self,
        elements: Sequence[int | str] = (14,),
        cutoff: float = 1.8 * SILICON,
        epsilon: float | Mapping[str, float] = 2.1683,
        sigma: float | Mapping[str, float] | None = None,
        strength: float = 21.0,
        cos_angle: float = -1 / 3,
        powers: bool = False,
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        if not cutoff > 0.1 or not -1 <= cos_angle <= 1:
            raise ConfigError(
                f"StillingerWeber needs a cutoff above 0.1 Å and a cosine in [-1, 1]; given: {cutoff}, {cos_angle}."
            )
        self.cutoff, self.epsilon, self.sigma = float(cutoff), epsilon, sigma
        self.strength, self.cos_angle, self.powers = strength, cos_angle, powers
        self.species = Species(self.elements)
        pairs = Pairs(self.elements)
        scaled = lambda a, b: SILICON * bond_length(a, b) / bond_length(14, 14)  # noqa: E731
        depth, size = pairs.values(epsilon, lambda a, b: 2.1683, "epsilon"), pairs.values(sigma, scaled, "sigma")
        table = lambda values: Positive(pairs.labels, values)  # noqa: E731
        every = lambda value: [value] * len(pairs.labels)  # noqa: E731
        self.pair_strength = table([7.049556277 * d for d in depth])
        self.repulsion = table(every(0.6022245584))
        self.sizes = table(size)
        self.pair_decay = table(size)
        self.triple_decay = table([1.2 * s for s in size])
        self.power = table(every(4.0)).requires_grad_(powers)
        centers = [SYMBOLS[z] for z in self.elements]
        labels = [f"{c}({pair})" for c in centers for pair in pairs.labels]
        self.triple_strength = Positive(labels, [strength * d for _ in centers for d in depth])
        cosines = torch.full((len(centers),), float(cos_angle), dtype=torch.float64)
        self.cosines = nn.Parameter(cosines)

    @classmethod
    def tiny(cls) -> StillingerWeber:
        return cls((1, 6, 8), cutoff=4.0, sigma=1.6, epsilon={"H-H": 0.5, "C-O": 1.5}, strength=2.0)

    def forward(self, graph: Graph) -> Output:
        """Energies per atom: half of its pairs, and the triples around it."""
        species, kinds = self.species(graph), self.species.pairs(graph)
        vectors = graph.vectors().to(self.cosines)
        r = vectors.square().sum(1).sqrt()
        near = r < self.cutoff - NEAREST_TO_CUTOFF
        gap = torch.where(near, r - self.cutoff, -1.0)
        fall = lambda decay: torch.where(near, torch.exp(decay[kinds] / gap), 0.0)  # noqa: E731
        wave = self.repulsion()[kinds] * (self.sizes()[kinds] / r) ** self.power()[kinds] - 1
        pairs = half_sums(graph, self.pair_strength()[kinds] * wave * fall(self.pair_decay()))
        return Output(pairs + self._triples(graph, species, fall(self.triple_decay()), vectors / r[:, None]))

    def _triples(self, graph: Graph, species: Tensor, g: Tensor, u: Tensor) -> Tensor:
        """``sum_(j<k) g_j g_k (u_j . u_k - c)^2 = 1/2 [ T:T - 2 c V.V + c^2 S^2 - sum_j g_j^2 (1 - c)^2 ]``."""
        n_species = len(self.elements or ())
        i, j = graph.pairs
        moments = torch.cat(
            [g[:, None], g[:, None] * u, (g[:, None, None] * u[:, :, None] * u[:, None, :]).flatten(1)], 1
        )
        slot = i * n_species + species[j]
        sums = moments.new_zeros(graph.n_atoms * n_species, 13).index_add(0, slot, moments).view(-1, n_species, 13)
        own = g.new_zeros(graph.n_atoms * n_species).index_add(0, slot, g.square()).view(-1, n_species)
        c = self.cosines[species]
        strength = self.triple_strength().view(n_species, -1)[species]
        total = g.new_zeros(graph.n_atoms)
        for k, (a, b) in enumerate(Pairs(self.elements or ()).each):
            product = sums[:, a] * sums[:, b]
            found = product[:, 4:].sum(1) - 2 * c * product[:, 1:4].sum(1) + c.square() * product[:, 0]
            if a == b:
                found = 0.5 * (found - own[:, a] * (1 - c).square())
            total = total + strength[:, k] * found
        return total

    def fitted_parameters(self) -> dict[str, Any]:
        """What a fit found, with units."""
        names = [SYMBOLS[z] for z in self.elements or ()]
        return {
            "eps A (eV)": self.pair_strength.report(),
            "B": self.repulsion.report(),
            "p": self.power.report(),
            "sigma (Å)": self.sizes.report(),
            "decay of pairs (Å)": self.pair_decay.report(),
            "decay of triples, gamma sigma (Å)": self.triple_decay.report(),
            "eps lambda (eV)": self.triple_strength.report(),
            "cos theta_0": dict(zip(names, self.cosines.tolist(), strict=True)),
        }
