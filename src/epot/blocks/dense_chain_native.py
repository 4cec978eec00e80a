"""Chains of dense layers by compiled kernels: what :mod:`epot.blocks.dense_chain` says, in ``native/chain.cpp``.

Values, gradients by what goes in (and by weights), and the second pass of a loss on forces take a call each: products
of matrices and all that lies between them, a block of rows at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from .. import native
from ..typing import Float, Tensor
from .spline_messages import NAMES

LEAST_ROWS = 48
"""Fewer are left to torch: putting weights into the order of the kernels would take as long as the products."""
_ARGUMENTS = {"forward": 6, "backward": 11, "second": 8}


class Plan(NamedTuple):
    """What a chain does beside its products, for each layer as :class:`epot.blocks.dense_chain.Step` has it."""

    plus: tuple[int, ...]
    gains: tuple[float, ...]
    times: tuple[float, ...]


class Sizes:
    """Rows, widths and additions of a chain as the kernels need them."""

    def __init__(self, rows: int, weights: Sequence[Tensor], plan: Plan) -> None:
        widths, n = [weights[0].shape[1], *(len(w) for w in weights)], len(weights)
        whole = (ctypes.c_int64 * (n + 1))(*widths), (ctypes.c_int64 * n)(*plan.plus)
        self._kept = *whole, (ctypes.c_double * n)(*plan.gains), (ctypes.c_double * n)(*plan.times)
        addresses = (ctypes.addressof(k) for k in self._kept)
        self.chain = _Chain(rows, n, torch.get_num_threads(), *addresses)


class _Chain(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("rows", "layers", "threads")],
        *[(name, ctypes.c_void_p) for name in ("widths", "plus", "gains", "times")],
    ]


def available(x: Tensor) -> bool:
    """Whether the kernels serve such rows."""
    return x.device.type == "cpu" and x.dtype in NAMES and len(x) >= LEAST_ROWS and native.library("chain") is not None


def forward(
    x: Float[Tensor, "rows n_in"],
    plan: Plan,
    given: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    out: Float[Tensor, "rows n_out"],
    pre: Sequence[Tensor],
) -> None:
    """Writes ``z_n`` and all ``a_i``."""
    _run("forward", x, weights, plan, x.contiguous(), _all(given), _all(weights), _all(biases), out, pre)


def backward(
    grad: Float[Tensor, "rows n_out"],
    extra: Sequence[Tensor | None],
    plan: Plan,
    weights: Sequence[Tensor],
    pre: Sequence[Tensor],
    x: Float[Tensor, "rows n_in"] | None,
    given: Sequence[Tensor],
    d_x: Float[Tensor, "rows n_in"],
    d_given: Sequence[Tensor],
    e: Sequence[Tensor],
    d_weights: Sequence[Tensor | None],
    d_biases: Sequence[Tensor | None],
) -> None:
    """Writes gradients by x and what is given, and all ``e_i`` unless e is empty; with x adds those by weights."""
    read = grad.contiguous(), _all(extra), _all(weights), pre, None if x is None else x.contiguous(), _all(given)
    _run("backward", grad, weights, plan, *read, d_x, d_given, e or None, d_weights, d_biases)


def second(
    along: Float[Tensor, "rows n_in"],
    along_given: Sequence[Tensor],
    plan: Plan,
    weights: Sequence[Tensor],
    pre: Sequence[Tensor],
    e: Sequence[Tensor],
    d_grad: Float[Tensor, "rows n_out"],
    d_pre: Sequence[Tensor],
    d_weights: Sequence[Tensor | None],
) -> None:
    """Writes ``v_n`` and ``t_i e_i s''(a_i)``; adds the gradients of weights."""
    read = along.contiguous(), _all(along_given), _all(weights), pre, e
    _run("second", along, weights, plan, *read, d_grad, d_pre, d_weights)


def _all(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def _run(name: str, like: Tensor, weights: Sequence[Tensor], plan: Plan, *arguments: Any) -> None:
    """Call a kernel with pointers to tensors, or to arrays of those."""
    sizes = Sizes(len(like), weights, plan)
    _function(f"{name}_{NAMES[like.dtype]}", _ARGUMENTS[name])(ctypes.addressof(sizes.chain), *map(_pointer, arguments))


def _pointer(argument: Any) -> Any:
    if argument is None:
        return None
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return (ctypes.c_void_p * max(len(argument), 1))(*[None if t is None else t.data_ptr() for t in argument])


@lru_cache(maxsize=8)
def _function(name: str, n_arguments: int) -> Any:
    function = getattr(native.library("chain"), name)
    function.argtypes, function.restype = [ctypes.c_void_p] * (1 + n_arguments), None
    return function
