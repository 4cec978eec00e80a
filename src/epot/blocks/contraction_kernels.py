"""Arithmetic of the symmetric contraction: homogeneous polynomials, split by mirror symmetry into small dense products.

With ``x = (1, A)`` the terms of order 1 .. N in A are one homogeneous polynomial of degree N in x. Its gradient is a
matrix times the monomials of degree N-1, and by Euler's theorem ``x . grad B = N B``: one product gives the value and
all derivatives. Mirrors x, y, z -> -x, -y, -z multiply each harmonic, each output and each monomial by a sign: eight
classes, and a derivative ``dB_o/dx_i`` has only monomials of the class of ``o i``. So the matrix falls into eight
blocks (1389 of 10404 entries for l_max 3, outputs 0 and 1, N = 3).

Nothing here knows autograd. Everything is ``(channels, rows, atoms)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ..typing import Float, Int, Tensor
from .coupling import coupling_polynomials
from .equivariant import spherical_harmonics
from .monomials import monomials

Part = tuple[int, int, int]
"""An element and the first and last of its atoms, which lie together."""


class Tables(NamedTuple):
    """What does not depend on weights.

    Attributes:
        degree: N.
        n_variables: of x.
        factors: for each degree from 2 to N-1, which monomial below and which variable make each of the monomials.
        blocks: rows and columns of each class.
        rows: where row (output, variable) is in the rows of all classes one after another.
        back: its inverse.
        entries: the blocks, flattened one after another, of each path of each output and order.
        n_paths: how many paths each output has at each order 1 .. N.
        made: what others derive from the tables.
    """

    degree: int
    n_variables: int
    factors: list[tuple[Int[Tensor, " made"], Int[Tensor, " made"]]]
    blocks: list[tuple[int, int]]
    rows: Int[Tensor, " rows"]
    back: Int[Tensor, " rows"]
    entries: Float[Tensor, "entries paths"]
    n_paths: list[list[int]]
    made: dict[str, Any]


@lru_cache(maxsize=16)
def tables(l_max: int, l_out: tuple[int, ...], degree: int, reduced: bool) -> Tables:
    """Tables for one choice of features, outputs and correlation order, on the CPU in float64."""
    width = (l_max + 1) ** 2 + 1
    made = [_homogeneous(l_max, n, degree, reduced) for n in l_out]
    variable_class = torch.cat([torch.zeros(1, dtype=torch.long), mirror_classes(l_max)])
    output_class = torch.cat([mirror_classes(n)[n * n :] for n in l_out])
    row_class = (output_class[:, None] ^ variable_class).flatten()
    lower = monomials(width, degree - 1)
    column_class = torch.zeros(lower.parts.shape[0], dtype=torch.long)
    for part in lower.parts.unbind(1):
        column_class ^= variable_class[part]
    used = torch.cat([(m != 0).any(2) for m in made])[:, lower.times].any(2).any(0)
    rows = [(row_class == c).nonzero()[:, 0] for c in range(8)]
    columns = [((column_class == c) & used).nonzero()[:, 0] for c in range(8)]
    entries = [_derivatives(made, r, c, width, degree) for r, c in zip(rows, columns, strict=True)]
    back = torch.cat(rows)
    return Tables(
        degree=degree,
        n_variables=width,
        factors=_factors(width, degree - 1, torch.cat(columns)),
        blocks=[(len(r), len(c)) for r, c in zip(rows, columns, strict=True)],
        rows=back.argsort(),
        back=back,
        entries=torch.cat(entries),
        n_paths=[[coupling_polynomials(l_max, n, k, reduced).shape[2] for k in range(1, degree + 1)] for n in l_out],
        made={},
    )


def mirror_classes(l_max: int) -> Int[Tensor, " components"]:
    """A number of three bits for each component: whether a mirror x, y, z -> -x, -y, -z changes its sign."""
    point = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
    before = spherical_harmonics(point, l_max)
    bits = [spherical_harmonics(torch.where(torch.arange(3) == a, -point, point), l_max) * before < 0 for a in range(3)]
    return sum(bit.long() << a for a, bit in enumerate(bits))  # type: ignore[return-value]


def _homogeneous(l_max: int, l_out: int, degree: int, reduced: bool) -> Float[Tensor, "components monomials paths"]:
    """The polynomials of orders 1 .. N as ones of degree N in ``(1, A)``, one output, all its paths."""
    top = monomials((l_max + 1) ** 2 + 1, degree)
    found = []
    for order in range(1, degree + 1):
        made = coupling_polynomials(l_max, l_out, order, reduced)
        kept = (top.exponents[:, 0] == degree - order).nonzero()[:, 0]  # without the ones: again in lexical order
        whole = made.new_zeros(made.shape[0], top.exponents.shape[0], made.shape[2])
        found.append(whole.index_copy_(1, kept, made))
    return torch.cat(found, 2)


def _derivatives(made: list[Tensor], rows: Tensor, columns: Tensor, width: int, degree: int) -> Tensor:
    """``dB_o/dx_i`` for some rows (o, i) and monomials, ``(rows * columns, all paths)``."""
    times = monomials(width, degree - 1).times[columns]
    exponents = monomials(width, degree).exponents
    total, out, path, first = sum(m.shape[2] for m in made), [], 0, 0
    for block in made:
        last = first + block.shape[0]
        mine = rows[(rows >= first * width) & (rows < last * width)]
        output, variable = mine // width - first, mine % width
        top = times[:, variable].T
        power = exponents[top, variable[:, None]].to(block.dtype)
        found = block.new_zeros(top.numel(), total)
        found[:, path : path + block.shape[2]] = (block[output[:, None], top] * power[..., None]).flatten(0, 1)
        out.append(found)
        path, first = path + block.shape[2], last
    return torch.cat(out)


def _factors(width: int, degree: int, columns: Tensor) -> list[tuple[Tensor, Tensor]]:
    """How to make the monomials asked for, degree by degree from the variables."""
    if degree == 0:
        return []
    parts = monomials(width, degree).parts[columns]
    steps: list[tuple[Tensor, Tensor]] = []
    for n in range(degree, 1, -1):
        below, place = parts[:, : n - 1].unique(dim=0, return_inverse=True)
        steps.insert(0, (place, parts[:, n - 1]))
        parts = below
    first = parts[:, 0]
    if steps:
        return [(first[steps[0][0]], steps[0][1]), *steps[1:]]
    return [(first, first)]


def homogeneous(features: Float[Tensor, "components channels atoms"], first: float) -> Tensor:
    """``x = (1, A)``, ``(channels, 1 + components, atoms)``; a tangent has ``first = 0``."""
    components, channels, atoms = features.shape
    out = features.new_empty(channels, components + 1, atoms)
    out[:, 0] = first
    out[:, 1:] = features.transpose(0, 1)
    return out


def powers(x: Float[Tensor, "channels variables atoms"], t: Tables) -> Float[Tensor, "channels columns atoms"]:
    """All monomials of degree N-1 that occur, class by class."""
    if t.degree == 1:
        return x[:, :1]
    if t.degree == 2:
        return x.index_select(1, t.factors[0][0])
    made = x
    for below, variable in t.factors:
        made = made.index_select(1, below).mul_(x.index_select(1, variable))
    return made


def directional(x: Tensor, tangent: Tensor, t: Tables) -> tuple[Tensor, Tensor]:
    """The monomials and their derivative along a tangent."""
    if t.degree == 1:
        return x[:, :1], torch.zeros_like(x[:, :1])
    if t.degree == 2:
        return x.index_select(1, t.factors[0][0]), tangent.index_select(1, t.factors[0][0])
    made, slope = x, tangent
    for below, variable in t.factors:
        left, right = made.index_select(1, below), x.index_select(1, variable)
        slope = slope.index_select(1, below).mul_(right).addcmul_(left, tangent.index_select(1, variable))
        made = left.mul_(right)
    return made, slope


def blocks_of(weights: Float[Tensor, "elements channels entries"], t: Tables) -> list[Tensor]:
    """Views ``(elements, channels, rows, columns)`` of the coefficients of each class."""
    parts = weights.split([rows * columns for rows, columns in t.blocks], 2)
    return [part.unflatten(2, shape) for part, shape in zip(parts, t.blocks, strict=True)]


def gradient(
    blocks: Sequence[Tensor],
    made: Float[Tensor, "channels columns atoms"],
    parts: Sequence[Part],
    t: Tables,
) -> Float[Tensor, "channels outputs variables atoms"]:
    """``dB_o/dx_i``: for atoms of each element, each block (:func:`blocks_of`) times the monomials of its class."""
    of_classes = made.split([columns for _, columns in t.blocks], 1)
    if len(parts) == 1:
        z = parts[0][0]
        whole = torch.cat([torch.bmm(w[z], m) for w, m in zip(blocks, of_classes, strict=True)], 1)
    else:
        found = [
            torch.cat([torch.bmm(w[z], m[:, :, first:last]) for w, m in zip(blocks, of_classes, strict=True)], 1)
            for z, first, last in parts
        ]
        whole = torch.cat(found, 2)
    return whole.index_select(1, t.rows).view(whole.shape[0], -1, t.n_variables, whole.shape[2])


def add_outer(
    blocks: Sequence[Tensor],
    outputs: Float[Tensor, "channels outputs atoms"],
    variables: Float[Tensor, "channels variables atoms"],
    made: Float[Tensor, "channels columns atoms"],
    parts: Sequence[Part],
    t: Tables,
) -> None:
    """Add the transpose of :func:`gradient` in the weights, ``sum_atoms outputs variables monomials``."""
    rows = (outputs[:, :, None] * variables[:, None]).flatten(1, 2).index_select(1, t.back)
    of_classes = rows.split([height for height, _ in t.blocks], 1)
    across = made.transpose(1, 2).split([width for _, width in t.blocks], 2)
    for block, left, right in zip(blocks, of_classes, across, strict=True):
        for z, first, last in parts:
            block[z] += torch.bmm(left[:, :, first:last], right[:, first:last])
