"""Directional messages by compiled kernels: sums over triplets, angles, and filters of few dimensions.

The operators are those of :mod:`epot.blocks.directional_sums` and :mod:`epot.blocks.angles`, for one atom at a time and
without empty slots (``native/directional.cpp``), and :func:`filtered`, the product with a filter that is linear in few
functions, which is never stored. Each has a kernel for its gradient, and one for the gradient of its derivative along
any direction, which a loss on forces asks for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from .. import native
from ..geometry.graph import Graph
from ..typing import Float, Tensor
from .operator import applied, filled
from .spline_messages import NAMES


class Pairs:
    """The pairs of a graph as the kernels need them.

    Attributes:
        first: pair of each atom, and the number of pairs.
        reverse: of each pair.
        square: sum of the squares of the numbers of neighbors of the atoms before.
        n_squares: of all atoms.
        receivers: of each pair.
    """

    def __init__(self, graph: Graph) -> None:
        self.first, self.reverse = graph.row_pointers().contiguous(), graph.reverse_pairs().contiguous()
        squares = (self.first[1:] - self.first[:-1]).square()
        self.square, self.n_squares = squares.cumsum(0) - squares, int(squares.sum())
        self.receivers = graph.pairs[0].contiguous()

    def shape(self, degrees: int, n: int, channels: int) -> Any:
        tables = (t.data_ptr() for t in (self.first, self.reverse, self.square))
        return _Shape(len(self.square), degrees, n, channels, torch.get_num_threads(), *tables)


class _Shape(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("n_atoms", "degrees", "n", "channels", "threads")],
        *[(name, ctypes.c_void_p) for name in ("first", "reverse", "square")],
    ]


class _Rows(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("count", "n", "channels", "threads")],
        ("receivers", ctypes.c_void_p),
    ]


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels serve such tensors."""
    return device.type == "cpu" and dtype in NAMES and native.library("directional") is not None


def pairs_of(graph: Graph) -> Pairs:
    """Those of a graph, made once for each."""
    return graph._once("directional_pairs", lambda: Pairs(graph))


def native_sums(
    x: Float[Tensor, "pairs channels"],
    weights: Float[Tensor, "degrees n channels"],
    radial: Float[Tensor, "pairs functions"],
    angles: Float[Tensor, " angles"],
    pairs: Pairs,
) -> Float[Tensor, "pairs channels"]:
    """:func:`epot.blocks.directional_sums.directional_sums`, with the norms of the harmonics in the weights."""
    return applied(_Sums(pairs, weights), x, weights, radial, angles)


def native_angles(units: Float[Tensor, "pairs 3"], pairs: Pairs, degrees: int) -> Float[Tensor, " angles"]:
    """:func:`epot.blocks.angles.legendre_angles`, ``(degrees, K, K)`` of each atom one after the other."""
    return applied(_Angles(pairs, degrees), units)


def filtered(
    x: Float[Tensor, "pairs F"],
    basis: Float[Tensor, "pairs n"],
    weights: Float[Tensor, "n F"],
    sum_over: Graph | None = None,
) -> Float[Tensor, "rows F"]:
    """``x (basis weights)`` of every pair, or summed over the pairs of each receiver of a graph.

    Differentiable twice in everything.
    """
    if available(x.device, x.dtype):
        pairs = None if sum_over is None else pairs_of(sum_over)
        return applied(_Filtered(x, basis, pairs), x, basis, weights)
    made = basis.mm(weights) * x
    if sum_over is None:
        return made
    return x.new_zeros(sum_over.n_atoms, x.shape[1]).index_add(0, sum_over.pairs[0], made)


@lru_cache(maxsize=32)
def _function(name: str, n_tensors: int) -> Any:
    function = getattr(native.library("directional"), name)
    function.argtypes, function.restype = [ctypes.c_void_p] * (1 + n_tensors), None
    return function


def _run(name: str, shape: Any, dtype: torch.dtype, tensors: Sequence[Tensor | None]) -> None:
    """Call a kernel with pointers to contiguous tensors."""
    function = _function(f"{name}_{NAMES[dtype]}", len(tensors))
    function(ctypes.addressof(shape), *[None if t is None else t.data_ptr() for t in tensors])


def _per_thread(like: Tensor, shape: Any) -> Tensor:
    return like.new_zeros(shape.threads, *like.shape)


