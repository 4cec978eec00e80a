"""SiLU for losses on forces: the derivative of its derivative in one go.

Autograd takes torch's own apart into about ten operations on tensors as large as the input, each through main memory;
with a loss on forces, that is where a network of dense layers spends most of what is not products of matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..typing import Tensor

CHUNK = 2**15  # numbers: what is done with them at a time should stay in the processor's cache
_slope = torch.ops.aten.silu_backward
_sigmoid_slope = torch.ops.aten.sigmoid_backward


def silu(x: Tensor) -> Tensor:
    """``x sigmoid(x)``; differentiable twice."""
    return _Silu.apply(x)


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.nn.functional.silu(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _Gradient.apply(grad, x) if torch.is_grad_enabled() else _slope(grad, x)


class _Gradient(torch.autograd.Function):
    """``g s'(x)``, whose derivatives along v are ``v s'(x)`` and ``v g s''(x)``."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(grad, x)
        return _slope(grad, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, Tensor]:
        grad, x = ctx.saved_tensors
        return _slope(along, x), _bend(along, grad, x)


def _bend(along: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """``v g s''(x)`` with ``s'' = sigma (1 - sigma) (2 + x - 2 x sigma)``, some thousand numbers at a time."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    flat = (t.contiguous().view(-1).split(CHUNK) for t in (out, along, grad, x))
    for o, v, g, part in zip(*flat, strict=True):
        sigma = torch.sigmoid(part)
        torch.add(part, 2, out=o).addcmul_(part, sigma, value=-2)
        torch.mul(o, v, out=o).mul_(g)
        o.copy_(_sigmoid_slope(o, sigma))
    return out
