"""One dense network for each element: Behler and Parrinello's construction, up to the last, linear layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from ..errors import ConfigError
from ..registry import nearest
from ..typing import Float, Int, Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "celu": lambda x: nn.functional.celu(x, alpha=0.1),
    "softplus": nn.functional.softplus,
    "gaussian": lambda x: torch.exp(-x.square()),
}
"""By name. ``celu`` is ANI's, with alpha = 0.1; its second derivative jumps at 0."""


class ByElement(NamedTuple):
    """Atoms of one element after those of another.

    Attributes:
        order: atoms, sorted by element.
        back: where each atom went.
        counts: atoms of each element.
    """

    order: Int[Tensor, " atoms"]
    back: Int[Tensor, " atoms"]
    counts: list[int]


def by_element(species: Int[Tensor, " atoms"], n_elements: int) -> ByElement:
    """Sort atoms by element."""
    order = torch.argsort(species, stable=True)
    back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    return ByElement(order, back, torch.bincount(species, minlength=n_elements).tolist())


class ElementNetworks(nn.Module):
    """Hidden layers of one network for each element, and their outputs side by side.

    The output of an atom lies in the columns of its element, followed by a 1 (what a bias of the element multiplies);
    all other columns are 0. So the last layers of all networks together are one linear readout.

    Args:
        n_elements: how many.
        n_in: length of the input.
        hidden: widths of the hidden layers, the same for all elements or by position of the element.
        activation: one of :data:`ACTIVATIONS`, after every hidden layer.
        dtype: of the weights.

    Raises:
        ConfigError: no hidden layer, or an unknown activation.
    """

    def __init__(
        self,
        n_elements: int,
        n_in: int,
        hidden: Sequence[int] | Mapping[int, Sequence[int]],
        activation: str = "silu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        widths, self.activation = _widths(n_elements, hidden), _activation(activation)
        self.networks = nn.ModuleList(
            nn.ModuleList(nn.Linear(a, b, dtype=dtype) for a, b in zip((n_in, *ws), ws, strict=False)) for ws in widths
        )
        for layer in (layer for network in self.networks for layer in network):  # type: ignore[union-attr]
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.blocks = [ws[-1] + 1 for ws in widths]

    @property
    def size(self) -> int:
        """Length of the output."""
        return sum(self.blocks)

    def forward(self, x: Float[Tensor, "atoms n_in"], species: Int[Tensor, " atoms"]) -> Float[Tensor, "atoms size"]:
        """Outputs of the last hidden layers, in the columns of each atom's element."""
        groups = by_element(species, len(self.blocks))
        parts, column = [], 0
        for network, rows, block in zip(
            self.networks, x.index_select(0, groups.order).split(groups.counts), self.blocks, strict=True
        ):
            if len(rows):
                for layer in network:  # type: ignore[union-attr]
                    rows = self.activation(layer(rows))
                rows = nn.functional.pad(rows, (0, 1), value=1.0)
                parts.append(nn.functional.pad(rows, (column, self.size - column - block)))
            column += block
        return torch.cat(parts or [x.new_zeros(0, self.size)]).index_select(0, groups.back)


class ElementCommittee(nn.Module):
    """Several networks for each element, last layers included, evaluated together as batched matrix products.

    Args:
        n_members: networks of each element.
        n_elements, n_in, hidden, activation, dtype: as for :class:`ElementNetworks`.

    Attributes:
        weights: for each element and layer, ``(members, n_in, n_out)``; the last has one output.
        biases: ``(members, 1, n_out)``.

    Raises:
        ConfigError: no hidden layer, or an unknown activation.
    """

    def __init__(
        self,
        n_members: int,
        n_elements: int,
        n_in: int,
        hidden: Sequence[int] | Mapping[int, Sequence[int]],
        activation: str = "silu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.activation = _activation(activation)
        sizes = [(n_in, *ws, 1) for ws in _widths(n_elements, hidden)]
        self.weights = nn.ModuleList(
            nn.ParameterList(torch.empty(n_members, a, b, dtype=dtype) for a, b in itertools.pairwise(s)) for s in sizes
        )
        self.biases = nn.ModuleList(
            nn.ParameterList(torch.zeros(n_members, 1, b, dtype=dtype) for b in s[1:]) for s in sizes
        )
        for weight in (matrix for network in self.weights for stack in network for matrix in stack):  # type: ignore[union-attr]
            nn.init.xavier_normal_(weight)

    def forward(
        self, copies: Float[Tensor, "members atoms n_in"], species: Int[Tensor, " atoms"]
    ) -> Float[Tensor, "atoms members"]:
        """Outputs of all networks of each atom's element, the first of them with the first copy of the input."""
        groups = by_element(species, len(self.weights))
        parts = []
        for weights, biases, rows in zip(
            self.weights, self.biases, copies.index_select(1, groups.order).split(groups.counts, 1), strict=True
        ):
            if rows.shape[1]:
                stacks = list(zip(weights, biases, strict=True))
                for weight, bias in stacks[:-1]:
                    rows = self.activation(torch.baddbmm(bias, rows, weight))
                parts.append(torch.baddbmm(stacks[-1][1], rows, stacks[-1][0]).squeeze(2))
        return torch.cat(parts or [copies.new_zeros(len(copies), 0)], 1).index_select(1, groups.back).t()


def _widths(n_elements: int, hidden: Sequence[int] | Mapping[int, Sequence[int]]) -> list[tuple[int, ...]]:
    widths = [tuple(hidden[k]) if isinstance(hidden, Mapping) else tuple(hidden) for k in range(n_elements)]
    if not all(widths) or any(w < 1 for ws in widths for w in ws):
        raise ConfigError(f"Networks need hidden layers of at least one unit; given: {hidden}.")
    return widths


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise ConfigError(f"There is no activation {name!r}; {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]
