"""All derivatives of sums over triples in full, pair by pair."""

from __future__ import annotations

import torch

from ..geometry.graph import Graph
from ..typing import Float, Tensor
from .triple_sums import Blocks, Family, open_blocks, split
from .triples import Layout, chunks


def triple_jacobian(
    graph: Graph, vectors: Tensor, family: Family, layout: Layout
) -> Float[Tensor, "pairs 3 kinds e z"]:
    """``dG_i/dr_ij`` of :func:`~epot.features.triple_sums.triple_sums`.

    With ``g = r_ij . r_ik`` the derivative of a product by the vector to j is ``2 (L R)_(r_ij^2) r_ij + (L R)_g r_ik``,
    summed over all k: for each pair and species of k one matrix product.
    """
    out = vectors.new_zeros(graph.n_pairs, layout.n_kinds, 3, family.n_left, family.n_right)
    for _, atoms in chunks(graph, layout, ordered=True):
        blocks = open_blocks(atoms, vectors, family)
        if blocks is None:
            continue
        found = vectors.new_zeros(atoms.rows, *out.shape[2:]).index_add_(0, blocks.row, _blocks(blocks, family))
        n_species = len(layout.kinds)
        kinds = layout.kinds.index_select(0, atoms.species).flatten()  # of each pair and species of the other
        used = (kinds >= 0).nonzero()[:, 0]
        out[atoms.order[used // n_species], kinds[used]] = found[used]
    return out.transpose(1, 2)


def _blocks(blocks: Blocks, family: Family) -> Tensor:
    """``(blocks, 3, e, z)``."""
    ones = torch.ones_like(blocks.opened.left[0])
    zeros = torch.zeros_like(ones)
    left, right = split(blocks.opened.left, blocks), split(blocks.opened.right, blocks).transpose(1, 2)
    found = None
    for change, along, factor in (
        ((ones, zeros, zeros), blocks.first, 2.0),
        ((zeros, zeros, ones), blocks.second, 1.0),
    ):
        by_left, by_right = family.push(blocks.opened, *change)
        arms = split(blocks.vectors.index_select(0, along).T * factor, blocks)
        for a, b in ((split(by_left, blocks), right), (left, split(by_right, blocks).transpose(1, 2))):
            n_blocks, n_left, length = a.shape
            moved = (arms[:, :, None] * a[:, None]).reshape(n_blocks, 3 * n_left, length)
            part = torch.bmm(moved, b)
            found = part if found is None else found.add_(part)
    assert found is not None
    return found.view(len(blocks.row), 3, family.n_left, family.n_right)
