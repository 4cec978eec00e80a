"""GemNet's messages over triplets, c -> a <- b, without making the triplets.

J. Gasteiger, F. Becker, S. Günnemann, arXiv:2106.08903 (T-MP of figure 4, with the "efficient
bilinear layer"). The angular basis of a triplet is ``Y_l0`` of the angle at a between c and b, and the addition theorem

    Y_l0(theta_cab) = sqrt(4 pi / (2l + 1)) sum_m Y_lm(u_ac) Y_lm(u_ab)

takes it apart: what the neighbors b send is summed once for each atom a, and read by all its edges c -> a. The cost
falls from the number of triplets to that of edges, and no angle is made whose derivatives could diverge. The one
neighbor that must not be in the sum, b = c (the same image), is at angle zero and is taken off.

On processors compiled kernels (:mod:`epot.blocks.bilinear_native`) have matrices of ``Y_l0`` between the neighbors of
an atom instead, and never store the sums: the bilinear layer takes them from the cache.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from ..features.angular import spherical_harmonics
from ..typing import Float, Tensor
from .bilinear_native import available, native_bilinear
from .dense_chain import GIVEN, dense_chain
from .directional_native import Pairs, filtered, native_angles, pairs_of
from .gemnet_edges import Edges
from .gemnet_layers import HALF, Dense, ScalingFactor, steps


class CircularBasis(NamedTuple):
    """What the angular basis of triplets is made of.

    Attributes:
        radial: of the distance ca, down-projected, ``(edges, n_cbf, degrees)``; for kernels times the norm of ``Y_l0``.
        angular: ``(4 pi / (2l+1))^1/4 Y_lm`` of the directions from a, ``(atoms, slots, 2l+1)`` for each degree; for
            kernels Legendre polynomials of the angles.
        pairs: for kernels, which edges there are.
    """

    radial: Float[Tensor, "edges n_cbf degrees"]
    angular: list[Tensor] | Tensor
    pairs: Pairs | None

    @classmethod
    def of(
        cls,
        units: Float[Tensor, "edges 3"],
        radial: Float[Tensor, "degrees edges n_radial"],
        weight: Float[Tensor, "degrees n_radial n_cbf"],
        edges: Edges,
    ) -> CircularBasis:
        """From unit vectors from a to c, and radial functions with the layer that projects them."""
        degrees = len(radial)
        if available(units.device, units.dtype):
            pairs = pairs_of(edges.graph)
            signs = [(-1) ** k * math.sqrt((2 * k + 1) / (4 * math.pi)) for k in range(degrees)]  # of P_l(-cos)
            weight = weight * weight.new_tensor(signs)[:, None, None]
            return cls(projected(radial, weight), native_angles(units, pairs, degrees), pairs)
        every = edges.dense((spherical_harmonics(units, degrees - 1) * _roots(degrees - 1, units)).t())
        return cls(projected(radial, weight), list(every.split([2 * k + 1 for k in range(degrees)], -1)), None)

    def messages(
        self, x: Float[Tensor, "edges F"], weight: Float[Tensor, "n_out n_cbf_F"], edges: Edges
    ) -> Float[Tensor, "edges n_out"]:
        """``y_o = sum_(if) W_o(if) sum_l radial_il sums_lf``: the bilinear layer of :meth:`sums`."""
        if self.pairs is not None:
            return native_bilinear(x, self.radial, self.angular, weight, self.pairs)  # type: ignore[arg-type]
        return bilinear(self.radial, self.sums(x, edges), weight)

    def sums(self, x: Float[Tensor, "edges F"], edges: Edges) -> Float[Tensor, "edges degrees F"]:
        """``sum_(b != c) Y_l0(theta_cab) x_ba`` for each edge c -> a."""
        dense = edges.dense(x)
        parts = []
        for degree, y in enumerate(self.angular):
            own = -math.sqrt((2 * degree + 1) / (4 * math.pi))  # of b = c, Y_l0(0)
            parts.append(torch.baddbmm(dense, y, torch.bmm(y.transpose(1, 2), dense), beta=own))
        return edges.flat(torch.stack(parts, 2)).view(-1, len(parts), x.shape[1])


def projected(
    radial: Float[Tensor, "C pairs n_radial"], weight: Float[Tensor, "C n_radial n"]
) -> Float[Tensor, "pairs n C"]:
    """Radial functions of each component of a basis through its own layer."""
    return torch.bmm(radial, weight).permute(1, 2, 0).contiguous()


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

    def forward(
        self, x: Float[Tensor, "edges n_in"], edges: Edges, plus: Float[Tensor, "edges n_out"], factor: float
    ) -> Float[Tensor, "edges n_out"]:
        """``plus + factor (same(x) + opposite(x) of the opposite edge) / sqrt(2)``."""
        same, opposite = (layer._replace(gain=factor * HALF * layer.gain) for layer in steps(self.same, self.opposite))
        other = edges.opposite(dense_chain(x, [opposite]))
        return dense_chain(x, [same._replace(plus=GIVEN)], plus + other)


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
        self,
        m: Float[Tensor, "edges n_edge"],
        rbf: Float[Tensor, "edges n_rbf"],
        basis: CircularBasis,
        edges: Edges,
        plus: Float[Tensor, "edges n_edge"],
        factor: float,
    ) -> Float[Tensor, "edges n_edge"]:
        """``plus`` and ``factor`` times the message."""
        x = self.dense(m)
        x = self.down(self.scale_rbf(filtered(x, rbf, self.scale_rbf.within(self.rbf.weight).t()), x))
        y = basis.messages(x, self.scale_sum.within(self.bilinear.weight), edges)
        return self.up(self.scale_sum(y, x, edges.others), edges, plus, factor)
