"""Equivariant messages and their first and second gradients, a block of pairs at a time.

With ``E(D; h, H, W, Y) = sum_i D_i . G(h, H, W, Y)_i`` for the operator G of :mod:`epot.blocks.equivariant_messages`,
:func:`backward` gives its gradient by all four, and :func:`second_backward` the gradient of

    S = <a, dE/dh> + <b, dE/dH> + <v, dE/dW> + <z, dE/dY>,

the derivative of E along (a, b, v, z). E is linear in each of ``D, Y, R, h`` with ``R = H W``, so S is E with one
factor at a time replaced by its change: ``dR = b W + H v``.

In a slot ``X = R h`` has columns (path, m1, channel), paths in the order of :class:`~.equivariant_messages.Paths`, so
those of one degree l2 of the harmonics follow each other and one matrix product over the slots of a receiver,
``Y[l2]^T X[l2]``, gives all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ..features.scratch import Scratch
from ..typing import Tensor
from .element_order import Sites

if TYPE_CHECKING:
    from .equivariant_messages import Paths

_scratch = Scratch()


class _Block:
    """A block of receivers: its slots, and columns of one degree or group as shaped views of a flat array."""

    def __init__(self, sites: Sites, paths: Paths, n_channels: int, start: int, stop: int, slot: int, width: int):
        self.paths, self.c, self.shape = paths, n_channels, (stop - start, width)
        self.size = (stop - start) * width
        self.slots = slice(slot, slot + self.size)
        self.rows = sites.layout.rows[start:stop]
        self.senders = sites.layout.senders[self.slots]

    def harmonic(self, y: Tensor, l2: int) -> Tensor:
        """Components of degree l2 of harmonics of all slots, ``(rows, width, 2 l2 + 1)``."""
        return y[self.slots, l2 * l2 : (l2 + 1) ** 2].view(*self.shape, -1)

    def columns(self, x: Tensor, l2: int) -> Tensor:
        """Columns of degree l2, ``(rows, width, columns)``."""
        start = self.c * sum(self.paths.width(k) for k in range(l2))
        return x[:, start : start + self.c * self.paths.width(l2)].view(*self.shape, -1)

    def groups(self, x: Tensor, w: Tensor, h: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each group X ``(slots, paths, m1, c)``, R ``(slots, paths, 1, c)`` and h ``(slots, 1, m1, c)``."""
        column = 0
        for l1, _, members in self.paths.groups:
            n, d = len(members), 2 * l1 + 1
            own = x[:, column : column + n * d * self.c].view(-1, n, d, self.c)
            column += n * d * self.c
            r = w[:, members[0] * self.c : (members[0] + n) * self.c].view(-1, n, 1, self.c)
            yield own, r, h[:, l1 * l1 * self.c : (l1 + 1) ** 2 * self.c].view(-1, 1, d, self.c)


def _blocks(sites: Sites, paths: Paths, n_channels: int) -> Iterator[_Block]:
    for start, stop, slot, width in sites.layout.blocks:
        yield _Block(sites, paths, n_channels, start, stop, slot, width)


class _Room:
    """Arrays for one block, which outlive a call."""

    def __init__(self, like: Tensor, sites: Sites, paths: Paths, n_channels: int) -> None:
        self.like, self.c, self.paths = like, n_channels, paths
        self.slots = max(((stop - start) * width for start, stop, _, width in sites.layout.blocks), default=0)

    def _take(self, name: str, block: _Block, columns: int) -> Tensor:
        return _scratch.take(name, self.slots, columns, like=self.like)[: block.size]

    def weights(self, name: str, block: _Block) -> Tensor:
        return self._take(name, block, len(self.paths) * self.c)

    def features(self, name: str, block: _Block) -> Tensor:
        return self._take(name, block, self.paths.n_sender * self.c)

    def products(self, name: str, block: _Block) -> Tensor:
        return self._take(name, block, sum(self.paths.width(l2) for l2 in range(self.paths.l_harmonic + 1)) * self.c)


