"""Dense layers as the papers of message passing networks start them: Glorot-uniform weights, zero biases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..typing import Tensor


def dense(n_in: int, n_out: int, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """``y = x W^T + b``, ``W (n_out, n_in)`` Glorot-uniform, ``b`` zero."""
    layer = nn.Linear(n_in, n_out, bias=bias, dtype=dtype)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def shifted_softplus(x: Tensor) -> Tensor:
    """``ln(e^x / 2 + 1 / 2)``: zero at zero."""
    return nn.functional.softplus(x) - math.log(2)


class MLP(nn.Module):
    """Dense layers with an activation between them, none after the last.

    Args:
        sizes: widths, from the input's to the output's.
        activation: between the layers.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Callable[[Tensor], Tensor] = nn.functional.silu,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.activation = activation
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nn.ModuleList(dense(a, b, dtype=dtype) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)
