"""Sums of absolute differences between rows, differentiable twice without a stored difference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..typing import Float, Tensor

NUMBERS = 2**24
"""Differences that are held at a time."""


def manhattan(x: Float[Tensor, "rows size"], points: Float[Tensor, "points size"]) -> Float[Tensor, "rows points"]:
    """``|x_i - p_m|_1``. The derivative of an absolute value at 0 is taken as 0; points have none."""
    return _Manhattan.apply(x, points.detach())


def _parts(x: Tensor, points: Tensor) -> Iterator[slice]:
    step = max(1, NUMBERS // max(1, points.numel()))
    yield from (slice(k, k + step) for k in range(0, len(x), step))


def _signs(x: Tensor, points: Tensor, part: slice) -> Tensor:
    return (x[part, None, :] - points).sign_()


class _Manhattan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, points: Tensor) -> Tensor:
        ctx.save_for_backward(x, points)
        return torch.cdist(x, points, p=1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Pull.apply(grads[0], *ctx.saved_tensors), None


class _Pull(torch.autograd.Function):
    """``sum_m g_im sign(x_i - p_m)``: linear in g, and constant in x wherever it has a derivative."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, points: Tensor) -> Tensor:
        ctx.save_for_backward(x, points)
        parts = [torch.bmm(g[part, None, :], _signs(x, points, part))[:, 0] for part in _parts(x, points)]
        return torch.cat(parts) if parts else torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Push.apply(grads[0], *ctx.saved_tensors), None, None


class _Push(torch.autograd.Function):
    """``sum_d v_id sign(x_id - p_md)``: the transpose of :class:`_Pull`."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, x: Tensor, points: Tensor) -> Tensor:
        ctx.save_for_backward(x, points)
        parts = [torch.bmm(_signs(x, points, part), v[part, :, None])[..., 0] for part in _parts(x, points)]
        return torch.cat(parts) if parts else v.new_zeros(0, len(points))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Pull.apply(grads[0], *ctx.saved_tensors), None, None
