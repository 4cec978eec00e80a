"""A fit that starts from a model file: what was learned is kept, energies per element are corrected."""

import json

import numpy as np
import pytest
import torch
import yaml
from toy_data import molecules
from typer.testing import CliRunner

from epot import modelfile
from epot.cli import main
from epot.data.dataset import Dataset
from epot.data.writers import write
from epot.errors import ConfigError, ModelFileError
from epot.fit import config
from epot.fit.run import fit
from epot.fitted import Fitted
from epot.potential import Sum

PAINN = {"name": "painn", "n_features": 8, "n_layers": 1, "n_radial": 5, "cutoff": 3.5}
SHIFT = {1: -2.5, 8: 40.0}  # eV, of another level of theory


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """Fitted to many molecules of the Morse potential."""
    path = tmp_path_factory.mktemp("before") / "model.epot"
    state = fit(PAINN, molecules(120), stages=["offsets", {"stage": "descend", "epochs": 100}, "posterior"], seed=1)
    modelfile.save(path, state.potential, state.about)
    return path


def other_theory(n=8):
    """Few molecules, labels of a slightly different potential and other energies per element."""
    shifted = []
    for s in molecules(n, seed=5):
        energy = 1.1 * (s.energy + np.where(s.numbers == 1, 3.0, 7.0).sum())
        shifted.append(s.replace(energy=energy + sum(SHIFT[int(z)] for z in s.numbers), forces=1.1 * s.forces))
    return Dataset(shifted)


def errors(state, data):
    return Fitted(state.potential).evaluate(data)


def test_what_was_learned_is_the_start(before):
    """Witness: the same few structures without the file give far larger errors; energies per element are corrected.

    The correction is of the energies that the potential as it is leaves, so that it is right before the first step.
    """
    data, test = other_theory(), other_theory(40)[20:]
    tuned = fit(before, data, options={"descend": {"epochs": 60}}, holdout=0.25)
    assert [s["stage"] for s in tuned.about["fit"]["stages"]] == ["FitOffsets", "Descend", "Posterior", "Calibrate"]
    scratch = fit(PAINN, data, options={"descend": {"epochs": 60}}, holdout=0.25)
    rmse = [errors(s, test).all["forces"]["rmse"] for s in (tuned, scratch)]
    assert rmse[0] < 0.3 * rmse[1]
    assert errors(tuned, test).all["energy_per_atom"]["rmse"] < 500  # meV
    assert tuned.about["fit"]["offsets"]["method"] == "correct"


def test_correction_leaves_all_weights_alone(before):
    old, _ = modelfile.load(before)
    made = fit(before, other_theory(), stages=[{"stage": "offsets", "method": "correct"}], holdout=0.0).potential
    for name, value in old.state_dict().items():
        new = made.state_dict()[name]
        if name.endswith("member_weights"):
            assert (value.shape[1], new.shape[1]) == (16, 0)  # samples of the fit before mean nothing now
        elif name != "terms.offset.energies":
            assert torch.equal(value, new), name
    change = (made.terms["offset"].energies - old.terms["offset"].energies)[[6, 7]]
    assert change.tolist() == [0.0, 0.0]
    per_atom = [Fitted(p).evaluate(other_theory(40)).all["energy_per_atom"]["rmse"] for p in (old, made)]
    assert per_atom[0] > 5000  # meV
    assert per_atom[1] < 600


def test_the_command_starts_from_a_file(before, tmp_path):
    main.app.registered_commands.clear()
    main.app.registered_groups.clear()
    main._register()
    run = lambda *words: CliRunner().invoke(main.app, ["fit", *map(str, words)])  # noqa: E731
    write(other_theory(), tmp_path / "train.xyz")
    words = ("--model", before, "--epochs", 2, "--out", tmp_path / "run", "--json")
    made = run(tmp_path / "train.xyz", *words)
    assert made.exit_code == 0, made.output
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["start"] == str(before)
    first = json.loads(made.output.splitlines()[-1])
    again = run(tmp_path / "run" / "config.yaml", "--out", tmp_path / "again", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.output.splitlines()[-1])["errors"] == first["errors"]


def test_files_that_are_no_model_files(tmp_path):
    with pytest.raises(ModelFileError, match="no model file"):
        fit(tmp_path / "none.epot", other_theory())
    with pytest.raises(ConfigError, match="epot import"):
        config.build_potential(tmp_path / "mace.model", [1, 8])
    assert isinstance(config.build_potential("painn", [1, 8]), Sum)
