"""SiLU for losses on forces: values, derivatives and derivatives of those, each in one pass.

Autograd takes the derivative of torch's own apart into about ten operations on tensors as large as the input, each
through main memory; with a loss on forces, that is where a network of dense layers spends most of what is not products
of matrices. Compiled kernels (``native/dense.cpp``) do each of the three below in one go; torch's operations do it some
thousand numbers at a time.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .. import native
from ..typing import Tensor

CHUNK = 2**15  # numbers: what is done with them at a time should stay in the processor's cache
_slope = torch.ops.aten.silu_backward
_sigmoid_slope = torch.ops.aten.sigmoid_backward
_NAMES = {torch.float32: "f32", torch.float64: "f64"}


def silu(x: Tensor) -> Tensor:
    """``x sigmoid(x)``; differentiable twice."""
    return _Silu.apply(x)


def silu_value(a: Tensor) -> Tensor:
    """``s(a)``, without a history. ``a`` is contiguous, here as below."""
    if (call := _kernel("value", a)) is None:
        return torch.nn.functional.silu(a)
    out = torch.empty_like(a)
    call(a.numel(), a.data_ptr(), out.data_ptr(), torch.get_num_threads())
    return out


def silu_slope(e: Tensor, a: Tensor, plus: Tensor | None = None) -> Tensor:
    """``e s'(a) + plus``, without a history."""
    if (call := _kernel("slope", a)) is None:
        made = _slope(e, a)
        return made if plus is None else made.add_(plus)
    e, plus = e.contiguous(), None if plus is None else plus.contiguous()
    out = torch.empty_like(a)
    call(a.numel(), a.data_ptr(), e.data_ptr(), _pointer(plus), out.data_ptr(), torch.get_num_threads())
    return out


def silu_second(t: Tensor, e: Tensor, a: Tensor, bent: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """``t s'(a)``, ``t e s''(a)`` (written to ``bent`` where that is given) and ``e s'(a)``."""
    bent = torch.empty_like(a) if bent is None else bent
    if (call := _kernel("second", a)) is None:
        bent.copy_(_bend(t, e, a))
        return _slope(t, a), bent, _slope(e, a)
    t, e = t.contiguous(), e.contiguous()
    v, c = torch.empty_like(a), torch.empty_like(a)
    out = v.data_ptr(), bent.data_ptr(), c.data_ptr()
    call(a.numel(), a.data_ptr(), e.data_ptr(), t.data_ptr(), *out, torch.get_num_threads())
    return v, bent, c


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return silu_value(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _Gradient.apply(grad, x) if torch.is_grad_enabled() else silu_slope(grad, x)


class _Gradient(torch.autograd.Function):
    """``g s'(x)``, whose derivatives along v are ``v s'(x)`` and ``v g s''(x)``."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(grad, x)
        return silu_slope(grad, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, Tensor]:
        grad, x = ctx.saved_tensors
        return silu_second(along, grad, x)[:2]


def _kernel(name: str, like: Tensor) -> Any:
    """The compiled function for such tensors, or None."""
    if like.device.type != "cpu" or like.dtype not in _NAMES or not native.enabled():
        return None
    return _function(f"{name}_{_NAMES[like.dtype]}", 3 + {"value": 1, "slope": 3, "second": 5}[name])


@lru_cache(maxsize=16)
def _function(name: str, n_arguments: int) -> Any:
    if (library := native.library("dense")) is None:
        return None
    function = getattr(library, name)
    function.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * (n_arguments - 2), ctypes.c_int64]
    function.restype = None
    return function


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


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
