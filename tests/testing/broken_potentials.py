"""A potential that is known in closed form, and one broken potential for each check that must find it."""

import numpy as np
import torch
from torch import nn

from epot.geometry.graph import Graph
from epot.potential import Output, Potential


class LennardJones(Potential):
    """``E = sum_pairs 4 epsilon (s^12 - s^6) f(r)``, s = sigma / r, f smooth from ``onset`` to the cutoff as in ASE."""

    def __init__(self, epsilon: float = 0.3, sigma: float = 1.4, onset: float = 2.5, cutoff: float = 4.0) -> None:
        super().__init__()
        self.epsilon, self.sigma, self.onset, self.cutoff = epsilon, sigma, onset, cutoff
        self.strength = nn.Parameter(torch.tensor(float(epsilon)))

    def pairs(self, graph: Graph, vectors: torch.Tensor) -> torch.Tensor:
        r2 = vectors.square().sum(1)
        s6 = (self.sigma**2 / r2) ** 3
        a, b = self.onset**2, self.cutoff**2
        smooth = (b - r2) ** 2 * (b + 2 * r2 - 3 * a) / (b - a) ** 3
        smooth = torch.where(r2 < a, 1.0, torch.where(r2 < b, smooth, 0.0))
        return 2 * self.strength * (s6**2 - s6) * smooth

    def total(self, graph: Graph, energies: torch.Tensor) -> torch.Tensor:
        made = energies.new_zeros(graph.n_atoms)
        return made.index_add(0, graph.pairs[0], energies)

    def forward(self, graph: Graph) -> Output:
        return Output(self.total(graph, self.pairs(graph, graph.vectors())))


