"""Draw an ensemble from the posterior of the readout's weights."""

from __future__ import annotations

import time
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from ...blocks.readout import LinearReadout, prior_precision
from ...data.structure import Structure
from ...errors import ConfigError
from ...geometry.graph import Graph, build
from ...potential import Potential, is_committee
from ...predict import Prediction, predict
from ...progress import bar
from ...typing import Tensor
from ...uncertainty.estimate import batches
from ...uncertainty.posterior import Rows, combine, evidence, sample, variance
from ..design import learned_term
from ..recipe import FitState, Stage, readout_of

BATCH = 256  # atoms
FLOORS = {"energy": 1e-5, "forces": 1e-4, "virial": 1e-4}  # sigmas of a model that fits its training set exactly
TARGETS = tuple(FLOORS)


class Posterior(Stage):
    """An ensemble for any model with a linear readout, without refitting it (:mod:`epot.uncertainty.posterior`).

    After a closed-form solve the factor of the solve is used; after a descent (or a solve that was resumed) the rows
    of the training set are made once more: energies, and a few random combinations of the forces of each structure. The
    sigmas of those rows are the root mean square training errors. Members are the fitted weights plus samples whose
    mean is zero, so the mean of the ensemble is the fitted model. One factor of their spread comes from the
    training set, a better one from held-out structures in :class:`~epot.fit.stages.calibrate.Calibrate`.

    Args:
        members: of the ensemble; 16 give a standard deviation to 18 percent, 32 to 13.
        directions: random combinations of the forces of each structure; more where the training set is so small that
            there would be fewer than five rows for each weight. Each costs about as much as a step of descent.
        prior: precision of the weights where the readout sets none; None finds it from the data
            (:func:`epot.uncertainty.posterior.evidence`).
        max_structures: of the training set, chosen at random, that rows are made for.

    Raises:
        ConfigError: fewer than two members, or another number is not positive.
    """

    rank: ClassVar[int] = 3

    def __init__(
        self, members: int = 16, directions: int = 4, prior: float | None = None, max_structures: int = 2000
    ) -> None:
        self.members, self.directions, self.prior, self.max_structures = members, directions, prior, max_structures
        if members < 2:
            raise ConfigError(f"Posterior.members is {members}; a spread needs at least 2, and 16 to be worth much.")
        for name in ("directions", "prior", "max_structures"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"Posterior.{name} is {value!r}; it must be above 0.")

    @classmethod
    def applies(cls, potential: Potential) -> bool:
        """Not to a committee, which has members of its own, nor where nothing is linear in what is learned."""
        return readout_of(potential) is not None and not is_committee(potential)

    def check(self, state: FitState) -> None:
        """Whether there is a linear readout.

        Raises:
            FitError: there is none, or more than one.
        """
        learned_term(state.potential)

    def run(self, state: FitState) -> None:
        """Fill ``readout.member_weights``."""
        start = time.monotonic()
        readout: LinearReadout = learned_term(state.potential).readout  # type: ignore[assignment]
        generator = torch.Generator().manual_seed(state.seed + 7919)
        readout.member_weights = readout.member_weights[:, :0]  # members of an earlier fit would cost time
        weights = readout.weight.detach().double().cpu()
        solved = state.factor is not None and len(state.factor) == len(weights)
        chosen = self._chosen(state, 64 if solved else self.max_structures)
        gathered = _Gathered(len(weights))
        directions = max(self.directions, -(-5 * len(weights) // max(1, len(chosen)))) if not solved else 1
        rows = Rows(state.potential, len(weights), directions, generator)
        with bar("posterior", len(chosen)) as shown:
            for batch in batches(chosen, BATCH):
                gathered.add(state, rows, readout, batch)
                shown.advance(len(batch))
        prior = None
        if solved:
            factor = state.factor.double().cpu()
        else:
            factor, prior = self._factor(gathered, prior_precision(state.potential), readout, weights)
        alpha = gathered.scale(factor)
        deviations = alpha * sample(factor, self.members, generator)
        readout.member_weights = (weights[:, None] + deviations).to(readout.weight)
        facts: dict[str, Any] = {
            "members": self.members, "solved": solved, "alpha_train": alpha, "prior": prior,
            "rows": gathered.n_rows, "structures": len(chosen), "sigmas": gathered.sigmas(),
            "seconds": round(time.monotonic() - start, 2),
        }  # fmt: skip
        state.about["posterior"] = facts
        state.journal.write("posterior", **facts)

    @staticmethod
    def _chosen(state: FitState, most: int) -> list[Structure]:
        order = np.random.default_rng(state.seed).permutation(len(state.train))[:most]
        return [state.train[int(k)] for k in np.sort(order)]

    def _factor(
        self, gathered: _Gathered, precision: Tensor, readout: LinearReadout, weights: Tensor
    ) -> tuple[Tensor, float | None]:
        """R of data and prior together."""
        data = gathered.factor()
        precision = precision.detach().double().cpu()
        if precision.dim() == 2 and len(precision):
            lift = 1e-10 * float(precision.diagonal().mean())
            lower = torch.linalg.cholesky(precision + lift * torch.eye(len(precision), dtype=torch.float64))
            return combine([data, lower.T]), None
        if len(precision):
            return combine([data, torch.diag(precision.sqrt())]), None
        single = readout.weight.dtype != torch.float64
        prior = evidence(data, weights, single=single) if self.prior is None else self.prior
        return combine([data, prior**0.5 * torch.eye(len(weights), dtype=torch.float64)]), prior


class _Kept(NamedTuple):
    rows: Tensor
    errors: Tensor
    structures: int


class _Gathered:
    """Triangles of each target, the errors on the training set, and some rows with their errors."""

    def __init__(self, size: int) -> None:
        self.size, self.n_rows = size, 0
        self.triangles = {t: torch.zeros(0, size, dtype=torch.float64) for t in TARGETS}
        self.waiting: dict[str, list[Tensor]] = {t: [] for t in TARGETS}
        self.squares = dict.fromkeys(TARGETS, 0.0)
        self.counts = dict.fromkeys(TARGETS, 0)
        self.kept: dict[str, list[_Kept]] = {t: [] for t in TARGETS}

    def add(self, state: FitState, rows: Rows, readout: LinearReadout, batch: list[Structure]) -> None:
        potential = state.potential
        graph = build(batch, potential.cutoff, elements=potential.elements, device=state.device)
        want = ["energy"]
        want += ["forces"] * any(s.forces is not None for s in batch)
        want += ["virial"] * any(s.stress is not None for s in batch)
        energy, forces, virial = self._errors(batch, graph, predict(potential, graph, want))
        made = rows.make(graph, forces=forces, virial=virial)
        roots = graph.sizes.double().cpu().clamp(min=1).sqrt()
        known = torch.isfinite(energy)
        self._put("energy", made["energy"][0].cpu() * float(readout.scale), energy, known, roots)
        for name, errors in (("forces", forces), ("virial", virial)):
            if errors is None:
                continue
            errors = errors if name == "forces" else errors / roots[:, None, None]
            finite = errors[torch.isfinite(errors)]
            self.squares[name] += float(finite.double().square().sum())
            self.counts[name] += finite.numel()
            block, sums = (t.cpu() for t in made[name])
            self._wait(name, block * float(readout.scale), sums)

    def _put(self, name: str, block: Tensor, errors: Tensor, known: Tensor, roots: Tensor) -> None:
        block, errors = (block / roots[:, None])[known], (errors / roots)[known]
        self.squares[name] += float(errors.square().sum())
        self.counts[name] += len(errors)
        self._wait(name, block, errors)

    def _wait(self, name: str, block: Tensor, errors: Tensor) -> None:
        self.n_rows += len(block)
        if sum(len(k.rows) for k in self.kept[name]) < 1000:
            self.kept[name].append(_Kept(block, errors, len(block)))
        self.waiting[name].append(block)
        if sum(len(b) for b in self.waiting[name]) >= max(2 * self.size, 512):
            self._fold(name)

    def _fold(self, name: str) -> None:
        if self.waiting[name]:
            self.triangles[name] = combine([self.triangles[name], *self.waiting[name]])
            self.waiting[name] = []

    @staticmethod
    def _errors(batch: list[Structure], graph: Graph, found: Prediction) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Prediction less label, not a number where there is no label."""
        nan = float("nan")
        energy = found.energy.cpu() - torch.tensor([nan if s.energy is None else s.energy for s in batch]).double()
        forces = virial = None
        if found.forces is not None and any(s.forces is not None for s in batch):
            labels = [np.full((len(s), 3), nan) if s.forces is None else s.forces for s in batch]
            forces = found.forces.double().cpu() - torch.from_numpy(np.concatenate(labels))
        if found.virial is not None and any(s.stress is not None for s in batch):
            boxes = [np.full((3, 3), nan) if s.stress is None else -s.stress * s.volume for s in batch]
            virial = found.virial.double().cpu() - torch.from_numpy(np.stack(boxes))
        return energy, forces, virial

    def sigmas(self) -> dict[str, float]:
        """Root mean square errors: energy and virial over the root of the atoms (eV), forces (eV/Å)."""
        return {t: (self.squares[t] / n) ** 0.5 for t, n in self.counts.items() if n}

    def factor(self) -> Tensor:
        """R of all rows over their sigmas."""
        parts = [torch.zeros(1, self.size, dtype=torch.float64)]
        for name, sigma in self.sigmas().items():
            self._fold(name)
            parts.append(self.triangles[name] / max(sigma, FLOORS[name]))
        return combine(parts)

    def scale(self, factor: Tensor) -> float:
        """``sqrt(mean(error^2 / variance))`` on rows of the training set; forces where there are any, else energies."""
        for name in ("forces", "energy", "virial"):
            rows = torch.cat([k.rows for k in self.kept[name]]) if self.kept[name] else torch.zeros(0, self.size)
            if len(rows):
                errors = torch.cat([k.errors for k in self.kept[name]]).double()
                spread = variance(factor, rows)
                good = spread > 1e-12 * spread.max()
                if bool(good.any()) and bool(errors.any()):
                    return float((errors[good].square() / spread[good]).mean().sqrt())
        return 1.0