def forward(
    features: Tensor, radial: Tensor, weight: Tensor, harmonics: Tensor, sites: Sites, paths: Paths
) -> tuple[Tensor, ...]:
    """G, one tensor for each degree of the harmonics."""
    c = weight.shape[1] // len(paths)
    room = _Room(features, sites, paths, c)
    degrees = range(paths.l_harmonic + 1)
    out = tuple(features.new_empty(features.shape[0], 2 * l2 + 1, c * paths.width(l2)) for l2 in degrees)
    for block in _blocks(sites, paths, c):
        w = torch.mm(radial[block.slots], weight, out=room.weights("w", block))
        h = torch.index_select(features, 0, block.senders, out=room.features("h", block))
        x = room.products("x", block)
        for own, r, part in block.groups(x, w, h):
            torch.mul(r, part, out=own)
        for l2 in degrees:
            y = block.harmonic(harmonics, l2).transpose(1, 2)
            out[l2].index_copy_(0, block.rows, torch.bmm(y, block.columns(x, l2)))
    return out


def backward(
    grads: Sequence[Tensor],
    features: Tensor,
    radial: Tensor,
    weight: Tensor,
    harmonics: Tensor,
    sites: Sites,
    paths: Paths,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """dE/dh, dE/dH, dE/dW and dE/dY; those wanted."""
    c = weight.shape[1] // len(paths)
    room = _Room(features, sites, paths, c)
    to_h, to_radial, to_weight, to_y = wanted
    d_slots = features.new_empty(radial.shape[0], features.shape[1]) if to_h else None
    d_radial = torch.empty_like(radial) if to_radial else None
    d_weight = torch.zeros_like(weight) if to_weight else None
    d_y = torch.empty_like(harmonics) if to_y else None
    for block in _blocks(sites, paths, c):
        w = torch.mm(radial[block.slots], weight, out=room.weights("w", block))
        h = torch.index_select(features, 0, block.senders, out=room.features("h", block))
        u, x, dw = room.products("u", block), room.products("x", block), room.weights("dw", block)
        _pull(grads, harmonics, block, u)
        if d_y is not None:
            for own, r, part in block.groups(x, w, h):
                torch.mul(r, part, out=own)
            _to_harmonics(grads, x, block, d_y)
        if d_slots is not None:
            _to_features(u, w, block, d_slots[block.slots])
        if d_radial is not None or d_weight is not None:
            _to_weights(u, h, block, x, dw)
            if d_radial is not None:
                torch.mm(dw, weight.T, out=d_radial[block.slots])
            if d_weight is not None:
                d_weight.addmm_(radial[block.slots].T, dw)
    return None if d_slots is None else _gathered(d_slots, sites), d_radial, d_weight, d_y


def second_backward(
    cotangents: Sequence[Tensor | None],
    grads: Sequence[Tensor],
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    sites: Sites,
    paths: Paths,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """dS/dh, dS/dH, dS/dW and dS/dY; and dS/dD."""
    features, radial, weight, harmonics = inputs
    a, b, v, z = (torch.zeros_like(t) if k is None else k for k, t in zip(cotangents, inputs, strict=True))
    c = weight.shape[1] // len(paths)
    room = _Room(features, sites, paths, c)
    d_slots = features.new_empty(radial.shape[0], features.shape[1])
    d_radial, d_weight, d_y = torch.empty_like(radial), torch.zeros_like(weight), torch.empty_like(harmonics)
    d_grads = tuple(torch.empty_like(g) for g in grads)
    for block in _blocks(sites, paths, c):
        own, along = radial[block.slots], b[block.slots]
        w = torch.mm(own, weight, out=room.weights("w", block))
        dw = torch.mm(along, weight, out=room.weights("dw", block)).addmm_(own, v)
        h = torch.index_select(features, 0, block.senders, out=room.features("h", block))
        dh = torch.index_select(a, 0, block.senders, out=room.features("dh", block))
        x, dx = room.products("x", block), room.products("dx", block)
        for (part, r, f), (d_part, dr, df) in zip(block.groups(x, w, h), block.groups(dx, dw, dh), strict=True):
            torch.mul(r, f, out=part)
            torch.mul(r, df, out=d_part).addcmul_(dr, f)
        for l2, d_grad in enumerate(d_grads):
            y, dy = block.harmonic(harmonics, l2).transpose(1, 2), block.harmonic(z, l2).transpose(1, 2)
            sums = torch.bmm(y, block.columns(dx, l2)).baddbmm_(dy, block.columns(x, l2))
            d_grad.index_copy_(0, block.rows, sums)
        _to_harmonics(grads, dx, block, d_y)
        u, du = room.products("u", block), room.products("du", block)
        _pull(grads, harmonics, block, u)
        _pull(grads, z, block, du)
        _to_features(u, dw, block, d_slots[block.slots])
        _to_features(du, w, block, d_slots[block.slots], add=True)
        _to_weights(u, h, block, x, dw)  # dS/d(dR), in the place of dR
        torch.mm(dw, v.T, out=d_radial[block.slots])
        d_weight.addmm_(along.T, dw)
        _to_weights(u, dh, block, x, w)  # dS/dR, in the place of R
        _to_weights(du, h, block, x, dw)
        w.add_(dw)
        d_radial[block.slots].addmm_(w, weight.T)
        d_weight.addmm_(own.T, w)
    return (_gathered(d_slots, sites), d_radial, d_weight, d_y), d_grads


def _pull(grads: Sequence[Tensor], harmonics: Tensor, block: _Block, out: Tensor) -> None:
    """``U = sum_m2 Y[l2 m2] D[m2]``: dE/dX."""
    for l2, grad in enumerate(grads):
        made = torch.bmm(block.harmonic(harmonics, l2), grad.index_select(0, block.rows))
        block.columns(out, l2).copy_(made)


def _to_harmonics(grads: Sequence[Tensor], x: Tensor, block: _Block, out: Tensor) -> None:
    """``dE/dY = X D^T``."""
    for l2, grad in enumerate(grads):
        made = torch.bmm(block.columns(x, l2), grad.index_select(0, block.rows).transpose(1, 2))
        block.harmonic(out, l2).copy_(made)


def _to_features(u: Tensor, w: Tensor, block: _Block, out: Tensor, add: bool = False) -> None:
    """``dE/dh = sum over paths of R U`` in each slot."""
    if not add:
        out.zero_()
    for own, r, part in block.groups(u, w, out):
        for n in range(own.shape[1]):
            part[:, 0].addcmul_(own[:, n], r[:, n])


def _to_weights(u: Tensor, h: Tensor, block: _Block, spare: Tensor, out: Tensor) -> None:
    """``dE/dR = sum_m1 U h``; ``spare`` is overwritten."""
    for (own, r, part), (product, _, _) in zip(block.groups(u, out, h), block.groups(spare, out, h), strict=True):
        if part.shape[2] == 1:
            torch.mul(own, part, out=r)
        else:
            torch.mul(own, part, out=product)
            torch.sum(product, 2, keepdim=True, out=r)


def _gathered(slots: Tensor, sites: Sites) -> Tensor:
    """Sums over the slots of which an atom is the sender: those of the reverse pairs are the slots of its row."""
    out = slots.new_empty(sites.layout.rows.shape[0], slots.shape[1])
    for start, stop, slot, width in sites.layout.blocks:
        back = sites.back[slot : slot + (stop - start) * width]
        own = slots.index_select(0, back).view(stop - start, width, -1)
        out.index_copy_(0, sites.layout.rows[start:stop], own.sum(1))
    return out
