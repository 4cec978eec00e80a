"""Positive parameters of elements and of pairs of elements, fitted through their logarithms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
import torch
from ase.data import covalent_radii, vdw_radii
from torch import nn

from ..elements import N_ELEMENTS, SYMBOLS, names, to_number
from ..errors import ConfigError, UnknownElementError
from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor

Given = float | Mapping[str, float] | None


class Positive(nn.Module):
    """A table of positive numbers, one for each label: ``exp`` of what is fitted, in float64.

    Args:
        labels: what each is of, for messages and reports: ``"C-H"``.
        values: to start from.

    Raises:
        ConfigError: a value is not positive.
    """

    def __init__(self, labels: Sequence[str], values: Sequence[float]) -> None:
        super().__init__()
        self.labels = tuple(labels)
        for label, value in zip(labels, values, strict=True):
            if not 0 < value < float("inf"):
                raise ConfigError(f"A parameter of {label} is {value}; it must be positive and finite.")
        self.logarithm = nn.Parameter(torch.tensor(list(values), dtype=torch.float64).log())

    def forward(self) -> Float[Tensor, " labels"]:
        """The values."""
        return self.logarithm.exp()

    def report(self) -> dict[str, float]:
        """Label to value."""
        return dict(zip(self.labels, self().tolist(), strict=True))


class Pairs:
    """Unordered pairs of elements: their labels, and which one two atoms are.

    Args:
        elements: atomic numbers.
    """

    def __init__(self, elements: Sequence[int]) -> None:
        self.elements = tuple(elements)
        self.each = list(combinations_with_replacement(range(len(elements)), 2))
        self.labels = [f"{SYMBOLS[elements[a]]}-{SYMBOLS[elements[b]]}" for a, b in self.each]

    def values(self, given: Given, default: Callable[[int, int], float], what: str) -> list[float]:
        """One for each pair: given for all, by label (``"C-H"`` or ``"H-C"``), or the default of two atomic numbers.

        Raises:
            ConfigError: a label is not a pair of known elements.
        """
        numbers = [(self.elements[a], self.elements[b]) for a, b in self.each]
        if isinstance(given, (int, float)):
            return [float(given)] * len(numbers)
        known: dict[tuple[int, ...], float] = {}
        for label, value in (given or {}).items():
            key = tuple(sorted(to_number(part) for part in label.split("-")))
            if len(key) != 2 or not set(key) <= set(self.elements):
                raise ConfigError(f"{what} has a value for {label!r}; expected pairs such as {self.labels[0]!r}.")
            known[key] = float(value)
        return [known.get((min(n), max(n)), default(*n)) for n in numbers]

    def table(self) -> Int[Tensor, "species species"]:
        """Position of the pair of two species."""
        made = torch.zeros(len(self.elements), len(self.elements), dtype=torch.int64)
        for k, (a, b) in enumerate(self.each):
            made[a, b] = made[b, a] = k
        return made


class Species(nn.Module):
    """Positions of atoms' elements among the known ones, and of pairs of atoms among the pairs of elements."""

    lookup: Tensor
    table: Tensor

    def __init__(self, elements: Sequence[int]) -> None:
        super().__init__()
        self.elements = tuple(elements)
        if not elements or len(set(elements)) != len(elements):
            raise ConfigError(f"A potential needs elements that all differ; given: {names(elements) or 'none'}.")
        lookup = torch.full((N_ELEMENTS,), -1)
        lookup[list(elements)] = torch.arange(len(elements))
        self.register_buffer("lookup", lookup, persistent=False)
        self.register_buffer("table", Pairs(elements).table(), persistent=False)

    def forward(self, graph: Graph) -> Int[Tensor, " atoms"]:
        """Of each atom.

        Raises:
            UnknownElementError: an element that is not among them.
        """
        found = self.lookup[graph.numbers]
        if found.numel() and int(found.min()) < 0:
            unknown = sorted(set(graph.numbers[found < 0].tolist()))
            raise UnknownElementError(
                f"This potential knows {names(self.elements)}; the graph holds {names(unknown)}. "
                "Make it with these elements too."
            )
        return found

    def pairs(self, graph: Graph) -> Int[Tensor, " pairs"]:
        """Of each pair of atoms."""
        species = self(graph)
        i, j = graph.pairs
        return self.table[species[i], species[j]]


def bond_length(a: int, b: int) -> float:
    """Å: sum of covalent radii (Cordero et al., Dalton Trans. 2832 (2008), as in ASE)."""
    return float(covalent_radii[a] + covalent_radii[b])


def contact(a: int, b: int) -> float:
    """Å: sum of van der Waals radii (Bondi, as in ASE); 1.6 times the covalent ones where they are not known."""
    radii = [float(vdw_radii[z]) for z in (a, b)]
    return sum(1.6 * float(covalent_radii[z]) if np.isnan(r) else r for z, r in zip((a, b), radii, strict=True))


def half_sums(graph: Graph, values: Float[Tensor, " pairs"]) -> Float[Tensor, " atoms"]:
    """Half of each pair's energy to each of its atoms: both directions of a pair are in the graph."""
    return values.new_zeros(graph.n_atoms).index_add(0, graph.pairs[0], 0.5 * values)
