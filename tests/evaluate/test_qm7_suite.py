"""The QM7 suite: its split, its baseline, its unit; energies of whole molecules only."""

import numpy as np
import pytest

from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.errors import ConfigError, DataError
from epot.evaluate import bench
from epot.evaluate.bench import Suite
from epot.units import KCAL_MOL

MODEL = {"name": "krr", "descriptor": {"name": "coulomb_matrix", "n_atoms_max": 4}, "kernel": "gaussian"}


@pytest.fixture
def folder(tmp_path):
    """Water at random geometries; the baseline is the energy but for a part that is easy to learn."""
    rng = np.random.default_rng(0)
    base = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    made = []
    for _ in range(60):
        p = base + 0.1 * rng.normal(size=(3, 3))
        r = np.linalg.norm(p[1:] - p[0], axis=1)
        energy = float(5 * np.cos(20 * r).sum())
        made.append(Structure(np.array([8, 1, 1]), p, energy=energy, info={"low": energy - float(r.sum())}))
    Dataset(made).write(tmp_path / "all.xyz")
    return tmp_path


def suite(**changes):
    rows = {"a row": {"values": {"test": {"energy": 1e6}}, "source": "nowhere"}}
    common = {"cut": 40, "unit": "kcal/mol", "rows": lambda: rows}
    return Suite("toy", "Toy", "all.xyz", {"test": "all.xyz"}, "mae", 0, **(common | changes))


def test_the_split_is_that_of_the_readme(folder):
    """Witness: `numpy.random.default_rng(0).permutation(n)`, the first to train, the rest to test."""
    whole = bench._open(folder, "all.xyz")
    order = np.random.default_rng(0).permutation(60)
    train, valid = bench.split(suite(), folder)
    test = bench._test(suite(), folder, "all.xyz")
    assert sorted(s.energy for s in train) == sorted(whole[int(k)].energy for k in order[:40])
    assert sorted(s.energy for s in test) == sorted(whole[int(k)].energy for k in order[40:])
    assert len(valid) == 0
    few, _ = bench.split(suite(), folder, n_train=10)
    assert sorted(s.energy for s in few) == sorted(whole[int(k)].energy for k in order[:10])


def test_it_runs_and_prints(folder):
    result = bench.run(suite(), MODEL, folder)
    assert result["units"]["energy"] == "kcal/mol"
    assert (result["n_train"], result["n_valid"]) == (40, 0)
    text = bench.table(result)
    assert "kcal/mol" in text
    assert "a row" in text
    assert "forces" not in result["metrics"]["test"]
    delta = bench.run(suite(baseline="low"), MODEL, folder)
    assert delta["metrics"]["test"]["energy"] < 0.2 * result["metrics"]["test"]["energy"]
    meV = bench.run(suite(unit="meV"), MODEL, folder)["metrics"]["test"]["energy"]  # noqa: N806
    assert meV == pytest.approx(1000 * KCAL_MOL * result["metrics"]["test"]["energy"], rel=1e-3)


def test_bad_input(folder):
    with pytest.raises(DataError, match="high"):
        bench.run(suite(baseline="high"), MODEL, folder)
    with pytest.raises(ConfigError, match="n_train"):
        bench.split(suite(), folder, n_train=0)


def test_the_registered_suites():
    assert bench.get("qm7").cut == 5681
    rows = bench.get("qm7/delta").rows()
    assert rows["sorted Laplace 5681"]["values"]["test"]["energy"] == 3.43
