"""Operators whose first and second gradients are written by hand, as autograd sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch.autograd.function import once_differentiable

from ..features.engine import wanted
from ..typing import Tensor

Gradients = tuple[Tensor | None, ...]


@runtime_checkable
class Kernels(Protocol):
    """An operator M of some tensors T, and the gradients of ``E(D; T) = <D, M(T)>``."""

    @property
    def forward(self) -> Callable[..., Tensor]:
        """``M(T)``."""

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]) -> Gradients:
        """``dE/dT``, those that are wanted, given D."""

    def second(
        self, along: Sequence[Tensor | None], grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]
    ) -> Gradients:
        """The gradient of ``S = <T', dE/dT>`` by D and by T, given T' (None for zeros); ``want`` begins with D's."""


class Written(NamedTuple):
    """A module's functions ``forward``, ``backward`` and ``second_backward``, which also want to know where."""

    functions: Any
    where: Any

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.functions.forward(*inputs, self.where)

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]) -> Gradients:
        return self.functions.backward(grad, *inputs, self.where, want)

    def second(
        self, along: Sequence[Tensor | None], grad: Tensor, inputs: Sequence[Tensor], want: Sequence[bool]
    ) -> Gradients:
        return self.functions.second_backward(along, grad, *inputs, self.where, want)


def applied(kernels: Kernels, *inputs: Tensor) -> Tensor:
    """The operator, differentiable twice, of tensors that are contiguous for the kernels."""
    # here and not within: autograd would not know a copy that is made there
    return _Operator.apply(kernels, *(t.contiguous() for t in inputs))


def filled(along: Tensor | None, like: Tensor) -> Tensor:
    """A direction, zeros where it is None."""
    return torch.zeros_like(like) if along is None else along


class _Operator(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.kernels = kernels
        return kernels.forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        inputs, grad = ctx.saved_tensors, grad.contiguous()
        want = tuple(map(wanted, inputs))
        if not torch.is_grad_enabled():  # nobody will differentiate it
            return None, *ctx.kernels.backward(grad, inputs, want)
        return None, *_Gradient.apply(ctx.kernels, want, grad, *inputs)


class _Gradient(torch.autograd.Function):
    """The gradient as a function of its own, whose gradient a loss on forces asks for."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, want: tuple[bool, ...], grad: Tensor, *inputs: Tensor) -> Gradients:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, *inputs)
        ctx.kernels = kernels
        return kernels.backward(grad, inputs, want)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *along: Tensor | None) -> Gradients:
        grad, *inputs = ctx.saved_tensors
        want = tuple(map(wanted, ctx.saved_tensors))
        found = ctx.kernels.second([None if t is None else t.contiguous() for t in along], grad, inputs, want)
        return None, None, *found
