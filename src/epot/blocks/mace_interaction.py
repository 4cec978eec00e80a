"""Interactions of MACE: from features and the geometry to the one-particle basis ``A`` of every atom.

I. Batatia, D. P. Kovács, G. N. C. Simm, C. Ortner, G. Csányi, NeurIPS 2022, arXiv:2206.07697, Eqs. 8 and 9, and the
variants that the published models have. With h lifted by a linear map and ``R_ij = H(r_ij) W`` for each path,

    A_i[l3] = (sum over paths and channels) W_mix  sum_j C[l1 l2 l3] R_ij Y_ij[l2] h_j[l1]  / normalization.

What is normalized by, and how the features of before are carried on, is the kind of the block:

* ``agnostic``: mean number of neighbors; A is mixed by the weights of the atom's element; nothing is carried on.
* ``residual``: mean number of neighbors; h, mixed by the weights of the atom's element, is added after the product.
* ``density`` and ``density_residual``: the same with ``1 + sum_j tanh(f(r_ij)^2)`` in place of the mean.
* ``nonlinear``: ``alpha + beta sum_j tanh(f^2)``, elements of both atoms enter H, a gate follows
  (:mod:`epot.blocks.mace_nonlinear`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn

from ..typing import Float, Tensor
from .channels import mixed, mixed_by_element, spread
from .element_order import Sites
from .equivariant_messages import Paths, equivariant_messages
from .neighbor_products import outer
from .radial_network import RadialNetwork, unit_normal

Kind = Literal["agnostic", "residual", "density", "density_residual", "nonlinear"]


class Surroundings(NamedTuple):
    """The geometry of all layers.

    Attributes:
        sites: where pairs lie, atoms sorted by element.
        radial: radial functions, times the cutoff function where the network sees that.
        fade: the cutoff function of each slot, where the network does not see it; else None.
        harmonics: of the directions from sender to receiver.
        elements: which of the elements that are there each sender is, ``(slots, elements)``, ones and zeros.
    """

    sites: Sites
    radial: Float[Tensor, "slots functions"]
    fade: Float[Tensor, "slots 1"] | None
    harmonics: Float[Tensor, "slots harmonics"]
    elements: Float[Tensor, "slots elements"]


class Interaction(nn.Module):
    """One layer's messages.

    Args:
        n_elements: that the potential knows.
        n_channels: of features, and of A.
        n_edge_channels: of the features that are sent.
        l_in, l_harmonic, l_out: highest degrees of the features, of harmonics and A, of the features after.
        radial: widths of the radial network, from the number of radial functions to its last hidden layer.
        kind: of the block.
        first: the features are those of the elements, the same for all atoms of an element.
    """

    mean_neighbors: Tensor

    def __init__(
        self,
        n_elements: int,
        n_channels: int,
        n_edge_channels: int,
        l_in: int,
        l_harmonic: int,
        l_out: int,
        radial: Sequence[int],
        kind: Kind = "residual",
        first: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.n_edge, self.first = kind, n_edge_channels, first
        self.paths = Paths(l_in, l_harmonic, l_harmonic)
        self.up = unit_normal(l_in + 1, n_channels, n_edge_channels)
        self.network = RadialNetwork(radial)
        self.weight = unit_normal(radial[-1], len(self.paths) * n_edge_channels)
        widths = [len(own) * n_edge_channels for own in self.paths.by_result]
        self.mix = nn.ParameterList(unit_normal(width, n_channels) for width in widths)
        residual = kind in ("residual", "density_residual")
        degrees = min(l_in, l_out) + 1 if residual else l_harmonic + 1
        self.skip = unit_normal(degrees, n_elements, n_channels, n_channels, fan_in=n_channels * n_elements)
        if kind.startswith("density"):
            self.density = unit_normal(radial[0], 1)
        self.register_buffer("mean_neighbors", torch.ones((), dtype=torch.float64))

    def forward(
        self, h: Float[Tensor, "components channels atoms"], around: Surroundings
    ) -> tuple[Tensor, Tensor | None]:
        """A ``(harmonics, channels, atoms)`` and what is added after the product, ``(components, channels, atoms)``."""
        hidden = self.hidden(around)
        a = (self._from_elements if self.first else self._from_tensors)(h, hidden, around)
        a = self._normalized(a, around)
        skip, counts = self.skip.index_select(1, around.sites.kinds), around.sites.present
        if self.kind in ("agnostic", "density"):
            return mixed_by_element(a, skip, counts), None
        return a, mixed_by_element(h[: skip.shape[0] ** 2], skip, counts)

    def hidden(self, around: Surroundings) -> Float[Tensor, "slots K"]:
        """H of every slot."""
        hidden = self.network(around.radial)
        return hidden if around.fade is None else hidden * around.fade

    def _from_tensors(self, h: Tensor, hidden: Tensor, around: Surroundings) -> Tensor:
        lifted = torch.bmm(h.transpose(1, 2), spread(self.up, h.shape[0]))  # components, atoms, edge channels
        sent = lifted.transpose(0, 1).flatten(1)
        sums = equivariant_messages(sent, hidden, self.weight, around.harmonics, around.sites, self.paths)
        found = self.paths.coupled(sums, self.n_edge)
        return torch.cat([torch.matmul(w.T, x.permute(1, 2, 0)) for w, x in zip(self.mix, found, strict=True)])

    def _from_elements(self, h: Tensor, hidden: Tensor, around: Surroundings) -> Tensor:
        """The first layer: a sender's scalars are those of its element, so sums over neighbors come first.

        ``D_i[lm, Z, k] = sum_{j of Z} Y_ij[lm] H_ij[k]``, then one matrix product for each degree, with everything
        that is linear in it: the element's features, W and the mixing of channels.
        """
        sites = around.sites
        first = torch.tensor([0, *sites.present[:-1]], device=h.device).cumsum(0)
        scalars = h[0].index_select(1, first).T @ self.up[0]  # elements, edge channels
        arms = (around.harmonics.unsqueeze(-1) * around.elements.unsqueeze(-2)).flatten(1)
        sums = outer(arms, hidden, sites.layout).view(h.shape[2], around.harmonics.shape[1], -1)
        k, degrees = hidden.shape[1], len(self.mix)
        weight = self.weight.view(k, degrees, self.n_edge).transpose(0, 1)
        factors = [self.paths.coefficients(own[0], hidden)[0, 0] for own in self.paths.by_result]
        folded = scalars[None, :, None] * (weight * torch.stack(factors)[:, None, None])[:, None]
        folded = torch.bmm(folded.flatten(1, 2), torch.stack(list(self.mix)))  # degrees, (elements, k), channels
        return torch.bmm(spread(folded, sums.shape[1]).transpose(1, 2), sums.permute(1, 2, 0))

    def _normalized(self, a: Tensor, around: Surroundings) -> Tensor:
        if not self.kind.startswith("density"):
            return a / self.mean_neighbors.to(a)
        share = torch.tanh((around.radial @ self.density).square())
        share = share if around.fade is None else share * around.fade
        receivers = around.sites.layout.receivers
        return a / (1 + share.new_zeros(a.shape[2]).index_add(0, receivers, share.squeeze(-1)))
