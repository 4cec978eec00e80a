"""All derivatives of SOAP vectors in full: batched matrix products that write rows where they stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..geometry.graph import Graph
from ..typing import Float, Tensor
from .angular import harmonics_with_gradients, n_harmonics
from .soap_contract import Contraction
from .soap_density import Block, Density, Part, plan


class _Changes(NamedTuple):
    """What a neighbor of one species changes: places in a row, for each degree, and the table of a product."""

    places: list[slice | Tensor]
    table: Tensor


class _Basis(NamedTuple):
    """Radial functions and slopes ``(degrees, n_max, points)``; harmonics and gradients ``(3, components, points)``."""

    radial: Tensor
    slopes: Tensor
    along: Tensor
    gradients: Tensor


def soap_jacobian(
    density: Density, contract: Contraction, graph: Graph, species: Tensor
) -> Float[Tensor, "pairs 3 size"]:
    """``dp_i/dr_ij``.

    A neighbor changes the coefficients of its own species, ``dc_nm = R'_n u Y_m + R_n dY_m``, and p by
    ``dp_q = sum_nm dc_nm M_nmq``, where ``M`` is made of the coefficients of atom i: for each degree and species one
    product of matrices for each atom and direction. Normalization adds ``- p (p . dp)`` to it.
    """
    made = plan(graph, species, density.elements)
    vectors = density.padded(graph.vectors().detach().to(density.center.dtype))
    coefficients = density(graph.replace(_vectors=vectors[:-1]), species)
    spectra, norms = contract.with_norms(coefficients)
    mixed = contract.mix(coefficients)
    changes = [_changes(contract, s, spectra) for s in range(len(density.elements))]
    out = spectra.new_zeros(graph.n_pairs, 3, spectra.shape[1])
    for part in made.parts:
        atoms = slice(part.first, part.last)
        c = mixed[atoms] / norms[atoms, None, None] if contract.normalize else mixed[atoms]
        for block in part.blocks:
            slots = made.slots[part.start + block.start : part.start + block.stop]
            basis = _basis(density, vectors.index_select(0, slots))
            shape = (part.last - part.first, block.width, 3, spectra.shape[1])
            direct = len(density.elements) == 1 and int(slots[-1]) - int(slots[0]) == len(slots) - 1
            direct = direct and bool((slots < graph.n_pairs).all())
            if direct:
                rows = out[int(slots[0]) : int(slots[-1]) + 1].view(shape)
            else:
                rows = contract.scratch.take("rows", *shape, like=out).zero_()
            for place, product in _products(contract, part, block, basis, c, changes[block.species]):
                rows[..., place[0], place[1]] = product
            if contract.normalize:
                flat, unit = rows.view(shape[0], -1, shape[3]), spectra[atoms]
                flat.baddbmm_(torch.bmm(flat, unit[:, :, None]), unit[:, None, :], alpha=-1)
            if not direct:
                real = (slots < graph.n_pairs).nonzero()[:, 0]
                out.index_copy_(0, slots[real], rows.view(-1, 3, shape[3]).index_select(0, real))
    return out


def _changes(contract: Contraction, species: int, like: Tensor) -> _Changes:
    some, table = contract.derivative(species)
    places: list[slice | Tensor] = []
    for degree in range(len(contract.factors)):
        columns = (torch.from_numpy(contract.layout.degree) == degree).nonzero()[:, 0][torch.from_numpy(some)]
        first, last = int(columns[0]), int(columns[-1])
        contiguous = last - first == len(columns) - 1
        places.append(slice(first, last + 1) if contiguous else columns.to(like.device))
    return _Changes(places, torch.from_numpy(table).to(like).flatten(1))


def _basis(density: Density, vectors: Float[Tensor, "points 3"]) -> _Basis:
    r = vectors.square().sum(1).sqrt()
    units = vectors / r[:, None]
    angular = harmonics_with_gradients(units, r, density.l_max)
    value, slope = density.series.with_derivative(r)
    fade, steep = density.fade.with_slope(r)
    shape = (density.l_max + 1, density.n_max, len(r))
    slope = slope.mul_(fade).addcmul_(value, steep).view(shape)
    return _Basis(value.mul_(fade).view(shape), slope, angular.values * units.T[:, None], angular.gradients)


def _products(
    contract: Contraction, part: Part, block: Block, basis: _Basis, c: Tensor, changes: _Changes
) -> Iterator[tuple[tuple[int, slice | Tensor], Tensor]]:
    """Directions and places of a row with derivatives of all pairs of a block, ``(atoms, width, places)``."""
    atoms, n_max = part.last - part.first, contract.n_max
    for degree, (f, place) in enumerate(zip(contract.factors, changes.places, strict=True)):
        m = slice(degree * degree, n_harmonics(degree))
        mine = (c[:, :, m] * f).transpose(1, 2).reshape(atoms * (2 * degree + 1), -1)
        matrix = (mine @ changes.table).view(atoms, (2 * degree + 1) * n_max, -1)
        for axis in range(3):
            change = contract.scratch.take("change", 2 * degree + 1, n_max, basis.radial.shape[2], like=c)
            torch.mul(basis.along[axis, m, None], basis.slopes[degree], out=change)
            change.addcmul_(basis.gradients[axis, m, None], basis.radial[degree])
            by_atom = change.view(-1, atoms, block.width).permute(1, 2, 0)
            yield (axis, place), torch.bmm(by_atom, matrix)
