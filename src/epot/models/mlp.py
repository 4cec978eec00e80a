"""One network for whole molecules: what came before a network for each atom.

    E = sum_i f(x)/N + b,      f: a network of the description x of a whole molecule of N atoms

as in the first potential-energy surfaces by neural networks (Blank, Brown, Calhoun, Doren, J. Chem. Phys. 103, 4129
(1995), doi:10.1063/1.469597), with whatever describes whole molecules in place of their coordinates. It knows one
molecule, or molecules of up to ``n_atoms_max`` atoms, and nothing of larger ones; with ``descriptor="cartesian"`` not
even that a turned molecule is the same one (`epot demo symmetry`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ..blocks.element_networks import ACTIVATIONS
from ..blocks.mlp import dense
from ..blocks.readout import LinearReadout
from ..blocks.standardize import Standardize
from ..blocks.whole_structures import suited_descriptor, whole_descriptor
from ..data.structure import Structure
from ..elements import to_number
from ..errors import ConfigError
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..registry import nearest


class Mlp(Potential):
    """One network on a description of a whole structure: for one molecule, or to see what symmetry is worth.

    Args:
        elements: symbols or atomic numbers.
        descriptor: of whole structures: its name or configuration; what it leaves open a fit takes from the data, with
            None all of it: ``coulomb_matrix`` for molecules (and without data), ``sine_matrix`` for crystals.
            ``"cartesian"`` breaks every symmetry.
        hidden: widths of the hidden layers.
        activation: after every hidden layer: ``"silu"``, ``"tanh"``, ``"gelu"``, ``"softplus"`` and others.

    Raises:
        ConfigError: an argument is out of range, or the descriptor is one of single atoms.
    """

    recipe: ClassVar[str] = "descend"
    CITATION: ClassVar[str] = """@article{Blank1995,
  author = {Blank, Thomas B. and Brown, Steven D. and Calhoun, August W. and Doren, Douglas J.},
  title = {Neural network models of potential energy surfaces},
  journal = {J. Chem. Phys.}, volume = {103}, pages = {4129--4137}, year = {1995}, doi = {10.1063/1.469597}
}"""

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        descriptor: str | Mapping[str, Any] | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        self.descriptor = whole_descriptor(descriptor, self.elements, "acsf_nn")
        if not hidden or min(hidden) < 1:
            raise ConfigError(f"Mlp needs hidden layers of at least one unit; given: {hidden}.")
        if activation not in ACTIVATIONS:
            raise ConfigError(f"There is no activation {activation!r}; {nearest(activation, ACTIVATIONS)}")
        self.hidden, self.activation, self.cutoff = tuple(hidden), activation, self.descriptor.cutoff
        self.standardize = Standardize(1, self.descriptor.size)
        widths = (self.descriptor.size, *self.hidden)
        self.layers = nn.ModuleList(dense(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.readout = LinearReadout(self.hidden[-1])

    @classmethod
    def for_data(cls, config: Mapping[str, Any], data: Sequence[Sequence[Structure]]) -> dict[str, Any]:
        """The descriptor that the structures need, with room for the largest."""
        return {**config, "descriptor": suited_descriptor(config.get("descriptor"), data)}

    @classmethod
    def tiny(cls) -> Mlp:
        made = cls((1, 6, 8), {"name": "coulomb_matrix", "n_atoms_max": 24}, (8, 8), "tanh")
        made.standardize.set(torch.full((1, 24), 1.0), torch.linspace(40.0, 1.0, 24, dtype=torch.float64)[None])
        return made

    def forward(self, graph: Graph) -> Output:
        """Energies, spread evenly over the atoms of a structure."""
        x = self.standardize(self.descriptor(graph), graph.sizes).to(self.readout.weight.dtype)
        for layer in self.layers:
            x = ACTIVATIONS[self.activation](layer(x))
        features = (x / graph.sizes[:, None])[graph.owner]
        energy, members = self.readout(features)
        return Output(energy, members, features)
