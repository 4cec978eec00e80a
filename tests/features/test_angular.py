"""Real spherical harmonics. Witnesses: SciPy's complex harmonics, the addition theorem, gradgradcheck."""

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, sph_harm_y

from epot.features.angular import derivative_matrices, harmonics_with_gradients, n_harmonics, spherical_harmonics

L_MAX = 10


@pytest.fixture
def vectors():
    return torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def units(vectors):
    return vectors / vectors.norm(dim=1, keepdim=True)


def scipy_real(units, degree, m):
    theta, phi = np.arccos(units[:, 2]), np.arctan2(units[:, 1], units[:, 0])
    y = sph_harm_y(degree, abs(m), theta, phi)
    return y.real if m == 0 else math.sqrt(2) * (-1) ** m * (y.real if m > 0 else y.imag)


def test_values_are_those_of_scipy(units):
    values = spherical_harmonics(units, L_MAX).numpy()
    assert values.shape == (n_harmonics(L_MAX), 40)
    for degree in range(L_MAX + 1):
        for m in range(-degree, degree + 1):
            expected = scipy_real(units.numpy(), degree, m)
            np.testing.assert_allclose(values[degree**2 + degree + m], expected, atol=1e-13)


def test_first_degree_is_y_z_x(units):
    values = spherical_harmonics(units, 1)
    torch.testing.assert_close(values[1:], math.sqrt(3 / (4 * math.pi)) * units[:, [1, 2, 0]].T)


def test_addition_theorem(units):
    values = spherical_harmonics(units, L_MAX).numpy()
    cosines = (units @ units.T).numpy()
    for degree in range(L_MAX + 1):
        part = values[degree**2 : (degree + 1) ** 2]
        np.testing.assert_allclose(
            part.T @ part, (2 * degree + 1) / (4 * math.pi) * eval_legendre(degree, cosines), atol=1e-12
        )


def test_solid_harmonics_are_homogeneous(vectors):
    values, doubled = spherical_harmonics(vectors, 4), spherical_harmonics(2 * vectors, 4)
    powers = torch.cat([torch.full((2 * n + 1, 1), 2.0**n, dtype=torch.float64) for n in range(5)])
    torch.testing.assert_close(doubled, powers * values)
    assert not torch.allclose(doubled, values)


@pytest.mark.parametrize("l_max", [0, 1, 2, 5])
def test_first_and_second_derivatives(l_max):
    vectors = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(v, l_max), vectors)
    assert torch.autograd.gradgradcheck(lambda v: spherical_harmonics(v, l_max), vectors)


def test_smooth_at_the_origin():
    origin = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(spherical_harmonics(origin, 4)[1].sum(), origin)
    torch.testing.assert_close(slope, origin.new_tensor([[0, math.sqrt(3 / (4 * math.pi)), 0]]))


def test_solid_harmonics_solve_laplace():
    """The sum of squared derivative operators vanishes; the control is a single one of them."""
    first, second = derivative_matrices(5), derivative_matrices(4)
    squares = [d @ e for d, e in zip(first, second, strict=True)]
    assert sum(squares).abs().max() < 1e-12
    assert squares[0].abs().max() > 1


def test_closed_form_gradients_equal_autograd(vectors):
    r = vectors.norm(dim=1)
    made = harmonics_with_gradients(vectors / r[:, None], r, 6)
    leaf = vectors.clone().requires_grad_()
    values = spherical_harmonics(leaf / leaf.norm(dim=1, keepdim=True), 6)
    for q in (0, 1, 7, 30, 48):
        (expected,) = torch.autograd.grad(values[q].sum(), leaf, retain_graph=True)
        torch.testing.assert_close(made.gradients[:, q].T, expected, atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(made.values, values)
