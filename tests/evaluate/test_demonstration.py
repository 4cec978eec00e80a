"""The demonstration of what symmetry is worth, with tiny settings."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from epot.data.dataset import Dataset
from epot.errors import ConfigError, DataError
from epot.evaluate import demonstration
from epot.potential import Output, Potential


@pytest.fixture(scope="module")
def result():
    with pytest.MonkeyPatch.context() as patch:
        every = demonstration.models
        wanted = ("network, coordinates", "network, sorted distances", "network, symmetry functions of atoms")
        patch.setattr(demonstration, "GRID", 60)
        patch.setattr(demonstration, "MORE", 1)
        patch.setattr(demonstration, "models", lambda *a: {k: v for k, v in every(*a).items() if k in wanted})
        return demonstration.symmetry(n_train=10, n_test=3, epochs=2)


def test_only_coordinates_break(result):
    """Invariant descriptions depart by rounding; coordinates by more than 1 meV under each change (control)."""
    for name, row in result["models"].items():
        for change, value in row["breaking"].items():
            assert value > 1.0 if "coordinates" in name else value < 1e-6, (name, change)


def test_sorting_has_kinks_and_symmetry_functions_have_none(result):
    kinks = {name: row["kink"] for name, row in result["models"].items()}
    assert kinks["network, sorted distances"] > 1e-4
    assert kinks["network, symmetry functions of atoms"] < 1e-7
    assert kinks["network, coordinates"] < 1e-7


def test_table_picture_and_json(result, tmp_path):
    text = demonstration.table(result)
    assert "renumbered" in text
    assert "kink" in text
    assert json.loads(json.dumps(result))["n_train"] == 10
    path = demonstration.picture(result, tmp_path / "new" / "a.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ConfigError, match="drawn"):
        demonstration.picture(result, tmp_path / "a.nothing")


def test_the_data_are_what_they_say():
    """Vibrations in one orientation: no net motion, with energies that spread as classical ones do."""
    made = demonstration.vibrating(40, seed=0)
    assert all(np.abs(np.asarray(s.forces).sum(0)).max() < 1e-10 for s in made)
    energies = np.array([s.energy for s in made])
    assert energies.std() == pytest.approx(np.sqrt(21 / 2) * 8.617e-5 * 500, rel=0.5)


def test_changes_keep_what_they_should():
    structures = demonstration.vibrating(3, seed=1)
    sets = demonstration.changed(structures, 0)
    distances = lambda s: np.sort(np.linalg.norm(s.positions[:, None] - s.positions, axis=2).ravel())  # noqa: E731
    for name in demonstration.CHANGES:
        for a, b in zip(structures, sets[name], strict=True):
            np.testing.assert_allclose(distances(a), distances(b), atol=1e-12)
            assert (a.numbers == b.numbers).all()
            moved = not np.allclose(a.positions, b.positions)
            assert moved == (name != "unchanged")


def test_a_kink_is_measured(monkeypatch):
    """Witness: the largest of two C-H distances has a slope that jumps by 1 where they are equal."""
    monkeypatch.setattr(demonstration, "GRID", 60)
    structure = demonstration.vibrating(1, seed=0)[0]
    hydrogen, anchor = demonstration._bond(structure)
    other = next(k for k in demonstration.perceive(structure).neighbors()[anchor] if k != hydrogen and k > 2)

    class Longest(Potential):
        cutoff = 0.0

        def forward(self, graph):
            x = graph.positions.view(graph.n_structures, -1, 3)
            r = (x[:, [hydrogen, other]] - x[:, [anchor]]).square().sum(2).sqrt()
            energy = r.amax(1) if self.sharp else r.square().sum(1)
            each = energy[:, None].expand(-1, x.shape[1]) / x.shape[1]
            return Output(each.flatten())

    for sharp, jump in ((True, 1.0), (False, 0.0)):
        potential = Longest()
        potential.sharp = sharp
        assert demonstration.kink(potential, structure)[2] == pytest.approx(jump, abs=1e-6)


def test_bad_input(tmp_path):
    with pytest.raises(ConfigError, match="10"):
        demonstration.symmetry(n_train=5)
    made = demonstration.vibrating(12, seed=0)
    Dataset(made).write(tmp_path / "few.xyz")
    with pytest.raises(DataError, match="holds 12"):
        demonstration.symmetry(tmp_path / "few.xyz", n_train=10, n_test=5)
    Dataset([*made[:-1], made[-1].replace(forces=None)]).write(tmp_path / "bare.xyz")
    with pytest.raises(DataError, match="lack"):
        demonstration.symmetry(tmp_path / "bare.xyz", n_train=10, n_test=2)


def test_command(monkeypatch):
    import typer

    from epot.cli.demo import demo

    app = typer.Typer()
    app.command()(demo)
    given = {}
    fake = {
        "models": {},
        "molecule": "C2H6O",
        "data": "",
        "n_train": 10,
        "n_test": 1,
        "n_energies": 50,
        "energy_spread_meV": 1.0,
    }
    monkeypatch.setattr(demonstration, "symmetry", lambda data, **k: given.update(k) or fake)
    found = CliRunner().invoke(app, ["symmetry", "--n-train", "10", "--epochs", "2", "--json"])
    assert found.exit_code == 0
    assert json.loads(found.stdout)["molecule"] == "C2H6O"
    assert given["epochs"] == 2
