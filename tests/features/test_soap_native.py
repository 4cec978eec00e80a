"""SOAP by compiled kernels. Witnesses: the same by operations of torch, and in long double from the same tables."""

import copy
import os
import pickle
from unittest import mock

import numpy as np
import pytest
import torch

from epot import native
from epot.data.structure import Structure
from epot.features import soap_native
from epot.features.angular import solid_recursion
from epot.features.descriptors.soap import Soap
from epot.geometry.graph import build

pytestmark = pytest.mark.skipif(native.library("soap") is None, reason="no compiled kernels here")
WEIGHTING = {"function": "poly", "c": 1.0, "m": 2.0, "r0": 4.0}
DENSITIES = [
    {},
    {"cutoff_width": 0.7},
    {"weighting": WEIGHTING},
    {"center_weight": 0.3},
    {"n_max": 1, "l_max": 0},
    {"n_max": 3, "l_max": 1},
    {"n_max": 9, "l_max": 9, "cutoff": 5.0, "sigma": 0.5},
]
SPECTRA = [
    {},
    {"n_max": 8, "l_max": 6},
    {"n_max": 9, "l_max": 3, "cutoff": 5.0},
    {"n_max": 17, "l_max": 9, "sigma": 0.3},
    {"n_max": 1, "l_max": 2},
    {"mixing": 2},
    {"mixing": [[1.0, 1.0, 1.0]]},
]


@pytest.fixture(scope="module")
def graph():
    """Of a box, a molecule, two atoms of species that have no neighbor, and a lone atom."""
    rng = np.random.default_rng(5)
    box = Structure(rng.permutation([1] * 5 + [6, 8, 8]), rng.normal(size=(8, 3)) * 2, np.eye(3) * 5.1 + 0.3, True)
    molecule = Structure(np.array([6, 6, 8, 1, 1, 1]), rng.normal(size=(6, 3)) * 1.5)
    pair = Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 0.9]]))
    return build([box, molecule, pair, Structure(np.array([8]), np.zeros((1, 3)))], 8.0)


def both(make):
    """By kernels, and without."""
    found = []
    for mode in ("1", "0"):
        with mock.patch.dict(os.environ, EPOT_NATIVE=mode), torch.no_grad():
            found.append(make())
    return found


def close(found, expected, tolerance=1e-13):
    """Relative to the largest number."""
    scale = float(expected.abs().max())
    assert scale > 0.1
    torch.testing.assert_close(found, expected, atol=tolerance * scale, rtol=0)


def dscribe(**kind):
    return Soap((1, 6, 8), **({"cutoff": 3.0, "n_max": 5, "l_max": 4, "sigma": 0.4, "dialect": "dscribe"} | kind))


@pytest.mark.parametrize("kind", DENSITIES, ids=str)
def test_densities_are_those_of_torch(kind, graph):
    soap = dscribe(**kind)
    found, expected = both(lambda: soap.coefficients(graph))
    tolerance = 5e-13 if soap.n_max > 8 else 1e-13  # nine functions are nearly dependent
    close(found, expected, tolerance)
    soap.density.tables.rates[0, 0] *= 1 + 1e-10
    moved, _ = both(lambda: soap.coefficients(graph))
    with pytest.raises(AssertionError):  # a control
        close(moved, expected, tolerance)


