"""Learning rate and energy weight as functions of the progress of a fit, which runs from 0 to 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["linear", "cosine", "constant", "plateau"]


def factor(progress: float, kind: Kind = "linear", warmup: float = 0.02) -> float:
    """What the learning rate is multiplied by: rises from 0 to 1 over ``warmup``, then decays to 0 at progress 1.

    Args:
        progress: share of the budget (of epochs or of seconds) that is spent, 0 to 1.
        kind: ``"linear"`` or ``"cosine"`` to zero; ``"constant"`` and ``"plateau"`` stay at 1 after the warm-up.
        warmup: share of the budget.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return progress / warmup
    if kind in ("constant", "plateau"):
        return 1.0
    left = (1.0 - progress) / max(1.0 - warmup, 1e-12)
    return left if kind == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))


def ramp(progress: float, growth: float, start: float = 0.5) -> float:
    """A weight that stays at 1 until ``start`` and then grows geometrically to ``growth`` at progress 1.

    Forces first, energies up at the end: the two stages of MACE (https://arxiv.org/abs/2206.07697) without the jump.
    """
    share = min(max((progress - start) / max(1.0 - start, 1e-12), 0.0), 1.0)
    return growth**share


COMMON = 1e-3
"""Share of its weight with which the constant of all energies begins, where energies per element cannot take it up."""


def common(progress: float) -> float:
    """That share, which grows geometrically to 1 at progress 1."""
    return COMMON ** (1.0 - min(max(progress, 0.0), 1.0))


@dataclass
class Plateau:
    """Halves the learning rate where a smoothed score stops improving.

    Attributes:
        patience: epochs without improvement of the smoothed score before the next cut.
        cut: by how much.
        smoothing: weight of the past in the running mean of the score; raw validation scores are noisy.
    """

    patience: int = 25
    cut: float = 0.5
    smoothing: float = 0.7
    factor: float = 1.0
    mean: float = math.nan
    best: float = math.inf
    waited: int = 0

    def update(self, score: float) -> float:
        """Take the score of one more epoch; returns the factor of the learning rate."""
        self.mean = score if math.isnan(self.mean) else self.smoothing * self.mean + (1 - self.smoothing) * score
        if self.mean < self.best:
            self.best, self.waited = self.mean, 0
        else:
            self.waited += 1
            if self.waited > self.patience:
                self.factor, self.waited = self.factor * self.cut, 0
        return self.factor

    def state(self) -> dict[str, Any]:
        """JSON; NaN and infinity as None."""
        kept = {"factor": self.factor, "mean": self.mean, "best": self.best, "waited": self.waited}
        return {k: (v if math.isfinite(v) else None) for k, v in kept.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.factor, self.waited = state["factor"], state["waited"]
        self.mean = math.nan if state["mean"] is None else state["mean"]
        self.best = math.inf if state["best"] is None else state["best"]
