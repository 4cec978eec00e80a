"""DScribe's radial integrals in closed form, and the fast ways of small products and harmonics.

Witnesses: the Chebyshev series of the same functions, which is what derivatives are made of; torch's own products.
(DScribe's numbers are the witness of both: test_soap_dialects.)
"""

import math

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.features import angular, soap_contract, soap_density, soap_gaussians, soap_jacobian
from epot.features.arrays import arrays
from epot.features.descriptors.soap import Soap
from epot.geometry.graph import build

SMALL = {"cutoff": 3.0, "n_max": 5, "l_max": 4, "sigma": 0.4, "dialect": "dscribe"}
KINDS = [
    {},
    {"cutoff_width": 0.7},
    {"weighting": {"function": "pow", "c": 1.0, "d": 2.0, "m": 3.0, "r0": 2.0}},
    {"l_max": 0, "n_max": 1},
    {"l_max": 1, "n_max": 2},
    {"basis": "polynomial"},
]


@pytest.fixture
def box():
    rng = np.random.default_rng(5)
    return Structure(rng.permutation([1, 1, 1, 6, 8]), rng.normal(size=(5, 3)) * 1.5, np.eye(3) * 4.1 + 0.3, True)


def with_slopes(soap, graph):
    """Through the series, which has derivatives."""
    made = soap_density.plan(graph, soap.species(graph), soap.elements)
    return soap.density.values(graph.vectors(), made, soap.species(graph), slopes=True)


@pytest.mark.parametrize("mixed", [None, 0, 10**6], ids=["compiled", "species apart", "species together"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_closed_form_is_the_series(kind, mixed, box, monkeypatch):
    if mixed is not None:
        monkeypatch.setenv("EPOT_NATIVE", "0")
        monkeypatch.setattr(soap_density, "MIXED", mixed)
    soap = Soap((1, 6, 8), **(SMALL | kind))
    assert (soap.density.sums is not None) == (kind.get("basis") != "polynomial")
    graph = build(box, soap.cutoff)
    found, expected = soap.coefficients(graph), with_slopes(soap, graph)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=2e-13 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("compiled", ["0", "1"])
def test_neighbors_beyond_the_reach_do_not_count(compiled, box, monkeypatch):
    monkeypatch.setenv("EPOT_NATIVE", compiled)
    soap = Soap((1, 6, 8), **SMALL)
    near, far = build(box, soap.cutoff), build(box, soap.cutoff + 1.5)
    assert far.n_pairs > near.n_pairs
    expected = soap.coefficients(near)
    torch.testing.assert_close(soap.coefficients(far), expected, atol=1e-13, rtol=0)
    soap.density.sums.reach = math.inf
    assert (soap.coefficients(far) - expected).abs().max() > 1e-6


def test_arrays_share_the_memory_of_tensors():
    left, right = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = torch.zeros(4, 5, 7, dtype=torch.float64)
    xp, (a, b, to) = arrays(left, right.transpose(1, 2), out[:, 1:4, 2:5])
    assert xp is np
    xp.matmul(a, b, out=to)
    torch.testing.assert_close(out[:, 1:4, 2:5], left @ right.transpose(1, 2))
    assert float(out[:, :1].abs().sum() + out[:, :, 5:].abs().sum()) == 0
    meta = left.to("meta")
    assert arrays(left, meta) == (torch, (left, meta))


@pytest.mark.parametrize("l_max", [0, 1, 2, 7])
def test_recursion_is_the_same_in_numpy_and_in_torch(l_max):
    vectors = torch.randn(3, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = torch.empty(angular.n_harmonics(l_max), 11, dtype=torch.float64)
    angular._recursion(torch, vectors, found, *angular.recursion_tables(l_max, vectors.dtype, vectors.device))
    expected = angular.solid_recursion(vectors, l_max)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=1e-13)
    assert l_max == 0 or (angular.solid_recursion(vectors * 1.01, l_max) - expected).abs().max() > 1e-4


@pytest.mark.parametrize(
    "kind", [{}, {"dialect": "quip"}, {"compression": "mu1nu1"}, {"compression": "crossover"}], ids=str
)
def test_without_arrays_the_same(kind, box, monkeypatch):
    """What other devices do, on this one."""
    monkeypatch.setenv("EPOT_NATIVE", "0")
    found = []
    for plain in (False, True):
        for module in (angular, soap_density, soap_contract, soap_gaussians, soap_jacobian) if plain else ():
            monkeypatch.setattr(module, "arrays", lambda *tensors: (torch, tensors))
        soap = Soap((1, 6, 8), **(SMALL | kind))
        graph = build(box, soap.cutoff).replace(first_order=True)
        leaf = graph.vectors().detach().requires_grad_()
        spectra = soap(graph.replace(_vectors=leaf))
        (grads,) = torch.autograd.grad((spectra * spectra.detach().cos()).sum(), leaf)
        found.append((soap(graph), spectra.detach(), grads, soap.jacobian(graph)))
    for ours, expected in zip(*found, strict=True):
        scale = float(expected.abs().max())
        assert scale > 0
        torch.testing.assert_close(ours, expected, atol=1e-13 * scale, rtol=0)
