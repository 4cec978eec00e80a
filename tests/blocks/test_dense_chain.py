"""Chains of dense layers: the same as autograd makes of plain operations, to second order; SiLU by itself."""

import pytest
import torch
from torch.nn.functional import linear

from epot import native
from epot.blocks import dense_chain as module
from epot.blocks import dense_chain_native
from epot.blocks.activation import silu
from epot.blocks.dense_chain import GIVEN, NOTHING, Step, dense_chain

PLUS = (GIVEN, NOTHING, 1, GIVEN - 1, NOTHING, 4)
FROM_INPUT = (0, NOTHING, 0, GIVEN, 2, GIVEN - 1)
GAINS, TIMES = (1.0, 1.7, 1.0, 0.6, 1.2, 1.0), (1.0, 1.0, 0.7, 1.3, 1.0, -0.4)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=["plain", "with factors"])
def case(request, way):
    """Several blocks of rows, the last of them not full, and widths that fill no vector."""
    rows, n_in, n_out = way
    if request.param == "plain":
        return made(rows, n_in, n_out)
    x, given, steps = made(rows, n_out, n_out)
    each = zip(steps, FROM_INPUT, GAINS, TIMES, strict=True)
    return x, given, [s._replace(plus=plus, gain=gain, times=times) for s, plus, gain, times in each]


@pytest.fixture(params=["torch", "kernels", "kernels, two threads"])
def way(request, monkeypatch, threads):
    if request.param == "torch":
        monkeypatch.setenv("EPOT_NATIVE", "0")
        monkeypatch.setattr(module, "ROWS", 4)
        return 10, 3, 5
    if native.library("chain") is None:
        pytest.skip("no compiler")
    threads(2 if "two" in request.param else 1)
    assert dense_chain_native.available(torch.zeros(150, 1))
    return 150, 13, 37


def made(rows, n_in, n_out, dtype=torch.float64):
    torch.manual_seed(0)
    leaf = lambda *shape: torch.randn(*shape, dtype=dtype).requires_grad_()  # noqa: E731
    x, given = leaf(rows, n_in), (leaf(rows, n_out), leaf(rows, n_out))
    scale = 1.0 if n_out < 8 else n_out**-0.5
    weights = [leaf(n_out, n_in), *((leaf(n_out, n_out).detach() * scale).requires_grad_() for _ in PLUS[1:])]
    biases = [None, *(leaf(n_out) for _ in PLUS[1:])]
    return x, given, [Step(w, b, p) for w, b, p in zip(weights, biases, PLUS, strict=True)]


def plainly(x, steps, *given):
    """Witness: what the module's text says, in torch's own operations."""
    states = [x]
    for step in steps:
        now = step.gain * torch.nn.functional.silu(linear(states[-1], step.weight, step.bias))
        if step.plus >= 0:
            now = now + step.times * states[step.plus]
        elif step.plus <= GIVEN:
            now = now + step.times * given[GIVEN - step.plus]
        states.append(now)
    return states[-1]


def assert_same(a, b, tolerance):
    """To a part of the largest number."""
    error, most = float((a - b).detach().abs().max()), float(b.detach().abs().max())
    assert error <= tolerance * most, error / most


def leaves(x, given, steps):
    return [x, *given, *(t for s in steps for t in (s.weight, s.bias) if t is not None)]


def test_values_and_first_gradients(case):
    x, given, steps = case
    found, witness = dense_chain(x, steps, *given), plainly(x, steps, *given)
    assert_same(found, witness, 1e-14)
    wanted = leaves(x, given, steps)
    slopes, expected = (torch.autograd.grad(y.square().sum(), wanted) for y in (found, witness))
    for a, b in zip(slopes, expected, strict=True):
        assert_same(a, b, 1e-13)
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
            assert_same(a, b, 1e-13)


def test_gradients_of_weights_can_be_differentiated(case):
    """Seldom asked for, but never wrong in silence."""
    x, given, steps = case
    grads = []
    for function in (dense_chain, plainly):
        (slope,) = torch.autograd.grad(function(x, steps, *given).sum(), steps[2].weight, create_graph=True)
        grads.append(torch.autograd.grad(slope.square().sum(), [x, steps[0].weight, steps[4].bias]))
    for a, b in zip(*grads, strict=True):
        assert_same(a, b, 1e-13)


def test_no_rows(case):
    x, given, steps = case
    none = dense_chain(x[:0], steps, *(g[:0] for g in given))
    assert none.shape == (0, len(steps[-1].weight))
    assert torch.autograd.grad(none.sum(), steps[0].weight)[0].abs().sum() == 0


def test_single_precision():
    """The kernels' single precision beside their double; one block and several, whole vectors and not."""
    for rows, n_out in ((50, 37), (64, 64), (201, 32)):
        found = []
        for dtype in (torch.float32, torch.float64):
            x, given, steps = made(rows, 13, n_out, torch.float32)
            cast = lambda t, dtype=dtype: None if t is None else t.detach().to(dtype).requires_grad_()  # noqa: E731
            steps = [Step(cast(s.weight), cast(s.bias), s.plus) for s in steps]
            x, given = cast(x), [cast(g) for g in given]
            y = dense_chain(x, steps, *given)
            slopes = torch.autograd.grad(y.sin().sum(), [x, *given], create_graph=True)
            loss = sum(s.square().sum() for s in slopes) + y.square().sum()
            found.append([y, *slopes, *torch.autograd.grad(loss, leaves(x, given, steps))])
        for single, double in zip(*found, strict=True):
            assert_same(single, double, 3e-6)


def test_rows_do_not_know_of_each_other():
    """What pads the last block is not seen: with NaN in some rows, others are the same to the last bit."""
    x, given, steps = made(150, 13, 37)
    whole = dense_chain(x, steps, *given).detach()
    with torch.no_grad():
        x[140:] = float("nan")
    some = dense_chain(x, steps, *given).detach()
    assert torch.equal(some[:140], whole[:140])
    assert bool(some[140:].isnan().all())


def test_silu():
    """Witness: torch's, and finite differences to second order."""
    x = torch.linspace(-6, 6, 41, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(silu(x), torch.nn.functional.silu(x))
    assert torch.autograd.gradcheck(silu, (x,))
    assert torch.autograd.gradgradcheck(silu, (x,))
