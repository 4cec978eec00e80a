"""Directional sums against a sum over listed triplets, with images told apart; gradients of both orders."""

import math

import numpy as np
import pytest
import torch

from epot.blocks.angles import legendre_angles
from epot.blocks.directional_sums import around, directional_sums
from epot.blocks.neighborhood import neighborhood
from epot.data.structure import Structure
from epot.features.directional import bessel_functions, envelope, zonal_harmonics
from epot.geometry.graph import build

L, N, C, CUTOFF = 4, 3, 5, 3.0


@pytest.fixture(params=["molecule", "small_cell"])
def graph(request):
    rng = np.random.default_rng(1)
    if request.param == "molecule":  # two structures, with an atom that is alone
        several = [Structure(np.full(n, 6), rng.uniform(0, 2.5, (n, 3))) for n in (5, 3)]
        return build([*several, Structure(np.array([1]), np.zeros((1, 3)))], CUTOFF)
    cell = np.array([[2.6, 0.2, 0.0], [0.0, 2.4, 0.3], [0.1, 0.0, 2.8]])
    return build(Structure(np.array([14, 8]), rng.uniform(0, 2.0, (2, 3)), cell, np.ones(3, bool)), CUTOFF)


def by_triplets(graph, vectors, x, weights, keep_all=False):
    """Witness: the filter of every triplet, times what is sent, summed."""
    r = vectors.norm(dim=1)
    radial = envelope(r, CUTOFF) * bessel_functions(r, CUTOFF, L - 1, N)
    kj, ji = graph.triplets()
    if keep_all:  # also k = i
        own = torch.arange(graph.n_pairs)
        kj, ji = torch.cat([kj, graph.reverse_pairs()]), torch.cat([ji, own])
    units = vectors / r[:, None]
    cosine = (units[kj] * units[ji]).sum(1)  # k - j with j - i
    filters = torch.einsum("lnc,lnt,lt->tc", weights, radial[:, :, kj], zonal_harmonics(cosine, L - 1))
    return torch.zeros(graph.n_pairs, C, dtype=x.dtype).index_add(0, ji, filters * x[kj])


def ours(graph, vectors, x, weights):
    near = neighborhood(graph.replace(_vectors=vectors), CUTOFF, x.dtype)
    radial = envelope(near.distances, CUTOFF) * bessel_functions(near.distances, CUTOFF, L - 1, N)
    return directional_sums(x, weights, around(graph, near, radial))


@pytest.fixture
def inputs(graph):
    torch.manual_seed(0)
    leaf = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    return graph.vectors().clone().requires_grad_(), leaf(graph.n_pairs, C), leaf(L, N, C)


def test_the_same_as_a_sum_over_triplets(graph, inputs):
    """Control: with the triplets that lead back it is another sum."""
    made, witness = ours(graph, *inputs), by_triplets(graph, *inputs)
    torch.testing.assert_close(made, witness, rtol=1e-11, atol=1e-11)
    assert float((made - by_triplets(graph, *inputs, keep_all=True)).detach().abs().max()) > 1e-2


def test_gradients_of_first_and_second_order(graph, inputs):
    """All second derivatives along a random direction; vectors of a pair and of its reverse are opposite."""
    vectors, x, weights = inputs
    reverse = graph.reverse_pairs()
    found = []
    for function in (ours, by_triplets):
        bond = vectors - vectors.index_select(0, reverse)
        y = function(graph, bond / 2, x, weights)
        slopes = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        torch.manual_seed(1)
        again = sum((s * torch.randn_like(s)).sum() for s in slopes)
        found.append((*slopes, *torch.autograd.grad(again, inputs)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
        assert float(b.detach().abs().max()) > 1e-3


def test_what_training_asks_for(graph, inputs):
    """Weights only, through forces: no gradient by the geometry is computed."""
    vectors, x, weights = inputs
    found = []
    for function in (ours, by_triplets):
        bond = (vectors - vectors.index_select(0, graph.reverse_pairs())) / 2
        slopes = torch.autograd.grad(function(graph, bond, x, weights).sin().sum(), vectors, create_graph=True)
        found.append(torch.autograd.grad(slopes[0].square().sum(), [x, weights]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_atoms_in_line_have_derivatives():
    """Where an angle is straight its own derivative does not exist; these do."""
    x = np.array([[0.0, 0, 0], [1.1, 0, 0], [2.3, 0, 0]])
    graph = build(Structure(np.array([6, 6, 8]), x), 2.0)
    near = neighborhood(graph, 2.0, torch.float64)
    units = near.directions.detach().requires_grad_()
    function = lambda u: legendre_angles(u, near.layout, 6)  # noqa: E731
    assert torch.autograd.gradcheck(function, (units,))
    assert torch.autograd.gradgradcheck(function, (units,))


def test_straight_on_is_a_cosine_of_one():
    x = np.array([[0.0, 0, 0], [1.1, 0, 0], [2.3, 0, 0]])
    graph = build(Structure(np.array([6, 6, 8]), x), 2.0)
    vectors = graph.vectors()
    sent = torch.ones(graph.n_pairs, 1, dtype=torch.float64)
    weights = torch.zeros(2, 1, 1, dtype=torch.float64)
    weights[1] = 1
    near = neighborhood(graph, 2.0, torch.float64)
    radial = torch.ones(2, 1, len(near.distances), dtype=torch.float64)
    made = directional_sums(sent, weights, around(graph, near, radial))[:, 0]
    straight = (graph.pairs[1] == 1).double()  # k -> 1 -> i
    torch.testing.assert_close(made, straight * math.sqrt(3 / (4 * math.pi)))
    assert len(vectors) == 4
