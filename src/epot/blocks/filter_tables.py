"""Functions of the distance as quintic splines: what a network makes of it is computed at nodes, not at every pair.

A filter ``W(r) = fade(r) f(r)`` is a smooth function of one number, so its values at a few hundred nodes say all of it:
with B-splines of degree 5 on equal intervals, ``f(r) = sum_k N_k(r) c_k`` with six terms that are not zero. The
coefficients ``c`` are linear in the values at the nodes, so gradients with respect to a network's weights go through
the nodes only, in training too; the spline has four continuous derivatives, so energies, forces and Hessians are
those of one smooth function. The cutoff function is not tabulated: it multiplies the six terms exactly.

Splines: C. de Boor, A Practical Guide to Splines (1978), chapters IX and XIII.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import comb, factorial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import solve_banded

from ..features.cutoff import CutoffFunction
from ..features.radial import radial_basis
from ..typing import Float, Int, Tensor

DEGREE = 5
TERMS = DEGREE + 1
MARGIN = 3  # intervals beyond both ends, where the conditions at the ends of a spline do no harm
TOLERANCE = {torch.float64: 1e-10}  # of a kept table, relative to the largest value; 2e-7 in other precisions
CLOSEST = 0.5  # Å: atoms are not nearer, and some radial functions are far larger there
FINEST = 16  # times the usual number of nodes


class Grid(NamedTuple):
    """Equal intervals from ``-MARGIN`` steps to ``MARGIN`` steps beyond the cutoff.

    Attributes:
        intervals: between 0 and the cutoff.
        step: Å.
        points: where values are asked for: the knots, and two points more near either end, ``(coefficients,)``.
        terms: coefficients of ``1, x, .., x^5`` in the six B-splines of an interval, their first and their second
            derivative by x, where x goes from 0 to 1, ``(6, 18)``.
    """

    intervals: int
    step: float
    points: Float[Tensor, " coefficients"]
    terms: Float[Tensor, "six eighteen"]


@lru_cache(maxsize=32)
def grid(cutoff: float, intervals: int, dtype: torch.dtype, device: torch.device) -> Grid:
    """The grid with so many intervals between 0 and the cutoff (Å)."""
    with torch.inference_mode(False), torch.no_grad():
        step = cutoff / intervals
        points = (_places(intervals) - MARGIN) * step
        points[MARGIN + 2] = 1e-12 * step  # not zero, by which some radial functions divide
        return Grid(intervals, step, points.to(dtype).to(device), _polynomials().to(dtype).to(device))


def _places(intervals: int) -> Tensor:
    """Of the points, in intervals from the first."""
    n = intervals + 2 * MARGIN
    ends = torch.tensor([0.5, 1.5], dtype=torch.float64)
    return torch.cat([torch.arange(n + 1, dtype=torch.float64), ends, n - ends]).sort().values


def _terms(intervals: int) -> tuple[Tensor, Tensor]:
    """The first of the six coefficients at each point, and what multiplies them."""
    places = _places(intervals)
    first = places.floor().clamp(max=intervals + 2 * MARGIN - 1)
    return first.long(), _powers(places - first) @ _polynomials()[:, :TERMS]


@lru_cache(maxsize=32)
def solver(intervals: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "coefficients coefficients"]:
    """The matrix that makes coefficients of values at the points of a grid."""
    with torch.inference_mode(False), torch.no_grad():
        first, terms = _terms(intervals)
        matrix = terms.new_zeros(len(first), len(first))
        matrix.scatter_(1, first.unsqueeze(1) + torch.arange(TERMS), terms)
        return torch.linalg.inv(matrix).to(dtype).to(device)


def _solved(intervals: int, values: Float[Tensor, "coefficients F"]) -> Tensor:
    """Coefficients without that matrix, whose size grows with the square of theirs."""
    first, terms = _terms(intervals)
    n = len(first)
    rows, columns = np.repeat(np.arange(n), TERMS), (first.unsqueeze(1) + torch.arange(TERMS)).view(-1).numpy()
    band = np.zeros((2 * DEGREE + 1, n))
    band[DEGREE + rows - columns, columns] = terms.view(-1).numpy()
    solved = solve_banded((DEGREE, DEGREE), band, values.cpu().numpy(), check_finite=False)
    return torch.from_numpy(solved).to(values.device)


def _polynomials() -> Float[Tensor, "six eighteen"]:
    """B-spline k on the interval: ``sum_s (-1)^(s-k) C(6, s-k) (5 - s + x)^5 / 5!`` for s = k..5, and derivatives."""
    table = torch.zeros(TERMS, 3 * TERMS, dtype=torch.float64)
    for k in range(TERMS):
        for p in range(TERMS):
            total = sum((-1) ** (s - k) * comb(TERMS, s - k) * (DEGREE - s) ** (DEGREE - p) for s in range(k, TERMS))
            table[p, k] = comb(DEGREE, p) * total / factorial(DEGREE)
    powers = torch.arange(1.0, TERMS, dtype=torch.float64)[:, None]
    table[:-1, TERMS : 2 * TERMS] = table[1:, :TERMS] * powers
    table[:-1, 2 * TERMS :] = table[1:, TERMS : 2 * TERMS] * powers
    return table


def _powers(x: Tensor) -> Tensor:
    two = x * x
    three = two * x
    return torch.stack([torch.ones_like(x), x, two, three, two * two, two * three], -1)


def continued(name: str, r: Tensor, cutoff: float) -> Tensor:
    """The cutoff function at nodes: beyond the cutoff its formula goes on, as splines want it smooth there."""
    if name == "cosine":
        return 0.5 * (torch.cos(r * (math.pi / cutoff)) + 1)
    x = r / cutoff
    return 1 + x**6 * (-28 + x * (48 - x * 21))  # epot.features.cutoff.polynomial_cutoff


@lru_cache(maxsize=8)
def radial_splines(
    radial: str, n_radial: int, fade: str, cutoff: float, n: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "coefficients functions"]:
    """Splines of radial functions times the cutoff function, and of the cutoff function alone as the last.

    What is linear in them has their coefficients times its weights.

    Args:
        radial, n_radial: which functions, how many.
        fade: ``cosine`` or ``polynomial``.
        cutoff: Å.
        n: intervals of the grid.
        dtype, device: of the coefficients; they are computed in float64.
    """
    with torch.inference_mode(False), torch.no_grad():
        points = grid(cutoff, n, torch.float64, torch.device("cpu")).points
        smooth = continued(fade, points, cutoff).unsqueeze(1)
        values = torch.cat([radial_basis(radial, points, cutoff, n_radial) * smooth, smooth], 1)
        return _solved(n, values).to(dtype).contiguous().to(device)


class Taps:
    """The six terms of the spline at each of some distances, times the cutoff function.

    Args:
        distances: Å, from 0 to the cutoff; in float64 the places between the knots lose nothing.
        on: the grid, of the precision of the terms.
        cutoff: Å.
        fade: the cutoff function, with its derivative.
    """

    def __init__(self, distances: Float[Tensor, " pairs"], on: Grid, cutoff: float, fade: CutoffFunction) -> None:
        self.grid = on
        r = distances.detach()
        place = r * (1 / on.step) + MARGIN
        floor = place.floor()
        self._first = floor
        self._powers = _powers((place - floor).to(on.terms.dtype))
        self._fade = (r.to(on.terms.dtype), fade, cutoff)
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made at the first call with this name."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def index(self) -> Int[Tensor, " terms"]:
        """Of the six coefficients of each distance."""
        return self.once("index", self._index)

    def _index(self) -> Tensor:
        six = torch.arange(TERMS, dtype=torch.int64, device=self._first.device)
        return (self._first.to(torch.int64).unsqueeze(1) + six).view(-1)

    def weights(self, order: int) -> Float[Tensor, " terms"]:
        """What multiplies them in the function (order 0), or in its first or second derivative by the distance."""
        return self.once("two", self._two)[order] if order < 2 else self.once("third", self._third)

    def values(self, table: Float[Tensor, "coefficients F"], order: int = 0) -> Float[Tensor, "pairs F"]:
        """The functions, or their first or second derivative, at all distances."""
        starts = torch.arange(0, self._first.numel() * TERMS, TERMS, device=table.device)
        return sums(table, self.index(), starts, self.weights(order))

    def _two(self) -> tuple[Tensor, Tensor]:
        r, fade, cutoff = self._fade
        value, slope = (t.unsqueeze(1) for t in fade(r, cutoff))
        n, dn = self._powers.mm(self.grid.terms[:, : 2 * TERMS]).split(TERMS, 1)
        return (n * value).view(-1), (n * slope).addcmul_(dn, value, value=1 / self.grid.step).view(-1)

    def _third(self) -> Tensor:
        r, fade, cutoff = self._fade
        with torch.enable_grad():
            leaf = r.clone().requires_grad_()
            value, slope = fade(leaf, cutoff)
            (curve,) = torch.autograd.grad(slope.sum(), leaf)
        n, dn, ddn = self._powers.mm(self.grid.terms).split(TERMS, 1)
        value, slope, curve = (t.detach().unsqueeze(1) for t in (value, slope, curve))
        step = self.grid.step
        return (n * curve + dn * (slope * (2 / step)) + ddn * (value * (1 / step**2))).view(-1)


def intervals(radial: str, n_radial: int, dtype: torch.dtype) -> int:
    """How many a table needs for radial functions of that kind: each Gaussian 5, each wave 12; six times in float64.

    Filters of usual weights are then within 1e-7 of their splines, slopes within 1e-6 (1e-12 and 1e-10 in float64).
    """
    each = 12 if radial == "bessel" else 5
    return max(n_radial, 6) * each * (6 if dtype == torch.float64 else 1)


def sums(
    table: Float[Tensor, "rows F"], index: Int[Tensor, " terms"], offsets: Int[Tensor, " sums"], weights: Tensor | None
) -> Float[Tensor, "sums F"]:
    """``sum_t weights_t table[index_t]``, of the terms from each offset up to the next."""
    return torch.embedding_bag(table, index, offsets, False, 0, False, weights)[0]


class Turned:
    """The transpose of sums of six terms: which terms of which pairs each row is in."""

    def __init__(self, first: Int[Tensor, " pairs"], n_rows: int) -> None:
        order = torch.argsort(first)
        ends = torch.bincount(first, minlength=n_rows).cumsum(0)
        begins = torch.nn.functional.pad(ends[:-TERMS], (TERMS, 0))  # a row is in the terms of the six rows up to it
        lengths = ends - begins
        self.starts = lengths.cumsum(0) - lengths
        rows = torch.arange(n_rows, device=first.device).repeat_interleave(lengths, output_size=TERMS * len(first))
        places = torch.arange(len(rows), device=first.device) + (begins - self.starts).index_select(0, rows)
        self.pairs = order.index_select(0, places)
        self.order = self.pairs * TERMS + rows - first.index_select(0, self.pairs)

    def sums(self, parts: list[tuple[Tensor, Tensor | None, Tensor]]) -> Tensor:
        """Over parts, each rows ``d``, which of them each pair takes (None: its own), and the terms' weights."""
        made = []
        for d, which, weights in parts:
            index = self.pairs if which is None else which.index_select(0, self.pairs)
            made.append(sums(d, index, self.starts, weights.index_select(0, self.order)))
        return made[0] if len(made) == 1 else made[0].add_(made[1])


