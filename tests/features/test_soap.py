"""SOAP in QUIP's convention.

Witnesses: values and gradients of quippy-ase (tests/oracles/soap_quip.py), finite differences, symmetry.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.errors import ConfigError, UnknownElementError
from epot.features.descriptors.soap import Soap
from epot.features.series import ChebyshevSeries
from epot.features.soap_dialects import Basis, quip, scaled_spherical_bessel
from epot.geometry.graph import build, collate

REFERENCE = np.load(Path(__file__).parents[1] / "data_files" / "soap_quip.npz")
CASES = sorted({key.split("/")[0] for key in REFERENCE})


def case(name):
    get = lambda key: REFERENCE[f"{name}/{key}"]  # noqa: E731
    cutoff, n_max, l_max, sigma, width, weight = get("settings")
    soap = Soap(
        get("species").tolist(), float(cutoff), int(n_max), int(l_max), float(sigma),
        cutoff_width=float(width), center_weight=float(weight),
    )  # fmt: skip
    return soap, Structure(get("numbers"), get("positions"), get("cell"), get("pbc"))


def in_quip_order(soap, spectra):
    """QUIP: channel pairs outermost, l innermost."""
    return spectra.view(len(spectra), soap.l_max + 1, -1).transpose(1, 2).reshape(len(spectra), -1)


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_quip(name):
    soap, structure = case(name)
    spectra = in_quip_order(soap, soap(build(structure, soap.cutoff))).numpy()
    for z in np.unique(structure.numbers):
        expected = REFERENCE[f"{name}/{z}/values"]
        np.testing.assert_array_equal(expected[:, -1], 0)  # QUIP's covariance_sigma0
        np.testing.assert_allclose(spectra[structure.numbers == z], expected[:, :-1], atol=1e-12)


@pytest.mark.parametrize("name", [c for c in CASES if c.endswith("gradient")])
def test_gradients_are_those_of_quip(name):
    soap, structure = case(name)
    graph = build(structure, soap.cutoff)

    def spectra(positions):
        return in_quip_order(soap, soap(graph.replace(positions=positions)))

    jacobian = torch.autograd.functional.jacobian(spectra, graph.positions).permute(0, 2, 3, 1).numpy()
    for z in np.unique(structure.numbers):
        expected = REFERENCE[f"{name}/{z}/gradients"][..., :-1]
        np.testing.assert_allclose(jacobian[structure.numbers == z], expected, atol=1e-11)
        assert np.abs(expected).max() > 0.1


@pytest.fixture
def water_box():
    rng = np.random.default_rng(3)
    base = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    positions = np.concatenate([base, base + [2.2, 0.3, 1.9]]) + 0.05 * rng.normal(size=(6, 3))
    cell = np.array([[4.2, 0, 0], [0.5, 4.5, 0], [0, 0.4, 4.1]])
    return Structure(np.array([8, 1, 1, 8, 1, 1]), positions, cell, True)


def atoms(z, *positions):
    return Structure(np.full(len(positions), z), np.array(positions, dtype=float))


SMALL = {"cutoff": 3.5, "n_max": 4, "l_max": 3, "sigma": 0.5}


def test_invariant_under_rotation_reflection_and_permutation(water_box):
    soap = Soap((1, 8), **SMALL)
    before = soap(build(water_box, 3.5))
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    order = np.array([5, 3, 1, 0, 2, 4])
    for matrix in (q, q @ np.diag([1, 1, -1])):
        moved = Structure(
            water_box.numbers[order], (water_box.positions @ matrix)[order] + 0.7, water_box.cell @ matrix, True
        )
        torch.testing.assert_close(soap(build(moved, 3.5)), before[order], atol=1e-12, rtol=0)
    sheared = Structure(
        water_box.numbers, water_box.positions @ (np.eye(3) + 0.02 * np.diag([1, 0, -1])), water_box.cell, True
    )
    assert (soap(build(sheared, 3.5)) - before).abs().max() > 1e-3


def test_supercell_and_batch_change_nothing(water_box):
    soap = Soap((1, 8), **SMALL)
    one = build(water_box, 3.5)
    double = Structure(
        np.tile(water_box.numbers, 2),
        np.concatenate([water_box.positions, water_box.positions + water_box.cell[0]]),
        water_box.cell * [[2], [1], [1]],
        True,
    )
    torch.testing.assert_close(soap(build(double, 3.5)), soap(one).repeat(2, 1), atol=1e-13, rtol=0)
    lone = build(atoms(8, [0, 0, 0]), 3.5)
    torch.testing.assert_close(soap(collate([lone, one]))[1:], soap(one), atol=1e-13, rtol=0)


def test_twice_differentiable(water_box):
    soap = Soap((1, 8), cutoff=3.0, n_max=2, l_max=2, sigma=0.5)
    graph = build(water_box.replace(pbc=False), 3.0)
    weights = torch.randn(soap.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def energy(positions):
        return (soap(graph.replace(positions=positions)) @ weights).square().sum()

    positions = graph.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, positions)
    assert torch.autograd.gradgradcheck(energy, positions)


def test_neighbor_fades_in_at_the_cutoff():
    soap = Soap((14,), **SMALL)

    def spectrum(distance):
        return soap(build(atoms(14, [0, 0, 0], [distance, 0, 0]), 3.5))

    beyond = spectrum(3.6)
    assert (spectrum(3.5 - 1e-4) - beyond).abs().max() < 1e-7
    assert (spectrum(3.0) - beyond).abs().max() > 1e-3


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_lone_atom_is_finite(weight):
    soap = Soap((14,), **SMALL, center_weight=weight)
    graph = build(atoms(14, [0, 0, 0]), 3.5)
    positions = graph.positions.clone().requires_grad_()
    spectrum = soap(graph.replace(positions=positions))
    assert torch.isfinite(spectrum).all()
    assert abs(float(spectrum.detach().norm()) - weight) < 1e-12
    pair = build(atoms(14, [0, 0, 0], [0, 0, 3.49999]), 3.5)
    positions = pair.positions.clone().requires_grad_()
    (slope,) = torch.autograd.grad(soap(pair.replace(positions=positions)).sum(), positions)
    assert torch.isfinite(slope).all()


def test_unfolded_matrices_keep_the_dot_product(water_box):
    soap = Soap((1, 8), **SMALL)
    spectra = soap(build(water_box, 3.5))
    matrices = soap.unfold(spectra)
    torch.testing.assert_close(torch.einsum("ilab,jlab->ij", matrices, matrices), spectra @ spectra.T)
    torch.testing.assert_close(matrices, matrices.transpose(2, 3))


def test_channels_follow_the_order_of_the_elements(water_box):
    there, back = Soap((1, 8), **SMALL), Soap(("O", "H"), **SMALL)
    graph = build(water_box, 3.5)
    a, b = there.unfold(there(graph)), back.unfold(back(graph))
    torch.testing.assert_close(a, b.roll((4, 4), (2, 3)), atol=1e-13, rtol=0)


def test_bessel_functions_neither_overflow_nor_underflow():
    """Witness: i_0 = sinh(z)/z and i_1 = cosh(z)/z - sinh(z)/z^2, times exp(-z)."""
    z = np.array([1e-12, 1e-3, 0.5, 5.0, 50.0, 5e3])
    found = scaled_spherical_bessel(8, z)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0], -np.expm1(-2 * z) / (2 * z), rtol=1e-12)
    ones = z[2:]
    np.testing.assert_allclose(
        found[1][2:], (1 + np.exp(-2 * ones)) / (2 * ones) + np.expm1(-2 * ones) / (2 * ones**2), rtol=1e-11
    )


def test_radial_basis_is_orthonormal():
    """Witness: the radial integral of a narrow density is R_n itself; QUIP's T^T C S^-1... closes to the identity."""
    made = quip(Basis(4.0, 5, 0, 0.5))
    r = np.linspace(0, 12, 20001)
    values = made.radial(r)[0]  # <R_n | Gaussian at r>: a frame whose span is that of the basis
    gram = np.trapezoid(values[:, None] * values[None] * r**2, r, axis=2)
    assert np.linalg.cond(gram) < 1e8


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_series_and_its_derivatives(order):
    """Witness: sin and its derivatives."""
    series = ChebyshevSeries(lambda r: np.stack([np.sin(3 * r), np.exp(-r)]), 5.0)
    r = torch.linspace(0, 5, 101, dtype=torch.float64, requires_grad=True)
    value = series(r)[0]
    for _ in range(order):
        (value,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    expected = 3**order * torch.sin(3 * r + order * np.pi / 2)
    assert (value - expected).abs().max() < 1e-12 * 200**order


def test_series_refuses_a_kink():
    with pytest.raises(ConfigError, match="do not converge"):
        ChebyshevSeries(lambda r: np.abs(r - 1.234)[None], 5.0)


@pytest.mark.parametrize("noise", [1e-15, 3e-14, 2e-13])
def test_series_ends_at_the_rounding_of_its_function(noise):
    """Nearly dependent orbitals are known to some digits less than others: that is no reason to refuse them."""
    random = np.random.default_rng(4)
    wanted = lambda r: np.stack([np.sin(3 * r), np.exp(-r)])  # noqa: E731
    series = ChebyshevSeries(lambda r: wanted(r) + noise * random.standard_normal((2, len(r))), 5.0)
    assert series.tables.shape[2] < 50
    r = torch.linspace(0.0, 5.0, 101, dtype=torch.float64)
    np.testing.assert_allclose(series(r).numpy(), wanted(r.numpy()), rtol=0, atol=60 * noise)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_series_refuses_kinks_of_derivatives(power):
    with pytest.raises(ConfigError, match="converge"):
        ChebyshevSeries(lambda r: np.clip(r - 1.234, 0.0, None)[None] ** power, 5.0)


def test_series_refuses_what_is_mostly_rounding():
    random = np.random.default_rng(4)
    with pytest.raises(ConfigError, match="dependent"):
        ChebyshevSeries(lambda r: (np.sin(r) + 1e-10 * random.standard_normal(len(r)))[None], 5.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": 0.0}, "cutoff"),
        ({"n_max": 0}, "n_max"),
        ({"sigma": -1.0}, "sigma"),
        ({"cutoff_width": 4.0}, "cutoff_width"),
        ({"dialect": "quib"}, "did you mean 'quip'"),
        ({"n_max": 40, "sigma": 2.0}, "linearly dependent"),
    ],
)
def test_impossible_arguments(change, message):
    with pytest.raises(ConfigError, match=message):
        Soap((1, 8), **(SMALL | change))


def test_unknown_element(water_box):
    with pytest.raises(UnknownElementError, match="H, C.*holds O"):
        Soap((1, 6), **SMALL)(build(water_box, 3.5))
