"""A small neural potential: radial functions of each neighbor's element into a perceptron."""

from collections.abc import Sequence

import torch
from torch import nn

from epot.blocks.readout import LinearReadout
from epot.potential import Output, Potential


class ToyNet(Potential):
    """Sums of Gaussians over neighbors, per element, through two dense layers."""

    recipe = "descend"

    def __init__(self, elements: Sequence[int] = (1, 8), cutoff: float = 4.0, width: int = 16, double: bool = True):
        super().__init__()
        self.elements, self.cutoff, self.width, self.double = tuple(elements), float(cutoff), width, double
        n = 8
        table = torch.zeros(119, dtype=torch.int64)
        table[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("centers", torch.linspace(0.5, cutoff, n), persistent=False)
        self.embedding = nn.Embedding(len(self.elements), width)
        self.mix = nn.Linear(n * len(self.elements), width)
        self.dense = nn.Linear(width, width)
        self.readout = LinearReadout(width)
        if double:
            self.double_()

    def double_(self):
        nn.Module.double(self)

    def forward(self, graph):
        i, j = graph.pairs
        kind = self.table[graph.numbers]
        r = graph.vectors().to(self.mix.weight.dtype).norm(dim=1)
        smooth = 0.5 * (torch.cos(torch.pi * r / self.cutoff) + 1.0) * (r < self.cutoff)
        radial = torch.exp(-2.0 * (r[:, None] - self.centers) ** 2) * smooth[:, None]
        n, k = len(self.elements), len(self.centers)
        sums = radial.new_zeros(graph.n_atoms * n, k).index_add(0, i * n + kind[j], radial)
        hidden = torch.nn.functional.silu(self.mix(sums.reshape(graph.n_atoms, n * k))) * (1 + self.embedding(kind))
        features = torch.nn.functional.silu(self.dense(hidden)) * graph.sizes[graph.owner].clamp(max=1)[:, None]
        energy, members = self.readout(features)
        return Output(energy, members, features)
