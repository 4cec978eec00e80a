"""The power spectrum of spherical Bessel functions: few, orthonormal components without parameters but one.

E. Kocer, J. K. Mason, H. Erturk, AIP Adv. 10, 015021 (2020), doi:10.1063/1.5111045; as NeuralIL uses it,
H. Montes-Campos, J. Carrete, S. Bichelmaier, L. M. Varela, G. K. H. Madsen, J. Chem. Inf. Model. 62, 88 (2022),
doi:10.1021/acs.jcim.1c01380.

    p^ab_nl = (2l+1)/(4 pi) sum_(j in a) sum_(k in b) g_nl(r_j) g_nl(r_k) P_l(cos gamma_jk),     j = k included
            = sum_m c^a_nlm c^b_nlm,    c^a_nlm = sum_(j in a) g_nl(r_j) Y_lm(r_j)

The second line (the addition theorem of spherical harmonics) is what is computed: its cost is linear in the number of
neighbors. The radial functions ``g`` are those of :mod:`epot.features.bessel`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch

from ...elements import names
from ...errors import ConfigError
from ...geometry.graph import Graph
from ...typing import Float, Int, Tensor
from ..angular import derivative_matrices, spherical_harmonics
from ..bessel import radial_functions
from ..descriptor import Descriptor
from ..engine import wanted
from ..series import ChebyshevSeries

BLOCK = 2**18
"""Numbers, pairs times terms, that are computed at a time."""


class SphericalBessel(Descriptor):
    """Spherical Bessel power spectrum, diagonal in the radial index.

    Components: pairs of elements ``a <= b`` (in the order given) outermost, then l, then n: NeuralIL's order.

    Args:
        elements: symbols or atomic numbers; the species channels, in this order.
        cutoff: Å.
        n_max: highest order: l = 0 .. n_max and n = 0 .. n_max - l.

    Raises:
        ConfigError: the cutoff is not positive or ``n_max`` negative.
    """

    CITATION: ClassVar[str] = """@article{Kocer2020,
  author = {Kocer, Emir and Mason, Jeremy K. and Erturk, Hakan},
  title = {Continuous and optimally complete description of chemical environments using Spherical Bessel descriptors},
  journal = {AIP Adv.}, volume = {10}, pages = {015021}, year = {2020}, doi = {10.1063/1.5111045}
}"""

    def __init__(self, elements: Sequence[int | str], cutoff: float = 4.0, n_max: int = 4) -> None:
        super().__init__(elements)
        if not cutoff > 0 or n_max < 0:
            raise ConfigError(
                f"Spherical Bessel descriptors need a cutoff above 0 and n_max of at least 0; given: {cutoff}, {n_max}."
            )
        self.cutoff, self.n_max = float(cutoff), n_max
        self.radial = ChebyshevSeries(lambda r: radial_functions(r, self.cutoff, n_max), self.cutoff)
        kinds = [(order, n) for order in range(n_max + 1) for n in range(n_max - order + 1)]
        terms = [(row, order * order + m) for row, (order, _) in enumerate(kinds) for m in range(2 * order + 1)]
        self._kinds = kinds
        self.register_buffer("term_radial", torch.tensor([r for r, _ in terms]), persistent=False)
        self.register_buffer("term_angular", torch.tensor([a for _, a in terms]), persistent=False)
        sums = torch.zeros(len(terms), len(kinds), dtype=torch.float64)
        sums[torch.arange(len(terms)), self.term_radial] = 1
        self.register_buffer("sums", sums, persistent=False)
        first, second = torch.triu_indices(self.n_species, self.n_species)
        self.channels = list(zip(first.tolist(), second.tolist(), strict=True))
        self._make_ladders()

    term_radial: Tensor
    term_angular: Tensor
    sums: Tensor
    lower: Tensor
    by_axis: Tensor

    def _make_ladders(self) -> None:
        """What turns terms of degree l into gradients: harmonics of degree l - 1 along three axes, a block an l."""
        whole = derivative_matrices(self.n_max)
        lower, axes, self.widths, ladders = [], [], [self.n_max + 1], []
        for order in range(1, self.n_max + 1):
            below = torch.arange((order - 1) ** 2, order**2)
            block = whole[:, order**2 : (order + 1) ** 2][:, :, below]  # (3, 2 l + 1, 2 l - 1)
            ladders.append(block.permute(1, 0, 2).flatten(1).repeat(self.n_max - order + 1, 1).contiguous())
            lower.append(below.repeat(3))
            axes.append(torch.eye(3, dtype=torch.float64).repeat_interleave(len(below), 0))
            self.widths.append(len(ladders[-1]))
        self.register_buffer("lower", torch.cat([*lower, torch.zeros(0, dtype=torch.int64)]), persistent=False)
        self.register_buffer("by_axis", torch.cat([*axes, torch.zeros(0, 3, dtype=torch.float64)]), persistent=False)
        for order, ladder in enumerate(ladders):
            self.register_buffer(f"ladder{order + 1}", ladder, persistent=False)
        self._exact = self.radial.tables, ladders  # not buffers: float64 also where buffers are converted

    @property
    def ladders(self) -> list[Tensor]:
        """For each l from 1, ``(terms of l, 3 (2 l - 1))``."""
        return [getattr(self, f"ladder{order}") for order in range(1, self.n_max + 1)]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SphericalBessel:
        """After a conversion the constants are rounded anew: float32 and back to float64 loses nothing."""
        super()._apply(fn, recurse)
        tables, ladders = self._exact
        self.radial.tables = tables.to(self.radial.tables)
        for order, (exact, rounded) in enumerate(zip(ladders, self.ladders, strict=True)):
            setattr(self, f"ladder{order + 1}", exact.to(rounded))
        return self

    @property
    def size(self) -> int:
        """``T (T + 1) / 2 * (n_max + 1)(n_max + 2) / 2`` for T elements."""
        return len(self.channels) * len(self._kinds)

    def columns(self) -> list[str]:
        """``(element) (element') l n``."""
        named = [f"{names([self.elements[a]])} {names([self.elements[b]])}" for a, b in self.channels]
        return [f"{pair} l{order} n{n}" for pair in named for order, n in self._kinds]

    @classmethod
    def tiny(cls) -> SphericalBessel:
        return cls((1, 6, 8), 4.0, n_max=3)

    def layout(self, graph: Graph) -> Layout:
        """Which coefficients each pair adds to: kept with the graph."""
        return graph._once(f"bessel{self.elements}", lambda: self._layout(graph))

    def _layout(self, graph: Graph) -> Layout:
        species = self.species(graph)
        rows = graph.pairs[0] * self.n_species + species[graph.pairs[1]]
        counts = torch.bincount(rows, minlength=graph.n_atoms * self.n_species)
        many = max(1, graph.n_atoms * BLOCK // max(graph.n_pairs * len(self.sums), 1))
        edges = [*range(0, graph.n_atoms, many), graph.n_atoms]
        pairs = graph.row_pointers()[edges].tolist()
        blocks = [
            (slice(pairs[k], pairs[k + 1]), slice(edges[k] * self.n_species, edges[k + 1] * self.n_species))
            for k in range(len(edges) - 1)
        ]
        return Layout(rows, torch.argsort(rows), counts.cumsum(0) - counts, blocks)

    def coefficients(self, graph: Graph) -> Float[Tensor, "atoms species terms"]:
        """``c^a_nlm``: for each l and n all m. Differentiable to the fourth order."""
        found = _Coefficients.apply(graph.vectors().to(self.sums.dtype), self.layout(graph), self)
        return found.view(graph.n_atoms, self.n_species, -1)

    def forward(self, graph: Graph) -> Float[Tensor, "atoms size"]:
        """Power spectra; zeros for an atom without neighbors."""
        return _Spectrum.apply(self.coefficients(graph), self).flatten(1)

    def mixed(self, x: Tensor, y: Tensor) -> Float[Tensor, "atoms channels kinds"]:
        """``sum_m x^a y^b`` for every two elements ``a <= b``."""
        xs, ys = x.unbind(1), y.unbind(1)
        return torch.stack([xs[a] * ys[b] for a, b in self.channels], 1) @ self.sums

    def spread(self, grad: Float[Tensor, "atoms channels kinds"], c: Tensor) -> Float[Tensor, "atoms species terms"]:
        """The gradient of ``sum grad mixed(c, c)`` by ``c``: bilinear in the two."""
        each, cs = (grad @ self.sums.T).unbind(1), c.unbind(1)
        found: list[Any] = [0.0] * self.n_species
        for h, (a, b) in zip(each, self.channels, strict=True):
            found[a] = found[a] + h * cs[b]
            found[b] = found[b] + h * cs[a]
        return torch.stack(found, 1)

    def terms(self, vectors: Float[Tensor, "pairs 3"]) -> Float[Tensor, "pairs terms"]:
        """``g_nl Y_lm`` of every pair, by operations that autograd knows."""
        r = vectors.square().sum(1).sqrt()
        angular = spherical_harmonics(vectors / r[:, None], self.n_max)
        found = self.radial(r).index_select(0, self.term_radial) * angular.index_select(0, self.term_angular)
        return found.T

    def factors(self, vectors: Float[Tensor, "pairs 3"]) -> Factors:
        """The same with what its derivatives are made of, without autograd."""
        r = vectors.square().sum(1).sqrt()
        units = vectors / r[:, None]
        angular = spherical_harmonics(units, self.n_max)
        value, slope = (f.T.contiguous() for f in self.radial.with_derivative(r))
        return Factors(value, slope, angular.T.contiguous(), units, r[:, None])

    def values(self, f: Factors) -> Float[Tensor, "pairs terms"]:
        """Terms from their factors."""
        return f.radial.index_select(1, self.term_radial) * f.angular.index_select(1, self.term_angular)

    def _steep(self, f: Factors) -> Tensor:
        return f.slope.index_select(1, self.term_radial) * f.angular.index_select(1, self.term_angular)

    @torch.no_grad()
    def jacobian(self, graph: Graph) -> Float[Tensor, "pairs 3 size"]:
        """``dp^ab/dr_ij = sum_m (dc^a c^b + c^a dc^b)``: only pairs (a, b) with the element of j vary."""
        c = self.coefficients(graph)
        f = self.factors(graph.vectors().to(self.sums.dtype))
        gradients = torch.stack([self.push(f, along.expand_as(f.units)) for along in torch.eye(3).to(f.units)])
        around = c.index_select(0, graph.pairs[0])
        products = gradients.transpose(0, 1)[:, :, None, :] * around[:, None]
        halves = (products.flatten(0, 2) @ self.sums).view(graph.n_pairs, 3, self.n_species, len(self._kinds))
        sender = self.species(graph)[graph.pairs[1]]
        out = halves.new_zeros(graph.n_pairs, 3, len(self.channels), len(self._kinds))
        for column, (a, b) in enumerate(self.channels):
            for mine, other in ((a, b), (b, a)):
                which = (sender == mine).nonzero()[:, 0]
                out[which, :, column] += halves[which, :, other]
        return out.view(graph.n_pairs, 3, self.size)

    def push(self, f: Factors, velocities: Float[Tensor, "pairs 3"]) -> Float[Tensor, "pairs terms"]:
        """How the terms change when the vectors move: ``sum_a v_a dt/dr_a``."""
        outward = (f.units * velocities).sum(1, keepdim=True)
        around = (velocities - f.units * outward) / f.distances
        along = around @ self.by_axis.T * f.angular.index_select(1, self.lower)
        below = along.split([ladder.shape[1] for ladder in self.ladders], 1)
        turned = [b @ ladder.T for b, ladder in zip(below, self.ladders, strict=True)]
        flat = velocities.new_zeros(len(velocities), self.widths[0])  # of l = 0
        radial = f.radial.index_select(1, self.term_radial)
        return torch.addcmul(radial * torch.cat([flat, *turned], 1), self._steep(f), outward)

    def pull(self, f: Factors, grad: Float[Tensor, "pairs terms"]) -> Float[Tensor, "pairs 3"]:
        """The transpose: ``sum_k grad_k dt_k/dr``."""
        _, *parts = (grad * f.radial.index_select(1, self.term_radial)).split(self.widths, 1)
        below = [part @ ladder for part, ladder in zip(parts, self.ladders, strict=True)]
        turned = torch.cat([*below, grad[:, :0]], 1)
        around = ((turned * f.angular.index_select(1, self.lower)) @ self.by_axis) / f.distances
        outward = (grad * self._steep(f)).sum(1, keepdim=True) - (f.units * around).sum(1, keepdim=True)
        return torch.addcmul(around, f.units, outward)


class Layout(NamedTuple):
    """Where the terms of pairs are added.

    Attributes:
        rows: of each pair, ``atom * n_species + species of the neighbor``.
        order: pairs by row.
        starts: first position in ``order`` of each row.
        blocks: pairs and rows of some atoms at a time, so that what is computed of them stays in the cache.
    """

    rows: Int[Tensor, " pairs"]
    order: Int[Tensor, " pairs"]
    starts: Int[Tensor, " rows"]
    blocks: list[tuple[slice, slice]]

    def add(self, each: Callable[[int, slice], Tensor]) -> Float[Tensor, "rows terms"]:
        """Sums over the pairs of each row of what is given block by block: number and pairs to ``(pairs, terms)``."""
        made = []
        for k, (pairs, rows) in enumerate(self.blocks):
            first = pairs.start
            bags = self.order[pairs] - first, each(k, pairs), self.starts[rows] - first
            made.append(torch.nn.functional.embedding_bag(*bags, mode="sum"))
        return torch.cat(made) if len(made) > 1 else made[0]


class Factors(NamedTuple):
    """What terms of pairs and their derivatives are made of.

    Attributes:
        radial: ``g_nl``, ``(pairs, kinds)``.
        slope: ``dg_nl/dr``, ``(pairs, kinds)``.
        angular: ``Y_lm``, ``(pairs, harmonics)``.
        units: directions, ``(pairs, 3)``.
        distances: Å, ``(pairs, 1)``.
    """

    radial: Tensor
    slope: Tensor
    angular: Tensor
    units: Tensor
    distances: Tensor


class _Coefficients(torch.autograd.Function):
    """``c = sum_j t(r_j)``. What the derivatives of t are made of serves every backward pass, first and second."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, layout: Layout, of: SphericalBessel) -> Tensor:
        whole = of.factors(vectors.detach())
        made = [Factors(*(part[pairs] for part in whole)) for pairs, _ in layout.blocks]
        ctx.save_for_backward(vectors)
        ctx.kept = made, layout, of
        return layout.add(lambda k, _: of.values(made[k]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (vectors,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return _pull(grads[0], *ctx.kept), None, None
        return _Pull.apply(grads[0], vectors, *ctx.kept), None, None


def _pull(grad: Tensor, made: list[Factors], layout: Layout, of: SphericalBessel) -> Tensor:
    blocks = zip(made, layout.blocks, strict=True)
    return torch.cat([of.pull(f, grad.index_select(0, layout.rows[pairs])) for f, (pairs, _) in blocks])


class _Pull(torch.autograd.Function):
    """The gradient as a function of its own: linear in what comes in, and of the vectors by what autograd knows."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, vectors: Tensor, made: list[Factors], layout: Layout, of: SphericalBessel
    ) -> Tensor:
        ctx.save_for_backward(grad, vectors)
        ctx.kept = made, layout, of
        return _pull(grad, made, layout, of)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, vectors = ctx.saved_tensors
        made, layout, of = ctx.kept
        again = torch.is_grad_enabled()
        if not again and not wanted(vectors):  # a loss on forces: only what the coefficients are multiplied by
            return layout.add(lambda k, pairs: of.push(made[k], grads[0][pairs])), None, None, None, None
        with torch.enable_grad():
            # views: what comes in may depend on the vectors itself, and that way is not counted here
            grad = grad.view_as(grad) if grad.requires_grad else grad.detach().requires_grad_()
            vectors = vectors.view_as(vectors)
            total = (of.terms(vectors) * grad.index_select(0, layout.rows)).sum()
            (first,) = torch.autograd.grad(total, vectors, create_graph=True)
            found = torch.autograd.grad((first * grads[0]).sum(), (grad, vectors), create_graph=again)
        return *found, None, None, None


class _Spectrum(torch.autograd.Function):
    """``p = mixed(c, c)``, of which a loss on forces needs one derivative less than autograd would take."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, of: SphericalBessel) -> Tensor:
        ctx.save_for_backward(c)
        ctx.of = of
        return of.mixed(c, c)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (c,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return ctx.of.spread(grads[0], c), None
        return _Spread.apply(grads[0], c, ctx.of), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, c: Tensor, of: SphericalBessel) -> Tensor:
        ctx.save_for_backward(grad, c)
        ctx.of = of
        return of.spread(grad, c)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, c = ctx.saved_tensors
        v, of = grads[0], ctx.of
        to_grad = of.mixed(v, c) + of.mixed(c, v)
        to_c = of.spread(grad, v) if torch.is_grad_enabled() or wanted(c) else None
        return to_grad, to_c, None
