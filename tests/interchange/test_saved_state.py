"""Files that are not what they should be are refused by name and reason; nothing of them is run."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from epot import interchange
from epot.errors import ModelFileError
from epot.interchange import saved_state

GOOD = Path(__file__).parents[1] / "data_files" / "schnet_schnetpack.model"
FORMATS = [None, "gemnet", "mace", "schnetpack", "torch_geometric", "torchani"]


class Runs:
    """What an attacker would put into a pickle."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def damaged(kind):
    data = bytearray(GOOD.read_bytes())
    if kind == "truncated":
        return bytes(data[: len(data) // 2])
    if kind == "zeros within":
        at = data.find(b"data.pkl") + 200
        data[at : at + 100] = bytes(100)
    else:
        at = data.rfind(b"PK\x01\x02")
        data[at : at + 4] = b"XXXX"
    return bytes(data)


@pytest.mark.parametrize("format", [None, "mace", "schnetpack"])
@pytest.mark.parametrize("kind", ["truncated", "zeros within", "no directory"])
def test_damaged_archives(tmp_path, kind, format):
    """Control: the file as it was is read."""
    path = tmp_path / "some.model"
    path.write_bytes(damaged(kind))
    with pytest.raises(ModelFileError, match=r"some\.model.*copied completely"):
        interchange.load(path, format)
    assert interchange.find(GOOD) == "schnetpack"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path, how, format):
    """Control: the pickle does run what it holds, where it is read by what runs it."""
    path, mark = tmp_path / "evil.pt", tmp_path / "mark"
    with path.open("wb") as file:
        torch.save(Runs(mark), file) if how == "torch" else pickle.dump(Runs(mark), file)
    with pytest.raises(ModelFileError, match=r"evil\.pt"):
        interchange.load(path, format)
    assert not mark.exists()
    torch.load(path, weights_only=False) if how == "torch" else pickle.loads(path.read_bytes())
    assert mark.exists()


def test_other_files(tmp_path):
    archive, empty, listed, keys = (tmp_path / n for n in ("other.zip", "empty.pt", "list.pt", "keys.pt"))
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("readme.txt", "hello")
    empty.touch()
    torch.save([1, 2], listed)
    torch.save({1: torch.zeros(2)}, keys)
    for path in (archive, empty, listed, keys):
        assert saved_state.peek(path) is None
        with pytest.raises(ModelFileError, match=rf"{path.name}.*expected the state_dict of a cat"):
            saved_state.read(path, "the state_dict of a cat")
    with pytest.raises(ModelFileError, match=r"empty\.pt is empty"):
        interchange.find(empty)
    assert saved_state.peek(tmp_path) is None
    torch.save({"weight": torch.ones(2)}, keys)
    assert list(saved_state.read(keys, "anything")) == ["weight"]
