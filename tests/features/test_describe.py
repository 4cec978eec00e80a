"""Descriptors by themselves: rows, columns, gradients, limits; by function and by command."""

import json

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.io import write
from typer.testing import CliRunner

from epot import features, registry
from epot.cli.main import _register, app
from epot.data.structure import Structure
from epot.errors import ConfigError, DataError, UnknownElementError
from epot.features.describe import describe
from epot.features.descriptor import make, registered
from epot.geometry.graph import build

MOLECULES = [molecule("CH3CH2OH"), molecule("H2O")]


def test_rows_and_labels():
    found = features.soap(MOLECULES, cutoff=4.0, n_max=3, l_max=2)
    assert found.values.shape == (12, len(found.columns))
    assert found.structure.tolist() == [0] * 9 + [1] * 3
    assert found.atom.tolist() == [*range(9), *range(3)]
    assert isinstance(found.values, np.ndarray)
    tensors = describe({"name": "soap", "cutoff": 4.0, "n_max": 3, "l_max": 2}, MOLECULES, output="torch")
    assert torch.equal(tensors.values, torch.from_numpy(found.values))


def test_gradients_are_those_of_differences():
    """Witness: central differences by the positions, in a crystal whose atoms meet their own images."""
    atoms = bulk("NaCl", "rocksalt", a=4.2)
    atoms.rattle(0.1, seed=1)
    found = features.soap(atoms, cutoff=5.0, n_max=3, l_max=2, gradients=True)
    i, j = found.pairs
    by_position = np.zeros((2, 2, 3, found.values.shape[1]))  # row, atom, axis
    np.add.at(by_position, (i, j), found.gradients)
    np.add.at(by_position, (i, i), -found.gradients)
    h = 1e-4
    for atom in range(2):
        for axis in range(3):
            moved = []
            for sign in (1, -1):
                copy = atoms.copy()
                copy.positions[atom, axis] += sign * h
                moved.append(features.soap(copy, cutoff=5.0, n_max=3, l_max=2).values)
            witness = (moved[0] - moved[1]) / (2 * h)
            assert by_position[:, atom, axis] == pytest.approx(witness, abs=2e-8)


@pytest.mark.parametrize("name", registered())
def test_every_descriptor(name):
    """Columns, configuration, and both ways to the derivatives: closed form and autograd."""
    kind = registry.get(name)
    tiny = kind.tiny()
    assert registry.name_of(kind) == name
    config = json.loads(json.dumps(tiny.config()))
    again = make(config, (1,))
    assert again.config() == tiny.config()
    atoms = MOLECULES[0] if set(MOLECULES[0].numbers) <= set(tiny.elements) else None
    structure = Structure.from_ase(atoms) if atoms else None
    assert structure is not None, "tiny() should know H, C and O"
    structure = structure.replace(cell=np.diag([7.0, 8.0, 9.0]), pbc=True) if name == "sine_matrix" else structure
    graph = build(structure, tiny.cutoff)
    rows = tiny(graph)
    assert rows.shape == (1 if tiny.whole else 9, tiny.size)
    assert len(tiny.columns()) == tiny.size
    assert len(set(tiny.columns())) == tiny.size
    closed = tiny.jacobian(graph)
    general = by_column(tiny, graph)
    scale = max(1.0, float(general.abs().max()))
    assert torch.allclose(closed, general, atol=1e-10 * scale)
    assert torch.isfinite(tiny(build(Structure(np.array([6]), np.zeros((1, 3)), **_box(name)), tiny.cutoff))).all()
    single = tiny.float()(graph)
    assert torch.allclose(single.double(), rows, atol=2e-4 * float(rows.abs().max()))


def by_column(descriptor, graph):
    """Witness: autograd, one column at a time."""
    leaf = (graph.positions if descriptor.whole else graph.vectors()).detach().clone().requires_grad_()
    total = descriptor(graph.replace(**{"positions" if descriptor.whole else "_vectors": leaf})).sum(0)
    rows = [torch.autograd.grad(t, leaf, retain_graph=True)[0] for t in total]
    return torch.stack(rows, 2)


def _box(name):
    return {"cell": np.diag([7.0, 8.0, 9.0]), "pbc": True} if name == "sine_matrix" else {}


def test_what_is_too_large_is_refused_before_it_is_made():
    with pytest.raises(DataError, match="GiB"):
        features.soap(MOLECULES, memory=1000)
    with pytest.raises(DataError, match="Gradients of 12 rows"):
        features.soap(MOLECULES, memory=30_000, n_max=3, l_max=2, gradients=True)


def test_bad_input():
    with pytest.raises(DataError, match="no structure"):
        features.soap([])
    with pytest.raises(ConfigError, match="did you mean"):
        features.soap(MOLECULES, cutof=4.0)
    with pytest.raises(ConfigError, match="'numpy' or 'torch'"):
        features.soap(MOLECULES, output="jax")
    with pytest.raises(UnknownElementError):
        features.soap(MOLECULES, elements=["H", "O"])
    with pytest.raises(AttributeError, match="nonsense"):
        _ = features.nonsense
    assert "soap" in dir(features)


def test_the_command(tmp_path):
    _register()
    write(tmp_path / "in.xyz", MOLECULES)
    words = ["describe", str(tmp_path / "in.xyz"), str(tmp_path / "out.npz"), "--setting", "l_max=2", "--json"]
    done = CliRunner().invoke(app, [*words, "--setting", "n_max=3"], catch_exceptions=False)
    facts = json.loads(done.stdout)
    found = np.load(tmp_path / "out.npz")
    assert found["values"].shape == (12, facts["size"])
    assert len(found["columns"]) == facts["size"]
    listed = json.loads(CliRunner().invoke(app, ["describe", "--list", "--json"]).stdout)
    assert sorted(listed) == registered()
