"""Real spherical harmonics as polynomials in x, y, z: the one angular convention of the package.

Solid harmonics ``S_lm(r) = r^l Y_lm(r/|r|)`` are homogeneous polynomials, so they are smooth everywhere,
also where spherical angles are not. Order: ``l = 0 .. l_max``, ``m = -l .. l`` (component ``l*l + l + m``).
``Y_lm`` are orthonormal on the sphere, without the Condon-Shortley phase: ``Y_1 = sqrt(3/4pi) (y, z, x)``
(Wikipedia's table; the order and signs of sphericart, Bigi et al., J. Chem. Phys. 159, 064802 (2023)).

The gradient of a solid harmonic of degree l is a combination of those of degree l-1, so derivatives of
any order are matrix products with what is already there, and nothing is differentiated numerically.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ..typing import Float, Tensor
from .arrays import arrays


def n_harmonics(l_max: int) -> int:
    """How many components there are up to and with ``l_max``."""
    return (l_max + 1) ** 2


def spherical_harmonics(units: Float[Tensor, "points 3"], l_max: int) -> Float[Tensor, "components points"]:
    """``Y_lm`` of unit vectors, components first: every operation runs over contiguous rows of points.

    Args:
        units: vectors of length one; for others the result is ``r^l Y_lm``. Differentiable to any order.
        l_max: highest degree, included.
    """
    return _Solid.apply(units, l_max)


solid_harmonics = spherical_harmonics
"""``r^l Y_lm`` of any vectors: the same polynomials."""


class _Solid(torch.autograd.Function):
    """Values by recursion in place; the gradient of ``sum_q g_q S_q`` is ``sum_q g_q (D_a S)_q``."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, l_max: int) -> Tensor:
        values = solid_recursion(vectors.detach().T.contiguous(), l_max)
        ctx.save_for_backward(vectors, values)
        ctx.l_max = l_max
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        vectors, values = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: the values must remember the vectors
            values = _Solid.apply(vectors, ctx.l_max)
        return pull_harmonics(values, grads[0], ctx.l_max).T, None


def pull_harmonics(values: Tensor, grads: Tensor, l_max: int) -> Float[Tensor, "3 points"]:
    """``sum_q grads_q dS_q/dr`` from all ``S_q`` and their gradients, ``(components, points)``."""
    total = grads.new_zeros(3, grads.shape[1])
    for degree, matrix in enumerate(_pulling_matrices(l_max, grads.dtype, grads.device), 1):
        lower = values[(degree - 1) ** 2 : degree**2]
        found = matrix @ grads[degree**2 : (degree + 1) ** 2]
        total = total + (found.view(3, *lower.shape) * lower).sum(1)
    return total


@lru_cache(maxsize=32)
def _pulling_matrices(l_max: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """For each degree from 1 the derivative matrices, transposed and stacked, ``(3 (2l - 1), 2l + 1)``."""
    all_degrees = derivative_matrices(l_max).to(dtype=dtype, device=device)
    blocks = [all_degrees[:, n**2 : (n + 1) ** 2, (n - 1) ** 2 : n**2] for n in range(1, l_max + 1)]
    return [b.transpose(1, 2).reshape(-1, b.shape[1]).contiguous() for b in blocks]


def solid_recursion(vectors: Float[Tensor, "3 points"], l_max: int, out: Tensor | None = None) -> Tensor:
    """All ``S_lm``, ``(components, points)``, degree by degree from the two degrees below, without autograd."""
    out = vectors.new_empty(n_harmonics(l_max), vectors.shape[1]) if out is None else out
    lower, factors = recursion_tables(l_max, vectors.dtype, vectors.device)
    xp, (r, to, last, *others) = arrays(vectors, out, factors, *lower)
    _recursion(xp, r, to, others, last)
    return out


def _recursion(xp: Any, vectors: Any, out: Any, lower: list[Any], factors: Any) -> None:
    """In arrays of numpy or of torch: ``xp``."""
    x, y, z = vectors
    out[0] = 1
    if len(out) > 1:
        out[1], out[2], out[3] = y, z, x
    square = x * x + y * y + z * z
    free = xp.empty_like(out[: 2 * len(lower) + 1])
    before, last = out[:1], out[1:4]
    for degree, b in enumerate(lower, 2):
        now, some = out[degree**2 : (degree + 1) ** 2], free[: len(before)]
        inner, spare = now[2:-2], free[-1]
        xp.multiply(last, z, out=now[1:-1])
        xp.multiply(before, square, out=some)
        some *= b
        inner -= some
        for end, near, far, put in ((now[0], y, x, xp.add), (now[-1], x, y, xp.subtract)):
            xp.multiply(near, last[-1], out=end)
            put(end, xp.multiply(far, last[0], out=spare), out=end)
        before, last = last, now
    out *= factors


@lru_cache(maxsize=32)
def recursion_tables(l_max: int, dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], Tensor]:
    """``S_lm = N_lm Q_lm``, ``Q_lm = z Q_(l-1)m - b_lm r^2 Q_(l-2)m``: b for l from 2, columns; and N, a column."""
    factors, lower = [torch.full((1,), 1 / math.sqrt(4 * math.pi), dtype=torch.float64)], []
    for n in range(1, l_max + 1):
        m = torch.arange(-(n - 1), n, dtype=torch.float64)
        edge = math.sqrt((2 * n + 1) / (2 * n)) * (math.sqrt(2) if n == 1 else 1.0)
        inner = factors[-1] * torch.sqrt((4.0 * n * n - 1) / (n * n - m**2))
        factors.append(torch.cat([factors[-1][:1] * edge, inner, factors[-1][-1:] * edge]))
        if n > 1:
            b = ((n - 1.0) ** 2 - m[1:-1] ** 2) / ((2 * n - 1.0) * (2 * n - 3.0))
            lower.append(b[:, None].to(dtype=dtype, device=device))
    return lower, torch.cat(factors)[:, None].to(dtype=dtype, device=device)


