"""Messages through continuous filters, without a tensor of filters for all pairs at once.

The operator takes a table ``T = [R | q | x | y | z]`` of five blocks of F channels on each sender and gives each
receiver a scalar and a vector,

    q_i   = sum_j W^q_ij T^q_j,      mu_i,c = sum_j W^R_ij u_ij,c T^R_j + W^mu_ij T^c_j,      W_ij = B_ij w,

where ``B_ij`` holds K radial functions, the last of them the bias' cutoff function, and ``u_ij`` is the direction.

What makes it fast: pairs lie on a dense neighbor axis, so sums over senders are sums over an axis. Pairs come in both
directions with the same filter (``W_ij = W_ji``, ``u_ij = -u_ji``), so its transpose, which a gradient with respect to
``T`` asks for, is again a sum over the neighbors of each receiver: nothing is ever scattered. Filters are
made, used and dropped for a few thousand pairs at a time, forward and backward: they stay in the processor's
cache, and memory does not grow with the number of pairs times channels.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch

from ..typing import Float, Int, Tensor

BLOCK = 2048  # slots at a time: a table of five times 128 channels for them takes 5 MB in single precision


class Pairs(NamedTuple):
    """The geometry of the messages, the same for every layer; an empty slot has ``basis = 0``.

    Attributes:
        senders: atom in each slot.
        basis: K radial functions.
        directions: unit vectors from receiver to sender.
    """

    senders: Int[Tensor, "atoms slots"]
    basis: Float[Tensor, "atoms slots K"]
    directions: Float[Tensor, "atoms slots 3"]


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
    return _FilteredMessages.apply(table, weight, pairs.basis, pairs.directions, pairs.senders)


def element_sums(pairs: Pairs, rows: Int[Tensor, " atoms"], n_elements: int) -> Float[Tensor, "atoms 4 sums"]:
    """``sum_j B_ij`` and ``sum_j u_ij B_ij`` over the neighbors of each element, elements before radial functions.

    Args:
        pairs: the geometry.
        rows: which element each atom is.
        n_elements: how many there are.
    """
    n_atoms, _, k = pairs.basis.shape
    arms = torch.nn.functional.pad(pairs.directions, (1, 0), value=1.0)
    if n_elements > 1:
        kind = torch.nn.functional.one_hot(rows[pairs.senders], n_elements).to(arms.dtype)
        arms = (arms.unsqueeze(-1) * kind.unsqueeze(-2)).flatten(-2)
    return torch.bmm(arms.transpose(1, 2), pairs.basis).view(n_atoms, 4, n_elements * k)


class _FilteredMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, weight: Tensor, basis: Tensor, directions: Tensor, senders: Tensor) -> Tensor:
        ctx.save_for_backward(table, weight, basis, directions, senders)
        return _forward(table, weight, basis, directions, senders)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, weight, basis, directions, senders = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: of plain operations, which are differentiable again
            found = _backward_plain(grad, table, weight, basis, directions, senders)
        else:
            found = _backward(grad, table, weight, basis, directions, senders, [_wanted(t) for t in ctx.saved_tensors])
        return *found, None


def _wanted(tensor: Tensor) -> bool:
    """Whether the backward pass that is going on goes to this tensor (an energy's forces need no weights' gradient)."""
    if not tensor.requires_grad:
        return False
    try:
        return torch._C._will_engine_execute_node(torch.autograd.graph.get_gradient_edge(tensor).node)
    except (AttributeError, RuntimeError):  # another torch, or a leaf that was itself asked for
        return True


class _Scratch(threading.local):
    """Room for one block that outlives a call: fresh memory costs more, page by page, than what is done with it."""

    def __init__(self) -> None:
        self.room: dict[torch.dtype, Tensor] = {}

    def take(self, like: Tensor, slots: int, *channels: int) -> list[Tensor]:
        """Tensors ``(slots, c)`` for each of ``channels``; what was there before is overwritten."""
        if like.device.type != "cpu":
            return [like.new_empty(slots, c) for c in channels]
        room = self.room.get(like.dtype)
        if room is None or room.numel() < slots * sum(channels):
            room = self.room[like.dtype] = like.new_empty(slots * sum(channels))
        parts = room[: slots * sum(channels)].split([slots * c for c in channels])
        return [part.view(slots, c) for part, c in zip(parts, channels, strict=True)]


_scratch = _Scratch()


def _blocks(n_atoms: int, n_slots: int) -> tuple[int, list[slice]]:
    """Atoms whose slots together are about one block, and the slots of the largest."""
    rows = max(1, min(n_atoms, BLOCK // n_slots))
    return rows * n_slots, [slice(start, min(start + rows, n_atoms)) for start in range(0, n_atoms, rows)]


def _forward(table: Tensor, weight: Tensor, basis: Tensor, directions: Tensor, senders: Tensor) -> Tensor:
    n_atoms, n_slots, k = basis.shape
    f = table.shape[1] // 5
    most, blocks = _blocks(n_atoms, n_slots)
    filters, taken = _scratch.take(table, most, 3 * f, 5 * f)
    out = table.new_empty(n_atoms, 4 * f)
    for block in blocks:
        m = block.stop - block.start
        p = m * n_slots
        w = torch.mm(basis[block].view(p, k), weight, out=filters[:p])
        x = torch.index_select(table, 0, senders[block].view(p), out=taken[:p])
        x[:, : 2 * f].mul_(w[:, : 2 * f])
        x[:, 2 * f :].view(p, 3, f).mul_(w[:, None, 2 * f :])
        x = x.view(m, n_slots, 5 * f)
        torch.sum(x[:, :, f:], 1, out=out[block])
        out[block, f:] += torch.bmm(directions[block].transpose(1, 2), x[:, :, :f]).view(m, 3 * f)
    return out


def _backward(
    grad: Tensor, table: Tensor, weight: Tensor, basis: Tensor, directions: Tensor, senders: Tensor, wanted: list[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of table, weight, basis and directions (the last two together)."""
    n_atoms, n_slots, k = basis.shape
    f = table.shape[1] // 5
    most, blocks = _blocks(n_atoms, n_slots)
    filters, taken, spare = _scratch.take(table, most, 3 * f, 5 * f, 3 * f)
    to_table, to_weight, to_geometry = wanted[0], wanted[1], wanted[2] or wanted[3]
    d_table = table.new_empty(n_atoms, 5 * f) if to_table else None
    d_weight = torch.zeros_like(weight) if to_weight else None
    k8 = -(-k // 8) * 8  # a multiple of the vector length is faster
    back = torch.nn.functional.pad(weight, (0, 0, 0, k8 - k)).T if to_geometry else weight
    d_basis = basis.new_empty(n_atoms, n_slots, k8) if to_geometry else None
    d_directions = torch.empty_like(directions) if to_geometry else None
    grad = grad.contiguous()
    for block in blocks:
        m = block.stop - block.start
        p = m * n_slots
        w = torch.mm(basis[block].view(p, k), weight, out=filters[:p])
        sender = senders[block].view(p)
        if d_table is not None:
            h = torch.index_select(grad, 0, sender, out=taken.view(-1)[: p * 4 * f].view(p, 4 * f))
            _transposed(h, w, directions[block], spare[:p], d_table[block])
        if to_geometry or to_weight:
            g = torch.index_select(table, 0, sender, out=taken[:p])
            _outer(g.view(m, n_slots, 5 * f), w.view(m, n_slots, 3 * f), grad[block], directions[block],
                   spare[:p], None if d_directions is None else d_directions[block])  # fmt: skip
            if d_basis is not None:
                torch.mm(w, back, out=d_basis[block].view(p, k8))
            if d_weight is not None:
                d_weight.addmm_(basis[block].view(p, k).T, w)
    return d_table, d_weight, None if d_basis is None else d_basis[:, :, :k], d_directions


def _transposed(h: Tensor, w: Tensor, u: Tensor, spare: Tensor, out: Tensor) -> None:
    """Gradient of the table from that of the result at the senders, ``h``, which is overwritten."""
    m, n_slots, _ = u.shape
    f = w.shape[1] // 3
    vectors = h[:, f:].view(-1, 3, f)
    along = torch.mul(vectors, w[:, None, :f], out=spare.view(-1, 3, f))
    out[:, :f] = torch.bmm(u.reshape(m, 1, -1), along.view(m, 3 * n_slots, f)).view(m, f).neg_()
    h[:, :f].mul_(w[:, f : 2 * f])
    vectors.mul_(w[:, None, 2 * f :])
    torch.sum(h.view(m, n_slots, 4 * f), 1, out=out[:, f:])


def _outer(g: Tensor, w: Tensor, grad: Tensor, u: Tensor, spare: Tensor, d_directions: Tensor | None) -> None:
    """Gradient of the filters in place of the filters ``w``, and that of the directions; ``g`` is overwritten."""
    m, n_slots, f = *u.shape[:2], w.shape[2] // 3
    part = spare.view(-1)[: m * n_slots * f].view(m, n_slots, f)
    gr, gq, gm = g.split([f, f, 3 * f], -1)
    d_q, d_mu = grad[:, None, :f], grad[:, f:].reshape(m, 3, f)
    if d_directions is not None:
        torch.bmm(torch.mul(gr, w[:, :, :f], out=part), d_mu.transpose(1, 2), out=d_directions)
    torch.mul(gr, torch.bmm(u, d_mu, out=part), out=w[:, :, :f])
    torch.mul(gq, d_q, out=w[:, :, f : 2 * f])
    torch.sum(gm.view(m, n_slots, 3, f).mul_(d_mu[:, None]), 2, out=w[:, :, 2 * f :])


def _backward_plain(
    grad: Tensor, table: Tensor, weight: Tensor, basis: Tensor, directions: Tensor, senders: Tensor
) -> tuple[Tensor, ...]:
    """The same of operations that autograd can differentiate."""
    n_atoms, n_slots, k = basis.shape
    f = table.shape[1] // 5
    b = basis.reshape(-1, k)
    wr, wq, wm = (b @ weight).view(n_atoms, n_slots, 3 * f).split(f, -1)
    sender = senders.reshape(-1)
    hq, hm = grad.index_select(0, sender).view(n_atoms, n_slots, 4 * f).split([f, 3 * f], -1)
    hm = hm.view(n_atoms, n_slots, 3, f)
    gr, gq, gm = table.index_select(0, sender).view(n_atoms, n_slots, 5 * f).split([f, f, 3 * f], -1)
    gm = gm.view(n_atoms, n_slots, 3, f)
    dq, dm = grad.split([f, 3 * f], -1)
    dq, dm = dq.unsqueeze(1), dm.view(n_atoms, 3, f)

    xr = -torch.bmm(directions.reshape(n_atoms, 1, -1), (hm * wr.unsqueeze(2)).view(n_atoms, -1, f)).squeeze(1)
    d_table = torch.cat([xr, (hq * wq).sum(1), (hm * wm.unsqueeze(2)).sum(1).view(n_atoms, -1)], -1)
    d_directions = torch.bmm(gr * wr, dm.transpose(1, 2))
    dw = torch.cat([gr * torch.bmm(directions, dm), gq * dq, (gm * dm.unsqueeze(1)).sum(2)], -1)
    dw = dw.view(-1, 3 * f)
    return d_table, b.T @ dw, (dw @ weight.T).view_as(basis), d_directions
