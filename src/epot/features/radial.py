"""Radial basis functions: how a distance is spread over channels.

They do not vanish at the cutoff by themselves (the Bessel functions do, their slopes do not): multiply by one of
:mod:`epot.features.cutoff`.
"""

import math
from collections.abc import Callable

import torch

from ..errors import ConfigError
from ..registry import nearest
from ..typing import Tensor


def bessel_basis(r: Tensor, cutoff: float, n: int) -> Tensor:
    """``sin(k pi r / cutoff) / r`` for k = 1..n.

    Spherical Bessel functions of order zero, without the factor ``sqrt(2 / cutoff)`` (PaiNN, Schütt et al.,
    arXiv:2102.03150, section 3.3; with the factor: DimeNet, Gasteiger et al., arXiv:2003.03123, Eq. 7).

    Args:
        r: Å, any shape ``(...)``, greater than zero.
        cutoff: Å.
        n: number of functions.

    Returns:
        1/Å, ``(..., n)``.
    """
    k = torch.arange(1, n + 1, dtype=r.dtype, device=r.device) * (math.pi / cutoff)
    r = r.unsqueeze(-1)
    return torch.sin(r * k) / r


def gaussian_basis(r: Tensor, cutoff: float, n: int) -> Tensor:
    """``exp(-(r - mu_k)^2 / (2 w^2))``, centers ``mu_k`` from 0 to the cutoff, ``w`` their spacing (SchNet, PaiNN).

    Args:
        r: Å, any shape ``(...)``.
        cutoff: Å.
        n: number of functions, at least 2.

    Returns:
        ``(..., n)``, no unit.
    """
    centers = torch.linspace(0.0, cutoff, n, dtype=r.dtype, device=r.device)
    width = cutoff / (n - 1)
    return torch.exp((r.unsqueeze(-1) - centers).square() * (-0.5 / width**2))


def chebyshev_basis(r: Tensor, cutoff: float, n: int) -> Tensor:
    """Chebyshev polynomials ``T_1(r) .. T_n(r)`` of a transformed distance in [0, 1], as MACE has them.

    Args:
        r: any shape ``(...)``; no unit, whatever the cutoff is.
        cutoff: not used.
        n: number of functions.

    Returns:
        ``(..., n)``, no unit.
    """
    values = [torch.ones_like(r), r]
    for _ in range(n - 1):
        values.append(2 * r * values[-1] - values[-2])
    return torch.stack(values[1:], -1)


BASES: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "bessel": bessel_basis,
    "gaussian": gaussian_basis,
    "chebyshev": chebyshev_basis,
}


def radial_basis(kind: str, r: Tensor, cutoff: float, n: int) -> Tensor:
    """The basis of that name, ``(..., n)``.

    Raises:
        ConfigError: an unknown name, or fewer functions than the basis needs.
    """
    if kind not in BASES:
        raise ConfigError(f"There is no radial basis {kind!r}; {nearest(kind, BASES)}")
    least = 2 if kind == "gaussian" else 1
    if n < least:
        raise ConfigError(f"A {kind} basis needs at least {least} functions; got {n}.")
    return BASES[kind](r, cutoff, n)