class _Sums:
    """The kernels of the sums over triplets."""

    def __init__(self, pairs: Pairs, weights: Tensor) -> None:
        self.pairs, self.shape = pairs, pairs.shape(*weights.shape)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        out = torch.empty_like(x)
        _run("forward", self.shape, x.dtype, (x, *others, out))
        return out

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]) -> tuple[Tensor | None, ...]:
        x, weights, radial, angles = inputs
        d_x = torch.empty_like(x)
        d_weights = _per_thread(weights, self.shape) if want[1] else None
        d_radial = torch.empty_like(radial) if want[2] else None
        d_angles = torch.empty_like(angles) if want[3] else None
        _run("backward", self.shape, x.dtype, (grad, *inputs, d_x, d_weights, d_radial, d_angles))
        return d_x if want[0] else None, None if d_weights is None else d_weights.sum(0), d_radial, d_angles

    def second(
        self, along: Sequence[Tensor | None], grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        x, weights, radial, angles = inputs
        x1, radial1, angles1 = (filled(along[k], inputs[k]) for k in (0, 2, 3))
        d_grad, d_x = torch.empty_like(grad), torch.empty_like(x)
        d_weights = _per_thread(weights, self.shape) if want[2] else None
        d_radial = torch.empty_like(radial) if want[3] else None
        d_angles = torch.empty_like(angles) if want[4] else None
        outs = d_grad, d_x, d_weights, d_radial, d_angles
        _run("second", self.shape, x.dtype, (grad, *inputs, x1, along[1], radial1, angles1, *outs))
        return d_grad, d_x, None if d_weights is None else d_weights.sum(0), d_radial, d_angles


class _Angles:
    """The kernels of Legendre polynomials."""

    def __init__(self, pairs: Pairs, degrees: int) -> None:
        self.pairs, self.degrees, self.shape = pairs, degrees, pairs.shape(degrees, 0, 0)

    def forward(self, units: Tensor) -> Tensor:
        out = units.new_empty(self.degrees * self.pairs.n_squares)
        _run("angles", self.shape, units.dtype, (units, out))
        return out

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]) -> tuple[Tensor | None, ...]:
        d_units = torch.zeros_like(inputs[0])
        _run("angles_backward", self.shape, grad.dtype, (grad, inputs[0], d_units))
        return (d_units,)

    def second(
        self, along: Sequence[Tensor | None], grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        d_grad, d_units = torch.empty_like(grad), torch.zeros_like(inputs[0]) if want[1] else None
        _run("angles_second", self.shape, grad.dtype, (filled(along[0], inputs[0]), grad, *inputs, d_grad, d_units))
        return d_grad, d_units


class _Filtered:
    """The kernels of :func:`filtered`."""

    def __init__(self, x: Tensor, basis: Tensor, pairs: Pairs | None) -> None:
        self.pairs = pairs
        receivers = None if pairs is None else pairs.receivers.data_ptr()
        self.shape = _Rows(len(x), basis.shape[1], x.shape[1], torch.get_num_threads(), receivers)

    def forward(self, x: Tensor, basis: Tensor, weights: Tensor) -> Tensor:
        out = torch.empty_like(x) if self.pairs is None else x.new_zeros(len(self.pairs.square), x.shape[1])
        _run("filtered", self.shape, x.dtype, (x, basis, weights, out))
        return out

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]) -> tuple[Tensor | None, ...]:
        x, basis, weights = inputs
        d_x = torch.empty_like(x) if want[0] else None
        d_basis = torch.empty_like(basis) if want[1] else None
        d_weights = _per_thread(weights, self.shape) if want[2] else None
        _run("filtered_backward", self.shape, x.dtype, (grad, *inputs, d_x, d_basis, d_weights))
        return d_x, d_basis, None if d_weights is None else d_weights.sum(0)

    def second(
        self, along: Sequence[Tensor | None], grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        x, basis, weights = inputs
        x1, basis1 = filled(along[0], x), filled(along[1], basis)
        d_grad, d_x = torch.zeros_like(grad), torch.empty_like(x)
        d_basis = torch.empty_like(basis) if want[2] else None
        d_weights = _per_thread(weights, self.shape) if want[3] else None
        outs = d_grad, d_x, d_basis, d_weights
        _run("filtered_second", self.shape, x.dtype, (grad, *inputs, x1, basis1, along[2], *outs))
        return d_grad, d_x, d_basis, None if d_weights is None else d_weights.sum(0)
