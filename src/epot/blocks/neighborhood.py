"""Distances and directions of pairs on a dense neighbor axis: one row of slots for each receiver."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor


class Neighborhood(NamedTuple):
    """The pairs of a graph as ``(atoms, slots)``; an empty slot lies at the cutoff and its sender is atom 0.

    What is summed over slots must vanish at the cutoff, as everything does that has a cutoff function in it.

    Attributes:
        senders: index of the atom in each slot.
        distances: Å.
        directions: unit vectors from receiver to sender.
    """

    senders: Int[Tensor, "atoms slots"]
    distances: Float[Tensor, "atoms slots"]
    directions: Float[Tensor, "atoms slots 3"]


def neighborhood(graph: Graph, cutoff: float, dtype: torch.dtype) -> Neighborhood:
    """Lay the pairs of ``graph`` out, in ``dtype``; differentiable through ``graph.vectors()``."""
    padded = graph.padded()
    receivers, senders = graph.pairs
    pointers = graph.row_pointers()
    n_slots = padded.shape[1]
    place = torch.arange(graph.n_pairs, device=senders.device) - (pointers[:-1] - n_slots * _count(pointers))[receivers]
    slots = senders.new_zeros(padded.numel()).index_copy_(0, place, senders).view_as(padded)
    away = torch.tensor([cutoff, 0.0, 0.0], dtype=dtype, device=senders.device).expand(padded.numel(), 3)
    vectors = away.index_copy(0, place, graph.vectors().to(dtype)).view(*padded.shape, 3)
    distances = vectors.square().sum(-1).sqrt()
    return Neighborhood(slots, distances, vectors / distances.unsqueeze(-1))


def _count(pointers: Tensor) -> Tensor:
    return torch.arange(pointers.shape[0] - 1, device=pointers.device)


def filtered(kernel: Callable[[Tensor], Tensor], window: Callable[[Tensor], Tensor], distances: Tensor) -> Tensor:
    """Radial functions times cutoff function, and the cutoff function alone as last channel: ``(..., n + 1)``."""
    fade = window(distances).unsqueeze(-1)
    return torch.cat([kernel(distances) * fade, fade], -1)
