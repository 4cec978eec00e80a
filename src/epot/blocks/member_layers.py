"""Dense layers and layer norms of one network, or of many side by side on a first axis."""

from __future__ import annotations

import torch
from torch import nn

from ..typing import Tensor


def truncated_normal(shape: tuple[int, ...], n_in: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """LeCun's initial weights as flax draws them: normal, cut at two standard deviations, of variance ``1 / n_in``."""
    std = n_in**-0.5 / 0.87962566103423978  # of a unit normal that is cut so
    return nn.init.trunc_normal_(torch.empty(shape, dtype=dtype), std=std, a=-2 * std, b=2 * std)


class MemberDense(nn.Module):
    """``y = x W^T + b``, for ``x`` of shape ``(..., n_in)``, or for each member its own, ``(members, atoms, n_in)``.

    Args:
        n_in, n_out: widths.
        members: 0 for one network without an axis of members.
        bias: whether there is one; it starts at zero.

    Attributes:
        weight: ``(n_out, n_in)`` or ``(members, n_out, n_in)``.
    """

    def __init__(self, n_in: int, n_out: int, members: int = 0, *, bias: bool = True) -> None:
        super().__init__()
        shape = (members, n_out, n_in) if members else (n_out, n_in)
        self.weight = nn.Parameter(truncated_normal(shape, n_in))
        empty = torch.zeros(members, 1, n_out) if members else torch.zeros(n_out)
        self.bias = nn.Parameter(empty.to(self.weight)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            return nn.functional.linear(x, self.weight, self.bias)
        if self.bias is None:
            return torch.bmm(x, self.weight.mT)
        return torch.baddbmm(self.bias, x, self.weight.mT)


class MemberNorm(nn.Module):
    """Layer norm over the last axis, with scale and bias (of each member its own).

    Args:
        width: of the last axis.
        members: 0 for one network without an axis of members.
        epsilon: added to the variance.
    """

    def __init__(self, width: int, members: int = 0, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        shape = (members, 1, width) if members else (width,)
        self.weight = nn.Parameter(torch.ones(shape, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(shape, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 1:
            return nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)
        return torch.addcmul(self.bias, nn.functional.layer_norm(x, x.shape[-1:], eps=self.epsilon), self.weight)
