"""Linear maps of channels, one for each degree: what equivariance allows.

Features on atoms are lists of tensors, ``h[l]`` of shape ``(atoms, 2 l + 1, channels)``. All components of a degree
have the same weights, so a map is one matrix product over the rows of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from ..typing import Float, Tensor


def mixed(
    features: Sequence[Float[Tensor, "atoms _ _"]], weights: Iterable[Float[Tensor, "_ _"]]
) -> list[Float[Tensor, "atoms _ _"]]:
    """``h[l] W[l]`` for each degree that both have."""
    return [(x.flatten(0, 1) @ w).view(x.shape[0], x.shape[1], -1) for x, w in zip(features, weights, strict=False)]


def mixed_by_element(
    features: Sequence[Float[Tensor, "atoms _ _"]],
    weights: Float[Tensor, "degrees elements channels out"],
    counts: Sequence[int],
) -> list[Float[Tensor, "atoms _ _"]]:
    """The same with weights of the atom's element, atoms sorted by element.

    Args:
        features: h.
        weights: of the elements that are there.
        counts: atoms of each of them, none zero.
    """
    if len(counts) == 1:
        return mixed(features, weights.squeeze(1))
    made = []
    for x, each in zip(features, weights, strict=False):
        parts = zip(x.split(list(counts)), each.unbind(), strict=True)
        made.append(torch.cat([(own.flatten(0, 1) @ w).view(len(own), x.shape[1], -1) for own, w in parts]))
    return made


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
