"""MACE: features turn with the atoms, bodies are counted, kernels and torch agree, every kind of block passes checks.

Its numbers beside mace-torch's: tests/interchange/test_mace_files.py.
"""

import copy

import numpy as np
import pytest
import torch
from ase.build import molecule

from epot import modelfile, native, testing
from epot.blocks.equivariant import wigner_d
from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.errors import ConfigError, UnknownElementError
from epot.fit.recipe import FitState
from epot.fit.stages.scaling import FitScaling, factors
from epot.geometry.graph import build
from epot.models.mace import MACE
from epot.potential import Sum, make
from epot.predict import predict

SMALL = {"elements": (1, 6, 8), "n_channels": 4, "max_ell": 2, "n_radial": 4, "radial_mlp": (8,), "n_readout": 4}


def model(seed=0, **options):
    torch.manual_seed(seed)
    made = MACE(**SMALL | {"cutoff": 3.5} | options).double()
    for interaction in made.interactions:
        interaction.neighbors.factor.fill_(4.0)
    return made


def skew(n=5, seed=2):
    rng = np.random.default_rng(seed)
    cell = np.array([[3.6, 0.0, 0.0], [0.8, 3.9, 0.0], [-0.5, 0.7, 4.2]])
    grid = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.25, 0.3, 0.3]])[:n]
    positions = (grid + 0.05 * rng.normal(size=grid.shape)) @ cell
    return Structure(np.array([6, 1, 8, 1, 6])[:n], positions, cell, (True,) * 3)


def features(potential, structure):
    """Of each layer, ``h[l]`` in the order of the atoms."""
    seen = []
    hooks = [p.register_forward_hook(lambda _m, _a, made: seen.append(made)) for p in potential.products]
    with torch.no_grad():
        _, sites = potential.atoms(build(structure, potential.cutoff))
    for hook in hooks:
        hook.remove()
    return [[x.index_select(0, sites.place) for x in layer] for layer in seen]


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("compiled", ["0", "1"])
def test_features_turn_with_the_atoms(inverted, compiled, monkeypatch):
    """Witness: Wigner's D matrices, parity (-1)^l. Control: those of another rotation."""
    monkeypatch.setenv("EPOT_NATIVE", compiled)
    random = np.random.default_rng(5)
    q = np.linalg.qr(random.normal(size=(3, 3)))[0]
    q *= np.sign(np.linalg.det(q)) * (-1 if inverted else 1)
    potential, s = model(max_l=2, max_ell=3, n_layers=3), skew()
    turned = Structure(s.numbers, s.positions @ q.T, s.cell @ q.T, (True,) * 3)
    before, after = features(potential, s), features(potential, turned)
    assert [len(layer) for layer in before] == [3, 3, 1]
    for old, new in zip(before, after, strict=True):
        for degree, (x, y) in enumerate(zip(old, new, strict=True)):
            d = wigner_d(degree, torch.from_numpy(q))
            scale = float(x.abs().max())
            assert scale > 1e-4
            assert float((torch.einsum("mn,anc->amc", d, x) - y).abs().max()) < 1e-10 * max(scale, 1)
            if degree:
                assert float((x - y).abs().max()) > 1e-3 * scale


def ring(steps):
    """A center with four neighbors on a circle; Pozdnyakov et al., PRL 125, 166001 (2020): pairs of bodies agree."""
    angles = 2 * np.pi * np.array(steps) / 8
    around = 1.2 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    return Structure(np.array([6, 1, 1, 1, 1]), np.concatenate([np.zeros((1, 3)), around]))


@pytest.mark.parametrize("correlation", [1, 2, 3, 4])
def test_degenerate_rings(correlation):
    """Told apart by four bodies in one message, not by three."""
    potential = model(n_layers=1, correlation=correlation, max_ell=3)
    a, b = (features(potential, ring(steps))[0][0][0] for steps in ((0, 1, 3, 4), (0, 1, 2, 5)))
    different = float((a - b).abs().max() / a.abs().max())
    assert different > 1e-6 if correlation > 2 else different < 1e-12


