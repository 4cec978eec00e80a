"""Orthonormal radial functions of spherical Bessel functions that vanish smoothly at a cutoff.

E. Kocer, J. K. Mason, H. Erturk, J. Chem. Phys. 150, 154102 (2019), doi:10.1063/1.5086167; the functions of all l,
AIP Adv. 10, 015021 (2020), doi:10.1063/1.5111045 (equations below are of the latter). With ``u_n`` the n-th root of
``j_l``, counted from 0, and ``x = r / cutoff``,

    f_n = cutoff^-3/2 sqrt(2 / (u_n^2 + u_(n+1)^2)) [ u_(n+1) / j_(l+1)(u_n) j_l(u_n x)
                                                       - u_n / j_(l+1)(u_(n+1)) j_l(u_(n+1) x) ]

vanishes at the cutoff with its first and second derivative, so no cutoff function is needed; a two-term recurrence
makes the functions of one l orthonormal with the weight ``r^2``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import spherical_jn


@lru_cache(maxsize=16)
def roots(l_max: int, n: int) -> np.ndarray:
    """The first ``n`` positive roots of ``j_l`` for l = 0 .. l_max, ``(l_max + 1, n)``.

    The roots of ``j_0`` are multiples of pi and between two roots of ``j_(l-1)`` lies one of ``j_l``.
    """
    known = np.pi * np.arange(1, n + l_max + 1)
    table = [known[:n]]
    for order in range(1, l_max + 1):
        pairs = zip(known[:-1], known[1:], strict=True)
        known = np.array(
            [brentq(lambda x, order=order: spherical_jn(order, x), a, b, xtol=1e-14, rtol=1e-15) for a, b in pairs]
        )
        table.append(known[:n])
    return np.stack(table)


def radial_functions(r: np.ndarray, cutoff: float, n_max: int) -> np.ndarray:
    """``g_nl(r)`` for l = 0 .. n_max and in each l for n = 0 .. n_max - l.

    Args:
        r: Å, within the cutoff, ``(points,)``.
        cutoff: Å.
        n_max: highest order.

    Returns:
        Å^-3/2, ``((n_max + 1)(n_max + 2)/2, points)``, l outermost; zero beyond the cutoff.
    """
    u = roots(n_max, n_max + 2)
    return np.concatenate([_of_degree(r, cutoff, order, u[order, : n_max - order + 2]) for order in range(n_max + 1)])


def _of_degree(r: np.ndarray, cutoff: float, order: int, u: np.ndarray) -> np.ndarray:
    """Those of one l, one less than the roots that are given."""
    x = np.asarray(r, dtype=float) / cutoff
    each = spherical_jn(order, u[:, None] * x) / spherical_jn(order + 1, u)[:, None]
    square = u**2
    weight = np.sqrt(2 / (square[:-1] + square[1:])) / cutoff**1.5
    f = weight[:, None] * (u[1:, None] * each[:-1] - u[:-1, None] * each[1:])
    g, d = [f[0]], 1.0
    for n in range(1, len(f)):
        e = square[n - 1] * square[n + 1] / ((square[n - 1] + square[n]) * (square[n] + square[n + 1]))
        e_over_d = e / d
        d = 1 - e_over_d
        g.append((f[n] + np.sqrt(e_over_d) * g[-1]) / np.sqrt(d))
    return np.where(x < 1, np.stack(g), 0.0)
