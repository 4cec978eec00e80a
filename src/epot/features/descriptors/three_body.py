"""Triangles: what a sum over an atom and two of its neighbors can be made of.

    G_i,ZZ'nmk = sum_(j<k, of elements Z, Z') [phi_n(r_ij) phi_m(r_ik) + phi_m(r_ij) phi_n(r_ik)] T_k(cos theta_jik)

Functions of ``r_ij + r_ik``, ``(r_ij - r_ik)^2`` and ``r_jk`` are linear combinations of them (as GAP's three-body term
has them: Deringer et al., Chem. Rev. 121, 10073 (2021), doi:10.1021/acs.chemrev.1c00022, section 4.2). Together with
:class:`~epot.features.descriptors.two_body.TwoBody` a linear model on it is a potential of two and three bodies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch

from ...elements import names
from ...errors import ConfigError
from ...geometry.graph import Graph
from ...typing import Float, Tensor
from ..descriptor import Descriptor
from ..distance_basis import DistanceBasis, TriangleFamily
from ..triple_jacobian import triple_jacobian
from ..triple_sums import triple_sums
from ..triples import Layout
from .two_body import TwoBody


class ThreeBody(Descriptor):
    """Smooth functions of two distances and the angle between them, for each pair of elements of the neighbors.

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å, of single distances.
        triangle_cutoff: Å, of the two distances of a triangle; None for three quarters of the cutoff.
        n: functions of each distance in a triangle: ``n (n + 1) / 2`` products.
        n_angles: polynomials of the cosine.
        two_body: functions of single distances that come first (:class:`TwoBody`); 0 for none.
        cutoff_function: one of :data:`epot.features.cutoff.CUTOFFS`.

    Raises:
        ConfigError: an impossible value.
    """

    CITATION: ClassVar[str] = TwoBody.CITATION

    unit: Tensor
    kinds: Tensor

    def __init__(
        self,
        elements: Sequence[int | str],
        cutoff: float = 6.0,
        triangle_cutoff: float | None = None,
        n: int = 4,
        n_angles: int = 5,
        two_body: int = 12,
        cutoff_function: str = "poly2",
    ) -> None:
        super().__init__(elements)
        self.cutoff, self.n, self.n_angles, self.two_body = float(cutoff), n, n_angles, two_body
        self.triangle_cutoff = None if triangle_cutoff is None else float(triangle_cutoff)
        self.cutoff_function = cutoff_function
        reach = 0.75 * self.cutoff if triangle_cutoff is None else float(triangle_cutoff)
        if reach > cutoff:
            raise ConfigError(f"ThreeBody's triangle_cutoff of {reach} Å is beyond its cutoff of {cutoff} Å.")
        self.family = TriangleFamily(DistanceBasis(reach, n, cutoff_function), n_angles)
        self.distances = TwoBody(self.elements, self.cutoff, two_body, cutoff_function) if two_body else None
        table = torch.zeros(self.n_species, self.n_species, dtype=torch.int64)
        for k, (a, b) in enumerate(itertools.combinations_with_replacement(range(self.n_species), 2)):
            table[a, b] = table[b, a] = k
        self.register_buffer("kinds", table, persistent=False)
        self.register_buffer("unit", torch.ones((), dtype=torch.float64), persistent=False)  # the precision

    @classmethod
    def tiny(cls) -> ThreeBody:
        return cls((1, 6, 8), 4.0, 3.6, n=2, n_angles=2, two_body=2)

    @property
    def size(self) -> int:
        pairs = self.n_species * (self.n_species + 1) // 2
        return self.n_species * self.two_body + pairs * self.family.n_left * self.n_angles

    def columns(self) -> list[str]:
        """``O: phi 3``, then ``H O: phi 0 1 T 2``."""
        first = [] if self.distances is None else self.distances.columns()
        pairs = [names(p).replace(",", "") for p in itertools.combinations_with_replacement(self.elements, 2)]
        products = itertools.product(pairs, self.family.pairs, range(self.n_angles))
        return first + [f"{p}: phi {n} {m} T {k}" for p, (n, m), k in products]

    def forward(self, graph: Graph) -> Float[Tensor, "atoms size"]:
        near = graph.within(self.family.basis.cutoff)
        found = triple_sums(near, near.vectors().to(self.unit.dtype), self.family, self._layout(graph)).flatten(1)
        return found if self.distances is None else torch.cat([self.distances(graph), found], 1)

    def _layout(self, graph: Graph) -> Layout:
        return Layout(self.species(graph), self.kinds, self.unit.expand(graph.n_atoms))

    @torch.no_grad()
    def jacobian(self, graph: Graph) -> Float[Tensor, "pairs 3 size"]:
        """In closed form."""
        vectors = graph.vectors().detach()
        near = (vectors.square().sum(1) < self.family.basis.cutoff**2).nonzero()[:, 0]
        inside = graph.replace(pairs=graph.pairs[:, near], shifts=graph.shifts[near], _vectors=vectors[near])
        own = vectors[near].to(self.unit.dtype)
        found = triple_jacobian(inside, own, self.family, self._layout(graph)).flatten(2)
        found = found.new_zeros(graph.n_pairs, *found.shape[1:]).index_copy_(0, near, found)
        return found if self.distances is None else torch.cat([self.distances.jacobian(graph), found], 2)