VARIANTS = {
    "default": {},
    "agnostic first": {"interaction_first": "agnostic", "distance_transform": "soft", "max_l": 0},
    "density": {"interaction_first": "density", "interaction": "density_residual", "distance_transform": "agnesi"},
    "nonlinear": {"interaction_first": "nonlinear", "interaction": "nonlinear", "cutoff_on_radial": False},
    "agnostic": {"interaction": "agnostic", "agnostic_product": True, "radial": "chebyshev", "cutoff_on_radial": False},
    "wide": {"n_edge_channels": 3, "deep_readout": True, "last_readout_only": True, "radial": "gaussian"},
    "normed": {"feature_norm": True, "max_l": 1},
    "one layer": {"n_layers": 1, "correlation": [4], "max_l": 1, "reduced_couplings": False},
}


@pytest.mark.parametrize(
    ("name", "compiled"), [*((name, "1") for name in VARIANTS), ("default", "0"), ("density", "0"), ("nonlinear", "0")]
)
def test_variants_pass_checks(name, compiled, monkeypatch):
    """The others of torch are those of the kernels by the next test."""
    monkeypatch.setenv("EPOT_NATIVE", compiled)
    only = [
        "forces",
        "stress",
        "double_backward",
        "rotation",
        "inversion",
        "cutoff",
        "batch",
        "few_atoms",
        "pair_order",
    ]
    testing.check_potential(model(**VARIANTS[name]).float(), only=only)


