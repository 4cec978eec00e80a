"""Means and standard deviations of a descriptor over the training set."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ...blocks.standardize import Standardize
from ...errors import ConfigError, FitError
from ...features.descriptor import Descriptor
from ...geometry.graph import build
from ...potential import Potential
from ...progress import track
from ...typing import Tensor
from ..recipe import FitState, Stage


class FitStatistics(Stage):
    """Standardizes the descriptor of a potential, for each element by itself.

    Structures are drawn at random and described one after the other until enough environments of each element were
    seen: memory does not grow with the data.

    Args:
        environments: of each element that are looked at.

    Raises:
        ConfigError: fewer than 2 environments.
    """

    rank: ClassVar[int] = 1

    def __init__(self, environments: int = 2000) -> None:
        self.environments = environments
        if environments < 2:
            raise ConfigError(f"FitStatistics.environments is {environments}; a spread needs at least 2.")

    @classmethod
    def applies(cls, potential: Potential) -> bool:
        return bool(standardized(potential))

    def check(self, state: FitState) -> None:
        """Whether there is something to standardize.

        Raises:
            FitError: there is not.
        """
        if not standardized(state.potential):
            raise FitError("FitStatistics has nothing to do: no term of the potential standardizes a descriptor.")

    def run(self, state: FitState) -> None:
        """Fill the statistics of every descriptor that has some."""
        start = time.monotonic()
        facts: dict[str, Any] = {"environments": {}}
        for name, term in standardized(state.potential).items():
            block: Any = term.standardize
            sums = Moments(*block.mean.shape)
            self._describe(state, term, sums)
            block.set(*(t.to(block.mean) for t in sums.result()))
            facts["environments"][name.removeprefix("terms.") or "potential"] = sums.counts.tolist()
            facts["constant"] = facts.get("constant", 0) + int((block.scale == 1).sum())
        facts["seconds"] = round(time.monotonic() - start, 2)
        state.about.setdefault("fit", {})["standardize"] = facts
        state.journal.write("standardize", **facts)

    @torch.no_grad()
    def _describe(self, state: FitState, term: Any, sums: Moments) -> None:
        """Add rows of structures in random order, until each element that occurs has enough or all were seen."""
        descriptor: Descriptor = term.descriptor
        alike = descriptor.whole or len(sums.counts) == 1  # one kind of rows
        order = np.random.default_rng([state.seed, 2]).permutation(len(state.train))
        left = [self._occurs(state, descriptor.whole, z) for z in ((None,) if alike else descriptor.elements)]
        wanted = np.minimum(left, self.environments)
        for index in track(order.tolist(), "Statistics of the descriptor"):
            if (sums.counts.numpy() >= wanted).all():
                break
            structure = state.train[index]
            lacking = [z for z, n, w in zip(descriptor.elements, sums.counts, wanted, strict=False) if n < w]
            if not alike and not np.isin(structure.numbers, lacking).any():
                continue
            graph = build(structure, descriptor.cutoff, elements=descriptor.elements, device=state.device)
            rows = descriptor(graph)
            species = graph.numbers.new_zeros(len(rows)) if alike else descriptor.species(graph)
            sums.add(rows.double().cpu(), species.cpu())

    def _occurs(self, state: FitState, whole: bool, number: int | None) -> int:
        """Rows in the training set, of one element or of all, counted up to what is wanted."""
        found = 0
        for structure in state.train:
            found += 1 if whole else len(structure) if number is None else int((structure.numbers == number).sum())
            if found >= self.environments:
                break
        return found


def standardized(potential: nn.Module) -> dict[str, nn.Module]:
    """Terms with a ``descriptor`` and its ``standardize``, by name."""
    return {
        name: module
        for name, module in potential.named_modules()
        if isinstance(getattr(module, "standardize", None), Standardize)
        and isinstance(getattr(module, "descriptor", None), Descriptor)
    }


class Moments:
    """Counts, means and variances of rows that come a few at a time (Chan, Golub, LeVeque 1979: nothing cancels).

    Args:
        n_rows: kinds of rows.
        size: their length.
    """

    def __init__(self, n_rows: int, size: int) -> None:
        self.counts = torch.zeros(n_rows, dtype=torch.int64)
        self.mean = torch.zeros(n_rows, size, dtype=torch.float64)
        self.squares = torch.zeros(n_rows, size, dtype=torch.float64)

    def add(self, rows: Tensor, kinds: Tensor) -> None:
        """Rows ``(n, size)`` of these kinds ``(n,)``."""
        for kind in kinds.unique().tolist():
            own = rows[kinds == kind]
            before, n = int(self.counts[kind]), len(own)
            mean = own.mean(0)
            apart = mean - self.mean[kind]
            self.squares[kind] += (own - mean).square().sum(0) + apart.square() * (before * n / (before + n))
            self.mean[kind] += apart * (n / (before + n))
            self.counts[kind] += n

    def result(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (0 of what was not seen)."""
        return self.mean, (self.squares / self.counts.clamp(min=1)[:, None]).sqrt()
