"""Files are complete or not there."""

import hashlib
import os

import pytest

from epot.errors import DataError, ModelFileError
from epot.files import replacing, sha256, write_atomic


def test_write_and_hash(tmp_path):
    path = write_atomic(tmp_path / "new" / "x.bin", b"abc")
    assert path.read_bytes() == b"abc"
    assert sha256(path) == hashlib.sha256(b"abc").hexdigest()
    write_atomic(path, b"def")
    assert path.read_bytes() == b"def"
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(DataError, match="cannot be read"):
        sha256(tmp_path / "none")


def test_an_exception_in_the_block_leaves_the_previous_file(tmp_path):
    path = write_atomic(tmp_path / "x.bin", b"abc")
    with pytest.raises(ZeroDivisionError), replacing(path) as beside:
        beside.write_bytes(b"half" * (1 // 0))
    assert path.read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses(tmp_path, monkeypatch, step):
    path = write_atomic(tmp_path / "x.bin", b"abc")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(ModelFileError, match="No space left.*previous file"):
        write_atomic(path, b"new", error=ModelFileError)
    assert path.read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [path]
