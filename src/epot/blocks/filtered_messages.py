"""Messages through continuous filters, without a tensor of filters for all pairs at once.

The operator takes a table ``T = [R | q | x | y | z]`` of five blocks of F channels on each sender and gives each
receiver a scalar and a vector,

    q_i   = sum_j W^q_ij T^q_j,      mu_i,c = sum_j W^R_ij u_ij,c T^R_j + W^mu_ij T^c_j,      W_ij = B_ij w,

where ``B_ij`` holds K radial functions, the last of them the bias' cutoff function, and ``u_ij`` is the direction.

What makes it fast: pairs lie on a dense neighbor axis, so sums over senders are sums over an axis. Pairs come in both
directions with the same filter (``W_ij = W_ji``, ``u_ij = -u_ji``), so its transpose, which a gradient with respect to
``T`` asks for, is again a sum over the neighbors of each receiver. Filters are made, used and dropped for a few
hundred pairs at a time, forward, backward and in the second backward pass of a loss on forces
(:mod:`epot.blocks.filtered_kernels`): they stay in the processor's cache, and memory does not grow with the number of
pairs times channels. Where all atoms of an element send the same, :func:`element_sums` needs no filter at all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..typing import Float, Int, Tensor
from . import filtered_kernels as kernels
from .neighborhood import Layout
from .operator import Written, applied


class Pairs(NamedTuple):
    """The geometry of the messages, the same for every layer; an empty slot has ``basis = 0``.

    Attributes:
        layout: where the pairs lie.
        basis: K radial functions.
        directions: unit vectors from receiver to sender.
    """

    layout: Layout
    basis: Float[Tensor, "slots K"]
    directions: Float[Tensor, "slots 3"]

    def messages(
        self, table: Float[Tensor, "atoms five_F"], weight: Float[Tensor, "K three_F"]
    ) -> tuple[Float[Tensor, "atoms F"], Float[Tensor, "atoms 3 F"]]:
        """Scalars and vectors of :func:`filtered_messages` of these pairs."""
        n_features = weight.shape[1] // 3
        q, mu = filtered_messages(table, weight, self).split([n_features, 3 * n_features], -1)
        return q, mu.view(-1, 3, n_features)


def filtered_messages(
    table: Float[Tensor, "atoms five_F"], weight: Float[Tensor, "K three_F"], pairs: Pairs
) -> Float[Tensor, "atoms four_F"]:
    """``[q | mu_x | mu_y | mu_z]`` of each receiver.

    Args:
        table: ``[R | q | x | y | z]`` of each sender.
        weight: filters ``[R | q | mu]``.
        pairs: complete (both directions), as a :class:`~epot.geometry.graph.Graph` has them.

    Differentiable twice in everything; in the geometry only along changes that keep ``u_ij = -u_ji`` (which moving
    atoms do, and changing one direction of a pair alone would not).
    """
    return applied(Written(kernels, pairs.layout), table, weight, pairs.basis, pairs.directions)


def element_sums(pairs: Pairs, rows: Int[Tensor, " atoms"], n_elements: int) -> Float[Tensor, "atoms 4 sums"]:
    """``sum_j B_ij`` and ``sum_j u_ij B_ij`` over the neighbors of each element, elements before radial functions.

    Args:
        pairs: the geometry.
        rows: which element each atom is.
        n_elements: how many there are.
    """
    layout, k = pairs.layout, pairs.basis.shape[1]
    n_atoms = layout.rows.shape[0]
    arms = torch.nn.functional.pad(pairs.directions, (1, 0), value=1.0)
    products = (arms.unsqueeze(-1) * pairs.basis.unsqueeze(-2)).view(-1, 4 * k)
    index = layout.receivers
    if n_elements > 1:
        index = index * n_elements + rows.index_select(0, layout.senders)
    sums = products.new_zeros(n_atoms * n_elements, 4 * k).index_add(0, index, products)
    return sums.view(n_atoms, n_elements, 4, k).transpose(1, 2).flatten(2)
