"""Cutoff functions: 1 at a bond's length, 0 at the cutoff, smooth to the stated order."""

import math

import torch

from ..typing import Tensor


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
