"""What a descriptor is: a fixed function of the neighbors of an atom, or of a whole structure, and its derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from .. import registry
from ..elements import N_ELEMENTS, names, to_number
from ..errors import ConfigError, UnknownElementError
from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor

CHUNK = 64
"""Columns that the default derivatives are taken of at a time: memory grows with it."""


class Descriptor(nn.Module, ABC):
    """A fixed function from a graph to one row for each atom, or with ``whole`` one for each structure.

    A subclass calls ``super().__init__(elements)``, keeps its constructor's arguments under their own names (they are
    its configuration) and its constants as buffers that are not persistent: nothing in it is learned. It computes in
    the precision of its buffers, float64 unless converted; ``forward`` is differentiable twice.

    Attributes:
        elements: atomic numbers that it tells apart, in the order given.
        cutoff: Å; 0 where it looks at whole structures rather than at pairs.
        whole: one row a structure, not one an atom; positions and cells instead of pairs.
        exempt: checks of a potential that it cannot pass by design, with the reason.
        CITATION: BibTeX of the paper.
    """

    cutoff: float
    whole: ClassVar[bool] = False
    exempt: ClassVar[dict[str, str]] = {}
    CITATION: ClassVar[str] = ""
    lookup: Tensor

    def __init__(self, elements: Sequence[int | str]) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        if not self.elements or len(set(self.elements)) != len(self.elements):
            given = names(self.elements) or "none"
            raise ConfigError(f"{type(self).__name__} needs elements that all differ; given: {given}.")
        lookup = torch.full((N_ELEMENTS,), -1)
        lookup[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("lookup", lookup, persistent=False)

    @property
    @abstractmethod
    def size(self) -> int:
        """Length of a row."""

    @abstractmethod
    def columns(self) -> list[str]:
        """What each component of a row is, ``size`` short texts."""

    @abstractmethod
    def forward(self, graph: Graph) -> Float[Tensor, "rows size"]:
        """The rows. Differentiable twice through ``graph.vectors()`` (with ``whole``: positions and cell)."""

    @classmethod
    def tiny(cls) -> Descriptor:
        """The smallest instance that does everything: the test suite uses it."""
        return cls((1, 6, 8))

    @property
    def n_species(self) -> int:
        return len(self.elements)

    def species(self, graph: Graph) -> Int[Tensor, " atoms"]:
        """Position of each atom's element in ``elements``; kept with the graph.

        Raises:
            UnknownElementError: an element that is not among them.
        """
        return graph._once(f"species {self.elements}", lambda: self._species(graph))

    def _species(self, graph: Graph) -> Tensor:
        found = self.lookup[graph.numbers]
        if found.numel() and int(found.min()) < 0:
            unknown = sorted(set(graph.numbers[found < 0].tolist()))
            raise UnknownElementError(
                f"This {type(self).__name__} knows {names(self.elements)}; the graph holds {names(unknown)}."
            )
        return found

    def jacobian(self, graph: Graph) -> Float[Tensor, "sources 3 size"]:
        """All derivatives of the rows in full.

        A row of an atom i depends on the pairs (i, j) alone, so there is one block for each pair of the graph:
        ``dG_i/dr_ij``, ``(pairs, 3, size)``. With ``whole``, one for each atom: the derivative of its structure's row
        by its position, ``(atoms, 3, size)``. This default differentiates :data:`CHUNK` columns at a time; descriptors
        that know better override it.
        """
        with torch.enable_grad():
            leaf = (graph.positions if self.whole else graph.vectors()).detach().requires_grad_()
            changed = {"positions": leaf} if self.whole else {"_vectors": leaf}
            total = self.forward(graph.replace(**changed)).sum(0)
        out = leaf.new_zeros(*leaf.shape, self.size, dtype=total.dtype)
        if not total.requires_grad:
            return out
        for start in range(0, self.size, CHUNK):
            unit = torch.eye(self.size, dtype=total.dtype, device=total.device)[start : start + CHUNK]
            (found,) = torch.autograd.grad(total, leaf, unit, is_grads_batched=True, retain_graph=True)
            out[..., start : start + CHUNK] = found.permute(1, 2, 0)
        return out

    def config(self) -> dict[str, Any]:
        """Name and constructor's arguments: what :func:`make` builds an equal one from."""
        kept = {name: getattr(self, name) for name in registry.parameters(type(self))}
        kept = {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}
        return {"name": registry.name_of(type(self))} | kept

    def extra_repr(self) -> str:
        return f"{names(self.elements)}, cutoff={self.cutoff}, size={self.size}"


def make(what: str | Mapping[str, Any], elements: Sequence[int | str]) -> Descriptor:
    """A descriptor from its name or configuration; ``elements`` unless the configuration has its own.

    Raises:
        ConfigError: an unknown name or key, a value of the wrong type or out of range.
    """
    config = {"name": what} if isinstance(what, str) else dict(what)
    made = registry.make({"elements": list(elements)} | config)
    if not isinstance(made, Descriptor):
        raise ConfigError(f"{config.get('name')!r} is not a descriptor; there are {', '.join(registered())}.")
    return made


def registered() -> list[str]:
    """Names of all descriptors."""
    return registry.names("epot.features.descriptors")
