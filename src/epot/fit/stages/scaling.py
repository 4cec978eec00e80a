"""Factors that keep the variance of sums over neighbors, from the training set."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
import torch

from ...blocks.training_constant import TrainingConstant
from ...data.structure import Structure
from ...errors import ConfigError, FitError
from ...geometry.graph import Graph, build, collate
from ...potential import Potential
from ..recipe import FitState, Stage


class FitScaling(Stage):
    """Sets numbers that a potential takes from its training data before its weights are trained.

    GemNet's scaling factors (arXiv:2106.08903), MACE's mean number of neighbors.

    Structures are drawn at random until they have enough pairs, and evaluated once as one batch: each factor is set
    when the evaluation reaches it, so it sees those before it at their final values. Factors that are set already, by
    an earlier fit or with imported weights, stay as they are.

    Args:
        pairs: of atoms within the cutoff that are looked at.

    Raises:
        ConfigError: no pairs.
    """

    rank: ClassVar[int] = 1

    def __init__(self, pairs: int = 20_000) -> None:
        self.pairs = pairs
        if pairs < 1:
            raise ConfigError(f"FitScaling.pairs is {pairs}; it needs at least one.")

    @classmethod
    def applies(cls, potential: Potential) -> bool:
        return bool(factors(potential))

    def check(self, state: FitState) -> None:
        """Whether there are factors.

        Raises:
            FitError: there are none.
        """
        if not factors(state.potential):
            raise FitError("FitScaling has nothing to do: no part of the potential has scaling factors.")

    @torch.no_grad()
    def run(self, state: FitState) -> None:
        """Set the factors that are not set."""
        start, found = time.monotonic(), factors(state.potential)
        open_ones = {name: factor for name, factor in found.items() if not bool(factor.settled)}
        facts: dict[str, Any] = {"kept": len(found) - len(open_ones)}
        if open_ones:
            graph = self._sample(state).to(state.device)
            try:
                for factor in open_ones.values():
                    factor.observing = True
                state.potential(graph)
            finally:
                for factor in open_ones.values():
                    factor.observing = False
            values = {n: float(f.factor) for n, f in open_ones.items() if bool(f.settled)}
            facts |= {"structures": graph.n_structures, "pairs": graph.n_pairs, "factors": values}
            left = sorted(set(open_ones) - set(values))
            if left:
                state.note(f"{len(left)} scaling factors stay at 1, as the training structures do not reach {left[0]}.")
        facts["seconds"] = round(time.monotonic() - start, 2)
        state.about.setdefault("fit", {})["scaling"] = facts
        state.journal.write("scaling", **facts)

    def _sample(self, state: FitState) -> Graph:
        """Structures in random order, until their pairs are enough."""
        order = np.random.default_rng([state.seed, 3]).permutation(len(state.train))
        graphs: list[Graph] = []
        for index in order.tolist():
            structure: Structure = state.train[index]
            graphs.append(build(structure, state.potential.cutoff, elements=state.potential.elements))
            if sum(g.n_pairs for g in graphs) >= self.pairs:
                break
        return collate(graphs)


def factors(potential: Potential) -> dict[str, TrainingConstant]:
    """All scaling factors, by name."""
    return {name: m for name, m in potential.named_modules() if isinstance(m, TrainingConstant)}
