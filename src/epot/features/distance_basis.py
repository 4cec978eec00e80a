"""Expansions of distances and of triangles for the descriptors of two and three bodies."""

from __future__ import annotations

import math

import torch

from ..errors import ConfigError
from ..typing import Float, Tensor
from .cutoff import cutoff_function
from .triple_sums import Family, Opened


class DistanceBasis:
    """Chebyshev polynomials of a coordinate that stretches short distances, times a cutoff function.

    ``phi_n(r) = T_n(x) fc(r)``, ``x = 2 (e^(-r/s) - e^(-c/s)) / (1 - e^(-c/s)) - 1`` with a length s of a quarter of
    the cutoff c: the wall that keeps atoms apart is resolved finely, the tail coarsely; a linear model may sum them to
    any smooth function.

    Args:
        cutoff: Å.
        n: functions.
        fade: name of a cutoff function.

    Raises:
        ConfigError: no function, an unknown cutoff function, or a cutoff that is not positive.
    """

    def __init__(self, cutoff: float, n: int, fade: str) -> None:
        if n < 1 or not cutoff > 0:
            raise ConfigError(f"A basis of distances needs functions and a cutoff above 0; given: {n}, {cutoff} Å.")
        self.cutoff, self.n, self.fade, self.length = float(cutoff), n, cutoff_function(fade), cutoff / 4

    def __call__(self, r: Float[Tensor, " pairs"]) -> tuple[Tensor, Tensor]:
        """Values and d/dr, both differentiable, ``(pairs, n)``."""
        last = math.exp(-self.cutoff / self.length)
        decay = torch.exp(-r / self.length)
        x, change = 2 * (decay - last) / (1 - last) - 1, (-2 / (1 - last) / self.length) * decay
        value, slope = chebyshev(x, self.n)
        down, steep = (t[:, None] for t in self.fade(r, self.cutoff))
        return value * down, slope * change[:, None] * down + value * steep


def chebyshev(x: Float[Tensor, " points"], n: int) -> tuple[Tensor, Tensor]:
    """``T_0 .. T_(n-1)`` and their derivatives, ``(points, n)``, by ``T_(k+1) = 2 x T_k - T_(k-1)``."""
    values, slopes = [torch.ones_like(x), x], [torch.zeros_like(x), torch.ones_like(x)]
    while len(values) < n:
        slopes.append(2 * values[-1] + 2 * x * slopes[-1] - slopes[-2])
        values.append(2 * x * values[-1] - values[-2])
    return torch.stack(values[:n], 1), torch.stack(slopes[:n], 1)


class TriangleFamily(Family):
    """``phi_n(r_ij) phi_m(r_ik) + phi_m(r_ij) phi_n(r_ik)`` for n <= m, and Chebyshev polynomials of the cosine.

    Together they are complete for functions of a triangle that are symmetric in its two sides: polynomials of
    ``r_ij + r_ik``, ``(r_ij - r_ik)^2`` and ``r_jk`` are another way to write them.

    Args:
        basis: of the sides.
        n_angles: polynomials of the cosine.
    """

    reach = math.inf

    def __init__(self, basis: DistanceBasis, n_angles: int) -> None:
        if n_angles < 1:
            raise ConfigError(f"A basis of triangles needs at least one function of the angle; given: {n_angles}.")
        self.basis, self.n_right = basis, n_angles
        self.pairs = [(n, m) for n in range(basis.n) for m in range(n, basis.n)]
        self.n_left = len(self.pairs)

    def table(self, squares: Tensor, weights: Tensor) -> list[Tensor]:
        r = squares.sqrt()
        values, slopes = self.basis(r)
        return [1 / r, values * weights[:, None], slopes * (weights / (2 * r))[:, None]]

    def _symmetric(self, a: Tensor, b: Tensor) -> Tensor:
        """``(triples, left)``."""
        n, m = torch.tensor(self.pairs, device=a.device).T
        return a.index_select(1, n) * b.index_select(1, m) + a.index_select(1, m) * b.index_select(1, n)

    def open(self, first: list[Tensor], second: list[Tensor], dots: Tensor) -> Opened:
        cosine = dots * first[0] * second[0]
        angles, slopes = (t.T.contiguous() for t in chebyshev(cosine, self.n_right))
        left = self._symmetric(first[1], second[1]).T.contiguous()
        return Opened(left, angles, (slopes, first, second, cosine))

    def pull(self, opened: Opened, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slopes, (inverse1, value1, slope1), (inverse2, value2, slope2), cosine = opened.kept
        angle = (slopes * right).sum(0)
        turned = 0.5 * angle * cosine
        first = (self._symmetric(slope1, value2) * left.T).sum(1) - turned * inverse1.square()
        second = (self._symmetric(value1, slope2) * left.T).sum(1) - turned * inverse2.square()
        return first, second, angle * inverse1 * inverse2

    def push(self, opened: Opened, first: Tensor, second: Tensor, dots: Tensor) -> tuple[Tensor, Tensor]:
        slopes, (inverse1, value1, slope1), (inverse2, value2, slope2), cosine = opened.kept
        left = self._symmetric(slope1 * first[:, None], value2) + self._symmetric(value1, slope2 * second[:, None])
        angle = dots * inverse1 * inverse2 - 0.5 * cosine * (first * inverse1.square() + second * inverse2.square())
        return left.T.contiguous(), slopes * angle
