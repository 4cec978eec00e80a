"""GemNet's messages over quadruplets, c -> a - b <- d: two edges whose ends are not further apart than the long cutoff.

J. Gasteiger, F. Becker, S. Günnemann, arXiv:2106.08903 (Q-MP of figure 4). The angles of a quadruplet are those at a
and at b, and the one between the half-planes of c and d about ab, without sign. Together with the distance ca the angle
at a and the latter make spherical harmonics of the direction to c, in a frame with its z axis along ab and d in the
half-plane y = 0, x > 0; the missing sign makes y its absolute value. So each ``a - b <- d`` has a frame, and no angle
is made.

As published, this message has a kink where four atoms lie in a plane (the harmonics that are odd in y), and a jump
where a, b and d lie on a line, unless c lies there too: the frame is undefined there (d is then taken to be at a right
angle to c, as the reference code has it). The smooth message has neither. It takes the harmonics that are even in y,
which the missing sign leaves all of a function of the direction in, and axes x and y as long as the sine of the angle
at b: polynomials in the components of unit vectors, in which d has less of a say the nearer it comes to the line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from ..features.angular import spherical_harmonics
from ..features.directional import zonal_harmonics
from ..geometry.graph import Graph
from ..typing import Bool, Float, Int, Tensor
from .directional_native import filtered
from .gemnet_edges import Edges, picked
from .gemnet_layers import Dense, ScalingFactor
from .gemnet_triplets import Symmetric, bilinear

CHUNK = 2**22
"""Harmonics (quadruplets times components) that are made at a time."""
KEPT = 2**27
"""Harmonics that may be kept for all blocks; where there are more, each block makes them anew, also when it is
differentiated, so that memory does not grow with their number."""
COLLINEAR = 1e-12
"""Squared sine of the angle at b below which d has no direction around ab."""
PLANAR = 1e-9
"""Least y: below, the kink of its absolute value has slope zero."""


class Chunk(NamedTuple):
    """Some atoms a, with their edges c -> a and their far ends a - b <- d in rows of equal length.

    Attributes:
        edges: index of the edge in each slot, ``(atoms, slots)``; one past the last where it is empty.
        ends: index of the far end likewise, ``(atoms, slots)``.
        used: which quadruplets are there, ``(edges' slots, atoms, ends' slots)``: b, c and d are three.
        rows: of the slots of edges, those that hold one.
        gaps: and those that do not.
    """

    edges: Int[Tensor, "atoms edge_slots"]
    ends: Int[Tensor, "atoms end_slots"]
    used: Bool[Tensor, "edge_slots atoms end_slots"]
    rows: Int[Tensor, " rows"]
    gaps: Int[Tensor, " gaps"]


class Quadruplets(NamedTuple):
    """The quadruplets of a graph, images told apart.

    Attributes:
        middle: index of the pair (a, b) of each far end, ascending, ``(ends,)``.
        outer: index of the edge d -> b of each far end, ``(ends,)``.
        repeats: how many quadruplets a far end is in, ``(ends,)``.
        chunks: all of them, by atoms a.
        place: row of each edge among those of all chunks.
        n_components: of the harmonics.
    """

    middle: Int[Tensor, " ends"]
    outer: Int[Tensor, " ends"]
    repeats: Int[Tensor, " ends"]
    chunks: list[Chunk]
    place: Int[Tensor, " edges"]

    @classmethod
    def of(cls, graph: Graph, edges: Graph, n_components: int) -> Quadruplets:
        """Of the edges in ``edges`` with the pairs in ``graph`` between them.

        Args:
            graph: pairs (a, b).
            edges: the same structures with the edges c -> a, d -> b.
            n_components: of the harmonics, for the size of chunks.
        """
        a, b = graph.pairs
        first = edges.row_pointers()
        counts = first[1:] - first[:-1]
        per_pair = counts.index_select(0, b)
        middle = torch.repeat_interleave(per_pair)
        begin = first.index_select(0, b) - (per_pair.cumsum(0) - per_pair)
        outer = torch.arange(len(middle), device=a.device) + begin.index_select(0, middle)
        shift = graph.shifts.index_select(0, middle) + edges.shifts.index_select(0, outer)  # of d, seen from a
        same = (edges.pairs[1].index_select(0, outer) == a.index_select(0, middle)) & (shift == 0).all(1)
        keep = (~same).nonzero()[:, 0]
        middle, outer, shift = middle.index_select(0, keep), outer.index_select(0, keep), shift.index_select(0, keep)
        chunks = _chunks(graph, edges, middle, outer, shift, n_components)
        order = torch.cat([c.edges.flatten().index_select(0, c.rows) for c in chunks])
        place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
        repeats = torch.zeros_like(middle)
        for c in chunks:
            there = (c.ends < len(middle)).nonzero(as_tuple=True)
            repeats.index_copy_(0, c.ends[there], c.used.sum(0)[there])
        return cls(middle, outer, repeats, chunks, place)


def _chunks(graph: Graph, edges: Graph, middle: Tensor, outer: Tensor, shift: Tensor, n_components: int) -> list[Chunk]:
    """Atoms in the order of their number of far ends, as many at a time as :data:`CHUNK` allows."""
    n_ends = torch.bincount(graph.pairs[0].index_select(0, middle), minlength=graph.n_atoms)
    start = torch.cat([n_ends.new_zeros(1), n_ends.cumsum(0)])
    order = torch.argsort(n_ends, descending=True, stable=True)
    every = edges.padded()
    b, d = graph.pairs[1].index_select(0, middle), edges.pairs[1].index_select(0, outer)
    s_b = graph.shifts.index_select(0, middle)
    made, at = [], 0
    while at < len(order):
        width = max(int(n_ends[order[at]]), 1)
        size = max(1, CHUNK // (width * every.shape[1] * n_components))
        atoms = order[at : at + size]
        at += size
        slots = torch.arange(width, device=atoms.device)
        ends = torch.where(slots < n_ends[atoms][:, None], start[atoms][:, None] + slots, len(middle))
        own = every[atoms]
        c, s_c = _padded(edges.pairs[1], own, -1), _padded(edges.shifts, own, 0.0)
        is_b = _same(c, s_c, _padded(b, ends, -2), _padded(s_b, ends, 0.0))
        is_d = _same(c, s_c, _padded(d, ends, -2), _padded(shift, ends, 0.0))
        there = (own < edges.n_pairs).t()[:, :, None] & (ends < len(middle))[None]
        rows, gaps = (k.nonzero()[:, 0] for k in (own.flatten() < edges.n_pairs, own.flatten() == edges.n_pairs))
        made.append(Chunk(own, ends, there & ~is_b & ~is_d, rows, gaps))
    return made


def _padded(x: Tensor, index: Tensor, filling: int | float) -> Tensor:
    """Rows of x by index; ``filling`` at the one past the last."""
    return torch.cat([x, x.new_full((1, *x.shape[1:]), filling)])[index]


def _same(c: Tensor, s_c: Tensor, other: Tensor, s_other: Tensor) -> Tensor:
    """Whether atoms and images agree, ``(edge_slots, atoms, end_slots)``."""
    equal = c.t()[:, :, None] == other[None]
    for k in range(3):
        equal &= s_c[:, :, k].t()[:, :, None] == s_other[None, :, :, k]
    return equal


class SphericalBasis(NamedTuple):
    """What the basis of quadruplets is made of.

    Attributes:
        quadruplets: which.
        circular: of the distance ab and the angle at b, down-projected, ``(ends, n_cbf)``.
        radial: of the distance ca, down-projected, ``(edges, n_sbf, components)``.
        units: from a to c, ``(edges, 3)``.
        frames: ``(ends, 3, 3)``, rows x, y, z; x and y are zero where they are undefined.
        l_max: highest degree of the harmonics.
        smooth: harmonics even in y, of axes x and y that vanish where a, b and d lie on a line.
        harmonics: of each chunk, ``(components, edge slots, atoms, end slots)``; None where each block makes its own.
    """

    quadruplets: Quadruplets
    circular: Tensor
    radial: Tensor
    units: Tensor
    frames: Tensor
    l_max: int
    smooth: bool
    harmonics: list[Tensor] | None

    @classmethod
    def of(
        cls,
        quadruplets: Quadruplets,
        units: Float[Tensor, "edges 3"],
        middle: Float[Tensor, "pairs 3"],
        radial_middle: Float[Tensor, "pairs n_cbf degrees"],
        radial: Float[Tensor, "edges n_sbf components"],
        smooth: bool,
    ) -> SphericalBasis:
        """From unit vectors from a to c and from a to b, and the radial parts that go with them."""
        z = middle.index_select(0, quadruplets.middle)
        to_d = units.index_select(0, quadruplets.outer)
        cosine = (to_d * z).sum(-1)
        zonal = zonal_harmonics(-cosine, radial_middle.shape[2] - 1)
        circular = torch.bmm(radial_middle.index_select(0, quadruplets.middle), zonal.t().unsqueeze(-1)).squeeze(-1)
        x = to_d - cosine.unsqueeze(-1) * z
        if not smooth:
            square = x.square().sum(-1, keepdim=True)
            defined = square > COLLINEAR
            x = torch.where(defined, x / torch.where(defined, square, 1.0).sqrt(), 0.0)
        frames = torch.stack([x, torch.linalg.cross(z, x), z], 1)
        made = cls(quadruplets, circular, radial.contiguous(), units, frames, radial_middle.shape[2] - 1, smooth, None)
        if sum(c.used.numel() for c in quadruplets.chunks) * radial.shape[2] > KEPT:
            return made
        return made._replace(harmonics=[made.of_chunk(*made.seen(c)) for c in quadruplets.chunks])

    def of_chunk(self, units: Tensor, frames: Tensor, used: Tensor) -> Tensor:
        """:func:`harmonics` of a chunk."""
        return harmonics(units, frames, used, self.l_max, self.smooth)

    def seen(self, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor]:
        """Directions, frames and the mask of a chunk."""
        return _rows(self.units, chunk.edges), _rows(self.frames, chunk.ends), chunk.used

    def messages(
        self, x: Float[Tensor, "ends F"], weight: Float[Tensor, "n_out n_sbf_F"]
    ) -> Float[Tensor, "edges n_out"]:
        """``sum_(b, d) sbf W x``: the bilinear layer of the sums over the far ends of each edge."""
        parts = []
        for k, chunk in enumerate(self.quadruplets.chunks):
            ends = _rows(x, chunk.ends)
            radial = self.radial.index_select(0, chunk.edges.flatten().index_select(0, chunk.rows))
            if self.harmonics is not None:
                parts.append(joined(self.harmonics[k], ends, radial, weight, chunk))
            else:
                units, frames, _ = self.seen(chunk)
                parts.append(_Again.apply(self._anew(chunk), units, frames, ends, radial, weight))
        return torch.cat(parts).index_select(0, self.quadruplets.place)

    def _anew(self, chunk: Chunk) -> Callable[..., Tensor]:
        """:func:`joined` that makes the harmonics itself."""

        def run(units: Tensor, frames: Tensor, ends: Tensor, radial: Tensor, weight: Tensor) -> Tensor:
            return joined(self.of_chunk(units, frames, chunk.used), ends, radial, weight, chunk)

        return run


def _rows(x: Tensor, index: Int[Tensor, "atoms slots"]) -> Tensor:
    """Rows of x by index, zero at the one past the last."""
    return (
        torch.cat([x, x.new_zeros(1, *x.shape[1:])]).index_select(0, index.flatten()).view(*index.shape, *x.shape[1:])
    )


def components(n_spherical: int, smooth: bool) -> list[int]:
    """Degree of each harmonic, degrees below ``n_spherical``: orders from 0 where they are even in y, else all."""
    return [n for n in range(n_spherical) for _ in range(n + 1 if smooth else 2 * n + 1)]


def harmonics(
    units: Float[Tensor, "atoms edge_slots 3"],
    frames: Float[Tensor, "atoms end_slots 3 3"],
    used: Bool[Tensor, "edge_slots atoms end_slots"],
    l_max: int,
    smooth: bool,
) -> Float[Tensor, "components edge_slots atoms end_slots"]:
    """``Y_lm`` of the directions to c in the frames of the far ends; those of ``l > 0`` vanish where no one is used."""
    x, y, z = torch.einsum("aki,adji->jkad", units, frames).unbind(0)
    if not smooth:
        undefined = (frames.detach()[:, :, 0].square().sum(-1) == 0)[None]
        y = torch.where(undefined, (1 - z.square()).clamp(min=PLANAR**2).sqrt(), y.abs().clamp(min=PLANAR))
    local = torch.where(used, torch.stack([x, y, z]), 0.0)
    values = spherical_harmonics(local.flatten(1).t(), l_max).view(-1, *used.shape)
    if not smooth:
        return values
    even = [n * n + n + m for n in range(l_max + 1) for m in range(n + 1)]
    return values.index_select(0, torch.tensor(even, device=values.device))


def joined(
    values: Float[Tensor, "components edge_slots atoms end_slots"],
    ends: Float[Tensor, "atoms end_slots F"],
    radial: Float[Tensor, "rows n_sbf components"],
    weight: Float[Tensor, "n_out n_sbf_F"],
    chunk: Chunk,
) -> Float[Tensor, "rows n_out"]:
    """Sums over far ends, times the radial basis, through the bilinear layer."""
    n, slots, _, _ = values.shape
    constant, others = values.split([1, n - 1])
    by_atom = lambda t: t.flatten(0, 1).transpose(0, 1)  # noqa: E731  (a view: rows (component, slot) of each atom)
    lowest = torch.bmm(by_atom(constant * chunk.used), ends).unflatten(1, (1, slots))
    higher = torch.bmm(by_atom(others), ends).unflatten(1, (n - 1, slots))
    sums = torch.cat([lowest, higher], 1).transpose(1, 2).flatten(2).flatten(0, 1)
    return bilinear(radial, picked(sums, chunk.rows, chunk.gaps).view(-1, n, ends.shape[2]), weight)


class _Again(torch.autograd.Function):
    """A function of tensors that keeps nothing but them: its derivatives compute it again. To any order."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(*inputs)
        return run(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        history = torch.is_grad_enabled()
        wanted = ctx.needs_input_grad[1:]
        inputs = [
            t if history and w else t.detach().requires_grad_(w) for t, w in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        with torch.enable_grad():
            out = ctx.run(*inputs)
            used = [t for t, w in zip(inputs, wanted, strict=True) if w]
            found = iter(torch.autograd.grad(out, used, grads, create_graph=history))
        return None, *(next(found) if w else None for w in wanted)


class QuadrupletInteraction(nn.Module):
    """Two-hop geometric message passing (Q-MP): what edge c -> a learns from the edges d -> b far away."""

    def __init__(self, n_edge: int, n_quadruplet: int, n_bilinear: int, n_rbf: int, n_cbf: int, n_sbf: int) -> None:
        super().__init__()
        self.dense = Dense(n_edge, n_edge)
        self.rbf = Dense(n_rbf, n_edge, activation=False)
        self.scale_rbf = ScalingFactor()
        self.down = Dense(n_edge, n_quadruplet)
        self.cbf = Dense(n_cbf, n_quadruplet, activation=False)
        self.scale_cbf = ScalingFactor()
        self.bilinear = Dense(n_sbf * n_quadruplet, n_bilinear, activation=False)
        self.scale_sum = ScalingFactor()
        self.up = Symmetric(n_bilinear, n_edge)

    def forward(
        self,
        m: Float[Tensor, "edges n_edge"],
        rbf: Float[Tensor, "edges n_rbf"],
        basis: SphericalBasis,
        edges: Edges,
        plus: Float[Tensor, "edges n_edge"],
        factor: float,
    ) -> Float[Tensor, "edges n_edge"]:
        """``plus`` and ``factor`` times the message."""
        x = self.dense(m)
        x = self.down(self.scale_rbf(filtered(x, rbf, self.scale_rbf.within(self.rbf.weight).t()), x))
        x = x.index_select(0, basis.quadruplets.outer)
        x = self.scale_cbf(filtered(x, basis.circular, self.scale_cbf.within(self.cbf.weight).t()), x)
        y = basis.messages(x, self.scale_sum.within(self.bilinear.weight))
        return self.up(self.scale_sum(y, x, basis.quadruplets.repeats), edges, plus, factor)
