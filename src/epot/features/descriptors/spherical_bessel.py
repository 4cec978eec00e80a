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
from typing import Any, ClassVar

import torch

from ...elements import names
from ...errors import ConfigError
from ...geometry.graph import Graph
from ...typing import Float, Int, Tensor
from ..angular import harmonics_with_gradients, spherical_harmonics
from ..bessel import radial_functions
from ..descriptor import Descriptor
from ..engine import wanted
from ..series import ChebyshevSeries


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
        self._exact = self.radial.tables  # not a buffer: stays float64 where buffers are converted
        kinds = [(order, n) for order in range(n_max + 1) for n in range(n_max - order + 1)]
        terms = [(row, order * order + m) for row, (order, _) in enumerate(kinds) for m in range(2 * order + 1)]
        self._kinds = kinds
        self.register_buffer("term_radial", torch.tensor([r for r, _ in terms]), persistent=False)
        self.register_buffer("term_angular", torch.tensor([a for _, a in terms]), persistent=False)
        sums = torch.zeros(len(terms), len(kinds), dtype=torch.float64)
        sums[torch.arange(len(terms)), self.term_radial] = 1
        self.register_buffer("sums", sums, persistent=False)
        first, second = torch.triu_indices(self.n_species, self.n_species)
        self.register_buffer("first", first.contiguous(), persistent=False)
        self.register_buffer("second", second.contiguous(), persistent=False)

    term_radial: Tensor
    term_angular: Tensor
    sums: Tensor
    first: Tensor
    second: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SphericalBessel:
        """After a conversion the constants are rounded anew: float32 and back to float64 loses nothing."""
        super()._apply(fn, recurse)
        self.radial.tables = self._exact.to(self.radial.tables)
        return self

    @property
    def size(self) -> int:
        """``T (T + 1) / 2 * (n_max + 1)(n_max + 2) / 2`` for T elements."""
        return len(self.first) * len(self._kinds)

    def columns(self) -> list[str]:
        """``(element) (element') l n``."""
        pairs = zip(self.first.tolist(), self.second.tolist(), strict=True)
        named = [f"{names([self.elements[a]])} {names([self.elements[b]])}" for a, b in pairs]
        return [f"{pair} l{order} n{n}" for pair in named for order, n in self._kinds]

    @classmethod
    def tiny(cls) -> SphericalBessel:
        return cls((1, 6, 8), 4.0, n_max=3)

    def rows(self, graph: Graph) -> Int[Tensor, " pairs"]:
        """Atom and species of neighbor of each pair, as one index: kept with the graph."""
        make = lambda: graph.pairs[0] * self.n_species + self.species(graph)[graph.pairs[1]]  # noqa: E731
        return graph._once(f"atom_species{self.elements}", make)

    def coefficients(self, graph: Graph) -> Float[Tensor, "atoms species terms"]:
        """``c^a_nlm``: for each l and n all m. Differentiable to the fourth order."""
        vectors = graph.vectors().to(self.sums.dtype)
        if graph.n_pairs == 0:
            self.species(graph)  # refuses unknown elements
        found = _Coefficients.apply(vectors, self.rows(graph), graph.n_atoms * self.n_species, self)
        return found.view(graph.n_atoms, self.n_species, -1)

    def forward(self, graph: Graph) -> Float[Tensor, "atoms size"]:
        """Power spectra; zeros for an atom without neighbors."""
        c = self.coefficients(graph)
        products = c.index_select(1, self.first) * c.index_select(1, self.second)
        return (products.flatten(0, 1) @ self.sums).view(graph.n_atoms, self.size)

    def terms(self, vectors: Float[Tensor, "pairs 3"]) -> Float[Tensor, "terms pairs"]:
        """``g_nl Y_lm`` of every pair, by operations that autograd knows."""
        r = vectors.square().sum(1).sqrt()
        angular = spherical_harmonics(vectors / r[:, None], self.n_max)
        return self.radial(r).index_select(0, self.term_radial) * angular.index_select(0, self.term_angular)

    def terms_with_gradients(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The same ``(pairs, terms)`` and their derivatives by the vectors, ``(3, pairs, terms)``, in closed form."""
        r = vectors.square().sum(1).sqrt()
        units = vectors / r[:, None]
        angular = harmonics_with_gradients(units, r, self.n_max)
        value, slope = (f.index_select(0, self.term_radial) for f in self.radial.with_derivative(r))
        y = angular.values.index_select(0, self.term_angular)
        gradients = angular.gradients.index_select(1, self.term_angular) * value
        gradients += units.T.contiguous()[:, None, :] * (slope * y)
        return (value * y).T.contiguous(), gradients.transpose(1, 2).contiguous()

    @torch.no_grad()
    def jacobian(self, graph: Graph) -> Float[Tensor, "pairs 3 size"]:
        """``dp^ab/dr_ij = sum_m (dc^a c^b + c^a dc^b)``: only pairs (a, b) with the element of j vary."""
        c = self.coefficients(graph)
        _, gradients = self.terms_with_gradients(graph.vectors().to(self.sums.dtype))
        around = c.index_select(0, graph.pairs[0])
        products = gradients.transpose(0, 1)[:, :, None, :] * around[:, None]
        halves = (products.flatten(0, 2) @ self.sums).view(graph.n_pairs, 3, self.n_species, len(self._kinds))
        sender = self.species(graph)[graph.pairs[1]]
        out = halves.new_zeros(graph.n_pairs, 3, len(self.first), len(self._kinds))
        for column, (a, b) in enumerate(zip(self.first.tolist(), self.second.tolist(), strict=True)):
            for mine, other in ((a, b), (b, a)):
                which = (sender == mine).nonzero()[:, 0]
                out[which, :, column] += halves[which, :, other]
        return out.view(graph.n_pairs, 3, self.size)


class _Coefficients(torch.autograd.Function):
    """``c = sum_j t(r_j)``. The derivatives of t are made once and serve every backward pass, first and second."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, rows: Tensor, n_rows: int, of: SphericalBessel) -> Tensor:
        if ctx.needs_input_grad[0]:
            values, gradients = of.terms_with_gradients(vectors.detach())
            ctx.save_for_backward(vectors, rows, gradients)
        else:
            values = of.terms(vectors).T
        ctx.of = of
        return values.new_zeros(n_rows, values.shape[1]).index_add_(0, rows, values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        vectors, rows, gradients = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return _pull(grads[0], rows, gradients), None, None, None
        return _Pull.apply(grads[0], vectors, rows, gradients, ctx.of), None, None, None


def _pull(grad: Tensor, rows: Tensor, gradients: Tensor) -> Tensor:
    """``sum_k grad_k dt_k/dr``, ``(pairs, 3)``."""
    each = grad.index_select(0, rows)
    return torch.stack([(each * g).sum(1) for g in gradients], 1)


class _Pull(torch.autograd.Function):
    """The gradient as a function of its own: linear in what comes in, and of the vectors by what autograd knows."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, vectors: Tensor, rows: Tensor, gradients: Tensor, of: SphericalBessel
    ) -> Tensor:
        ctx.save_for_backward(grad, vectors, rows, gradients)
        ctx.of = of
        return _pull(grad, rows, gradients)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, vectors, rows, gradients = ctx.saved_tensors
        again = torch.is_grad_enabled()
        if not again and not wanted(vectors):  # a loss on forces: only what the coefficients are multiplied by
            push = sum(v[:, None] * g for v, g in zip(grads[0].unbind(1), gradients, strict=True))
            return torch.zeros_like(grad).index_add_(0, rows, push), None, None, None, None
        with torch.enable_grad():
            # views: what comes in may depend on the vectors itself, and that way is not counted here
            grad = grad.view_as(grad) if grad.requires_grad else grad.detach().requires_grad_()
            vectors = vectors.view_as(vectors)
            total = (ctx.of.terms(vectors).T * grad.index_select(0, rows)).sum()
            (first,) = torch.autograd.grad(total, vectors, create_graph=True)
            found = torch.autograd.grad((first * grads[0]).sum(), (grad, vectors), create_graph=again)
        return *found, None, None, None