@pytest.mark.parametrize("compression", ["off", "mu1nu1", "crossover"])
@pytest.mark.parametrize("dialect", ["quip", "dscribe", "featomic"])
@pytest.mark.parametrize("kind", SPECTRA, ids=str)
def test_spectra_are_those_of_torch(kind, dialect, compression, graph):
    if dialect != "quip" and kind.get("n_max", 0) > 9:
        pytest.skip("so many Gaussian orbitals are linearly dependent")
    soap = Soap((1, 6, 8), **({"cutoff": 3.5, "n_max": 4, "l_max": 3} | kind), dialect=dialect, compression=compression)
    with mock.patch.dict(os.environ, EPOT_NATIVE="0"):
        coefficients = soap.coefficients(graph)
    found, expected = both(lambda: soap.contract(coefficients))
    assert found.shape == (graph.n_atoms, soap.size)
    close(found, expected)
    moved = coefficients.clone()
    moved[:, 0, 0] *= 1 + 1e-11
    if soap.size > 3:  # of few numbers that are normalized, one may not matter
        with pytest.raises(AssertionError):
            close(both(lambda: soap.contract(moved))[0], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_less_exact_than_torch(dtype, graph):
    """Eight functions, whose mixing costs two digits: errors against long double."""
    soap = dscribe(n_max=8, l_max=6, cutoff=5.0, sigma=0.5).to(dtype)
    vectors, at = graph.vectors().to(dtype), soap.species(graph)
    found = both(lambda: soap.coefficients(graph))
    assert found[0].dtype == dtype
    rates, mix = (t.numpy().astype(np.longdouble) for t in (soap.density.sums.rates, soap.density.sums.mix))
    v = vectors.numpy().astype(np.longdouble)
    square = (v * v).sum(1)
    series = mix @ np.exp2(rates * square).reshape(7, 8, -1)
    angular = solid_recursion(vectors.double().T.contiguous(), 6).numpy()
    expected = np.zeros((graph.n_atoms, 3, 8, 49), np.longdouble)
    for p in np.flatnonzero(square < soap.density.sums.reach**2):
        i, s = int(graph.pairs[0, p]), int(at[graph.pairs[1, p]])
        for n in range(7):
            m = slice(n * n, (n + 1) ** 2)
            expected[i, s, :, m] += (series[n, :, p, None] * angular[m, p]).astype(np.longdouble)
    expected = expected.reshape(graph.n_atoms, 24, 49)
    expected[:, :, 0] += soap.density.center[at].numpy()
    errors = [float(abs(f.numpy() - expected).max() / abs(expected).max()) for f in found]
    least = torch.finfo(dtype).eps
    assert 0 < errors[0] < 2 * errors[1] + least
    assert errors[0] < 1e3 * least
    moved = expected * (1 + 1e4 * least)  # a control
    assert abs(found[0].numpy() - moved).max() > 1e3 * least * abs(expected).max()


def test_it_is_the_kernels_that_ran(graph, monkeypatch):
    """And that they do not run where derivatives are wanted, or for other numbers."""
    ran, run = [], soap_native._run
    monkeypatch.setattr(soap_native, "_run", lambda name, *rest: (ran.append(name), run(name, *rest)))
    monkeypatch.setenv("EPOT_NATIVE", "1")
    soap = dscribe()
    soap(graph)
    assert ran == ["density", "spectrum"]
    soap(graph.replace(_vectors=graph.vectors().requires_grad_()))
    assert ran == ["density", "spectrum"]
    monkeypatch.setenv("EPOT_NATIVE", "0")
    soap(graph)
    assert ran == ["density", "spectrum"]
    assert not soap_native.available(torch.zeros(1, dtype=torch.float16))
    assert not soap_native.available(torch.zeros(1, device="meta"))


def test_threads_change_nothing(graph):
    soap, before, found = dscribe(), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(soap(graph))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_converted_and_copied(graph):
    """Tables follow the module."""
    soap = dscribe()
    expected = soap(graph)
    rough = copy.deepcopy(soap).to(torch.float32)
    assert rough(graph).dtype == torch.float32
    close(rough(graph).double(), expected, 1e-3)
    assert torch.equal(pickle.loads(pickle.dumps(soap))(graph), expected)  # noqa: S301 (our own)
    assert torch.equal(soap.to(torch.float64)(graph), expected)


def test_no_atoms_no_pairs():
    lone = build(Structure(np.array([8]), np.zeros((1, 3))), 3.0)
    for soap in (dscribe(), Soap((1, 8), 3.0)):
        close(*both(lambda soap=soap: soap(lone)))
    assert not dscribe(center_weight=0.0)(lone).any()
