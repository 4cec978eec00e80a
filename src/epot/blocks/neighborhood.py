"""Distances and directions of pairs, laid out in blocks of receivers with equally many slots for neighbors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor

BLOCK = 512  # slots: what is computed for them at a time should stay in the processor's cache


class Layout(NamedTuple):
    """Where the pairs of a graph lie: atoms are sorted by number of neighbors and cut into blocks.

    A block has a row for each of its atoms and in each row as many slots as its last atom has neighbors, so little is
    wasted on atoms with few. Slots of all blocks follow each other; the sender of an empty slot is given as atom 0.

    Attributes:
        rows: the atom of each row, ``(atoms,)``.
        senders, receivers: atoms of each slot.
        place: the slot of each pair of the graph.
        blocks: for each, first row, row after the last, first slot and slots per row.
    """

    rows: Int[Tensor, " atoms"]
    senders: Int[Tensor, " slots"]
    receivers: Int[Tensor, " slots"]
    place: Int[Tensor, " pairs"]
    blocks: tuple[tuple[int, int, int, int], ...]


class Neighborhood(NamedTuple):
    """The pairs of a graph in slots; an empty slot lies at the cutoff.

    What is summed over slots must vanish at the cutoff, as everything does that has a cutoff function in it.

    Attributes:
        layout: which atoms.
        distances: Å.
        directions: unit vectors from receiver to sender.
    """

    layout: Layout
    distances: Float[Tensor, " slots"]
    directions: Float[Tensor, "slots 3"]


def neighborhood(graph: Graph, cutoff: float, dtype: torch.dtype) -> Neighborhood:
    """Lay the pairs of ``graph`` out, in ``dtype``; differentiable through ``graph.vectors()``."""
    layout = graph._once("layout", lambda: _layout(graph))
    away = torch.tensor([cutoff, 0.0, 0.0], dtype=dtype, device=layout.senders.device)
    vectors = away.expand(layout.senders.shape[0], 3).index_copy(0, layout.place, graph.vectors().to(dtype))
    distances = vectors.square().sum(-1).sqrt()
    return Neighborhood(layout, distances, vectors / distances.unsqueeze(-1))


def _layout(graph: Graph) -> Layout:
    receivers, senders = graph.pairs
    pointers = graph.row_pointers()
    counts, rows = torch.sort(pointers[1:] - pointers[:-1], stable=True)
    blocks = _blocks(counts.tolist())
    first = torch.cat([torch.arange(stop - start) * width + slot for start, stop, slot, width in blocks] or [counts])
    start = torch.empty_like(rows).index_copy_(0, rows, first.to(rows.device)) - pointers[:-1]
    place = torch.arange(graph.n_pairs, device=rows.device) + start.index_select(0, receivers)
    widths = torch.cat([torch.full((stop - start,), width) for start, stop, _, width in blocks] or [counts])
    owners = rows.repeat_interleave(widths.to(rows.device))
    return Layout(rows, torch.zeros_like(owners).index_copy_(0, place, senders), owners, place, blocks)


def _blocks(counts: list[int]) -> tuple[tuple[int, int, int, int], ...]:
    """Cut ascending numbers of neighbors into blocks of about BLOCK slots, each of at least one atom and one slot."""
    made, start, slot = [], 0, 0
    while start < len(counts):
        stop, width = start, max(counts[start], 1)
        while True:
            rows = max(1, BLOCK // width)
            if start + rows >= stop > start:  # no longer too wide
                break
            stop = min(start + rows, len(counts))
            width = max(counts[stop - 1], 1)
        made.append((start, stop, slot, width))
        slot += (stop - start) * width
        start = stop
    return tuple(made)


def filtered(kernel: Callable[[Tensor], Tensor], window: Callable[[Tensor], Tensor], distances: Tensor) -> Tensor:
    """Radial functions times cutoff function, and the cutoff function alone as last channel: ``(..., n + 1)``."""
    fade = window(distances).unsqueeze(-1)
    return torch.cat([kernel(distances) * fade, fade], -1)
