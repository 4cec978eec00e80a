"""A learned vector per element."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..elements import N_ELEMENTS, names
from ..errors import UnknownElementError
from ..typing import Float, Int, Tensor


class ElementEmbedding(nn.Module):
    """One row per known element, in the order of ``elements``; rows drawn from a unit normal.

    Attributes:
        weight: ``(elements, features)``.
        species: from atomic number to row; one past the last where the element is unknown.
    """

    species: Tensor

    def __init__(self, elements: Sequence[int], n_features: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.elements = tuple(elements)
        self.weight = nn.Parameter(torch.randn(len(self.elements), n_features, dtype=dtype))
        species = torch.full((N_ELEMENTS,), len(self.elements))
        species[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("species", species, persistent=False)

    def rows(self, numbers: Int[Tensor, " atoms"]) -> Int[Tensor, " atoms"]:
        """Row of each atom's element."""
        return self.species[numbers]

    def forward(self, numbers: Int[Tensor, " atoms"]) -> Float[Tensor, "atoms features"]:
        """The element's vector for each atom.

        Raises:
            UnknownElementError: an element without a row.
        """
        vectors, rows = self.present(numbers)
        return vectors[rows]

    def present(self, numbers: Int[Tensor, " atoms"]) -> tuple[Float[Tensor, "present features"], Tensor]:
        """Vectors of those elements that are there, and which of them each atom has.

        Raises:
            UnknownElementError: an element without a row.
        """
        kinds, rows = self.rows(numbers).unique(return_inverse=True)
        try:
            return self.weight.index_select(0, kinds), rows
        except IndexError:
            known = set(self.elements)
            unknown = sorted(set(numbers.tolist()) - known)
            raise UnknownElementError(
                f"The graph holds {names(unknown)}; this potential knows {names(sorted(known))}. "
                "Fit one on data that holds these elements."
            ) from None
