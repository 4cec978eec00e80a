"""Sums over neighbors of products, atoms by element, channels. Witnesses: plain sums over pairs, finite differences."""

import numpy as np
import pytest
import torch

from epot.blocks.channels import joined, mixed, mixed_by_element
from epot.blocks.element_order import by_element
from epot.blocks.neighbor_products import inner, outer
from epot.blocks.neighborhood import neighborhood
from epot.data.structure import Structure
from epot.geometry.graph import build

CUTOFF = 2.5


def graph():
    """A cell, an atom alone and a molecule with an atom out of reach, in one batch."""
    rng = np.random.default_rng(0)
    cell = Structure(np.array([8, 1, 6]), rng.uniform(0, 2, (3, 3)), 2.9 * np.eye(3), (True,) * 3)
    alone = Structure(np.array([6]), np.zeros((1, 3)))
    far = Structure(np.array([8, 1, 6]), np.array([[0.0, 0.0, 0.0], [1.0, 0.2, 0.0], [50.0, 0.0, 0.0]]))
    return build([cell, alone, far], CUTOFF)


@pytest.fixture
def layout():
    return neighborhood(graph(), CUTOFF, torch.float64).layout


def factors(layout, a=2, b=3):
    torch.manual_seed(0)
    slots = len(layout.senders)
    there = torch.zeros(slots, 1, dtype=torch.float64)
    there[layout.place] = 1
    made = torch.randn(slots, a, dtype=torch.float64), torch.randn(slots, b, dtype=torch.float64) * there
    return [x.requires_grad_() for x in made]


def test_outer_is_the_sum_over_pairs(layout):
    """Control: receivers exchanged with senders."""
    a, b = factors(layout)
    expected = torch.zeros(len(layout.rows), 2, 3, dtype=torch.float64)
    turned = expected.clone()
    with torch.no_grad():
        for slot in layout.place.tolist():
            expected[layout.receivers[slot]] += a[slot, :, None] * b[slot]
            turned[layout.senders[slot]] += a[slot, :, None] * b[slot]
    torch.testing.assert_close(outer(a, b, layout).detach(), expected, atol=1e-13, rtol=0)
    assert float((outer(a, b, layout) - turned).detach().abs().max()) > 0.1
    assert not expected[3].any()  # the atom alone


def test_inner_is_the_product_in_each_slot(layout):
    _, b = factors(layout)
    d = torch.randn(len(layout.rows), 2, 3, dtype=torch.float64)
    expected = torch.einsum("sab,sb->sa", d[layout.receivers], b.detach())
    torch.testing.assert_close(inner(d, b, layout).detach(), expected, atol=1e-13, rtol=0)


def test_derivatives_of_any_order(layout):
    a, b = factors(layout)
    d = torch.randn(len(layout.rows), 2, 3, dtype=torch.float64, requires_grad=True)
    for operator, inputs in ((outer, (a, b)), (inner, (d, b))):
        value = lambda x, y, op=operator: op(x, y, layout)  # noqa: E731
        assert torch.autograd.gradcheck(value, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(value, inputs, fast_mode=True)
    total = outer(a, b, layout).square().square().sum()  # the third derivative is not zero
    for _ in range(2):
        total = torch.autograd.grad(total, a, create_graph=True)[0].square().sum()

    def third(a):
        (slope,) = torch.autograd.grad(outer(a, b, layout).pow(4).sum(), a, create_graph=True)
        return torch.autograd.grad(slope.sin().sum(), a, create_graph=True)[0]

    assert torch.autograd.gradcheck(third, a, fast_mode=True, atol=1e-3)
    assert torch.isfinite(total)


def sites(elements=(1, 6, 8)):
    g = graph()
    layout = neighborhood(g, CUTOFF, torch.float64).layout
    rows = torch.tensor([elements.index(z) for z in g.numbers.tolist()])
    return g, layout, by_element(g, layout, rows, elements)


def test_atoms_of_an_element_follow_each_other():
    g, _, found = sites((1, 3, 6, 8))
    sorted_numbers = g.numbers[found.order].tolist()
    assert sorted_numbers == sorted(sorted_numbers)
    assert torch.equal(found.order[found.place], torch.arange(g.n_atoms))
    assert found.counts == (2, 0, 3, 2)
    assert found.present == [2, 3, 2]
    assert found.kinds.tolist() == [0, 2, 3]


def test_slots_are_those_of_the_new_places():
    """Pairs join the same atoms."""
    g, old, found = sites()
    for which in ("senders", "receivers", "rows"):
        new = getattr(found.layout, which)
        filled = slice(None) if which == "rows" else old.place
        assert torch.equal(found.order[new[filled]], getattr(old, which)[filled])
    counts = torch.bincount(g.pairs[0], minlength=g.n_atoms)
    assert torch.equal(found.neighbors, counts[old.rows])


def test_other_elements_are_sorted_again():
    """What a graph keeps is for potentials of the same elements."""
    g, layout, found = sites()
    rows = torch.tensor([(1, 3, 6, 8).index(z) for z in g.numbers.tolist()])
    other = by_element(g, layout, rows, (1, 3, 6, 8))
    assert by_element(g, layout, rows, (1, 3, 6, 8)) is other
    assert (len(found.counts), len(other.counts)) == (3, 4)


def test_channels_are_mixed_by_degree():
    torch.manual_seed(0)
    h = [torch.randn(5, 2 * n + 1, 3) for n in range(3)]
    w = torch.randn(2, 3, 4)
    for x, y, m in zip(mixed(h, w), h, w, strict=False):
        torch.testing.assert_close(x, torch.einsum("amc,cd->amd", y, m))
    assert len(mixed(h, w)) == 2
    together = joined(h)
    assert all(torch.equal(together[:, n * n : (n + 1) ** 2], h[n]) for n in range(3))


def test_each_element_has_its_own_mixing():
    """With one node for all, too, and so do gradients. Control: the first element's for all."""
    torch.manual_seed(0)
    h, w = [torch.randn(5, 2 * n + 1, 3, requires_grad=True) for n in range(3)], torch.randn(2, 2, 3, 4)
    each = [list(degree) for degree in w]
    found, at_once = mixed_by_element(h, each, [2, 3]), mixed_by_element(h, each, [2, 3], once=True)
    assert len(found) == len(at_once) == 2
    along = [torch.randn_like(x) for x in found]
    for x, other, y, own in zip(found, at_once, h, w, strict=False):
        expected = torch.cat([torch.einsum("amc,cd->amd", y[:2], own[0]), torch.einsum("amc,cd->amd", y[2:], own[1])])
        torch.testing.assert_close(x, expected)
        torch.testing.assert_close(other, expected)
        assert (x - torch.einsum("amc,cd->amd", y, own[0])).abs().max() > 0.1
    grads = [torch.autograd.grad(made, h, along, allow_unused=True) for made in (found, at_once)]
    assert grads[0][2] is None
    assert grads[1][2] is None
    for a, b in zip(grads[0][:2], grads[1][:2], strict=True):
        torch.testing.assert_close(a, b)
    for once in (False, True):
        one = mixed_by_element(h, [d[:1] for d in each], [5], once)
        assert all(torch.equal(a, b) for a, b in zip(one, mixed(h, w[:, 0].unbind(), once), strict=True))
