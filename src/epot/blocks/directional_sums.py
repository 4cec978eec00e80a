"""Sums over triplets k -> j -> i without triplets: DimeNet's directional messages at a cost linear in the pairs.

What a message from j to i takes from the messages from all k to j is (DimeNet++, arXiv:2011.14115, section 2)

    t_ji = sum_(k != i) f(r_kj, cos theta) * x_kj,    f = sum_ln W_ln R_ln(r_kj) Y_l0(theta),

with the angle theta between the directions of the two messages, k -> j and j -> i. As functions of ``u``, the unit
vectors from j to its neighbors, ``cos theta = -u_i . u_k``, so ``P_l(cos theta) = (-1)^l P_l(u_i . u_k)``, and the
addition theorem of spherical harmonics takes the two directions apart (``C_lm``: harmonics with
``sum_m C_lm(u) C_lm(v) = P_l(u . v)``):

    A_j,lm = sum_k C_lm(u_k) y_l,kj,    y_l,kj = (sum_n V_ln R_ln(r_kj)) * x_kj,
    t_ji = sum_lm C_lm(u_i) A_j,lm - sum_l y_l,ij,     V_ln = (-1)^l sqrt((2l+1)/4pi) W_ln.

The last sum is the term k = i (the same image of it, no other), where ``P_l(1) = 1``. With K neighbors, 7 degrees and
64 channels that is 6300 multiplications for a message, as products of matrices, where a sum over triplets takes 64 K
beside the 56 K and 512 K that make its filters; and nothing as large as the number of triplets is ever stored.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch

from ..features.angular import spherical_harmonics
from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor


class Around(NamedTuple):
    """The neighbors of every atom, in equally many slots, as the sums need them; an empty slot has no harmonics.

    Attributes:
        pair: the pair ``k -> j`` in each slot of j; of an empty slot any.
        back: the slot of the reverse of each pair: what is summed there belongs to ``j -> i``.
        radial: ``R_ln``, ``(slots, degrees n)``.
        sending: ``C_lm`` of each slot, ``2 l_max + 1`` rows for each degree, ``(degrees atoms, rows, width)``.
        receiving: the same, ``(atoms, width, degrees rows)``.
    """

    pair: Int[Tensor, " slots"]
    back: Int[Tensor, " pairs"]
    radial: Float[Tensor, "slots functions"]
    sending: Float[Tensor, "blocks rows width"]
    receiving: Float[Tensor, "atoms width harmonics"]


def around(graph: Graph, directions: Float[Tensor, "pairs 3"], radial: Float[Tensor, "degrees n pairs"]) -> Around:
    """Lay out directions (unit vectors from receiver to sender) and radial functions of the pairs of a graph."""
    pair, back = graph._once("slots_of_pairs", lambda: _slots(graph))
    atoms, width = graph.padded().shape
    l_max = radial.shape[0] - 1
    harmonics = spherical_harmonics(directions, l_max)
    factors, rows = _rows(l_max, directions.dtype, directions.device)
    slots = graph.padded().flatten()
    filled = torch.nn.functional.pad(harmonics * factors, (0, 1, 0, 1))  # for empty slots, and for rows that are none
    table = filled.index_select(0, rows).index_select(1, slots)
    table = table.view(l_max + 1, 2 * l_max + 1, atoms, width)
    return Around(
        pair,
        back,
        torch.nn.functional.pad(radial.flatten(0, 1).t(), (0, 0, 0, 1)).index_select(0, slots),
        table.transpose(1, 2).flatten(0, 1),
        table.permute(2, 3, 0, 1).flatten(2),
    )


def directional_sums(
    x: Float[Tensor, "pairs channels"], weights: Float[Tensor, "degrees n channels"], around: Around
) -> Float[Tensor, "pairs channels"]:
    """``t_ji`` of every pair from ``x_kj``.

    Args:
        x: of every pair ``k -> j``.
        weights: ``W_ln``.
        around: the geometry.
    """
    degrees, n, channels = weights.shape
    atoms, width, _ = around.receiving.shape
    if not len(x):
        return x
    radial = around.radial.view(-1, degrees, n).transpose(0, 1)
    mine = x.index_select(0, around.pair)
    y = torch.bmm(radial, weights * _signs(degrees, x.dtype, x.device)) * mine
    sums = torch.bmm(around.sending, y.view(degrees * atoms, width, channels))
    sums = sums.view(degrees, atoms, -1, channels).transpose(0, 1).reshape(atoms, -1, channels)
    t = torch.bmm(around.receiving, sums).flatten(0, 1) - y.sum(0)
    return t.index_select(0, around.back)


def _slots(graph: Graph) -> tuple[Tensor, Tensor]:
    """The pair in each slot and the slot of each pair's reverse."""
    padded = graph.padded().flatten()
    filled = (padded < graph.n_pairs).nonzero()[:, 0]  # in the order of the pairs
    return padded.clamp(max=max(graph.n_pairs - 1, 0)), filled.index_select(0, graph.reverse_pairs())


@lru_cache(maxsize=32)
def _rows(l_max: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """``C_lm / Y_lm`` as a column, and which harmonic is in which of ``2 l_max + 1`` rows of each degree."""
    factors, rows = [], torch.full((l_max + 1, 2 * l_max + 1), (l_max + 1) ** 2)
    for degree in range(l_max + 1):
        factors += [math.sqrt(4 * math.pi / (2 * degree + 1))] * (2 * degree + 1)
        rows[degree, : 2 * degree + 1] = torch.arange(degree**2, (degree + 1) ** 2)
    return torch.tensor(factors, dtype=dtype, device=device)[:, None], rows.flatten().to(device)


@lru_cache(maxsize=32)
def _signs(degrees: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``(-1)^l sqrt((2l+1)/4pi)``, ``(degrees, 1, 1)``."""
    made = [(-1) ** k * math.sqrt((2 * k + 1) / (4 * math.pi)) for k in range(degrees)]
    return torch.tensor(made, dtype=dtype, device=device)[:, None, None]
