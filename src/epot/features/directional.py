"""Bases of distances and angles that networks over triplets share: DimeNet, DimeNet++, GemNet.

J. Gasteiger, J. Groß, S. Günnemann, ICLR (2020), arXiv:2003.03123 (equation numbers are theirs). With ``x = r / c``,
``z_ln`` the n-th positive root of the spherical Bessel function ``j_l`` and an angle theta between two directions, the
basis of a triplet is

    u(x) N_ln j_l(z_ln x) Y_l0(theta),     N_ln = sqrt(2) / |j_(l+1)(z_ln)|     (Eq. 6, without c^-3/2),

and that of a pair ``u(x) sin(f_n x)``, ``f_n = n pi`` at the start (Eq. 7, without sqrt(2/c)), where ``u(x)`` is
:func:`epot.features.cutoff.polynomial_cutoff` over x (Eq. 8). Everything is differentiable to any order.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.special import spherical_jn

from ..typing import Float, Tensor
from .bessel import roots
from .cutoff import polynomial_cutoff


def envelope(r: Tensor, cutoff: float, p: int = 6) -> Tensor:
    """``u(x) = 1/x - (p+1)(p+2)/2 x^(p-1) + p(p+2) x^p - p(p+1)/2 x^(p+1)``, x = r/cutoff; zero beyond.

    Twice differentiable at the cutoff. Codes that count the exponent one lower call ``p = 6`` 5.

    Args:
        r: Å, greater than zero, any shape.
        cutoff: Å.
        p: exponent, at least 2.
    """
    return polynomial_cutoff(r, cutoff, p) * (cutoff / r)


def sine_basis(r: Float[Tensor, " pairs"], frequencies: Float[Tensor, " n"], cutoff: float) -> Float[Tensor, "pairs n"]:
    """``sin(f_n x)``, x = r/cutoff, without the envelope; differentiable in the frequencies, too."""
    return torch.sin((r / cutoff).unsqueeze(-1) * frequencies)


def bessel_functions(r: Float[Tensor, " pairs"], cutoff: float, l_max: int, n: int) -> Float[Tensor, "degrees n pairs"]:
    """``N_ln j_l(z_ln x)``, x = r/cutoff, for l = 0 .. l_max and the first n roots, without the envelope.

    Orthonormal in each l: ``integral_0^1 of x^2 dx``. Points come last: every operation runs over contiguous rows.

    Args:
        r: Å, greater than zero.
        cutoff: Å.
        l_max: highest degree, included.
        n: functions of each degree.
    """
    zeros, norms, degrees = _constants(l_max, n, r.dtype, r.device)
    return spherical_bessel(zeros * (r / cutoff), degrees) * norms


@lru_cache(maxsize=32)
def _constants(l_max: int, n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Roots and norms, ``(degrees, n, 1)``, and degrees, ``(degrees, 1, 1)``."""
    found = roots(l_max, n)
    norms = np.sqrt(2) / np.abs(spherical_jn(np.arange(1, l_max + 2)[:, None], found))
    zeros, factors = (torch.as_tensor(t, dtype=dtype, device=device) for t in (found, norms))
    degrees = torch.arange(l_max + 1, dtype=dtype, device=device)
    return zeros[:, :, None], factors[:, :, None], degrees[:, None, None]


def spherical_bessel(
    x: Float[Tensor, "degrees n points"], degrees: Float[Tensor, "degrees 1 1"]
) -> Float[Tensor, "degrees n points"]:
    """``j_l(x)`` of a different degree in each row, ``degrees = 0, 1, 2 ..``; x greater than zero.

    By upward recurrence where ``x > l + 1`` and by the power series below, where the recurrence loses digits.
    """
    return _Bessel.apply(x, degrees)[0]


class _Bessel(torch.autograd.Function):
    """``a = j_l`` and ``b = j_(l+1)``, which make all derivatives: ``a' = l a/x - b``, ``b' = a - (l+2) b/x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, degrees: Tensor) -> tuple[Tensor, Tensor]:
        a, b = _upward(x)
        for order, made in ((degrees, a), (degrees + 1, b)):
            small = (x < order + 1).nonzero(as_tuple=True)
            made[small] = _series(x[small], order.expand_as(x)[small], x.shape[0] + 1)
        ctx.save_for_backward(x, degrees, a, b)
        return a, b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, degrees, a, b = ctx.saved_tensors
        grad_a, grad_b = grads
        over = 1 / x
        return grad_a * (degrees * a * over - b) + grad_b * (a - (degrees + 2) * b * over), None


def _upward(x: Tensor) -> tuple[Tensor, Tensor]:
    """``j_(l+1) = (2l+1)/x j_l - j_(l-1)`` from sine and cosine, row l up to degree l + 1."""
    over = 1 / x
    before = torch.cos(x) * over  # j_(-1)
    now = torch.sin(x) * over
    a, b = torch.empty_like(x), torch.empty_like(x)
    for degree in range(x.shape[0]):
        after = torch.mul(now, over[degree:]).mul_(2 * degree + 1).sub_(before)
        a[degree], b[degree] = now[0], after[0]
        before, now = now[1:], after[1:]
    return a, b


def _series(x: Tensor, order: Tensor, largest: int) -> Tensor:
    """``x^l / (2l+1)!! (1 - x^2/2 / (2l+3) (1 - x^2/2 / (2 (2l+5)) (1 - ...)))`` for ``x < l + 1 <= largest + 1``."""
    half = x.square() * -0.5
    total = torch.ones_like(x)
    for k in range(_n_terms(largest, torch.finfo(x.dtype).eps), 0, -1):
        total = total * half / (k * (2 * order + (2 * k + 1))) + 1
    for degree in range(1, largest + 1):
        total = torch.where(order >= degree, total * x / (2 * degree + 1), total)
    return total


@lru_cache(maxsize=32)
def _n_terms(largest: int, precision: float) -> int:
    """Terms that the series needs at its worst, ``x = l + 1`` with the highest degree."""
    term, k = 1.0, 0
    while term > 0.1 * precision:
        k += 1
        term *= (largest + 1) ** 2 / 2 / (k * (2 * largest + 2 * k + 1))
    return k


def zonal_harmonics(cosine: Float[Tensor, " triplets"], l_max: int) -> Float[Tensor, "degrees triplets"]:
    """``Y_l0 = sqrt((2l+1)/4pi) P_l(cos theta)`` by Legendre's recurrence: no angle is made, no sine divided by.

    Args:
        cosine: of the angle.
        l_max: highest degree, included.
    """
    polynomials = [torch.ones_like(cosine), cosine]
    for degree in range(1, l_max):
        now, before = polynomials[-1], polynomials[-2]
        polynomials.append(((2 * degree + 1) * cosine * now - degree * before) / (degree + 1))
    made = [math.sqrt((2 * k + 1) / (4 * math.pi)) * p for k, p in enumerate(polynomials[: l_max + 1])]
    return torch.stack(made)
