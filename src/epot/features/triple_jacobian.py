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
        blocks = open_blocks(atoms, vectors, family, parts=1)
        if blocks is None:
            continue
        found = vectors.new_zeros(atoms.rows, *out.shape[2:]).index_add_(0, blocks.row, _blocks(blocks, family))
        n_species = len(layout.kinds)
        kinds = layout.kinds.index_select(0, atoms.species).flatten()  # of each pair and species of the other
        used = (kinds >= 0).nonzero()[:, 0]
        out[atoms.order[used // n_species], kinds[used]] = found[used]
    return out.transpose(1, 2)


def _blocks(blocks: Blocks, family: Family) -> Tensor:
    """``(blocks, 3, e, z)``: the sums that go along r_ij, and those along r_ik by component, in one product."""
    ones = torch.ones_like(blocks.opened.left[0])
    zeros = torch.zeros_like(ones)
    by_square = [split(t, blocks) for t in family.push(blocks.opened, ones, zeros, zeros)]
    by_dot = [split(t, blocks) for t in family.push(blocks.opened, zeros, zeros, ones)]
    left, right = split(blocks.opened.left, blocks), split(blocks.opened.right, blocks)
    arms = split(blocks.vectors.index_select(0, blocks.second).T, blocks)
    n, e, length = left.shape
    rows = left.new_zeros(n, 4, e, 3, length)  # of L and its derivatives, to meet R and its derivatives
    torch.mul(arms[:, :, None], by_dot[0][:, None], out=rows[:, :3, :, 0])
    torch.mul(arms[:, :, None], left[:, None], out=rows[:, :3, :, 2])
    rows[:, 3, :, 0], rows[:, 3, :, 1] = by_square[0], left
    columns = torch.cat([right, by_square[1], by_dot[1]], 2)
    found = torch.bmm(rows.view(n, 4 * e, 3 * length), columns.transpose(1, 2)).view(n, 4, e, -1)
    own = blocks.vectors.index_select(0, blocks.first.view(n, length)[:, 0])
    return found[:, :3].add_(2 * own[:, :, None, None] * found[:, 3:])
