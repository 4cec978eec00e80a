"""GemNet's messages over triplets, c -> a <- b, without making the triplets.

J. Gasteiger, F. Becker, S. Günnemann, arXiv:2106.08903 (T-MP of figure 4, with the "efficient
bilinear layer"). The angular basis of a triplet is ``Y_l0`` of the angle at a between c and b, and the addition theorem

    Y_l0(theta_cab) = sqrt(4 pi / (2l + 1)) sum_m Y_lm(u_ac) Y_lm(u_ab)

takes it apart: what the neighbors b send is summed once for each atom a, and read by all its edges c -> a. The cost
falls from the number of triplets to that of edges, and no angle is made whose derivatives could diverge. The one
neighbor that must not be in the sum, b = c (the same image), is at angle zero and is taken off.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from ..features.angular import spherical_harmonics
from ..typing import Float, Tensor
from .gemnet_edges import Edges
from .gemnet_layers import HALF, Dense, ScalingFactor


class CircularBasis(NamedTuple):
    """What the angular basis of triplets is made of.

    Attributes:
        radial: of the distance ca, down-projected, ``(edges, n_cbf, degrees)``.
        angular: ``(4 pi / (2l+1))^1/4 Y_lm`` of the directions from a, ``(atoms, slots, 2l+1)`` for each degree.
    """

    radial: Float[Tensor, "edges n_cbf degrees"]
    angular: list[Tensor]

    @classmethod
    def of(
        cls, units: Float[Tensor, "edges 3"], radial: Float[Tensor, "edges n_cbf degrees"], edges: Edges
    ) -> CircularBasis:
        """From unit vectors from a to c."""
        l_max = radial.shape[2] - 1
        every = edges.dense((spherical_harmonics(units, l_max) * _roots(l_max, units)).t())
        return cls(radial.contiguous(), list(every.split([2 * k + 1 for k in range(l_max + 1)], -1)))

    def sums(self, x: Float[Tensor, "edges F"], edges: Edges) -> Float[Tensor, "edges degrees F"]:
        """``sum_(b != c) Y_l0(theta_cab) x_ba`` for each edge c -> a."""
        dense = edges.dense(x)
        parts = []
        for degree, y in enumerate(self.angular):
            own = -math.sqrt((2 * degree + 1) / (4 * math.pi))  # of b = c, Y_l0(0)
            parts.append(torch.baddbmm(dense, y, torch.bmm(y.transpose(1, 2), dense), beta=own))
        return edges.flat(torch.stack(parts, 2)).view(-1, len(parts), x.shape[1])


def _roots(l_max: int, like: Tensor) -> Tensor:
    """``(4 pi / (2l+1))^1/4`` for each component, ``(components, 1)``."""
    each = [(4 * math.pi / (2 * k + 1)) ** 0.25 for k in range(l_max + 1) for _ in range(2 * k + 1)]
    return like.new_tensor(each)[:, None]


def bilinear(
    radial: Float[Tensor, "edges n_basis components"],
    sums: Float[Tensor, "edges components F"],
    weight: Float[Tensor, "n_out n_basis_F"],
) -> Float[Tensor, "edges n_out"]:
    """``y_o = sum_(if) W_o(if) sum_l radial_il sums_lf``: basis and messages, joined by one matrix product."""
    return torch.bmm(radial, sums).flatten(1) @ weight.t()


class Symmetric(nn.Module):
    """A message is used twice: on its own edge c -> a and on the opposite one, each by layers of its own."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.same, self.opposite = Dense(n_in, n_out), Dense(n_in, n_out)

    def forward(self, x: Float[Tensor, "edges n_in"], edges: Edges) -> Float[Tensor, "edges n_out"]:
        return (self.same(x) + edges.opposite(self.opposite(x))).mul_(HALF)


class TripletInteraction(nn.Module):
    """One-hop geometric message passing (T-MP): what edge c -> a learns from the edges b -> a."""

    def __init__(self, n_edge: int, n_triplet: int, n_bilinear: int, n_rbf: int, n_cbf: int) -> None:
        super().__init__()
        self.dense = Dense(n_edge, n_edge)
        self.rbf = Dense(n_rbf, n_edge, activation=False)
        self.scale_rbf = ScalingFactor()
        self.down = Dense(n_edge, n_triplet)
        self.bilinear = Dense(n_cbf * n_triplet, n_bilinear, activation=False)
        self.scale_sum = ScalingFactor()
        self.up = Symmetric(n_bilinear, n_edge)

    def forward(
        self, m: Float[Tensor, "edges n_edge"], rbf: Float[Tensor, "edges n_rbf"], basis: CircularBasis, edges: Edges
    ) -> Float[Tensor, "edges n_edge"]:
        x = self.dense(m)
        x = self.down(self.scale_rbf(x * self.rbf(rbf), x))
        y = bilinear(basis.radial, basis.sums(x, edges), self.bilinear.weight)
        return self.up(self.scale_sum(y, x, edges.others), edges)
