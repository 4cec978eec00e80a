"""Numbers that are set once from training data, before the weights are trained."""

from __future__ import annotations

import torch
from torch import nn

from ..typing import Tensor


class TrainingConstant(nn.Module):
    """A number that the stage ``scaling`` sets by one evaluation of training structures.

    Attributes:
        factor: ``()``; 1 until it was set or read from a file.
        settled: whether it was, ``()``.
        observing: the next call sets it, if it is not settled.
    """

    factor: Tensor
    settled: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones((), dtype=torch.float32))
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))
        self.observing = False

    @torch.no_grad()
    def settle(self, value: Tensor | float) -> None:
        """Set it for good."""
        self.factor.copy_(torch.as_tensor(value, dtype=torch.float64))  # a number would be rounded to float32
        self.settled.fill_(True)
