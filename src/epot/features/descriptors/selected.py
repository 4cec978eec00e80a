"""Some components of another descriptor: what a selection of columns leaves of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...errors import ConfigError
from ...geometry.graph import Graph
from ...typing import Float, Tensor
from ..descriptor import Descriptor, make


class Selected(Descriptor):
    """Components of a descriptor that were chosen, by :func:`epot.fit.selection.cur_columns` for example.

    Args:
        elements: symbols or atomic numbers.
        descriptor: name or configuration of the whole descriptor, one row an atom.
        kept: numbers of its components, in the order wanted; they are the configuration's, so a model that is saved
            keeps them.

    Raises:
        ConfigError: a component that the descriptor does not have, the same one twice, none at all, or a descriptor
            of whole structures.
    """

    def __init__(
        self, elements: Sequence[int | str], descriptor: str | Mapping[str, Any] = "soap", kept: Sequence[int] = (0,)
    ) -> None:
        super().__init__(elements)
        self.descriptor, self.kept = descriptor, [int(k) for k in kept]
        self.inner = make(descriptor, self.elements)
        if self.inner.whole:
            raise ConfigError(f"Selected keeps components of atoms' rows; {descriptor!r} describes whole structures.")
        size, different = self.inner.size, set(self.kept)
        if not different or len(different) < len(self.kept) or min(different) < 0 or max(different) >= size:
            raise ConfigError(
                f"Selected.kept has {len(self.kept)} numbers, {len(different)} different; expected at least one, each "
                f"once, from 0 to {size - 1}."
            )
        self.cutoff = self.inner.cutoff
        self.register_buffer("index", torch.tensor(self.kept), persistent=False)

    index: Tensor

    @property
    def size(self) -> int:
        return len(self.kept)

    def columns(self) -> list[str]:
        names = self.inner.columns()
        return [names[k] for k in self.kept]

    @classmethod
    def tiny(cls) -> Selected:
        return cls((1, 6, 8), {"name": "soap", "cutoff": 4.0, "n_max": 2, "l_max": 2}, kept=(0, 3, 5, 8, 13, 21))

    def forward(self, graph: Graph) -> Float[Tensor, "atoms size"]:
        """The components, in their order."""
        return self.inner(graph).index_select(1, self.index)

    def jacobian(self, graph: Graph) -> Float[Tensor, "pairs 3 size"]:
        """Theirs, of the whole descriptor's."""
        return self.inner.jacobian(graph).index_select(2, self.index)
