"""SchNet: schnetpack's and torch_geometric's numbers with their weights; its tables; gradients of a loss on forces."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from epot import interchange
from epot.blocks.filter_tables import Taps
from epot.data.structure import Structure
from epot.errors import ConfigError, ModelFileError, UnknownElementError
from epot.geometry.graph import build, collate
from epot.interchange.schnetpack import from_schnetpack
from epot.interchange.torch_geometric import schnet_from_state
from epot.models.schnet import SchNet
from epot.potential import Sum
from epot.predict import predict

FILES = Path(__file__).parents[1] / "data_files"
SCHNETPACK = FILES / "schnet_schnetpack.npz"  # tests/oracles/schnet_schnetpack.py
WHOLE = FILES / "schnet_schnetpack.model"
PYG = FILES / "schnet_pyg.npz"  # tests/oracles/schnet_pyg.py
STRUCTURES = ["molecule", "crystal"]


@pytest.fixture(scope="module")
def schnetpack():
    with np.load(SCHNETPACK) as file:
        return dict(file)


@pytest.fixture(scope="module")
def pyg():
    with np.load(PYG) as file:
        return dict(file)


def state_of(reference, case):
    return {k.split("/state/")[1]: torch.from_numpy(v) for k, v in reference.items() if k.startswith(f"{case}/state/")}


def structure_of(reference, name):
    return Structure(*(reference[f"{name}/{k}"] for k in ("numbers", "positions", "cell", "pbc")))


def same(potential, reference, case, name):
    """Energy and forces beside the reference's; also through plain autograd, which training uses."""
    graph = build(structure_of(reference, name), potential.cutoff)
    made = predict(potential, graph)
    for found in (made, predict(potential, graph, create_graph=True)):
        assert abs(float(found.energy.detach()) - float(reference[f"{case}/{name}/energy"].sum())) < 1e-8
        assert np.abs(found.forces.detach().numpy() - reference[f"{case}/{name}/forces"]).max() < 1e-8
    assert made.forces.abs().max() > 1e-2
    return graph, made


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = SchNet(elements=(1, 6, 8), cutoff=4.0, n_features=8, n_layers=3, n_radial=10, n_filters=6).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases are not zero
    return made


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("case", ["gaussian", "bessel", "shared", "narrow"])
def test_same_as_schnetpack(schnetpack, case, name):
    """Witness: schnetpack 2.1.1 in float64, random weights and biases. Control: the other cutoff function."""
    state = state_of(schnetpack, case)
    _, made = same(from_schnetpack(state), schnetpack, case, name)
    other = from_schnetpack(state, cutoff_function="polynomial")
    found = predict(other, build(structure_of(schnetpack, name), other.cutoff), ("energy",))
    assert abs(float(found.energy) - float(made.energy)) > 1e-4


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("case", ["default", "short"])
def test_same_as_torch_geometric(pyg, case, name):
    """Witness: torch_geometric 2.8.1 in float64, also with its cutoff of 10 Å and 50 Gaussians, images included.

    Control: without the mean.
    """
    options = {"mean": 0.3, "std": 1.7} if case == "short" else {}
    potential = schnet_from_state(state_of(pyg, case), elements=("H", "C", "N", "O", "Si"), **options)
    assert isinstance(potential, Sum) == (case == "short")
    graph, made = same(potential, pyg, case, name)
    if options:
        wrong = schnet_from_state(state_of(pyg, case), elements=("H", "C", "N", "O", "Si"), std=1.7)
        apart = float(made.energy - predict(wrong, graph, ("energy",)).energy)
        assert abs(apart - 0.3 * graph.n_atoms) < 1e-10


def test_files_of_both_are_found_and_read(tmp_path, schnetpack, pyg):
    for reference, case, name in ((schnetpack, "shared", "schnetpack"), (pyg, "default", "torch_geometric")):
        path = tmp_path / f"{name}.pt"
        torch.save(state_of(reference, case), path)
        assert interchange.find(path) == name
        same(interchange.load(path, elements=["H", "C", "N", "O", "Si"]), reference, case, "molecule")
        torch.save([1, 2], path)
        with pytest.raises(ModelFileError, match="holds a list"):
            interchange.load(path, name)
        path.write_bytes(b"nothing")
        with pytest.raises(ModelFileError, match="not a file of tensors|not an archive"):
            interchange.load(path, name)


def test_whole_models_are_read_without_schnetpack(tmp_path, schnetpack):
    """Written by ``torch.save(model)``, of which nothing is executed. Witness: the state of the same model."""
    assert interchange.find(WHOLE) == "schnetpack"
    same(interchange.load(WHOLE), schnetpack, "gaussian", "molecule")
    with zipfile.ZipFile(WHOLE) as archive, zipfile.ZipFile(tmp_path / "other", "w") as other:
        for name in archive.namelist():  # names of equal length keep the pickle whole
            other.writestr(name, archive.read(name).replace(b"CosineCutoff", b"StrangCutoff"))
    with pytest.raises(ModelFileError, match="this model has StrangCutoff"):
        interchange.load(tmp_path / "other")


