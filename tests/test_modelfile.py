"""Model files: what is saved comes back; what is corrupt, hostile or newer is refused, and nothing in it runs."""

import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epot import modelfile, registry
from epot.data.structure import Structure
from epot.errors import ConfigError, EpotError, ModelFileError
from epot.geometry.graph import build
from epot.potential import Potential, Sum
from epot.predict import predict
from epot.registry import names
from epot.terms.offsets import Offsets

DATA = Path(__file__).parent / "data_files"
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def potential():
    return Sum(offset=Offsets((1, 8), values=(-13.6, -2041.3)))


@pytest.fixture
def saved(potential, tmp_path):
    return modelfile.save(tmp_path / "model.epot", potential, {"elements": ["H", "O"]})


@pytest.fixture
def no_execution(monkeypatch):
    """Whatever would run a program or a pickle fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("something in the file was executed")

    for target in (
        "os.system",
        "os.posix_spawn",
        "subprocess.Popen",
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
    ):
        monkeypatch.setattr(target, refuse)


def written(path: Path, header: object, tensors: dict | None = None) -> Path:
    raw = header if isinstance(header, str) else json.dumps(header)
    tensors = {"x": torch.zeros(1)} if tensors is None else tensors
    path.write_bytes(safetensors.torch.save(tensors, metadata={modelfile.KEY: raw}))
    return path


def parts(path: Path) -> tuple[dict, dict]:
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[modelfile.KEY])
        return header, {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def test_round_trip(potential, saved):
    again, about = modelfile.load(saved)
    assert about == {"elements": ["H", "O"]}
    assert again.config() == potential.config()
    assert not again.training
    for name, tensor in potential.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_dtypes_and_new_sizes_come_back(tmp_path):
    """A fit changes sizes (sparse points) and a potential may have been made double."""
    from epot.blocks.readout import LinearReadout

    class Learned(Potential):
        cutoff = 0.0

        def __init__(self) -> None:
            super().__init__()
            self.readout = LinearReadout(3).double()

        def config(self):
            return {"name": "offsets", "elements": [1]}

        forward = None  # never called

    made = Learned.__new__(Learned)
    Potential.__init__(made)
    made.readout = LinearReadout(3).double()
    made.readout.precision = torch.eye(3, dtype=torch.float64)
    made.readout.member_weights = torch.ones(3, 7, dtype=torch.float64)
    blank = Learned.__new__(Learned)
    Potential.__init__(blank)
    blank.readout = LinearReadout(3)
    modelfile._restore(blank, dict(made.state_dict()), Path("m"))
    assert blank.readout.n_members == 7
    assert blank.readout.weight.dtype == torch.float64
    assert blank.readout.weight.requires_grad


def test_the_random_state_is_left_alone(saved):
    before = torch.random.get_rng_state()
    modelfile.load(saved)
    assert torch.equal(before, torch.random.get_rng_state())


def test_about_is_strict_json(potential, tmp_path):
    about = {"a": np.float64(1.5), "b": np.arange(3), "c": float("nan"), "d": (1, 2), "e": torch.ones(2)}
    path = modelfile.save(tmp_path / "m.epot", potential, about)
    assert modelfile.load(path)[1] == {"a": 1.5, "b": [0, 1, 2], "c": None, "d": [1, 2], "e": [1.0, 1.0]}
    with pytest.raises(ModelFileError, match=r"about.deep.x is of type object"):
        modelfile.save(tmp_path / "m.epot", potential, {"deep": {"x": object()}})
    assert modelfile.load(path)[1]["a"] == 1.5  # the previous file is as it was


def test_a_class_that_no_file_can_name(tmp_path):
    class Mine(Offsets):
        pass

    with pytest.raises(ConfigError, match="Mine is not in"):
        modelfile.save(tmp_path / "m.epot", Mine())


def test_missing_files(tmp_path):
    with pytest.raises(ModelFileError, match="There is no model file"):
        modelfile.load(tmp_path / "nothing.epot")
    with pytest.raises(ModelFileError, match="There is no model file"):
        modelfile.load(tmp_path)


@FUZZ
@given(payload=st.binary(max_size=400))
def test_random_bytes(payload, tmp_path, no_execution):
    path = tmp_path / "m.epot"
    path.write_bytes(payload)
    with pytest.raises(ModelFileError, match="m.epot"):
        modelfile.load(path)


@FUZZ
@given(data=st.data())
def test_flipped_bits(data, saved, no_execution):
    """A flipped bit is refused, or lands in a number, and then the file still is a potential."""
    whole = saved.read_bytes()
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = saved.with_name("broken.epot")
    path.write_bytes(broken)
    try:
        again, _ = modelfile.load(path)
    except ModelFileError:
        return
    assert isinstance(again, Potential)


@FUZZ
@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncated(cut, saved, no_execution):
    whole = saved.read_bytes()
    path = saved.with_name("short.epot")
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(ModelFileError):
        modelfile.load(path)


def test_a_pickle_is_not_opened(tmp_path, no_execution):
    path = tmp_path / "m.epot"
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="not a model file"):
        modelfile.load(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@FUZZ
@given(header=JSON)
def test_any_json_as_header(header, tmp_path, no_execution):
    with pytest.raises(ModelFileError):
        modelfile.load(written(tmp_path / "m.epot", header))


@FUZZ
@given(name=st.sampled_from(["offsets", "sum", *names()]) | JSON, data=st.data())
def test_any_configuration(name, data, tmp_path, no_execution):
    keys = st.sampled_from(["elements", "values", "cutoff", "terms", "n_features", "n_layers"])
    config = {"name": name} | data.draw(st.dictionaries(keys, JSON, max_size=3))
    header = {"format": 1, "config": config, "about": {}}
    with pytest.raises(ModelFileError):
        modelfile.load(written(tmp_path / "m.epot", header))


@pytest.mark.parametrize(
    "config",
    [
        {"name": "os.system", "command": "touch hacked"}, {"name": "subprocess", "args": ["touch", "hacked"]},
        {"name": "__import__('os').system('touch hacked')"}, {"name": "../../../tmp/evil"}, {"name": "builtins.eval"},
        {"name": "sum", "terms": {"__class__": {"name": "offsets"}}},
        {"name": "sum", "terms": {"self": {"name": "offsets"}}}, {"name": "sum", "terms": {"a.b": {"name": "offsets"}}},
        {"name": "offsets", "elements": {"__reduce__": "os.system"}},
    ],
)  # fmt: skip
def test_hostile_configurations(config, tmp_path, monkeypatch, no_execution):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError):
        modelfile.load(written(tmp_path / "m.epot", {"format": 1, "config": config}))
    assert os.listdir(tmp_path) == ["m.epot"]


@pytest.mark.parametrize("raw", ["", "{", "null", "[" * 100_000, '{"format": 1}', '{"format": "1", "config": {}}',
                                 '{"format": 1, "config": {"name": "offsets"}, "about": []}'])  # fmt: skip
def test_broken_headers(raw, tmp_path, no_execution):
    with pytest.raises(ModelFileError, match="header"):
        modelfile.load(written(tmp_path / "m.epot", raw))


@pytest.mark.parametrize("version", [modelfile.FORMAT + 1, 99, 0, -1])
def test_other_formats(version, saved):
    header, tensors = parts(saved)
    with pytest.raises(ModelFileError, match=r"Upgrade epot" if version > 1 else "format"):
        modelfile.load(written(saved, header | {"format": version}, tensors))


def test_not_ours(tmp_path):
    path = tmp_path / "m.epot"
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(2)}))
    with pytest.raises(ModelFileError, match="not one that epot wrote"):
        modelfile.load(path)


@pytest.mark.parametrize("n_features", [10**18, 4_000_000])
def test_huge_configurations_allocate_nothing(n_features, tmp_path):
    if "painn" not in names():
        pytest.skip("painn is not here")
    config = {"name": "painn", "n_features": n_features, "n_layers": 3}
    with pytest.raises(ModelFileError, match=r"cannot be the size of anything|asks for"):
        modelfile.load(written(tmp_path / "m.epot", {"format": 1, "config": config}))


def test_huge_constants_are_not_allocated(saved, monkeypatch):
    """However a constructor asks for them. Control: what a file has room for."""
    header, tensors = parts(saved)
    asks = [lambda n: torch.zeros(n, n), lambda n: torch.zeros((n, n)), lambda n: torch.full((n, n), 1.0),
            lambda n: torch.eye(n), lambda n: torch.empty(size=(n, n)),
            lambda n: [torch.ones(n) for _ in range(n)]]  # fmt: skip
    for ask in asks:
        monkeypatch.setattr(modelfile, "make", lambda config, ask=ask: ask(10**6))
        with pytest.raises(ModelFileError, match="asks for"):
            modelfile.load(written(saved, header, tensors))
    monkeypatch.setattr(modelfile, "make", lambda config: (torch.zeros(1000, 1000), Offsets((1, 8)))[1])
    with pytest.raises(ModelFileError, match="lacks the tensors"):
        modelfile.load(written(saved, header, tensors))


def test_huge_tensors_in_the_table_of_contents(tmp_path):
    """The table says 8 TB; the file has 8 bytes."""
    table = json.dumps({"x": {"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8 * 10**12]}}).encode()
    path = tmp_path / "m.epot"
    path.write_bytes(struct.pack("<Q", len(table)) + table + bytes(8))
    with pytest.raises(ModelFileError):
        modelfile.load(path)


def test_tensors_that_do_not_fit(saved):
    header, tensors = parts(saved)
    name = "terms.offset.energies"
    energies = tensors[name]
    for bad, words in [
        ({}, "lacks the tensors"), ({name: energies, "more": energies.clone()}, "no place for: more"),
        ({name: energies.reshape(1, -1)}, "has shape"), ({name: energies.long()}, "has the type torch.int64"),
        ({name: torch.full_like(energies, torch.nan)}, "holds NaN"),
    ]:  # fmt: skip
        with pytest.raises(ModelFileError, match=words):
            modelfile.load(written(saved, header, bad))


def test_a_failed_write_leaves_the_previous_file(potential, saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ModelFileError, match=r"No space left on device.*previous file, if any, is untouched"):
        modelfile.save(saved, potential, {"new": True})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_kill_while_writing_leaves_the_previous_file(saved, spawn):
    """SIGKILL arrives when the new bytes are written but not yet in place."""
    before = saved.read_bytes()
    script = textwrap.dedent("""
        import os, sys, time
        from epot import modelfile
        from epot.terms.offsets import Offsets
        os.fsync = lambda handle: (print("writing", flush=True), time.sleep(60))
        modelfile.save(sys.argv[1], Offsets((1,)))
    """)
    child = spawn([sys.executable, "-c", script, str(saved)], stdout=subprocess.PIPE)
    assert child.stdout.readline().strip() == b"writing"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert saved.read_bytes() == before
    assert modelfile.load(saved)[1] == {"elements": ["H", "O"]}


def test_every_error_is_ours(saved):
    assert issubclass(ModelFileError, EpotError)


OLD = sorted(DATA.glob("format*.epot"))


@pytest.mark.parametrize("path", OLD, ids=lambda p: p.stem)
def test_files_of_every_released_format_load_and_give_the_recorded_numbers(path):
    record = json.loads(path.with_suffix(".json").read_text())
    potential, _ = modelfile.load(path)
    for entry in record:
        arrays = [np.array(entry[key]) for key in ("numbers", "positions", "cell")]
        structure = Structure(*arrays, entry["pbc"])
        made = predict(potential.double(), build(structure, potential.cutoff))
        np.testing.assert_allclose(float(made.energy[0]), entry["energy"], rtol=1e-10)
        np.testing.assert_allclose(made.forces.numpy(), np.array(entry["forces"]), rtol=0, atol=1e-9)


def test_there_is_a_file_of_every_format():
    have = {int(p.stem.removeprefix("format").split("_")[0]) for p in OLD}
    assert have == set(range(1, modelfile.FORMAT + 1))


@pytest.mark.parametrize("name", registry.names())
def test_a_converted_potential_comes_back_in_its_precision(name, tmp_path):
    """Constants that no file holds (of descriptors) follow the weights."""
    made = registry.get(name).tiny().double()
    modelfile.save(tmp_path / "double.epot", made)
    again, _ = modelfile.load(tmp_path / "double.epot")
    buffers = dict(again.named_buffers())
    assert {n: b.dtype for n, b in made.named_buffers()} == {n: b.dtype for n, b in buffers.items()}
    assert all(torch.equal(b, buffers[n]) for n, b in made.named_buffers() if not b.isnan().any())
