"""Sorted distances between all atoms of a molecule: invariant, with kinks where two distances cross.

Sorted lists of (inverse) distances, by pair of elements, are the bags of Hansen et al., J. Phys. Chem. Lett. 6, 2326
(2015), doi:10.1021/acs.jpclett.5b00831.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import ClassVar

import torch

from ...elements import names, to_number
from ...errors import ConfigError, ModelError
from ...geometry.graph import Graph
from ...typing import Float, Tensor
from ..descriptor import Descriptor
from ..matrices import rows_by_size
from .coulomb_matrix import MOLECULES, distances, refuse_periodic


class Distances(Descriptor):
    """Distances of a whole molecule, one sorted list for each pair of elements, the shortest first.

    Args:
        elements: symbols or atomic numbers.
        counts: atoms of each element that a molecule has at most, by symbol; ``n_each`` for those not named.
        n_each: atoms of each element that a molecule has at most.
        inverse: 1/r, which fills up with zeros without a jump, instead of r.

    Raises:
        ConfigError: a number is below 1, or ``counts`` names an element that is not among them.
    """

    whole: ClassVar[bool] = True
    axes: ClassVar[str] = "open"
    exempt: ClassVar[dict[str, str]] = MOLECULES
    CITATION: ClassVar[str] = """@article{Hansen2015,
  author = {Hansen, Katja and Biegler, Franziska and Ramakrishnan, Raghunathan and Pronobis, Wiktor and
    von Lilienfeld, O. Anatole and M{\\"u}ller, Klaus-Robert and Tkatchenko, Alexandre},
  title = {Machine Learning Predictions of Molecular Properties: Accurate Many-Body Potentials and Nonlocality in
    Chemical Space},
  journal = {J. Phys. Chem. Lett.}, volume = {6}, pages = {2326--2331}, year = {2015},
  doi = {10.1021/acs.jpclett.5b00831}
}"""

    def __init__(
        self,
        elements: Sequence[int | str],
        counts: Mapping[str, int] | None = None,
        n_each: int = 16,
        inverse: bool = True,
    ) -> None:
        super().__init__(elements)
        self.counts = None if counts is None else dict(counts)
        self.n_each, self.inverse, self.cutoff = n_each, inverse, 0.0
        given = {to_number(k): v for k, v in (counts or {}).items()}
        if extra := sorted(set(given) - set(self.elements)):
            raise ConfigError(f"Distances.counts names {names(extra)}; the elements are {names(self.elements)}.")
        self.room = [given.get(z, n_each) for z in self.elements]
        if min(self.room) < 1:
            raise ConfigError(f"Distances needs room for at least one atom of each element; given: {self.room}.")
        self.register_buffer("one", torch.ones((), dtype=torch.float64), persistent=False)

    one: Tensor

    def _lists(self) -> list[tuple[int, int, int]]:
        """Pairs of elements by position, and how long their lists are."""
        made = []
        for a, b in combinations_with_replacement(range(self.n_species), 2):
            n, m = self.room[a], self.room[b]
            made.append((a, b, n * (n - 1) // 2 if a == b else n * m))
        return [entry for entry in made if entry[2]]

    @property
    def size(self) -> int:
        return sum(length for *_, length in self._lists())

    def columns(self) -> list[str]:
        """``C-H 0``: the shortest distance between C and H."""
        symbols = [names([z]) for z in self.elements]
        return [f"{symbols[a]}-{symbols[b]} {k}" for a, b, length in self._lists() for k in range(length)]

    @classmethod
    def tiny(cls) -> Distances:
        return cls((1, 6, 8), n_each=8)

    def forward(self, graph: Graph) -> Float[Tensor, "structures size"]:
        """One row for each molecule.

        Raises:
            ModelError: a periodic structure, or more atoms of an element than there is room for.
            UnknownElementError: an element that it was not made for.
        """
        refuse_periodic(graph, "A list of all distances", "it has no images")
        species = self.species(graph)
        self._refuse_many(graph, species)
        return rows_by_size(graph, self.size, lambda atoms, which: self._rows(graph, atoms, species[atoms]))

    def _rows(self, graph: Graph, atoms: Tensor, species: Tensor) -> Tensor:
        i, j = torch.triu_indices(atoms.shape[1], atoms.shape[1], 1, device=atoms.device)
        r = distances(graph.positions[atoms]).to(self.one)[:, i, j]
        values = 1 / r if self.inverse else r
        low, high = torch.minimum(species[:, i], species[:, j]), torch.maximum(species[:, i], species[:, j])
        parts = []
        for a, b, length in self._lists():
            mine = (low == a) & (high == b)
            order = torch.where(mine, r.detach(), torch.inf).argsort(dim=1, stable=True)[:, :length]
            kept = torch.where(mine, values, 0.0).gather(1, order)
            parts.append(torch.nn.functional.pad(kept, (0, length - kept.shape[1])))
        return torch.cat(parts, 1) if parts else values[:, :0]

    def _refuse_many(self, graph: Graph, species: Tensor) -> None:
        counts = torch.zeros(graph.n_structures, self.n_species, dtype=torch.int64, device=species.device)
        counts.index_put_((graph.owner, species), torch.ones_like(species), accumulate=True)
        for k, z in enumerate(self.elements):
            most = int(counts[:, k].max())
            if most > self.room[k]:
                raise ModelError(
                    f"A structure has {most} atoms of {names([z])} and these Distances have room for {self.room[k]}: "
                    f"make them with n_each={most} or more, or counts={{{names([z])!r}: {most}}} (and fit again)."
                )
