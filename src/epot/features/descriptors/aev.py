"""The atomic environment vector of ANI: radial functions by element, angular functions by pair of elements.

J. S. Smith, O. Isayev, A. E. Roitberg, Chem. Sci. 8, 3192 (2017), doi:10.1039/C6SC05720A, Eqs. 3 and 4; constants of
ANI-1x (J. Chem. Phys. 148, 241733 (2018)) and ANI-2x (J. Chem. Theory Comput. 16, 4192 (2020)), and two factors that
the codes have and the papers do not (:data:`epot.features.aev_kernels.RADIAL`, ``BENT``):

    G^R = 1/4 sum_j exp(-eta (r_ij - R_s)^2) fc(r_ij)
    G^A = 2 sum_(j<k) ((1 + cos(theta - theta_s)) / 2)^zeta exp(-eta ((r_ij + r_ik)/2 - R_s)^2) fc(r_ij) fc(r_ik)

with ``theta = acos(0.95 cos theta_jik)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ...elements import names
from ...errors import ConfigError
from ...geometry.graph import Graph
from ...typing import Float, Tensor
from .. import aev_kernels as kernels
from ..aev_layout import Layout, layout
from ..cutoff import cutoff_function as window
from ..descriptor import Descriptor
from ..engine import wanted

Shifts = int | Sequence[float] | None


class _Set(NamedTuple):
    """Published constants; shifts are ``n`` from ``start`` in equal steps to the cutoff, which is left out."""

    start: float
    cutoff: float
    radial_eta: float
    n_radial: int
    angular_cutoff: float
    angular_eta: float
    zeta: float
    n_angular: int
    n_sections: int


SETS = {
    "1x": _Set(0.9, 5.2, 16.0, 16, 3.5, 8.0, 32.0, 4, 8),
    "2x": _Set(0.8, 5.1, 19.7, 16, 3.5, 12.5, 14.1, 8, 4),
}
"""Constants by the name of the model. A 1x with H C N O has 384 components, a 2x with H C N O S F Cl 1008."""


class AEV(Descriptor):
    """ANI's modified symmetry functions: radial by element, angular by pair of elements.

    Args:
        elements: symbols or atomic numbers. Published models have H C N O (1x) and H C N O S F Cl (2x), in this order.
        layout: whose constants: ``"1x"`` or ``"2x"``; those below replace single ones of them.
        cutoff_function: ``"cosine"`` (the papers'; its second derivative jumps at the cutoff), ``"exponential"``
            (torchani's ``smooth``) or another of :data:`epot.features.cutoff.CUTOFFS`.
        cutoff: Å, of the radial part.
        angular_cutoff: Å, not longer than ``cutoff``.
        start: Å, the first of the shifts that are not given one by one.
        radial_eta: 1/Å^2; if left out, that of the layout, scaled so that neighboring Gaussians overlap as there.
        radial_shifts: Å, the centers ``R_s`` of the radial part, or how many there are from ``start`` to the cutoff.
        angular_eta: 1/Å^2, like ``radial_eta``.
        zeta: power of the angular part.
        angular_shifts: like ``radial_shifts``.
        sections: rad, the angles ``theta_s``, or how many there are in equal parts of half a turn.

    Raises:
        ConfigError: a value is impossible.
    """

    CITATION: ClassVar[str] = """@article{Smith2017,
  author = {Smith, J. S. and Isayev, O. and Roitberg, A. E.},
  title = {{ANI-1}: an extensible neural network potential with {DFT} accuracy at force field computational cost},
  journal = {Chem. Sci.}, volume = {8}, pages = {3192}, year = {2017}, doi = {10.1039/C6SC05720A}
}"""

    precision: Tensor

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        layout: Literal["1x", "2x"] = "2x",
        cutoff_function: str = "cosine",
        cutoff: float | None = None,
        angular_cutoff: float | None = None,
        start: float | None = None,
        radial_eta: float | None = None,
        radial_shifts: Shifts = None,
        angular_eta: float | None = None,
        zeta: float | None = None,
        angular_shifts: Shifts = None,
        sections: Shifts = None,
    ) -> None:
        super().__init__(elements)
        if layout not in SETS:
            raise ConfigError(f"There is no layout {layout!r} of AEV; there are {', '.join(SETS)}.")
        own = SETS[layout]
        self.layout, self.cutoff_function = layout, cutoff_function
        self.cutoff = float(own.cutoff if cutoff is None else cutoff)
        self.angular_cutoff = float(own.angular_cutoff if angular_cutoff is None else angular_cutoff)
        self.start = float(own.start if start is None else start)
        if not 0 < self.angular_cutoff <= self.cutoff:
            raise ConfigError(
                f"AEV needs 0 < angular_cutoff <= cutoff; given: {self.angular_cutoff} and {self.cutoff} Å."
            )
        self.radial_shifts, step = _shifts(radial_shifts, own.n_radial, self.start, self.cutoff, "radial_shifts")
        usual = (own.cutoff - own.start) / own.n_radial
        self.radial_eta = _eta(radial_eta, own.radial_eta, usual, step)
        self.angular_shifts, step = _shifts(
            angular_shifts, own.n_angular, self.start, self.angular_cutoff, "angular_shifts"
        )
        usual = (own.angular_cutoff - own.start) / own.n_angular
        self.angular_eta = _eta(angular_eta, own.angular_eta, usual, step)
        self.zeta = float(own.zeta if zeta is None else zeta)
        self.sections = _sections(sections, own.n_sections)
        for name in ("radial_eta", "angular_eta", "zeta"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"AEV's {name} is {getattr(self, name)}; it must be above 0.")
        self._window = window(cutoff_function)
        # of the computation; constants are made of the full numbers in whatever it is, converted back and forth or not
        self.register_buffer("precision", torch.zeros((), dtype=torch.float64), persistent=False)
        self._made: dict[tuple[torch.dtype, torch.device], kernels.Constants] = {}

    @classmethod
    def tiny(cls) -> AEV:
        return cls((1, 6, 8), "2x", cutoff=4.2, angular_cutoff=3.6, radial_shifts=5, angular_shifts=3, sections=3)

    @property
    def size(self) -> int:
        """Radial functions for each element, angular ones for each pair of elements: 16 S + 32 S (S + 1) / 2."""
        n, angular = self.n_species, len(self.angular_shifts) * len(self.sections)
        return n * len(self.radial_shifts) + n * (n + 1) // 2 * angular

    def columns(self) -> list[str]:
        """``element R=center``, then ``element-element R=center theta=angle``: Å and degrees."""
        symbols = [names([z]) for z in self.elements]
        made = [f"{a} R={r:.3f}" for a in symbols for r in self.radial_shifts]
        pairs = [(a, b) for k, a in enumerate(symbols) for b in symbols[k:]]
        angular = [(r, math.degrees(t)) for r in self.angular_shifts for t in self.sections]
        return made + [f"{a}-{b} R={r:.3f} theta={t:.1f}" for a, b in pairs for r, t in angular]

    def forward(self, graph: Graph) -> Float[Tensor, "atoms size"]:
        """One row an atom: radial by element, then angular by pair of elements, shifts before sections."""
        vectors, where = self._prepare(graph)
        return _Rows.apply(vectors, where, self._constants())

    def jacobian(self, graph: Graph) -> Float[Tensor, "pairs 3 size"]:
        """``dG_i/dr_ij``, in closed form."""
        with torch.no_grad():
            vectors, where = self._prepare(graph)
            c = self._constants()
            _, kept = kernels.value(vectors, where, c, True)
            kinds = self.species(graph).index_select(0, graph.pairs[1])
            return kernels.jacobian(kept, where, c, kinds, self.n_species)

    def _prepare(self, graph: Graph) -> tuple[Tensor, Layout]:
        vectors = graph.vectors().to(self.precision.dtype)
        distances = vectors.detach().square().sum(1).sqrt()
        species, dtype = self.species(graph), vectors.dtype
        return vectors, layout(graph, species, distances, self.n_species, self.angular_cutoff, dtype)

    def _constants(self) -> kernels.Constants:
        key = self.precision.dtype, self.precision.device
        if key not in self._made:
            radial, angular, sections = map(
                self.precision.new_tensor, (self.radial_shifts, self.angular_shifts, self.sections)
            )
            self._made[key] = kernels.constants(
                (self.cutoff, self.radial_eta, radial),
                (self.angular_cutoff, self.angular_eta, self.zeta, angular, sections),
                self._window,
            )
        return self._made[key]


class _Rows(torch.autograd.Function):
    """The rows of a graph; the two derivatives that forces and their training need are written out."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, where: Layout, c: kernels.Constants) -> Tensor:
        rows, kept = kernels.value(vectors, where, c, ctx.needs_input_grad[0])
        ctx.save_for_backward(vectors)
        ctx.rest = kept, where, c
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():  # nobody will differentiate it
            return kernels.pull(grad, *ctx.rest), None, None
        return _Pull.apply(grad, *ctx.saved_tensors, ctx.rest), None, None


class _Pull(torch.autograd.Function):
    """The vector-Jacobian product as a function of its own, whose gradient a loss on forces asks for."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, vectors: Tensor, rest: tuple[kernels.Kept, Layout, kernels.Constants]
    ) -> Tensor:
        ctx.save_for_backward(grad, vectors)
        ctx.rest = rest
        return kernels.pull(grad, *rest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        grad, vectors = ctx.saved_tensors
        kept, where, c = ctx.rest
        by_grad = kernels.push(tangent, kept, where, c) if wanted(grad) else None
        by_vectors = None
        if wanted(vectors):
            with torch.enable_grad():
                leaf = vectors.detach().requires_grad_()
                (pulled,) = torch.autograd.grad(kernels.plain(leaf, where, c), leaf, grad.detach(), create_graph=True)
                (by_vectors,) = torch.autograd.grad(pulled, leaf, tangent)
        return by_grad, by_vectors, None


def _shifts(given: Shifts, usual: int, start: float, stop: float, name: str) -> tuple[tuple[float, ...], float]:
    """Centers and the step between them."""
    if given is None or isinstance(given, int):
        n = usual if given is None else given
        if n < 1 or not start < stop:
            raise ConfigError(f"AEV needs at least one of {name}, and start below the cutoff; given: {n}, {start} Å.")
        step = (stop - start) / n
        return tuple(start + k * step for k in range(n)), step
    made = tuple(float(x) for x in given)
    if not made:
        raise ConfigError(f"AEV's {name} are empty; it needs at least one.")
    return made, (max(made) - min(made)) / (len(made) - 1) if len(made) > 1 else stop - made[0]


def _sections(given: Shifts, usual: int) -> tuple[float, ...]:
    n = usual if given is None else given
    if not isinstance(n, int):
        return tuple(float(x) for x in n)
    if n < 1:
        raise ConfigError(f"AEV needs at least one of sections; given: {n}.")
    return tuple((k + 0.5) * math.pi / n for k in range(n))


def _eta(given: float | None, usual: float, usual_step: float, step: float) -> float:
    """As given; else the layout's, wider or narrower with the step between centers."""
    if given is not None:
        return float(given)
    return usual if math.isclose(step, usual_step) else usual * (usual_step / step) ** 2
