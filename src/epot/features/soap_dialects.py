"""What the SOAP codes disagree on: radial basis, density and contraction, one dialect a function.

The codes share ``c_nlm = <R_n Y_lm | rho>`` and ``p ~ sum_m c c'`` (Bartok, Kondor, Csanyi, Phys. Rev. B 87,
184115 (2013)) and nothing else. A dialect says the rest (the order of components is in
:mod:`epot.features.soap_layout`); :class:`epot.features.descriptors.soap.Soap` does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.special import erf, gamma, ive

from ..errors import ConfigError


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Radial integrals in closed form: ``r^l sum_k mix_lnk exp(-rate_lk r^2)``.

    Attributes:
        rates: 1/Å^2, ``(l_max + 1, n_max)``.
        mix: ``(l_max + 1, n_max, n_max)``.
    """

    rates: np.ndarray
    mix: np.ndarray

    def __call__(self, r: np.ndarray) -> np.ndarray:
        degrees = np.arange(len(self.rates))[:, None, None]
        return self.mix @ (r**degrees * np.exp(-self.rates[:, :, None] * r**2))


class Dialect(NamedTuple):
    """One code's conventions.

    Attributes:
        radial: distances ``(points,)`` to the radial integral of a neighbor's density, without the cutoff
            function, ``(l_max + 1, n_max, points)``; where it has a closed form, :class:`Gaussians`.
        center: what the atom itself adds to its own species' ``c_n00``, ``(n_max,)``, where its weight is one.
        factors: of ``sum_m c_nlm c_n'lm``, one for each l, ``(l_max + 1,)``.
        reach: Å, of the last neighbor that counts.
        normalize: whether the code divides the vector by its length.
        smooth: whether a neighbor fades in at the cutoff.
    """

    radial: Callable[[np.ndarray], np.ndarray]
    center: np.ndarray
    factors: np.ndarray
    reach: float
    normalize: bool = False
    smooth: bool = True


class Basis(NamedTuple):
    """Sizes that a dialect's functions are made of: ``cutoff`` and ``sigma`` in Å."""

    cutoff: float
    n_max: int
    l_max: int
    sigma: float
    name: str = "gto"


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


def quip(basis: Basis) -> Dialect:
    """QUIP and gap_fit: equispaced Gaussian basis (``EQUISPACED_GAUSS``, QUIP's descriptors.F90).

    Gaussians of the density's own width stand at ``r_n = n h``, ``h = (cutoff + sigma sqrt(20 ln 10)) / n_max``,
    and are made orthonormal with ``T = C^-1 L``, ``C_nm = exp(-alpha (r_n - r_m)^2)``, ``S = L L^T`` their overlap.

    Raises:
        ConfigError: the basis is linearly dependent in double precision (too many functions for this width).
    """
    cutoff, n_max, l_max, sigma, _ = basis
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
        raise _dependent(basis) from None

    def radial(r: np.ndarray) -> np.ndarray:
        z = 2 * alpha * r * nodes[:, None]
        shells = np.exp(-alpha * (r - nodes[:, None]) ** 2) * scaled_spherical_bessel(l_max, z)
        return np.einsum("lmp,mn->lnp", shells, transform)

    center = lower[0] / np.sqrt(4 * np.pi)
    return Dialect(radial, center, 1 / np.sqrt(2 * np.arange(l_max + 1) + 1), cutoff, normalize=True)


def dscribe(basis: Basis) -> Dialect:
    """DScribe (Himanen et al., Comput. Phys. Commun. 247, 106949 (2020)), bases ``gto`` and ``polynomial``.

    The atom counts as a neighbor of itself; neighbors count, at full weight unless one is given, up to
    ``cutoff + sigma sqrt(2 ln 1000)``, where the spectrum therefore jumps.

    Raises:
        ConfigError: the basis is linearly dependent in double precision.
    """
    reach = basis.cutoff + basis.sigma * np.sqrt(2 * np.log(1000))
    radial = _dscribe_gto(basis) if basis.name == "gto" else _dscribe_polynomial(basis)
    factors = np.pi * np.sqrt(8 / (2 * np.arange(basis.l_max + 1) + 1))
    return Dialect(radial, _at_zero(radial), factors, reach, smooth=False)


def _dscribe_gto(basis: Basis) -> Gaussians:
    """``r^l exp(-alpha_nl r^2)``, which decay to 1e-3 at distances from 1 Å to the cutoff, made orthonormal by Löwdin.

    Raises:
        ConfigError: the cutoff is not beyond 1 Å.
    """
    cutoff, n_max, l_max, sigma, _ = basis
    if cutoff <= 1:
        raise ConfigError(f"DScribe's gto basis begins at 1 Å: a cutoff of {cutoff} Å is too short.")
    decay = np.linspace(1, cutoff, n_max)
    eta = 1 / (2 * sigma**2)
    rates, mix = [], []
    for n in range(l_max + 1):
        alpha = -np.log(1e-3 / decay**n) / decay**2
        beta = _lowdin(0.5 * gamma(n + 1.5) * (alpha[:, None] + alpha) ** (-n - 1.5), basis)
        total = alpha + eta
        rates.append(alpha * eta / total)
        mix.append(beta * (np.pi**1.5 * eta**n * total ** (-n - 1.5)))
    return Gaussians(np.stack(rates), np.stack(mix))


