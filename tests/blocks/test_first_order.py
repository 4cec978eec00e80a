"""Forces through PaiNN's functions for first derivatives alone, beside autograd through the same formulas."""

import numpy as np
import pytest
import torch

from epot.blocks import first_order
from epot.data.structure import Structure
from epot.geometry.graph import build
from epot.models.painn import PaiNN
from epot.predict import predict


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = PaiNN(elements=(1, 6, 8), cutoff=4.0, n_features=8, n_layers=3, n_radial=5).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases are not zero
    return made


@pytest.fixture
def graph():
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3) * 1.6
    positions = grid + rng.normal(scale=0.1, size=grid.shape)
    numbers = np.array([1, 6, 8, 1, 6, 8, 1, 1])
    return build([Structure(numbers, positions, np.eye(3) * 5.0, True), Structure(numbers[:4], positions[:4])], 4.0)


def test_same_forces_as_through_autograd(model, graph):
    """Witness: autograd through ordinary operations, which a history asks for. Control: another epsilon."""
    slow, fast = predict(model, graph, create_graph=True), predict(model, graph)
    for name in ("energy", "forces", "virial", "features"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name).detach(), rtol=1e-11, atol=1e-12)
    assert fast.forces.abs().max() > 1e-3


def test_gradients_are_those_of_finite_differences(model):
    """Witness: central differences, of both outputs with respect to both inputs."""
    q, mu = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 8), (3, 3, 8)))
    message, step, _ = model.interaction(1)
    phi, weights = list(message.phi.parameters()), list(step.parameters())
    assert torch.autograd.gradcheck(lambda a, b: first_order.message_table(a, b, phi), (q, mu))
    for vectors in (True, False):
        function = lambda a, b: first_order.update(a, b, weights, 1e-8, vectors)[: 1 + vectors]  # noqa: B023, E731
        assert torch.autograd.gradcheck(function, (q, mu))
    wrong = first_order.update(q, mu, weights, 1.0, True)[0]
    assert (wrong - step(q, mu, True)[0]).abs().max() > 1e-4


def test_the_virial_of_one_structure_is_the_sum_of_its_atoms(model, graph):
    """Witness: the shares per atom. Control: half of the atoms."""
    one = build(Structure(graph.numbers[:8].numpy(), graph.positions[:8].numpy(), graph.cell[0].numpy(), True), 4.0)
    whole, parts = predict(model, one), predict(model, one, ("forces", "atom_virials"))
    torch.testing.assert_close(whole.virial[0], parts.atom_virials.sum(0), rtol=1e-11, atol=1e-12)
    assert (whole.virial[0] - parts.atom_virials[:4].sum(0)).abs().max() > 1e-4
