"""Cutoff functions: 1 at a bond's length, 0 at the cutoff, smooth to the stated order."""

import math
from collections.abc import Callable

import torch

from ..errors import ConfigError
from ..registry import nearest
from ..typing import Tensor

CutoffFunction = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def cosine_cutoff(r: Tensor, cutoff: float) -> Tensor:
    """``(cos(pi r / cutoff) + 1) / 2``, zero beyond (Behler 2011): its second derivative jumps at the cutoff."""
    return torch.where(r < cutoff, 0.5 * (torch.cos(r * (math.pi / cutoff)) + 1), 0.0)


def shifted_cosine_cutoff(r: Tensor, cutoff: float, width: float) -> Tensor:
    """1 up to ``cutoff - width``, then a half cosine to 0 at the cutoff (QUIP, featomic)."""
    x = ((r - (cutoff - width)) / width).clamp(0, 1)
    return 0.5 * (torch.cos(math.pi * x) + 1)


def polynomial_cutoff(r: Tensor, cutoff: float, p: int = 6) -> Tensor:
    """``1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)``, x = r/cutoff.

    Twice differentiable at the cutoff (Gasteiger et al., DimeNet, arXiv:2003.03123, Eq. 8).
    """
    x = (r / cutoff).clamp(max=1)
    xp = x**p
    return 1 + xp * (-(p + 1) * (p + 2) / 2 + x * (p * (p + 2) - x * (p * (p + 1) / 2)))


def cosine(r: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """:func:`cosine_cutoff` and its derivative."""
    x = r.clamp(max=cutoff) * (math.pi / cutoff)
    return 0.5 * (torch.cos(x) + 1), (-0.5 * math.pi / cutoff) * torch.sin(x)


def tanh_cubed(r: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """``tanh(1 - x)^3`` (Behler, Parrinello 2007): 0.44 at 0, twice differentiable at the cutoff."""
    t = torch.tanh(1 - (r / cutoff).clamp(max=1))
    return t**3, (-3 / cutoff) * t.square() * (1 - t.square())


def unit_tanh_cubed(r: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """:func:`tanh_cubed` times the factor that makes it 1 at 0."""
    value, slope = tanh_cubed(r, cutoff)
    return value * math.tanh(1) ** -3, slope * math.tanh(1) ** -3


def exponential(r: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """``exp(1 - 1 / (1 - x^2))``: all derivatives vanish at the cutoff."""
    x = (r / cutoff).clamp(max=1)
    left = (1 - x.square()).clamp(min=1e-3)  # exp(-999) is zero already
    value = torch.where(x < 1, torch.exp(1 - 1 / left), 0.0)
    return value, (-2 / cutoff) * x * value / left.square()


def _polynomial(order: int, factor: float, value: Callable[[Tensor], Tensor]) -> CutoffFunction:
    def function(r: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
        x = (r / cutoff).clamp(max=1)
        return value(x), (-factor / cutoff) * (x * (1 - x)) ** order

    function.__doc__ = f"The polynomial of degree {2 * order + 1} whose first {order} derivatives vanish at 0 and at 1."
    return function


def _dimenet(r: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """:func:`polynomial_cutoff` with p = 6, and its derivative."""
    x = (r / cutoff).clamp(max=1)
    return polynomial_cutoff(r, cutoff), (-168 / cutoff) * x**5 * (1 - x).square()


CUTOFFS: dict[str, CutoffFunction] = {
    "cosine": cosine,
    "tanh3": tanh_cubed,
    "unit_tanh3": unit_tanh_cubed,
    "exponential": exponential,
    "poly1": _polynomial(1, 6.0, lambda x: (2 * x - 3) * x**2 + 1),
    "poly2": _polynomial(2, 30.0, lambda x: ((15 - 6 * x) * x - 10) * x**3 + 1),
    "poly3": _polynomial(3, 140.0, lambda x: (((20 * x - 70) * x + 84) * x - 35) * x**4 + 1),
    "poly4": _polynomial(4, 630.0, lambda x: ((((315 - 70 * x) * x - 540) * x + 420) * x - 126) * x**5 + 1),
    "polynomial": _dimenet,
}
"""By name, each from distances and cutoff to values and derivatives d/dr, both differentiable: those of n2p2 (Singraber
et al., J. Chem. Theory Comput. 15, 1827 (2019), Eqs. 9 to 16 with x = r/cutoff), and DimeNet's. ``cosine`` has a second
derivative that jumps at the cutoff, ``poly1`` too; ``poly2`` and those after it are smooth enough for Hessians."""


def cutoff_function(name: str, inner: float = 0.0) -> CutoffFunction:
    """A cutoff function by its name.

    Args:
        name: one of :data:`CUTOFFS`.
        inner: share of the cutoff within which it is 1; it falls from there.

    Raises:
        ConfigError: an unknown name, or ``inner`` not in [0, 1).
    """
    if name not in CUTOFFS:
        raise ConfigError(f"There is no cutoff function {name!r}; {nearest(name, CUTOFFS)}")
    if not 0 <= inner < 1:
        raise ConfigError(f"The inner share of a cutoff function is {inner}; it must be at least 0 and below 1.")
    function = CUTOFFS[name]
    if inner == 0:
        return function
    return lambda r, cutoff: function((r - inner * cutoff).clamp(min=0), (1 - inner) * cutoff)
