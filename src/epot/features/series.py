"""Radial functions as Chebyshev series: exact to rounding, smooth to any order, one matrix product.

The functions of the smooth-density descriptors are entire functions of the distance, so a series of some
fifty terms reproduces them to 1e-14, where a cubic spline needs thousands of nodes for 1e-10. The derivative
of a Chebyshev series is another one, so derivatives of any order cost the same product with another table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import nn

from ..errors import ConfigError
from ..typing import Float, Tensor

ROUNDING = 1e-12
"""Largest plateau, relative to the largest value, at which terms that no longer fall are the rounding of the values."""
ORDERS = 5
"""Derivatives that are kept: energies, forces, Hessians, and two for training through them."""


class ChebyshevSeries(nn.Module):
    """``f_k(r)`` for r in ``[0, cutoff]``, given once as a function and evaluated as a series.

    Args:
        function: numpy, distances ``(points,)`` to values ``(functions, points)``.
        cutoff: Å.
        tolerance: relative to the largest value; the series is cut where its terms are smaller, or where they are the
            rounding of the values: orthonormal combinations of nearly dependent functions are not known to 1e-14.

    Raises:
        ConfigError: the functions do not converge with 1024 terms (a kink, a width far too small, or functions so
            nearly dependent that rounding is above 1e-12).
    """

    tables: Tensor

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], cutoff: float, tolerance: float = 1e-14) -> None:
        super().__init__()
        self.cutoff = cutoff
        table = _fit(function, cutoff, tolerance)
        tables = [table]
        for _ in range(ORDERS - 1):
            lower = chebyshev.chebder(tables[-1], scl=2 / cutoff, axis=1)
            tables.append(np.pad(lower, ((0, 0), (0, table.shape[1] - lower.shape[1]))))
        self.register_buffer("tables", torch.from_numpy(np.stack(tables)), persistent=False)

    @property
    def n_functions(self) -> int:
        return self.tables.shape[1]

    def forward(self, r: Float[Tensor, " points"]) -> Float[Tensor, "functions points"]:
        """Values; differentiable ``ORDERS - 1`` times."""
        return _Series.apply(r, self.tables, self.cutoff, 0)

    def with_derivative(self, r: Float[Tensor, " points"]) -> tuple[Tensor, Tensor]:
        """Values and d/dr, without autograd."""
        t = polynomials(r, self.cutoff, self.tables.shape[2])
        both = self.tables[:2].reshape(-1, t.shape[0]) @ t
        value, slope = both.split(self.n_functions)
        return value, slope


def _fit(function: Callable[[np.ndarray], np.ndarray], cutoff: float, tolerance: float) -> np.ndarray:
    """Coefficients ``(functions, terms)``, with twice as many nodes until the last ones vanish."""
    for terms in (64, 128, 256, 512, 1024):
        nodes = np.cos(np.pi * (np.arange(terms) + 0.5) / terms)
        values = function((nodes + 1) * (cutoff / 2))
        angles = np.pi * np.arange(terms)[:, None] * (np.arange(terms) + 0.5) / terms
        table = values @ np.cos(angles).T * (2 / terms)
        table[:, 0] /= 2
        size = np.abs(table).max(0) / max(np.abs(values).max(), np.finfo(float).tiny)
        for limit in (tolerance, _plateau(size)):
            above = np.flatnonzero(size > limit)
            if not len(above):
                return table[:, :ORDERS]
            if above[-1] < terms - 4:
                return table[:, : max(above[-1] + 1, ORDERS)]
    raise ConfigError(
        f"Radial functions within {cutoff} Å do not converge as a series of 1024 terms: is a width (sigma) far too "
        "small, or n_max so large that they are nearly dependent?"
    )


def _plateau(size: np.ndarray) -> float:
    """Where the later half of the terms is rounding, small and level, its largest; else 0.

    Terms of a smooth function fall faster than any power of their number, those of one with a kink in its second
    derivative or below like the fourth power or slower: too large to pass as rounding, or not level.
    """
    third, last = (float(part.max()) for part in np.split(size[len(size) // 2 :], 2))
    return max(third, last) if third <= ROUNDING and last >= third / 4 else 0.0


def polynomials(r: Tensor, cutoff: float, terms: int, out: Tensor | None = None) -> Tensor:
    """``T_k(2 r / cutoff - 1)``, ``(terms, points)``, by the recurrence ``T_(k+1) = 2 x T_k - T_(k-1)``."""
    x = (r * (2 / cutoff) - 1).clamp(-1, 1)
    out = x.new_empty(terms, x.shape[0]) if out is None else out
    out[0] = 1
    out[1] = x
    known = 1  # T_(n+k) = 2 T_n T_k - T_(n-k): each round doubles what is known
    while known < terms - 1:
        more = min(known, terms - 1 - known)
        new = out[known + 1 : known + 1 + more]
        torch.mul(out[1 : more + 1], out[known] * 2, out=new)
        new -= out[known - more : known].flip(0)
        known += more
    return out


class _Series(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, tables: Tensor, cutoff: float, order: int) -> Tensor:
        t = polynomials(r.detach(), cutoff, tables.shape[2])
        ctx.save_for_backward(r, t, tables)
        ctx.cutoff, ctx.order = cutoff, order
        return tables[order] @ t

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        r, t, tables = ctx.saved_tensors
        order = ctx.order + 1
        slope = _Series.apply(r, tables, ctx.cutoff, order) if torch.is_grad_enabled() else tables[order] @ t
        return (grads[0] * slope).sum(0), None, None, None
