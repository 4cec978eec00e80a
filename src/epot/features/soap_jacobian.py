"""All derivatives of SOAP vectors in full: outer products for each pair, gathered into rows where they stay."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from ..geometry.graph import Graph
from ..typing import Float, Tensor
from .angular import harmonics_with_gradients, n_harmonics
from .arrays import arrays
from .soap_contract import Contraction
from .soap_density import Density, plan

NUMBERS = 2**19
"""Numbers of rows that are made at a time: they should stay in the cache until they are copied to their places."""
LEAST = 96
"""Points that are taken together at least: with long rows and few points calls cost more than memory."""
BASIS = 3000
"""Points that basis functions are made for at a time, about."""


class _Changes(NamedTuple):
    """What a neighbor of one species changes.

    Of the products ``(n, k)`` of a degree some are components as they are, up to a factor that they share; others are
    sums of products with weights, which are put behind them, and a zero for components that do not change.

    Attributes:
        factor: of single products.
        terms: for each term of the sums the product and its weight, both ``(sums,)``.
        source: of each component, among all degrees' products, zeros and sums, ``(size,)``.
        width: products, the zero and sums of a degree.
    """

    factor: float
    terms: list[tuple[Tensor, Tensor]]
    source: Tensor
    width: int


class _Basis(NamedTuple):
    """At some points.

    Attributes:
        units: ``(points, 3)``.
        angular: ``Y_m`` and its three derivatives, ``(points, 4, components)``.
        value, slope: of the radial functions, ``(points, 1, degrees, n_max, 1)``.
    """

    units: Tensor
    angular: Tensor
    value: Tensor
    slope: Tensor


def soap_jacobian(
    density: Density, contract: Contraction, graph: Graph, species: Tensor
) -> Float[Tensor, "pairs 3 size"]:
    """``dp_i/dr_ij``.

    A neighbor changes the coefficients of its own species, ``dc_nm = R'_n u Y_m + R_n dY_m``. So with the coefficients
    ``c_km`` of atom i the sums over m are done for all n at once, ``V_k = sum_m Y_m c_km`` and ``W_k`` of ``dY_m``, and
    products ``sum_m dc_nm c_km = R'_n u V_k + R_n W_k`` are put where they belong, one or two to a component.
    Normalization then adds ``- p (p . dp)``.
    """
    graph = graph.replace(_vectors=graph.vectors().detach())
    coefficients = density(graph, species)
    spectra, norms = contract.with_norms(coefficients)
    size = spectra.shape[1]
    mixed = contract.mix(coefficients)
    if contract.normalize:
        mixed = mixed / norms[:, None, None]
    mixed = mixed.transpose(1, 2).contiguous()
    changes = [
        contract.once(f"changes{s}", spectra, partial(_changes, contract, s)) for s in range(len(density.elements))
    ]
    vectors = density.padded(graph.vectors().to(spectra.dtype))
    made = plan(graph, species, density.elements, max(NUMBERS // (3 * size), LEAST))
    firsts = torch.tensor([part.first for part in made.parts] + [graph.n_atoms], device=spectra.device)
    ends = torch.searchsorted(graph.pairs[0].contiguous(), firsts).tolist()  # pairs are in the order of i
    out, known, begin = _fresh(graph.n_pairs, 3 * size, like=spectra), 0, 0
    for part, start, stop in zip(made.parts, ends[:-1], ends[1:], strict=True):
        if start == stop:
            continue
        if part.stop > known:  # basis functions of this part and some more
            begin, known = part.start, max(p.stop for p in made.parts if p.stop <= max(part.stop, part.start + BASIS))
            basis = _basis(density, vectors.index_select(0, made.slots[begin:known]))
        rows = contract.scratch.take("rows", part.stop - part.start, 3, size, like=spectra)
        atoms = slice(part.first, part.last)
        for block in part.blocks:
            offset = part.start - begin
            at = _Basis(*(x[offset + block.start : offset + block.stop] for x in basis))
            here = rows[block.start : block.stop]
            _fill(contract, at, mixed[atoms], changes[block.species], here)
            if contract.normalize:
                by_atom, unit = here.view(part.last - part.first, -1, size), spectra[atoms]
                along = torch.bmm(by_atom, unit[:, :, None])
                by_atom.addcmul_(along, unit[:, None, :], value=-1)
        order = made.points[start:stop] - part.start
        torch.index_select(rows.view(len(rows), -1), 0, order, out=out[start:stop])
    return out.view(-1, 3, size)


def _fresh(*shape: int, like: Tensor) -> Tensor:
    """An array in large pages, where the system has such: torch's own are in small ones, slow at the first touch."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, dtype=np.float32 if like.dtype == torch.float32 else np.float64))


