"""Files that are complete or not there: atomic writes and content hashes. Imports nothing that is slow."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DataError, EpotError


@contextmanager
def replacing(path: str | os.PathLike, error: type[EpotError] = DataError) -> Iterator[Path]:
    """A path beside ``path`` to write to; when the block ends well it is flushed to the disk and takes its place.

    A kill, a full disk or an exception in the block leaves the previous file as it was.

    Args:
        path: the file to make or replace; its folder is made.
        error: what to raise where the disk refuses.

    Raises:
        EpotError: of the kind ``error``: no permission, no space.
    """
    path = Path(path)
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        beside = Path(name)
        yield beside
        with open(beside, "rb+") as out:
            os.fsync(out.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
        beside = None
        sync_folder(path.parent)
    except OSError as why:
        raise error(f"{path} could not be written ({why}); the previous file, if any, is untouched.") from why
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power cut, where the system offers it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems do not offer it
        pass
    finally:
        os.close(handle)


def write_atomic(path: str | os.PathLike, payload: bytes, error: type[EpotError] = DataError) -> Path:
    """Write beside, flush to the disk, then rename: a kill or a full disk leaves the previous file as it was.

    Raises:
        EpotError: of the kind ``error``: the payload could not be written.
    """
    with replacing(path, error) as beside:
        beside.write_bytes(payload)
    return Path(path)


def sha256(path: str | os.PathLike) -> str:
    """Of the bytes of a file, as 64 hexadecimal digits.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as why:
        raise DataError(f"{path} cannot be read: {why}.") from why
