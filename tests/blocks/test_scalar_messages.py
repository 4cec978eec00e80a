"""Messages of scalars through splines and both gradients, beside the formula written out; the splines themselves."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from epot.blocks import scalar_messages as messages
from epot.blocks.filter_tables import MARGIN, TERMS, Kept, Taps, Turned, grid, solver
from epot.blocks.scalar_messages import Filters, element_messages, scalar_messages, segments
from epot.data.structure import Structure
from epot.features.cutoff import cutoff_function
from epot.geometry.graph import build, collate

F, CUTOFF, INTERVALS = 4, 3.1, 12
CPU = torch.device("cpu")


@pytest.fixture(params=[1, 40, 4096])
def graph(request, monkeypatch, water, ethanol):
    """A periodic cell, a molecule and a lone atom in one graph, cut into blocks of several sizes."""
    monkeypatch.setattr(messages, "BLOCK", request.param)
    alone = Structure(np.array([6]), np.zeros((1, 3)))
    return collate([build(s, CUTOFF) for s in (water, ethanol, alone)])


def inputs(graph, elements):
    """Leaves y (or curves), coefficients, distances; and what the operator and the formula make of them."""
    torch.manual_seed(0)
    on, fade = grid(CUTOFF, INTERVALS, torch.float64, CPU), cutoff_function("cosine")
    r = graph.vectors().square().sum(1).sqrt().detach().requires_grad_()
    filters = Filters(segments(graph), Taps(r, on, CUTOFF, fade), r)
    _, kinds = graph.numbers.unique(return_inverse=True)
    y = torch.randn(int(kinds.max()) + 1 if elements else graph.n_atoms, F, dtype=torch.float64, requires_grad=True)
    table = torch.randn(len(on.points), F, dtype=torch.float64, requires_grad=True)
    receivers, senders = graph.pairs
    place = r / on.step + MARGIN
    x = (place - place.detach().floor()).unsqueeze(1) ** torch.arange(TERMS)
    six = table[place.detach().long().unsqueeze(1) + torch.arange(TERMS)]
    w = ((x @ on.terms[:, :TERMS]).unsqueeze(2) * six).sum(1) * fade(r, CUTOFF)[0].unsqueeze(1)
    each = w * (y[kinds] if elements else y)[senders]
    written = torch.zeros(graph.n_atoms, F, dtype=torch.float64).index_add(0, receivers, each)
    if elements:
        return element_messages(y.unsqueeze(1) * table, kinds, filters), written, (y, table, r)
    return scalar_messages(y, table, filters), written, (y, table, r)


def apart(a, b):
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("elements", [False, True])
def test_values_and_gradients(graph, elements):
    """Control: the gradient with respect to y of a grad of the other sign."""
    ours, written, leaves = inputs(graph, elements)
    assert apart([ours], [written]) < 1e-12
    assert written.abs().max() > 1
    grad = torch.randn_like(written)
    expected = torch.autograd.grad(written, leaves, grad, retain_graph=True)
    for create_graph in (True, False):
        found = torch.autograd.grad(ours, leaves, grad, retain_graph=True, create_graph=create_graph)
        assert apart(found, expected) < 1e-11
    assert apart(found[:1], [-expected[0]]) > 1e-2


@pytest.mark.parametrize("elements", [False, True])
@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_second_gradients(graph, used, elements):
    """Of a function of the gradient with respect to everything, as a loss on forces or a Hessian needs it."""
    found = []
    reverse = graph.reverse_pairs()
    for k in (0, 1):
        made = inputs(graph, elements)
        leaves = made[2]
        torch.manual_seed(1)
        grad = torch.randn_like(made[1]).requires_grad_()
        first = torch.autograd.grad(made[k], leaves, grad, create_graph=True)
        towards = [torch.randn_like(x) for x in first]
        towards[2] = towards[2] + towards[2][reverse]  # distances change in both directions
        value = sum((first[n] * towards[n]).sum() for n in used)
        found.append(torch.autograd.grad(value, (grad, *leaves), allow_unused=True, materialize_grads=True))
    assert apart(*found) < 1e-10
    assert found[1][0].abs().max() > 1e-2


def test_the_splines_are_scipys():
    """B-splines of degree 5 and their derivatives. Control: the first derivative is not the second."""
    on = grid(CUTOFF, INTERVALS, torch.float64, CPU)
    table = torch.randn(len(on.points), 2, dtype=torch.float64)
    knots = (np.arange(len(on.points) + TERMS) - MARGIN - TERMS + 1) * on.step
    r = torch.linspace(0, CUTOFF - 1e-9, 50, dtype=torch.float64)
    taps = Taps(r, on, CUTOFF, lambda r, _: (torch.ones_like(r), torch.zeros_like(r) * r))
    for order in range(3):
        expected = BSpline(knots, table.numpy(), TERMS - 1)(r.numpy(), order)
        assert np.abs(taps.values(table, order).numpy() - expected).max() < 1e-9 * np.abs(expected).max()
        assert np.abs(taps.values(table, (order + 1) % 3).numpy() - expected).max() > 1e-2


def test_values_at_the_points_come_back():
    """A function that is a polynomial of degree 5 is its spline. Control: degree 6 is not, so few nodes apart."""
    on = grid(CUTOFF, INTERVALS, torch.float64, CPU)
    r = torch.linspace(0, CUTOFF, 40, dtype=torch.float64)
    taps = Taps(r[:-1], on, CUTOFF, lambda r, _: (torch.ones_like(r), torch.zeros_like(r)))
    for degree, exact in ((5, True), (9, False)):
        table = solver(INTERVALS, torch.float64, CPU) @ on.points.unsqueeze(1) ** degree
        wrong = (taps.values(table)[:, 0] - r[:-1] ** degree).abs().max() / CUTOFF**degree
        assert (wrong < 1e-10) == exact


def test_sums_over_the_pairs_of_a_row():
    """The transpose of a sum of six terms, beside index_add."""
    torch.manual_seed(0)
    first, weights, d = torch.randint(0, 9, (30,)), torch.randn(180), torch.randn(30, F)
    rows = (first.unsqueeze(1) + torch.arange(TERMS)).view(-1)
    expected = torch.zeros(14, F).index_add(0, rows, d.repeat_interleave(TERMS, 0) * weights.unsqueeze(1))
    assert (Turned(first, 14).sums([(d, None, weights)]) - expected).abs().max() < 1e-5


def test_products_are_kept_until_something_changes():
    kept, table = Kept(), torch.randn(5, F)
    y = torch.randn(2, F)
    made = kept.product(y, table)
    assert kept.product(y.clone(), table) is made
    assert kept.product(y + 1, table) is not made
    assert kept.product(y + 1, table.clone()).shape == (2, 5, F)
