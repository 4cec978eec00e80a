"""Sums over triplets with the bilinear layer of GemNet by compiled kernels (``native/bilinear.cpp``).

The operator is that of :mod:`epot.blocks.gemnet_triplets`, for a few atoms at a time, with Legendre polynomials of the
angles (:func:`epot.blocks.directional_native.native_angles`) in place of spherical harmonics.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from .. import native
from ..typing import Float, Tensor
from .directional_native import Pairs
from .operator import applied, filled
from .spline_messages import NAMES


class _Shape(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("n_atoms", "degrees", "basis", "channels", "outputs", "threads")],
        *[(name, ctypes.c_void_p) for name in ("first", "square")],
    ]


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels serve such tensors; the angles need theirs, too."""
    return device.type == "cpu" and dtype in NAMES and all(map(native.library, ("bilinear", "directional")))


def native_bilinear(
    x: Float[Tensor, "edges F"],
    radial: Float[Tensor, "edges n_basis degrees"],
    angles: Float[Tensor, " angles"],
    weight: Float[Tensor, "n_out n_basis_F"],
    pairs: Pairs,
) -> Float[Tensor, "edges n_out"]:
    """``y_o = sum_(if) W_o(if) sum_l radial_il sum_b P_l x_bf``; differentiable twice in all four."""
    return applied(_Bilinear(x, radial, weight, pairs), x, radial, angles, weight)


class _Bilinear:
    def __init__(self, x: Tensor, radial: Tensor, weight: Tensor, pairs: Pairs) -> None:
        tables = pairs.first.data_ptr(), pairs.square.data_ptr()
        sizes = *radial.shape[:0:-1], x.shape[1], len(weight), torch.get_num_threads()
        self.pairs, self.shape = pairs, _Shape(len(pairs.square), *sizes, *tables)  # the tables are the pairs'

    def _run(self, name: str, first: Tensor, *others: Tensor | None) -> None:
        pointers = (None if t is None else t.data_ptr() for t in (first, *others))
        _function(f"{name}_{NAMES[first.dtype]}", 1 + len(others))(ctypes.addressof(self.shape), *pointers)

    def forward(self, x: Tensor, radial: Tensor, angles: Tensor, weight: Tensor) -> Tensor:
        out = x.new_empty(len(x), len(weight))
        self._run("forward", x, radial, angles, weight, out)
        return out

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]) -> tuple[Tensor | None, ...]:
        found = _wanted(inputs, want)
        self._run("backward", grad, *inputs, *found)
        return found

    def second(
        self, along: Sequence[Tensor | None], grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        d_grad, found = torch.empty_like(grad), _wanted(inputs, want[1:])
        by_geometry = (filled(a, t) for a, t in zip(along[:3], inputs[:3], strict=True))
        self._run("second", grad, *inputs, *by_geometry, along[3], d_grad, *found)
        return d_grad, *found


def _wanted(inputs: Sequence[Tensor], want: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Where gradients go: those by weights are added to."""
    *others, weight = (torch.empty_like(t) if w else None for t, w in zip(inputs, want, strict=True))
    return *others, None if weight is None else weight.zero_()


@lru_cache(maxsize=8)
def _function(name: str, n_tensors: int) -> Any:
    function = getattr(native.library("bilinear"), name)
    function.argtypes, function.restype = [ctypes.c_void_p] * (1 + n_tensors), None
    return function
