"""Rotations on learned features: spherical harmonics, Wigner 3j symbols and D matrices, irreps.

The basis is e3nn's, so that weights of models made with it are read as they are: components of degree l follow one
another (``l*l .. (l+1)^2 - 1``), ``Y(x, y, z)`` are the usual real harmonics of ``(z, x, y)``, so that l = 1 is
``sqrt(3) (x, y, z)``, and they are normalized by component, ``sum_m Y_lm^2 = 2l + 1``. The permutation of the axes is
a rotation, under which 3j symbols do not change: those of the usual real basis serve as they are.

Sources: Geiger and Smidt, arXiv:2207.09453 (conventions); Varshalovich, Quantum Theory of Angular Momentum, sections
8.2 and 4.4 (Racah's formula; products of D matrices); :mod:`epot.features.angular` (polynomials and derivatives).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import permutations

import torch

from ..errors import ConfigError
from ..features import angular
from ..typing import Float, Tensor

N_PER_UNIT = math.sqrt(4 * math.pi)  # from orthonormal on the sphere to component normalization
_AXES = (2, 0, 1)

Irrep = tuple[int, int, int]
"""Multiplicity, degree l and parity (1 even, -1 odd)."""


def spherical_harmonics(directions: Float[Tensor, "*points 3"], l_max: int) -> Float[Tensor, "*points components"]:
    """``Y_lm`` of unit vectors, ``(l_max + 1)^2`` components, differentiable to any order.

    The result is a view of an array with components first: ``moveaxis(-1, 0)`` is contiguous and free.

    Args:
        directions: of length one; for other vectors the result is the solid harmonic ``r^l Y_lm``.
        l_max: highest degree, included.
    """
    axes = torch.tensor(_AXES, device=directions.device)
    flat = directions.reshape(-1, 3).index_select(1, axes)
    values = angular.spherical_harmonics(flat, l_max) * N_PER_UNIT
    return values.view(-1, *directions.shape[:-1]).movedim(0, -1)


def spherical_harmonics_and_gradient(
    vectors: Float[Tensor, "points 3"], l_max: int
) -> tuple[Float[Tensor, "points components"], Float[Tensor, "points components 3"]]:
    """``Y_lm(r/|r|)`` and ``dY_lm/dr`` of vectors of any length but zero, without autograd.

    Both are views of arrays with components (and axes) first.
    """
    distances = vectors.norm(dim=1)
    axes = torch.tensor(_AXES, device=vectors.device)
    units = (vectors / distances[:, None]).index_select(1, axes)
    made = angular.harmonics_with_gradients(units.detach(), distances.detach(), l_max)
    gradients = made.gradients.index_select(0, torch.tensor((1, 2, 0), device=vectors.device))
    return made.values.mul_(N_PER_UNIT).T, gradients.mul_(N_PER_UNIT).permute(2, 1, 0)


@lru_cache(maxsize=4096)
def wigner_3j(l1: int, l2: int, l3: int) -> Float[Tensor, "m1 m2 m3"]:
    """The one invariant of three degrees, of unit Frobenius norm, float64; do not change it in place.

    ``sum_abc W_abc D1_ai D2_bj D3_ck = W_ijk`` for every rotation. Its sign is e3nn's (0.4.4): for ``l1 <= l2 <= l3``
    the middle component is positive or, where that is zero, the first that is not; an odd permutation of the degrees
    gives ``(-1)^(l1 + l2 + l3)``.

    Raises:
        ConfigError: the three do not form a triangle.
    """
    degrees = (l1, l2, l3)
    if min(degrees) < 0 or not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ConfigError(f"degrees {degrees} have no coupling: expected |l1 - l2| <= l3 <= l1 + l2")
    order = sorted(range(3), key=lambda i: degrees[i])
    if order != [0, 1, 2]:
        made = wigner_3j(*(degrees[i] for i in order))
        back = [order.index(i) for i in range(3)]
        return made.permute(back).contiguous() * (-1) ** (sum(degrees) * _is_odd(order))
    table = _complex_3j(l1, l2, l3)
    for axis, degree in enumerate(degrees):
        table = torch.tensordot(angular.real_from_complex(degree).conj(), table, dims=([1], [axis])).movedim(0, axis)
    real = table.real if sum(degrees) % 2 == 0 else table.imag
    real = torch.where(real.abs() > 1e-14, real, 0.0)
    middle = real[l1, l2, l3]
    first = middle if middle != 0 else real[real != 0][0]
    return (real / real.norm() * first.sign()).contiguous()


def _is_odd(order: list[int]) -> int:
    return list(permutations(range(3))).index(tuple(order)) in (1, 2, 5)


def _complex_3j(l1: int, l2: int, l3: int) -> Tensor:
    """Racah's formula in whole numbers: 3j symbols up to a common factor, ``m = -l .. l`` each."""
    f = math.factorial
    table = torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.complex128)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            m3 = -m1 - m2
            low = max(0, l2 - l3 - m1, l1 - l3 + m2)
            high = min(l1 + l2 - l3, l1 - m1, l2 + m2)
            total = sum(
                (-1) ** t
                * _ratio(f(l1 + l2 - l3), f(t) * f(l1 + l2 - l3 - t))
                * _ratio(f(l1 + l3 - l2), f(l1 - m1 - t) * f(l3 - l2 + m1 + t))
                * _ratio(f(l2 + l3 - l1), f(l2 + m2 - t) * f(l3 - l1 - m2 + t))
                for t in range(low, high + 1)
            )
            root = math.prod(f(n + m) * f(n - m) for n, m in ((l1, m1), (l2, m2), (l3, m3)))
            table[m1 + l1, m2 + l2, m3 + l3] = (-1) ** (l1 - l2 - m3) * total * math.sqrt(root)
    return table / table.abs().max()


def _ratio(a: int, b: int) -> int:
    return a // b  # a binomial coefficient: nothing is left over


def wigner_d(degree: int, rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "m n"]:
    """``Y(R r) = D Y(r)`` for the harmonics of one degree; differentiable in R.

    Args:
        degree: l.
        rotation: orthogonal matrix on (x, y, z); with determinant -1 the result is that of parity ``(-1)^l``.
    """
    if degree == 0:
        return rotation.new_ones(1, 1)
    made = rotation
    for n in range(2, degree + 1):
        w = wigner_3j(n - 1, 1, n).to(rotation)
        made = (2 * n + 1) * torch.einsum("abc,ai,bj,ijk->ck", w, made, rotation, w)
    return made


def parse_irreps(text: str) -> tuple[Irrep, ...]:
    """``"128x0e+128x1o"`` to ``((128, 0, 1), (128, 1, -1))``; a missing multiplicity is one.

    Raises:
        ConfigError: not of this form.
    """
    found = []
    for term in text.replace(" ", "").split("+"):
        match = re.fullmatch(r"(?:(\d+)x)?(\d+)([eo])", term)
        if match is None:
            raise ConfigError(f"irreps {text!r}: cannot read {term!r}; expected terms like 128x1o joined by +")
        mul, degree, parity = match.groups()
        found.append((int(mul or 1), int(degree), 1 if parity == "e" else -1))
    return tuple(found)


def format_irreps(irreps: Iterable[Irrep]) -> str:
    """The inverse of :func:`parse_irreps`."""
    return "+".join(f"{mul}x{degree}{'e' if parity == 1 else 'o'}" for mul, degree, parity in irreps)
