"""A Lennard-Jones potential whose energy, forces and stress have closed forms and an independent witness in ASE."""

import torch

from epot.geometry.graph import Graph
from epot.potential import Output, Potential


class LennardJones(Potential):
    """``sum 2 eps ((s/r)^12 - (s/r)^6) w(r)`` per directed pair.

    ``smooth=False`` shifts the energy to 0 at the cutoff, as ASE's LennardJones does; ``smooth=True`` multiplies
    by ASE's smoothed cutoff function between ``onset`` and ``cutoff``.
    """

    def __init__(
        self, epsilon: float = 0.0104, sigma: float = 3.4, cutoff: float = 7.0, onset: float = 5.0,
        smooth: bool = True, members: int = 0, elements: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.epsilon, self.sigma, self.cutoff, self.onset, self.smooth = epsilon, sigma, cutoff, onset, smooth
        self.elements, self.n_members = elements, members
        self.calls = 0

    def forward(self, graph: Graph) -> Output:
        self.calls += 1
        square = graph.vectors().square().sum(1)
        c6 = (self.sigma**2 / square) ** 3
        pair = 2 * self.epsilon * (c6**2 - c6)
        if self.smooth:
            ro, rc = self.onset**2, self.cutoff**2
            w = (rc - square) ** 2 * (rc + 2 * square - 3 * ro) / (rc - ro) ** 3
            pair = pair * torch.where(square < ro, 1.0, w)
        else:
            s6 = (self.sigma / self.cutoff) ** 6
            pair = pair - 2 * self.epsilon * (s6**2 - s6)
        energy = graph.positions.new_zeros(graph.n_atoms).index_add(0, graph.pairs[0], pair)
        if not self.n_members:
            return Output(energy)
        factors = 1 + 0.01 * torch.linspace(-1, 1, self.n_members, dtype=torch.float64)
        return Output(energy, members=energy[:, None] * factors)


class Springs(Potential):
    """Oscillators about fixed sites, ``E_i = k |x_i - s_i|^2 / 2``: the canonical averages are closed forms."""

    def __init__(self, sites: torch.Tensor, k: float = 2.0) -> None:
        super().__init__()
        self.cutoff, self.k, self.elements = 1.0, k, None
        self.register_buffer("sites", sites)

    def forward(self, graph: Graph) -> Output:
        return Output(0.5 * self.k * (graph.positions - self.sites).square().sum(1))