def _basis(density: Density, vectors: Tensor) -> _Basis:
    r = vectors.square().sum(1).sqrt()
    units = vectors / r[:, None]
    angular = harmonics_with_gradients(units, r, density.l_max)
    value, slope = density.series.with_derivative(r)
    fade, steep = density.fade.with_slope(r)
    slope = slope.mul_(fade).addcmul_(value, steep)
    shape = (len(r), 1, density.l_max + 1, density.n_max, 1)
    both = torch.cat([angular.values[None], angular.gradients])
    return _Basis(units, both.permute(2, 0, 1).contiguous(), value.mul_(fade).T.reshape(shape), slope.T.reshape(shape))


def _fill(contract: Contraction, at: _Basis, mixed: Tensor, changes: _Changes, out: Tensor) -> None:
    """Derivatives of the products at the points of a block, ``(points, 3, size)``, from ``(atoms, components, k)``."""
    points, atoms, k = len(at.units), *mixed.shape[::2]
    degrees, n_max, take = len(contract.factors), contract.n_max, contract.scratch.take
    by_atom = at.angular.view(atoms, -1, at.angular.shape[2])
    found = take("found", degrees, points, 4, k, like=mixed)
    xp, (angular, c, to) = arrays(by_atom, mixed, found.view(degrees, atoms, -1, k))
    for degree, f in enumerate(contract.factors):
        m = slice(degree * degree, n_harmonics(degree))
        xp.matmul(angular[:, :, m], c[:, m] * (f * changes.factor), out=to[degree])
    products = take("pairs", points, 3, degrees, changes.width, like=mixed)
    outer = products[..., : n_max * k].view(points, 3, degrees, n_max, k)
    found = found.permute(1, 2, 0, 3)
    radial = at.units[:, :, None, None] * found[:, :1]
    torch.mul(at.slope, radial[:, :, :, None], out=outer)
    outer.addcmul_(at.value, found[:, 1:, :, None])
    products[..., n_max * k] = 0
    flat = products.view(-1, changes.width)
    sums = flat[:, n_max * k + 1 :]
    for t, (which, weights) in enumerate(changes.terms):
        term = flat.gather(1, which.expand(len(flat), -1))
        torch.mul(term, weights, out=sums) if t == 0 else sums.addcmul_(term, weights)
    flat = products.view(3 * points, -1)
    torch.gather(flat, 1, changes.source.expand(len(flat), -1), out=out.view(3 * points, -1))


def _changes(contract: Contraction, species: int, like: Tensor) -> _Changes:
    some, table = contract.derivative(species)
    table = table.transpose(1, 0, 2).reshape(-1, len(some))  # products (n, k)
    many, first = (table != 0).sum(0), np.abs(table).argmax(0)
    largest = table[first, np.arange(len(some))]
    single = largest[many == 1]
    factor = float(np.median(single)) if len(single) else 1.0
    sums = np.flatnonzero((many > 1) | (largest != factor))
    zero, width = len(table), len(table) + 1 + len(sums)
    within = np.full(np.count_nonzero(contract.layout.degree == 0), zero)
    within[some] = first
    within[some[sums]] = zero + 1 + np.arange(len(sums))
    degree = contract.layout.degree
    source = np.zeros(len(degree), dtype=np.int64)
    for n in range(len(contract.factors)):
        source[degree == n] = n * width + within
    order = np.argsort(table[:, sums] == 0, axis=0, kind="stable")  # those of each sum first
    terms = []
    for t in range(int(many[sums].max(initial=0))):
        weights = table[order[t], sums] / factor
        terms.append((torch.from_numpy(order[t]).to(like.device), torch.from_numpy(weights).to(like)))
    return _Changes(factor, terms, torch.from_numpy(source).to(like.device), width)
