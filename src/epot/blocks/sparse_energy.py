"""Energies of a sparse Gaussian process and their derivatives by the descriptors, in one pass over the sparse points.

    e_i = sum_m alpha_m delta^2 d_im^zeta,  de_i/dx_i = sum_m alpha_m delta^2 zeta d_im^(zeta-1) x_m,  d_im = x_i . x_m

Both need all sparse points, which are too many for a processor's cache: a block of them is used for both while it is
there, and the kernels themselves, atoms times points, are never stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..typing import Float, Int, Tensor

NUMBERS = 2**18
"""Of a block of sparse points."""


class Group(NamedTuple):
    """Sparse points of one species of center."""

    species: int
    points: Float[Tensor, "points size"]
    weights: Float[Tensor, " points"]


def sparse_energy(
    spectra: Float[Tensor, "atoms size"], species: Int[Tensor, " atoms"] | None, groups: Sequence[Group], zeta: int,
    scale: float,
) -> Float[Tensor, " atoms"]:  # fmt: skip
    """``e_i``. Differentiable once, by the descriptors.

    Args:
        spectra: descriptors.
        species: of the atoms; None where there is one group and it is everybody's.
        groups: those with which an atom has anything in common: the one of its species.
        zeta: the power.
        scale: ``delta^2``.
    """
    energy: Tensor = _SparseEnergy.apply(spectra, species, groups, zeta, scale)
    return energy


class _SparseEnergy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, spectra: Tensor, species: Tensor | None, groups: Sequence[Group], zeta: int, scale: float
    ) -> Tensor:
        energy, slopes = spectra.new_zeros(len(spectra)), torch.zeros_like(spectra)
        for group in groups:
            rows = None if species is None else (species == group.species).nonzero()[:, 0]
            x = spectra if rows is None else spectra.index_select(0, rows)
            if not len(x):
                continue
            e, g = (energy, slopes) if rows is None else (energy.new_zeros(len(x)), torch.zeros_like(x))
            _add(e, g, x, group, zeta, scale)
            if rows is not None:
                energy.index_copy_(0, rows, e)
                slopes.index_copy_(0, rows, g)
        ctx.save_for_backward(slopes)
        return energy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        g = grads[0]
        if len(g) and g.stride(0) == 0 and float(g[0]) == 1:  # of a plain sum
            return slopes, None, None, None, None
        return slopes * g[:, None], None, None, None, None


def _add(energy: Tensor, slopes: Tensor, x: Tensor, group: Group, zeta: int, scale: float) -> None:
    """Add a group's part for the atoms with descriptors x."""
    many = max(NUMBERS // x.shape[1], 16)
    few = max(NUMBERS // 2 // min(many, len(group.points)), 16)
    for points, weights in zip(group.points.split(many), (group.weights * scale).split(many), strict=True):
        for e, g, some in zip(energy.split(few), slopes.split(few), x.split(few), strict=True):
            dots = some @ points.T
            lower = _power(dots, zeta - 1)
            e.addmv_(lower * dots, weights)
            g.addmm_(lower.mul_(weights * zeta), points)


def _power(base: Tensor, exponent: int) -> Tensor:
    """A new tensor ``base^exponent``, by squaring."""
    if exponent < 2:
        return base.clone() if exponent else torch.ones_like(base)
    half = base if exponent < 4 else _power(base, exponent // 2)
    square = half * half
    return square.mul_(base) if exponent % 2 else square
