"""Symmetric matrices over the atoms of whole structures as rows of numbers: dense layout, sorting, eigenvalues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from ..errors import ConfigError, ModelError
from ..geometry.graph import Graph
from ..typing import Float, Tensor

Kind = Literal["eigenvalues", "sorted", "full"]
KINDS = ("eigenvalues", "sorted", "full")
DEGENERATE = 1e-10
"""Eigenvalues nearer than this, relative to the largest, count as one where second derivatives divide by the gap."""


def row_size(kind: str, n_atoms_max: int) -> int:
    """Numbers in a row: eigenvalues, or the triangle of the matrix.

    Raises:
        ConfigError: an unknown kind, or no room for an atom.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}; expected one of {', '.join(map(repr, KINDS))}.")
    if n_atoms_max < 1:
        raise ConfigError(f"n_atoms_max is {n_atoms_max}; a structure has at least one atom.")
    return n_atoms_max if kind == "eigenvalues" else n_atoms_max * (n_atoms_max + 1) // 2


def row_columns(kind: str, n_atoms_max: int) -> list[str]:
    """What the numbers of a row are."""
    if kind == "eigenvalues":
        return [f"eigenvalue {k}" for k in range(n_atoms_max)]
    return [f"{a} {b}" for a, b in zip(*triangle(n_atoms_max).tolist(), strict=True)]


def triangle(n: int) -> Tensor:
    """Rows and columns of the lower triangle, ``(2, n (n + 1) / 2)``: that of fewer atoms comes first."""
    return torch.tril_indices(n, n)


def refuse_large(graph: Graph, n_atoms_max: int, what: str) -> None:
    """Refuse structures that do not fit into a row.

    Raises:
        ModelError: says how large, and what to set.
    """
    largest = int(graph.sizes.max()) if graph.n_structures else 0
    if largest > n_atoms_max:
        raise ModelError(
            f"A structure has {largest} atoms and this {what} has room for {n_atoms_max}: "
            f"make it with n_atoms_max={largest} or more (and fit again)."
        )


def rows_by_size(
    graph: Graph, width: int, make: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "structures width"]:
    """Rows of structures of equal size at a time, so that nothing is padded before the end.

    Args:
        graph: any batch.
        width: of a row; shorter ones are filled with zeros.
        make: from atoms ``(structures, n)`` (indices) and structures ``(structures,)`` to rows ``(structures, any)``.
    """
    starts = graph.sizes.cumsum(0) - graph.sizes
    parts, order = [], []
    for n in graph.sizes.unique().tolist():
        which = (graph.sizes == n).nonzero()[:, 0]
        order.append(which)
        atoms = starts[which][:, None] + torch.arange(n, device=which.device)
        rows = make(atoms, which)
        parts.append(torch.nn.functional.pad(rows, (0, width - rows.shape[1])))
    return torch.cat(parts).index_select(0, torch.cat(order).argsort())


def matrix_rows(matrices: Float[Tensor, "structures n n"], kind: str) -> Float[Tensor, "structures width"]:
    """Rows of symmetric matrices: eigenvalues by falling size, or the lower triangle (rows by falling norm, or as is).

    Ties are broken by the order of the atoms. Derivatives exist wherever no two eigenvalues (norms) cross.
    """
    if kind == "eigenvalues":
        values = eigenvalues(matrices)
        return values.gather(1, values.detach().abs().argsort(dim=1, descending=True, stable=True))
    if kind == "sorted":
        order = matrices.detach().square().sum(2).argsort(dim=1, descending=True, stable=True)
        n = order.shape[1]
        matrices = matrices.gather(1, order[:, :, None].expand(-1, n, n)).gather(2, order[:, None, :].expand(-1, n, n))
    a, b = triangle(matrices.shape[1]).to(matrices.device)
    return matrices[:, a, b]


def eigenvalues(matrices: Float[Tensor, "structures n n"]) -> Float[Tensor, "structures n"]:
    """Eigenvalues, ascending, with first and second derivatives that stay finite where some coincide.

    With ``dM`` of value zero that remembers where M came from, perturbation theory to second order,

        lambda_k + (V^T dM V)_kk + sum_(j != k) (V^T dM V)_kj^2 / (lambda_k - lambda_j),

    has the value and both derivatives. Among equal eigenvalues the first derivative is that of one choice of vectors
    (their sum is right, and so is any symmetric function), and the terms without a gap are left out.
    """
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(matrices)
    if not matrices.requires_grad:
        return values
    change = vectors.mT @ (matrices - matrices.detach()) @ vectors
    gaps = values[:, :, None] - values[:, None, :]
    apart = gaps.abs() > DEGENERATE * values.abs().amax(1)[:, None, None].clamp(min=1e-300)
    inverse = torch.where(apart, 1 / torch.where(apart, gaps, 1.0), 0.0)
    return values + change.diagonal(dim1=1, dim2=2) + (change.square() * inverse).sum(2)
