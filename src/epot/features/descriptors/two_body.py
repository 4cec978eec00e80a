"""Distances alone: what a sum over pairs can be made of.

    G_i,Zn = sum_(j of element Z) phi_n(r_ij)

A linear model on it is a pair potential for each pair of elements, the first step of every expansion by bodies (e.g.
van der Oord et al., Mach. Learn.: Sci. Technol. 1, 015004 (2020), doi:10.1088/2632-2153/ab527c).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from ...elements import names
from ...geometry.graph import Graph
from ...typing import Float, Tensor
from ..descriptor import Descriptor
from ..distance_basis import DistanceBasis


class TwoBody(Descriptor):
    """Smooth functions of the distances to the neighbors, summed over those of each element.

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å.
        n: functions of the distance, for each element.
        cutoff_function: one of :data:`epot.features.cutoff.CUTOFFS`.

    Raises:
        ConfigError: an impossible value.
    """

    CITATION: ClassVar[str] = """@article{VanDerOord2020,
  author = {van der Oord, Cas and Dusson, Genevi{\\`e}ve and Cs{\\'a}nyi, G{\\'a}bor and Ortner, Christoph},
  title = {Regularised atomic body-ordered permutation-invariant polynomials for the construction of interatomic
    potentials},
  journal = {Mach. Learn.: Sci. Technol.}, volume = {1}, pages = {015004}, year = {2020},
  doi = {10.1088/2632-2153/ab527c}
}"""

    unit: Tensor

    def __init__(
        self, elements: Sequence[int | str], cutoff: float = 6.0, n: int = 12, cutoff_function: str = "poly2"
    ) -> None:
        super().__init__(elements)
        self.cutoff, self.n, self.cutoff_function = float(cutoff), n, cutoff_function
        self.basis = DistanceBasis(cutoff, n, cutoff_function)
        self.register_buffer("unit", torch.ones((), dtype=torch.float64), persistent=False)  # the precision

    @classmethod
    def tiny(cls) -> TwoBody:
        return cls((1, 6, 8), 4.0, n=3)

    @property
    def size(self) -> int:
        return self.n_species * self.n

    def columns(self) -> list[str]:
        """``O: phi 3``."""
        return [f"{names([z])}: phi {n}" for z in self.elements for n in range(self.n)]

    def forward(self, graph: Graph) -> Float[Tensor, "atoms size"]:
        i, j = graph.pairs
        values, _ = self.basis(graph.vectors().to(self.unit.dtype).square().sum(1).sqrt())
        row = i * self.n_species + self.species(graph)[j]
        return (
            values.new_zeros(graph.n_atoms * self.n_species, self.n).index_add(0, row, values).view(graph.n_atoms, -1)
        )

    @torch.no_grad()
    def jacobian(self, graph: Graph) -> Float[Tensor, "pairs 3 size"]:
        """In closed form."""
        vectors = graph.vectors().to(self.unit.dtype)
        r = vectors.square().sum(1).sqrt()
        _, slopes = self.basis(r)
        out = slopes.new_zeros(graph.n_pairs, self.n_species, 3, self.n)
        kinds = self.species(graph)[graph.pairs[1]]
        out[torch.arange(graph.n_pairs, device=kinds.device), kinds] = (vectors / r[:, None])[:, :, None] * slopes[
            :, None
        ]
        return out.transpose(1, 2).flatten(2)
