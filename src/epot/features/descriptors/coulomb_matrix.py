"""The Coulomb matrix: a molecule as the repulsion between its nuclei.

Rupp, Tkatchenko, Müller, von Lilienfeld, Phys. Rev. Lett. 108, 058301 (2012), doi:10.1103/PhysRevLett.108.058301.

    M_ii = Z_i^2.4 / 2,    M_ij = Z_i Z_j / |R_i - R_j|                                   (Eq. 1)

Sorted by the norms of its rows, or as eigenvalues by falling absolute value, it does not depend on the order of the
atoms; but both have kinks where two norms (two eigenvalues) cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from ...errors import ConfigError, ModelError
from ...geometry.graph import Graph
from ...typing import Float, Tensor
from ...units import BOHR
from ..descriptor import Descriptor
from ..matrices import Kind, matrix_rows, refuse_large, row_columns, row_size, rows_by_size

UNITS = {"bohr": BOHR, "angstrom": 1.0}
MOLECULES = {
    "supercells": "it is of molecules: periodic structures are refused",
    "wrapping": "it is of molecules: periodic structures are refused",
    "cell_choice": "it is of molecules: periodic structures are refused",
    "additivity": "one row describes a whole molecule: energies of parts do not add up",
}
"""What no descriptor of whole molecules can pass."""


class CoulombMatrix(Descriptor):
    """Coulomb matrices of whole molecules.

    Args:
        elements: symbols or atomic numbers that are allowed.
        n_atoms_max: atoms of the largest molecule; smaller ones are filled up with zeros.
        kind: ``"eigenvalues"`` by falling absolute value; ``"sorted"``: the lower triangle, rows by falling norm;
            ``"full"``: the lower triangle in the order of the atoms, which depends on it.
        unit: of length: ``"bohr"`` (the paper's atomic units) or ``"angstrom"`` (dscribe's, qml's).

    Raises:
        ConfigError: an argument is out of range.
    """

    whole: ClassVar[bool] = True
    axes: ClassVar[str] = "open"
    CITATION: ClassVar[str] = """@article{Rupp2012,
  author = {Rupp, Matthias and Tkatchenko, Alexandre and M{\\"u}ller, Klaus-Robert and von Lilienfeld, O. Anatole},
  title = {Fast and Accurate Modeling of Molecular Atomization Energies with Machine Learning},
  journal = {Phys. Rev. Lett.}, volume = {108}, pages = {058301}, year = {2012}, doi = {10.1103/PhysRevLett.108.058301}
}"""

    def __init__(
        self,
        elements: Sequence[int | str],
        n_atoms_max: int = 32,
        kind: Kind = "eigenvalues",
        unit: Literal["bohr", "angstrom"] = "bohr",
    ) -> None:
        super().__init__(elements)
        if unit not in UNITS:
            raise ConfigError(f"unit is {unit!r}; expected 'bohr' or 'angstrom'.")
        self.n_atoms_max, self.kind, self.unit, self.cutoff = n_atoms_max, kind, unit, 0.0
        self._size = row_size(kind, n_atoms_max)
        by_order = {"permutation": "its entries are in the order of the atoms"} if kind == "full" else {}
        self.exempt = MOLECULES | by_order  # type: ignore[misc]
        self.register_buffer("length", torch.tensor(UNITS[unit], dtype=torch.float64), persistent=False)

    length: Tensor

    @property
    def size(self) -> int:
        return self._size

    def columns(self) -> list[str]:
        """``eigenvalue k``, or the two atoms of an entry."""
        return row_columns(self.kind, self.n_atoms_max)

    @classmethod
    def tiny(cls) -> CoulombMatrix:
        return cls((1, 6, 8), n_atoms_max=24)

    def forward(self, graph: Graph) -> Float[Tensor, "structures size"]:
        """One row for each molecule.

        Raises:
            ModelError: a periodic structure, or more atoms than ``n_atoms_max``.
            UnknownElementError: an element that it was not made for.
        """
        refuse_periodic(graph, "A Coulomb matrix", "sine_matrix is that of crystals")
        return self._rows(graph)

    def _rows(self, graph: Graph) -> Tensor:
        refuse_large(graph, self.n_atoms_max, type(self).__name__)
        self.species(graph)

        def make(atoms: Tensor, which: Tensor) -> Tensor:
            return matrix_rows(self.matrices(graph, atoms), self.kind)

        return rows_by_size(graph, self.size, make)

    def matrices(self, graph: Graph, atoms: Tensor) -> Float[Tensor, "structures n n"]:
        """Coulomb matrices of structures of one size, given the indices of their atoms ``(structures, n)``."""
        return self._matrix(graph, atoms, distances(graph.positions[atoms]))

    def _matrix(self, graph: Graph, atoms: Tensor, r: Tensor) -> Tensor:
        """From what stands for the distances, Å."""
        z = graph.numbers[atoms].to(self.length.dtype)
        own = torch.eye(atoms.shape[1], dtype=torch.bool, device=atoms.device)
        r = r.to(self.length) / self.length
        return torch.where(own, 0.5 * torch.diag_embed(z**2.4), z[:, :, None] * z[:, None, :] / r)


def distances(positions: Float[Tensor, "structures n 3"]) -> Float[Tensor, "structures n n"]:
    """Å, with 1 on the diagonal, so that dividing by them and differentiating are safe."""
    own = torch.eye(positions.shape[1], dtype=positions.dtype, device=positions.device)
    vectors = positions[:, None, :, :] - positions[:, :, None, :]
    return (vectors.square().sum(3) + own).sqrt()


def refuse_periodic(graph: Graph, what: str, hint: str) -> None:
    """Refuse structures that are not molecules.

    Raises:
        ModelError: a structure has a periodic axis.
    """
    periodic = graph.pbc.any(1).nonzero()[:, 0].tolist()
    if periodic:
        raise ModelError(
            f"{what} describes molecules, and {len(periodic)} of {graph.n_structures} structures (first: number "
            f"{periodic[0]}) are periodic: {hint}."
        )