class Kept:
    """Tables of functions that do not change, made once: for molecular dynamics, and whatever has no history."""

    def __init__(self) -> None:
        self._held: tuple[Any, tuple[Grid, list[Tensor]]] | None = None
        self._products: tuple[Tensor, Tensor, Tensor] | None = None

    def __deepcopy__(self, memo: dict) -> Kept:
        return Kept()

    def of(
        self,
        make: Callable[[], Callable[[Tensor], list[Tensor]]],
        parameters: Sequence[Tensor],
        cutoff: float,
        radial: str,
        n_radial: int,
    ) -> tuple[Grid, list[Tensor]]:
        """Grid and coefficients ``(coefficients, F)`` of each function, with more nodes where they need them.

        The nodes are doubled until the splines are right between them too, to 2e-7 of the largest value (1e-10 in
        float64).

        Args:
            make: gives what takes distances ``(points,)``, Å, in float64 to ``(points, F)`` of each function.
            parameters: everything that they depend on, of one dtype and device.
            cutoff: Å.
            radial, n_radial: of the radial functions in them.
        """
        now = [(p, p._version, p.detach()) for p in parameters]  # what is detached keeps its memory from others
        if self._held is None or not all(map(_same, now, self._held[0])):
            with torch.inference_mode(False), torch.no_grad():
                self._held = (now, refined(make(), parameters[0], cutoff, radial, n_radial))
        return self._held[1]

    @torch.no_grad()
    def product(self, y: Float[Tensor, "elements F"], table: Float[Tensor, "rows F"]) -> Tensor:
        """``y * table``, ``(elements, rows, F)``, made again where one of them is another."""
        held = self._products
        if held is None or held[1] is not table or not torch.equal(held[0], y):
            held = self._products = (y.detach(), table, y.detach().unsqueeze(1) * table)
        return held[2]


