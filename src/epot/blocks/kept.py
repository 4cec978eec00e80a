"""What is made of parameters and does not change while they do not: kept between calls, for molecular dynamics."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from ..typing import Tensor

MOST = 32  # results of one keeper: a data set has many sets of elements
LARGEST = 1 << 28  # bytes of them, the last aside: those of many elements are large
Made = TypeVar("Made")
_State = tuple[Tensor, int, Tensor]
"""A tensor, how often it had been changed, and its memory, which nothing else can be given while it is held here."""


class Kept:
    """Results by key, each with the state of the tensors that it was made of.

    Not a buffer and not a parameter: it goes into no file and into no copy. It belongs to an :class:`nn.Module` as an
    ordinary attribute. A change in place through ``.data`` (``w.data.mul_(2)``) is not counted by torch and not seen
    here; the same under ``torch.no_grad()`` is.
    """

    def __init__(self) -> None:
        self._held: dict[Hashable, tuple[list[_State], Any]] = {}

    def of(self, module: nn.Module, make: Callable[[], Made], key: Hashable = None) -> Made:
        """``make()``, without history, or what it gave when the module's parameters and buffers were the same."""
        return self.by(tensors_of(module), make, key)

    def by(self, tensors: Iterable[Tensor], make: Callable[[], Made], key: Hashable = None) -> Made:
        """``make()``, without history, or what it gave when these tensors were the same."""
        listed = list(tensors)
        held = self._held.pop(key, None)
        if held is None or len(held[0]) != len(listed) or not all(map(_same, listed, held[0])):
            if any(t.is_inference() for t in listed):  # these do not count their changes
                return make()
            with torch.inference_mode(False), torch.no_grad():  # in this order: the first switches gradients on
                held = [(t, t._version, t.detach()) for t in listed], make()
            self._make_room(_bytes(held[1]))
        self._held[key] = held  # the last to go
        return held[1]

    def _make_room(self, size: int) -> None:
        size += sum(_bytes(made) for _, made in self._held.values())
        while self._held and (len(self._held) >= MOST or size > LARGEST):
            _, made = self._held.pop(next(iter(self._held)))
            size -= _bytes(made)

    def __deepcopy__(self, memo: object) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Kept, ()


def _bytes(made: Any) -> int:
    if isinstance(made, Tensor):
        return made.numel() * made.element_size()
    return sum(_bytes(each) for each in made) if isinstance(made, (list, tuple)) else 0


def tensors_of(module: nn.Module) -> list[Tensor]:
    """All parameters and buffers, those shared by modules more than once: in less time than their iterators take."""
    found = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
    for child in module._modules.values():
        if child is not None:
            found += tensors_of(child)
    return found


def _same(tensor: Tensor, then: _State) -> bool:
    """Whether it is the tensor of then and nobody has changed it."""
    return tensor is then[0] and tensor._version == then[1] and tensor.data_ptr() == then[2].data_ptr()
