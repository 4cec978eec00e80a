"""The Morse potential with fitted parameters for each pair of elements.

Morse, Phys. Rev. 34, 57 (1929), doi:10.1103/PhysRev.34.57, Eq. 4; for crystals as in Girifalco and Weizer, Phys. Rev.
114, 687 (1959), doi:10.1103/PhysRev.114.687.

    E = 1/2 sum_ij D ( e^(-2 a (r_ij - r0)) - 2 e^(-a (r_ij - r0)) ) s(r_ij)

with a switching function s that falls from 1 to 0 over the last ``width`` before the cutoff.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from ..blocks.pair_parameters import Pairs, Positive, Species, bond_length, half_sums
from ..elements import to_number
from ..errors import ConfigError
from ..features.cutoff import cutoff_function
from ..geometry.graph import Graph
from ..potential import Output, Potential


class Morse(Potential):
    """Morse: three fitted numbers for each pair of elements.

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å.
        width: Å, over which the interaction is switched off before the cutoff.
        depth: D, eV, to start from: for all, or by pair ``{"Cu-Cu": 0.34}``.
        steepness: a, 1/Å, likewise.
        length: r0, Å, likewise; None takes sums of covalent radii.

    Raises:
        ConfigError: an argument is out of range.
    """

    recipe: ClassVar[str] = "descend"
    optimizer: ClassVar[str] = "lbfgs"
    pairwise = True
    CITATION: ClassVar[str] = """@article{Morse1929,
  author = {Morse, Philip M.},
  title = {Diatomic Molecules According to the Wave Mechanics. {II}. Vibrational Levels},
  journal = {Phys. Rev.}, volume = {34}, pages = {57--64}, year = {1929}, doi = {10.1103/PhysRev.34.57}
}"""

    def __init__(
        self,
        elements: Sequence[int | str] = (29,),
        cutoff: float = 6.0,
        width: float = 1.5,
        depth: float | Mapping[str, float] = 0.3,
        steepness: float | Mapping[str, float] = 1.5,
        length: float | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        if not 0 < width <= cutoff:
            raise ConfigError(f"Morse needs 0 < width <= cutoff; given: width {width}, cutoff {cutoff}.")
        self.cutoff, self.width = float(cutoff), float(width)
        self.depth, self.steepness, self.length = depth, steepness, length
        self.fade = cutoff_function("poly2", 1 - width / cutoff)
        self.species = Species(self.elements)
        pairs = Pairs(self.elements)
        self.depths = Positive(pairs.labels, pairs.values(depth, lambda a, b: 0.3, "depth"))
        self.slopes = Positive(pairs.labels, pairs.values(steepness, lambda a, b: 1.5, "steepness"))
        self.lengths = Positive(pairs.labels, pairs.values(length, bond_length, "length"))

    @classmethod
    def tiny(cls) -> Morse:
        return cls((1, 6, 8), cutoff=4.0, depth={"H-H": 0.5, "C-O": 0.8})

    def forward(self, graph: Graph) -> Output:
        """Energies per atom: half of each of its pairs."""
        kinds = self.species.pairs(graph)
        depths = self.depths()
        r = graph.vectors().to(depths).square().sum(1).sqrt()
        wave = torch.exp(-self.slopes()[kinds] * (r - self.lengths()[kinds]))
        return Output(half_sums(graph, depths[kinds] * (wave.square() - 2 * wave) * self.fade(r, self.cutoff)[0]))

    def fitted_parameters(self) -> dict[str, Any]:
        """What a fit found, with units."""
        return {
            "depth (eV)": self.depths.report(),
            "steepness (1/Å)": self.slopes.report(),
            "length (Å)": self.lengths.report(),
        }
