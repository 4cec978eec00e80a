"""Benchmarks by name on made-up data in the layout of the real ones, and the published rows."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from epot.data.dataset import Dataset
from epot.errors import ConfigError, DataError
from epot.evaluate import bench
from epot.fitted import Fitted
from linear_toy import dataset, radial


@pytest.fixture
def suite(tmp_path):
    """Forty structures to fit, ten to test."""
    (tmp_path / "toy").mkdir()
    data = dataset(radial(), 50, 1)
    Dataset([s.replace(stress=None) for s in data[:40]]).write(tmp_path / "toy/train.xyz.gz")
    Dataset([s.replace(stress=None) for s in data[40:]]).write(tmp_path / "toy/test.xyz")
    return bench.Suite(
        name="toy",
        title="toy",
        train="toy/train.xyz.gz",
        tests={"near": "toy/test.xyz"},
        metric="rmse",
        n_valid=5,
        rows=lambda: {
            "hard": {"source": "from memory", "values": {"near": {"energy": None, "forces": 0.0}}},
            "easy": {"source": "a paper", "values": {"near": {"energy": 1e9, "forces": 1e9}}},
        },
        notes=("a note",),
    )


def test_a_suite_says_how_many_to_fit_to_unless_the_user_does(suite, tmp_path):
    few = dataclasses.replace(suite, n_train=12)
    for wanted, n in ((None, 12), (20, 20)):
        model = {"name": "gap", "cutoff": 3.5, "n_max": 3, "l_max": 2, "n_sparse": 12}
        found = bench.run(few, model, tmp_path, n_train=wanted)
        assert found["n_train"] == n


def test_published_rows_are_those_of_the_source(shared_data):
    """Witness: the table that was read from the papers."""
    source = json.loads((shared_data / "published_results.json").read_text())
    rows = bench.get("3bpa").rows()
    assert rows["MACE L2"]["values"]["1200K"] == {"energy": 29.8, "forces": 62.0}
    for part in ("read", "from_memory"):
        for name, row in source["3bpa"][part].items():
            found = rows[name.replace("_", " ")]
            assert ("from memory" in found["source"]) == (part == "from_memory")
            for test in ("300K", "600K", "1200K"):
                assert list(found["values"][test].values()) == row[test]
    for molecule in ("aspirin", "ethanol", "malonaldehyde", "toluene"):
        found, few = (bench.get(f"rmd17/{molecule}{end}").rows() for end in ("", "/50"))
        for k, column in enumerate(source["rmd17"]["columns"]):
            row = few[column[:-4]] if column.endswith("_N50") else found[column.rstrip("*")]
            assert row["values"]["test"]["energy"] == source["rmd17"]["energy"][molecule][k]
            assert row["values"]["test"]["forces"] == source["rmd17"]["force"][molecule][k]
            assert ("original MD17" in row["source"]) == column.endswith("*")
    for element, k in (("Li", 2), ("Mo", 3), ("Si", 4), ("Ge", 5)):
        for name, row in bench.get(f"mlearn/{element}").rows().items():
            assert row["values"]["test"]["energy"] == source["mlearn"]["energy"][name][k]
            assert row["values"]["test"]["forces"] == pytest.approx(1000 * source["mlearn"]["force"][name][k])


def test_the_files_of_every_suite_are_there(shared_data):
    for suite in bench.suites().values():
        for name in (suite.train, *suite.tests.values()):
            assert (shared_data / name).is_file(), name


def test_splits_do_not_touch_and_repeat(suite, tmp_path):
    train, valid = bench.split(suite, tmp_path)
    assert (len(train), len(valid)) == (35, 5)
    assert not set(train.indices) & set(valid.indices)
    again = bench.split(suite, tmp_path, n_train=10)
    assert list(again[1].indices) == list(valid.indices)
    assert set(again[0].indices) < set(train.indices)
    assert list(bench.split(suite, tmp_path, seed=1)[1].indices) != list(valid.indices)


def test_a_whole_run_and_its_json(suite, tmp_path):
    model = {"name": "gap", "cutoff": 3.5, "n_max": 3, "l_max": 2, "n_sparse": 12}
    folder = tmp_path / "run"
    found = bench.run(suite, model, tmp_path, n_train=12, folder=folder, command="epot bench toy")
    assert {"suite", "model", "metrics", "published", "beats_published", "seconds", "command", "seed"} <= set(found)
    assert json.loads((folder / bench.RESULT).read_text()) == found
    assert found["beats_published"] == {
        "hard": {"near": {"forces": False}},
        "easy": {"near": {"energy": True, "forces": True}},
    }
    fitted = Fitted.load(folder / "model.epot")
    errors = fitted.evaluate(bench.read(tmp_path / "toy/test.xyz"))
    assert found["metrics"]["near"]["forces"] == pytest.approx(errors.all["forces"]["rmse"], abs=1e-3)
    assert found["metrics"]["near"]["energy"] == pytest.approx(errors.all["energy"]["rmse"], abs=1e-3)
    text = bench.table(found)
    assert "a note" in text
    assert "Below in every number: easy." in text
    assert "From memory, check before quoting: hard." in text
    again = bench.run(suite, model, tmp_path, n_train=12, folder=folder)  # resumes: nothing is fitted anew
    assert again["metrics"] == found["metrics"]


def test_bad_names_and_missing_files(suite, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'rmd17/ethanol'"):
        bench.get("rmd17/ethanl")
    with pytest.raises(DataError, match="--data is the directory"):
        bench.split(suite, Path("/nowhere"))
    with pytest.raises(ConfigError, match="at least one"):
        bench.split(suite, tmp_path, n_train=0)
    with pytest.raises(ConfigError, match="no single atoms"):
        bench.split(suite, tmp_path, isolated=True)


def test_beats_compares_what_both_have():
    ours = {"a": {"energy": 1.0, "forces": 2.0}, "b": {"energy": 1.0}}
    row = {"a": {"energy": 1.0, "forces": 2.1}, "c": {"energy": 5.0}}
    assert bench.beats(ours, row) == {"a": {"energy": False, "forces": True}}
    assert np.isfinite(len(bench.suites()))
