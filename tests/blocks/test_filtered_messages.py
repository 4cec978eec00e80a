"""Messages through filters and both their gradients against the formula written out with einsum and autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epot.blocks import neighborhood as laid
from epot.blocks.filtered_messages import Pairs, element_sums, filtered_messages
from epot.blocks.neighborhood import _blocks, neighborhood
from epot.data.structure import Structure
from epot.geometry.graph import build, collate

F, K, CUTOFF = 4, 3, 3.1


@pytest.fixture(params=[1, 40, 1024])
def graph(request, monkeypatch, water, ethanol):
    """A periodic cell, a molecule and a lone atom in one graph, cut into blocks of several sizes."""
    monkeypatch.setattr(laid, "BLOCK", request.param)
    alone = Structure(np.array([6]), np.zeros((1, 3)))
    return collate([build(s, CUTOFF) for s in (water, ethanol, alone)])


def pairs_of(graph):
    """Symmetric functions of the distance that vanish at the cutoff, and directions; leaves."""
    near = neighborhood(graph, CUTOFF, torch.float64)
    r = near.distances.unsqueeze(-1)
    basis = torch.where(r < CUTOFF, (CUTOFF - r) ** torch.arange(1, K + 1), 0.0)
    return Pairs(near.layout, basis.detach().requires_grad_(), near.directions.detach().requires_grad_())


def written_out(table, weight, basis, directions, layout):
    """The definition, pair by pair."""
    w_r, w_q, w_mu = (basis @ weight).split(F, -1)
    t_r, t_q, t_mu = table[layout.senders].split([F, F, 3 * F], -1)
    mu = torch.einsum("sc,sf->scf", directions, w_r * t_r) + w_mu.unsqueeze(1) * t_mu.view(-1, 3, F)
    each = torch.cat([w_q * t_q, mu.flatten(1)], -1)
    return torch.zeros(len(table), 4 * F, dtype=table.dtype).index_add(0, layout.receivers, each)


def inputs(graph):
    torch.manual_seed(0)
    table = torch.randn(graph.n_atoms, 5 * F, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(K, 3 * F, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(graph.n_atoms, 4 * F, dtype=torch.float64, requires_grad=True)
    return table, weight, grad


def both(graph):
    """The operator and the formula, with the leaves."""
    table, weight, grad = inputs(graph)
    pairs = pairs_of(graph)
    leaves = (table, weight, pairs.basis, pairs.directions)
    return filtered_messages(table, weight, pairs), written_out(*leaves, pairs.layout), leaves, grad


def apart(a, b):
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


def test_result(graph):
    ours, expected, _, _ = both(graph)
    assert apart([ours], [expected]) < 1e-12
    assert expected.abs().max() > 1


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradient(graph, create_graph):
    """Of table, weight and geometry. Control: the sign of the transposed direction."""
    ours, expected, leaves, grad = both(graph)
    a = torch.autograd.grad(ours, leaves, grad, create_graph=create_graph)
    b = torch.autograd.grad(expected, leaves, grad)
    assert apart(a, b) < 1e-11
    wrong = b[0].clone()
    wrong[:, :F] *= -1
    assert apart([a[0]], [wrong]) > 1e-2


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (3,), (0, 2, 3), (0, 1, 2, 3)])
def test_second_gradient(graph, used):
    """Of a function of the gradient with respect to everything, as a loss on forces or a Hessian needs it."""
    ours, expected, leaves, grad = both(graph)
    found = []
    for result in (ours, expected):
        first = torch.autograd.grad(result, leaves, grad, create_graph=True)
        torch.manual_seed(1)
        towards = [torch.randn(x.shape, dtype=torch.float64) for x in first]
        value = sum((first[k] * towards[k]).sum() for k in used)
        found.append(torch.autograd.grad(value, (grad, *leaves), allow_unused=True, materialize_grads=True))
    assert apart(*found) < 1e-10
    assert all(x.abs().max() > 0 for x in found[1][:1])


def test_a_third_derivative_is_refused(graph):
    ours, _, leaves, grad = both(graph)
    (first,) = torch.autograd.grad(ours, leaves[0], grad, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaves[1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()


def test_element_sums(graph):
    """The first layer's shortcut is the operator on a table that depends on the element alone."""
    _, rows = graph.numbers.unique(return_inverse=True)
    n = int(rows.max()) + 1
    pairs = pairs_of(graph)
    torch.manual_seed(0)
    table, weight = torch.randn(n, 2 * F, dtype=torch.float64), torch.randn(K, 3 * F, dtype=torch.float64)
    full = torch.cat([table, table.new_zeros(n, 3 * F)], -1)[rows]
    expected = filtered_messages(full, weight, pairs)
    sums = element_sums(pairs, rows, n).split([1, 3], 1)
    q = sums[0].squeeze(1) @ (table[:, None, F:] * weight[:, F : 2 * F]).flatten(0, 1)
    mu = sums[1] @ (table[:, None, :F] * weight[:, :F]).flatten(0, 1)
    assert apart([torch.cat([q, mu.flatten(1)], -1)], [expected]) < 1e-12


def test_layout_holds_every_pair_once(graph):
    layout = neighborhood(graph, CUTOFF, torch.float64).layout
    assert len(layout.place.unique()) == graph.n_pairs
    assert torch.equal(layout.senders[layout.place], graph.pairs[1])
    assert torch.equal(layout.receivers[layout.place], graph.pairs[0])
    assert torch.equal(layout.rows.sort().values, torch.arange(graph.n_atoms))
    for start, stop, slot, width in layout.blocks:
        owners = layout.rows[start:stop].repeat_interleave(width)
        inside = (layout.place >= slot) & (layout.place < slot + len(owners))
        assert torch.equal(owners[layout.place[inside] - slot], graph.pairs[0][inside])


@given(st.lists(st.integers(0, 80), max_size=60), st.integers(1, 200))
def test_blocks_cover(counts, size):
    counts, before = sorted(counts), laid.BLOCK
    laid.BLOCK = size
    try:
        blocks = _blocks(counts)
    finally:
        laid.BLOCK = before
    at = slot = 0
    for start, stop, first, width in blocks:
        assert (start, first) == (at, slot)
        assert stop > start
        assert width == max(counts[stop - 1], 1)
        assert (stop - start) * width <= size or stop == start + 1
        at, slot = stop, slot + (stop - start) * width
    assert at == len(counts)
