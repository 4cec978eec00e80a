"""Ridge regression of atomic energies on any descriptor, linear or with the products of its components.

    E = sum_i ( b_Z(i) + w_Z(i) . x_i  [+ x_i . W_Z(i) x_i] ),       x = (G - mean) / scale

with the descriptor G of atom i, standardized over the training set for each element Z of the center. With products of
components it is the quadratic model of Wood and Thompson, J. Chem. Phys. 148, 241721 (2018), doi:10.1063/1.5017641, on
another descriptor; the linear one is that of Thompson et al., J. Comput. Phys. 285, 316 (2015),
doi:10.1016/j.jcp.2014.12.018, Eqs. 16-18: energies, forces and virials are linear in the weights, which
:class:`epot.fit.stages.solve.Solve` finds; its ``prior`` is the strength of the ridge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from ..blocks.descriptor_rows import descriptor_rows
from ..blocks.design import Design
from ..blocks.readout import LinearReadout
from ..blocks.standardize import Standardize
from ..elements import to_number
from ..features.descriptor import make
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..typing import Float, Tensor


class Linear(Potential):
    """Ridge regression on any descriptor, one set of weights for each element.

    Args:
        elements: symbols or atomic numbers.
        descriptor: its name, or its configuration ``{"name": "soap", "n_max": 6}``.
        quadratic: also the products of components of one atom, ``size (size + 1) / 2`` more weights for each element.

    Raises:
        ConfigError: an unknown descriptor, or an argument of it out of range.
    """

    recipe: ClassVar[str] = "solve"
    CITATION: ClassVar[str] = """@article{Thompson2015,
  author = {Thompson, A. P. and Swiler, L. P. and Trott, C. R. and Foiles, S. M. and Tucker, G. J.},
  title = {Spectral neighbor analysis method for automated generation of quantum-accurate interatomic potentials},
  journal = {J. Comput. Phys.}, volume = {285}, pages = {316--330}, year = {2015}, doi = {10.1016/j.jcp.2014.12.018}
}"""

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        descriptor: str | Mapping[str, Any] = "acsf",
        quadratic: bool = False,
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        self.descriptor = make(descriptor, self.elements)
        self.quadratic, self.cutoff = quadratic, self.descriptor.cutoff
        self.pairwise = not self.descriptor.whole
        size = self.descriptor.size
        self.width = 1 + size + (size * (size + 1) // 2 if quadratic else 0)
        self.rows = 1 if self.descriptor.whole else len(self.elements)
        self.standardize = Standardize(self.rows, size)
        self.readout = LinearReadout(self.rows * self.width, bias=False).double()

    @classmethod
    def tiny(cls) -> Linear:
        """Three elements, and weights from a fixed generator."""
        made = cls((1, 6, 8), {"name": "three_body", "cutoff": 4.0, "n": 2, "n_angles": 2, "two_body": 4})
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            made.readout.weight.copy_(torch.randn(made.readout.weight.shape, generator=random, dtype=torch.float64))
        return made

    def forward(self, graph: Graph) -> Output:
        """Energies per atom; those of a descriptor of whole structures are spread evenly."""
        values = self.descriptor(graph)
        if self.descriptor.whole:
            own = self.polynomials(self.standardize(values, torch.zeros_like(graph.sizes)))
            features = (own / graph.sizes[:, None])[graph.owner]
        else:
            species = self.descriptor.species(graph)
            features = self.columns(self.polynomials(self.standardize(values, species)), species)
        energy, members = self.readout(features)
        return Output(energy, members, features)

    def polynomials(self, x: Float[Tensor, "rows size"]) -> Float[Tensor, "rows width"]:
        """A one, the components and, where asked for, their products."""
        parts = [x.new_ones(len(x), 1), x]
        if self.quadratic:
            a, b = torch.triu_indices(x.shape[1], x.shape[1], device=x.device)
            parts.append(x[:, a] * x[:, b])
        return torch.cat(parts, 1)

    def columns(self, rows: Tensor, species: Tensor) -> Float[Tensor, "atoms features"]:
        """Each atom's row in the columns of its element, zeros in the others."""
        if self.rows == 1:
            return rows
        own = torch.nn.functional.one_hot(species, self.rows).to(rows)
        return (own[:, :, None] * rows[:, None, :]).flatten(1)

    @torch.no_grad()
    def design(self, graph: Graph, *, forces: bool = True, virial: bool = True) -> Design | None:
        """Rows of energies, forces and virials; None for descriptors of whole structures, which have no closed form."""
        if self.descriptor.whole:
            return None
        species = self.descriptor.species(graph)
        x = self.standardize(self.descriptor(graph), species)
        features = self.columns(self.polynomials(x), species)
        energy = features.new_zeros(graph.n_structures, features.shape[1]).index_add_(0, graph.owner, features)
        if not (forces or virial):
            return Design(energy)

        def chain(slopes: Tensor, i: Tensor, kind: int) -> Tensor:
            slopes = slopes / self.standardize.scale[kind]
            parts = [slopes.new_zeros(*slopes.shape[:2], 1), slopes]
            if self.quadratic:
                a, b = torch.triu_indices(x.shape[1], x.shape[1], device=x.device)
                own = x[i][:, None, :]
                parts.append(own[:, :, a] * slopes[:, :, b] + own[:, :, b] * slopes[:, :, a])
            return torch.cat(parts, 2)

        return Design(energy, *descriptor_rows(self.descriptor, graph, [self.width] * self.rows, chain, virial))
