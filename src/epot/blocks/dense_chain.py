"""Dense layers with SiLU and additions between them, applied to many rows, with first and second gradients.

    z_0 = x,    a_i = z_(i-1) W_i^T + b_i,    z_i = g_i silu(a_i) + h_i y

with y an earlier z_k, a tensor given beside x, or nothing. Networks with a message on every pair spend nearly all of
their time here. Products of matrices run at the processor's speed anyway; what lies between them does so only while it
stays in the cache. So a few hundred rows go through the whole chain at a time, forward, backward and in the second
backward pass of a loss on forces, which takes no more products than these: one forward, one for the forces, and two for
the inputs and two for the weights in the gradient of the loss.

With s = g silu and a gradient D of ``z_n``: ``c_i = e_i s'(a_i)``, ``e_(i-1) = c_i W_i + ..``, ``e_n = D``, and ``e_0``
goes to x. The gradient of ``<x', e_0> + ..`` is the derivative of the chain along x': ``t_i = v_(i-1) W_i^T``,
``v_i = t_i s'(a_i) + ..``, ``v_0 = x'``, and ``v_n`` belongs to D, ``t_i e_i s''(a_i)`` to ``a_i`` and
``c_i^T v_(i-1)`` to ``W_i``. What belongs to ``a_i`` is added to the gradient that comes down the chain itself: for
that the chain returns its ``a_i`` beside ``z_n``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ..features.engine import wanted
from ..typing import Float, Tensor
from . import dense_chain_native as native
from .activation import silu_second, silu_slope, silu_value
from .dense_chain_native import Plan

NOTHING, GIVEN = -1, -2
ROWS = 512  # at a time: what is done with them should stay in the processor's cache


class Step(NamedTuple):
    """A layer of a chain.

    Attributes:
        weight: ``(n_out, n_in)``.
        bias: ``(n_out,)``, or None.
        plus: what is added: ``NOTHING``, 0 the input, k > 0 what comes out of the k-th layer, ``GIVEN - k`` the k-th
            tensor given beside the input.
        gain: what SiLU is multiplied by.
        times: what the addition is multiplied by.
    """

    weight: Tensor
    bias: Tensor | None = None
    plus: int = NOTHING
    gain: float = 1.0
    times: float = 1.0


def dense_chain(
    x: Float[Tensor, "rows n_in"], steps: Sequence[Step], *given: Float[Tensor, "rows n"], constant: bool = False
) -> Float[Tensor, "rows n_out"]:
    """What comes out of the last layer; differentiable twice in everything.

    Args:
        x: input.
        steps: layers.
        given: tensors that are added on the way.
        constant: no gradients by weights will be asked for.
    """
    plan = Plan(*(tuple(getattr(step, name) for step in steps) for name in ("plus", "gain", "times")))
    tensors = [t for step in steps for t in (step.weight, step.bias)]
    if constant:
        tensors = [None if t is None else t.detach() for t in tensors]
    return _Chain.apply(x, plan, len(given), *given, *tensors)[0]


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, n_given: int, *rest: Tensor | None) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        given, weights, biases = _sorted(rest, n_given)
        out = x.new_empty(len(x), len(weights[-1]))
        pre = tuple(x.new_empty(len(x), len(w)) for w in weights)
        (native.forward if native.available(x) else _forward)(x, plan, given, weights, biases, out, pre)
        ctx.save_for_backward(x, *rest, *pre)
        ctx.plan, ctx.n_given = plan, n_given
        return out, *pre

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *extra: Tensor | None) -> tuple[Tensor | None, ...]:
        n = len(ctx.plan.plus)
        x, *rest = ctx.saved_tensors
        rest, pre = rest[: ctx.n_given + 2 * n], rest[ctx.n_given + 2 * n :]
        given, weights, biases = _sorted(rest, ctx.n_given)
        learned = any(w is not None and wanted(w) for w in (*weights, *biases))
        if grad is None:
            grad = torch.zeros_like(pre[-1])
        simply = not learned and all(t is None for t in extra)
        if torch.is_grad_enabled() and simply:
            found = _Gradient.apply(grad.contiguous(), ctx.plan, ctx.n_given, *weights, *pre)
            return found[0], None, None, *found[1:], *(None,) * (2 * n)
        if torch.is_grad_enabled():  # derivatives of the weights' gradients, or third ones: seldom asked for
            return _plainly(x, ctx.plan, ctx.n_given, rest, (grad, *extra))
        d_x, d_given, _, d_weights, d_biases = _back(
            grad.contiguous(), extra, ctx.plan, weights, pre, (x, given, biases) if learned else None, ctx.n_given
        )
        learned_ones = [t for pair in zip(d_weights, d_biases, strict=True) for t in pair]
        return d_x, None, None, *d_given, *learned_ones


class _Gradient(torch.autograd.Function):
    """Gradients by x and what is given, as a function of the gradient D, the weights and ``a_i``."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, plan: Plan, n_given: int, *rest: Tensor) -> tuple[Tensor, ...]:
        n = len(plan.plus)
        weights, pre = rest[:n], rest[n:]
        d_x, d_given, e, _, _ = _back(grad, (None,) * n, plan, weights, pre, None, n_given, keep=True)
        ctx.save_for_backward(*rest, *e)
        ctx.plan = plan
        return d_x, *d_given

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor, *along_given: Tensor) -> tuple[Tensor | None, ...]:
        n = len(ctx.plan.plus)
        saved = ctx.saved_tensors
        weights, pre, e = saved[:n], saved[n : 2 * n], saved[2 * n :]
        d_grad = torch.empty_like(pre[-1])
        d_pre = [torch.empty_like(a) for a in pre]
        d_weights = [torch.zeros_like(w) if ctx.needs_input_grad[3 + i] else None for i, w in enumerate(weights)]
        run = native.second if native.available(along) else _second
        run(along, along_given, ctx.plan, weights, pre, e, d_grad, d_pre, d_weights)
        return d_grad, None, None, *d_weights, *d_pre


