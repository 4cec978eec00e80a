"""Cutoff functions. Witnesses: closed forms in Python's own arithmetic, autograd, and how many derivatives vanish."""

import math

import pytest
import torch

from epot.errors import ConfigError
from epot.features.cutoff import CUTOFFS, cosine_cutoff, cutoff_function, polynomial_cutoff

BY_HAND = {
    "cosine": lambda x: 0.5 * (math.cos(math.pi * x) + 1),
    "tanh3": lambda x: math.tanh(1 - x) ** 3,
    "unit_tanh3": lambda x: (math.tanh(1 - x) / math.tanh(1)) ** 3,
    "exponential": lambda x: math.exp(1 - 1 / (1 - x * x)),
    "poly1": lambda x: (2 * x - 3) * x**2 + 1,
    "poly2": lambda x: ((15 - 6 * x) * x - 10) * x**3 + 1,
    "poly3": lambda x: 1 - 35 * x**4 + 84 * x**5 - 70 * x**6 + 20 * x**7,
    "poly4": lambda x: 1 - 126 * x**5 + 420 * x**6 - 540 * x**7 + 315 * x**8 - 70 * x**9,
    "polynomial": lambda x: 1 - 28 * x**6 + 48 * x**7 - 21 * x**8,
}
VANISHING = {"cosine": 1, "tanh3": 2, "unit_tanh3": 2, "exponential": 4, "poly1": 1, "poly2": 2, "poly3": 3, "poly4": 4,
             "polynomial": 2}  # fmt: skip


def test_every_function_is_tested():
    assert set(BY_HAND) == set(VANISHING) == set(CUTOFFS)


@pytest.mark.parametrize("name", CUTOFFS)
def test_values_and_slopes(name):
    r = torch.linspace(0.1, 4.9, 17, dtype=torch.float64, requires_grad=True)
    value, slope = cutoff_function(name)(r, 5.0)
    expected = torch.tensor([BY_HAND[name](float(x) / 5) for x in r.detach()], dtype=torch.float64)
    torch.testing.assert_close(value.detach(), expected, atol=1e-13, rtol=0)
    (found,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    torch.testing.assert_close(slope, found, atol=1e-13, rtol=1e-12)
    twice = torch.autograd.grad(slope.sum(), r, retain_graph=True)[0]
    torch.testing.assert_close(twice, torch.autograd.grad(found.sum(), r)[0], atol=1e-12, rtol=1e-11)


@pytest.mark.parametrize("name", CUTOFFS)
def test_derivatives_that_vanish_at_the_cutoff(name):
    """And the next one, where there is one, does not: the control."""
    r = torch.tensor([5.0 - 1e-7], dtype=torch.float64, requires_grad=True)
    derivative = cutoff_function(name)(r, 5.0)[0]
    for order in range(5):
        if order <= VANISHING[name]:
            assert abs(float(derivative.detach())) < 1e-5, order
        elif name != "exponential":
            assert abs(float(derivative.detach())) > 1e-2
            break
        (derivative,) = torch.autograd.grad(derivative.sum(), r, create_graph=True)
    beyond = torch.tensor([5.0, 6.0], dtype=torch.float64, requires_grad=True)
    value, slope = cutoff_function(name)(beyond, 5.0)
    (found,) = torch.autograd.grad(value.sum(), beyond)
    assert max(float(t.detach().abs().max()) for t in (value, slope, found)) < 1e-15


def test_the_same_as_their_older_names():
    r = torch.linspace(0, 6, 13, dtype=torch.float64)
    torch.testing.assert_close(CUTOFFS["cosine"](r, 5.0)[0], cosine_cutoff(r, 5.0), atol=1e-16, rtol=0)
    torch.testing.assert_close(CUTOFFS["polynomial"](r, 5.0)[0], polynomial_cutoff(r, 5.0), atol=1e-15, rtol=0)


def test_inner_radius():
    """n2p2's alpha: 1 up to alpha times the cutoff, then x runs from there."""
    r = torch.tensor([1.0, 2.0, 3.5, 5.0], dtype=torch.float64, requires_grad=True)
    value, slope = cutoff_function("poly2", inner=0.4)(r, 5.0)
    expected = torch.tensor([1.0, 1.0, BY_HAND["poly2"](0.5), 0.0], dtype=torch.float64)
    torch.testing.assert_close(value.detach(), expected, atol=1e-15, rtol=0)
    torch.testing.assert_close(slope, torch.autograd.grad(value.sum(), r)[0], atol=1e-15, rtol=0)


def test_refused():
    with pytest.raises(ConfigError, match="did you mean 'poly2'"):
        cutoff_function("pol2")
    with pytest.raises(ConfigError, match="at least 0 and below 1"):
        cutoff_function("poly2", inner=1.0)
