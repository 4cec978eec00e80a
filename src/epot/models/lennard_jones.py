"""The Lennard-Jones potential, with fitted parameters for each pair of elements or mixed from those of elements.

Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931), doi:10.1088/0959-5309/43/5/301.

    E = 1/2 sum_ij 4 eps ( (sigma/r_ij)^12 - (sigma/r_ij)^6 ) s(r_ij)

with a switching function s that falls from 1 to 0 over the last ``width`` before the cutoff, with two continuous
derivatives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch

from ..blocks.pair_parameters import Pairs, Positive, Species, contact, half_sums
from ..elements import SYMBOLS, to_number
from ..errors import ConfigError
from ..features.cutoff import cutoff_function
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..typing import Tensor


class LennardJones(Potential):
    """Lennard-Jones: two fitted numbers for each pair of elements (or each element, with mixing).

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å.
        width: Å, over which the interaction is switched off before the cutoff.
        epsilon: eV, to start from: for all, or by pair ``{"Ar-Kr": 0.012}`` (by element ``{"Ar": 0.01}``, with mixing).
        sigma: Å, likewise; None takes contact of the van der Waals spheres as the minimum.
        mixing: ``"none"``: each pair has its own; ``"lorentz_berthelot"``: arithmetic mean of sigma, geometric of
            epsilon; ``"geometric"`` of both.

    Raises:
        ConfigError: an argument is out of range.
    """

    recipe: ClassVar[str] = "descend"
    optimizer: ClassVar[str] = "lbfgs"
    pairwise = True
    CITATION: ClassVar[str] = """@article{LennardJones1931,
  author = {Lennard-Jones, J. E.}, title = {Cohesion}, journal = {Proc. Phys. Soc.}, volume = {43},
  pages = {461--482}, year = {1931}, doi = {10.1088/0959-5309/43/5/301}
}"""

    def __init__(
        self,
        elements: Sequence[int | str] = (18,),
        cutoff: float = 8.0,
        width: float = 1.5,
        epsilon: float | Mapping[str, float] = 0.01,
        sigma: float | Mapping[str, float] | None = None,
        mixing: Literal["none", "lorentz_berthelot", "geometric"] = "none",
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        if not 0 < width <= cutoff:
            raise ConfigError(f"LennardJones needs 0 < width <= cutoff; given: width {width}, cutoff {cutoff}.")
        if mixing not in ("none", "lorentz_berthelot", "geometric"):
            raise ConfigError(f"mixing is {mixing!r}; expected 'none', 'lorentz_berthelot' or 'geometric'.")
        self.cutoff, self.width, self.mixing = float(cutoff), float(width), mixing
        self.epsilon, self.sigma = epsilon, sigma
        self.fade = cutoff_function("poly2", 1 - width / cutoff)
        self.species = Species(self.elements)
        pairs = Pairs(self.elements)
        size = lambda a, b: contact(a, b) / 2 ** (1 / 6)  # noqa: E731
        if mixing == "none":
            self.depths = Positive(pairs.labels, pairs.values(epsilon, lambda a, b: 0.01, "epsilon"))
            self.sizes = Positive(pairs.labels, pairs.values(sigma, size, "sigma"))
        else:
            labels = [SYMBOLS[z] for z in self.elements]
            self.depths = Positive(labels, self._single(epsilon, lambda z: 0.01, "epsilon"))
            self.sizes = Positive(labels, self._single(sigma, lambda z: size(z, z), "sigma"))

    def _single(self, given: Any, default: Any, what: str) -> list[float]:
        if isinstance(given, (int, float)):
            return [float(given)] * len(self.elements or ())
        known = {to_number(k): float(v) for k, v in (given or {}).items()}
        if extra := set(known) - set(self.elements or ()):
            raise ConfigError(f"{what} names {', '.join(SYMBOLS[z] for z in sorted(extra))}, which is not an element.")
        return [known.get(z, default(z)) for z in self.elements or ()]

    @classmethod
    def tiny(cls) -> LennardJones:
        return cls((1, 6, 8), cutoff=4.0, epsilon={"H-H": 0.02, "C-O": 0.03}, sigma=1.1)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Epsilon (eV) and sigma (Å) of each pair of elements."""
        depths, sizes = self.depths(), self.sizes()
        if self.mixing == "none":
            return depths, sizes
        a, b = torch.tensor(Pairs(self.elements or ()).each, device=depths.device).T
        mixed = (sizes[a] * sizes[b]).sqrt() if self.mixing == "geometric" else (sizes[a] + sizes[b]) / 2
        return (depths[a] * depths[b]).sqrt(), mixed

    def forward(self, graph: Graph) -> Output:
        """Energies per atom: half of each of its pairs."""
        kinds = self.species.pairs(graph)
        depths, sizes = self.tables()
        r = graph.vectors().to(depths).square().sum(1).sqrt()
        sixth = (sizes[kinds] / r) ** 6
        return Output(half_sums(graph, 4 * depths[kinds] * (sixth.square() - sixth) * self.fade(r, self.cutoff)[0]))

    def fitted_parameters(self) -> dict[str, Any]:
        """What a fit found, with units."""
        return {"epsilon (eV)": self.depths.report(), "sigma (Å)": self.sizes.report()}
