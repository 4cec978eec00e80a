"""Networks by element: each atom's own network and nothing else, alone and in a committee."""

import pytest
import torch

from epot.blocks.activations import ACTIVATIONS as BY_HAND
from epot.blocks.element_networks import ACTIVATIONS, ElementCommittee, ElementNetworks
from epot.errors import ConfigError

HIDDEN = {0: (5, 4), 1: (6,), 2: (3, 3, 2)}


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 6, dtype=torch.float64, generator=generator), torch.tensor([2, 0, 2, 1, 0, 0, 2])


def random(module):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, dtype=p.dtype, generator=generator))
    return module


@pytest.mark.parametrize("activation", ["gelu", "celu", "tanh"])
def test_each_atom_by_its_own_network(rows, activation):
    """Witness: every atom by itself through the layers of its element."""
    x, species = rows
    made = random(ElementNetworks(3, 6, HIDDEN, activation, torch.float64))
    assert made.size == 5 + 7 + 3
    out = made(x, species)
    starts = [0, 5, 12]
    for atom, (row, kind) in enumerate(zip(x, species.tolist(), strict=True)):
        for layer in made.networks[kind]:
            row = made.activation(layer(row))
        own = slice(starts[kind], starts[kind] + len(row))
        assert torch.allclose(out[atom, own], row, rtol=0, atol=1e-14)
        assert out[atom, own.stop] == 1
        assert int((out[atom] != 0).sum()) == len(row) + 1
    assert not torch.allclose(made(x, species.flip(0)), out)  # control


def test_elements_without_atoms(rows):
    x, _ = rows
    made = random(ElementNetworks(3, 6, HIDDEN, dtype=torch.float64))
    out = made(x, torch.ones(7, dtype=torch.int64))
    assert not out[:, :5].any()
    assert not out[:, 12:].any()
    assert out[:, 11].eq(1).all()
    assert made(x[:0], torch.zeros(0, dtype=torch.int64)).shape == (0, 15)
    committee = random(ElementCommittee(4, 3, 6, HIDDEN, dtype=torch.float64))
    assert committee(x.expand(4, -1, -1), torch.ones(7, dtype=torch.int64)).shape == (7, 4)
    assert committee(x[:0].expand(4, -1, -1), torch.zeros(0, dtype=torch.int64)).shape == (0, 4)


def test_members_of_a_committee(rows):
    """Witness: the same weights in networks of their own, one after the other."""
    x, species = rows
    committee = random(ElementCommittee(3, 3, 6, HIDDEN, "celu", torch.float64))
    found = committee(x.expand(3, -1, -1), species)
    assert found.shape == (7, 3)
    for m in range(3):
        alone = ElementNetworks(3, 6, HIDDEN, "celu", torch.float64)
        last = []
        with torch.no_grad():
            for layers, weights, biases in zip(alone.networks, committee.weights, committee.biases, strict=True):
                for layer, weight, bias in zip(layers, weights, biases, strict=False):
                    layer.weight.copy_(weight[m].T)
                    layer.bias.copy_(bias[m, 0])
                last += [weights[-1][m, :, 0], biases[-1][m, 0]]
        assert torch.allclose(alone(x, species) @ torch.cat(last), found[:, m], rtol=0, atol=1e-13)
    assert float(found.detach().std(1).min()) > 1e-2  # control: members differ


def energies(made, x, species, last, by_hand, once=False):
    """By the passes written out, or by ordinary operations (the witness)."""
    if by_hand:
        return made.energies(x, last, made.plan(species), once)
    features = made(x, species)
    return features @ last, features