def _dscribe_polynomial(basis: Basis) -> Callable[[np.ndarray], np.ndarray]:
    """``(cutoff - r)^(n + 2)``, n = 1 .. n_max, up to the cutoff, made orthonormal by Löwdin."""
    cutoff, n_max = basis.cutoff, basis.n_max
    nodes, weights = _quadrature(cutoff, basis.sigma)
    n = np.arange(1, n_max + 1)
    total = n[:, None] + n
    overlap = 2 * cutoff ** (7.0 + total) / ((5 + total) * (6 + total) * (7 + total))
    return _integral(basis, nodes, weights, _lowdin(overlap, basis) @ (cutoff - nodes) ** (n[:, None] + 2.0))


def featomic(basis: Basis) -> Dialect:
    """Featomic (formerly rascaline), Gaussian-type orbitals; ``n_max`` is featomic's ``max_radial + 1``.

    ``r^n exp(-r^2 / 2 s_n^2)``, ``s_n = cutoff max(sqrt n, 1) / n_max``, n = 0 .. n_max - 1, the same for all l, made
    orthonormal by Löwdin; the density ``g`` of a neighbor has ``<g|g> = 1`` (Musil et al., J. Chem. Phys. 154, 114109
    (2021)).

    Raises:
        ConfigError: the basis is linearly dependent in double precision.
    """
    cutoff, n_max, l_max, sigma, _ = basis
    n = np.arange(n_max)
    widths = cutoff * np.maximum(np.sqrt(n), 1) / n_max
    norms = np.sqrt(2 / (widths ** (2 * n + 3) * gamma(n + 1.5)))
    total = 3 + n[:, None] + n
    overlap = 0.5 * gamma(total / 2) * (0.5 / widths[:, None] ** 2 + 0.5 / widths**2) ** (-total / 2)
    overlap *= norms[:, None] * norms
    nodes, weights = _quadrature(cutoff + 12 * sigma, sigma)
    functions = norms[:, None] * nodes ** n[:, None] * np.exp(-0.5 * (nodes / widths[:, None]) ** 2)
    radial = _integral(basis, nodes, weights, _lowdin(overlap, basis) @ functions, (np.pi * sigma**2) ** -0.75)
    degrees = np.arange(l_max + 1)
    return Dialect(radial, _at_zero(radial), (-1.0) ** degrees / np.sqrt(2 * degrees + 1), cutoff)


def _integral(
    basis: Basis, nodes: np.ndarray, weights: np.ndarray, functions: np.ndarray, height: float = 1.0
) -> Callable[[np.ndarray], np.ndarray]:
    """``4 pi height int R_n(x) x^2 exp(-(x^2 + r^2) / 2 sigma^2) i_l(x r / sigma^2) dx`` for ``R_n`` on nodes.

    Every term is positive or as small as ``R_n``, so nothing cancels and nothing overflows: the Bessel function's
    growth is taken into the Gaussian ``exp(-(x - r)^2 / 2 sigma^2)``.
    """
    weighted = functions * (4 * np.pi * height * weights * nodes**2)

    def radial(r: np.ndarray) -> np.ndarray:
        shells = np.exp(-0.5 * ((nodes[:, None] - r) / basis.sigma) ** 2)
        return weighted @ (shells * scaled_spherical_bessel(basis.l_max, nodes[:, None] * r / basis.sigma**2))

    return radial


def _quadrature(end: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on ``[0, end]``: panels as wide as the Gaussians, sixteen nodes in each."""
    panels = max(int(np.ceil(end / sigma)), 4)
    x, w = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(0, end, panels + 1)
    half = (edges[1:] - edges[:-1]) / 2
    return (edges[:-1, None] + half[:, None] * (x + 1)).ravel(), (half[:, None] * w).ravel()


def _lowdin(overlap: np.ndarray, basis: Basis) -> np.ndarray:
    """``S^-1/2``.

    Raises:
        ConfigError: an eigenvalue is lost in rounding.
    """
    values, vectors = eigh(overlap)
    if values[0] < 1e-14 * values[-1]:
        raise _dependent(basis)
    return (vectors / np.sqrt(values)) @ vectors.T


def _at_zero(radial: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What a neighbor at the atom's own place adds to ``c_n00``."""
    return radial(np.zeros(1))[0, :, 0] / np.sqrt(4 * np.pi)


def _dependent(basis: Basis) -> ConfigError:
    return ConfigError(
        f"SOAP with n_max={basis.n_max} and sigma={basis.sigma} within {basis.cutoff} Å: the radial functions are "
        "linearly dependent in double precision. Take a smaller n_max or a smaller sigma."
    )


DIALECTS: dict[str, Callable[[Basis], Dialect]] = {"quip": quip, "dscribe": dscribe, "featomic": featomic}
BASES = {"quip": ("gaussian",), "dscribe": ("gto", "polynomial"), "featomic": ("gto",)}
"""Radial bases of each dialect, its own first."""
