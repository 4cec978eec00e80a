"""NeuralIL's published parameters.

Witnesses: the errors of the original on the public validation frames (README of the reference data); hostile files.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest

from epot.data.readers import read
from epot.errors import ConfigError, ModelFileError
from epot.geometry.graph import build
from epot.interchange import neuralil
from epot.predict import predict


@pytest.fixture(scope="module")
def published(shared_data):
    folder = shared_data / "oracles" / "neuralil"
    if not folder.is_dir():
        pytest.skip("the reference data has no NeuralIL parameters")
    return folder / "model_params_neuralil_OPTAX_2B25114.pickle", folder / "ean_validation.xyz.gz"


@pytest.mark.shared
def test_published_ionic_liquid(published):
    """Every fifth frame: force MAE 0.0596, RMSE 0.0888 eV/Å; energies but for an offset to 1-3 meV/atom."""
    parameters, frames = published
    assert neuralil.matches(parameters)
    potential = neuralil.load(parameters)
    assert (potential.core, potential.morse, potential.outlet) == ("dense", "repulsive", "swish")
    errors, offsets = [], []
    for structure in read(frames)[::5]:
        made = predict(potential, build(structure, potential.cutoff))
        errors.append(made.forces.numpy() - structure.forces)
        offsets.append((float(made.energy) - structure.energy) / len(structure))
    error = np.concatenate(errors)
    assert np.abs(error).mean() == pytest.approx(0.0596, abs=5e-5)
    assert np.sqrt((error**2).mean()) == pytest.approx(0.0888, abs=5e-5)
    assert 1e-4 < np.std(offsets) < 3e-3
    assert np.ptp(offsets) < 6e-3
    assert abs(np.mean(offsets) * 225) == pytest.approx(254.25, abs=1.0)


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("/tmp/never"),)


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return eval, (f"open({str(self.target)!r}, 'w')",)


def test_a_hostile_file_is_refused_and_nothing_runs(tmp_path):
    trace = tmp_path / "trace"
    for bad in (Evil(trace), Hostile(), {"params": Evil(trace)}):
        file = tmp_path / "bad.pickle"
        file.write_bytes(pickle.dumps(bad))
        with pytest.raises(ModelFileError, match="never do"):
            neuralil.load(file)
        assert not trace.exists()
    pickle.loads((tmp_path / "bad.pickle").read_bytes())["params"].close()  # a control: an open unpickler runs it
    assert trace.exists()


def test_objects_in_arrays_are_refused(tmp_path):
    file = tmp_path / "objects.pickle"
    file.write_bytes(pickle.dumps(np.array([{"a": 1}], dtype=object)))
    with pytest.raises(ModelFileError, match="plain numbers|floating"):
        neuralil.load(file)


def test_other_files(tmp_path):
    other = tmp_path / "other.pickle"
    other.write_bytes(pickle.dumps({"weights": np.zeros(3)}))
    assert not neuralil.matches(other)
    assert not neuralil.matches(tmp_path / "none")
    with pytest.raises(ModelFileError, match="expected a NeuralILModelInfo"):
        neuralil.load(other)
    other.write_bytes(b"\x80\x05 not a pickle")
    with pytest.raises(ModelFileError, match="cannot be read|can be read"):
        neuralil.load(other)
    with pytest.raises(ModelFileError, match="no file"):
        neuralil.load(tmp_path / "none")
    with pytest.raises(ConfigError, match="no options"):
        neuralil.load(other, units="eV")


@pytest.mark.shared
def test_a_damaged_file_says_what_is_wrong(published, tmp_path):
    data = published[0].read_bytes()
    for old, new in ((b"Stage_4", b"Stage_5"), (b"r_cut", b"r_cap")):
        assert old in data
        file = tmp_path / "damaged.pickle"
        file.write_bytes(data.replace(old, new))
        with pytest.raises(ModelFileError, match=r"Stage_4.*Stage_5|lacks r_cut"):
            neuralil.load(file)
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelFileError, match="can be read"):
        neuralil.load(file)
