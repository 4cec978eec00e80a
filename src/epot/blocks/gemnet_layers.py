"""Layers of GemNet: dense without bias, residuals of constant variance, factors that keep the variance of sums.

J. Gasteiger, F. Becker, S. Günnemann, NeurIPS (2021), arXiv:2106.08903 (figure 4); the details are those of the
reference code. Every layer is made so that a random network has activations of variance one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from ..typing import Float, Tensor
from .dense_chain import GIVEN, Step, dense_chain
from .training_constant import TrainingConstant

SILU_GAIN = 1 / 0.6
"""What SiLU is multiplied by (the paper's scaled activation): of a unit normal it has then about unit variance."""
HALF = 2**-0.5


@torch.no_grad()
def he_orthogonal_(weight: Tensor) -> Tensor:
    """Fill in place with random rows, orthogonal before they are given mean zero and variance 1 / fan-in.

    Args:
        weight: ``(out, in)``, or ``(in, in, out)`` where what goes in has two indices.
    """
    nn.init.orthogonal_(weight)
    inputs = (0, 1) if weight.dim() == 3 else (1,)
    fan_in = weight.shape[0] * weight.shape[1] if weight.dim() == 3 else weight.shape[1]
    variance, mean = torch.var_mean(weight, dim=inputs, keepdim=True)
    return weight.sub_(mean).div_((variance + 1e-6).sqrt() * fan_in**0.5)


def he_parameter(*shape: int) -> nn.Parameter:
    """A weight that :func:`he_orthogonal_` filled."""
    return nn.Parameter(he_orthogonal_(torch.empty(*shape, dtype=torch.float32)))


class Dense(nn.Module):
    """``y = act(x W^T)`` without bias, ``act`` the scaled SiLU or nothing."""

    def __init__(self, n_in: int, n_out: int, activation: bool = True) -> None:
        super().__init__()
        self.weight = he_parameter(n_out, n_in)
        self.activation = activation

    def forward(self, x: Float[Tensor, "rows n_in"]) -> Float[Tensor, "rows n_out"]:
        return dense_chain(x, steps(self)) if self.activation else x @ self.weight.t()


class Residual(nn.Module):
    """``(x + act(act(x W1) W2)) / sqrt(2)``."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.first, self.second = Dense(n_features, n_features), Dense(n_features, n_features)


def residuals(n_features: int, n: int) -> nn.Sequential:
    """``n`` residual layers, one after another."""
    return nn.Sequential(*(Residual(n_features) for _ in range(n)))


def steps(*layers: nn.Module, done: int = 0) -> list[Step]:
    """Dense layers with activation and residual ones as a chain, or its continuation after ``done`` steps."""
    made: list[Step] = []
    for layer in layers:
        if isinstance(layer, Residual):
            x = done + len(made)
            made += [*steps(layer.first), Step(layer.second.weight, None, x, HALF * SILU_GAIN, HALF)]
        else:
            made.append(Step(cast("Dense", layer).weight, gain=SILU_GAIN))
    return made


def skipped(
    x: Float[Tensor, "rows F"], before: nn.Sequential, skip: Float[Tensor, "rows F"], after: Iterable[nn.Module] = ()
) -> Float[Tensor, "rows F"]:
    """``after((skip + before(x)) / sqrt(2))`` of residual layers, in one chain."""
    if not len(before):
        y, *more = (x + skip) * HALF, *steps(*after)
        return dense_chain(y, more) if more else y
    *others, last = before
    if others:
        x = dense_chain(x, steps(*others))
    first, second = steps(last)
    made = [first, second._replace(plus=GIVEN, gain=HALF * second.gain)]
    both = torch.add(skip, x, alpha=HALF)  # all that is added behind the last of these layers
    return dense_chain(x, [*made, *steps(*after, done=2)], both)


class ScalingFactor(TrainingConstant):
    """A number alpha with ``Var(alpha y) = Var(x)`` over training data: set once before training, then constant.

    Where alpha is known, it is multiplied into weights: that takes no pass over all rows.
    """

    def within(self, weight: Tensor) -> Tensor:
        """``alpha weight`` of the linear layer that makes y, as soon as alpha is known."""
        return weight if self._asked() else weight * self.factor

    def forward(
        self, y: Float[Tensor, "rows F"], like: Float[Tensor, "others G"], repeats: Tensor | None = None
    ) -> Float[Tensor, "rows F"]:
        """y, times alpha if that is to be found here.

        Args:
            y: what is scaled, made :meth:`within`.
            like: x, whose variance it shall have, mean over features of the variance over rows.
            repeats: how many times each row of ``like`` counts; None for once.
        """
        if not self._asked():
            return y
        self._fit(y, like, repeats)
        return y * self.factor

    def _asked(self) -> bool:
        return self.observing and not bool(self.settled)

    @torch.no_grad()
    def _fit(self, y: Tensor, like: Tensor, repeats: Tensor | None) -> None:
        ratio = spread(like, repeats) / spread(y)
        if bool(torch.isfinite(ratio)) and bool(ratio > 0):
            self.settle(ratio.sqrt())


def spread(x: Float[Tensor, "rows F"], repeats: Tensor | None = None) -> Tensor:
    """Variance over rows, mean over features; not finite of fewer than two rows."""
    x = x.double()
    weight = x.new_ones(len(x)) if repeats is None else repeats.double()
    total = weight.sum()
    mean = (weight @ x) / total
    return ((weight @ (x - mean).square()) / (total - 1)).mean()


def scaling_factors(module: nn.Module) -> list[ScalingFactor]:
    """All that it has."""
    return [m for m in module.modules() if isinstance(m, ScalingFactor)]


def settle(factors: Iterable[ScalingFactor]) -> None:
    """Factors that come with their weights are not to be fitted again."""
    for factor in factors:
        factor.settled.fill_(True)
