"""Activations of dense networks with their first and second derivatives, for passes that are written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from ..typing import Tensor

_nn: Any = torch._C._nn
_aten: Any = torch.ops.aten


class Activation(NamedTuple):
    """An activation and its derivatives.

    Attributes:
        plain: the values, by operations that autograd differentiates.
        value: writes the values at x into ``out``.
        slope: the first derivative, from x and the values, times a gradient.
        bend: the second derivative, from x, the values and the first derivative.
    """

    plain: Callable[[Tensor], Tensor]
    value: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor, Tensor], Tensor]
    bend: Callable[[Tensor, Tensor, Tensor], Tensor]


def _gelu_bend(x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    """``(2 - x^2) exp(-x^2/2) / sqrt(2 pi)``."""
    square = x * x
    bell = torch.mul(square, -0.5).exp_()
    return square.sub_(2.0).mul_(bell).mul_(-1 / math.sqrt(2 * math.pi))


def _silu_bend(x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    """``p (1 - p) (2 + x (1 - 2 p))`` with the logistic function p."""
    p = torch.sigmoid(x)
    return torch.addcmul(x + 2, x, p, value=-2).mul_(p).mul_(p.neg().add_(1))


ACTIVATIONS: dict[str, Activation] = {
    "tanh": Activation(
        torch.tanh,
        lambda x, out: torch.tanh(x, out=out),
        lambda grad, x, y: _aten.tanh_backward(grad, y),
        lambda x, y, s: (y * s).mul_(-2.0),
    ),
    "silu": Activation(
        nn.functional.silu,
        lambda x, out: _nn.silu(x, out=out),
        lambda grad, x, y: _aten.silu_backward(grad, x),
        _silu_bend,
    ),
    "gelu": Activation(
        nn.functional.gelu,
        lambda x, out: _nn.gelu(x, out=out),
        lambda grad, x, y: _aten.gelu_backward(grad, x),
        _gelu_bend,
    ),
    "celu": Activation(
        lambda x: nn.functional.celu(x, alpha=0.1),
        lambda x, out: _nn.elu(x, 0.1, 1.0, 10.0, out=out),
        lambda grad, x, y: _aten.elu_backward(grad, 0.1, 1.0, 10.0, False, x),
        lambda x, y, s: (x <= 0).to(x.dtype).mul_(s).mul_(10.0),
    ),
    "softplus": Activation(
        nn.functional.softplus,
        lambda x, out: _nn.softplus(x, out=out),
        lambda grad, x, y: grad * torch.sigmoid(x),
        lambda x, y, s: torch.addcmul(s, s, s, value=-1),
    ),
    "gaussian": Activation(
        lambda x: torch.exp(-x.square()),
        lambda x, out: torch.mul(x, x, out=out).neg_().exp_(),
        lambda grad, x, y: grad * (-2 * x * y),
        lambda x, y, s: torch.square(2 * x).sub_(2.0).mul_(y),
    ),
}
"""Those that potentials usually have. The second derivative of ``celu`` jumps at 0."""