class Once(torch.autograd.Function):
    """x -> x^2 with a right first derivative and a wrong second one."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0].detach().clone())

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


class Forgets(LennardJones):
    def __init__(self, epsilon: float = 0.3) -> None:
        super().__init__()
        self.epsilon = 2 * epsilon


class NotInState(LennardJones):
    def __init__(self) -> None:
        super().__init__()
        self.learned = float(np.random.default_rng().normal())

    def forward(self, graph):
        return Output(super().forward(graph).energy * self.learned)

    def __deepcopy__(self, memo):
        copy = type(self)()
        copy.learned = self.learned
        return copy


class DrawsRandomNumbers(LennardJones):
    def forward(self, graph):
        torch.rand(1)
        return super().forward(graph)


class SetsDefaultDtype(LennardJones):
    def forward(self, graph):
        torch.set_default_dtype(torch.float64)
        return super().forward(graph)


class MutatesTheGraph(LennardJones):
    def forward(self, graph):
        with torch.no_grad():
            graph.shifts.mul_(1.5)
        return super().forward(graph)


class MutatesItself(LennardJones):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, graph):
        self.calls += 1
        return super().forward(graph)


class Noisy(LennardJones):
    def forward(self, graph):
        out = super().forward(graph).energy
        return Output(out + torch.randn_like(out))


class EnergyOfStructures(LennardJones):
    def forward(self, graph):
        energy = super().forward(graph).energy
        return Output(energy.new_zeros(graph.n_structures).index_add(0, graph.owner, energy))


class DividesByNeighbors(LennardJones):
    def forward(self, graph):
        count = torch.bincount(graph.pairs[0], minlength=graph.n_atoms)
        return Output(super().forward(graph).energy / count)


class CountsAtoms(LennardJones):
    def forward(self, graph):
        return Output(super().forward(graph).energy * (1 + 0.1 * torch.arange(graph.n_atoms)))


class LooksAlongZ(LennardJones):
    def pairs(self, graph, vectors):
        return super().pairs(graph, vectors) * (1 + vectors[:, 2] ** 2)


class Chiral(LennardJones):
    """A triple product of three weighted sums of neighbors: a pseudoscalar, so only inversion finds it."""

    def forward(self, graph):
        v = graph.vectors()
        sums = []
        for power in (0, 1, 2):
            terms = v * (self.pairs(graph, v) * v.square().sum(1) ** power)[:, None]
            sums.append(torch.zeros_like(graph.positions).index_add(0, graph.pairs[0], terms))
        triple = torch.linalg.vecdot(sums[0], torch.linalg.cross(sums[1], sums[2]))
        return Output(super().forward(graph).energy + torch.tanh(triple))


class PinnedToTheOrigin(LennardJones):
    def forward(self, graph):
        return Output(super().forward(graph).energy + 0.1 * torch.sin(graph.positions).sum(1))


class SaysPairwise(PinnedToTheOrigin):
    """Looks at positions but declares that it does not, so that their gradient is left out."""

    pairwise = True


class Unwrapped(LennardJones):
    """Forgets the shifts: what is near through a boundary is taken to be far."""

    def forward(self, graph):
        i, j = graph.pairs
        return Output(self.total(graph, self.pairs(graph, graph.positions[j] - graph.positions[i])))


class PerStructure(LennardJones):
    def forward(self, graph):
        return Output(super().forward(graph).energy / graph.sizes[graph.owner])


class SeesTheCell(LennardJones):
    def forward(self, graph):
        return Output(super().forward(graph).energy + 0.01 * graph.cell[graph.owner, 0].square().sum(1))


class BatchMean(LennardJones):
    def forward(self, graph):
        energy = super().forward(graph).energy
        return Output(energy - 0.1 * energy.mean())


class LeaksGradients(LennardJones):
    def forward(self, graph):
        energy = super().forward(graph).energy
        return Output(energy + (energy.sum() - energy.sum().detach()))


class OrderOfPairs(LennardJones):
    def pairs(self, graph, vectors):
        place = torch.arange(graph.n_pairs) - graph.row_pointers()[graph.pairs[0]]
        return super().pairs(graph, vectors) * (1 + 0.01 * place)


class Pools(LennardJones):
    """Multiplies by a mean over the structure: not additive."""

    def forward(self, graph):
        energy = super().forward(graph).energy
        mean = energy.new_zeros(graph.n_structures).index_add(0, graph.owner, energy) / graph.sizes
        return Output(energy * (1 + mean[graph.owner]))


class Detached(LennardJones):
    """Forces miss a part of the energy."""

    def forward(self, graph):
        v = graph.vectors().detach()
        return Output(super().forward(graph).energy + self.total(graph, 0.5 * self.pairs(graph, v)))


class FlippedForces(LennardJones):
    def forward(self, graph):
        energy = super().forward(graph).energy
        return Output(2 * energy.detach() - energy)


class StressWithoutCells(LennardJones):
    """Distances from positions, with images that do not follow the strain: right forces, wrong stress."""

    def forward(self, graph):
        i, j = graph.pairs
        images = torch.einsum("pa,pab->pb", graph.shifts, graph.cell.detach()[graph.owner[i]])
        return Output(self.total(graph, self.pairs(graph, graph.positions[j] - graph.positions[i] + images)))


class WrongSecondDerivative(LennardJones):
    def pairs(self, graph, vectors):
        return Once.apply(super().pairs(graph, vectors))


class HardCutoff(LennardJones):
    def pairs(self, graph, vectors):
        r2 = vectors.square().sum(1)
        s6 = (self.sigma**2 / r2) ** 3
        return torch.where(r2 < self.cutoff**2, 2 * self.strength * (s6**2 - s6), 0.0)


class ShiftedOnly(LennardJones):
    """The energy is continuous at the cutoff, the force is not."""

    def pairs(self, graph, vectors):
        r2 = vectors.square().sum(1)
        s6 = (self.sigma**2 / r2) ** 3
        end = (self.sigma / self.cutoff) ** 6
        return torch.where(r2 < self.cutoff**2, 2 * self.strength * ((s6**2 - s6) - (end**2 - end)), 0.0)


class Dead(LennardJones):
    def pairs(self, graph, vectors):
        return 0 * super().pairs(graph, vectors)


class InfiniteWhenClose(LennardJones):
    def pairs(self, graph, vectors):
        return super().pairs(graph, vectors) + 0 * torch.log(vectors.square().sum(1) - 0.25)


class RoundsPositions(LennardJones):
    """Differences of positions in single precision: wrong far from the origin."""

    def forward(self, graph):
        kind = self.strength.dtype
        i, j = graph.pairs
        x, cell = graph.positions.to(kind), graph.cell.to(kind)
        images = torch.einsum("pa,pab->pb", graph.shifts.to(kind), cell[graph.owner[i]])
        return Output(self.total(graph, self.pairs(graph, x[j] - x[i] + images)))


class DetachedParameter(LennardJones):
    def pairs(self, graph, vectors):
        return super().pairs(graph, vectors) * (0.5 + self.strength.detach())


CONTROLS = {
    "configuration": [Forgets],
    "save_load": [NotInState],
    "side_effects": [DrawsRandomNumbers, SetsDefaultDtype],
    "graph_untouched": [MutatesTheGraph, MutatesItself],
    "repeatable": [Noisy],
    "shapes": [EnergyOfStructures, DividesByNeighbors],
    "few_atoms": [DividesByNeighbors],
    "permutation": [CountsAtoms],
    "rotation": [LooksAlongZ],
    "inversion": [Chiral],
    "translation": [PinnedToTheOrigin],
    "wrapping": [Unwrapped],
    "supercells": [PerStructure, Unwrapped],
    "cell_choice": [SeesTheCell],
    "batch": [BatchMean],
    "no_leak": [LeaksGradients, BatchMean],
    "pair_order": [OrderOfPairs],
    "additivity": [PerStructure, Pools],
    "forces": [Detached, FlippedForces, SaysPairwise],
    "stress": [StressWithoutCells, Detached],
    "hessian": [WrongSecondDerivative],
    "momentum": [PinnedToTheOrigin, LooksAlongZ],
    "double_backward": [DetachedParameter, WrongSecondDerivative],
    "cutoff": [HardCutoff, ShiftedOnly, Dead],
    "dimers": [InfiniteWhenClose],
    "single_precision": [RoundsPositions],
    "conservation": [Detached],
}
