"""Spherical Bessel functions of distances from splines, where forces are all that is asked for.

Functions and slopes are read from one table of quintic splines (:mod:`epot.blocks.filter_tables`), made in float64 once
for a cutoff and kept: a seventh of the time of recurrences and power series at every pair. In single precision their
error is that of rounding (2e-7 of the largest); who asks for double precision gets the functions themselves.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..features.directional import bessel_functions
from ..typing import Float, Tensor
from .filter_tables import Grid, Taps, refined


def bessel_splines(r: Float[Tensor, " pairs"], cutoff: float, l_max: int, n: int) -> Float[Tensor, "degrees n pairs"]:
    """:func:`epot.features.directional.bessel_functions`, differentiable once in single precision.

    Args:
        r: Å, from 0 to the cutoff.
        cutoff: Å.
        l_max: highest degree, included.
        n: functions of each degree.
    """
    if r.dtype == torch.float64:
        return bessel_functions(r, cutoff, l_max, n)
    return _Splined.apply(r, cutoff, l_max, n).t().unflatten(0, (l_max + 1, n))


class _Splined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, cutoff: float, l_max: int, n: int) -> Tensor:
        on, table = _table(cutoff, l_max, n, r.dtype, r.device)
        taps = Taps(r, on, cutoff, lambda r, _: (torch.ones_like(r), torch.zeros_like(r)))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(taps.values(table, 1))
        return taps.values(table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (grad * slopes).sum(1), None, None, None


@lru_cache(maxsize=32)
def _table(cutoff: float, l_max: int, n: int, dtype: torch.dtype, device: torch.device) -> tuple[Grid, Tensor]:
    signs = (-1.0) ** torch.arange(l_max + 1, dtype=torch.float64, device=device)[:, None, None]

    def functions(r: Tensor) -> list[Tensor]:
        """At nodes beyond zero ``j_l(-x) = (-1)^l j_l(x)``."""
        values = bessel_functions(r.abs(), cutoff, l_max, n)
        return [torch.where(r < 0, signs * values, values).flatten(0, 1).t()]

    with torch.inference_mode(False), torch.no_grad():
        on, (table,) = refined(functions, torch.zeros(0, dtype=dtype, device=device), cutoff, "bessel", n + l_max // 2)
    return on, table
