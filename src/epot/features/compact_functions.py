"""Polynomial symmetry functions with compact support: windows of distances and of angles, instead of Gaussians.

M. P. Bircher, A. Singraber, C. Dellago, Mach. Learn.: Sci. Technol. 2, 035026 (2021), doi:10.1088/2632-2153/abf817: a
window from ``left`` to ``right`` is ``p(|x - center| / width)`` with one of the polynomial cutoff functions p, for an
asymmetric one ``p(y (2 - y))``. Distances beyond the right end and angles outside cost nothing in n2p2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch

from ..errors import ConfigError
from ..registry import nearest
from ..typing import Tensor
from .cutoff import CUTOFFS
from .symmetry_functions import neighbors_of
from .triple_sums import Family, Opened

SHAPES = ("poly1", "poly2", "poly3", "poly4", "exponential")


class Window(NamedTuple):
    """Where a function is not zero: distances in Å, or angles in degrees."""

    left: float
    right: float
    shape: str = "poly2"
    asymmetric: bool = False

    def value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and derivative, both differentiable."""
        away = (x - (self.left + self.right) / 2) * (2 / (self.right - self.left))
        y = away.abs().clamp(max=1)
        value, slope = CUTOFFS[self.shape]((2 - y) * y if self.asymmetric else y, 1.0)
        slope = slope * (2 - 2 * y) if self.asymmetric else slope
        return value, slope * torch.sign(away) * (2 / (self.right - self.left))

    def __str__(self) -> str:
        kind = self.shape + ("a" if self.asymmetric else "")
        return f"{kind} {self.left:g} to {self.right:g}"


@dataclass(frozen=True)
class CompactRadial:
    """``sum_j w(r_ij)`` with a window w of distances, whose right end is the cutoff."""

    window: Window
    neighbors: tuple[int, ...] = ()

    KEYS: ClassVar[tuple[str, ...]] = ("left", "cutoff", "shape", "asymmetric", "neighbors")

    @property
    def cutoff(self) -> float:
        return self.window.right

    def __str__(self) -> str:
        return str(self.window)

    @classmethod
    def of(cls, given: Mapping[str, Any], cutoff: float) -> CompactRadial:
        """From a mapping: ``shape`` (like ``"poly2"``), ``asymmetric``, ``left`` and ``cutoff`` in Å.

        Raises:
            ConfigError: an unknown key or an impossible value.
        """
        return cls(_distances(given, cutoff, cls.KEYS), neighbors_of(given, 1))


@dataclass(frozen=True)
class CompactAngular:
    """``sum_(j<k) w(r_ij) w(r_ik) a(theta_jik)`` with windows of distances and angles; ``closed``: ``w(r_jk)`` too."""

    window: Window
    angles: Window
    closed: bool
    neighbors: tuple[int, ...] = ()

    KEYS: ClassVar[tuple[str, ...]] = (*CompactRadial.KEYS, "angles", "closed")

    @property
    def cutoff(self) -> float:
        return self.window.right

    @classmethod
    def of(cls, given: Mapping[str, Any], cutoff: float) -> CompactAngular:
        """As :meth:`CompactRadial.of`, and ``angles``, two in degrees, and ``closed``.

        What of the window of angles lies below 0 or above 180 degrees must be the mirror image of the rest.

        Raises:
            ConfigError: an unknown key or an impossible value.
        """
        distances = _distances(given, cutoff, cls.KEYS)
        left, right = given.get("angles", (0.0, 180.0))
        center = (left + right) / 2
        mirrored = (left >= 0 or center == 0) and (right <= 180 or center == 180) and right - left <= 360
        if not left < right or not mirrored:
            raise ConfigError(f"A window of angles lies in [0, 180] or around 0 or 180; given: {left} to {right}.")
        angles = Window(float(left), float(right), distances.shape)
        return cls(distances, angles, bool(given.get("closed", True)), neighbors_of(given, 2))

    def __str__(self) -> str:
        return f"{self.window}, {self.angles.left:g} to {self.angles.right:g} degrees{', closed' * self.closed}"


