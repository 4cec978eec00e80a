"""Linear maps of channels, one for each degree: what equivariance allows.

Features on atoms are tensors ``(components, channels, atoms)``, components of degree l at ``l^2 .. (l + 1)^2 - 1``;
all components of a degree have the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from ..typing import Float, Tensor


@lru_cache(maxsize=64)
def _degrees(n_components: int) -> tuple[int, ...]:
    return tuple(int(k**0.5) for k in range(n_components))


def spread(weights: Float[Tensor, "degrees ..."], n_components: int) -> Float[Tensor, "components ..."]:
    """The weights of each component: those of its degree."""
    return weights.index_select(0, torch.tensor(_degrees(n_components), device=weights.device))


def mixed(
    x: Float[Tensor, "components channels atoms"], weights: Float[Tensor, "degrees channels out"]
) -> Float[Tensor, "components out atoms"]:
    """``W_l^T x`` for each component."""
    return torch.bmm(spread(weights, x.shape[0]).transpose(1, 2), x)


def mixed_by_element(
    x: Float[Tensor, "components channels atoms"],
    weights: Float[Tensor, "degrees elements channels out"],
    counts: Sequence[int],
) -> Float[Tensor, "components out atoms"]:
    """``W_{l, Z}^T x`` for each component, atoms sorted by element.

    Args:
        x: features.
        weights: of the elements that are there.
        counts: atoms of each of them, none zero.
    """
    parts = zip(x.split(list(counts), -1), weights.unbind(1), strict=True)
    return torch.cat([mixed(own, w) for own, w in parts], -1)
