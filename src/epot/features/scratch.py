"""Memory for intermediate results, used again and again: the first touch of fresh pages costs more than arithmetic."""

from __future__ import annotations

import math
import threading

import torch

from ..typing import Tensor


class Scratch(threading.local):
    """Named arrays that keep their memory between calls, each thread its own. They hold anything until written to.

    Attributes:
        mark: whatever the last user leaves to know its own results again.
    """

    def __init__(self) -> None:
        self.held: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self.mark: object = None

    def take(self, name: str, *shape: int, like: Tensor) -> Tensor:
        """An array of this shape, of the type of ``like``: valid until the name is taken again."""
        key, size = (name, like.dtype, like.device), math.prod(shape)
        held = self.held.get(key)
        if held is None or held.numel() < size:
            with torch.inference_mode(False):
                held = self.held[key] = torch.empty(size + size // 4, dtype=like.dtype, device=like.device)
        return held[:size].view(shape)

    def __deepcopy__(self, memo: object) -> Scratch:
        return Scratch()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Scratch, ()
