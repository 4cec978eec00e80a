"""An orthogonal basis of the symmetric couplings, with as few paths as there are couplings, and sparse.

A product of features is a sum of terms ``Sym^a(l=0) Sym^b(l=1) ...`` with ``a + b + ... = order``. Each symmetric power
of one degree is what is symmetric in (smaller power) x (that degree or another power), each term a product of powers
coupled one after another; then pairs of paths are replaced by combinations with fewer terms. This is the basis of
cuequivariance (Apache-2.0; by Geiger, Daigavane and others, first in e3nn-jax), in which mace-torch stores weights with
``use_reduced_cg``, in its order and with its signs; here on polynomials instead of tensors.

Which pairs of paths have a common ratio is there a matter of rounding once denominators are large (from l_max 4 on): a
few paths are then other combinations, between which :func:`epot.blocks.coupling.path_transfer` translates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch

from ..typing import Float, Tensor
from .equivariant import wigner_3j
from .monomials import monomials, multiplicities, products

Powers = tuple[int, ...]
Basis = dict[int, Tensor]
"""Polynomials ``(paths, 2 L + 1, monomials)`` by the degree L of what they give, in ascending order."""

Graph = dict[int, dict[int, None]]
"""The neighbors of each node, in the order in which they were joined: the order of the steps decides the result."""

ZERO = 1e-10


def reduced_polynomials(l_max: int, l_out: int, order: int) -> Float[Tensor, "components monomials paths"]:
    """Coefficients of the monomials in each path; one path of zeros where nothing couples. Float64.

    Arguments as for :func:`epot.blocks.coupling.coupling_polynomials`.
    """
    width = (l_max + 1) ** 2
    found = []
    for powers in _terms(l_max + 1, order):
        if sum(n * power for n, power in enumerate(powers)) % 2 != l_out % 2:
            continue  # the other parity
        made, degree = None, 0
        for n, power in enumerate(powers):
            if power:
                other = _power(n, power, width)
                made = other if made is None else _coupled(made, degree, other, power, width)
                degree += power
        if made is not None and l_out in made:
            ways = math.factorial(order) / math.prod(math.factorial(power) for power in powers)
            found.append(made[l_out] * math.sqrt(ways))
    if not found:
        return torch.zeros(2 * l_out + 1, monomials(width, order).parts.shape[0], 1, dtype=torch.float64)
    return _sparse(torch.cat(found), multiplicities(width, order)).movedim(0, -1).contiguous()


def _terms(length: int, total: int) -> Iterator[Powers]:
    """All ways to write ``total`` as a sum, the first large first."""
    if length == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _terms(length - 1, total - first):
            yield (first, *rest)


@lru_cache(maxsize=64)
def _power(degree: int, power: int, width: int) -> Basis:
    """The symmetric power of one degree, paths made sparse."""
    weights = multiplicities(width, power)
    return {n: _sparse(part, weights) for n, part in _symmetric(degree, power, width).items()}


@lru_cache(maxsize=64)
def _symmetric(degree: int, power: int, width: int) -> Basis:
    """The symmetric power of one degree, as a part of the product of two smaller ones."""
    if power == 1:
        unit = torch.eye(width, dtype=torch.float64)
        return {degree: unit[degree**2 : (degree + 1) ** 2][None]}
    low = 2 if power == 4 else 1
    left, right = _symmetric(degree, power - low, width), _symmetric(degree, low, width)
    weights, out = multiplicities(width, power), {}
    for n, rows in _coupled(left, power - low, right, low, width).items():
        gram = torch.einsum("uim,vim,m->uv", rows, rows, 1 / weights) / (2 * n + 1)  # of what is left by symmetrizing
        values, vectors = torch.linalg.eigh(gram)
        kept = vectors[:, values > 1 - 1e-6]  # nothing is lost: already symmetric
        basis = _gram_schmidt(kept @ kept.T)
        if len(basis):
            out[n] = _clean(torch.einsum("vu,uim->vim", basis, rows))
    return out


def _gram_schmidt(rows: Tensor) -> Tensor:
    """Orthonormal rows that span the same, the first along the first."""
    found: list[Tensor] = []
    for row in rows:
        for other in found:
            row = row - other.dot(row) * other
        if row.norm() > 1e-5:
            found.append(row / row.norm())
    return torch.stack(found) if found else rows[:0]


def _coupled(left: Basis, n_left: int, right: Basis, n_right: int, width: int) -> Basis:
    """All couplings of two bases of polynomials of degrees ``n_left`` and ``n_right``."""
    found: dict[int, list[Tensor]] = {}
    n_made = monomials(width, n_left + n_right).parts.shape[0]
    for l1, a in left.items():
        for l2, b in right.items():
            used_a, used_b = (a != 0).any(0).any(0).nonzero()[:, 0], (b != 0).any(0).any(0).nonzero()[:, 0]
            index = products(width, n_left, used_a, n_right, used_b).flatten()
            for made in range(abs(l1 - l2), l1 + l2 + 1):
                table = wigner_3j(l1, l2, made) * math.sqrt(2 * made + 1)
                all_pairs = torch.einsum("ijk,uim,vjn->uvkmn", table, a[..., used_a], b[..., used_b])
                flat = all_pairs.reshape(-1, 2 * made + 1, index.shape[0])
                out = flat.new_zeros(*flat.shape[:2], n_made).index_add_(2, index, flat)
                found.setdefault(made, []).append(_clean(out))
    return {n: torch.cat(found[n]) for n in sorted(found)}


def _sparse(rows: Float[Tensor, "paths components monomials"], weights: Tensor) -> Tensor:
    """Replace one of two paths by a combination of both where that has more zeros, until nothing changes.

    Zeros are counted in the tensors: each monomial as often as there are orders of its factors.
    """
    shape = rows.shape
    counts = weights.expand(shape[1:]).flatten()
    used = (rows != 0).any(0).flatten().nonzero()[:, 0]
    x, counts = rows.flatten(1)[:, used].clone(), counts[used]
    pairs: Graph = {i: dict.fromkeys(j for j in range(shape[0]) if j != i) for i in range(shape[0])}
    for _ in range(20):
        following: Graph = {i: {} for i in range(shape[0])}
        changed = False
        for i, j in _edges(pairs):
            both = (x[i] != 0) & (x[j] != 0)
            if not both.any():
                continue
            replaced = _combined(x[i], x[j], counts)
            _join(following, i, j)
            if replaced is None:
                continue
            changed = True
            which, row = replaced
            x[(i, j)[which]] = row
            for first, second in ((i, j), (j, i)):
                for other in pairs[first]:
                    if other != second:
                        _join(following, other, second)
        pairs = following
        if not changed:
            break
    out = rows.new_zeros(shape[0], shape[1] * shape[2])
    out[:, used] = x
    return out.view(shape)


def _combined(a: Tensor, b: Tensor, counts: Tensor) -> tuple[int, Tensor] | None:
    """Which of two rows to replace (0 or 1) by which combination, or None: most entries of one constant ratio go."""
    both = (a != 0) & (b != 0)
    ratios, order = (a[both] / b[both]).sort()
    weights = counts[both][order]
    new = torch.cat([torch.ones(1, dtype=torch.bool), ratios.diff() > 1e-8 * (1 + ratios[1:].abs())])
    often = torch.zeros(int(new.sum()), dtype=counts.dtype).index_add_(0, new.cumsum(0) - 1, weights)
    most = int(often.argmax())
    only_a, only_b = float(counts[(a != 0) & (b == 0)].sum()), float(counts[(a == 0) & (b != 0)].sum())
    if float(often[most]) <= min(only_a, only_b):
        return None
    row = a - ratios[new][most] * b
    which = 1 if only_a < only_b else 0
    kept = (a, b)[which]
    row = row * (_norm(kept, counts) / _norm(row, counts))
    return which, _clean(row)


def _clean(rows: Tensor) -> Tensor:
    return torch.where(rows.abs() > ZERO, rows, 0.0)


def _norm(row: Tensor, counts: Tensor) -> Tensor:
    return (row.square() / counts).sum().sqrt()


def _join(graph: Graph, i: int, j: int) -> None:
    graph[i][j] = graph[j][i] = None


def _edges(graph: Graph) -> Iterator[tuple[int, int]]:
    """Each once, in the order in which they were joined to the first of the two."""
    for i, others in graph.items():
        yield from ((i, j) for j in list(others) if j > i)