def test_states_of_something_else_are_refused(schnetpack, pyg):
    state = state_of(schnetpack, "gaussian")
    key = "representation.interactions.0.filter_network.0.weight"
    with pytest.raises(ModelFileError, match=r"SchNet: it lacks representation\.interactions\.0\.filter_network"):
        from_schnetpack({k: v for k, v in state.items() if k != key})
    with pytest.raises(ModelFileError, match="one hidden layer"):
        from_schnetpack({k: v for k, v in state.items() if "outnet.1" not in k})
    with pytest.raises(ModelFileError, match=r"lacks distance_expansion"):
        schnet_from_state({k: v for k, v in state_of(pyg, "short").items() if "offset" not in k})
    with pytest.raises(ModelFileError, match="dipole"):
        schnet_from_state(state_of(pyg, "short") | {"atomic_mass": torch.zeros(3)})


@pytest.mark.parametrize("radial", ["gaussian", "bessel"])
@pytest.mark.parametrize("sharp", [1.0, 8.0])
def test_tables_are_the_networks(radial, sharp):
    """Filters of splines in single precision beside the networks themselves, in double. Control: one node on.

    Sharp: weights eight times as large make waves that the usual nodes do not resolve: kept tables get more.
    """
    torch.manual_seed(0)
    model = SchNet(n_layers=2, radial=radial, n_radial=30 if radial == "gaussian" else 10)
    with torch.no_grad():
        for interaction in model.interactions:
            for layer in interaction.filter.layers:
                layer.weight *= sharp
    _, usual = model.tables()
    on, kept = model.tables(constant=True)
    assert (len(kept[0]) > len(usual[0])) == (sharp > 1)
    r = torch.linspace(0.5, 4.999, 997)
    flat = lambda r, _: (torch.ones_like(r), torch.zeros_like(r))  # noqa: E731
    exact = [v.detach() for v in model.double().filters(r.double())]
    taps = Taps(r, on, model.cutoff, flat)
    for table, values in zip(kept, exact, strict=True):
        assert (taps.values(table) - values).abs().max() < 3e-6 * values.abs().max()
        assert (taps.values(table.roll(1, 0)) - values).abs().max() > 1e-2 * values.abs().max()


def test_kept_tables_follow_the_weights(model, ethanol):
    """A step of an optimizer, a loaded state, another precision: each gives what a fresh copy gives."""
    import copy

    graph = build(ethanol, model.cutoff)
    seen = []
    for change in (
        lambda: None,
        lambda: [p.detach().mul_(1.1) for p in model.parameters()],
        lambda: model.load_state_dict({k: v * 0.9 for k, v in model.state_dict().items()}),
        lambda: [setattr(p, "data", p.data + 0.01) for p in model.parameters()],
        model.float,
        model.double,
    ):
        change()
        seen.append(float(predict(model, graph, ("energy",)).energy))
        assert seen[-1] == float(predict(copy.deepcopy(model), graph, ("energy",)).energy)
    assert len(set(seen[:5])) == 5


def test_same_forces_with_and_without_history(model, water, ethanol):
    """Witness: plain operations and their double backward. Control: another structure."""
    graph = collate([build(s, model.cutoff) for s in (water, ethanol)])
    slow, fast = predict(model, graph, create_graph=True), predict(model, graph)
    for name in ("energy", "forces", "virial", "features"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name).detach(), rtol=1e-9, atol=1e-10)
    assert fast.forces.abs().max() > 1e-3


def test_gradient_of_a_loss_on_forces(model, water, ethanol):
    """With respect to an entry of every parameter. Witness: finite differences of the loss.

    Control: the gradient of the energy's part alone is another one.
    """
    graph = collate([build(s, model.cutoff) for s in (water, ethanol)])
    torch.manual_seed(1)
    labels = torch.randn(graph.n_atoms, 3, dtype=torch.float64)

    def loss():
        made = predict(model, graph, ("energy", "forces", "virial"), create_graph=True)
        return (made.forces - labels).square().sum() + made.energy.square().sum() + made.virial.square().sum()

    parameters = dict(model.named_parameters())
    found = dict(zip(parameters, torch.autograd.grad(loss(), list(parameters.values())), strict=True))
    rng = np.random.default_rng(0)
    for name, parameter in parameters.items():
        flat, grad = parameter.data.view(-1), found[name].reshape(-1)
        k = int(rng.integers(len(flat)))
        start, step, ends = float(flat[k]), 1e-5, []
        for sign in (1, -1):
            flat[k] = start + sign * step
            ends.append(float(loss().detach()))
        flat[k] = start
        slope = (ends[0] - ends[1]) / (2 * step)
        assert abs(slope - float(grad[k])) < 1e-6 * max(1.0, abs(slope)), (name, k)
    weight = model.interactions[1].filter.layers[0].weight
    energy_only = torch.autograd.grad(predict(model, graph, create_graph=True).energy.square().sum(), weight)
    assert (energy_only[0] - found["interactions.1.filter.layers.0.weight"]).abs().max() > 1e-2


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


@pytest.mark.parametrize(
    "options", [{"n_features": 1}, {"n_layers": 0}, {"cutoff": 0.0}, {"n_filters": 0}, {"elements": ("Xx",)}]
)
def test_refuses_impossible_sizes(options):
    with pytest.raises(ConfigError):
        SchNet(**options)


def test_sharing_saves_parameters():
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(SchNet(n_features=8, shared_interactions=True)) < count(SchNet(n_features=8))
