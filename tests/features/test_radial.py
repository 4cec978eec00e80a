"""Radial bases against scipy's spherical Bessel functions and the Gaussian's own values."""

import numpy as np
import pytest
import torch
from scipy.special import spherical_jn

from epot.errors import ConfigError
from epot.features.radial import bessel_basis, gaussian_basis, radial_basis

R = torch.linspace(0.05, 5.0, 40, dtype=torch.float64)


def test_bessel_is_the_spherical_bessel_function():
    """Witness: scipy.special.spherical_jn; sin(k pi r / rc) / r = (k pi / rc) j_0(k pi r / rc)."""
    k = np.arange(1, 7) * np.pi / 5.0
    expected = k * spherical_jn(0, R.numpy()[:, None] * k)
    assert np.abs(bessel_basis(R, 5.0, 6).numpy() - expected).max() < 1e-13
    assert np.abs(bessel_basis(R, 4.9, 6).numpy() - expected).max() > 1e-2  # control: another cutoff is another basis


def test_bessel_vanishes_at_the_cutoff():
    assert bessel_basis(torch.tensor([5.0], dtype=torch.float64), 5.0, 8).abs().max() < 1e-14


def test_gaussian_centers_and_width():
    """Witness: the definition. 1 at a center, exp(-1/2) one spacing away, exp(-2) two away."""
    centers = torch.linspace(0, 5, 11, dtype=torch.float64)
    values = gaussian_basis(centers, 5.0, 11)
    for away, expected in ((0, 1.0), (1, np.exp(-0.5)), (2, np.exp(-2.0))):
        assert (values.diagonal(away) - expected).abs().max() < 1e-14


@pytest.mark.parametrize("kind", ["bessel", "gaussian"])
def test_derivatives(kind):
    r = R[::4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: radial_basis(kind, x, 5.0, 4), r)
    assert torch.autograd.gradgradcheck(lambda x: radial_basis(kind, x, 5.0, 4), r)


def test_shape_and_dtype():
    r = torch.rand(2, 3, dtype=torch.float32) + 0.5
    made = radial_basis("bessel", r, 4.0, 5)
    assert made.shape == (2, 3, 5)
    assert made.dtype == torch.float32


def test_refuses():
    with pytest.raises(ConfigError, match="did you mean 'bessel'"):
        radial_basis("besel", R, 5.0, 4)
    with pytest.raises(ConfigError, match="at least 2"):
        radial_basis("gaussian", R, 5.0, 1)