def _sorted(rest: Sequence[Tensor | None], n_given: int) -> tuple[Any, Any, Any]:
    """What is given, weights and biases."""
    return rest[:n_given], rest[n_given::2], rest[n_given + 1 :: 2]


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """A few hundred rows each; other devices than processors take them all at once."""
    return (tensor,) if len(tensor) <= ROWS or tensor.device.type != "cpu" else tensor.split(ROWS)


def _cut(tensors: Sequence[Tensor], n_parts: int) -> list[list[Tensor]]:
    """For each few hundred rows the parts of all tensors."""
    if n_parts == 1:
        return [list(tensors)]
    parts = [t.split(ROWS) for t in tensors]
    return [[t[k] for t in parts] for k in range(n_parts)]


def _forward(
    x: Tensor,
    plan: Plan,
    given: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    out: Tensor,
    pre: Sequence[Tensor],
) -> None:
    """Write ``z_n`` and all ``a_i``."""
    x_in, outs = _parts(x), _parts(out)
    pres, givens = _cut(pre, len(outs)), _cut(given, len(outs))
    layers = [(w.t(), b) for w, b in zip(weights, biases, strict=True)]
    for k, part in enumerate(outs):
        part.copy_(_states(x_in[k], pres[k], plan, givens[k], layers)[-1])


def _second(
    along: Tensor,
    along_given: Sequence[Tensor],
    plan: Plan,
    weights: Sequence[Tensor],
    pre: Sequence[Tensor],
    e: Sequence[Tensor],
    d_grad: Tensor,
    d_pre: Sequence[Tensor],
    d_weights: Sequence[Tensor | None],
) -> None:
    """Write ``v_n`` and ``t_i e_i s''(a_i)``; add to the gradients of weights."""
    starts = _parts(along.contiguous())
    cut = [_cut(t, len(starts)) for t in (pre, e, d_pre, along_given)]
    for start, made, pres, es, d_pres, givens in zip(starts, _parts(d_grad), *cut, strict=True):
        v = [start]
        for i, (a, up) in enumerate(zip(pres, es, strict=True)):
            t = v[-1].mm(weights[i].t())
            gain = plan.gains[i]
            now, _, c = silu_second(t, up if gain == 1 else up * gain, a, d_pres[i])
            if gain != 1:
                now *= gain
            if (d_weight := d_weights[i]) is not None:
                d_weight.addmm_(c.t(), v[-1])
            v.append(_plus(now, plan, i, v, givens))
        made.copy_(v[-1])


def _states(
    x: Tensor,
    pre: Sequence[Tensor],
    plan: Plan,
    given: Sequence[Tensor],
    layers: Sequence[tuple[Tensor, Tensor | None]] = (),
) -> list[Tensor]:
    """``z_0 .. z_n`` of some rows; with layers (weights transposed, biases), what ``a_i`` are is written first."""
    states = [x]
    for i, a in enumerate(pre):
        if layers:
            weight, bias = layers[i]
            if bias is None:
                torch.mm(states[-1], weight, out=a)
            else:
                torch.addmm(bias, states[-1], weight, out=a)
        now = silu_value(a)
        states.append(_plus(now if plan.gains[i] == 1 else now.mul_(plan.gains[i]), plan, i, states, given))
    return states


