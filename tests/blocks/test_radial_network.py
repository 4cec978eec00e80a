"""Radial functions and networks of MACE. Witnesses: the formulas written out, quadrature, finite differences."""

import math

import numpy as np
import pytest
import torch
from ase.data import covalent_radii

from epot.blocks.radial_network import SIGMOID_GAIN, SILU_GAIN, RadialBasis, RadialNetwork, unit_normal

CUTOFF = 4.0
R = torch.linspace(0.3, 3.99, 60, dtype=torch.float64)
PAIR = torch.tensor([[6], [8]]).expand(2, len(R))


def test_bessel_functions_and_the_cutoff():
    values, fade = RadialBasis(CUTOFF, 5)(R, None)
    n, x = np.arange(1, 6), R.numpy()[:, None]
    np.testing.assert_allclose(values.numpy(), np.sqrt(2 / CUTOFF) * np.sin(n * np.pi * x / CUTOFF) / x, atol=1e-13)
    t = x / CUTOFF
    np.testing.assert_allclose(fade.numpy(), 1 - 21 * t**5 + 35 * t**6 - 15 * t**7, atol=1e-13)
    assert np.abs(fade.numpy() - (1 - 28 * t**6 + 48 * t**7 - 21 * t**8)).max() > 1e-2  # p = 6


@pytest.mark.parametrize("power", [2, 5, 8])
def test_value_slope_and_curvature_vanish_at_the_cutoff(power):
    """Control: the third derivative does not."""
    r = torch.tensor([CUTOFF], dtype=torch.float64, requires_grad=True)
    value = RadialBasis(CUTOFF, 3, power=power)(r, None)[1].sum()
    for _ in range(3):
        assert abs(float(value.detach())) < 1e-12
        (value,) = torch.autograd.grad(value, r, create_graph=True)
    assert abs(float(value.detach())) > 1e-2


def test_agnesi():
    """MACE's constants; from 1 at contact down, on (0, 1]."""
    basis = RadialBasis(CUTOFF, 3, transform="agnesi").double()
    r0 = (covalent_radii[6] + covalent_radii[8]) / 2
    x = R.numpy() / r0
    expected = 1 / (1 + 1.0805 * x**0.9183 / (1 + x ** (0.9183 - 4.5791)))
    found = basis._agnesi(R, torch.full_like(R, r0))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-13)
    values, fade = basis(R, PAIR)
    bare, same = RadialBasis(CUTOFF, 3)(found, None)
    torch.testing.assert_close(values, bare)
    assert (fade - same).abs().max() > 0.1  # the cutoff function is that of the distance itself
    assert (basis(R, torch.ones_like(PAIR))[0] - values).abs().max() > 1e-2  # other elements


def test_soft_stops_at_short_distance():
    basis = RadialBasis(CUTOFF, 3, transform="soft").double()
    r0 = covalent_radii[6] + covalent_radii[8]
    found = basis._soft(torch.tensor([0.05, 0.3, 5.0], dtype=torch.float64), torch.tensor(r0, dtype=torch.float64))
    assert abs(float(found[0]) - 0.75 * r0) < 0.01
    assert abs(float(found[2]) - 5.0) < 1e-3
    assert float(found.diff().min()) > -0.01


def test_gains_keep_the_mean_square():
    """Of a unit normal; e3nn's own number of silu is 0.14 % off the integral."""
    z = np.linspace(-12, 12, 200_001)
    weight = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    logistic = 1 / (1 + np.exp(-z))
    for gain, f, off in ((SILU_GAIN, z * logistic, 3e-3), (SIGMOID_GAIN, logistic, 3e-3)):
        assert abs(gain * math.sqrt((weight * f**2).sum()) - 1) < off
    assert abs(SILU_GAIN * math.sqrt((weight * (z * logistic) ** 2).sum()) - 1) > 1e-4


def test_network_is_layers_of_scaled_silu():
    torch.manual_seed(0)
    network, x = RadialNetwork([3, 5, 4]), torch.randn(7, 3)
    h = x
    for w in network.parameters():
        h = SILU_GAIN * (h @ w) / (1 + torch.exp(-h @ w))
    torch.testing.assert_close(network(x), h)
    assert network.size == 4


def test_initial_weights_have_the_variance_of_their_inputs():
    torch.manual_seed(0)
    assert float(unit_normal(400, 300).detach().var()) == pytest.approx(1 / 400, rel=0.02)
    assert float(unit_normal(3, 200, 300, fan_in=50).detach().var()) == pytest.approx(1 / 50, rel=0.02)
