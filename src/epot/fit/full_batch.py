"""Full-batch L-BFGS: for potentials of few parameters, whose minimum can be found to rounding; and after a descent."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import minimize

from ..errors import FitError
from ..predict import predict
from ..progress import bar
from ..typing import Tensor
from . import metrics
from .batches import Sample, Samples, in_order
from .loss import Loss, Residuals, residuals
from .recipe import offsets_of

if TYPE_CHECKING:
    from .recipe import FitState
    from .stages.descend import Descend

ITERATIONS = 1000
MEMORY = 30
"""Pairs of steps and gradients from which the curvature is made."""
POLISH_MEMORY = 10
"""The same for networks."""
EVERY = 10
"""Iterations of a polish between looks at the validation score."""
FACTOR = 1e6
"""The loss times this is minimized: scipy compares its changes with 1."""


@dataclass
class Problem:
    """The loss over all training structures as a function of one vector: parameters, then shifts of the offsets.

    Energies per element that came from a regression belong to no minimum of a potential that is zero for separated
    atoms; so they are fitted with it, unless they are of isolated atoms or given.

    Attributes:
        stage, state: settings and fit.
        train: labeled graphs.
        loss: with its unit.
        shifts: whether energies per element may be fitted too.
        shifted: atomic numbers whose energies are.
    """

    stage: Descend
    state: FitState
    train: Samples
    loss: Loss
    shifts: bool = True
    shifted: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.potential = self.state.potential.to(self.state.device).train()
        self.parameters = [p for p in self.potential.parameters() if p.requires_grad]
        offsets, facts = offsets_of(self.potential), self.state.about.get("fit", {}).get("offsets", {})
        if self.shifts and offsets is not None and facts.get("method") in ("regression", "correct"):
            self.shifted = sorted(set(self.state.train.elements))
        self.counts = {"energy": 0, "forces": 0, "virial": 0}
        for _, labels in self._batches():
            self.counts["energy"] += int(labels.has_energy.sum())
            self.counts["forces"] += int(labels.has_forces.sum())
            self.counts["virial"] += int(labels.has_stress.sum())
        if not self.counts["energy"]:
            self.shifted = []
        self.evaluations = 0

    def _batches(self) -> Iterator[Sample]:
        return in_order(self.train, self.stage.batch_atoms, self.stage.batch_pairs)

    def start(self) -> np.ndarray:
        """Where it begins."""
        flat = [p.detach().double().cpu().flatten().numpy() for p in self.parameters]
        return np.concatenate([*flat, np.zeros(len(self.shifted))])

    @torch.no_grad()
    def put(self, x: np.ndarray) -> None:
        """Parameters of a vector into the potential."""
        at = 0
        for p in self.parameters:
            values = torch.from_numpy(x[at : at + p.numel()].copy()).view(p.shape)
            p.copy_(values.to(p))
            at += p.numel()

    def finish(self, x: np.ndarray) -> None:
        """Parameters and shifts into the potential."""
        self.put(x)
        offsets = offsets_of(self.potential)
        if offsets is not None and self.shifted:
            offsets.energies[self.shifted] += torch.from_numpy(x[len(x) - len(self.shifted) :]).to(offsets.energies)
            shown = self.state.about["fit"]["offsets"]["energies"]
            known = dict(zip(self.shifted, offsets.energies[self.shifted].tolist(), strict=True))
            self.state.about["fit"]["offsets"]["energies"] = {
                name: known[z] for name, z in zip(shown, offsets.elements or (), strict=True)
            }

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and gradient, both times :data:`FACTOR`.

        Raises:
            FitError: not finite where the descent begins.
        """
        self.put(x)
        self.evaluations += 1
        total, slope = 0.0, np.zeros_like(x)
        for graph, labels in self._batches():
            graph, labels = graph.to(self.state.device), labels.to(self.state.device)
            made = predict(self.potential, graph, labels.want(), create_graph=True)
            self.train.learn_views(graph)
            shift = torch.zeros(len(self.shifted), dtype=torch.float64, device=graph.positions.device).requires_grad_()
            shift.data += torch.from_numpy(x[len(x) - len(self.shifted) :].copy()).to(shift)
            found = residuals(self._shifted(made, graph, shift), labels, graph)
            value = self._value(found)
            if value.requires_grad:
                grads = torch.autograd.grad(value, [*self.parameters, shift], allow_unused=True)
                wanted = [*self.parameters, shift]
                flat = [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, grads, strict=True)]
                slope += torch.cat([g.double().flatten() for g in flat]).cpu().numpy()
            total += float(value.detach())
        if not (math.isfinite(total) and np.isfinite(slope).all()):
            if self.evaluations == 1:
                raise FitError(
                    "The loss or its gradient is not finite at the start: give parameters to start from that suit the "
                    "structures (sizes in Å), or look for absurd labels with `epot doctor data`."
                )
            return 1e300, np.zeros_like(x)  # too long a step: the line search takes a shorter one
        return FACTOR * total, FACTOR * slope

    def _shifted(self, made: Any, graph: Any, shift: Tensor) -> Any:
        if not self.shifted:
            return made
        numbers = torch.tensor(self.shifted, device=graph.numbers.device)
        each = (graph.numbers[:, None] == numbers).double() @ shift
        return made._replace(energy=made.energy.index_add(0, graph.owner, each))

    def _value(self, found: Residuals) -> Tensor:
        """Share of the loss: means over all labels, not over those of the batch."""
        weights = {"energy": self.loss.energy, "forces": self.loss.forces, "virial": self.loss.stress}
        parts = [
            weights[name]
            * self.loss.penalty(error / self.loss.unit, found.forces_label if name == "forces" else None)
            * (len(error) / self.counts[name])
            for name, error in zip(weights, found[:3], strict=True)
            if error is not None and weights[name] > 0 and len(error)
        ]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)


