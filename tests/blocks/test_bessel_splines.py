"""Bessel functions read from splines: values and slopes beside the functions themselves."""

import pytest
import torch

from epot.blocks.bessel_splines import bessel_splines
from epot.features.directional import bessel_functions


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 1e-6)])
@pytest.mark.parametrize(("l_max", "n"), [(6, 6), (0, 3), (9, 2)])
def test_values_and_slopes(l_max, n, dtype, tolerance):
    r = torch.linspace(0.3, 5.0, 301).to(dtype).requires_grad_()
    exact = r.detach().double().requires_grad_()
    found, expected = bessel_splines(r, 5.0, l_max, n), bessel_functions(exact, 5.0, l_max, n)
    assert found.dtype == dtype
    assert found.shape == expected.shape == (l_max + 1, n, 301)
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slopes, expected_slopes = (
        torch.autograd.grad((y * weights).sum(), x)[0] for y, x in ((found, r), (expected, exact))
    )
    for a, b in ((found, expected), (slopes, expected_slopes)):
        assert float((a - b).detach().abs().max()) < tolerance * float(b.detach().abs().max())
    shifted = bessel_functions(exact.detach() + 1e-5, 5.0, l_max, n)  # the control: a hundred-thousandth of an Å shows
    assert float((found.detach() - shifted).abs().max()) > tolerance * float(expected.detach().abs().max())


def test_no_pairs():
    assert bessel_splines(torch.zeros(0), 5.0, 2, 3).shape == (3, 3, 0)


def test_twice_is_refused():
    """They are for forces; a second derivative would be wrong in silence."""
    r = torch.tensor([1.0, 2.0], requires_grad=True)
    (slope,) = torch.autograd.grad(bessel_splines(r, 5.0, 2, 3).square().sum(), r, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|not have been used"):
        torch.autograd.grad(slope.sum(), r)
