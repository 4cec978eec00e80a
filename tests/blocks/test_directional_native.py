"""Compiled kernels of directional messages against torch's operations, to second order; filters of few dimensions."""

import numpy as np
import pytest
import torch

from epot.blocks import directional_native as module
from epot.blocks.activation import silu, silu_second, silu_slope, silu_value
from epot.blocks.directional_native import filtered, native_angles, native_sums, pairs_of
from epot.blocks.directional_sums import around, directional_sums
from epot.blocks.neighborhood import neighborhood
from epot.data.structure import Structure
from epot.features.directional import bessel_functions, envelope
from epot.geometry.graph import build

CUTOFF = 3.0
F64 = torch.float64


@pytest.fixture(autouse=True)
def compiled():
    if not module.available(torch.device("cpu"), F64):
        pytest.skip("no compiled kernels here: no C++ compiler, or EPOT_NATIVE=0")


@pytest.fixture
def graph():
    """Atoms with different numbers of neighbors, and one that is alone."""
    rng = np.random.default_rng(1)
    parts = [Structure(np.full(n, 6), rng.uniform(0, 2.2, (n, 3))) for n in (4, 3)]
    return build([*parts, Structure(np.array([1]), np.zeros((1, 3)))], CUTOFF)


def leaf(*shape):
    return torch.randn(*shape, dtype=F64, requires_grad=True)


def grads(function, inputs):
    """Values, gradients of a function of them, and gradients of a random sum of those."""
    y = function(*inputs)
    slopes = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
    torch.manual_seed(3)
    again = sum((s * torch.randn(s.shape, dtype=s.dtype)).sum() for s in slopes)
    return [y, *slopes, *torch.autograd.grad(again, inputs)]


def test_kernels_have_their_own_gradients(graph):
    """Finite differences of values and of gradients."""
    torch.manual_seed(0)
    pairs, n, degrees, channels = pairs_of(graph), 2, 3, 3
    inputs = leaf(graph.n_pairs, channels), leaf(degrees, n, channels), leaf(graph.n_pairs, degrees * n)
    units = torch.nn.functional.normalize(graph.vectors(), dim=1).requires_grad_()
    angles = native_angles(units, pairs, degrees).detach()
    apart = (angles != 0).double()  # k = i has no angle, and no gradient by it
    angles.requires_grad_()
    for function, given in (
        (lambda x, w, r, p: native_sums(x, w, r, p * apart, pairs), (*inputs, angles)),
        (lambda u: native_angles(u, pairs, 5), (units,)),
    ):
        assert torch.autograd.gradcheck(function, given, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


@pytest.mark.parametrize("channels", [3, 64, 85])
def test_the_same_as_by_torch(graph, channels, monkeypatch):
    """All first and second derivatives of the sums, in whole vectors of channels and in what is left over."""
    torch.manual_seed(0)
    vectors, x, weights = graph.vectors().clone().requires_grad_(), leaf(graph.n_pairs, channels), leaf(4, 3, channels)

    def sums(vectors, x, weights):
        bond = (vectors - vectors.index_select(0, graph.reverse_pairs())) / 2
        near = neighborhood(graph.replace(_vectors=bond), CUTOFF, x.dtype)
        radial = envelope(near.distances, CUTOFF) * bessel_functions(near.distances, CUTOFF, 3, 3)
        return directional_sums(x, weights, around(graph, near, radial))

    ours = grads(sums, (vectors, x, weights))
    monkeypatch.setenv("EPOT_NATIVE", "0")
    for a, b in zip(ours, grads(sums, (vectors, x, weights)), strict=True):
        scale = float(b.detach().abs().max())
        assert scale > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11 * scale)


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("n", [4, 16])
def test_filters_of_few_dimensions(summed, turned, n):
    """Against their product as a matrix; weights may be a transposed view. More rows than are taken at a time."""
    torch.manual_seed(0)
    atoms = Structure(np.full(9, 6), np.random.default_rng(2).uniform(0, 2.2, (9, 3)))
    graph = build([atoms, Structure(np.array([1]), np.zeros((1, 3)))], CUTOFF)
    inputs = leaf(graph.n_pairs, 21), leaf(graph.n_pairs, n), leaf(21, n) if turned else leaf(n, 21)
    over = graph if summed else None

    def plainly(x, basis, weights):
        made = x * basis.mm(weights.t() if turned else weights)
        return x.new_zeros(graph.n_atoms, 21).index_add(0, graph.pairs[0], made) if summed else made

    ours = grads(lambda x, basis, w: filtered(x, basis, w.t() if turned else w, over), inputs)
    for a, b in zip(ours, grads(plainly, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    small = leaf(graph.n_pairs, 2), leaf(graph.n_pairs, 2), leaf(2, 2)
    assert torch.autograd.gradgradcheck(lambda *t: filtered(*t, over), small, fast_mode=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-14), (torch.float32, 4e-7)])
def test_silu_and_its_derivatives(dtype, tolerance, monkeypatch):
    """Far out too, where the exponential overflows; 37 numbers, so that the last ones do not fill a vector."""
    torch.manual_seed(0)
    a = torch.cat([torch.linspace(-12, 12, 31), torch.tensor([-1e4, -800.0, -90.0, 90.0, 800.0, 1e4])]).to(dtype)
    e, t, plus = (torch.randn_like(a) for _ in range(3))
    found = []
    for mode in ("1", "0"):
        monkeypatch.setenv("EPOT_NATIVE", mode)
        x = a.double() if mode == "0" else a
        more = [k.to(x.dtype) for k in (e, t, plus)]
        found.append([silu_value(x), silu_slope(more[0], x, more[2]), *silu_second(more[1], more[0], x)])
    for ours, witness in zip(*found, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), witness, rtol=10 * tolerance, atol=tolerance)


def test_silu_has_its_own_gradients():
    torch.manual_seed(0)
    x = leaf(5, 7)
    assert torch.autograd.gradcheck(silu, (x,))
    assert torch.autograd.gradgradcheck(silu, (x,))
