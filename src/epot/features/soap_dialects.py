"""What the SOAP codes disagree on: radial basis, density and contraction, one dialect a function.

The codes share ``c_nlm = <R_n Y_lm | rho>`` and ``p ~ sum_m c c'`` (Bartok, Kondor, Csanyi, Phys. Rev. B 87,
184115 (2013)) and nothing else. A dialect says the rest; :class:`epot.features.soap.Soap` does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import erf, ive

from ..errors import ConfigError


class Dialect(NamedTuple):
    """One code's conventions.

    Attributes:
        radial: distances ``(points,)`` to the radial integral of a neighbor's density, without the cutoff
            function, ``(l_max + 1, n_max, points)``.
        center: what the atom itself adds to its own species' ``c_n00``, ``(n_max,)``.
        factors: of ``sum_m c_nlm c_n'lm``, one for each l, ``(l_max + 1,)``.
    """

    radial: Callable[[np.ndarray], np.ndarray]
    center: np.ndarray
    factors: np.ndarray


def scaled_spherical_bessel(l_max: int, z: np.ndarray) -> np.ndarray:
    """``exp(-z) i_l(z)``, l = 0 .. l_max on the first axis: no overflow for large z, no loss for small z."""
    z = np.asarray(z, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.stack([np.sqrt(np.pi / (2 * z)) * ive(order + 0.5, z) for order in range(l_max + 1)])
    small = z < 1e-8  # i_l ~ z^l / (2l+1)!!
    out[:, small] = 0
    out[0, small] = 1 - z[small]
    if l_max:
        out[1, small] = z[small] / 3
    return out


def quip(cutoff: float, n_max: int, l_max: int, sigma: float, center_weight: float) -> Dialect:
    """QUIP and gap_fit: equispaced Gaussian basis (``EQUISPACED_GAUSS``, QUIP's descriptors.F90).

    Gaussians of the density's own width stand at ``r_n = n h``, ``h = (cutoff + sigma sqrt(20 ln 10)) / n_max``,
    and are made orthonormal with ``T = C^-1 L``, ``C_nm = exp(-alpha (r_n - r_m)^2)``, ``S = L L^T`` their overlap.

    Raises:
        ConfigError: the basis is linearly dependent in double precision (too many functions for this width).
    """
    alpha = 1 / (2 * sigma**2)
    nodes = np.arange(n_max) * ((cutoff + sigma * np.sqrt(20 * np.log(10))) / n_max)
    total, apart = nodes[:, None] + nodes, nodes[:, None] - nodes
    overlap = np.exp(-alpha * (nodes[:, None] ** 2 + nodes**2)) * np.sqrt(2) * alpha**1.5 * total
    overlap += (
        alpha * np.exp(-alpha * apart**2 / 2) * np.sqrt(np.pi) * (1 + alpha * total**2)
        * (1 + erf(np.sqrt(alpha / 2) * total))
    )  # fmt: skip
    overlap /= np.sqrt(128 * alpha**5)
    try:
        lower = np.linalg.cholesky(overlap)
        transform = cho_solve(cho_factor(np.exp(-alpha * apart**2)), lower)
    except np.linalg.LinAlgError:
        raise ConfigError(
            f"SOAP with n_max={n_max} and sigma={sigma} within {cutoff} Å: the radial functions are linearly dependent "
            "in double precision. Take a smaller n_max or a smaller sigma."
        ) from None

    def radial(r: np.ndarray) -> np.ndarray:
        z = 2 * alpha * r * nodes[:, None]
        shells = np.exp(-alpha * (r - nodes[:, None]) ** 2) * scaled_spherical_bessel(l_max, z)
        return np.einsum("lmp,mn->lnp", shells, transform)

    center = center_weight * lower[0] / np.sqrt(4 * np.pi)
    return Dialect(radial, center, 1 / np.sqrt(2 * np.arange(l_max + 1) + 1))


DIALECTS: dict[str, Callable[[float, int, int, float, float], Dialect]] = {"quip": quip}