def problem(activation, rows):
    x, species = rows
    made = random(ElementNetworks(3, 6, HIDDEN, activation, torch.float64))
    last = torch.randn(made.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    return made, x.clone().requires_grad_(), species, last


def apart(found, expected):
    """Largest relative distance of two lists of gradients; None counts as zeros."""
    pairs = [(f, e) for f, e in zip(found, expected, strict=True) if f is not None or e is not None]
    zero = torch.zeros(1, dtype=torch.float64)
    return max(
        float(
            ((zero if f is None else f) - (zero if e is None else e)).norm() / (1 + (zero if e is None else e).norm())
        )
        for f, e in pairs
    )


@pytest.mark.parametrize("species", [[2, 0, 2, 1, 0, 0, 2], [2, 0, 2, 0, 0, 0, 2], [0] * 7])
@pytest.mark.parametrize("activation", [*BY_HAND, "sigmoid"])
def test_derivatives_by_hand(rows, activation, species):
    """Witness: autograd through ordinary operations, of a loss on energies, features, and the gradient of energies."""
    made, x, _, last = problem(activation, rows)
    sources, found = [x, last, *made.parameters()], {}
    for by_hand in (True, False):
        energy, features = energies(made, x, torch.tensor(species), last, by_hand)
        weights = torch.arange(1.0, 8.0, dtype=torch.float64)
        (slope,) = torch.autograd.grad((energy * weights).sum(), x, create_graph=True)
        losses = {
            "energies": energy.square().sum(),
            "forces": slope.pow(3).sum(),
            "both": energy.square().sum() + slope.square().sum(),
            "features": features.sin().sum() + energy.sum(),
        }
        found[by_hand] = (
            [energy.detach(), slope.detach()],
            {k: torch.autograd.grad(v, sources, retain_graph=True, allow_unused=True) for k, v in losses.items()},
        )
    rounded = 1e-6 if activation == "celu" else 1e-12  # torch takes alpha in single precision
    assert apart(found[True][0], found[False][0]) < rounded
    for name, expected in found[False][1].items():
        assert apart(found[True][1][name], expected) < rounded, name
    assert apart(found[True][1]["both"], found[False][1]["forces"]) > 1e-4  # control


def test_passes_share_nothing_that_they_should_not(rows):
    """Two gradients of one evaluation in one loss, one more pass over the same graph, and a second derivative of all.

    Witness: the same by ordinary operations.
    """
    made, x, species, last = problem("gelu", rows)
    sources, found = [x, last, *made.parameters()], []
    for by_hand in (True, False):
        energy, features = energies(made, x, species, last, by_hand)
        first = torch.autograd.grad(energy[:3].sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(energy.square().sum(), x, create_graph=True)[0]
        third = torch.autograd.grad(features[:, :4].sum(), x, create_graph=True)[0]
        loss = (first * second).sum() + third.square().sum() + energy.sum()
        made_of = torch.autograd.grad(loss, sources, retain_graph=True)
        again = torch.autograd.grad(first.square().sum(), sources, allow_unused=True, retain_graph=True)
        only = torch.autograd.grad(second.sum(), x, retain_graph=True)  # leaves the weights alone
        whole = torch.autograd.grad(energy.square().sum(), sources, create_graph=True)
        twice = torch.autograd.grad(torch.stack([g.square().sum() for g in whole]).sum(), sources)
        found.append([None if g is None else g.detach() for g in (*made_of, *again, *only, *whole, *twice)])
    assert apart(*found) < 1e-11


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "exp"])
def test_for_forces_alone(rows, activation):
    """Witness: the same by ordinary operations. Weights get no gradient then."""
    made, x, species, last = problem(activation, rows)
    plain, once = (energies(made, x, species, last, by_hand, by_hand) for by_hand in (False, True))
    assert torch.allclose(once[0], plain[0], rtol=0, atol=1e-12)
    assert torch.allclose(once[1], plain[1], rtol=0, atol=1e-14)
    (expected,) = torch.autograd.grad(plain[0].sum(), x)
    (found,) = torch.autograd.grad(once[0].sum(), x)
    rounded = 1e-6 if activation == "celu" else 1e-13  # torch takes alpha in single precision
    assert torch.allclose(found, expected, rtol=rounded, atol=rounded)
    if activation in ("tanh", "gelu", "silu", "celu"):
        with pytest.raises(RuntimeError):
            torch.autograd.grad(energies(made, x, species, last, True, True)[0].sum(), next(made.parameters()))
    few = energies(made, x, torch.zeros(7, dtype=torch.int64), last, True, True)[0]
    assert torch.isfinite(torch.autograd.grad(few.sum(), x)[0]).all()
    none = made.energies(x[:0], last, made.plan(torch.zeros(0, dtype=torch.int64)))
    assert [t.shape for t in none] == [(0,), (0, made.size)]


def test_what_is_refused():
    for hidden in ((), (0,), {0: (3,), 1: (), 2: (2,)}):
        with pytest.raises(ConfigError, match="at least one unit"):
            ElementNetworks(3, 6, hidden)
    with pytest.raises(ConfigError, match="did you mean 'gelu'"):
        ElementNetworks(3, 6, (4,), "gelo")
    with pytest.raises(ConfigError, match="no activation"):
        ElementCommittee(2, 3, 6, (4,), "nothing at all")
