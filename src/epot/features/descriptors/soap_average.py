"""One SOAP vector for a whole structure: the mean over its atoms, before or after the product of densities.

De, Bartok, Csanyi, Ceriotti, Phys. Chem. Chem. Phys. 18, 13754 (2016), doi:10.1039/C6CP00415F, Eq. 9 for ``"outer"``;
``"inner"`` is DScribe's (Himanen et al., Comput. Phys. Commun. 247, 106949 (2020)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from ...geometry.graph import Graph
from ...typing import Float, Tensor
from ..descriptor import Descriptor, make
from .soap import Soap


class SoapAverage(Descriptor):
    """Mean SOAP of a structure, for properties that are not sums over atoms and for comparing structures.

    Args:
        elements: symbols or atomic numbers.
        average: ``"outer"``: mean of the atoms' vectors; ``"inner"``: vector of their mean density, which sees only
            what their surroundings have in common.
        soap: arguments of :class:`epot.features.descriptors.soap.Soap`.

    Raises:
        ConfigError: an argument of SOAP is unknown or out of range.
    """

    whole: ClassVar[bool] = True
    CITATION: ClassVar[str] = """@article{De2016,
  author = {De, Sandip and Bart{\\'o}k, Albert P. and Cs{\\'a}nyi, G{\\'a}bor and Ceriotti, Michele},
  title = {Comparing molecules and solids across structural and alchemical space},
  journal = {Phys. Chem. Chem. Phys.}, volume = {18}, pages = {13754}, year = {2016}, doi = {10.1039/C6CP00415F}
}"""

    def __init__(
        self,
        elements: Sequence[int | str],
        average: Literal["outer", "inner"] = "outer",
        soap: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(elements)
        self.average, self.soap = average, soap
        self.each = _soap(self.elements, soap or {})
        self.cutoff = self.each.cutoff

    @property
    def size(self) -> int:
        return self.each.size

    def columns(self) -> list[str]:
        return self.each.columns()

    @classmethod
    def tiny(cls) -> SoapAverage:
        return cls((1, 6, 8), soap={"cutoff": 4.0, "n_max": 2, "l_max": 2})

    def forward(self, graph: Graph) -> Float[Tensor, "structures size"]:
        """A row for each structure. Differentiable twice by positions and cells."""
        if self.average == "outer":
            return self._mean(graph, self.each(graph))
        return self.each.contract(self._mean(graph, self.each.coefficients(graph)))

    @staticmethod
    def _mean(graph: Graph, rows: Tensor) -> Tensor:
        total = rows.new_zeros(graph.n_structures, *rows.shape[1:]).index_add(0, graph.owner, rows)
        return total / graph.sizes.clamp(min=1).view(-1, *[1] * (rows.ndim - 1))


def _soap(elements: tuple[int, ...], settings: Mapping[str, Any]) -> Soap:
    made = make({"name": "soap"} | dict(settings), elements)
    assert isinstance(made, Soap)  # noqa: S101 (by its name)
    return made
