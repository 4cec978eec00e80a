"""Gradient descent on errors of energies, forces and stress."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ...errors import ConfigError, FitError
from ...potential import Potential, has_variance, is_committee
from ...progress import Bar, bar
from .. import full_batch
from ..batches import Samples
from ..loop import Loop
from ..loss import Kind as LossKind
from ..loss import Loss
from ..optimizers import Name as OptimizerName
from ..optimizers import own
from ..recipe import FitState, Stage, offsets_of
from ..schedule import Kind as ScheduleKind
from .offsets import baseline, correct, spreads

TARGETS = ("energy", "forces", "stress")
POLISHED = 0.2
"""Share of ``max_time`` that is kept for a polish."""


class Descend(Stage):
    """Fits every trainable parameter by gradient descent; keeps the averaged weights of the best epoch.

    What a configuration leaves open is what the model says of itself (``SETTINGS`` of
    :class:`epot.potential.Potential`: ``energy_growth=10`` of MACE and PaiNN), else a default below.

    Args:
        epochs: passes over the training structures; None for about 20 000 steps.
        max_time: seconds; where given, the schedule ends with them (and the run is as long on any machine, but its
            numbers depend on the machine's speed).
        batch_atoms: structures are packed into batches of at most so many atoms.
        batch_pairs: and at most so many neighbor pairs; None for no limit.
        optimizer: ``"muon"``, ``"soap"``, ``"adamw"``, ``"amsgrad"`` (of the papers of NequIP and MACE: slower)
            or ``"schedule_free"`` AdamW, which averages the weights itself
            (``schedule`` after the warm-up and ``ema`` do not apply; ``benchmarks/ablation.py`` compares them), or
            ``"lbfgs"`` for few parameters: on the whole training set at once, up to ``epochs`` (1000) iterations;
            rates, schedule and averages do not apply. None for the potential's own: L-BFGS for classical forms, else
            Muon.
        learning_rate: at the top of the schedule; None for the optimizer's own.
        radial_rate: share of that rate for what makes radial functions (of ``mace``). Between a bond's length
            and the next neighbors' there are no data: what is learned fast is arbitrary there, and forces on
            stretched bonds with it. None for the optimizer's own: a tenth, and all of it with AMSGrad and with Muon,
            which leaves these functions to AMSGrad.
        weight_decay: decoupled, on matrices only.
        schedule: after the warm-up: ``"linear"`` or ``"cosine"`` to zero at the end of the budget, ``"plateau"``
            (halved where the validation score stops improving) or ``"constant"``.
        warmup: share of the budget over which the rate rises.
        plateau_patience: epochs, for ``schedule="plateau"``.
        loss: ``"norm"``, ``"huber"``, ``"conditional_huber"``, ``"mse"``, ``"logcosh"``, ``"logcosh_norm"`` or
            ``"nll"`` (:class:`epot.fit.loss.Loss`); None for ``"nll"`` where the potential learns variances, else
            ``"norm"`` (``"mse"`` with L-BFGS).
        delta: of the Huber loss and of the logarithms, in units of the root mean square force of the training
            structures.
        energy_weight, forces_weight, stress_weight: of the errors of energies per atom, forces, and virials per atom.
        centered: fit energies up to a constant per atom, which energies per element take up at the end by regression.
            What is common to all energies is the one thing that a network learns worst: every update moves it, by more
            than all errors of their differences. Batches of one structure are left as they are. None for yes where
            energies per element are of a regression. Those of free atoms, or given ones, must stay: there the constant
            is fitted, but begins with a thousandth of its weight, which it gains by the end. False fits it like
            everything else.
        energy_growth: what the weight of the energies has grown by at the end.
        growth_start: share of the budget from which it grows.
        ema: decay of the average of the weights; 0 for none.
        clip: largest norm of a gradient, as a multiple of the running mean of these norms; None for no limit.
        patience: stop when the validation score has not improved for so many epochs; None never stops early.
        targets: which labels are used; None for all that the training structures have.
        checkpoint_every: seconds.
        memory: GB that cached graphs may take; what does not fit is built anew in each epoch.
        tensorboard: write events for TensorBoard into the run's folder.
        bagging: share of the training structures, drawn at random, that each member of a committee is fitted to.
        polish: iterations of L-BFGS on all training structures at once, in float64, after the descent; for small data.
            With ``max_time`` a fifth of it is kept for them.

    Raises:
        ConfigError: a value is impossible.
    """

    rank: ClassVar[int] = 2

    def __init__(
        self,
        epochs: int | None = None,
        max_time: float | None = None,
        batch_atoms: int = 256,
        batch_pairs: int | None = None,
        optimizer: OptimizerName | None = None,
        learning_rate: float | None = None,
        radial_rate: float | None = None,
        weight_decay: float = 0.02,
        schedule: ScheduleKind = "linear",
        warmup: float = 0.02,
        plateau_patience: int = 25,
        loss: LossKind | None = None,
        delta: float = 0.01,
        energy_weight: float = 1.0,
        forces_weight: float = 1.0,
        stress_weight: float = 1.0,
        centered: bool | None = None,
        energy_growth: float = 1.0,
        growth_start: float = 0.5,
        ema: float = 0.999,
        clip: float | None = 5.0,
        patience: int | None = None,
        targets: Sequence[str] | None = None,
        checkpoint_every: float = 30.0,
        memory: float = 2.0,
        tensorboard: bool = False,
        bagging: float = 1.0,
        polish: int = 0,
    ) -> None:
        self.epochs, self.max_time, self.batch_atoms, self.batch_pairs = epochs, max_time, batch_atoms, batch_pairs
        self.optimizer, self.learning_rate, self.radial_rate = optimizer, learning_rate, radial_rate
        self.weight_decay = weight_decay
        self.schedule, self.warmup, self.plateau_patience = schedule, warmup, plateau_patience
        self.loss, self.delta = loss, delta
        self.energy_weight, self.forces_weight, self.stress_weight = energy_weight, forces_weight, stress_weight
        self.centered = centered
        self.energy_growth, self.growth_start, self.ema, self.clip = energy_growth, growth_start, ema, clip
        self.patience, self.targets = patience, None if targets is None else list(targets)
        self.checkpoint_every, self.memory, self.tensorboard = checkpoint_every, memory, tensorboard
        self.bagging, self.polish = bagging, polish
        self._refuse()

    def _refuse(self) -> None:
        positive = ("epochs", "max_time", "batch_atoms", "batch_pairs", "learning_rate", "delta", "patience")
        for name in (*positive, "radial_rate", "memory", "energy_growth"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"Descend.{name} is {value!r}; it must be above 0.")
        for name in ("energy_weight", "forces_weight", "stress_weight", "weight_decay", "checkpoint_every", "polish"):
            if getattr(self, name) < 0:
                raise ConfigError(f"Descend.{name} is {getattr(self, name)!r}; it cannot be negative.")
        if self.clip is not None and not self.clip > 1:
            raise ConfigError(f"Descend.clip is {self.clip!r}, in usual lengths of a gradient: above 1, or None.")
        if not 0 < self.bagging <= 1:
            raise ConfigError(f"Descend.bagging is {self.bagging!r}; it is a share, above 0 and at most 1.")
        if self.polish and self.optimizer == "lbfgs":
            raise ConfigError("Descend.polish follows a descent by gradients; with optimizer=lbfgs give epochs alone.")
        for name in ("warmup", "growth_start", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"Descend.{name} is {getattr(self, name)!r}; it must be at least 0 and below 1.")

    @property
    def descent_time(self) -> float | None:
        """Seconds of the descent itself; None where its epochs are given."""
        return self.max_time if self.max_time is None or not self.polish else (1 - POLISHED) * self.max_time

    @property
    def polish_time(self) -> float | None:
        """Seconds of the polish; None for no limit."""
        return None if self.max_time is None else POLISHED * self.max_time

    def budget(self, n_batches: int) -> int:
        """Epochs: as given, or what comes to about 20 000 steps (10 to 1000)."""
        if self.epochs is not None:
            return self.epochs
        return 1_000_000 if self.max_time is not None else int(np.clip(round(20_000 / max(n_batches, 1)), 10, 1000))

    def check(self, state: FitState) -> None:
        """Whether there is something to train on, and to train.

        Raises:
            FitError: no trainable parameter, or no usable label.
        """
        if not any(p.requires_grad for p in state.potential.parameters()):
            raise FitError("Descend has nothing to train: no parameter of the potential requires a gradient.")
        if not self.used_targets(state):
            raise FitError(f"Descend found no label among {', '.join(TARGETS)} that has a weight above 0.")
        if self.loss == "nll" and not has_variance(state.potential):
            raise FitError(
                "descend.loss=nll needs a potential that learns variances (variance_heads=True); use another."
            )
        if self.centered and offsets_of(state.potential) is None:
            raise FitError("descend.centered=true needs a term Offsets(elements) in the sum, to take up the constant.")
        if self.bagging < 1 and not is_committee(state.potential):
            raise FitError(f"descend.bagging={self.bagging:g} is for committees; this potential has one member.")
        if self.polish and (self.loss == "nll" or has_variance(state.potential) or is_committee(state.potential)):
            raise FitError("descend.polish is for one potential that learns no variances; leave it out.")
        if self.tensorboard:
            _writer_class()

    def used_targets(self, state: FitState) -> list[str]:
        """Labels that exist and have a weight."""
        wanted = self.targets or TARGETS
        weights = dict(zip(TARGETS, (self.energy_weight, self.forces_weight, self.stress_weight), strict=True))
        return [t for t in TARGETS if t in wanted and weights[t] > 0 and state.train.has(t).any()]

    def centers(self, state: FitState) -> bool:
        """Whether a constant per atom is left to the energies per element."""
        known = _offsets_method(state) in ("regression", "correct")
        return self._has_constant(state) and (known if self.centered is None else self.centered)

    def holds(self, state: FitState) -> bool:
        """Whether that constant is fitted with a weight that grows: energies per element must stay what they are."""
        fixed = _offsets_method(state) in ("isolated", "given")
        return self._has_constant(state) and fixed and self.centered is None

    def _has_constant(self, state: FitState) -> bool:
        if self.loss == "nll" or has_variance(state.potential) or is_committee(state.potential):
            return False  # a variance is of the whole error, and each member of a committee has a constant of its own
        return "energy" in self.used_targets(state)

    def run(self, state: FitState) -> None:
        """Train, or continue an interrupted training."""
        with torch.random.fork_rng(devices=[]):  # a potential may draw random numbers: leave the caller's state alone
            torch.manual_seed(state.seed)
            self._run(state)
        found = {name: m.fitted_parameters() for name, m in _reporting(state.potential)}
        if found:
            state.about.setdefault("fit", {})["parameters"] = found
            state.journal.write("parameters", **found)

    def _run(self, state: FitState) -> None:
        parts = self._prepare(state)
        if (self.optimizer or own(state.potential)) == "lbfgs":
            full_batch.descend(self, state, *parts)
            return
        loop = Loop(self, state, *parts)
        resumed = loop.resume()
        n_batches = len(loop.batches())
        if not resumed:
            facts = {"structures": len(loop.train), "cached": loop.train.n_cached, "batches": n_batches}
            state.journal.write("descend", **facts, parameters=sum(p.numel() for p in loop.parameters.values()))
        total = self.budget(n_batches) if self.descent_time is None else self.descent_time
        with bar("Training", total) as shown, self._events(state) as log:
            why = "it was complete" if loop.at.done else self._train(loop, shown, log, total)
        loop.use_best()
        if not loop.at.done:
            if loop.centered:
                correct(state)
            loop.at.done = True
            best = {"best_epoch": loop.at.best_epoch + 1, "score": loop.at.best}
            state.journal.write("descended", why=why, steps=loop.at.step, **best)
            loop.maybe_save(force=True)
        if self.polish:
            full_batch.polish(self, state, *parts)

    def _prepare(self, state: FitState) -> tuple[Samples, Samples | None, Loss, dict[str, float]]:
        offsets = offsets_of(state.potential)
        energies = np.zeros(120) if offsets is None else offsets.energies.cpu().numpy()
        scales = spreads(state.train, energies, baseline(state.potential, state.train, state.device))
        targets = self.used_targets(state)
        scales = {k: v for k, v in scales.items() if k.replace("virial", "stress") in targets}
        unit = scales.get("forces") or scales.get("energy") or 1.0
        smooth = (self.optimizer or own(state.potential)) == "lbfgs"
        kind = self.loss or ("nll" if has_variance(state.potential) else "mse" if smooth else "norm")
        loss = Loss(self.energy_weight, self.forces_weight, self.stress_weight, kind, self.delta, unit)
        cutoff, elements = state.potential.cutoff, state.potential.elements
        graphs = lambda data, label: Samples(  # noqa: E731
            data, cutoff, targets=targets, elements=elements, memory=self.memory * 1e9, label=label
        )
        train = graphs(state.train, "Neighbors (train)")
        valid = graphs(state.valid, "Neighbors (valid)") if state.valid is not None and len(state.valid) else None
        return train, valid, loss, scales

    def _train(self, loop: Loop, shown: Bar, log: Any, total: int | float) -> str:
        """Epochs until one of the reasons to end; returns it. ``total`` is what the bar counts: epochs or seconds."""
        batches, spent = loop.batches(), 0.0
        while (why := loop.over(len(batches))) is None or loop.at.batch:
            batches = loop.batches()
            while loop.at.batch < len(batches):
                progress = loop.progress(len(batches))
                if self.descent_time is not None and loop.elapsed() >= self.descent_time and loop.at.step:
                    break
                value = loop.step(batches[loop.at.batch], progress)
                shown.advance((progress - spent) * total)
                spent = progress
                if loop.at.step % 10 == 0 and loop.at.epoch == 0:
                    shown.note(f"epoch 1  loss {value:.3g}")
                if loop.at.batch < len(batches):
                    loop.maybe_save()
            if not loop.at.batch:  # time ran out before the epoch's first batch
                continue
            facts = loop.finish_epoch(loop.at.batch)
            loop.maybe_save()
            shown.note(_line(facts))
            if log is not None:
                _log(log, facts)
        shown.advance((1.0 - spent) * total)
        return why

    @contextlib.contextmanager
    def _events(self, state: FitState) -> Iterator[Any]:
        if not self.tensorboard or state.folder is None:
            yield None
            return
        writer = _writer_class()(str(state.folder / "tensorboard"))
        try:
            yield writer
        finally:
            writer.close()


def _offsets_method(state: FitState) -> str | None:
    """Where energies per element are from."""
    method: str | None = state.about.get("fit", {}).get("offsets", {}).get("method")
    return method


def _reporting(potential: Potential) -> list[tuple[str, Any]]:
    """Terms that say what their parameters mean, by name."""
    return [(name or "potential", m) for name, m in potential.named_modules() if hasattr(m, "fitted_parameters")]


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        hint = "pip install 'epot[track]', or leave it out"
        raise ConfigError(f"descend.tensorboard needs TensorBoard: {hint}.") from None
    return SummaryWriter


def _log(writer: Any, facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if isinstance(value, float):
            writer.add_scalar(name, value, facts["step"], walltime=time.time())


def _line(facts: dict[str, Any]) -> str:
    """What a person wants to see of an epoch, in meV."""
    shown = [f"epoch {facts['epoch']}", f"loss {facts['train_loss']:.3g}"]
    for name, unit in (("energy", "meV/atom"), ("forces", "meV/Å")):
        if f"valid_{name}_mae" in facts:
            shown.append(f"{name} MAE {1000 * facts[f'valid_{name}_mae']:.2f} {unit}")
    return "  ".join(shown)