def _plus(now: Tensor, plan: Plan, i: int, states: Sequence[Tensor], given: Sequence[Tensor]) -> Tensor:
    """With what a layer adds, in place."""
    k = plan.plus[i]
    return now if k == NOTHING else now.add_(states[k] if k >= 0 else given[GIVEN - k], alpha=plan.times[i])


def _back(
    grad: Tensor,
    extra: Sequence[Tensor | None],
    plan: Plan,
    weights: Sequence[Tensor],
    pre: Sequence[Tensor],
    learned: tuple[Tensor, Sequence[Tensor], Sequence[Tensor | None]] | None,
    n_given: int,
    keep: bool = False,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor | None], list[Tensor | None]]:
    """Gradients by x, by what is given, all ``e_i`` if they are to be kept, by weights and by biases.

    Args:
        grad: of the chain's result.
        extra: what is added to the gradients of ``a_i``.
        plan: of the steps.
        weights: of the steps.
        pre: ``a_i``.
        learned: x, what is given and the biases, where gradients by the weights are wanted.
        n_given: how many are given.
        keep: whether ``e_i`` are.
    """
    n = len(weights)
    d_x = grad.new_empty(len(grad), weights[0].shape[1])
    d_given = [grad.new_zeros(0)] * n_given
    for i, k in enumerate(plan.plus):
        if k <= GIVEN:
            d_given[GIVEN - k] = torch.empty_like(pre[i])
    e = [torch.empty_like(a) for a in pre] if keep else []
    d_weights: list[Tensor | None] = [None if learned is None else torch.zeros_like(w) for w in weights]
    d_biases: list[Tensor | None] = [None] * n
    if learned is not None:
        d_biases = [None if b is None else torch.zeros_like(b) for b in learned[2]]
    if native.available(grad):
        x, given = (None, ()) if learned is None else (learned[0], learned[1])
        native.backward(grad, extra, plan, weights, pre, x, given, d_x, d_given, e, d_weights, d_biases)
        return d_x, d_given, e, d_weights, d_biases
    more = [() if t is None else _parts(t) for t in extra]
    d_xs, starts = _parts(d_x), _parts(grad)
    pres, es, d_givens = (_cut(t, len(starts)) for t in (pre, e, d_given))
    x_in, givens = (_parts(learned[0]), _cut(learned[1], len(starts))) if learned is not None else ((), [])
    for k, now in enumerate(starts):
        states = _states(x_in[k], pres[k], plan, givens[k]) if learned is not None else []
        waiting: dict[int, Tensor] = {}
        for i in range(n - 1, -1, -1):
            if (other := waiting.pop(i + 1, None)) is not None:
                now += other
            if keep:
                es[k][i].copy_(now)
            to, times, gain = plan.plus[i], plan.times[i], plan.gains[i]
            if to >= 0:
                passed = now if times == 1 else now * times
                waiting[to] = passed + waiting[to] if to in waiting else passed
            elif to <= GIVEN:
                torch.mul(now, times, out=d_givens[k][GIVEN - to])
            c = silu_slope(now if gain == 1 else now * gain, pres[k][i], more[i][k] if len(more[i]) else None)
            if learned is not None:
                d_weights[i].addmm_(c.t(), states[i])  # type: ignore[union-attr]
                if (d_bias := d_biases[i]) is not None:
                    d_bias += c.sum(0)
            if i:
                now = c.mm(weights[i])
            else:
                torch.mm(c, weights[0], out=d_xs[k])
        if 0 in waiting:
            d_xs[k].add_(waiting[0])
    return d_x, d_given, e, d_weights, d_biases


def _plainly(
    x: Tensor, plan: Plan, n_given: int, rest: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The gradient by operations that autograd knows, so that it can be differentiated in any way."""
    given, weights, biases = _sorted(rest, n_given)
    with torch.enable_grad():
        states, pre = [x], []
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            pre.append(torch.nn.functional.linear(states[-1], weight, bias))
            now = torch.nn.functional.silu(pre[-1]) * plan.gains[i]
            if (k := plan.plus[i]) != NOTHING:
                now = now + (states[k] if k >= 0 else given[GIVEN - k]) * plan.times[i]
            states.append(now)
        made = [(o, g) for o, g in zip((states[-1], *pre), grads, strict=True) if g is not None]
        inputs = [t for t in (x, *rest) if t is not None and t.requires_grad]
        found = iter(torch.autograd.grad([o for o, _ in made], inputs, [g for _, g in made], create_graph=True))
    each = [next(found) if t is not None and t.requires_grad else None for t in (x, *rest)]
    return each[0], None, None, *each[1:]
