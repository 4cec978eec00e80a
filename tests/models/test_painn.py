"""PaiNN: schnetpack's numbers with schnetpack's weights, symmetry inside, gradients of a loss on forces."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from epot.data.structure import Structure
from epot.errors import ConfigError, ModelFileError, UnknownElementError
from epot.geometry.graph import build, collate
from epot.interchange.schnetpack import from_schnetpack
from epot.models.painn import PaiNN
from epot.potential import Sum
from epot.predict import predict

REFERENCE = Path(__file__).parents[1] / "data_files" / "painn_schnetpack.npz"  # tests/oracles/painn_schnetpack.py
CASES = ["gaussian", "bessel", "shared_filters", "shared_interactions"]


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as file:
        return dict(file)


def state_of(reference, case):
    return {k.split("/state/")[1]: torch.from_numpy(v) for k, v in reference.items() if k.startswith(f"{case}/state/")}


def structure_of(reference, name):
    return Structure(*(reference[f"{name}/{k}"] for k in ("numbers", "positions", "cell", "pbc")))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PaiNN(elements=(1, 6, 8), cutoff=4.0, n_features=8, n_layers=3, n_radial=5).double()


@pytest.mark.parametrize("name", ["molecule", "crystal"])
@pytest.mark.parametrize("case", CASES)
def test_same_as_schnetpack(reference, case, name):
    """Witness: schnetpack 2.1.1 in float64, random weights and biases. Control: exchanged parts of the filters."""
    model = from_schnetpack(state_of(reference, case))
    graph = build(structure_of(reference, name), model.cutoff)
    made = predict(model, graph)
    assert abs(float(made.energy) - float(reference[f"{case}/{name}/energy"][0])) < 1e-10
    assert np.abs(made.forces.numpy() - reference[f"{case}/{name}/forces"]).max() < 1e-10
    _, mu = model.atoms(graph)
    assert np.abs(mu.detach().numpy() - reference[f"{case}/{name}/mu"]).max() < 1e-10
    with torch.no_grad():
        model.filters[-1].copy_(model.filters[-1].roll(model.n_features, 1))
    assert abs(float(predict(model, graph, ("energy",)).energy) - float(made.energy)) > 1e-4


def test_same_as_schnetpack_in_single_precision(reference):
    state = {k: v.float() for k, v in state_of(reference, "gaussian").items()}
    model = from_schnetpack(state, elements=("H", "C", "O"))
    assert model.readout.weight.dtype == torch.float32
    made = predict(model, build(structure_of(reference, "molecule"), model.cutoff))
    assert abs(float(made.energy) - float(reference["gaussian/molecule/energy"][0])) < 1e-5
    assert np.abs(made.forces.numpy() - reference["gaussian/molecule/forces"]).max() < 1e-5


def test_offsets_and_unit_of_schnetpack(reference):
    """A mean and a table of energies per atom are added, everything in the unit that the caller names."""
    state = state_of(reference, "bessel")
    plain = from_schnetpack(state)
    table = torch.linspace(0, 1, 15, dtype=torch.float64)
    state |= {"postprocessors.1.mean": torch.tensor([0.25]), "postprocessors.1.atomref": table}
    potential = from_schnetpack(state, energy_unit=2.0)
    assert isinstance(potential, Sum)
    structure = structure_of(reference, "molecule")
    graph = build(structure, plain.cutoff)
    extra = 0.25 * len(structure) + float(table[structure.numbers].sum())
    expected = 2 * (float(predict(plain, graph).energy) + extra)
    assert abs(float(predict(potential, graph).energy) - expected) < 1e-10


def test_refuses_other_states(reference):
    state = state_of(reference, "gaussian")
    with pytest.raises(ModelFileError, match="lacks representation"):
        from_schnetpack({"output.weight": torch.zeros(2)})
    shifted = state | {"representation.radial_basis.offsets": torch.linspace(0.5, 4, 6)}
    with pytest.raises(ModelFileError, match="equal steps"):
        from_schnetpack(shifted)
    with pytest.raises(ModelFileError, match="one hidden layer"):
        from_schnetpack({k: v for k, v in state.items() if "outnet.1" not in k})
    without = {k: v for k, v in state.items() if "radial_basis" not in k}
    with pytest.raises(ModelFileError, match="radial basis"):
        from_schnetpack(without)


def test_vectors_rotate(model, ethanol):
    """mu(R x) = R mu(x), q(R x) = q(x). Control: the rotation by the inverse is another one."""
    turn = Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()
    q, mu = model.atoms(build(ethanol, model.cutoff))
    q2, mu2 = model.atoms(build(ethanol.replace(positions=ethanol.positions @ turn.T), model.cutoff))
    turned = torch.einsum("ab,ibf->iaf", torch.from_numpy(turn), mu)
    assert (q - q2).abs().max() < 1e-12
    assert (turned - mu2).abs().max() < 1e-12
    assert mu.abs().max() > 1e-2
    assert (torch.einsum("ba,ibf->iaf", torch.from_numpy(turn), mu) - mu2).abs().max() > 1e-3


def test_the_first_layer_is_a_message_like_any_other(model, water):
    """Summing by element first changes nothing: the same as messages of q with mu = 0."""
    from epot.blocks.filtered_messages import Pairs
    from epot.blocks.neighborhood import neighborhood

    graph = build(water, model.cutoff)
    near = neighborhood(graph, model.cutoff, torch.float64)
    pairs = Pairs(near.layout, model._basis(near.distances), near.directions)
    embedding, rows = model.embedding.present(graph.numbers)
    shortcut = model.messages[0].first(embedding, rows, pairs, model.filters[0])
    zero = torch.zeros(graph.n_atoms, 3, model.n_features, dtype=torch.float64)
    general = model.messages[0](embedding[rows], zero, pairs, model.filters[0])
    assert all((a - b).abs().max() < 1e-13 for a, b in zip(shortcut, general, strict=True))
    assert shortcut[1].abs().max() > 1e-3


def test_gradient_of_a_loss_on_forces(model, water, ethanol):
    """With respect to some entries of every parameter. Witness: finite differences of the loss.

    Control: the gradient of the same loss with forces detached from their history is another one.
    """
    graph = collate([build(s, model.cutoff) for s in (water, ethanol)])
    torch.manual_seed(1)
    labels = torch.randn(graph.n_atoms, 3, dtype=torch.float64)

    def loss(create_graph=False):
        made = predict(model, graph, ("energy", "forces", "virial"), create_graph=create_graph)
        return (made.forces - labels).square().sum() + made.energy.square().sum() + made.virial.square().sum()

    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(loss(True), parameters.values(), allow_unused=True, materialize_grads=True)
    found = dict(zip(parameters, grads, strict=True))
    rng = np.random.default_rng(0)
    for name, parameter in parameters.items():
        flat, grad = parameter.data.view(-1), found[name].reshape(-1)
        for k in rng.choice(len(flat), 1, replace=False):
            start, step, ends = float(flat[k]), 1e-5, []
            for sign in (1, -1):
                flat[k] = start + sign * step
                ends.append(float(loss()))
            flat[k] = start
            slope = (ends[0] - ends[1]) / (2 * step)
            assert abs(slope - float(grad[k])) < 1e-6 * max(1.0, abs(slope)), (name, k)
    energy_only = torch.autograd.grad(predict(model, graph, create_graph=True).energy.square().sum(), model.filters[1])
    assert (energy_only[0] - found["filters.1"]).abs().max() > 1e-2


def test_all_parameters_but_the_last_vectors_are_trained(model, ethanol):
    """The energy needs no vector after the last update: its a_mu and U stay as they are, and nothing else does."""
    made = predict(model, build(ethanol, model.cutoff), create_graph=True)
    found = torch.autograd.grad(
        made.forces.square().sum() + made.energy.sum(), list(model.parameters()), allow_unused=True
    )
    unused = [name for (name, _), g in zip(model.named_parameters(), found, strict=True) if g is None]
    assert unused == ["updates.2.a_mu.weight", "updates.2.a_mu.bias"]


def test_features_are_what_the_readout_is_given(model, ethanol):
    out = model(build(ethanol, model.cutoff))
    expected = (out.features @ model.readout.weight + model.readout.bias) * model.readout.scale
    assert out.features.shape == (len(ethanol), 4)
    assert torch.equal(out.energy, expected)


def test_lone_atoms_and_empty_neighborhoods(model):
    far = Structure(np.array([8, 1]), np.array([[0.0, 0, 0], [0, 0, 50]]))
    alone = [Structure(np.array([z]), np.zeros((1, 3))) for z in (8, 1)]
    both = predict(model, build(far, model.cutoff))
    apart = predict(model, build(alone, model.cutoff))
    assert abs(float(both.energy) - float(apart.energy.sum())) < 1e-12
    assert both.forces.abs().max() == 0


def test_unknown_element(model, silicon):
    with pytest.raises(UnknownElementError, match="holds Si; this potential knows H, C, O"):
        model(build(silicon, model.cutoff))


@pytest.mark.parametrize("options", [{"n_features": 1}, {"n_layers": 0}, {"cutoff": 0.0}, {"elements": ("Xx",)}])
def test_refuses_impossible_sizes(options):
    with pytest.raises(ConfigError):
        PaiNN(**options)


@pytest.mark.parametrize("name", ["shared_interactions", "shared_filters"])
def test_sharing_saves_parameters(name):
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(PaiNN(n_features=8, **{name: True})) < count(PaiNN(n_features=8))


def test_single_precision_by_default_and_double_on_request(ethanol):
    torch.manual_seed(0)
    model = PaiNN.tiny()
    graph = build(ethanol, model.cutoff)
    single = predict(model, graph)
    assert model(graph).energy.dtype == torch.float32
    double = predict(model.double(), graph)
    assert single.energy.dtype == torch.float64  # summed so
    assert 0 < (single.forces - double.forces).abs().max() < 1e-5
