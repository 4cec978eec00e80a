"""Arithmetic of atomic environment vectors: value, vector-Jacobian product, Jacobian-vector product.

With ``w = f_ij f_ik`` and ``h = (r_ij + r_ik)/2`` a triple adds ``w R_k(h) A_l(cos)`` to the components (k, l) of its
pair of elements: a product of two short vectors, of which the sum over triples is a matrix product and is never stored.
Gaussians and powers are evaluated once; what the derivatives need of them is kept. Sections and angles meet as
``cos(theta - theta_s) = cos theta cos theta_s + sin theta sin theta_s``: there is no arc cosine.

A loss on forces needs the derivative of the vector-Jacobian product by the vector alone, which is the Jacobian-vector
product, as cheap as the value: the geometry needs no second derivatives, unless a Hessian is wanted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..typing import Float, Tensor
from .aev_layout import Block, Chunk, Layout
from .cutoff import CutoffFunction

RADIAL = 0.25
"""Factor of the radial part in NeuroChem and torchani; the paper has none."""
BENT = 0.95
"""``theta = acos(0.95 cos)`` in NeuroChem and torchani, so that its derivative stays finite; not in the paper."""

LEAST = 60.0
"""Negative logarithm of the least value of a Gaussian."""


class Constants(NamedTuple):
    """Of the layout (Smith 2017, Eqs. 3 and 4), tensors in the precision of the computation.

    Attributes:
        cutoff, radial_eta, radial_shifts: of the radial part; shifts ``(shifts, 1)``.
        angular_cutoff, angular_eta, zeta: of the angular part.
        middle: a distance that angular distances and shifts are counted from: smaller numbers lose fewer digits.
        angular_shifts: from the middle, ``(shifts, 1)``.
        along, across: half the cosines and sines of the sections, ``(sections, 1)``.
        both: ones beside the radial shifts, ``(2, shifts)``.
        window: the cutoff function.
    """

    cutoff: float
    radial_eta: float
    radial_shifts: Tensor
    angular_cutoff: float
    angular_eta: float
    zeta: float
    middle: float
    angular_shifts: Tensor
    along: Tensor
    across: Tensor
    both: Tensor
    window: CutoffFunction


def constants(
    radial: tuple[float, float, Tensor], angular: tuple[float, float, float, Tensor, Tensor], window: CutoffFunction
) -> Constants:
    """From cutoff, eta and shifts; cutoff, eta, zeta, shifts and sections; tensors of one axis."""
    cutoff, eta, shifts = radial
    near, angular_eta, zeta, centers, sections = angular
    both, middle = torch.stack([torch.ones_like(shifts), shifts]), 0.5 * near
    along, across = 0.5 * torch.cos(sections[:, None]), 0.5 * torch.sin(sections[:, None])
    turns = centers[:, None] - middle, along, across
    return Constants(cutoff, eta, shifts[:, None], near, angular_eta, zeta, middle, *turns, both, window)


class Kept(NamedTuple):
    """What the derivatives need of the value.

    Attributes:
        r, u: lengths and directions of pairs.
        gaussians: of the radial part, ``(shifts, slots)``.
        far: distance, window and its slope in the slots of the radial axis, ``(atoms, n)`` each.
        arms: directions in the slots of the angular axis, ``(atoms, m, 3)``.
        bonds: distance, window and its slope there, ``(atoms, m)`` each.
        mean, weight: ``h`` (from ``Constants.middle``) and ``w`` of each triple.
        radial: ``R``, ``(shifts, triples)``.
        angles, slopes: ``A`` and ``dA/dcos``, ``(sections, triples)``.
    """

    r: Tensor
    u: Tensor
    gaussians: Tensor
    far: tuple[Tensor, Tensor, Tensor]
    arms: Tensor
    bonds: tuple[Tensor, Tensor, Tensor]
    mean: Tensor
    weight: Tensor
    radial: Tensor
    angles: Tensor
    slopes: Tensor


def value(
    vectors: Float[Tensor, "pairs 3"], where: Layout, c: Constants, derivatives: bool
) -> tuple[Float[Tensor, "atoms size"], Kept]:
    """Rows of all atoms; with ``derivatives``, all that the derivatives need (else ``slopes`` is empty)."""
    r = vectors.square().sum(1).sqrt()
    u = vectors / r.unsqueeze(1)
    shape, m = where.senders.shape[1:], where.width
    if not len(r):
        return _empty(where, c, r, u)
    rs, ra = r.index_select(0, where.radial), r.index_select(0, where.angular)
    window, slope = c.window(torch.cat([rs * (1 / c.cutoff), ra * (1 / c.angular_cutoff)]), 1.0)
    (window, close), (slope, steep) = window.split([len(rs), len(ra)]), slope.split([len(rs), len(ra)])
    gaussians = _gaussians(torch.sub(rs, c.radial_shifts), c.radial_eta)
    far = rs.view(shape), window.view(shape), (slope * (1 / c.cutoff)).view(shape)
    counted = (where.senders * (RADIAL * far[1])).transpose(0, 1)
    radial = torch.bmm(counted, gaussians.view(-1, *shape).permute(1, 2, 0)).flatten(1)

    arms = u.index_select(0, where.angular).view(-1, m, 3)
    bonds = ra.view(-1, m), close.view(-1, m), (steep * (1 / c.angular_cutoff)).view(-1, m)
    cosines = torch.bmm(arms, arms.transpose(1, 2)).view(-1)
    half = torch.sub(bonds[0], c.middle).mul_(0.5)
    means = (half.unsqueeze(2) + half.unsqueeze(1)).view(-1)
    weights = _off_diagonal(bonds[1].unsqueeze(2) * bonds[1].unsqueeze(1)).view(-1)
    n = where.n_slots
    mean, weight = r.new_empty(n), r.new_empty(n)
    gauss, angles = r.new_empty(len(c.angular_shifts), n), r.new_empty(len(c.along), n)
    slopes = torch.empty_like(angles) if derivatives else angles[:, :0]
    sums = r.new_zeros(len(where.rows) + 1, len(c.angular_shifts), len(c.along))
    for chunk in where.chunks:
        part = slice(*chunk.slots)
        torch.index_select(means, 0, chunk.cells, out=mean[part])
        torch.index_select(weights, 0, chunk.cells, out=weight[part])
        _gaussians(torch.sub(mean[part], c.angular_shifts, out=gauss[:, part]), c.angular_eta)
        _angles(cosines.index_select(0, chunk.cells), c, angles[:, part], slopes[:, part])
        weighted = angles[:, part] * weight[part]
        for block, own in _blocks(chunk, weighted):
            sums[slice(*block.rows)] = torch.bmm(_rows(gauss, block), own.transpose(1, 2))
    angular = sums.index_select(0, where.row_place).view(len(radial), -1)
    return torch.cat([radial, angular], 1), Kept(r, u, gaussians, far, arms, bonds, mean, weight, gauss, angles, slopes)  # type: ignore[arg-type]


def _empty(where: Layout, c: Constants, r: Tensor, u: Tensor) -> tuple[Tensor, Kept]:
    """Rows of atoms of which none has a neighbor."""
    n, atoms, _ = where.senders.shape
    pairs = n * (n + 1) // 2
    none = r.new_zeros(0, 0)
    rows = r.new_zeros(atoms, n * len(c.radial_shifts) + pairs * len(c.angular_shifts) * len(c.along))
    return rows, Kept(r, u, none, (none,) * 3, none, (none,) * 3, r, r, none, none, none)


def _gaussians(x: Tensor, eta: float) -> Tensor:
    """``exp(-eta x^2)``, in place of x; 1e-26 where it is less: denormal numbers are slow."""
    return x.square_().clamp_(max=LEAST / eta).mul_(-eta).exp_()


def _angles(cosines: Tensor, c: Constants, out: Tensor, slopes: Tensor) -> None:
    """``A_l = 2 ((1 + cos(theta - theta_l)) / 2)^zeta`` and, where asked for, its derivative by the true cosine."""
    bent = cosines * BENT
    sine = torch.addcmul(torch.ones_like(bent), bent, bent, value=-1).sqrt_()
    x = torch.addcmul(sine * c.across, bent, c.along).add_(0.5)
    if c.zeta == int(c.zeta):
        less = _power(x, int(c.zeta) - 1)
        torch.mul(less, x, out=out).mul_(2.0)
    else:
        torch.log(x.clamp_(min=1e-30), out=out).mul_(c.zeta).exp_().mul_(2.0)
        less = None
    if slopes.shape[1] == 0 and out.shape[1]:
        return
    turn = torch.addcmul(c.along * BENT, bent / sine, c.across, value=-BENT)
    if less is None:
        torch.div(out, x, out=slopes).mul_(turn).mul_(c.zeta)
    else:
        torch.mul(less, turn, out=slopes).mul_(2.0 * c.zeta)


def _power(x: Tensor, n: int) -> Tensor:
    """``x^n`` by squaring."""
    result, base = torch.ones_like(x), x
    while n:
        if n & 1:
            result = result * base
        n >>= 1
        base = base * base if n else base
    return result


def pull(grad: Float[Tensor, "atoms size"], kept: Kept, where: Layout, c: Constants) -> Float[Tensor, "pairs 3"]:
    """Derivatives of ``<grad, rows>`` by the vectors of the pairs."""
    if not len(kept.r):
        return kept.u
    n_radial = where.senders.shape[0] * len(c.radial_shifts)
    return _pull_angular(grad[:, n_radial:], kept, where, c, kept.u * _pull_radial(grad[:, :n_radial], kept, where, c))


def _pull_radial(grad: Tensor, kept: Kept, where: Layout, c: Constants) -> Tensor:
    """Derivatives by the distances of the pairs, ``(pairs, 1)``."""
    shape = where.senders.shape[1:]
    r, window, slope = kept.far
    back = grad.reshape(shape[0], -1, len(c.radial_shifts)).transpose(1, 2) * RADIAL
    own = torch.bmm(back, where.senders.transpose(0, 1)) * kept.gaussians.view(-1, *shape).transpose(0, 1)
    plain, shifted = torch.bmm(c.both.expand(shape[0], -1, -1), own).unbind(1)
    found = slope * plain - (2 * c.radial_eta) * window * (r * plain - shifted)
    return found.view(-1).index_select(0, where.place).unsqueeze(1)


def _pull_angular(grad: Tensor, kept: Kept, where: Layout, c: Constants, out: Tensor) -> Tensor:
    """``out`` with the derivatives of the angular part added."""
    if not where.chunks:
        return out
    back = grad.reshape(-1, len(c.angular_shifts), len(c.along)).index_select(0, where.rows).transpose(1, 2)
    back = torch.cat([back, back * c.angular_shifts.t()], 1)
    cells = kept.arms.shape[0] * where.width**2
    by_mean, by_cosine, by_weight = (out.new_zeros(cells) for _ in range(3))
    n = len(c.along)
    for chunk in where.chunks:
        part = slice(*chunk.slots)
        both = out.new_empty(2 * n, len(chunk.cells))
        for block, own in _blocks(chunk, both):
            own.copy_(torch.bmm(back[slice(*block.rows)], _rows(kept.radial, block)))
        plain, shifted = both.split(n)
        turn = (plain * kept.slopes[:, part]).sum(0).mul_(kept.weight[part])
        value, shift = both.view(2, n, -1).mul_(kept.angles[:, part]).sum(1).unbind(0)
        shift = torch.addcmul(shift, kept.mean[part], value, value=-1)
        shift.mul_(kept.weight[part]).mul_(2 * c.angular_eta)
        for index in (chunk.cells, chunk.mirror):
            by_weight.scatter_(0, index, value)
            by_mean.scatter_(0, index, shift)
            by_cosine.scatter_(0, index, turn)
    square = (-1, where.width, where.width)
    by_mean, by_cosine, by_weight = by_mean.view(square), by_cosine.view(square), by_weight.view(square)
    r, window, slope = kept.bonds
    along = 0.5 * by_mean.sum(2) + slope * torch.bmm(_off_diagonal(by_weight), window.unsqueeze(2)).squeeze(2)
    turn = torch.bmm(by_cosine, kept.arms)
    turn = (turn - (turn * kept.arms).sum(2, keepdim=True) * kept.arms) / r.unsqueeze(2)
    found = torch.addcmul(turn, along.unsqueeze(2), kept.arms).view(-1, 3)
    return out.index_add(0, where.near, found.index_select(0, where.near_place))


def push(tangent: Float[Tensor, "pairs 3"], kept: Kept, where: Layout, c: Constants) -> Float[Tensor, "atoms size"]:
    """Derivatives of the rows along a change of the vectors of the pairs."""
    if not len(tangent):
        return _empty(where, c, kept.r, kept.u)[0]
    along = (kept.u * tangent).sum(1)
    across = (tangent - kept.u * along.unsqueeze(1)) / kept.r.unsqueeze(1)
    return torch.cat([_push_radial(along, kept, where, c), _push_angular(along, across, kept, where, c)], 1)


def _push_radial(along: Tensor, kept: Kept, where: Layout, c: Constants) -> Tensor:
    shape = where.senders.shape[1:]
    r, window, slope = kept.far
    moved = along.index_select(0, where.radial).view(shape)
    stretch = (2 * RADIAL * c.radial_eta) * window * moved
    counted = torch.cat([where.senders * (RADIAL * slope * moved - stretch * r), where.senders * stretch])
    found = torch.bmm(counted.transpose(0, 1), kept.gaussians.view(-1, *shape).permute(1, 2, 0))
    plain, shifted = found.split(where.senders.shape[0], 1)
    return torch.addcmul(plain, shifted, c.radial_shifts.view(-1)).flatten(1)


def _push_angular(along: Tensor, across: Tensor, kept: Kept, where: Layout, c: Constants) -> Tensor:
    n_atoms, m = kept.arms.shape[0], where.width
    moved = along.index_select(0, where.angular).view(n_atoms, m)
    turned = across.index_select(0, where.angular).view(n_atoms, m, 3)
    _, window, slope = kept.bonds
    cosines = _both(torch.bmm(turned, kept.arms.transpose(1, 2))).view(-1)
    means = (0.5 * (moved.unsqueeze(2) + moved.unsqueeze(1))).view(-1)
    weights = _off_diagonal(_both((slope * moved).unsqueeze(2) * window.unsqueeze(1))).view(-1)
    sums = along.new_zeros(len(where.rows) + 1, len(c.angular_shifts), len(c.along))
    for chunk in where.chunks:
        part = slice(*chunk.slots)
        stretch = means.index_select(0, chunk.cells).mul_(kept.weight[part]).mul_(2 * c.angular_eta)
        plain = weights.index_select(0, chunk.cells).addcmul_(stretch, kept.mean[part], value=-1)
        turn = cosines.index_select(0, chunk.cells).mul_(kept.weight[part])
        both = plain.new_empty(2 * len(c.along), len(plain))
        changes, stretched = both.split(len(c.along))
        torch.mul(kept.angles[:, part], plain, out=changes).addcmul_(kept.slopes[:, part], turn)
        torch.mul(kept.angles[:, part], stretch, out=stretched)
        for block, own in _blocks(chunk, both):
            found = torch.bmm(_rows(kept.radial, block), own.transpose(1, 2))
            first, second = found.split(len(c.along), 2)
            sums[slice(*block.rows)] = torch.addcmul(first, second, c.angular_shifts)
    return sums.index_select(0, where.row_place).view(n_atoms, -1)


def _rows(values: Tensor, block: Block) -> Tensor:
    """``(rows, components, width)`` of a block: a view of ``(components, slots)``."""
    return values[:, slice(*block.slots)].view(len(values), -1, block.width).transpose(0, 1)


def _blocks(chunk: Chunk, values: Tensor) -> list[tuple[Block, Tensor]]:
    """The blocks, and what ``(components, slots of the chunk)`` is in each: views ``(rows, components, width)``."""
    parts = values.split([b.slots[1] - b.slots[0] for b in chunk.blocks], 1)
    views = [x.view(len(x), -1, b.width).transpose(0, 1) for x, b in zip(parts, chunk.blocks, strict=True)]
    return list(zip(chunk.blocks, views, strict=True))


def _off_diagonal(matrices: Tensor) -> Tensor:
    """The matrices, changed in place: a neighbor makes no triple with itself."""
    matrices.diagonal(dim1=1, dim2=2).zero_()
    return matrices


def _both(matrices: Tensor) -> Tensor:
    return matrices + matrices.transpose(1, 2)


def plain(vectors: Float[Tensor, "pairs 3"], where: Layout, c: Constants) -> Float[Tensor, "atoms size"]:
    """The same rows by ordinary operations, which autograd differentiates as often as it is asked to."""
    if not len(vectors):
        return _empty(where, c, vectors[:, 0], vectors)[0] + vectors.sum()
    arms = vectors.index_select(0, where.radial)
    r = arms.square().sum(1).sqrt()
    gaussians = torch.exp(-c.radial_eta * (r - c.radial_shifts).square()) * c.window(r, c.cutoff)[0]
    shape = where.senders.shape[1:]
    radial = RADIAL * torch.einsum("san,kan->ask", where.senders, gaussians.view(-1, *shape)).flatten(1)
    arms = vectors.index_select(0, where.angular)
    r = arms.square().sum(1).sqrt()
    window = c.window(r, c.angular_cutoff)[0].view(-1, where.width)
    arms, r = (arms / r.unsqueeze(1)).view(-1, where.width, 3), r.view(-1, where.width)
    cells = where.cells
    every = lambda matrices: matrices.reshape(-1).index_select(0, cells)  # noqa: E731
    there = every(~torch.eye(where.width, dtype=torch.bool, device=cells.device).expand(len(r), -1, -1))
    mean = every(0.5 * (r.unsqueeze(2) + r.unsqueeze(1)) - c.middle)
    weight = every(window.unsqueeze(2) * window.unsqueeze(1)) * there
    theta = torch.acos(BENT * every(torch.bmm(arms, arms.transpose(1, 2))))
    angles = 2 * (0.5 + torch.cos(theta) * c.along + torch.sin(theta) * c.across) ** c.zeta * weight
    gauss = torch.exp(-c.angular_eta * (mean - c.angular_shifts).square())
    parts = [torch.bmm(_rows(gauss, b), _rows(angles, b).transpose(1, 2)) for b in where.blocks]
    sums = torch.cat([*parts, vectors.new_zeros(1, len(gauss), len(angles))])
    return torch.cat([radial, sums.index_select(0, where.row_place).view(len(radial), -1)], 1)


def jacobian(kept: Kept, where: Layout, c: Constants, kinds: Tensor, n_elements: int) -> Float[Tensor, "pairs 3 size"]:
    """Derivatives of the rows by the vector of each pair, in full.

    Args:
        kept: of the value.
        where: of the graph.
        c: constants.
        kinds: element of each pair's sender.
        n_elements: how many there are.
    """
    n_pairs, u = len(kept.r), kept.u
    if not n_pairs:
        return u.new_zeros(0, 3, _empty(where, c, kept.r, u)[0].shape[1])
    r, window, slope = (t.reshape(-1).index_select(0, where.place) for t in kept.far)
    steep = slope - 2 * c.radial_eta * window * (r - c.radial_shifts)
    steep = RADIAL * (steep * kept.gaussians.index_select(1, where.place)).t()
    radial = u.new_zeros(n_pairs, n_elements, 3, steep.shape[1])
    radial[torch.arange(n_pairs, device=u.device), kinds] = u.unsqueeze(2) * steep.unsqueeze(1)
    pairs_of_elements = n_elements * (n_elements + 1) // 2
    angular = u.new_zeros(n_pairs * pairs_of_elements, 3, len(c.angular_shifts), len(c.along))
    _, window, slope = (t.reshape(-1) for t in kept.bonds)
    shifts = c.angular_shifts.view(-1)
    all_cells = where.cells
    for block in where.blocks:
        part, m = slice(*block.slots), where.width
        cells = all_cells[part]
        which = where.rows[slice(*block.rows)].remainder(pairs_of_elements).repeat_interleave(block.width)
        start = torch.div(cells, m * m, rounding_mode="floor") * m
        p = start + torch.div(cells, m, rounding_mode="floor").remainder(m)
        q = start + cells.remainder(m)
        there = p != q
        part_of = lambda t: t[:, part].t()[there]  # noqa: B023, E731
        p, q, which = p[there], q[there], which[there]
        gauss, angles, slopes = (part_of(t) for t in (kept.radial, kept.angles, kept.slopes))
        mean, weight = kept.mean[part][there].unsqueeze(1), kept.weight[part][there].unsqueeze(1)
        arms, product = kept.arms.view(-1, 3), gauss.unsqueeze(2) * angles.unsqueeze(1)
        common = (weight * (-c.angular_eta * (mean - shifts))).unsqueeze(2) * product
        turned = (weight * gauss).unsqueeze(2) * slopes.unsqueeze(1)
        for mine, other in ((p, q), (q, p)):
            pair = where.angular.index_select(0, mine)
            to, away = arms.index_select(0, mine), arms.index_select(0, other)
            sideways = (away - (to * away).sum(1, keepdim=True) * to) / kept.r.index_select(0, pair).unsqueeze(1)
            along = common + (slope[mine] * window[other]).view(-1, 1, 1) * product
            found = to.view(-1, 3, 1, 1) * along.unsqueeze(1) + sideways.view(-1, 3, 1, 1) * turned.unsqueeze(1)
            angular.index_add_(0, pair * pairs_of_elements + which, found)
    angular = angular.view(n_pairs, pairs_of_elements, 3, len(c.angular_shifts) * len(c.along))
    return torch.cat([part.transpose(1, 2).flatten(2) for part in (radial, angular)], 2)
