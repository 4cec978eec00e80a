import json

import pytest
from typer.testing import CliRunner

from epot import modelfile
from epot.cli import main
from epot.cli.fit import _seconds
from epot.errors import ConfigError

SMALL = ["--model", "painn", "model.n_features=4", "model.n_layers=1", "model.n_radial=4", "model.cutoff=3.5"]


@pytest.fixture
def train(tmp_path, molecules):
    import ase.io

    path = tmp_path / "train.xyz"
    ase.io.write(path, [s.to_ase() for s in molecules(20)])
    return path


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("EPOT_PROGRESS", "0")
    monkeypatch.chdir(tmp_path)
    main.app.registered_commands.clear()
    main.app.registered_groups.clear()
    main._register()

    def invoke(*words):
        return CliRunner().invoke(main.app, ["fit", *map(str, words)])

    return invoke


def test_fit_from_a_file_and_from_the_configuration_it_leaves(run, train, tmp_path):
    words = [train, *SMALL, "--epochs", "2", "--out", tmp_path / "run", "--seed", "3", "stages=[offsets, descend]"]
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["errors"]["train"]["n"] == 18
    assert printed["errors"]["valid"]["forces_rmse"] > 0
    potential, about = modelfile.load(printed["model"])
    assert potential.cutoff == 3.5
    assert about["fit"]["seed"] == 3
    again = run(*words)  # resumes: says the same, in words
    assert again.exit_code == 0, again.output
    assert "epot md" in again.output
    assert f"{1000 * printed['errors']['valid']['forces_rmse']:.2f}" in again.output
    second = run(tmp_path / "run" / "config.yaml", "--out", tmp_path / "second", "--json")
    assert second.exit_code == 0, second.output
    assert json.loads(second.stdout)["errors"] == printed["errors"]


def test_another_setting_on_the_folder_and_wrong_words_are_errors(run, train, tmp_path):
    words = [train, *SMALL, "--epochs", "1", "--out", tmp_path / "run", "stages=[offsets, descend]"]
    assert run(*words).exit_code == 0
    changed = run(*words, "descend.ema=0.5")
    assert changed.exit_code != 0
    assert "ema" in str(changed.exception)
    assert "did you mean 'n_features'" in str(run(train, *SMALL, "model.n_feature=3").exception)
    assert "--model" in str(run(train).exception)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0)])
def test_times(text, seconds):
    assert _seconds(text) == seconds


def test_a_wrong_time():
    with pytest.raises(ConfigError, match="10m"):
        _seconds("soon")
