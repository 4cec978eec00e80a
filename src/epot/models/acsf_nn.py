"""Behler and Parrinello's potential: one small network for each element, fed with symmetry functions.

J. Behler, M. Parrinello, Phys. Rev. Lett. 98, 146401 (2007), doi:10.1103/PhysRevLett.98.146401:

    E = sum_i NN_Z(i)(G_i),        NN(G) = w . f(W_2 f(W_1 x + b_1) + b_2) + b,        x = (G - mean) / scale

(Eqs. 1 and 3, there with one output w . y + b of the second hidden layer y). Any other descriptor can take the place of
the symmetry functions. Energies of free atoms are a term of their own (:class:`epot.terms.offsets.Offsets`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from ..blocks.element_networks import ElementNetworks
from ..blocks.readout import LinearReadout
from ..blocks.standardize import Standardize
from ..elements import SYMBOLS, to_number
from ..errors import ConfigError
from ..features.descriptor import make
from ..geometry.graph import Graph
from ..potential import Output, Potential


class AcsfNN(Potential):
    """Behler and Parrinello's per-element networks on symmetry functions, or on any other descriptor.

    Args:
        elements: symbols or atomic numbers.
        descriptor: its name, or its configuration ``{"name": "acsf", "cutoff": 6.0}``, ``{"name": "soap"}``.
        hidden: widths of the hidden layers, the same for all elements or by symbol.
        activation: ``"tanh"`` in the paper; one of :data:`epot.blocks.element_networks.ACTIVATIONS`.

    Raises:
        ConfigError: an unknown descriptor or activation, no hidden layer, or a descriptor of whole structures.
    """

    recipe: ClassVar[str] = "descend"
    pairwise = True
    CITATION: ClassVar[str] = """@article{Behler2007,
  author = {Behler, J{\\"o}rg and Parrinello, Michele},
  title = {Generalized Neural-Network Representation of High-Dimensional Potential-Energy Surfaces},
  journal = {Phys. Rev. Lett.}, volume = {98}, pages = {146401}, year = {2007}, doi = {10.1103/PhysRevLett.98.146401}
}
@article{Behler2011,
  author = {Behler, J{\\"o}rg},
  title = {Atom-centered symmetry functions for constructing high-dimensional neural network potentials},
  journal = {J. Chem. Phys.}, volume = {134}, pages = {074106}, year = {2011}, doi = {10.1063/1.3553717}
}"""

    elements: tuple[int, ...]

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        descriptor: str | Mapping[str, Any] = "acsf",
        hidden: Sequence[int] | Mapping[str, Sequence[int]] = (64, 64),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        self.descriptor = make(descriptor, self.elements).float()
        if self.descriptor.whole:
            raise ConfigError(f"AcsfNN needs a descriptor of atoms; {descriptor!r} describes whole structures.")
        if missing := [SYMBOLS[z] for z in self.elements if z not in self.descriptor.elements]:
            raise ConfigError(f"The descriptor of AcsfNN does not tell {', '.join(missing)} apart: name its elements.")
        self.cutoff, self.activation = self.descriptor.cutoff, activation
        self.hidden = {k: list(v) for k, v in hidden.items()} if isinstance(hidden, Mapping) else tuple(hidden)
        self.standardize = Standardize(self.descriptor.n_species, self.descriptor.size).float()
        self.networks = ElementNetworks(
            self.descriptor.n_species, self.descriptor.size, self._widths(), activation, torch.float32
        )
        self.readout = LinearReadout(self.networks.size, bias=False)

    @classmethod
    def tiny(cls) -> AcsfNN:
        tiny = {
            "name": "acsf",
            "cutoff": 4.0,
            "radial": [[0.5, 0.0], [4.0, 1.2]],
            "angular": [[0.05, 1, 1], [0.05, 4, -1]],
        }
        return cls((1, 6, 8), tiny, hidden=(6, 5))

    def _widths(self) -> Sequence[int] | dict[int, Sequence[int]]:
        """Hidden layers by position of the element in the descriptor."""
        if not isinstance(self.hidden, Mapping):
            return self.hidden
        symbols = [SYMBOLS[z] for z in self.descriptor.elements]
        if missing := [s for s in symbols if s not in self.hidden]:
            raise ConfigError(f"AcsfNN has no hidden layers for {', '.join(missing)}: `hidden` names every element.")
        return {k: self.hidden[s] for k, s in enumerate(symbols)}

    def forward(self, graph: Graph) -> Output:
        species = self.descriptor.species(graph)
        features = self.networks(self.standardize(self.descriptor(graph), species), species)
        energy, members = self.readout(features)
        return Output(energy, members, features)
