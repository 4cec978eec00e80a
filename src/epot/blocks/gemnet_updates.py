"""What GemNet's atoms learn from edges, and edges from their atoms (arXiv:2106.08903, figure 4)."""

from __future__ import annotations

import torch
from torch import nn

from ..typing import Float, Tensor
from .activation import silu
from .dense_chain import dense_chain
from .gemnet_edges import Edges
from .gemnet_layers import SILU_GAIN, Dense, ScalingFactor, he_parameter, residuals, steps


class EdgeUpdate(nn.Module):
    """``act([h_c | h_a | m] W)``: a new embedding of the edge c -> a from its atoms' and its own."""

    def __init__(self, n_atom: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.n_atom = n_atom
        self.weight = he_parameter(n_out, 2 * n_atom + n_in)

    def forward(
        self, h: Float[Tensor, "atoms n_atom"], m: Float[Tensor, "edges n_in"], edges: Edges
    ) -> Float[Tensor, "edges n_out"]:
        sender, receiver, own = self.weight.t().split([self.n_atom, self.n_atom, m.shape[1]])
        y = edges.opposite(edges.from_receivers(h @ sender)) + edges.from_receivers(h @ receiver)
        return silu(torch.addmm(y, m, own)).mul_(SILU_GAIN)


class AtomUpdate(nn.Module):
    """What an atom makes of the edges that end there: a filtered sum, a dense layer and residuals."""

    def __init__(self, n_atom: int, n_edge: int, n_rbf: int, n_layers: int) -> None:
        super().__init__()
        self.rbf = Dense(n_rbf, n_edge, activation=False)
        self.scale_sum = ScalingFactor()
        self.dense = Dense(n_edge, n_atom)
        self.residuals = residuals(n_atom, n_layers)

    def forward(
        self, m: Float[Tensor, "edges n_edge"], rbf: Float[Tensor, "edges n_rbf"], edges: Edges
    ) -> Float[Tensor, "atoms n_atom"]:
        x = self.scale_sum(edges.filtered_sums(m, rbf, self.scale_sum.within(self.rbf.weight).t()), m)
        return dense_chain(x, steps(self.dense, *self.residuals))
