"""Chains of dense layers: the same as autograd makes of plain operations, to second order; SiLU by itself."""

import pytest
import torch
from torch.nn.functional import linear

from epot.blocks import dense_chain as module
from epot.blocks.activation import silu
from epot.blocks.dense_chain import GIVEN, NOTHING, Step, dense_chain

PLUS = (GIVEN, NOTHING, 1, GIVEN - 1, NOTHING, 4)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Several blocks of rows, the last of them not full."""
    monkeypatch.setattr(module, "ROWS", 4)


@pytest.fixture
def case():
    torch.manual_seed(0)
    leaf = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    x, given = leaf(10, 3), (leaf(10, 5), leaf(10, 5))
    weights = [leaf(5, 3), *(leaf(5, 5) for _ in PLUS[1:])]
    biases = [None, *(leaf(5) for _ in PLUS[1:])]
    return x, given, [Step(w, b, p) for w, b, p in zip(weights, biases, PLUS, strict=True)]


def plainly(x, steps, *given):
    """Witness: what the module's text says, in torch's own operations."""
    states = [x]
    for step in steps:
        now = torch.nn.functional.silu(linear(states[-1], step.weight, step.bias))
        if step.plus > 0:
            now = now + states[step.plus]
        elif step.plus <= GIVEN:
            now = now + given[GIVEN - step.plus]
        states.append(now)
    return states[-1]


def leaves(x, given, steps):
    return [x, *given, *(t for s in steps for t in (s.weight, s.bias) if t is not None)]


def test_values_and_first_gradients(case):
    x, given, steps = case
    made, witness = dense_chain(x, steps, *given), plainly(x, steps, *given)
    torch.testing.assert_close(made, witness, rtol=1e-13, atol=1e-13)
    wanted = leaves(x, given, steps)
    found, expected = (torch.autograd.grad(y.square().sum(), wanted) for y in (made, witness))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    other = [s._replace(plus=NOTHING) for s in steps]  # the control: additions matter
    assert float((dense_chain(x, other) - witness).detach().abs().max()) > 0.1


def test_gradient_of_a_loss_on_forces(case):
    """d/d(weights) of a function of dE/dx, with and without the value in the loss."""
    x, given, steps = case
    wanted = leaves(x, given, steps)
    for factor in (1.0, 0.0):
        grads = []
        for function in (dense_chain, plainly):
            y = function(x, steps, *given)
            slopes = torch.autograd.grad(y.sin().sum(), [x, *given], create_graph=True)
            loss = sum(s.square().sum() for s in slopes) + factor * y.square().sum()
            grads.append(torch.autograd.grad(loss, wanted))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_gradients_of_weights_can_be_differentiated(case):
    """Seldom asked for, but never wrong in silence."""
    x, given, steps = case
    grads = []
    for function in (dense_chain, plainly):
        (slope,) = torch.autograd.grad(function(x, steps, *given).sum(), steps[2].weight, create_graph=True)
        grads.append(torch.autograd.grad(slope.square().sum(), [x, steps[0].weight, steps[4].bias]))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_no_rows(case):
    x, given, steps = case
    made = dense_chain(x[:0], steps, *(g[:0] for g in given))
    assert made.shape == (0, 5)
    assert torch.autograd.grad(made.sum(), steps[0].weight)[0].abs().sum() == 0


def test_silu():
    """Witness: torch's, and finite differences to second order."""
    x = torch.linspace(-6, 6, 41, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(silu(x), torch.nn.functional.silu(x))
    assert torch.autograd.gradcheck(silu, (x,))
    assert torch.autograd.gradgradcheck(silu, (x,))
