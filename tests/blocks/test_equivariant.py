"""Harmonics, 3j symbols, D matrices, irreps. Witnesses: e3nn 0.4.4, SciPy's harmonics, rotations."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y
from scipy.stats import ortho_group

from epot.blocks.equivariant import (
    format_irreps,
    parse_irreps,
    spherical_harmonics,
    spherical_harmonics_and_gradient,
    wigner_3j,
    wigner_d,
)
from epot.errors import ConfigError

KEPT = np.load(Path(__file__).parents[1] / "data_files" / "mace_algebra.npz")


def orthogonal(seed, determinant=1.0):
    found = torch.from_numpy(ortho_group.rvs(3, random_state=seed))
    return found * found.det() * determinant


def unit_vectors(n, seed=0):
    found = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return found / found.norm(dim=1, keepdim=True)


def test_harmonics_are_those_of_e3nn():
    vectors = torch.from_numpy(KEPT["sh/vectors"])
    made = spherical_harmonics(vectors / vectors.norm(dim=1, keepdim=True), 6)
    np.testing.assert_allclose(made.numpy(), KEPT["sh/values"], atol=1e-13)


def test_harmonics_are_those_of_scipy_with_axes_permuted():
    units = unit_vectors(20)
    z, x, y = units.numpy().T[[1, 2, 0]]  # the polar axis is y
    theta, phi = np.arccos(z), np.arctan2(y, x)
    made = spherical_harmonics(units.view(4, 5, 3), 8).reshape(20, 81).numpy()
    for degree in (0, 1, 4, 8):
        for m in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(m), theta, phi)
            real = value.real if m == 0 else math.sqrt(2) * (-1) ** m * (value.real if m > 0 else value.imag)
            np.testing.assert_allclose(made[:, degree * degree + degree + m], real * math.sqrt(4 * math.pi), atol=1e-12)


def test_component_normalization():
    made = spherical_harmonics(unit_vectors(5), 5).square()
    for degree, part in enumerate(made.split([2 * n + 1 for n in range(6)], 1)):
        torch.testing.assert_close(part.sum(1), torch.full((5,), 2.0 * degree + 1, dtype=torch.float64))


def test_harmonics_differentiate_twice():
    vectors = unit_vectors(3).view(1, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(v, 3), vectors)
    assert torch.autograd.gradgradcheck(lambda v: spherical_harmonics(v, 3), vectors)


def test_gradient_array_is_that_of_autograd():
    vectors = (2.3 * unit_vectors(4)).requires_grad_()
    values, gradient = spherical_harmonics_and_gradient(vectors, 3)
    expected = spherical_harmonics(vectors / vectors.norm(dim=1, keepdim=True), 3)
    torch.testing.assert_close(values, expected.detach())
    for q in range(16):
        (found,) = torch.autograd.grad(expected.select(1, q).sum(), vectors, retain_graph=True)
        torch.testing.assert_close(gradient[:, q], found, atol=1e-13, rtol=1e-12)


def test_3j_symbols_are_those_of_e3nn():
    for degrees, expected in zip(KEPT["3j/triples"], KEPT["3j/sums"], strict=True):
        table = wigner_3j(*map(int, degrees)).numpy()
        weights = [np.cos(np.arange(1, n + 1) * (k + 1.3)) for k, n in enumerate(table.shape)]
        assert np.einsum("abc,a,b,c->", table, *weights) == pytest.approx(expected, abs=1e-12), degrees
        assert np.linalg.norm(table) == pytest.approx(1, abs=1e-13)


def test_3j_symbols_are_invariant():
    rotation = orthogonal(3)
    for degrees in [(1, 1, 2), (1, 2, 2), (3, 3, 4), (2, 5, 3), (6, 4, 9)]:
        table = wigner_3j(*degrees)
        turned = torch.einsum("abc,ai,bj,ck->ijk", table, *(wigner_d(n, rotation) for n in degrees))
        assert (turned - table).abs().max() < 1e-12
        other = torch.einsum("abc,ai,bj,ck->ijk", table, *(wigner_d(n, orthogonal(n)) for n in degrees))
        assert (other - table).abs().max() > 1e-3


@pytest.mark.parametrize("determinant", [1.0, -1.0])
def test_d_matrices_turn_harmonics(determinant):
    rotation, units = orthogonal(5, determinant), unit_vectors(6)
    before, after = spherical_harmonics(units, 6), spherical_harmonics(units @ rotation.T, 6)
    for degree in range(7):
        part = slice(degree**2, (degree + 1) ** 2)
        matrix = wigner_d(degree, rotation)
        torch.testing.assert_close(after[:, part], before[:, part] @ matrix.T, atol=1e-12, rtol=0)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(2 * degree + 1, dtype=torch.float64))


def test_d_matrices_are_those_of_e3nn():
    for degree in range(5):
        made = wigner_d(degree, torch.from_numpy(KEPT["d/rotation"]))
        np.testing.assert_allclose(made.numpy(), KEPT[f"d/{degree}"], atol=1e-12)


def test_degrees_without_a_triangle():
    with pytest.raises(ConfigError, match="no coupling"):
        wigner_3j(1, 1, 3)


def test_irreps_read_and_written():
    assert parse_irreps("128x0e + 64x1o+2e") == ((128, 0, 1), (64, 1, -1), (1, 2, 1))
    assert format_irreps(parse_irreps("128x0e+64x1o")) == "128x0e+64x1o"
    for bad in ("", "128x", "12x0", "0e++1o", "-1x0e"):
        with pytest.raises(ConfigError, match="irreps"):
            parse_irreps(bad)
