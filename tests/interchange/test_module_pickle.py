"""Pickled modules: what is kept of them, and that nothing in a file is run.

Witness: torch.save of a module of torch.nn, beside what torch itself reads.
"""

import io
import pickle
import pickletools
import zipfile

import numpy as np
import pytest
import torch

from epot.errors import ModelFileError
from epot.interchange.module_pickle import Recorded, Restricted, read_module

NN = ("torch.nn",)


@pytest.fixture
def module():
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.SiLU(), torch.nn.Linear(4, 1, bias=False)).double()
    made.note = {"sizes": [3, 4, 1], "mean": np.float64(11.5), "table": np.arange(6.0).reshape(2, 3).T, "kind": {"a"}}
    made.register_buffer("count", torch.tensor(7))
    made.register_buffer("view", torch.arange(12.0).view(3, 4)[1:, ::2])
    made.register_buffer("short", torch.tensor([1.5, 2.5], dtype=torch.bfloat16))
    return made


def saved(module, path):
    torch.save(module, path)
    return path


def test_state_and_names_are_kept(module, tmp_path):
    read = read_module(saved(module, tmp_path / "m.pt"), NN, "a test")
    assert isinstance(read, Recorded)
    assert (read.kind, read.origin) == ("Sequential", "torch.nn.modules.container")
    assert [m.kind for m in read.children()[:3]] == ["Linear", "SiLU", "Linear"]
    assert torch.equal(read.get("0.weight"), module[0].weight.detach())
    assert torch.equal(read.get("0.bias"), module[0].bias.detach())
    assert read.get("2.bias", "none") is None
    assert read.get("3.weight", "none") == "none"
    assert read.get("0.in_features") == 3
    for name in ("count", "view", "short"):
        assert torch.equal(read.get(name), module.get_buffer(name))
        assert read.get(name).dtype == module.get_buffer(name).dtype
    note = read.get("note")
    assert (note["sizes"], note["mean"], note["kind"]) == ([3, 4, 1], 11.5, {"a"})
    assert np.array_equal(note["table"].values, module.note["table"])


def test_names_outside_the_list_are_refused(module, tmp_path):
    path = saved(module, tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match=r"torch\.nn\.modules\.container\.Sequential, which a test never does"):
        read_module(path, ("mace",), "a test")
    for name in ("torchnn", "torch.nnx", "torch"):  # a package is not the start of a word
        with pytest.raises(ModelFileError, match="never does"):
            Restricted.read(pickle.dumps(np.array), {}, "a test", packages=(name,))


@pytest.mark.parametrize(
    "value",
    [eval, getattr, print, open, type, object, np.load, torch.load, torch.zeros, pickle.loads, bytearray, range],
    ids=lambda v: v.__name__,
)
def test_functions_that_could_do_harm(value, tmp_path):
    """Alone, and in the file of a module."""
    for content in (value, [value], {"a": value}):
        torch.save(content, tmp_path / "m.pt")
        with pytest.raises(ModelFileError, match=r"wants to use .* nothing of it was run"):
            read_module(tmp_path / "m.pt", NN, "a test")


def archive(path, data, storages=(), compression=zipfile.ZIP_STORED, byteorder="little"):
    with zipfile.ZipFile(path, "w", compression=compression) as file:
        file.writestr("m/data.pkl", data)
        file.writestr("m/byteorder", byteorder)
        for k, raw in enumerate(storages):
            file.writestr(f"m/data/{k}", raw)
    return path


class Tensor:
    """What a file may say that a tensor is."""

    def __init__(self, size, stride, offset=0, numbers=4, key="0"):
        self.args = (("storage", torch.DoubleStorage, key, "cpu", numbers), offset, size, stride, False, {})

    def pickled(self):
        class Pickler(pickle.Pickler):
            def persistent_id(self, value):
                return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

            def reducer_override(self, value):
                return (torch._utils._rebuild_tensor_v2, value.args) if isinstance(value, Tensor) else NotImplemented

        out = io.BytesIO()
        Pickler(out, protocol=2).dump(self)
        return out.getvalue()


def test_tensors_stay_within_their_storage(tmp_path):
    raw = np.arange(4.0).tobytes()
    good = archive(tmp_path / "good", Tensor((2, 2), (2, 1)).pickled(), [raw])
    assert read_module(good, NN, "a test").tolist() == [[0.0, 1.0], [2.0, 3.0]]
    repeated = archive(tmp_path / "repeated", Tensor((3, 4), (0, 1)).pickled(), [raw])  # as expand makes them
    assert read_module(repeated, NN, "a test").shape == (3, 4)
    empty = archive(tmp_path / "empty", Tensor((0, 2), (2, 1), numbers=0).pickled(), [b""])
    assert read_module(empty, NN, "a test").shape == (0, 2)
    bad = {
        "larger than its storage": Tensor((5,), (1,)),
        "than its storage": Tensor((2,), (1,), offset=3),
        "larger than its": Tensor((10**12,), (0,)),
        "negative": Tensor((2,), (-1,)),
        "holds 4 numbers; expected 5": Tensor((2,), (1,), numbers=5),
        "data/9, are not there": Tensor((2,), (1,), key="9"),
        "a size and strides": Tensor((2, 2), (1,)),
    }
    for message, content in bad.items():
        with pytest.raises(ModelFileError, match=message):
            read_module(archive(tmp_path / "bad", content.pickled(), [raw]), NN, "a test")


def test_stand_ins_cannot_be_changed(tmp_path):
    """A pickle can set attributes of what it names: of a function here it could change the defaults, for good."""
    change = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x04\x00\x00\x00callNs\x86b."
    pickletools.dis(change, out=io.StringIO())  # it is a pickle
    with pytest.raises(ModelFileError, match="change a function"):
        read_module(archive(tmp_path / "bad", change), NN, "a test")
    for name in (b"ccollections\nOrderedDict\n", b"c__builtin__\nset\n", b"ctorch.nn\nLinear\n", b"cnumpy\ndtype\n"):
        with pytest.raises(ModelFileError):
            read_module(archive(tmp_path / "bad", change.replace(change[2:35], name)), NN, "a test")


def test_files_that_are_no_archives(module, tmp_path):
    torch.save(module, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelFileError, match="not an archive of torch.save"):
        read_module(tmp_path / "old.pt", NN, "a test")
    with pytest.raises(ModelFileError, match="not an archive"):
        read_module(tmp_path / "none", NN, "a test")
    squeezed = archive(tmp_path / "squeezed", pickle.dumps(0, 2) + b" " * 10**6, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match="compressed"):
        read_module(squeezed, NN, "a test")
    with pytest.raises(ModelFileError, match="highest byte first"):
        read_module(archive(tmp_path / "big", pickle.dumps(0, 2), byteorder="big"), NN, "a test")
    for data in (b"", b"\x80\x02 nothing", pickle.dumps([1] * 100, 2)[:50]):
        with pytest.raises(ModelFileError, match="can be read"):
            read_module(archive(tmp_path / "torn", data), NN, "a test")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme", "text")
    with pytest.raises(ModelFileError, match="no data.pkl"):
        read_module(tmp_path / "other.zip", NN, "a test")
