"""All derivatives of SOAP vectors in full: batched matrix products that write rows where they stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from ..geometry.graph import Graph
from ..typing import Float, Tensor
from .angular import harmonics_with_gradients, n_harmonics
from .soap_contract import Contraction
from .soap_density import Density, plan

NUMBERS = 2**20
"""Of derivatives of coefficients that are made at a time."""


class _Run(NamedTuple):
    """Columns ``start`` to ``stop`` of a product go to places from ``first`` on."""

    start: int
    stop: int
    first: int


class _Changes(NamedTuple):
    """What a neighbor of one species changes: places in a row, for each degree, and the table of a product.

    With ``spread`` the columns of the product are put among ``width``, where others are zero.
    """

    runs: list[list[_Run]]
    table: Tensor
    spread: Tensor | None
    width: int


def soap_jacobian(
    density: Density, contract: Contraction, graph: Graph, species: Tensor
) -> Float[Tensor, "pairs 3 size"]:
    """``dp_i/dr_ij``.

    A neighbor changes the coefficients of its own species, ``dc_nm = R'_n u Y_m + R_n dY_m``, and p by
    ``dp_q = sum_nm dc_nm M_nmq``, where ``M`` is made of the coefficients of atom i: for each degree and species one
    product of matrices for each atom. Normalization adds ``- p (p . dp)`` to it: one more row of M.
    """
    graph = graph.replace(_vectors=graph.vectors().detach())
    coefficients = density(graph, species)
    spectra, norms = contract.with_norms(coefficients)
    mixed = contract.mix(coefficients)
    if contract.normalize:
        mixed = mixed / norms[:, None, None]
    changes = [_changes(contract, s, spectra) for s in range(len(density.elements))]
    vectors = density.padded(graph.vectors().to(spectra.dtype))
    out = _zeros(graph.n_pairs + 1, 3, spectra.shape[1], like=spectra)  # the last is for empty slots
    points = max(NUMBERS // (3 * density.n_max * n_harmonics(density.l_max)), 64)
    made = plan(graph, species, density.elements, points)
    for part in made.parts:
        atoms = slice(part.first, part.last)
        for block in part.blocks:
            slots = made.slots[part.start + block.start : part.start + block.stop]
            change = _coefficient_changes(density, vectors.index_select(0, slots), block.width)
            to = slots.view(-1, 1, block.width) * 3 + torch.arange(3, device=slots.device)[:, None]
            unit = spectra[atoms] if contract.normalize else None
            for runs, product in _products(contract, change, mixed[atoms], unit, changes[block.species]):
                for run in runs:
                    target = out.view(-1, spectra.shape[1])[:, run.first : run.first + run.stop - run.start]
                    target.index_copy_(0, to.flatten(), product[:, run.start : run.stop])
    return out[:-1]


def _zeros(*shape: int, like: Tensor) -> Tensor:
    """Zeros that cost nothing until they are touched, where the system has such."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(shape, dtype=np.float32 if like.dtype == torch.float32 else np.float64))


def _coefficient_changes(density: Density, vectors: Tensor, width: int) -> list[Tensor]:
    """``dc_nm/dr`` for each degree, ``(m, n_max, atoms, 3, width)``."""
    r = vectors.square().sum(1).sqrt()
    units = vectors / r[:, None]
    angular = harmonics_with_gradients(units, r, density.l_max)
    value, slope = density.series.with_derivative(r)
    fade, steep = density.fade.with_slope(r)
    slope = slope.mul_(fade).addcmul_(value, steep).view(density.l_max + 1, 1, density.n_max, -1, 1, width)
    value = value.mul_(fade).view(slope.shape)
    by_atom = lambda t: t.view(3, t.shape[1], 1, -1, width).permute(1, 2, 3, 0, 4).contiguous()  # noqa: E731
    along, gradients = by_atom(angular.values * units.T[:, None]), by_atom(angular.gradients)
    found = []
    for degree in range(density.l_max + 1):
        m = slice(degree * degree, n_harmonics(degree))
        made = along.new_empty(2 * degree + 1, density.n_max, *along.shape[2:])
        torch.mul(along[m], slope[degree], out=made)
        found.append(made.addcmul_(gradients[m], value[degree]))
    return found


def _products(
    contract: Contraction, change: list[Tensor], mixed: Tensor, unit: Tensor | None, changes: _Changes
) -> Iterator[tuple[list[_Run], Tensor]]:
    """For each degree places of a row, and derivatives of the pairs of a block, ``(atoms * 3 * width, some)``."""
    atoms, lefts, rights = len(mixed), [], []
    for degree, f in enumerate(contract.factors):
        of_degree = (mixed[:, :, degree * degree : n_harmonics(degree)] * f).transpose(1, 2)
        right = of_degree.reshape(-1, mixed.shape[1]) @ changes.table
        right = right.view(atoms, (2 * degree + 1) * contract.n_max, -1)
        if changes.spread is not None:
            right = right.new_zeros(*right.shape[:2], changes.width).index_copy_(2, changes.spread, right)
        rights.append(right)
        lefts.append(change[degree].view(rights[-1].shape[1], atoms, -1).permute(1, 2, 0))
    if unit is None:
        for runs, left, right in zip(changes.runs, lefts, rights, strict=True):
            yield runs, torch.bmm(left, right).flatten(0, 1)
        return
    mine = [
        torch.cat([unit[:, run.first : run.first + run.stop - run.start] for run in runs], 1) for runs in changes.runs
    ]
    along = torch.stack(
        [torch.bmm(x, torch.bmm(m, u[:, :, None])) for x, m, u in zip(lefts, rights, mine, strict=True)]
    ).sum(0)
    for runs, left, right, u in zip(changes.runs, lefts, rights, mine, strict=True):
        yield runs, torch.baddbmm(along * u[:, None, :], left, right, beta=-1).flatten(0, 1)


def _changes(contract: Contraction, species: int, like: Tensor) -> _Changes:
    some, table = contract.derivative(species)
    columns = [np.flatnonzero(contract.layout.degree == degree) for degree in range(len(contract.factors))]
    runs = [_runs(c[some]) for c in columns]
    spread, in_one = None, all(len(_runs(c)) == 1 for c in columns)
    if contract.normalize or (in_one and len(runs[0]) > 4):  # all change, or many short pieces of one do
        runs = [_runs(c) for c in columns]
        spread = torch.from_numpy(some).to(like.device) if len(some) < len(columns[0]) else None
    return _Changes(runs, torch.from_numpy(table).to(like).flatten(1), spread, len(columns[0]))


def _runs(places: np.ndarray) -> list[_Run]:
    starts = np.flatnonzero(np.diff(places, prepend=-2) != 1).tolist()
    return [_Run(a, b, int(places[a])) for a, b in zip(starts, [*starts[1:], len(places)], strict=True)]