def _distances(given: Mapping[str, Any], cutoff: float, keys: Sequence[str]) -> Window:
    for key in set(given) - set(keys):
        raise ConfigError(f"{key!r} is no parameter of a symmetry function with a window; {nearest(key, keys)}")
    shape, right = given.get("shape", "poly2"), float(given.get("cutoff", cutoff))
    left = float(given.get("left", -right))
    if shape not in SHAPES:
        raise ConfigError(f"The shape of a window is one of {', '.join(SHAPES)}; given: {shape!r}.")
    if not left < right or not right > 0:
        raise ConfigError(f"A window needs its left end below its right one, above 0; given: {left} to {right}.")
    return Window(left, right, shape, bool(given.get("asymmetric", False)))


def compact_values(r: Tensor, functions: Sequence[CompactRadial], slopes: bool = False) -> Tensor:
    """Values, or with ``slopes`` d/dr, ``(functions, pairs)``."""
    return torch.stack([f.window.value(r)[int(slopes)] for f in functions])


class CompactFamily(Family):
    """Products of windows of the distances, and windows of the angle.

    Args:
        windows: of distances.
        angles: windows of angles, degrees.
        closed: whether the distance of the two neighbors has to be in the window, too.
    """

    def __init__(self, windows: Sequence[Window], angles: Sequence[Window], closed: bool) -> None:
        self.n_left, self.n_right = len(windows), len(angles)
        self.windows, self.angles, self.closed = list(windows), list(angles), closed
        self.cutoff = max(w.right for w in windows)
        self.reach = self.cutoff if closed else math.inf

    def _windows(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Values and derivatives by the square of the distance, ``(pairs, windows)``."""
        values, slopes = zip(*(w.value(r) for w in self.windows), strict=True)
        return torch.stack(values, 1), torch.stack(slopes, 1) / (2 * r[:, None])

    def table(self, squares: Tensor, weights: Tensor) -> list[Tensor]:
        r = squares.sqrt()
        values, slopes = self._windows(r)
        return [squares, 1 / r, values * weights[:, None], slopes * weights[:, None]]

    def open(self, first: list[Tensor], second: list[Tensor], dots: Tensor) -> Opened:
        cosine = dots * first[1] * second[1]
        sine = (1 - cosine.square()).clamp(min=1e-16).sqrt()
        theta = torch.atan2(sine, cosine) * (180 / math.pi)
        angles, slopes = (torch.stack(t) for t in zip(*(a.value(theta) for a in self.angles), strict=True))
        slopes = (
            slopes * (-180 / math.pi) / sine
        )  # by the cosine: at 0 and 180 degrees they vanish faster than the sine
        left, third = first[2] * second[2], None
        if self.closed:
            third = self._windows((first[0] + second[0] - 2 * dots).sqrt())
            left = left * third[0]
        return Opened(left.T.contiguous(), angles, (slopes, first, second, third, cosine))

    def _parts(self, opened: Opened) -> tuple[Tensor, Tensor, Tensor | None]:
        """Derivatives of the products by the squares of the two or three distances, ``(triples, windows)``."""
        _, (_, _, fade1, slope1), (_, _, fade2, slope2), third, _ = opened.kept
        if third is None:
            return slope1 * fade2, fade1 * slope2, None
        return slope1 * fade2 * third[0], fade1 * slope2 * third[0], fade1 * fade2 * third[1]

    def pull(self, opened: Opened, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slopes, (_, inverse1, *_), (_, inverse2, *_), _, cosine = opened.kept
        first, second, third = (None if p is None else (p * left.T).sum(1) for p in self._parts(opened))
        assert first is not None
        assert second is not None
        angle = (slopes * right).sum(0)
        turned = 0.5 * angle * cosine
        first, second = first - turned * inverse1.square(), second - turned * inverse2.square()
        dots = angle * inverse1 * inverse2
        return (first, second, dots) if third is None else (first + third, second + third, dots - 2 * third)

    def push(self, opened: Opened, first: Tensor, second: Tensor, dots: Tensor) -> tuple[Tensor, Tensor]:
        slopes, (_, inverse1, *_), (_, inverse2, *_), _, cosine = opened.kept
        by1, by2, by3 = self._parts(opened)
        left = by1 * first[:, None] + by2 * second[:, None]
        if by3 is not None:
            left = left + by3 * (first + second - 2 * dots)[:, None]
        angle = dots * inverse1 * inverse2 - 0.5 * cosine * (first * inverse1.square() + second * inverse2.square())
        return left.T.contiguous(), slopes * angle
