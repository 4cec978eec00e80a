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
from . import activations, element_energies
from .element_energies import Plan

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: made.plain for name, made in activations.ACTIVATIONS.items()},
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "cos": torch.cos,
    "exp": torch.exp,
    "square": torch.square,
    "identity": lambda x: x,
}
"""By name. ``celu`` is ANI's, with alpha = 0.1; its second derivative jumps at 0. Those after ``gaussian`` are for
potentials of other codes."""


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
        widths, self.activation, self.name = _widths(n_elements, hidden), _activation(activation), activation
        self.networks = nn.ModuleList(
            nn.ModuleList(nn.Linear(a, b, dtype=dtype) for a, b in zip((n_in, *ws), ws, strict=False)) for ws in widths
        )
        for layer in (layer for network in self.networks for layer in network):  # type: ignore[attr-defined]
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.widths, self.blocks = widths, [ws[-1] + 1 for ws in widths]

    @property
    def size(self) -> int:
        """Length of the output."""
        return sum(self.blocks)

    def forward(self, x: Float[Tensor, "atoms n_in"], species: Int[Tensor, " atoms"]) -> Float[Tensor, "atoms size"]:
        """Outputs of the last hidden layers, in the columns of each atom's element.

        Args:
            x: what the networks of each atom are given.
            species: position of each atom's element.
        """
        groups = by_element(species, len(self.blocks))
        parts = []
        for network, rows, block in zip(
            self.networks, x.index_select(0, groups.order).split(groups.counts), self.blocks, strict=True
        ):
            if len(rows):
                for layer in network:  # type: ignore[attr-defined]
                    rows = self.activation(layer(rows))
                parts.append(nn.functional.pad(rows, (0, 1), value=1.0))
            else:
                parts.append(x.new_zeros(0, block))
        return torch.block_diag(*parts).index_select(0, groups.back)

    def plan(self, species: Int[Tensor, " atoms"]) -> Plan:
        """What :meth:`energies` needs to know of the elements; atoms that keep them can keep it."""
        return element_energies.plan(species, self.widths)

    def energies(
        self, x: Float[Tensor, "atoms n_in"], last: Float[Tensor, " size"], where: Plan, once: bool = False
    ) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "atoms size"]]:
        """``outputs @ last`` and the outputs of :meth:`forward`, the former in fewer operations, derivatives too.

        Args:
            x: what the networks of each atom are given.
            last: weights of the readout.
            where: :meth:`plan` of the atoms.
            once: weights will get no gradient (``graph.first_order``).
        """
        if self.name not in activations.ACTIVATIONS:
            species = torch.repeat_interleave(torch.tensor(where.counts, device=x.device)).index_select(0, where.back)
            features = self(x, species)
            return features @ last, features
        weights = [
            tensor
            for network in self.networks._modules.values()
            for layer in network._modules.values()  # type: ignore[union-attr]
            for tensor in (layer._parameters["weight"], layer._parameters["bias"])  # type: ignore[union-attr]
        ]
        return element_energies.energies(x, last, weights, where, self.name, once)  # type: ignore[arg-type]


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
        for weight in (matrix for network in self.weights for stack in network for matrix in stack):  # type: ignore[attr-defined]
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
                stacks = list(zip(weights, biases, strict=True))  # type: ignore[call-overload]
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
