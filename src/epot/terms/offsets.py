"""An energy per element: what an atom has before it meets another."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..elements import N_ELEMENTS, to_number
from ..errors import ConfigError
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..typing import Tensor


class Offsets(Potential):
    """``E = sum_i E0(Z_i)``.

    Args:
        elements: symbols or atomic numbers.
        values: eV, one for each element; zeros until a fit sets them if not given.
    """

    energies: Tensor
    pairwise = True

    def __init__(self, elements: Sequence[int | str] = (1, 6, 8), values: Sequence[float] | None = None) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        self.values = None if values is None else tuple(float(v) for v in values)
        self.cutoff = 0.0
        if values is not None and len(values) != len(self.elements):
            raise ConfigError(f"Offsets got {len(values)} values for {len(self.elements)} elements.")
        self.register_buffer("energies", torch.zeros(N_ELEMENTS, dtype=torch.float64))
        if values is not None:
            self.energies[list(self.elements)] = torch.tensor(self.values, dtype=torch.float64)

    def forward(self, graph: Graph) -> Output:
        return Output(self.energies[graph.numbers])
