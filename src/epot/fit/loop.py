"""The loop of gradient descent: its state, one step of it, and how it is kept and continued."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import FitError
from ..potential import is_committee
from ..predict import predict
from ..typing import Tensor
from . import checkpoint, metrics, optimizers, schedule
from .batches import Samples, in_order, shuffled
from .ema import Average
from .loss import Loss, centered, member_residuals, residuals

if TYPE_CHECKING:
    from .recipe import FitState
    from .stages.descend import Descend


@dataclass
class Position:
    """Where a descent is: JSON of its checkpoint.

    Attributes:
        epoch, batch: the next batch.
        step: updates so far.
        seconds: spent so far, over all runs.
        epoch_seconds: of them, in this epoch.
        sums: running sums of this epoch's loss and its parts, and of the norm of the gradient.
        usual: running mean of that norm; None before the first step.
        best: the best validation score, and in which epoch.
        journal: lines of the journal so far.
        done: nothing is left to do.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    usual: float | None = None
    best: float | None = None
    best_epoch: int = -1
    journal: int = 0
    done: bool = False


class Loop:
    """One descent: everything that changes from step to step.

    Args:
        stage: its settings.
        state: of the fit.
        train, valid: labeled graphs; ``valid`` may be None.
        loss: with its unit.
        scales: spread of the labels, for the score.
    """

    def __init__(
        self,
        stage: Descend,
        state: FitState,
        train: Samples,
        valid: Samples | None,
        loss: Loss,
        scales: dict[str, float],
    ) -> None:
        self.stage, self.state, self.train, self.valid, self.loss, self.scales = (
            stage,
            state,
            train,
            valid,
            loss,
            scales,
        )
        self.potential = state.potential.to(state.device).train()
        self.committee = is_committee(self.potential)
        self.centered, self.held = stage.centers(state), stage.holds(state)
        self.bags = self._bags() if self.committee and stage.bagging < 1 else None
        self.parameters = {k: p for k, p in self.potential.named_parameters() if p.requires_grad}
        name = stage.optimizer or optimizers.own(self.potential)
        self.rate = stage.learning_rate or optimizers.RATES[name]
        radial = stage.radial_rate or optimizers.RADIAL_RATES[name]
        self.optimizer = optimizers.make(name, self.potential, self.rate, stage.weight_decay, radial)
        own = self.optimizer if isinstance(self.optimizer, optimizers.ScheduleFree) else None
        self.averaging = own  # where the optimizer averages, and needs no schedule
        self.average = Average(self.parameters, 0.0 if own else stage.ema)
        self.schedule: schedule.Kind = "constant" if own else stage.schedule
        self.best = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.plateau = schedule.Plateau(stage.plateau_patience)
        self.at = Position(journal=len(state.journal.lines))
        self._saved = time.monotonic()
        self._clock = time.monotonic()

    def _bags(self) -> Tensor:
        """Which training structures each member of a committee is fitted to, ``(structures, members)``, by seed alone.

        Each structure is drawn for each member by itself; one that no member drew goes to all.
        """
        graph, _ = self.train.batch([0])
        with torch.no_grad():
            members = predict(self.potential, graph, ("energy", "members")).members
        assert members is not None  # it is a committee
        generator = torch.Generator().manual_seed(self.state.seed + 104_729)
        drawn = torch.rand(len(self.train), members.energy.shape[1], generator=generator) < self.stage.bagging
        return drawn | ~drawn.any(1, keepdim=True)

    # ---------------------------------------------------------------------------------------------- one step

    def batches(self) -> list[Any]:
        """Those of the current epoch."""
        return shuffled(self.train, self.stage.batch_atoms, self.stage.batch_pairs, self.state.seed, self.at.epoch)

    def progress(self, n_batches: int) -> float:
        """Share of the budget that is spent: of epochs, or of seconds where those run out first."""
        spent = (self.at.epoch + self.at.batch / max(n_batches, 1)) / self.stage.budget(n_batches)
        if self.stage.descent_time is not None:
            spent = max(spent, self.elapsed() / self.stage.descent_time)
        return min(spent, 1.0)

    def elapsed(self) -> float:
        """Seconds over all runs of this descent."""
        return self.at.seconds + time.monotonic() - self._clock

    def step(self, indices: Any, progress: float) -> float:
        """One update; returns its loss.

        Raises:
            FitError: the loss or a gradient is not finite. The weights are those before the step.
        """
        graph, labels = self.train.batch(indices)
        device = self.state.device
        graph, labels = (graph, labels) if device == "cpu" else (graph.to(device), labels.to(device))
        want = labels.want()
        made = predict(self.potential, graph, (*want, "members") if self.committee else want, create_graph=True)
        self.train.learn_views(graph)
        factor = schedule.ramp(progress, self.stage.energy_growth, self.stage.growth_start)
        if self.committee:
            bags = None if self.bags is None else self.bags[indices].to(device)
            found = member_residuals(made, labels, graph, bags)
        else:
            found = residuals(made, labels, graph)
        if self.centered or self.held:
            share = 0.0 if self.centered else schedule.common(progress)
            found = centered(found, graph.bound[labels.has_energy], share)
        total, parts = self.loss(found, factor)
        if total.requires_grad:
            # the sum over a committee: each member moves as it would alone, also where an optimizer knows a length
            share = made.members.energy.shape[1] if self.committee and made.members is not None else 1
            self._descend(
                total * share if share > 1 else total, schedule.factor(progress, self.schedule, self.stage.warmup)
            )
        value = float(total.detach())
        for name, part in {"loss": total.detach(), **parts}.items():
            self.at.sums[name] = self.at.sums.get(name, 0.0) + float(part)
        self.at.batch += 1
        self.at.step += 1
        return value

    def _descend(self, total: Tensor, factor: float) -> None:
        """Gradient, no longer than it may be, update, average."""
        leaves = list(self.parameters.values())
        grads = torch.autograd.grad(total, leaves, allow_unused=True)
        found = [g for g in grads if g is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(found)).double()))
        if not math.isfinite(norm) or not math.isfinite(float(total.detach())):
            raise FitError(self._broken(float(total.detach())))
        limit = self._limit(norm)
        if norm > limit:
            torch._foreach_mul_(found, limit / norm)
        for parameter, grad in zip(leaves, grads, strict=True):
            parameter.grad = grad
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * self.rate * factor * self.plateau.factor
        self.optimizer.step()
        for parameter in leaves:
            parameter.grad = None
        self.average.update(None if self.averaging is None else self.averaging.averages(leaves))
        self.at.sums["gradient"] = self.at.sums.get("gradient", 0.0) + norm

    def _limit(self, norm: float) -> float:
        """How long this gradient may be: so many times the running mean of the last hundred.

        One far longer than the rest would be all that the momentum of Muon, whose steps have one length, goes by for a
        hundred steps, and all that the largest square of AMSGrad remembers ever after.
        """
        usual, clip = self.at.usual, self.stage.clip
        if clip is None:
            return math.inf
        limit = clip * usual if usual else math.inf
        kept = min(norm, clip * limit)  # what lasts is followed soon, whatever it starts from
        self.at.usual = kept if usual is None else usual + max(0.01, 1 / (self.at.step + 1)) * (kept - usual)
        return limit

    def _broken(self, value: float) -> str:
        kept = self.state.checkpoint
        return (
            f"The loss or its gradient is not finite (loss {value:g}) in epoch {self.at.epoch + 1}, "
            f"step {self.at.step + 1}. "
            + (f"The last good state is kept in {kept}. " if kept is not None and kept.exists() else "")
            + f"Lower descend.learning_rate (it is {self.rate:g}), or look for absurd labels with `epot doctor data`."
        )

    # --------------------------------------------------------------------------------------------- an epoch

    def finish_epoch(self, n_batches: int) -> dict[str, Any]:
        """Evaluate with the averaged weights, keep the best, write to the journal."""
        at = self.at
        facts: dict[str, Any] = {"epoch": at.epoch + 1, "step": at.step}
        facts |= {f"train_{k}" if k != "gradient" else "gradient_norm": v / n_batches for k, v in at.sums.items()}
        first = self.optimizer.param_groups[0]
        facts["learning_rate"] = first["lr"] / first["share"]
        if self.valid is not None:
            batches = in_order(self.valid, 4 * self.stage.batch_atoms)
            with self.average.applied():
                errors = metrics.evaluate(self.potential.eval(), batches, self.state.device, self.centered)
            self.potential.train()
            score = metrics.score(errors, self.scales)
            facts |= {f"valid_{k}": v for k, v in errors.items()} | {"score": score}
        else:
            score = facts["train_loss"]
        improved = at.best is None or score < at.best
        if improved or self.valid is None:
            self.best = {k: v.clone() for k, v in self.average.values.items()}
            at.best, at.best_epoch = score, at.epoch
        if self.schedule == "plateau":
            self.plateau.update(score)
        at.epoch, at.batch, at.sums = at.epoch + 1, 0, {}
        facts["seconds"] = round(self.elapsed(), 3)
        self.state.journal.write("epoch", **facts)
        return facts

    def over(self, n_batches: int) -> str | None:
        """Why the descent ends before the next epoch; None where it goes on."""
        at, stage = self.at, self.stage
        if at.epoch >= stage.budget(n_batches):
            return "all epochs are done"
        if stage.descent_time is not None and self.elapsed() >= stage.descent_time:
            return "its time is up"
        if stage.patience is not None and self.valid is not None and at.epoch - 1 - at.best_epoch >= stage.patience:
            return f"the validation score has not improved for {stage.patience} epochs"
        return None

    # ------------------------------------------------------------------------------------ keep and continue

    def maybe_save(self, force: bool = False) -> None:
        """Write the checkpoint if the last one is old enough."""
        path = self.state.checkpoint
        if path is None or not (force or time.monotonic() - self._saved >= self.stage.checkpoint_every):
            return
        self.save(path)
        self._saved = time.monotonic()

    def save(self, path: Path) -> None:
        """Everything that the next step depends on."""
        self.at.seconds, self._clock = self.elapsed(), time.monotonic()
        self.at.journal = len(self.state.journal.lines)
        slots, numbers = checkpoint.pack_optimizer(self.optimizer)
        tensors = (
            checkpoint.prefixed("model", self.potential.state_dict())
            | checkpoint.prefixed("optimizer", slots)
            | checkpoint.prefixed("average", self.average.values)
            | checkpoint.prefixed("best", self.best)
            | {"random": torch.get_rng_state()}
        )
        facts = {
            "stage": self.stage.config(),
            "position": vars(self.at),
            "optimizer": numbers,
            "average_steps": self.average.steps,
            "plateau": self.plateau.state(),
        }
        checkpoint.save(path, tensors, facts)

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one; what an interrupted run wrote past it is forgotten.

        Raises:
            FitError: the checkpoint is damaged or of other settings.
        """
        path = self.state.checkpoint
        found = None if path is None else checkpoint.load(path)
        if found is None:
            return False
        tensors, facts = found
        try:
            self.potential.load_state_dict(checkpoint.under("model", tensors))
            checkpoint.unpack_optimizer(self.optimizer, checkpoint.under("optimizer", tensors), facts["optimizer"])
        except (RuntimeError, ValueError, KeyError) as why:
            raise FitError(f"{path} does not belong to this fit ({why}). Use another folder.") from why
        device = self.state.device
        average, best = checkpoint.under("average", tensors), checkpoint.under("best", tensors)
        self.average.values = {k: average[k].to(device) for k in self.parameters}  # in their order: a file has another
        self.average.steps = facts["average_steps"]
        self.best = {k: best[k].to(device) for k in self.parameters}
        self.plateau.restore(facts["plateau"])
        self.at = Position(**facts["position"])
        torch.set_rng_state(tensors["random"])
        self.state.journal.truncate(self.at.journal)
        return True

    @torch.no_grad()
    def use_best(self) -> None:
        """Put the best averaged weights into the potential."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.best[name])
        self.potential.eval()
