"""Forces and virials of features that are functions of an atom's descriptor, from the descriptor's own derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from ..features.descriptor import Descriptor
from ..geometry.graph import Graph
from ..typing import Tensor

BYTES = 2**28
"""Of the derivatives that are held at a time."""


def descriptor_rows(
    descriptor: Descriptor,
    graph: Graph,
    widths: Sequence[int],
    chain: Callable[[Tensor, Tensor, int], Tensor],
    virial: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """``dphi/dr`` of features ``phi(G_i)`` in the columns of the element of atom i, summed over atoms, as rows.

    With ``g_ij = dphi_i/dr_ij`` rows of forces are ``sum_j (g_ij - g_ji)``, of virials ``-sum_ij r_ij (x) g_ij``.
    Derivatives are made and used up for a few atoms at a time, so that memory does not grow with the graph.

    Args:
        descriptor: of atoms (not of whole structures).
        graph: with the descriptor's pairs.
        widths: features of each element.
        chain: from dG_i/dr_ij ``(pairs, 3, size)``, the atoms i ``(pairs,)`` and the position of their element to
            dphi_i/dr_ij ``(pairs, 3, features of the element)``.
        virial: whether those rows are wanted.

    Returns:
        Rows of forces ``(3 atoms, features)`` and of virials ``(structures, 9, features)``.
    """
    species, vectors = descriptor.species(graph), graph.vectors().detach()
    total, dtype = sum(widths), torch.float64
    forces = torch.zeros(graph.n_atoms, 3, total, dtype=dtype, device=vectors.device)
    pulls = torch.zeros(graph.n_structures, 9, total, dtype=dtype, device=vectors.device) if virial else None
    for pairs in _parts(graph, max(descriptor.size, *widths)):
        part = graph.replace(pairs=graph.pairs[:, pairs], shifts=graph.shifts[pairs], _vectors=vectors[pairs])
        slopes = descriptor.jacobian(part).detach().to(dtype)
        column = 0
        for kind, width in enumerate(widths):
            chosen = (species[part.pairs[0]] == kind).nonzero()[:, 0]
            block = slice(column, column + width)
            column += width
            if not len(chosen):
                continue
            i, j = part.pairs[:, chosen]
            g = chain(slopes[chosen], i, kind)
            forces[:, :, block] = forces[:, :, block].index_add(0, i, g).index_add_(0, j, g, alpha=-1)
            if pulls is not None:
                _pull(pulls[:, :, block], graph.owner[i], vectors[pairs][chosen], g)
    return forces.view(3 * graph.n_atoms, total), pulls


def _parts(graph: Graph, width: int) -> Iterator[slice]:
    """Pairs of a few whole atoms at a time."""
    most = max(1, BYTES // (24 * width))
    stops = graph.row_pointers().tolist()
    start = 0
    for k in range(1, len(stops)):
        if k + 1 == len(stops) or stops[k + 1] - start > most:
            if stops[k] > start:
                yield slice(start, stops[k])
            start = stops[k]


def _pull(pulls: Tensor, owner: Tensor, vectors: Tensor, g: Tensor) -> None:
    """Subtract ``sum r_ij (x) g_ij`` of each structure; pairs come structure by structure."""
    structures, counts = owner.unique_consecutive(return_counts=True)
    parts = zip(vectors.to(g).split(counts.tolist()), g.flatten(1).split(counts.tolist()), strict=True)
    for structure, (r, slopes) in zip(structures.tolist(), parts, strict=True):
        pulls[structure] -= (r.T @ slopes).view(9, -1)
