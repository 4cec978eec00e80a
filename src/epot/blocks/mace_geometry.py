"""The geometry as MACE's layers see it: where pairs lie, harmonics, and radial functions at pairs or at nodes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ..typing import Float, Int, Tensor
from .element_order import Sites
from .equivariant_splines import Terms
from .filter_tables import TERMS, Taps, grid, intervals
from .radial_network import RadialBasis
from .spline_messages import Knots, available


class Seen(NamedTuple):
    """What a radial network sees of some distances.

    Attributes:
        radial: radial functions, times the cutoff function where the network sees that.
        fade: the cutoff function, where the network does not see it; else None.
        source, target: rows of the sender's and the receiver's element.
    """

    radial: Float[Tensor, "distances functions"]
    fade: Float[Tensor, "distances 1"] | None
    source: Int[Tensor, " distances"]
    target: Int[Tensor, " distances"]


class Surroundings:
    """The geometry of all layers.

    Args:
        sites: where pairs lie, atoms sorted by element.
        distances: Å, of each slot.
        harmonics: of the directions from sender to receiver.
        basis: radial functions.
        embedding: what the features of the first layer are made of.
        numbers: atomic numbers of the elements that the potential knows.
        cutoff_on_radial: the radial network sees the cutoff function.
        by_elements: radial weights depend on the elements of a pair.
        once: only derivatives by the geometry are wanted, and once.
    """

    def __init__(
        self,
        sites: Sites,
        distances: Float[Tensor, " slots"],
        harmonics: Float[Tensor, "slots harmonics"],
        basis: RadialBasis,
        embedding: Tensor,
        numbers: Sequence[int],
        cutoff_on_radial: bool,
        by_elements: bool,
        once: bool,
    ) -> None:
        self.sites, self.distances, self.harmonics, self.once = sites, distances, harmonics, once
        self.basis, self.embedding = basis, embedding
        self.numbers, self.cutoff_on_radial = numbers, cutoff_on_radial
        self.by_elements = by_elements or basis.transform is not None

    @cached_property
    def compiled(self) -> bool:
        """Whether messages are those of compiled kernels."""
        degree = int(self.harmonics.shape[1] ** 0.5) - 1
        return available(self.distances.device, self.distances.dtype, degree)

    @cached_property
    def species(self) -> tuple[Int[Tensor, " slots"], Int[Tensor, " slots"]]:
        """Which of the elements that are there the sender and the receiver of each slot are."""
        made, layout = self.sites.made, self.sites.layout
        if "ends" not in made:
            made["ends"] = tuple(self.sites.species.index_select(0, k) for k in (layout.senders, layout.receivers))
        return made["ends"]

    @cached_property
    def elements(self) -> Float[Tensor, "slots present"]:
        """Which of the elements that are there each sender is: ones and zeros."""
        made, key = self.sites.made, ("elements", self.distances.dtype)
        if key not in made:
            with torch.inference_mode(False):
                made[key] = torch.nn.functional.one_hot(self.species[0], len(self.sites.kinds)).to(self.distances.dtype)
        return made[key]

    @cached_property
    def pairs(self) -> Seen:
        """Radial functions of every slot."""
        source, target = (self.sites.kinds.index_select(0, s) for s in self.species)
        return self._seen(self.distances, source, target)

    @cached_property
    def knots(self) -> Knots:
        """Where splines of the distance are asked for."""
        basis, like = self.basis, self.distances
        on = grid(basis.cutoff, intervals(basis.kind, basis.n, like.dtype), like.dtype, like.device)
        if not self.by_elements:
            return Knots(on)
        n, couples, made = len(self.sites.kinds), self.sites.couples, self.sites.made
        if "kinds" not in made:
            made["kinds"] = self.species[0] * n + self.species[1]
            if len(couples) < n * n:
                rank = couples.new_zeros(n * n)
                rank[couples[:, 0] * n + couples[:, 1]] = torch.arange(len(couples), device=couples.device)
                made["kinds"] = rank.index_select(0, made["kinds"])
        return Knots(on, made["kinds"], len(couples))

    @cached_property
    def present(self) -> tuple[int, ...]:
        """Rows of the elements that are there."""
        return tuple(self.sites.kinds.tolist())

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """What tables of radial functions are for: the pairs of elements that are there, where they depend on them."""
        if not self.by_elements:
            return ()
        n, couples = len(self.sites.kinds), self.sites.couples
        return self.present + (() if len(couples) == n * n else (-1, *couples.flatten().tolist()))

    @cached_property
    def nodes(self) -> Seen:
        """Radial functions at the nodes of the splines, for one kind of pair after the other."""
        knots, kinds = self.knots, self.sites.kinds
        points = knots.grid.points
        if knots.kinds is None:
            one = kinds.new_zeros(len(points))
            return self._seen(points, one, one)
        pairs = kinds[self.sites.couples].repeat_interleave(len(points), 0)
        return self._seen(points.abs().repeat(knots.n_kinds), *pairs.unbind(1))

    def interpolated(self, table: Float[Tensor, "rows functions"]) -> Float[Tensor, "slots functions"]:
        """Functions of the distance in every slot from coefficients of their splines, those of a kind of pair after
        those of another. Differentiable once, by the distances alone.
        """
        return _Interpolated.apply(self.distances, table, self.terms)

    @cached_property
    def terms(self) -> Terms:
        """Of splines of the distance, in every slot. Empty slots have none."""
        knots, r = self.knots, self.distances
        taps = Taps(r, knots.grid, self.basis.cutoff, _constant)
        rows, n = taps.index(), len(r)
        if knots.kinds is not None:
            first = knots.kinds * (len(knots.grid.points))
            rows = (rows.view(-1, TERMS) + first.unsqueeze(1)).flatten()
        made = self.sites.made
        if "empty" not in made:
            full = torch.zeros(n, dtype=torch.bool, device=r.device).index_fill_(0, self.sites.layout.place, True)
            made["empty"] = (~full).nonzero()[:, 0]
            made["starts"] = torch.arange(0, 2 * n * TERMS, TERMS, device=r.device)
        factors = taps.weights(0), taps.weights(1)
        for weights in factors:
            weights.view(n, TERMS).index_fill_(0, made["empty"], 0.0)
        return Terms(rows, made["starts"], factors)

    def _seen(self, distances: Tensor, source: Tensor, target: Tensor) -> Seen:
        numbers = None
        if self.basis.transform is not None:
            table = torch.tensor(self.numbers, device=source.device)
            numbers = torch.stack([table.index_select(0, k) for k in (source, target)])
        radial, fade = self.basis(distances, numbers)
        return (
            Seen(radial * fade, None, source, target) if self.cutoff_on_radial else Seen(radial, fade, source, target)
        )


class _Interpolated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distances: Tensor, table: Tensor, terms: Terms) -> Tensor:
        ctx.save_for_backward(table)
        ctx.terms = terms
        return terms.whole(table, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (table,) = ctx.saved_tensors
        return (grad * ctx.terms.whole(table, 1)).sum(1), None, None


def _constant(r: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """1 and its derivative: the cutoff function is in the table."""
    return torch.ones_like(r), torch.zeros_like(r)