def descend(stage: Descend, state: FitState, train: Samples, valid: Samples | None, loss: Loss, scales: Any) -> None:
    """Minimize, put the minimum into the potential and write to the journal.

    An interrupted minimization starts again: it is short, and ends at the same numbers.

    Raises:
        FitError: the loss is not finite where it begins.
    """
    began = time.monotonic()
    problem = Problem(stage, state, train, loss)
    limit = stage.epochs or ITERATIONS
    n = sum(p.numel() for p in problem.parameters)
    state.journal.write("descend", structures=len(train), optimizer="lbfgs", parameters=n, offsets=len(problem.shifted))
    with bar("Minimizing", limit) as shown:

        def told(intermediate_result: Any) -> None:
            shown.advance(1)
            shown.note(f"loss {intermediate_result.fun / FACTOR:.6g}")
            if stage.max_time is not None and time.monotonic() - began > stage.max_time:
                raise StopIteration

        options = {"maxiter": limit, "maxfun": 3 * limit, "maxcor": MEMORY, "ftol": 1e-15, "gtol": 1e-10}
        found = minimize(problem, problem.start(), jac=True, method="L-BFGS-B", callback=told, options=options)
    problem.finish(found.x)
    state.potential.eval()
    facts = {"why": _why(found), "steps": int(found.nit), "evaluations": problem.evaluations}
    facts |= {"loss": float(found.fun) / FACTOR, "seconds": round(time.monotonic() - began, 2)}
    if valid is not None:
        errors = metrics.evaluate(state.potential, in_order(valid, 4 * stage.batch_atoms), state.device)
        facts |= {f"valid_{k}": v for k, v in errors.items()} | {"score": metrics.score(errors, scales)}
    state.journal.write("descended", **facts)


def _why(found: Any) -> str:
    """Why a minimization ended, in our words where it was we who ended it."""
    message = str(found.message)
    return "its time is up" if "StopIteration" in message else message


def polish(stage: Descend, state: FitState, train: Samples, valid: Samples | None, loss: Loss, scales: Any) -> None:
    """Go on from where a descent ended, on all training structures at once and in float64; keep what validates best.

    The loss is that of the descent's end (energies with the weight to which they have grown). Without validation
    structures the last weights are kept. An interrupted polish starts again.
    """
    began = time.monotonic()
    exact = dataclasses.replace(state, potential=copy.deepcopy(state.potential).double())
    loss = dataclasses.replace(loss, energy=loss.energy * stage.energy_growth)
    problem = Problem(stage, exact, train, loss, shifts=False)

    best = first = problem.start()
    seen: dict[int, float] = {}  # scores by iteration

    def look(iteration: int, x: np.ndarray) -> None:
        nonlocal best
        if iteration in seen:
            return
        problem.put(x)
        score = -float(iteration)  # without validation structures the last weights are the best
        if valid is not None:
            batches = in_order(valid, 4 * stage.batch_atoms)
            score = metrics.score(metrics.evaluate(problem.potential.eval(), batches, state.device), scales)
            problem.potential.train()
        if score < min(seen.values(), default=math.inf):
            best = x.copy()
        seen[iteration] = score

    look(0, first)
    with bar("Polishing", stage.polish) as shown:
        done = 0

        def told(intermediate_result: Any) -> None:
            nonlocal done
            done += 1
            shown.advance(1)
            shown.note(f"loss {intermediate_result.fun / FACTOR:.6g}")
            if done % EVERY == 0:
                look(done, intermediate_result.x)
            if stage.polish_time is not None and time.monotonic() - began > stage.polish_time:
                raise StopIteration

        options = {"maxiter": stage.polish, "maxfun": 3 * stage.polish, "maxcor": POLISH_MEMORY, "ftol": 1e-15}
        found = minimize(problem, first, jac=True, method="L-BFGS-B", callback=told, options=options)
    look(done, found.x)
    problem.put(best)
    with torch.no_grad():
        for p, q in zip(state.potential.parameters(), problem.potential.parameters(), strict=True):
            p.copy_(q)
    state.potential.eval()
    facts = {"why": _why(found), "steps": done, "loss": float(found.fun) / FACTOR}
    if valid is not None:
        facts |= {"kept": min(seen, key=seen.__getitem__), "score_before": seen[0], "score": min(seen.values())}
    state.journal.write("polished", **facts, seconds=round(time.monotonic() - began, 2))
