"""Radial integrals that are sums of Gaussians, evaluated as such where no derivatives are wanted.

``R_nl(r) Y_lm(r/|r|) = sum_k mix_lnk exp(-rate_lk r^2) r^l Y_lm(r/|r|)``: the last factor is a polynomial in x, y,
z, so there is no root, no division and no series; a point costs one exponential for each (l, k).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from ..typing import Float, Tensor
from .angular import n_harmonics, solid_recursion
from .arrays import arrays
from .scratch import Scratch
from .soap_dialects import Gaussians
from .soap_fade import Fade


class GaussianSums(nn.Module):
    """Basis functions of points from :class:`epot.features.soap_dialects.Gaussians`.

    Args:
        made: rates and weights.
        reach: Å, beyond which everything is zero.
    """

    rates: Tensor
    mix: Tensor

    def __init__(self, made: Gaussians, reach: float) -> None:
        super().__init__()
        self.l_max, self.reach = len(made.rates) - 1, reach
        rates = -made.rates.reshape(-1, 1) / math.log(2)  # powers of two are twice as fast as those of e
        self.register_buffer("rates", torch.from_numpy(rates), persistent=False)
        self.register_buffer("mix", torch.from_numpy(made.mix), persistent=False)

    def forward(
        self, vectors: Float[Tensor, "points 3"], fade: Fade, scratch: Scratch
    ) -> tuple[Float[Tensor, "functions points"], Float[Tensor, "components points"]]:
        """``R_nl / r^l`` and ``r^l Y_lm``, one of them times the fade, in the scratch."""
        points, (degrees, n_max) = len(vectors), self.mix.shape[:2]
        take = partial(scratch.take, like=vectors)
        along, square = take("units0", 3, points), take("distances0", points)
        powers, series = take("powers", degrees * n_max, points), take("series0", degrees, n_max, points)
        angular = take("angular0", n_harmonics(self.l_max), points)
        xp, (v, xyz, rr, rates, mix, p, sums) = arrays(vectors, along, square, self.rates, self.mix, powers, series)
        xyz[:] = v.T
        x, y, z = xyz
        xp.multiply(x, x, out=rr)
        rr += y * y
        rr += z * z
        weight = None if fade.plain else fade(square.sqrt())
        rr[rr >= self.reach**2] = math.inf
        xp.multiply(rates, rr, out=p)
        powers.exp2_()  # everywhere as fast as the processor can: not so numpy's
        xp.matmul(mix, p.reshape(degrees, n_max, points), out=sums)
        solid_recursion(along, self.l_max, out=angular)
        if weight is not None:
            angular *= weight
        return series.view(degrees * n_max, points), angular
