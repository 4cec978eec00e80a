"""Linear maps of channels, one for each degree: what equivariance allows.

Features on atoms are lists of tensors, ``h[l]`` of shape ``(atoms, 2 l + 1, channels)``. All components of a degree
have the same weights, so a map is one matrix product over the rows of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..typing import Float, Tensor


def mixed(
    features: Sequence[Float[Tensor, "atoms _ _"]], weights: Iterable[Float[Tensor, "_ _"]], once: bool = False
) -> list[Float[Tensor, "atoms _ _"]]:
    """``h[l] W[l]`` for each degree that both have.

    Args:
        features: h.
        weights: W.
        once: weights are constants, and the result is differentiated at most once.
    """
    if once:
        listed = [[w] for w in weights]
        return list(_Constant.apply(listed, (), *features[: len(listed)]))
    return [(x.flatten(0, 1) @ w).view(x.shape[0], x.shape[1], -1) for x, w in zip(features, weights, strict=False)]


def mixed_by_element(
    features: Sequence[Float[Tensor, "atoms _ _"]],
    weights: Sequence[Sequence[Float[Tensor, "_ out"]]],
    counts: Sequence[int],
    once: bool = False,
) -> list[Float[Tensor, "atoms _ out"]]:
    """The same with weights of the atom's element, atoms sorted by element.

    Args:
        features: h.
        weights: for each degree, of the elements that are there.
        counts: atoms of each of them, none zero.
        once: as for :func:`mixed`.
    """
    if once:
        return list(_Constant.apply(weights, counts, *features[: len(weights)]))
    if len(counts) == 1:
        return mixed(features, [w for (w,) in weights])
    made = []
    for x, each in zip(features, weights, strict=False):
        parts = zip(x.split(list(counts)), each, strict=True)
        made.append(torch.cat([(own.flatten(0, 1) @ w).view(len(own), x.shape[1], -1) for own, w in parts]))
    return made


class _Constant(torch.autograd.Function):
    """One node for all degrees and elements: on small systems nodes take longer than products."""

    @staticmethod
    def forward(
        ctx: Any, weights: Sequence[Sequence[Tensor]], counts: Sequence[int], *features: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.weights, ctx.counts = weights[: len(features)], counts
        return tuple(_through(x, each, counts) for x, each in zip(features, ctx.weights, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        turned = [[w.t() for w in each] for each in ctx.weights]
        return None, None, *(_through(g, each, ctx.counts) for g, each in zip(grads, turned, strict=True))


def _through(x: Tensor, each: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """One degree."""
    n, components, channels = x.shape
    rows = x.reshape(n * components, channels)
    if len(each) == 1:
        return rows.mm(each[0]).view(n, components, -1)
    out = x.new_empty(n * components, each[0].shape[1])
    cuts = [components * k for k in counts]
    for own, w, to in zip(rows.split(cuts), each, out.split(cuts), strict=True):
        torch.mm(own, w, out=to)
    return out.view(n, components, -1)


def joined(features: Sequence[Float[Tensor, "atoms _ channels"]]) -> Float[Tensor, "atoms components channels"]:
    """All degrees in one tensor, components of degree l at ``l^2 .. (l + 1)^2 - 1``."""
    return features[0] if len(features) == 1 else torch.cat(list(features), 1)


class FeatureNorm(nn.Module):
    """``h[l] g[l] / sqrt(mean_l' |h[l']|^2 + 1e-6)``: root mean squares of 1, equivariant.

    Means over the components and channels of a degree, then over degrees, so that each counts alike (close to the layer
    normalization of EquiformerV2: Liao, Wood, Das, Smidt, ICLR 2024, arXiv:2306.12059).

    Args:
        degrees: of the features, from 0.
        channels: each has a factor g of its own, which begins at 1.
    """

    channelwise = True

    def __init__(self, degrees: int, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(degrees, channels))

    def forward(self, features: Sequence[Float[Tensor, "atoms _ channels"]]) -> list[Float[Tensor, "atoms _ channels"]]:
        """The same shapes."""
        squares = torch.stack([x.square().mean((1, 2)) for x in features]).mean(0)
        scale = (squares + 1e-6).rsqrt()[:, None, None]
        return [x * scale * gain for x, gain in zip(features, self.gain, strict=True)]
