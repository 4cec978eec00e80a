"""The screened repulsion of two nuclei, as a term below a learned potential: it keeps atoms apart where no data do.

J. F. Ziegler, J. P. Biersack, U. Littmark, "The Stopping and Range of Ions in Solids", Pergamon (1985), chapter 2. With
the reduced distance ``x = r / a``,

    V = e^2 Z_i Z_j / (4 pi eps0 r) * sum_k c_k exp(-d_k x),     a = length / (Z_i^power + Z_j^power),

times the polynomial envelope of DimeNet (Eq. 8 of arXiv:2003.03123), which ends at the sum of two covalent radii.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from ase.data import covalent_radii

from ..blocks.pair_parameters import Species, half_sums
from ..elements import N_ELEMENTS, to_number
from ..errors import ConfigError
from ..features.cutoff import polynomial_cutoff
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..typing import Tensor


class Screening(NamedTuple):
    """Constants of the formula: eV Å, Å, and numbers without unit."""

    coulomb: float
    length: float
    power: float
    weights: tuple[float, float, float, float]
    rates: tuple[float, float, float, float]


SCREENINGS = {
    "universal": Screening(
        14.3996454, 0.46850, 0.23, (0.18175, 0.50986, 0.28022, 0.02817), (3.19980, 0.94229, 0.40290, 0.20162)
    ),
    "mace": Screening(14.3996, 0.4543 * 0.529, 0.300, (0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016)),
}
"""Of the book, and of mace-torch, whose screening length is shorter by half."""


class ZBL(Potential):
    """ZBL: the repulsion of two nuclei screened by their electrons, switched off at the sum of covalent radii.

    Args:
        elements: symbols or atomic numbers.
        screening: constants of the formula: ``universal`` (the book's) or ``mace`` (those of mace-torch).
        power: of the nuclear charges in the screening length; the screening's if not given.
        length: Å, of the screening length; the screening's if not given.
        weights: of the four exponentials; the screening's if not given.
        exponent: of the envelope, at least 2; its first and second derivative vanish where it ends.
        radii: Å, one for each element, where the envelope of two ends at their sum; covalent radii (Cordero et al.,
            Dalton Trans. 2832 (2008)) if not given.
        cutoff: Å, no pair beyond it is looked at; the largest sum of two radii if not given.
        factor: all energies are multiplied by it.

    Raises:
        ConfigError: a size is out of range.
    """

    pairwise = True
    CITATION: ClassVar[str] = """@book{ziegler1985stopping,
  author = {Ziegler, James F. and Biersack, Jochen P. and Littmark, Uwe},
  title = {The Stopping and Range of Ions in Solids}, publisher = {Pergamon}, address = {New York}, year = {1985}
}"""
    charges: Tensor
    reach: Tensor

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        screening: Literal["universal", "mace"] = "universal",
        power: float | None = None,
        length: float | None = None,
        weights: Sequence[float] | None = None,
        exponent: int = 6,
        radii: Sequence[float] | None = None,
        cutoff: float | None = None,
        factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        self.screening, self.power, self.length, self.exponent = screening, power, length, exponent
        self.weights = None if weights is None else tuple(weights)
        self.radii = None if radii is None else tuple(radii)
        self.factor = factor
        if exponent < 2:
            raise ConfigError(f"ZBL got exponent={exponent}; the envelope is smooth from 2.")
        if radii is not None and (len(radii) != len(elements) or min(radii) <= 0):
            raise ConfigError(f"ZBL needs a positive radius for each of {len(elements)} elements; given {list(radii)}.")
        if weights is not None and len(weights) != 4:
            raise ConfigError(f"ZBL has four exponentials; it was given {len(weights)} weights.")
        self.species = Species(self.elements)
        self.constants = self._constants()
        reach = torch.zeros(N_ELEMENTS, dtype=torch.float64)
        given = [covalent_radii[z] for z in self.elements] if radii is None else radii
        reach[list(self.elements)] = torch.tensor([float(r) for r in given], dtype=torch.float64)
        self.register_buffer("reach", reach, persistent=False)
        self.register_buffer("charges", torch.arange(N_ELEMENTS, dtype=torch.float64), persistent=False)
        self.cutoff = float(2 * reach.max()) if cutoff is None else float(cutoff)

    def _constants(self) -> Screening:
        made = SCREENINGS[self.screening]
        own = {"power": self.power, "length": self.length, "weights": self.weights}
        return made._replace(**{k: v for k, v in own.items() if v is not None})  # type: ignore[arg-type]

    @classmethod
    def tiny(cls) -> ZBL:
        return cls((1, 6, 8), radii=(1.1, 1.4, 1.3))

    def forward(self, graph: Graph) -> Output:
        """Energies per atom: half of each of its pairs."""
        self.species(graph)  # refuses other elements
        charges = self.charges[graph.numbers]
        i, j = graph.pairs
        r = graph.vectors().square().sum(1).sqrt()
        powers = charges**self.constants.power
        x = r * (powers[i] + powers[j]) / self.constants.length
        terms = zip(self.constants.weights, self.constants.rates, strict=True)
        screened = torch.stack([c * torch.exp(-d * x) for c, d in terms]).sum(0)
        radii = self.reach[graph.numbers]
        fade = polynomial_cutoff(r / (radii[i] + radii[j]), 1.0, self.exponent)
        pairs = (self.constants.coulomb * self.factor) * charges[i] * charges[j] / r * screened * fade
        return Output(half_sums(graph, pairs))
