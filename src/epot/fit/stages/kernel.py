"""Choose the training structures that a kernel ridge regression compares with, and the scales of its kernel."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from ...data.structure import Structure
from ...errors import ConfigError, LabelError
from ...geometry.graph import build
from ...models.krr import Krr
from ...potential import Potential
from ...progress import track
from ...typing import Tensor
from ..recipe import FitState, Stage, offsets_of, one_term
from ..selection import farthest_points
from .offsets import baseline

BATCH = 1024
"""Atoms that are described at a time."""


class FitKernel(Stage):
    """Points, length scale and amplitude of a kernel ridge regression.

    The most probable length is the one that maximizes the marginal likelihood of the energies,

        log p(y) = -1/2 y^T (K + s^2)^-1 y - 1/2 log |K + s^2| + const

    (Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), Eq. 5.8), over the length, the amplitude
    (in closed form) and the noise ``s`` together, on some of the structures. The best length by leaving one out is the
    one whose predictions of each structure from all others have the smallest mean absolute error (in closed form too,
    Eqs. 5.10-5.12): it serves better where labels are exact and errors far from Gaussian, as in QM7.

    Args:
        method: of the points, where not all structures become points: ``"fps"`` (farthest points) or ``"random"``.
        scales: ``"leave_one_out"``, ``"evidence"``, or ``"median"``: the median distance between two structures (ten
            times it for the Laplacian kernel) and the standard deviation of the energies.
        subset: structures by which they are chosen: time grows as its cube.
        span: the length is looked for between the median distance divided and multiplied by it.
        energy_sigma: eV per atom, that of :class:`~epot.fit.stages.solve.Solve`: where the most probable noise is
            larger, the amplitude is made smaller until their ratio is the most probable one, which is all that the
            solution depends on.

    Raises:
        ConfigError: a value is out of range.
    """

    rank: ClassVar[int] = 1

    def __init__(
        self,
        method: Literal["fps", "random"] = "fps",
        scales: Literal["leave_one_out", "evidence", "median"] = "leave_one_out",
        subset: int = 1000,
        span: float = 100.0,
        energy_sigma: float = 0.001,
    ) -> None:
        self.method, self.scales, self.subset, self.span = method, scales, subset, span
        self.energy_sigma = energy_sigma
        if method not in ("fps", "random"):
            raise ConfigError(f"FitKernel.method is {method!r}; expected 'fps' or 'random'.")
        if scales not in ("leave_one_out", "evidence", "median"):
            raise ConfigError(f"FitKernel.scales is {scales!r}; expected 'leave_one_out', 'evidence' or 'median'.")
        if subset < 2 or not span > 1 or not energy_sigma > 0:
            raise ConfigError(
                "FitKernel needs a subset of at least 2, a span above 1 and an energy_sigma above 0; given: "
                f"{subset}, {span}, {energy_sigma}."
            )

    @classmethod
    def applies(cls, potential: Potential) -> bool:
        return any(isinstance(m, Krr) for m in potential.modules())

    def check(self, state: FitState) -> None:
        """Whether there is a kernel, energies to find its scales by, and whether all structures can be described.

        Raises:
            FitError: the potential has no kernel of whole structures.
            LabelError: fewer than two energies, and scales are to be found.
            ModelError: a structure cannot be described.
        """
        term = kernel_term(state)
        described(state, term, state.train[0:1])
        if term.length is None or term.delta is None:
            labeled = sum(s.energy is not None for s in state.train)
            if labeled < 2:
                raise LabelError(
                    f"Of the training structures {labeled} have energies; the scales of the kernel are found by them: "
                    "give the potential its length and delta, or energies to the structures."
                )

    def run(self, state: FitState) -> None:
        """Fill the points and scales of the potential."""
        start = time.monotonic()
        term = kernel_term(state)
        rows = described(state, term, state.train)
        chosen = self._choose(term, rows, state.seed)
        found = self._scales(state, term, rows)
        length, delta = term.length or found.length, term.delta or found.delta * self._share(state, found)
        term.set_points(rows[chosen], length, delta)
        facts = {"points": len(chosen), "length": length, "delta": delta, "best": found._asdict()}
        facts |= {"scales": self.scales, "seconds": round(time.monotonic() - start, 2)}
        state.about.setdefault("fit", {})["kernel"] = facts
        state.journal.write("kernel", **facts)

    def _share(self, state: FitState, found: Scales) -> float:
        """The noise that the solve assumes over the most probable one, at most 1."""
        sizes = [len(s) for s in state.train if s.energy is not None]
        return min(1.0, self.energy_sigma * float(np.mean(sizes)) ** 0.5 / found.noise) if found.noise else 1.0

    def _choose(self, term: Krr, rows: Tensor, seed: int) -> Tensor:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        if term.n_points is None or term.n_points >= len(rows):
            return torch.arange(len(rows))
        if self.method == "random":
            return order[: term.n_points].sort().values
        return farthest_points(rows, term.n_points, start=int(order[0]))

    def _scales(self, state: FitState, term: Krr, rows: Tensor) -> Scales:
        """The most probable ones, or those of the rule."""
        if term.length is not None and term.delta is not None:
            return Scales(term.length, term.delta, None)
        left = targets(state)
        labeled = np.flatnonzero(np.isfinite(left))
        few = np.random.default_rng([state.seed, 2]).permutation(labeled)[: self.subset]
        few.sort()
        some, y = rows[torch.from_numpy(few)], left[few] - left[labeled].mean()
        typical, spread = median_distance(some, term.kernel), float(np.std(left[labeled])) or 1.0
        if self.scales == "median" or len(few) < 3:
            return Scales(typical * (10 if term.kernel == "laplacian" else 1), spread, None)
        return best_scales(term, some, y, typical, self.span, CRITERIA[self.scales])


class Scales(NamedTuple):
    """Length (unit of the descriptor), amplitude (eV) and noise (eV) of a kernel."""

    length: float
    delta: float
    noise: float | None


Criterion = Callable[[np.ndarray, np.ndarray, float | None], tuple[float, float, float]]


def best_scales(term: Krr, rows: Tensor, y: np.ndarray, typical: float, span: float, criterion: Criterion) -> Scales:
    """The scales that maximize a criterion: a scan over the length, then a search around its best."""
    at = lambda x: criterion(_gram(term, rows, math.exp(x)), y, term.delta)  # noqa: E731
    if term.length is not None:
        best = math.log(term.length)
    else:
        grid = np.linspace(math.log(typical / span), math.log(typical * span), 13)
        values = [at(x)[0] for x in grid]
        k = int(np.argmax(values))
        bounds = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
        best = float(minimize_scalar(lambda x: -at(x)[0], bounds=bounds, method="bounded", options={"xatol": 0.05}).x)
    _, delta, noise = at(best)
    return Scales(math.exp(best), delta, noise)


def evidence(gram: np.ndarray, y: np.ndarray, delta: float | None = None) -> tuple[float, float, float]:
    """The largest log marginal likelihood over the noise (and the amplitude, unless given), and both of these.

    Args:
        gram: K for an amplitude of 1, ``(n, n)``.
        y: eV, ``(n,)``.
        delta: eV; None for the best.
    """
    values, vectors = np.linalg.eigh(gram)
    values, parts, n = np.clip(values, 0, None), vectors.T @ y, len(y)

    def likelihood(log_ratio: float) -> tuple[float, float]:
        level = values + math.exp(log_ratio)
        amplitude = float(np.sum(parts**2 / level)) / n if delta is None else delta**2
        amplitude = max(amplitude, 1e-300)
        fit = np.sum(parts**2 / level) / amplitude
        return float(-0.5 * (fit + np.log(level).sum() + n * math.log(amplitude))), amplitude

    scan = np.linspace(math.log(1e-10), math.log(1e2), 25)
    k = int(np.argmax([likelihood(x)[0] for x in scan]))
    bounds = scan[max(k - 1, 0)], scan[min(k + 1, len(scan) - 1)]
    best = float(minimize_scalar(lambda x: -likelihood(x)[0], bounds=bounds, method="bounded").x)
    value, amplitude = likelihood(best)
    return value, math.sqrt(amplitude), math.sqrt(amplitude * math.exp(best))


def leave_one_out(gram: np.ndarray, y: np.ndarray, delta: float | None = None) -> tuple[float, float, float]:
    """The smallest mean absolute error of each label from all others, negative; with amplitude and noise as above.

    The error of one left out is ``[C^-1 y]_k / [C^-1]_kk`` with ``C = K + s^2`` (Rasmussen and Williams, Eq. 5.12). It
    depends on the ratio of noise and amplitude alone; the amplitude is the most probable one.
    """
    values, vectors = np.linalg.eigh(gram)
    values, parts, squares = np.clip(values, 0, None), vectors.T @ y, vectors**2

    def error(log_ratio: float) -> float:
        level = 1 / (values + math.exp(log_ratio))
        return float(np.abs(vectors @ (parts * level) / (squares @ level)).mean())

    scan = np.linspace(math.log(1e-10), math.log(1e2), 25)
    k = int(np.argmin([error(x) for x in scan]))
    bounds = scan[max(k - 1, 0)], scan[min(k + 1, len(scan) - 1)]
    best = float(minimize_scalar(error, bounds=bounds, method="bounded").x)
    amplitude = math.sqrt(max(float(np.mean(parts**2 / (values + math.exp(best)))), 1e-300)) if delta is None else delta
    return -error(best), amplitude, amplitude * math.exp(best / 2)


CRITERIA: dict[str, Criterion] = {"leave_one_out": leave_one_out, "evidence": evidence}


def _gram(term: Krr, rows: Tensor, length: float) -> np.ndarray:
    return term.covariance(rows, rows, length=length, delta=1.0).numpy()


def median_distance(rows: Tensor, kernel: str) -> float:
    """Median distance between two rows, in the norm of the kernel."""
    pairs = torch.pdist(rows, p=1.0 if kernel == "laplacian" else 2.0)
    pairs = pairs[pairs > 0]
    return float(pairs.median()) if len(pairs) else 1.0


def targets(state: FitState) -> np.ndarray:
    """eV: energies less what the other terms say, ``(structures,)``; not a number where there is none."""
    offsets = offsets_of(state.potential)
    each = np.zeros(120) if offsets is None else offsets.energies.cpu().numpy()
    base = baseline(state.potential, state.train, state.device).energy
    labels = [np.nan if s.energy is None else s.energy - each[s.numbers].sum() for s in state.train]
    return np.array(labels) - base


@torch.no_grad()
def described(state: FitState, term: Krr, data: Any) -> Tensor:
    """Rows of structures, ``(structures, size)``."""
    held: list[Structure] = []
    parts: list[Tensor] = []

    def flush() -> None:
        if held:
            graph = build(held, term.cutoff, elements=term.elements, device=state.device)
            parts.append(term.descriptor(graph).to(term.points))
            held.clear()

    for structure in track(data, "describing structures"):
        held.append(structure)
        if sum(len(s) for s in held) >= BATCH:
            flush()
    flush()
    return torch.cat(parts)


def kernel_term(state: FitState) -> Krr:
    """The term whose kernel is set."""
    return one_term(state, Krr, "FitKernel sets the kernel of")
