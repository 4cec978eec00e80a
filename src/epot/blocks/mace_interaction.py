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
from typing import ClassVar, Literal

import torch
from torch import nn

from ..typing import Float, Tensor
from .channels import joined, mixed, mixed_by_element
from .element_order import Sites
from .equivariant_messages import Paths, equivariant_messages
from .equivariant_splines import spline_sums
from .filter_tables import solver
from .kept import Kept, tensors_of
from .mace_geometry import Seen, Surroundings
from .neighbor_products import outer
from .radial_network import RadialNetwork, unit_normal
from .spline_messages import spline_messages
from .training_constant import TrainingConstant

RELEVANT = {torch.float32: 1e-7, torch.float64: 1e-13}  # share of the largest singular value
Kind = Literal["agnostic", "residual", "density", "density_residual", "nonlinear"]


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

    radial_parameters: ClassVar = ("network", "weight")

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
        self.unturned = ("skip", "up") if first else ("skip",)  # what sees few different vectors, or one element's
        self.paths = Paths(l_in, l_harmonic, l_harmonic)
        self.up = unit_normal(l_in + 1, n_channels, n_edge_channels)
        self.network: nn.Module = RadialNetwork(radial)
        self.weight = unit_normal(radial[-1], len(self.paths) * n_edge_channels)
        widths = [len(own) * n_edge_channels for own in self.paths.by_result]
        self.mix = nn.ParameterList(unit_normal(width, n_channels) for width in widths)
        residual = kind in ("residual", "density_residual")
        degrees = min(l_in, l_out) + 1 if residual else l_harmonic + 1
        self.skip = unit_normal(degrees, n_elements, n_channels, n_channels, fan_in=n_channels * n_elements)
        if kind.startswith("density"):
            self.dense = unit_normal(radial[0], 1)
        self.neighbors = MeanNeighbors()
        self._kept = Kept()

    def forward(self, h: list[Tensor], around: Surroundings) -> tuple[list[Tensor], list[Tensor]]:
        """A, and what is added to the features after the product (nothing, or some degrees).

        Args:
            h: features, ``h[l]`` of shape ``(atoms, 2 l + 1, channels)``; so are the results.
            around: the geometry.
        """
        norm = self._norm(around)
        if self.first and self.kind == "agnostic" and around.once and not around.compiled:
            return self._from_elements(h, norm, around, self._skips(around)), []
        a = [x / norm for x in self.sums(h, around)] if norm.dim() else self.sums(h, around, norm)
        maps = self._skips(around), around.sites.present, around.once
        if self.kind in ("agnostic", "density"):
            return mixed_by_element(a, *maps), []
        return a, mixed_by_element(h, *maps)

    def _skips(self, around: Surroundings) -> list[tuple[Float[Tensor, "channels out"], ...]]:
        """For each degree the weights of the elements that are there."""
        kinds = around.sites.kinds
        make = lambda: [each.unbind() for each in self.skip.index_select(1, kinds).unbind()]  # noqa: E731
        return self._kept.by([self.skip], make, ("skip", *around.present)) if around.once else make()

    def hidden(self, seen: Seen) -> Float[Tensor, "distances K"]:
        """H."""
        hidden = self.network(seen.radial)
        return hidden if seen.fade is None else hidden * seen.fade

    def combined(self) -> Float[Tensor, "K paths_channels"]:
        """W."""
        return self.weight

    def density(self, seen: Seen) -> Float[Tensor, "distances 1"]:
        """A neighbor's share of the density that A is divided by."""
        share = torch.tanh((seen.radial @ self.dense).square())
        return share if seen.fade is None else share * seen.fade

    def sums(self, h: list[Tensor], around: Surroundings, norm: Tensor | None = None) -> list[Tensor]:
        """Sums over neighbors of each degree, channels mixed, divided by a number ``norm``."""
        if self.first and not around.compiled:
            return self._from_elements(h, norm, around)
        make = lambda: [w if norm is None else w / norm for w in self.mix]  # noqa: E731
        mix = self._kept.by([*self.mix, self.neighbors.factor], make, "mix") if around.once else make()
        sent = joined(mixed(h, self.up.unbind(), around.once)).flatten(1)
        where = around.harmonics, around.sites
        if around.compiled:
            call = *where, self.paths.scheme, around.knots
            found = spline_messages(sent, self._table(around), around.distances, *call)
        elif around.once:
            return spline_sums(sent, self._table(around), around.distances, *where, self.paths, around.terms, mix)
        else:
            found = equivariant_messages(sent, self.hidden(around.pairs), self.combined(), *where, self.paths)
        return mixed(found, mix, around.once)

    def _coefficients(self, around: Surroundings) -> Float[Tensor, "rows K"]:
        """Of the splines of H, those of a kind of pair after those of another."""
        hidden = self.hidden(around.nodes).unflatten(0, (around.knots.n_kinds, -1))
        solve = solver(around.knots.grid.intervals, hidden.dtype, hidden.device)
        return torch.matmul(solve, hidden).flatten(0, 1)

    def _radial_state(self, around: Surroundings) -> list[Tensor]:
        """What tables of radial functions are made of."""
        return tensors_of(self) + tensors_of(around.basis)

    def _table(self, around: Surroundings) -> Float[Tensor, "rows paths_channels"]:
        """Coefficients of the splines of all radial weights."""
        make = lambda: self._coefficients(around) @ self.combined()  # noqa: E731
        return self._kept.by(self._radial_state(around), make, around.kinds) if around.once else make()

    def _radial(self, around: Surroundings) -> tuple[Float[Tensor, "slots K"], Float[Tensor, "K paths_channels"]]:
        """H of every slot and W; where only derivatives by the geometry are wanted, fewer functions with the same
        products, from splines: on a line 64 functions of a small network are combinations of about 20.
        """
        if not around.once:
            return self.hidden(around.pairs), self.combined()

        def make() -> tuple[Tensor, Tensor]:
            u, s, v = torch.linalg.svd(self._coefficients(around).double(), full_matrices=False)
            rank = int((s > RELEVANT[self.weight.dtype] * s.max()).sum())
            parts = (u * s)[:, :rank], v[:rank] @ self.combined().double()
            return tuple(x.to(self.weight.dtype).contiguous() for x in parts)  # type: ignore[return-value]

        table, weight = self._kept.by(self._radial_state(around), make, ("few", around.kinds))
        return around.interpolated(table), weight

    def _from_elements(
        self,
        h: list[Tensor],
        norm: Tensor | None,
        around: Surroundings,
        skips: Sequence[Sequence[Tensor]] | None = None,
    ) -> list[Tensor]:
        """The first layer: a sender's scalars are those of its element, so sums over neighbors come first.

        ``D_i[lm, Z, k] = sum_{j of Z} Y_ij[lm] H_ij[k]``, then one matrix product for each degree, with everything
        that is linear in it: the element's features, W and the mixing of channels, and with ``skips`` the weights of
        the receiver's element, too.
        """
        hidden, radial = self._radial(around)
        arms = (around.harmonics.unsqueeze(-1) * around.elements.unsqueeze(-2)).flatten(1)
        sums = outer(arms, hidden, around.sites.layout)
        degrees, n_elements = len(self.mix), around.elements.shape[1]
        parts = sums.split([(2 * n + 1) * n_elements for n in range(degrees)], 1)
        parts = [d.reshape(len(d), 2 * n + 1, -1) for n, d in enumerate(parts)]
        make = lambda: self._folded(h[0].squeeze(1), radial, norm, around.sites)  # noqa: E731
        if not around.once:
            return mixed(parts, make())
        state, key = [*self._radial_state(around), around.embedding], ("folded", around.present, around.kinds)
        if skips is None:
            return mixed(parts, self._kept.by(state, make, key), once=True)
        each = lambda: [[w @ own for own in each] for w, each in zip(make(), skips, strict=True)]  # noqa: E731
        return mixed_by_element(parts, self._kept.by(state, each, key), around.sites.present, once=True)

    def _folded(
        self, scalars: Float[Tensor, "atoms channels"], radial: Tensor, norm: Tensor | None, sites: Sites
    ) -> list[Float[Tensor, "_ _"]]:
        """What makes A of D, for each degree."""
        first = torch.tensor([0, *sites.present[:-1]], device=scalars.device).cumsum(0)
        sent = (scalars.index_select(0, first) @ self.up[0]).unsqueeze(1)  # elements, 1, edge channels
        found = []
        weights = radial.view(-1, len(self.mix), self.n_edge).unbind(1)
        for own, weight, w in zip(self.paths.by_result, weights, self.mix, strict=True):
            factor = self.paths.coefficients(own[0], weight)[0, 0]
            mix = w if norm is None else w / norm
            found.append((factor * sent * weight).flatten(0, 1) @ mix)  # (elements, k), channels
        return found

    def _norm(self, around: Surroundings) -> Tensor:
        """What A is divided by."""
        if not self.kind.startswith("density"):
            return self.neighbors(around.sites).to(around.distances)
        return 1 + over_neighbors(self.density(around.pairs), around.sites)[:, None, None]


class MeanNeighbors(TrainingConstant):
    """Neighbors of an atom, on average over training data: set once before training."""

    def forward(self, sites: Sites) -> Float[Tensor, ""]:
        """The mean."""
        if self.observing and not bool(self.settled):
            self.settle(sites.neighbors.double().mean().clamp(min=1))
        return self.factor


def over_neighbors(shares: Float[Tensor, "slots 1"], sites: Sites) -> Float[Tensor, " atoms"]:
    """Sums over the slots of each atom."""
    return shares.new_zeros(sites.order.shape[0]).index_add(0, sites.layout.receivers, shares.squeeze(-1))
