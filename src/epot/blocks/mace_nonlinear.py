"""MACE's non-linear interaction: elements in the radial network, a learned normalization, a gate.

The block of the models that mace-torch calls ``RealAgnosticResidualNonLinearInteractionBlock`` (MACE-MH-1 and the
models on OMol25; Batatia et al., arXiv:2510.25380): with ``s = [b(r_ij) | e_src(Z_j) | e_tgt(Z_i)]``

    R_ij = f_c(r_ij) MLP(s),     rho_i = sum_j f_c(r_ij) tanh(MLP'(s)^2),
    A_i = W_2 gate( W_1 m_i / (alpha + beta rho_i) + W_res W_up h_i ).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..typing import Float, Tensor
from .channels import mixed
from .mace_geometry import Seen, Surroundings
from .mace_interaction import Interaction, over_neighbors
from .radial_network import SIGMOID_GAIN, NormedRadialNetwork, scaled_silu, unit_normal

N_DENSITY = 64  # width of the hidden layer of MLP'


class NonlinearInteraction(Interaction):
    """One layer's messages, as :class:`~.mace_interaction.Interaction`, whose arguments it has."""

    def __init__(
        self,
        n_elements: int,
        n_channels: int,
        n_edge_channels: int,
        l_in: int,
        l_harmonic: int,
        l_out: int,
        radial: Sequence[int],
        first: bool = False,
    ) -> None:
        sizes = [radial[0] + 2 * n_channels, *radial[1:]]
        super().__init__(n_elements, n_channels, n_edge_channels, l_in, l_harmonic, l_out, sizes, "residual", first)
        self.kind, gates = "nonlinear", l_harmonic
        widths = [n_channels * (1 + gates)] + [n_channels] * l_harmonic
        shapes = [(old.shape[0], out) for old, out in zip(self.mix, widths, strict=True)]
        self.mix = nn.ParameterList(unit_normal(*shape) for shape in shapes)
        self.bias = nn.Parameter(torch.zeros(self.weight.shape[1]))
        self.network = NormedRadialNetwork(sizes)
        self.density_network = NormedRadialNetwork([sizes[0], N_DENSITY])
        self.density_out = nn.Linear(N_DENSITY, 1, dtype=torch.float32)
        self.embed_source = nn.Parameter(torch.empty(n_elements, n_channels).uniform_(-1e-3, 1e-3))
        self.embed_target = nn.Parameter(torch.empty(n_elements, n_channels).uniform_(-1e-3, 1e-3))
        self.residual = nn.ParameterList(unit_normal(n_edge_channels, out) for out in widths[: l_in + 1])
        self.mix_after = unit_normal(l_harmonic + 1, n_channels, n_channels)
        self.skip = unit_normal(min(l_in, l_out) + 1, n_channels, n_channels)
        self.alpha, self.beta = nn.Parameter(torch.tensor(20.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, h: list[Tensor], around: Surroundings) -> tuple[list[Tensor], list[Tensor]]:
        """A, and what is added to the features after the product."""
        norm = self.alpha + self.beta * over_neighbors(self.density(around.pairs), around.sites)[:, None, None]
        a = [x / norm for x in self.sums(h, around)]
        for degree, kept in enumerate(mixed(mixed(h, self.up), self.residual)):
            a[degree] = a[degree] + kept
        return mixed(self._gated(a), self.mix_after), mixed(h, self.skip)

    def hidden(self, seen: Seen) -> Float[Tensor, "distances K_plus_one"]:
        """H, and the cutoff function alone for the bias."""
        hidden = self.network(self._with_elements(seen))
        assert seen.fade is not None  # the network has biases: MACE asks for it
        return torch.cat([hidden, torch.ones_like(seen.fade)], -1) * seen.fade

    def combined(self) -> Float[Tensor, "K_plus_one paths_channels"]:
        """W with the bias as its last row."""
        return torch.cat([self.weight, self.bias.unsqueeze(0)])

    def density(self, seen: Seen) -> Float[Tensor, "distances 1"]:
        """A neighbor's share of rho."""
        assert seen.fade is not None
        return torch.tanh(self.density_out(self.density_network(self._with_elements(seen))).square()) * seen.fade

    def _with_elements(self, seen: Seen) -> Float[Tensor, "distances inputs"]:
        """Radial functions and the embeddings of both elements."""
        source, target = self.embed_source.index_select(0, seen.source), self.embed_target.index_select(0, seen.target)
        return torch.cat([seen.radial, source, target], -1)

    def _gated(self, a: list[Tensor]) -> list[Tensor]:
        """Scalars through silu; tensors of degree l times the logistic function of their own scalars."""
        scalars, *gates = a[0].split(self.mix_after.shape[1], 2)
        opened = [SIGMOID_GAIN * torch.sigmoid(gate) * x for gate, x in zip(gates, a[1:], strict=True)]
        return [scaled_silu(scalars), *opened]
