"""A Lennard-Jones potential whose energy, forces and stress have closed forms and an independent witness in ASE."""

import numpy as np
import torch
from ase.calculators.calculator import BaseCalculator

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


class Quick(BaseCalculator):
    """A calculator in plain numpy, for tests that need many cheap steps."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self) -> None:
        super().__init__(use_cache=False)

    def check_state(self, atoms, tol=0.0):
        same = (
            self.atoms is not None
            and np.array_equal(self.atoms.positions, atoms.positions)
            and np.array_equal(self.atoms.cell.array, atoms.cell.array)
        )
        return [] if same else ["positions"]

    def calculate(self, atoms, properties, system_changes):
        self.atoms = atoms.copy()
        energy, forces, virial = self.evaluate(atoms)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if atoms.pbc.all():
            self.results["stress"] = -virial.ravel()[[0, 4, 8, 5, 2, 1]] / atoms.get_volume()


class QuickSprings(Quick):
    """``E_i = k |x_i - s_i|^2 / 2``; ``k=0`` is an ideal gas."""

    def __init__(self, sites, k):
        super().__init__()
        self.sites, self.k = sites, k

    def evaluate(self, atoms):
        away = atoms.positions - self.sites
        return 0.5 * self.k * float((away**2).sum()), -self.k * away, np.zeros((3, 3))


class QuickLennardJones(Quick):
    """Nearest images only, in cells that are wider than twice the cutoff; smooth as in :class:`LennardJones`."""

    epsilon, sigma, cutoff, onset = 0.0104, 3.4, 5.2, 4.2

    def evaluate(self, atoms):
        scaled = atoms.positions @ np.linalg.inv(atoms.cell.array)
        apart = scaled[None] - scaled[:, None]
        apart -= np.round(apart)
        vectors = apart @ atoms.cell.array
        square = (vectors**2).sum(2)
        np.fill_diagonal(square, 1e9)
        ro, rc = self.onset**2, self.cutoff**2
        x = np.clip(square, ro, rc)
        w = (rc - x) ** 2 * (rc + 2 * x - 3 * ro) / (rc - ro) ** 3
        dw = -6 * (rc - x) * (x - ro) / (rc - ro) ** 3
        c6 = (self.sigma**2 / square) ** 3
        pair = 4 * self.epsilon * (c6**2 - c6)
        slope = 4 * self.epsilon * (-12 * c6**2 + 6 * c6) / (2 * square) * w + pair * dw  # d pair / d r^2
        forces = 2 * (slope[:, :, None] * vectors).sum(1)
        virial = -np.einsum("ij,ija,ijb->ab", slope, vectors, vectors)
        return 0.5 * float((pair * w).sum()), forces, virial
