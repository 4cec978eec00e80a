"""Bases of distances and angles: scipy's special functions, orthonormality, derivatives of any order."""

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, sph_harm_y, spherical_jn

from epot.features.angular import spherical_harmonics
from epot.features.bessel import roots
from epot.features.directional import (
    bessel_functions,
    envelope,
    sine_basis,
    spherical_bessel,
    zonal_harmonics,
)

DEGREES = torch.arange(8, dtype=torch.float64)[:, None, None]


def test_envelope_is_the_papers_polynomial():
    """Witness: the coefficients -28, 48, -21 of p = 6; value and two derivatives vanish at the cutoff."""
    r = torch.linspace(0.1, 4.999, 400, dtype=torch.float64)
    x = r / 5
    witness = 1 / x - 28 * x**5 + 48 * x**6 - 21 * x**7
    torch.testing.assert_close(envelope(r, 5.0), witness, rtol=0, atol=1e-13)
    edge = torch.tensor(5.0 - 1e-12, dtype=torch.float64, requires_grad=True)
    value = envelope(edge, 5.0)
    (slope,) = torch.autograd.grad(value, edge, create_graph=True)
    (bend,) = torch.autograd.grad(slope, edge)
    assert max(abs(float(t.detach())) for t in (value, slope, bend)) < 1e-9
    assert float(envelope(torch.tensor(5.1), 5.0)) == 0
    assert abs(float(envelope(torch.tensor(4.0), 5.0) - envelope(torch.tensor(4.0), 5.0, p=5))) > 1e-3


def test_spherical_bessel_of_scipy():
    """Witness: scipy, from where the power series rules to where the recurrence does. Control: the recurrence alone."""
    x = torch.logspace(-3, 1.7, 500, dtype=torch.float64).expand(8, 1, -1).contiguous()
    made = spherical_bessel(x, DEGREES)
    for degree in range(8):
        witness = spherical_jn(degree, x[degree, 0].numpy())
        np.testing.assert_allclose(made[degree, 0].numpy(), witness, rtol=3e-13, atol=1e-15)
    from epot.features.directional import _upward

    assert float((_upward(x)[0] - made).abs().max()) > 1


def test_spherical_bessel_in_single_precision():
    x = torch.logspace(-2, 1.5, 500, dtype=torch.float32).expand(8, 1, -1).contiguous()
    made = spherical_bessel(x, DEGREES.float())
    witness = np.stack([spherical_jn(degree, x[degree].double().numpy()) for degree in range(8)])
    assert np.abs(made.numpy() - witness).max() < 3e-7


def test_derivatives_of_spherical_bessel():
    """Witness: finite differences of first and second derivatives, on both sides of where the formulas change."""
    x = torch.tensor([0.05, 0.9, 1.5, 3.9, 4.1, 9.0, 20.0], dtype=torch.float64).expand(8, 1, -1).contiguous()
    x.requires_grad_()
    assert torch.autograd.gradcheck(spherical_bessel, (x, DEGREES), atol=1e-8)
    assert torch.autograd.gradgradcheck(spherical_bessel, (x, DEGREES), atol=1e-7)


def test_bessel_functions_are_orthonormal_and_vanish():
    """Gauss-Legendre quadrature of x^2. Control: the multiples of pi are roots of j_0 alone."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    x, w = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    made = bessel_functions(4.0 * x, 4.0, 6, 6)
    overlap = torch.einsum("lnp,lmp,p->lnm", made, made, w * x**2)
    torch.testing.assert_close(overlap, torch.eye(6, dtype=torch.float64).expand(7, 6, 6), rtol=0, atol=1e-10)
    edge = bessel_functions(torch.tensor([4.0], dtype=torch.float64), 4.0, 6, 6)
    assert float(edge.abs().max()) < 1e-12
    wrong = spherical_bessel(torch.from_numpy(roots(0, 6)).expand(7, 6)[:, :, None] * x, DEGREES[:7])
    overlap = torch.einsum("lnp,lmp,p->lnm", wrong, wrong, w * x**2)
    assert float(overlap[2:, 0, 1].abs().max()) > 1e-3


def test_zonal_harmonics_and_the_addition_theorem():
    """Witnesses: scipy's Y_l0 and Legendre polynomials; sum_m Y_lm(a) Y_lm(b) = (2l+1)/4pi P_l(a . b)."""
    theta = np.linspace(0, np.pi, 50)
    made = zonal_harmonics(torch.from_numpy(np.cos(theta)), 6)
    witness = np.stack([sph_harm_y(degree, 0, theta, 0.0).real for degree in range(7)])
    np.testing.assert_allclose(made.numpy(), witness, atol=1e-14)
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(v / np.linalg.norm(v, axis=1, keepdims=True)) for v in rng.normal(size=(2, 20, 3)))
    products = spherical_harmonics(a, 6) * spherical_harmonics(b, 6)
    cosine = (a * b).sum(1)
    for degree in range(7):
        found = products[degree**2 : (degree + 1) ** 2].sum(0)
        legendre = (2 * degree + 1) / (4 * np.pi) * eval_legendre(degree, cosine.numpy())
        np.testing.assert_allclose(found.numpy(), legendre, atol=1e-13)
        factor = ((2 * degree + 1) / (4 * np.pi)) ** 0.5
        np.testing.assert_allclose(zonal_harmonics(cosine, 6)[degree].numpy() * factor, legendre, atol=1e-13)


@pytest.mark.parametrize("cosine", [-1.0, 1.0])
def test_zonal_harmonics_of_a_straight_line(cosine):
    """Derivatives exist where an angle has none."""
    x = torch.tensor([cosine], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: zonal_harmonics(t, 6), (x,), atol=1e-6, rtol=1e-5)
    assert zonal_harmonics(x, 0).shape == (1, 1)


def test_sines():
    r = torch.tensor([1.0, 2.0], dtype=torch.float64)
    f = (torch.arange(1, 4) * np.pi).double().requires_grad_()
    torch.testing.assert_close(sine_basis(r, f, 5.0)[1, 2], torch.tensor(np.sin(3 * np.pi * 0.4)))
    assert torch.autograd.gradcheck(lambda g: sine_basis(r, g, 5.0), (f,))