def _same(new: tuple[Tensor, int, Tensor], old: tuple[Tensor, int, Tensor]) -> bool:
    """Whether a parameter has not changed since."""
    return new[0] is old[0] and new[1] == old[1] and new[2].data_ptr() == old[2].data_ptr()


def refined(
    functions: Callable[[Tensor], list[Tensor]], like: Tensor, cutoff: float, radial: str, n_radial: int
) -> tuple[Grid, list[Tensor]]:
    """Grid and coefficients with as many nodes as :meth:`Kept.of` says, in the dtype and on the device of ``like``."""
    n = usual = intervals(radial, n_radial, like.dtype)
    tolerance = TOLERANCE.get(like.dtype, 2e-7)
    while True:
        on = grid(cutoff, n, torch.float64, like.device)
        tables = [_solved(n, values) for values in functions(on.points)]
        between = (torch.arange(n, dtype=torch.float64, device=like.device) + 0.5) * on.step
        between = between[between > min(CLOSEST, cutoff / 4)]
        taps = Taps(between, on, cutoff, lambda r, _: (torch.ones_like(r), torch.zeros_like(r)))
        worst = max(
            float((taps.values(table) - exact).abs().max() / exact.abs().max().clamp(min=1e-30))
            for exact, table in zip(functions(between), tables, strict=True)
        )
        if not worst > tolerance or n >= FINEST * usual:
            return grid(cutoff, n, like.dtype, like.device), [table.to(like.dtype).contiguous() for table in tables]
        n *= 2
