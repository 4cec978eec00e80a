"""One dense network for each element: Behler and Parrinello's construction, up to the last, linear layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
        widths = [tuple(hidden[k]) if isinstance(hidden, Mapping) else tuple(hidden) for k in range(n_elements)]
        if not all(widths) or any(w < 1 for ws in widths for w in ws):
            raise ConfigError(f"Networks need hidden layers of at least one unit; given: {hidden}.")
        if activation not in ACTIVATIONS:
            raise ConfigError(f"There is no activation {activation!r}; {nearest(activation, ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
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
        order = torch.argsort(species, stable=True)
        counts = torch.bincount(species, minlength=len(self.blocks)).tolist()
        parts, column = [], 0
        for network, rows, block in zip(
            self.networks, x.index_select(0, order).split(counts), self.blocks, strict=True
        ):
            for layer in network:  # type: ignore[union-attr]
                rows = self.activation(layer(rows))
            rows = nn.functional.pad(rows, (0, 1), value=1.0)
            parts.append(nn.functional.pad(rows, (column, self.size - column - block)))
            column += block
        return torch.cat(parts).index_select(0, torch.argsort(order))
