"""Atom-centered symmetry functions, the descriptor of the first neural network potentials.

Behler, J. Chem. Phys. 134, 074106 (2011), doi:10.1063/1.3553717; element-weighted: Gastegger et al., J. Chem. Phys.
148, 241709 (2018), doi:10.1063/1.5019667. Sums over neighbors are done once for all functions that share an exponential
or a power (:mod:`epot.features.triple_sums`).

    G2_i = sum_j exp(-eta (r_ij - center)^2) fc(r_ij)                                                      (Eq. 6)
    G4_i = 2^(1-zeta) sum_(j<k) (1 + lambda cos theta_jik)^zeta exp(-eta (r_ij^2 + r_ik^2 + r_jk^2))
           fc(r_ij) fc(r_ik) fc(r_jk)                                                                      (Eq. 8)

Sums run over unordered pairs of neighbors, as in n2p2 and dscribe: half of what the paper's equation says literally.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from ...elements import names
from ...errors import ConfigError
from ...geometry.graph import Graph
from ...typing import Float, Int, Tensor
from ..compact_functions import CompactAngular, CompactFamily, CompactRadial, compact_values
from ..cutoff import CutoffFunction
from ..cutoff import cutoff_function as fade_of
from ..descriptor import Descriptor
from ..symmetry_functions import (
    AngularFamily,
    AngularFunction,
    RadialFunction,
    angular_grid,
    radial_grid,
    radial_values,
)
from ..triple_jacobian import triple_jacobian
from ..triple_sums import Family, triple_sums
from ..triples import Layout

Functions = int | Sequence[Any]


class ACSF(Descriptor):
    """Radial functions of each neighboring element, angular ones of each pair of elements.

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å, of all functions that have none of their own.
        radial: how fine a grid of radial functions is (``2 n + 1`` functions for each element; 0 for none), or the
            functions: ``(eta, center)`` for a G2, or mappings with ``eta``, ``center``, ``kappa`` (G3; neither for G1),
            ``cutoff``, ``neighbors`` (one element; all if not given). 1/Å^2, Å, 1/Å, Å.
        angular: how many radial extents a grid of G4 has (6 n functions for each pair of elements; 0 for none), or the
            functions: ``(eta, zeta, lambda)`` for a G4, or mappings with ``eta``, ``zeta``, ``lambda``, ``center``,
            ``closed`` (False for G5), ``cutoff``, ``neighbors`` (two elements). Mappings with ``shape`` are windows
            instead of Gaussians (:mod:`epot.features.compact_functions`).
        cutoff_function: one of :data:`epot.features.cutoff.CUTOFFS`.
        inner: share of each cutoff within which the cutoff function is 1 (n2p2's alpha).
        weighted: neighbors of all elements are counted together, each with its atomic number as weight (two, with their
            product): the size does not grow with the number of elements (Gastegger et al., Eqs. 6 and 7).

    Raises:
        ConfigError: an unknown key or an impossible value.
    """

    CITATION: ClassVar[str] = """@article{Behler2011,
  author = {Behler, J{\\"o}rg},
  title = {Atom-centered symmetry functions for constructing high-dimensional neural network potentials},
  journal = {J. Chem. Phys.}, volume = {134}, pages = {074106}, year = {2011}, doi = {10.1063/1.3553717}
}"""

    weights: Tensor
    chosen: Tensor

    def __init__(
        self,
        elements: Sequence[int | str],
        cutoff: float = 5.0,
        radial: Functions = 8,
        angular: Functions = 4,
        cutoff_function: str = "poly2",
        inner: float = 0.0,
        weighted: bool = False,
    ) -> None:
        super().__init__(elements)
        if not cutoff > 0:
            raise ConfigError(f"The cutoff of symmetry functions is {cutoff} Å; it must be above 0.")
        self.radial, self.angular, self.weighted = _plain(radial), _plain(angular), weighted
        self.cutoff_function, self.inner, self.fade = cutoff_function, inner, fade_of(cutoff_function, inner)
        if isinstance(radial, int):
            self.radial_functions: list[Any] = radial_grid(cutoff, radial) if radial else []
        else:
            self.radial_functions = [(CompactRadial if _compact(f) else RadialFunction).of(f, cutoff) for f in radial]
        if isinstance(angular, int):
            self.angular_functions: list[Any] = angular_grid(cutoff, angular) if angular else []
        else:
            kinds = [CompactAngular if _compact(f) else AngularFunction for f in angular]
            self.angular_functions = [kind.of(f, cutoff) for kind, f in zip(kinds, angular, strict=True)]
        reach = [f.cutoff for f in self.radial_functions] + [f.cutoff for f in self.angular_functions]
        if not reach:
            raise ConfigError("ACSF needs at least one radial or angular function.")
        if (worst := max(reach)) > cutoff:
            raise ConfigError(f"A symmetry function has a cutoff of {worst} Å, beyond the descriptor's {cutoff} Å.")
        self.cutoff = float(cutoff)
        numbers = [float(z) if weighted else 1.0 for z in self.elements]
        self.register_buffer("weights", torch.tensor(numbers, dtype=torch.float64), persistent=False)
        self._arrange()

    @classmethod
    def tiny(cls) -> ACSF:
        return cls((1, 6, 8), 4.0, radial=[(0.5, 0.0), (4.0, 1.2)], angular=[(0.05, 1, 1), (0.05, 4, -1)])

    def _arrange(self) -> None:
        """Which functions are evaluated together, and where each column is found in what they give."""
        places: dict[tuple, int] = {}  # of (neighbors, function) among everything that is evaluated
        channels: list[tuple[int, ...]] = [()] if self.weighted else [(z,) for z in self.elements]
        radial = list(dict.fromkeys(replace(f, neighbors=()) for f in self.radial_functions))
        self._gaussians = [f for f in radial if isinstance(f, RadialFunction)]
        self._windows = [f for f in radial if isinstance(f, CompactRadial)]
        for place in itertools.product(channels, [*self._gaussians, *self._windows]):
            places[place] = len(places)
        self._groups: list[tuple[Family, float, Tensor]] = []
        groups: dict[tuple, list[Any]] = {}
        for f in self.angular_functions:
            own = f.cutoff if isinstance(f, AngularFunction) else None  # windows of all sizes go together
            groups.setdefault((type(f), f.closed, own), []).append(f)
        for functions in groups.values():
            family, products = _family(functions, self.fade)
            kinds = self._kinds(functions)
            for at, product in itertools.product(kinds, products):
                places[at, product] = len(places)
            self._groups.append((family, max(f.cutoff for f in functions), self._table(kinds)))
        self.functions: list[tuple[tuple[int, ...], Any]] = [
            (c, f) for c in channels for f in self.radial_functions if f.neighbors in ((), c)
        ]
        pairs: list[Any] = [()] if self.weighted else list(itertools.combinations_with_replacement(self.elements, 2))
        self.functions += [(c, f) for c in pairs for f in self.angular_functions if _meant(f, c)]
        chosen = torch.tensor([places[c, replace(f, neighbors=())] for c, f in self.functions])
        self.register_buffer("chosen", chosen, persistent=False)
        self._in_order = len(places) == len(chosen) and bool((chosen.diff() == 1).all())

    def _kinds(self, functions: Sequence[Any]) -> list[tuple[int, ...]]:
        if self.weighted:
            return [()]
        pairs = itertools.combinations_with_replacement(self.elements, 2)
        return [p for p in pairs if any(_meant(f, p) for f in functions)]

    def _table(self, kinds: Sequence[tuple[int, ...]]) -> Tensor:
        """Row of two elements among the kinds; -1 where there is none."""
        n = 1 if self.weighted else self.n_species
        table = torch.full((n, n), 0 if self.weighted else -1)
        for k, pair in enumerate(kinds if not self.weighted else ()):
            a, b = (self.elements.index(z) for z in pair)
            table[a, b] = table[b, a] = k
        return table

    @property
    def size(self) -> int:
        return len(self.chosen)

    def columns(self) -> list[str]:
        """``O: G2 eta=0.5 center=1.2``, ``H O: G4 eta=0.05 zeta=4 lambda=-1``; ``Z:`` if weighted."""
        own = lambda f: f"{f} cutoff={f.cutoff:g}" if f.cutoff != self.cutoff else str(f)  # noqa: E731
        return [f"{' '.join(names([z]) for z in c) or 'Z'}: {own(f)}" for c, f in self.functions]

    def forward(self, graph: Graph) -> Float[Tensor, "atoms size"]:
        species = self.species(graph)
        parts = []
        if self._gaussians or self._windows:
            values = self._radial_values(graph.vectors().to(self.weights.dtype).square().sum(1).sqrt())
            row, weights, rows = self._channels(graph, species)
            values = values.T if weights is None else values.T * weights[:, None]
            sums = values.new_zeros(rows, values.shape[1]).index_add(0, row, values)
            parts.append(sums.view(graph.n_atoms, -1))
        for family, cutoff, kinds in self._groups:
            near = graph.within(cutoff)
            vectors = near.vectors().to(self.weights.dtype)
            parts.append(triple_sums(near, vectors, family, self._layout(species, kinds)).flatten(1))
        return self._choose(torch.cat(parts, 1))

    def _radial_values(self, r: Tensor, slopes: bool = False) -> Float[Tensor, "functions pairs"]:
        found = [radial_values(r, self._gaussians, self.fade, slopes)] if self._gaussians else []
        found += [compact_values(r, self._windows, slopes)] if self._windows else []
        return torch.cat(found) if len(found) > 1 else found[0]

    def _choose(self, found: Tensor) -> Tensor:
        return found if self._in_order else found.index_select(-1, self.chosen)

    def _channels(self, graph: Graph, species: Tensor) -> tuple[Int[Tensor, " pairs"], Tensor | None, int]:
        """Row that each pair is added to, with which weight, and how many rows there are."""
        i, j = graph.pairs
        if self.weighted:
            return i, self.weights[species[j]], graph.n_atoms
        return i * self.n_species + species[j], None, graph.n_atoms * self.n_species

    def _layout(self, species: Tensor, kinds: Tensor) -> Layout:
        if self.weighted:
            return Layout(torch.zeros_like(species), kinds, self.weights[species])
        return Layout(species, kinds, self.weights[species])

    @torch.no_grad()
    def jacobian(self, graph: Graph) -> Float[Tensor, "pairs 3 size"]:
        """In closed form."""
        species = self.species(graph)
        vectors = graph.vectors().to(self.weights.dtype)
        parts = []
        if self._gaussians or self._windows:
            r = vectors.square().sum(1).sqrt()
            slopes = self._radial_values(r, slopes=True)
            row, weights, rows = self._channels(graph, species)
            slopes = slopes / r if weights is None else slopes * (weights / r)
            found = vectors.new_zeros(graph.n_pairs, rows // max(graph.n_atoms, 1), 3, len(slopes))
            at = torch.arange(graph.n_pairs, device=row.device)
            found[at, row % found.shape[1]] = vectors[:, :, None] * slopes.T[:, None]
            parts.append(found.transpose(1, 2).flatten(2))
        for family, cutoff, kinds in self._groups:
            near = (vectors.square().sum(1) < cutoff**2).nonzero()[:, 0]
            inside = graph.replace(
                pairs=graph.pairs[:, near], shifts=graph.shifts[near], _vectors=graph.vectors().detach()[near]
            )
            found = triple_jacobian(inside, vectors[near], family, self._layout(species, kinds)).flatten(2)
            parts.append(found.new_zeros(graph.n_pairs, *found.shape[1:]).index_copy_(0, near, found))
        return self._choose(torch.cat(parts, 2))


def _plain(given: Functions) -> Any:
    """As JSON would give it back."""
    if isinstance(given, int):
        return given
    return [dict(f) if isinstance(f, Mapping) else list(f) if isinstance(f, Sequence) else f for f in given]


def _compact(given: Any) -> bool:
    return isinstance(given, Mapping) and "shape" in given


def _family(functions: Sequence[Any], fade: CutoffFunction) -> tuple[Family, list[Any]]:
    """What evaluates functions of one kind together, and all that it gives in its order."""
    first = functions[0]
    if isinstance(first, CompactAngular):
        windows, angles = (list(dict.fromkeys(t)) for t in zip(*((f.window, f.angles) for f in functions), strict=True))
        family: Family = CompactFamily(windows, angles, first.closed)
        return family, [CompactAngular(w, a, first.closed) for w, a in itertools.product(windows, angles)]
    exponents = list(dict.fromkeys((f.eta, f.center) for f in functions))
    signs, zetas = (list(dict.fromkeys(t)) for t in zip(*((f.lambda_, f.zeta) for f in functions), strict=True))
    family = AngularFamily(exponents, signs, zetas, first.closed, first.cutoff, fade)
    return family, [
        AngularFunction(eta, zeta, sign, center, first.closed, first.cutoff)
        for (eta, center), zeta, sign in itertools.product(exponents, zetas, signs)
    ]


def _meant(function: Any, pair: tuple[int, ...]) -> bool:
    return function.neighbors in ((), tuple(sorted(pair)))
