"""A potential that is linear in six radial features of each atom, and structures for it."""

import numpy as np
import torch

from epot.blocks.readout import LinearReadout
from epot.data.structure import Structure
from epot.geometry.graph import build
from epot.potential import Output, Potential, Sum
from epot.predict import predict
from epot.terms.offsets import Offsets


class Radial(Potential):
    """``E_i = scale * w . sum_j g(r_ij)``."""

    def __init__(self, n: int = 6, cutoff: float = 4.0) -> None:
        super().__init__()
        self.n, self.cutoff = n, cutoff
        self.readout = LinearReadout(n, bias=False).double()

    def forward(self, graph):
        r = graph.vectors().square().sum(1).sqrt()
        centers = torch.linspace(0.8, self.cutoff - 0.4, self.n, dtype=r.dtype)
        g = torch.exp(-4 * (r[:, None] - centers) ** 2) * (1 - r[:, None] / self.cutoff) ** 2
        features = g.new_zeros(graph.n_atoms, self.n).index_add(0, graph.pairs[0], g).to(self.readout.weight)
        energy, members = self.readout(features)
        return Output(energy, members=members, features=features)


def radial(seed: int = 0, scale: float = 1.0) -> Sum:
    body = Radial()
    with torch.no_grad():
        body.readout.weight.copy_(torch.randn(6, generator=torch.Generator().manual_seed(seed)).double())
        body.readout.scale.fill_(scale)
    return Sum(offset=Offsets((1, 8), (-1.5, -3.0)), body=body)


def structure(random, n: int, periodic: bool = False, scale: float = 1.6) -> Structure:
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n]
    positions = grid * scale + random.normal(0, 0.12, (n, 3))
    return Structure(random.choice([1, 8], n), positions, np.eye(3) * 4.5 * periodic, periodic)


def labelled(potential, s: Structure, random, energy: float = 0.0, forces: float = 0.0) -> Structure:
    """Labels of a potential with Gaussian noise: eV per root atom, eV/Å."""
    found = predict(potential, build(s, potential.cutoff), ("energy", "forces", "virial"))
    noise = random.normal(0, forces, (len(s), 3)) if forces else 0.0
    shift = energy * np.sqrt(len(s)) * random.normal() if energy else 0.0
    stress = (-found.virial[0] / s.volume).numpy() if s.pbc.all() else None
    return s.replace(energy=float(found.energy[0]) + shift, forces=found.forces.numpy() + noise, stress=stress)


def dataset(potential, n: int, seed: int = 0, energy: float = 0.0, forces: float = 0.0, scale: float = 1.6):
    """Structures of three to eight atoms, every third periodic."""
    random = np.random.default_rng(seed)
    made = (structure(random, 3 + k % 6, k % 3 == 0, scale) for k in range(n))
    return [labelled(potential, s, random, energy, forces) for s in made]
