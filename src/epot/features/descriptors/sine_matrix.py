"""The sine matrix: the Coulomb matrix of crystals, with a periodic function in place of the distance.

Faber, Lindmaa, von Lilienfeld, Armiento, Int. J. Quantum Chem. 115, 1094 (2015), doi:10.1002/qua.24917.

    M_ii = Z_i^2.4 / 2,    M_ij = Z_i Z_j / | B sum_k e_k sin^2(pi e_k B^-1 (R_i - R_j)) |        (Eq. 24)

with the lattice vectors as the columns of B. It belongs to one choice of the cell: a supercell has another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from ...errors import ModelError
from ...geometry.graph import Graph
from ...typing import Float, Tensor
from ..matrices import Kind
from .coulomb_matrix import CoulombMatrix


class SineMatrix(CoulombMatrix):
    """Sine matrices of whole unit cells.

    Args:
        elements: symbols or atomic numbers that are allowed.
        n_atoms_max: atoms of the largest cell; smaller ones are filled up with zeros.
        kind: as for the Coulomb matrix: ``"eigenvalues"``, ``"sorted"`` or ``"full"``.
        unit: of length: ``"bohr"`` or ``"angstrom"`` (the paper's and dscribe's).

    Raises:
        ConfigError: an argument is out of range.
    """

    axes: ClassVar[str] = "periodic"
    CITATION: ClassVar[str] = """@article{Faber2015,
  author = {Faber, Felix and Lindmaa, Alexander and von Lilienfeld, O. Anatole and Armiento, Rickard},
  title = {Crystal structure representations for machine learning models of formation energies},
  journal = {Int. J. Quantum Chem.}, volume = {115}, pages = {1094--1101}, year = {2015}, doi = {10.1002/qua.24917}
}"""

    def __init__(
        self,
        elements: Sequence[int | str],
        n_atoms_max: int = 64,
        kind: Kind = "eigenvalues",
        unit: Literal["bohr", "angstrom"] = "angstrom",
    ) -> None:
        super().__init__(elements, n_atoms_max, kind, unit)
        one_cell = "one row describes a whole cell, and depends on which vectors span it"
        self.exempt = {  # type: ignore[misc]
            "supercells": one_cell,
            "cell_choice": one_cell,
            "few_atoms": "it is of crystals: structures with an open axis are refused",
            "dimers": "it is of crystals: structures with an open axis are refused",
            "additivity": "it is of crystals: structures with an open axis are refused",
        } | ({"permutation": "its entries are in the order of the atoms"} if kind == "full" else {})

    def forward(self, graph: Graph) -> Float[Tensor, "structures size"]:
        """One row for each crystal.

        Raises:
            ModelError: a structure with an open axis, or more atoms than ``n_atoms_max``.
            UnknownElementError: an element that it was not made for.
        """
        is_open = (~graph.pbc.all(1)).nonzero()[:, 0].tolist()
        if is_open:
            raise ModelError(
                f"A sine matrix describes crystals, and {len(is_open)} of {graph.n_structures} structures (first: "
                f"number {is_open[0]}) are not periodic along all three axes: coulomb_matrix is that of molecules."
            )
        return self._rows(graph)

    def matrices(self, graph: Graph, atoms: Tensor) -> Float[Tensor, "structures n n"]:
        """Sine matrices of structures of one size, given the indices of their atoms ``(structures, n)``."""
        cell = graph.cell[graph.owner[atoms[:, 0]]]
        places = torch.linalg.solve(cell.mT, graph.positions[atoms].mT).mT
        waves = (math.pi * (places[:, None, :, :] - places[:, :, None, :])).sin().square()
        own = torch.eye(atoms.shape[1], dtype=torch.bool, device=atoms.device)
        squares = torch.einsum("sijk,skl->sijl", waves, cell).square().sum(3)
        return self._matrix(graph, atoms, torch.where(own, 1.0, squares).sqrt())
