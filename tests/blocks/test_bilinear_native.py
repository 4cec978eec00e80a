"""Compiled kernels of GemNet's sums over triplets against torch's operations, to second order."""

import numpy as np
import pytest
import torch

from epot.blocks import bilinear_native as module
from epot.blocks.bilinear_native import native_bilinear
from epot.blocks.directional_native import pairs_of
from epot.data.structure import Structure
from epot.geometry.graph import build

F64 = torch.float64


@pytest.fixture(autouse=True)
def compiled():
    if not module.available(torch.device("cpu"), F64):
        pytest.skip("no compiled kernels here: no C++ compiler, or EPOT_NATIVE=0")


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def graph_of(*sizes):
    """Clusters in which all are neighbors of all; groups of several atoms, of one, and atoms that are alone."""
    rng = np.random.default_rng(1)
    return build([Structure(np.full(n, 6), rng.uniform(0, 2.2, (n, 3))) for n in sizes], 5.0)


def by_torch(x, radial, angles, weight, pairs):
    """Witness: the text of the module, one atom after the other."""
    parts, degrees = [], radial.shape[2]
    for first, last, square in zip(pairs.first[:-1], pairs.first[1:], pairs.square, strict=True):
        n = int(last - first)
        p = angles[degrees * square : degrees * (square + n * n)].view(degrees, n, n)
        sums = torch.einsum("lcb,bf,cil->cif", p, x[first:last], radial[first:last])
        parts.append(sums.flatten(1) @ weight.t())
    return torch.cat(parts)


def made(graph, n_basis, degrees, channels, outputs, dtype=F64):
    torch.manual_seed(0)
    leaf = lambda *shape: torch.randn(*shape, dtype=dtype).requires_grad_()  # noqa: E731
    x, radial = leaf(graph.n_pairs, channels), leaf(graph.n_pairs, n_basis, degrees)
    angles, weight = leaf(degrees * pairs_of(graph).n_squares), leaf(outputs, n_basis * channels)
    return x, radial, angles, (weight.detach() * 0.1 * (n_basis * channels) ** -0.5).requires_grad_()


def derivatives(function, inputs, pairs):
    """Values, gradients, and gradients of a random sum of some of those: of a loss on forces, and of all."""
    y = function(*inputs, pairs)
    found = [y]
    for wanted in (inputs[:3], inputs):
        slopes = torch.autograd.grad(y.sin().sum(), wanted, create_graph=True)
        torch.manual_seed(3)
        again = sum((s * torch.randn_like(s)).sum() for s in slopes)
        found += [*slopes, *torch.autograd.grad(again + y.square().sum(), inputs, retain_graph=True)]
    return found


@pytest.mark.parametrize(
    "sizes", [(16, 3, 4, 4), (16, 7, 64, 64), (3, 5, 37, 70)], ids=["less than a vector", "as published", "odd"]
)
def test_the_same_as_by_torch(sizes, threads):
    graph = graph_of(4, 9, 1, 23, 40, 2)
    inputs, pairs = made(graph, *sizes), pairs_of(graph)
    for a, b in zip(derivatives(native_bilinear, inputs, pairs), derivatives(by_torch, inputs, pairs), strict=True):
        assert float((a - b).detach().abs().max()) < 1e-13 * float(b.detach().abs().max())
    turned = inputs[0], inputs[1].flip(1), *inputs[2:]  # the control: which function goes with which weight matters
    assert float((native_bilinear(*turned, pairs) - by_torch(*inputs, pairs)).detach().abs().max()) > 0.1


def test_single_precision():
    graph = graph_of(4, 9, 1, 23)
    pairs, found = pairs_of(graph), []
    single = made(graph, 16, 7, 64, 64, torch.float32)
    for dtype in (torch.float32, F64):
        inputs = [t.detach().to(dtype).requires_grad_() for t in single]
        y = native_bilinear(*inputs, pairs)
        slopes = torch.autograd.grad(y.square().sum(), inputs[:3], create_graph=True)
        loss = sum(s.square().sum() for s in slopes)
        found.append([y, *slopes, *torch.autograd.grad(loss, inputs)])
    for a, b in zip(*found, strict=True):
        assert float((a - b).detach().abs().max()) < 2e-5 * float(b.detach().abs().max())


def test_no_pairs():
    graph = graph_of(1, 1)
    inputs = made(graph, 3, 2, 4, 5)
    found = native_bilinear(*inputs, pairs_of(graph))
    assert found.shape == (0, 5)
    assert torch.autograd.grad(found.sum(), inputs[3])[0].abs().sum() == 0
