"""Atoms sorted by element: what has its own weights for each element works on rows that follow each other."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch

from ..geometry.graph import Graph
from ..typing import Int, Tensor
from .neighborhood import Layout


class Sites(NamedTuple):
    """Where the pairs of a graph lie, atoms renumbered so that those of an element follow each other.

    Attributes:
        layout: slots of the pairs; its atoms are places in the new order.
        back: the slot of the reverse pair of each slot; an empty slot is its own. Compiled kernels do not need it, and
            it is empty where they alone work (:func:`in_order`).
        order: the atom of the graph at each place.
        place: the place of each atom of the graph: the inverse.
        kinds: rows (of the embedding) of the elements that are there, ascending.
        species: which of ``kinds`` each place has, ascending.
        counts: how many places each element that the potential knows has.
        neighbors: pairs in each row of the layout.
        couples: which of ``kinds`` a sender and a receiver may be: all that occur in one structure together.
        made: what is derived from all this, once.
    """

    layout: Layout
    back: Int[Tensor, " slots"]
    order: Int[Tensor, " atoms"]
    place: Int[Tensor, " atoms"]
    kinds: Int[Tensor, " present"]
    species: Int[Tensor, " atoms"]
    counts: tuple[int, ...]
    neighbors: Int[Tensor, " atoms"]
    couples: Int[Tensor, "couples 2"]
    made: dict[Hashable, Any]

    @property
    def present(self) -> list[int]:
        """How many places each of ``kinds`` has."""
        return [n for n in self.counts if n]


def by_element(graph: Graph, layout: Layout, rows: Int[Tensor, " atoms"], elements: tuple[int, ...]) -> Sites:
    """Sort; made once for a graph and potentials of these elements.

    Args:
        graph: any.
        layout: its slots, atoms in the graph's order (:func:`~epot.blocks.neighborhood.neighborhood`).
        rows: of each atom's element (:class:`~epot.blocks.embedding.ElementEmbedding`).
        elements: atomic numbers that the potential knows, in the order of the embedding.
    """
    return graph._once(f"by_element {elements}", lambda: _sites(graph, layout, rows, len(elements)))


def in_order(graph: Graph) -> Sites:
    """For compiled kernels: atoms in the order of the graph, a slot for each pair; made once for a graph."""
    return graph._once("in_order", lambda: _in_order(graph))


def _in_order(graph: Graph) -> Sites:
    receivers, senders = graph.pairs.unbind()
    same, slots = (torch.arange(n, device=senders.device) for n in (graph.n_atoms, graph.n_pairs))
    layout = Layout(same, senders.contiguous(), receivers, slots, ())
    starts, one = graph.row_pointers()[:-1], torch.zeros_like(same)
    neighbors = graph.row_pointers()[1:] - starts
    made: dict[Hashable, Any] = {"rows": (starts, neighbors)}
    return Sites(layout, slots[:0], same, same, one[:1], one, (graph.n_atoms,), neighbors, one.new_zeros(1, 2), made)


def _sites(graph: Graph, old: Layout, rows: Tensor, n_elements: int) -> Sites:
    kinds, species = rows.unique(return_inverse=True)
    counts = torch.bincount(rows, minlength=n_elements)
    order = torch.argsort(species, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    layout = old._replace(
        rows=place.index_select(0, old.rows),
        senders=place.index_select(0, old.senders),
        receivers=place.index_select(0, old.receivers),
    )
    back = torch.arange(old.senders.shape[0], device=order.device)
    back[old.place] = old.place.index_select(0, graph.reverse_pairs())
    pointers = graph.row_pointers()
    neighbors = (pointers[1:] - pointers[:-1]).index_select(0, old.rows)
    sorted_species = species.index_select(0, order)
    couples = _couples(graph, species, len(kinds))
    return Sites(layout, back, order, place, kinds, sorted_species, tuple(counts.tolist()), neighbors, couples, {})


def _couples(graph: Graph, species: Tensor, n: int) -> Tensor:
    """A batch may hold every element of the table and few pairs of them: nothing is to be made for the others."""
    if graph.n_structures == 1:
        each = torch.arange(n, device=species.device)
        return torch.cartesian_prod(each, each).view(-1, 2)
    there = torch.zeros(graph.n_structures, n, device=species.device)
    there[graph.owner, species] = 1.0
    return (there.T @ there).nonzero()
