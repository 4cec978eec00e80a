"""An exponential moving average of the weights: what is evaluated and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from ..typing import Tensor


class Average:
    """``a <- d a + (1 - d) w`` after each step ``s = 0, 1, ...``, with ``d = min((1 + s) / (10 + s), decay)``.

    The ramp forgets the initial weights early (Nequix, https://arxiv.org/abs/2508.16067). Buffers are not averaged:
    a fit by descent does not change them.

    Args:
        parameters: the trained parameters by name; they are read, and swapped by :meth:`applied`.
        decay: 0 to 1; 0 keeps the last weights.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float = 0.999) -> None:
        self.parameters = parameters
        self.decay = decay
        self.steps = 0
        self.values = {k: p.detach().clone() for k, p in parameters.items()}

    @staticmethod
    def weight(step: int, decay: float) -> float:
        """``d`` of a step, counted from 0."""
        return min((1.0 + step) / (10.0 + step), decay)

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor] | None = None) -> None:
        """Take in the current weights, or those of an optimizer that has better ones."""
        d = self.weight(self.steps, self.decay)
        now = [p.detach() for p in self.parameters.values()] if weights is None else list(weights)
        torch._foreach_lerp_(list(self.values.values()), now, 1.0 - d)
        self.steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights in place of the raw ones while the block runs."""
        raw = {k: p.detach().clone() for k, p in self.parameters.items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(raw)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
