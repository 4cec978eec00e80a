"""Components of a descriptor on one scale: what a network is fed with, and what a ridge treats alike."""

from __future__ import annotations

import torch
from torch import nn

from ..typing import Float, Int, Tensor


class Standardize(nn.Module):
    """``(x - mean) / scale``, with statistics of their own for each element; kept with the weights.

    Until :class:`epot.fit.stages.standardize.FitStatistics` has seen the training set it changes nothing.

    Args:
        n_rows: one for each element (1 where all atoms, or whole structures, are treated alike).
        size: length of a descriptor's row.
        least: no scale is less than this share of the largest of its row: components that hardly vary are then not
            blown up to the size of those that do, noise and what is rare with them.

    Attributes:
        mean, scale: ``(rows, size)``; float64 unless converted.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_rows: int, size: int, least: float = 0.0) -> None:
        super().__init__()
        self.least = least
        self.register_buffer("mean", torch.zeros(n_rows, size, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_rows, size, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "atoms size"], species: Int[Tensor, " atoms"]) -> Float[Tensor, "atoms size"]:
        """Standardized components, in the precision of the statistics."""
        x = x.to(self.mean.dtype)
        if len(self.mean) == 1:
            return (x - self.mean) / self.scale
        return (x - self.mean.index_select(0, species)) / self.scale.index_select(0, species)

    @torch.no_grad()
    def set(self, mean: Float[Tensor, "rows size"], deviation: Float[Tensor, "rows size"]) -> None:
        """Take means and standard deviations.

        Components that do not vary, but for rounding, get a scale of 1: what is always zero stays zero, and what is
        not would otherwise be blown up where it first departs from its value.
        """
        row = torch.maximum(mean.abs(), deviation).amax(1, keepdim=True)
        least = torch.maximum(1e-6 * mean.abs(), 1e-8 * row)
        varies = torch.where(deviation > least, deviation, 0.0)
        raised = torch.maximum(varies, self.least * varies.amax(1, keepdim=True))
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(raised > 0, raised, 1.0))