@pytest.mark.skipif(native.library("messages") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("name", VARIANTS)
def test_kernels_change_nothing(name, monkeypatch):
    """Energies, forces and stress; also those that training uses."""
    potential = model(**VARIANTS[name])
    graph = build(skew(), potential.cutoff)
    found = []
    for compiled in ("0", "1"):
        monkeypatch.setenv("EPOT_NATIVE", compiled)
        found.append(predict(potential, graph, ("forces", "stress")))
        trained = predict(potential, graph, ("forces", "stress"), create_graph=True)
        for a, b in zip(found[-1][:3], trained[:3], strict=True):
            torch.testing.assert_close(
                a, b.detach(), atol=1e-8 * max(1.0, float(trained.energy.detach().abs())), rtol=0
            )
    one, other = found
    size = max(1.0, float(one.energy.abs()))
    assert float((one.energy - other.energy).abs()) < 1e-9 * size
    assert float((one.forces - other.forces).abs().max()) < 1e-7 * size
    assert float((one.stress - other.stress).abs().max()) < 1e-8 * size
    assert float(one.forces.abs().max()) > 1e-3


@pytest.mark.parametrize("compiled", ["0", "1"])
@pytest.mark.parametrize("name", ["density", "nonlinear"])
def test_a_batch_has_tables_of_pairs_that_may_meet_alone(name, compiled, monkeypatch):
    """CH4, O2, HO and C alone: 4 + 1 + 3 of 9 kinds of pairs, and each predicted as it is alone, trained or not."""
    monkeypatch.setenv("EPOT_NATIVE", compiled)
    potential = model(**VARIANTS[name])
    batch = [Structure.from_ase(molecule(n)) for n in ("CH4", "O2", "OH", "C")]
    graph = build(batch, potential.cutoff)
    with torch.no_grad():
        assert potential._surroundings(graph)[0].knots.n_kinds == 7
        assert potential._surroundings(build(batch[0], potential.cutoff))[0].knots.n_kinds == 4
        mixed = Structure.from_ase(molecule("CH3OH"))
        assert potential._surroundings(build([mixed, batch[1]], potential.cutoff))[0].knots.n_kinds == 9
    for history in (False, True):
        together = predict(potential, graph, ("forces", "virial"), create_graph=history)
        alone = [predict(potential, build(s, potential.cutoff), ("forces", "virial")) for s in batch]
        for k in range(3):
            expected = torch.cat([each[(0, 2, 4)[k]] for each in alone])
            torch.testing.assert_close(together[(0, 2, 4)[k]].detach(), expected, atol=1e-7, rtol=0)
    assert float(together.forces.detach().abs().max()) > 1e-2


def test_images_are_counted():
    """A cutoff longer than the cell against a supercell; forces too. Control: a shorter cutoff."""
    potential, s = model(cutoff=4.5), skew(3)
    assert potential.cutoff > np.linalg.norm(s.cell, axis=1).min()
    large = s.to_ase() * (2, 2, 3)
    one = predict(potential, build(s, potential.cutoff), ("forces", "stress"))
    many = predict(potential, build(Structure.from_ase(large), potential.cutoff), ("forces", "stress"))
    assert abs(float(many.energy) - 12 * float(one.energy)) < 1e-9
    assert float((many.forces[:3] - one.forces).abs().max()) < 1e-9
    assert float((many.stress - one.stress).abs().max()) < 1e-10
    short = model(cutoff=2.2)
    assert abs(float(predict(short, build(s, 2.2)).energy) - float(one.energy)) > 1e-3


def test_single_precision():
    potential, s = model(n_channels=16, max_ell=3), Structure.from_ase(molecule("CH3CH2OH"))
    exact = predict(potential, build(s, 3.5)).forces
    rough = predict(copy.deepcopy(potential).float(), build(s, 3.5)).forces
    assert 0 < float((rough - exact).abs().max()) < 1e-4
    assert float(exact.abs().max()) > 1e-2


def test_potentials_of_other_elements_on_one_graph():
    """What the first of them kept with the graph is not that of the second."""
    s = Structure.from_ase(molecule("CH3CH2OH"))
    several = [model(elements=known) for known in ((1, 6, 8), (1, 3, 6, 7, 8), (1, 6, 8, 9))]
    graph = build(s, 3.5)
    together = [predict(p, graph).energy for p in several]
    alone = [predict(p, build(s, 3.5)).energy for p in several]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    summed = predict(Sum(a=several[0], b=several[1]), build(s, 3.5)).energy
    assert abs(float(summed - alone[0] - alone[1])) < 1e-9


def test_an_atom_alone():
    """No force. Without neighbors nothing is in an agnostic first layer; control: a residual one keeps the atom."""
    for z in (1, 6, 8):
        graph = build(Structure(np.array([z]), np.zeros((1, 3))), 3.5)
        found = predict(model(), graph)
        assert torch.isfinite(found.energy).all()
        assert not found.forces.any()
        assert float(predict(model(n_layers=1, interaction_first="agnostic"), graph).energy) == 0
        assert float(predict(model(n_layers=1), graph).energy) != 0


def test_mean_number_of_neighbors_is_set_once():
    """Witness: pairs over atoms of the data. What is set stays, in files too."""
    data = [Structure.from_ase(molecule(name)) for name in ("CH3CH2OH", "H2O", "CH4")]
    torch.manual_seed(0)
    potential = MACE(**SMALL, cutoff=2.0)
    graph = build(data, 2.0)
    before = predict(potential, graph).energy
    FitScaling().run(FitState(potential, Dataset(data)))
    expected = graph.n_pairs / graph.n_atoms
    values = [float(f.factor) for f in factors(potential).values()]
    assert values == pytest.approx([expected] * potential.n_layers, rel=1e-6)
    assert float((predict(potential, graph).energy - before).abs().max()) > 1e-4
    FitScaling().run(FitState(potential, Dataset(data[1:2])))
    assert [float(f.factor) for f in factors(potential).values()] == values


@pytest.mark.parametrize("name", VARIANTS)
def test_configuration_and_file(name, tmp_path):
    potential = model(**VARIANTS[name])
    again = make(potential.config())
    assert again.config() == potential.config()
    loaded, _ = modelfile.load(modelfile.save(tmp_path / "model.epot", potential))
    graph = build(skew(), potential.cutoff)
    assert torch.equal(predict(loaded, graph).forces, predict(potential, graph).forces)
    assert loaded.config() == potential.config()
    assert [float(f.factor) for f in factors(loaded).values()] == [4.0] * potential.n_layers


BAD = [
    ({"n_channels": 0}, "n_channels=0"),
    ({"cutoff": -1.0}, "cutoff"),
    ({"n_layers": 0}, "n_layers"),
    ({"max_l": 3, "max_ell": 2}, "max_l=3, max_ell=2"),
    ({"max_l": -1}, "max_l=-1"),
    ({"correlation": 5}, "correlation=5"),
    ({"correlation": [3]}, "2 layers"),
    ({"correlation": [3, 0]}, "correlation"),
    ({"radial_mlp": ()}, "radial_mlp"),
    ({"n_edge_channels": 0}, "n_edge_channels=0"),
    ({"interaction": "nonlinear"}, "cutoff_on_radial=False"),
]


@pytest.mark.parametrize(("options", "text"), BAD, ids=str)
def test_bad_arguments_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        MACE(**SMALL | options)


def test_an_unknown_element_is_named():
    with pytest.raises(UnknownElementError, match="N"):
        predict(model(), build(Structure.from_ase(molecule("NH3")), 3.5))
