"""The last layers of a committee: one linear readout for each member."""

from __future__ import annotations

import torch
from torch import nn

from ..typing import Float, Tensor


class MemberReadout(nn.Module):
    """``E_im = scale * (x_im . w_m + b_m)``: what :class:`~epot.blocks.readout.LinearReadout` is to one potential.

    Args:
        n_members: of the committee.
        n_features: of each member.
        dtype: of the weights.

    Attributes:
        weight: ``(members, features, 1)``.
        bias: ``(members,)``.
        scale: eV per unit of the output, ``()``.
    """

    scale: Tensor

    def __init__(self, n_members: int, n_features: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        bound = n_features**-0.5
        self.weight = nn.Parameter(torch.empty(n_members, n_features, 1, dtype=dtype).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_members, dtype=dtype))
        self.register_buffer("scale", torch.ones((), dtype=dtype))

    def forward(self, features: Float[Tensor, "members atoms features"]) -> Float[Tensor, "atoms members"]:
        """Energies of all members, eV."""
        return (torch.bmm(features, self.weight).squeeze(2).T + self.bias) * self.scale
