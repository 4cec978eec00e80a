"""Sums over triples of products of two families of functions, with derivatives written by hand.

For an atom i and each unordered pair of species of its neighbors j and k,

    G_i,ez = sum_(j<k)  L_e(r_ij, r_ik, r_jk) R_z(r_ij, r_ik, r_jk),

which is a matrix product over the triples of each atom. Geometry enters through the Gram matrix of an atom's pair
vectors, ``g = r_ij . r_ik``, so values, gradients and their way back to the vectors are batched matrix products and
nothing is scattered but one number a triple. Triples come in their species' order, those farther apart than the
functions reach are dropped, and the rest is laid out in blocks of equal length. Atoms are taken a few at a time, which
keeps all of it in the processor's cache.

What the functions are says a :class:`Family`; it knows their first derivatives, in both directions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ..geometry.graph import Graph
from ..typing import Float, Tensor
from .engine import wanted
from .triples import Atoms, Layout, chunks

KEEP = 2**22
"""Numbers that a forward pass keeps for its backward pass; beyond, they are made again."""


class Opened(NamedTuple):
    """Functions of some triples, and what their derivatives need.

    Attributes:
        left: ``L_e``, ``(e, triples)``.
        right: ``R_z``, ``(z, triples)``.
        kept: whatever the family wants to find again.
    """

    left: Tensor
    right: Tensor
    kept: tuple[Any, ...]


class Family(ABC):
    """Two families of functions of a triple, symmetric in j and k. All methods are made of differentiable operations.

    Attributes:
        n_left, n_right: how many there are.
        reach: Å, distance of j and k from which all vanish; infinity if none.
    """

    n_left: int
    n_right: int
    reach: float

    @abstractmethod
    def table(self, squares: Tensor, weights: Tensor) -> list[Tensor]:
        """Whatever depends on one pair alone, from ``r_ij^2`` and the weight of the neighbor, each ``(pairs,)``."""

    @abstractmethod
    def open(self, first: list[Tensor], second: list[Tensor], dots: Tensor) -> Opened:
        """The functions, from the table's columns of both pairs and ``g = r_ij . r_ik``."""

    @abstractmethod
    def pull(self, opened: Opened, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From derivatives by L and R to those by ``r_ij^2``, ``r_ik^2`` and ``g``, each ``(triples,)``."""

    @abstractmethod
    def push(self, opened: Opened, first: Tensor, second: Tensor, dots: Tensor) -> tuple[Tensor, Tensor]:
        """From changes of ``r_ij^2``, ``r_ik^2`` and ``g`` to those of L and R."""


class Blocks(NamedTuple):
    """Triples within reach in blocks of equal length, the last of each row filled up with an empty one.

    Attributes:
        dense: vectors, zeros where an atom has fewer neighbors, ``(atoms, width, 3)``.
        vectors: of the pairs, and one more for empty triples, ``(p + 1, 3)``.
        first, second: pairs, ``(blocks * length,)``.
        flat: position of each in the Gram matrices; one past the end for empty ones.
        row: of each block, ``(blocks,)``.
        opened: the functions.
    """

    dense: Tensor
    vectors: Tensor
    first: Tensor
    second: Tensor
    flat: Tensor
    row: Tensor
    opened: Opened


def triple_sums(graph: Graph, vectors: Tensor, family: Family, layout: Layout) -> Float[Tensor, "atoms kinds e z"]:
    """The sums. Differentiable twice with respect to ``vectors``, and once more with respect to what comes back.

    Args:
        graph: whose pairs.
        vectors: ``r_ij`` in the precision that is wanted, ``(pairs, 3)``.
        family: what is summed.
        layout: over which triples.
    """
    return _Sums.apply(vectors, graph, family, layout)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, graph: Graph, family: Family, layout: Layout) -> Tensor:
        ctx.save_for_backward(vectors)
        ctx.work = _Work(graph, family, layout, keep=vectors.requires_grad)
        return ctx.work.values(vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (vectors,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _Gradient.apply(grads[0], vectors, ctx.work), None, None, None
        return ctx.work.gradient(grads[0], vectors), None, None, None


class _Gradient(torch.autograd.Function):
    """The gradient as a function of its own, whose gradient a loss on forces asks for."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, vectors: Tensor, work: _Work) -> Tensor:
        ctx.save_for_backward(grad, vectors)
        ctx.work = work
        return work.gradient(grad, vectors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grad, vectors = ctx.saved_tensors
        by_grad = ctx.work.tangent(vectors, cotangents[0]) if wanted(grad) else None
        by_vectors = None
        if wanted(vectors):  # rarely: Hessians
            with torch.enable_grad():
                leaf = vectors.detach().requires_grad_()
                found = ctx.work.afresh().gradient(grad.detach(), leaf) + 0 * leaf  # leaf: there may be no triple
                (by_vectors,) = torch.autograd.grad(found, leaf, cotangents[0])
        return by_grad, by_vectors, None


class _Work:
    """The passes over all atoms, a chunk after the other."""

    def __init__(self, graph: Graph, family: Family, layout: Layout, keep: bool) -> None:
        self.graph, self.family, self.layout = graph, family, layout
        self.kept: list[tuple[Atoms, int, Blocks | None]] | None = [] if keep else None
        self.room = KEEP

    def afresh(self) -> _Work:
        """The same with nothing kept, so that autograd sees every operation."""
        return _Work(self.graph, self.family, self.layout, keep=False)

    def shape(self) -> tuple[int, int, int, int]:
        return self.graph.n_atoms, self.layout.n_kinds, self.family.n_left, self.family.n_right

    def _chunks(self, vectors: Tensor) -> Iterator[tuple[Atoms, int, Blocks | None]]:
        """Chunks of atoms, the first of them, and their triples (None if there are none)."""
        if self.kept:
            yield from self.kept
            return
        for start, atoms in chunks(self.graph, self.layout):
            made = atoms, start, open_blocks(atoms, vectors, self.family)
            if self.kept is not None:
                self.room -= 0 if made[2] is None else made[2].flat.numel() * (self.family.n_left + self.family.n_right)
                self.kept.append(made)
                if self.room < 0:
                    self.kept = None
            yield made

    def values(self, vectors: Tensor) -> Tensor:
        parts = []
        for atoms, _, blocks in self._chunks(vectors):
            out = vectors.new_zeros(atoms.rows, self.family.n_left * self.family.n_right)
            if blocks is not None:
                left, right = split(blocks.opened.left, blocks), split(blocks.opened.right, blocks)
                sums = torch.bmm(left, right.transpose(1, 2))
                out = out.index_add_(0, blocks.row, sums.flatten(1))
            parts.append(out)
        return torch.cat(parts).view(self.shape()) if parts else vectors.new_zeros(self.shape())

    def gradient(self, grad: Tensor, vectors: Tensor) -> Tensor:
        """``dE/dr_ij`` from ``dE/dG``."""
        found, orders = [], []
        for atoms, start, blocks in self._chunks(vectors):
            if blocks is None:
                continue
            rows = grad[start : start + atoms.n].reshape(-1, self.family.n_left, self.family.n_right)
            rows = rows.index_select(0, blocks.row)
            left = torch.bmm(rows, split(blocks.opened.right, blocks))
            right = torch.bmm(rows.transpose(1, 2), split(blocks.opened.left, blocks))
            first, second, dots = self.family.pull(blocks.opened, _joined(left), _joined(right))
            squares = first.new_zeros(len(blocks.vectors)).index_add(0, blocks.first, first)
            squares = squares.index_add(0, blocks.second, second)
            gram = dots.new_zeros(atoms.n * atoms.width**2 + 1).scatter(0, blocks.flat, dots)
            gram = gram[:-1].view(atoms.n, atoms.width, atoms.width)
            along = torch.bmm(gram + gram.transpose(1, 2), blocks.dense).view(-1, 3).index_select(0, atoms.slots)
            found.append(along + 2 * squares[:-1, None] * blocks.vectors[:-1])
            orders.append(atoms.order)
        if not found:
            return torch.zeros_like(vectors)
        return torch.zeros_like(vectors).index_copy(0, torch.cat(orders), torch.cat(found))

    def tangent(self, vectors: Tensor, change: Tensor) -> Tensor:
        """Change of the sums along a change of the vectors: the transpose of :meth:`gradient`."""
        parts = []
        for atoms, _, blocks in self._chunks(vectors):
            out = vectors.new_zeros(atoms.rows, self.family.n_left * self.family.n_right)
            if blocks is not None:
                moved = change.index_select(0, atoms.order)
                squares = torch.nn.functional.pad(2 * (blocks.vectors[:-1] * moved).sum(1), (0, 1))
                cross = torch.bmm(blocks.dense, _dense(moved, atoms).transpose(1, 2))
                dots = _gather(cross + cross.transpose(1, 2), blocks.flat)
                changes = squares.index_select(0, blocks.first), squares.index_select(0, blocks.second), dots
                left, right = (split(t, blocks) for t in self.family.push(blocks.opened, *changes))
                sums = torch.bmm(left, split(blocks.opened.right, blocks).transpose(1, 2))
                sums = torch.baddbmm(sums, split(blocks.opened.left, blocks), right.transpose(1, 2))
                out = out.index_add_(0, blocks.row, sums.flatten(1))
            parts.append(out)
        return torch.cat(parts).view(self.shape()) if parts else vectors.new_zeros(self.shape())


def open_blocks(atoms: Atoms, vectors: Tensor, family: Family, parts: int = 4) -> Blocks | None:
    """Evaluate the functions of the triples within reach; an average row fills so many blocks."""
    if not len(atoms.first):
        return None
    own = vectors.index_select(0, atoms.order)
    dense = _dense(own, atoms)
    empty = own.new_tensor([[1.0, 0.0, 0.0]])  # the pair of empty triples: its weight is zero
    own = torch.cat([own, empty])
    gram = torch.bmm(dense, dense.transpose(1, 2))
    squares = own.square().sum(1)
    table = family.table(squares, torch.nn.functional.pad(atoms.weights, (0, 1)))
    flat = (atoms.slots * atoms.width).index_select(0, atoms.first) + atoms.rank.index_select(0, atoms.second)
    first, second, row = atoms.first, atoms.second, atoms.row
    if math.isfinite(family.reach):
        with torch.no_grad():
            apart = torch.add(squares.index_select(0, first), squares.index_select(0, second))
            apart = apart.sub_(gram.view(-1).index_select(0, flat), alpha=2)
            near = (apart < family.reach**2).nonzero()[:, 0]
        first, second, row, flat = (t.index_select(0, near) for t in (first, second, row, flat))
    if not len(first):
        return None
    place, length, rows = _blocked(row, atoms.rows, parts)
    put = lambda t, empty: t.new_full((length,), empty).scatter_(0, place, t)  # noqa: E731
    first, second, flat = put(first, len(own) - 1), put(second, len(own) - 1), put(flat, gram.numel())
    one, other = [[c.index_select(0, index) for c in table] for index in (first, second)]
    return Blocks(dense, own, first, second, flat, rows, family.open(one, other, _gather(gram, flat)))


def _dense(vectors: Tensor, atoms: Atoms) -> Tensor:
    """Pair vectors on a dense neighbor axis, zeros where there is none."""
    dense = vectors.new_zeros(atoms.n * atoms.width, 3).index_copy(0, atoms.slots, vectors)
    return dense.view(atoms.n, atoms.width, 3)


def _gather(gram: Tensor, flat: Tensor) -> Tensor:
    """Elements of Gram matrices; zero one past the end."""
    return torch.nn.functional.pad(gram.flatten(), (0, 1)).index_select(0, flat)


def _blocked(row: Tensor, n_rows: int, parts: int) -> tuple[Tensor, int, Tensor]:
    """Places for triples in blocks that belong to one row each, how many places there are, and the row of each block.

    The shorter the blocks, the smaller the share of empty places, and the more matrix products.
    """
    counts = torch.bincount(row, minlength=n_rows)
    filled = int((counts > 0).sum())
    length = min(max(len(row) // max(filled * parts, 1), 4), 64)
    length += -length % 4
    n_blocks = (counts + length - 1) // length
    rows = torch.repeat_interleave(n_blocks)
    shift = (n_blocks.cumsum(0) - n_blocks) * length - (counts.cumsum(0) - counts)
    place = torch.arange(len(row), device=row.device) + shift.index_select(0, row)
    return place, len(rows) * length, rows


def split(values: Tensor, blocks: Blocks) -> Tensor:
    """``(functions, triples)`` as ``(blocks, functions, length)``."""
    return values.view(len(values), len(blocks.row), -1).transpose(0, 1)


def _joined(values: Tensor) -> Tensor:
    """The inverse of :func:`split`."""
    return values.transpose(0, 1).flatten(1)
