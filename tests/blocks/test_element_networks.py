"""Networks by element: each atom's own network and nothing else, alone and in a committee."""

import pytest
import torch

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


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "exp"])
def test_for_forces_alone(rows, activation):
    """Witness: the same by ordinary operations. Weights get no gradient then."""
    x, species = rows
    made = random(ElementNetworks(3, 6, HIDDEN, activation, torch.float64))
    x = x.clone().requires_grad_()
    grad = torch.randn(7, made.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    plain, once = made(x, species), made(x, species, True)
    assert torch.allclose(once, plain, rtol=0, atol=1e-14)
    (expected,) = torch.autograd.grad(plain, x, grad)
    (found,) = torch.autograd.grad(once, x, grad)
    rounded = 1e-6 if activation == "celu" else 1e-13  # torch takes alpha in single precision
    assert torch.allclose(found, expected, rtol=0, atol=rounded)
    if activation in ("tanh", "gelu", "silu", "celu"):
        with pytest.raises(RuntimeError):
            torch.autograd.grad(made(x, species, True).sum(), next(made.parameters()))
    few = made(x, torch.zeros(7, dtype=torch.int64), True)
    assert torch.isfinite(torch.autograd.grad(few.sum(), x)[0]).all()


def test_what_is_refused():
    for hidden in ((), (0,), {0: (3,), 1: (), 2: (2,)}):
        with pytest.raises(ConfigError, match="at least one unit"):
            ElementNetworks(3, 6, hidden)
    with pytest.raises(ConfigError, match="did you mean 'gelu'"):
        ElementNetworks(3, 6, (4,), "gelo")
    with pytest.raises(ConfigError, match="no activation"):
        ElementCommittee(2, 3, 6, (4,), "nothing at all")
