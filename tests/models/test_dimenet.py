"""DimeNet++: its parts as the paper has them; torch_geometric's numbers: tests/interchange/test_torch_geometric.py."""

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.errors import ConfigError, UnknownElementError
from epot.geometry.graph import build
from epot.models.dimenet import DimeNet, orthogonal
from epot.potential import make
from epot.predict import predict


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DimeNet.tiny().double()


def test_defaults_are_the_papers():
    model = DimeNet()
    kept = {k: v for k, v in model.config().items() if k not in ("name", "elements")}
    assert kept == {
        "cutoff": 5.0, "n_features": 128, "n_layers": 4, "n_triplet": 64, "n_basis": 8, "n_output": 256, "l_max": 6,
        "n_radial": 6, "n_before_skip": 1, "n_after_skip": 2, "n_output_layers": 3, "p": 6,
    }  # fmt: skip
    body = sum(p.numel() for p in model.parameters()) - model.species.weight.numel()
    assert body == 1873670  # torch_geometric's, without its table of elements


def test_weights_start_orthogonal_with_the_variance_of_glorot():
    torch.manual_seed(0)
    layer = orthogonal(40, 20)
    weight = layer.weight.detach()
    product = weight @ weight.T
    assert float((product - product.diag().mean() * torch.eye(20)).abs().max()) < 1e-6
    assert abs(float(weight.var()) / (2 / 60) - 1) < 1e-5
    assert float(layer.bias.detach().abs().max()) == 0


def test_energy_is_linear_in_the_features(model, ethanol):
    graph = build(ethanol, model.cutoff)
    made = model(graph)
    assert made.features.shape == (len(ethanol), 3 * model.n_output)
    torch.testing.assert_close(made.energy, made.features @ model.readout.weight)


def test_angles_are_seen(model):
    """Two shapes with the same distances between neighbors, but not the same angles."""
    square, rhombus = (
        2.3 * np.array([[0.0, 0, 0], [1, 0, 0], [1 + np.cos(t), np.sin(t), 0], [np.cos(t), np.sin(t), 0]])
        for t in (np.pi / 2, 1.45)
    )
    energies = [
        float(predict(model, build(Structure(np.full(4, 6), x), model.cutoff), ("energy",)).energy)
        for x in (square, rhombus)
    ]
    assert all(np.linalg.norm(x[0] - x[2]) > model.cutoff for x in (square, rhombus))
    assert all(np.linalg.norm(x[1] - x[3]) > model.cutoff for x in (square, rhombus))
    assert abs(energies[0] - energies[1]) > 1e-8
    with torch.no_grad():
        for layer in model.interactions:  # the control: with l = 0 alone it sees no angles
            layer.sbf_in.weight.view(model.n_basis, model.l_max + 1, -1)[:, 1:] = 0
    blind = [
        float(predict(model, build(Structure(np.full(4, 6), x), model.cutoff), ("energy",)).energy)
        for x in (square, rhombus)
    ]
    assert abs(blind[0] - blind[1]) < 1e-12


def test_forces_where_atoms_are_in_line(model):
    x = np.array([[-1.16, 0, 0], [0.0, 0, 0], [1.16, 0, 0]])
    graph = build(Structure(np.array([8, 6, 8]), x), model.cutoff)
    forces = predict(model, graph).forces
    assert torch.isfinite(forces).all()
    assert float(forces[:, 1:].abs().max()) < 1e-12
    loss = predict(model, graph, create_graph=True).forces.square().sum()
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert all(torch.isfinite(g).all() for g in grads if g is not None)


def test_bad_sizes_and_elements(model):
    for key, value in (("n_layers", -1), ("n_features", 0), ("cutoff", 0.0), ("p", 1), ("n_radial", 0)):
        with pytest.raises(ConfigError, match=key):
            DimeNet(**{key: value})
    with pytest.raises(UnknownElementError):
        model(build(Structure(np.array([79, 79]), np.array([[0.0, 0, 0], [0, 0, 2.5]])), model.cutoff))


def test_no_interactions(ethanol):
    """Embedding and its output alone: pairs only."""
    model = make({"name": "dimenet", "n_layers": 0, "n_features": 8, "n_output": 6}).double()
    assert torch.isfinite(predict(model, build(ethanol, model.cutoff)).forces).all()