@lru_cache(maxsize=16)
def derivative_matrices(l_max: int) -> Tensor:
    """``D`` of ``dS_p/dr_a = sum_q D[a, p, q] S_q``, ``(3, components(l_max), components(l_max - 1))``.

    From the ladder relations of the solid harmonics in complex form, ``R_lm = N_lm S^c_lm``:
    ``d/dz R_lm = R_(l-1)m``, ``(d/dx + i d/dy) R_lm = R_(l-1)(m+1)`` and ``(d/dx - i d/dy) R_lm = -R_(l-1)(m-1)``
    (Racah's normalization ``R_lm = sqrt(4pi/(2l+1)) r^l Y_lm / sqrt((l-m)!(l+m)!)``, Condon-Shortley phase).
    """
    upper, lower = n_harmonics(l_max), n_harmonics(l_max - 1) if l_max else 0
    out = torch.zeros(3, upper, lower, dtype=torch.complex128)
    for n in range(1, l_max + 1):
        ladder = _ladder(n)
        to_real, from_real = real_from_complex(n), real_from_complex(n - 1).conj().T
        block = torch.stack([to_real @ step @ from_real for step in ladder])
        out[:, n**2 : (n + 1) ** 2, (n - 1) ** 2 : n**2] = block
    return out.real.contiguous()


def _ladder(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """d/dx, d/dy, d/dz of the complex ``r^n Y_nm`` in terms of those of degree n-1."""

    def norm(degree: int, m: int) -> float:  # r^l Y_lm = norm * R_lm
        both = math.factorial(degree - m) * math.factorial(degree + m)
        return math.sqrt((2 * degree + 1) / (4 * math.pi) * both)

    plus, minus, dz = (torch.zeros(2 * n + 1, 2 * n - 1, dtype=torch.complex128) for _ in range(3))
    for m in range(-n, n + 1):
        for table, target, sign in ((plus, m + 1, 1.0), (minus, m - 1, -1.0), (dz, m, 1.0)):
            if abs(target) <= n - 1:
                table[m + n, target + n - 1] = sign * norm(n, m) / norm(n - 1, target)
    return (plus + minus) / 2, (plus - minus) / 2j, dz


def real_from_complex(n: int) -> Tensor:
    """Unitary matrix from complex harmonics (Condon-Shortley phase) to real ones, both ``m = -n .. n``."""
    matrix = torch.zeros(2 * n + 1, 2 * n + 1, dtype=torch.complex128)
    matrix[n, n] = 1
    for m in range(1, n + 1):
        sign, root = (-1) ** m, 1 / math.sqrt(2)
        matrix[n + m, n + m], matrix[n + m, n - m] = sign * root, root
        matrix.imag[n - m, n - m], matrix.imag[n - m, n + m] = root, -sign * root
    return matrix


class Angular(NamedTuple):
    """Harmonics of unit vectors with their first derivatives with respect to the unnormalized vector."""

    values: Tensor
    gradients: Tensor


def harmonics_with_gradients(units: Tensor, distances: Tensor, l_max: int) -> Angular:
    """``Y_lm(r/|r|)`` ``(components, points)`` and ``dY_lm/dr`` ``(3, components, points)``, without autograd."""
    values = solid_recursion(units.T.contiguous(), l_max)
    lower = values[: n_harmonics(l_max - 1)] if l_max else values[:0]
    polynomial = torch.stack([m @ lower for m in derivative_matrices(l_max).to(values)])
    along = units.T.contiguous()
    radial = (polynomial * along[:, None, :]).sum(0)
    return Angular(values, (polynomial - along[:, None, :] * radial) / distances)
