"""Pairs of pairs that share an atom: for a message from j to i, the messages from k to j."""

from __future__ import annotations

import torch

from ..typing import Int, Tensor


def pairs_of_pairs(
    pairs: Int[Tensor, "2 pairs"], row_pointers: Int[Tensor, " atoms_plus_one"], reverse_pairs: Int[Tensor, " pairs"]
) -> tuple[Int[Tensor, " triplets"], Int[Tensor, " triplets"]]:
    """All ``k -> j -> i`` in which k is not the same image of the same atom as i.

    Another image of i is a neighbor of j like any other: in a small periodic cell it must be there. The only pair that
    leads back to i itself is the reverse of ``j -> i``, so that one alone is left out.

    Args:
        pairs: receivers, ascending, and senders.
        row_pointers: where the pairs of each receiver begin.
        reverse_pairs: index of each pair's reverse.

    Returns:
        Indices into ``pairs``, of ``k -> j`` and of ``j -> i``; the latter ascend.
    """
    counts = row_pointers[1:] - row_pointers[:-1]
    senders = pairs[1]
    per_pair = counts.index_select(0, senders)
    outer = torch.repeat_interleave(per_pair)
    begin = row_pointers.index_select(0, senders) - (per_pair.cumsum(0) - per_pair)
    inner = torch.arange(len(outer), device=pairs.device) + begin.index_select(0, outer)
    keep = (inner != reverse_pairs.index_select(0, outer)).nonzero()[:, 0]
    return inner.index_select(0, keep), outer.index_select(0, keep)
