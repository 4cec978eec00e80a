"""Flattened Cartesian coordinates: what a description of a molecule must not be.

It is here to show what the other descriptors are for: it changes when a molecule is moved, turned or its atoms are
renumbered, although the energy does not (`epot demo symmetry`; Behler and Parrinello, Phys. Rev. Lett. 98, 146401
(2007), doi:10.1103/PhysRevLett.98.146401, say it in their first paragraph).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from ...errors import ConfigError
from ...geometry.graph import Graph
from ...typing import Float, Tensor
from ..descriptor import Descriptor
from ..matrices import refuse_large, rows_by_size
from .coulomb_matrix import MOLECULES, refuse_periodic

BROKEN = {
    "permutation": "coordinates are in the order of the atoms",
    "rotation": "coordinates turn with the molecule",
    "inversion": "coordinates turn with the molecule",
    "translation": "coordinates move with the molecule",
    "momentum": "an energy that changes with the origin and the orientation has a net force and a net torque",
}


class Cartesian(Descriptor):
    """Coordinates x, y, z of every atom, one after the other.

    Args:
        elements: symbols or atomic numbers that are allowed.
        n_atoms_max: atoms of the largest molecule; smaller ones are filled up with zeros.

    Raises:
        ConfigError: ``n_atoms_max`` is below 1.
    """

    whole: ClassVar[bool] = True
    axes: ClassVar[str] = "open"
    exempt: ClassVar[dict[str, str]] = MOLECULES | BROKEN
    CITATION: ClassVar[str] = """@article{Behler2007,
  author = {Behler, J{\\"o}rg and Parrinello, Michele},
  title = {Generalized Neural-Network Representation of High-Dimensional Potential-Energy Surfaces},
  journal = {Phys. Rev. Lett.}, volume = {98}, pages = {146401}, year = {2007}, doi = {10.1103/PhysRevLett.98.146401}
}"""

    def __init__(self, elements: Sequence[int | str], n_atoms_max: int = 32) -> None:
        super().__init__(elements)
        if n_atoms_max < 1:
            raise ConfigError(f"n_atoms_max is {n_atoms_max}; a structure has at least one atom.")
        self.n_atoms_max, self.cutoff = n_atoms_max, 0.0
        self.register_buffer("one", torch.ones((), dtype=torch.float64), persistent=False)

    one: Tensor

    @property
    def size(self) -> int:
        return 3 * self.n_atoms_max

    def columns(self) -> list[str]:
        """``x 0``, ``y 0`` ..."""
        return [f"{axis} {k}" for k in range(self.n_atoms_max) for axis in "xyz"]

    @classmethod
    def tiny(cls) -> Cartesian:
        return cls((1, 6, 8), n_atoms_max=24)

    def forward(self, graph: Graph) -> Float[Tensor, "structures size"]:
        """One row for each molecule.

        Raises:
            ModelError: a periodic structure, or more atoms than ``n_atoms_max``.
            UnknownElementError: an element that it was not made for.
        """
        refuse_periodic(graph, "A list of coordinates", "it has no images")
        refuse_large(graph, self.n_atoms_max, "Cartesian")
        self.species(graph)
        positions = graph.positions.to(self.one)
        return rows_by_size(graph, self.size, lambda atoms, which: positions[atoms].flatten(1))
