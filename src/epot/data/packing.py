"""Build a packed file so that a kill at any moment loses at most the last batch, and never leaves a damaged file.

While it is built, structures go to a journal beside the target (``train.h5.journal``): records with checksums, only
ever appended, and committed in batches. When all are there the packed file is written beside, flushed and renamed, and
the journal removed. Running the same command again continues behind the last commit.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DataError
from ..progress import bar
from . import records
from .dataset import Dataset
from .packed import Packed
from .packed_writer import write_packed
from .readers.keys import Rules
from .readers.sources import Reading
from .structure import Structure

_RECORD = struct.Struct("<4sIQ")  # kind, checksum, length
_STRUCTURE, _COMMIT, _HEADER = b"STRU", b"COMM", b"HEAD"


class Journal:
    """Structures on disk, appended and committed; what was not committed when a process died is forgotten.

    Args:
        path: made where it is not there.
        header: what is being built, JSON; a journal of something else is refused.

    Attributes:
        state: what the last commit said.
        count: structures committed.

    Raises:
        DataError: the journal belongs to something else, or another process writes to it.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.state: dict[str, Any] = {}
        self.count = 0
        self._end = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115
        try:
            _lock(self._file, self.path)
            self._recover(json.loads(json.dumps(header)))
        except BaseException:
            self._file.close()
            raise

    def _recover(self, header: dict[str, Any]) -> None:
        with self.path.open("rb") as file:
            head = file.read(4)
        if not _HEADER.startswith(head):
            raise DataError(f"{self.path} is not a journal of epot; move it away.")
        end, since = 0, 0
        for kind, payload, position in scan(self.path):
            if end == 0 and kind != _HEADER:
                break
            if kind == _HEADER:
                found = json.loads(payload)
                if found != header:
                    raise DataError(
                        f"{self.path} was begun from something else ({_shown(found)}); delete it to begin anew, or run "
                        "what it was begun with."
                    )
                end = position
            elif kind == _COMMIT:
                end, self.state, self.count = position, json.loads(payload), self.count + since
                since = 0
            else:
                since += 1
        self._file.truncate(end)
        self._end = end
        if end == 0:
            self._write(_HEADER, json.dumps(header).encode())
            self._flush()

    def append(self, structure: Structure) -> None:
        """Add a structure; it counts from the next :meth:`commit` on."""
        self._write(_STRUCTURE, records.encode(structure))
        self.count += 1

    def commit(self, state: Mapping[str, Any] | None = None) -> None:
        """Make everything so far last.

        Raises:
            DataError: the disk refuses (full); what was committed before is intact.
        """
        try:
            self._write(_COMMIT, json.dumps(dict(state or {})).encode())
            self._flush()
        except OSError as why:
            raise DataError(f"{self.path} could not be written ({why}); run again when there is room.") from why
        self.state = dict(state or {})

    def _write(self, kind: bytes, payload: bytes) -> None:
        self._file.write(_RECORD.pack(kind, zlib.crc32(payload), len(payload)))
        self._file.write(payload)

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Structure]:
        """What was committed, in order, from disk."""
        for kind, payload, _ in scan(self.path):
            if kind == _STRUCTURE:
                yield records.decode(payload, str(self.path))

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """Close and delete."""
        self.close()
        self.path.unlink(missing_ok=True)


def scan(path: Path) -> Iterator[tuple[bytes, bytes, int]]:
    """The records of a journal: kind, payload, and where the record ends; stops at the first that is torn."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while True:
            head = file.read(_RECORD.size)
            if len(head) < _RECORD.size:
                return
            kind, checksum, length = _RECORD.unpack(head)
            if kind not in (_STRUCTURE, _COMMIT, _HEADER) or length > size - file.tell():
                return
            payload = file.read(length)
            if zlib.crc32(payload) != checksum:
                return
            yield kind, payload, file.tell()


def pack(
    source: Any, target: str | os.PathLike, *, rules: Rules | None = None, format: str | None = None, batch: int = 1000
) -> Dataset:
    """Build a packed file from anything that :func:`epot.data.readers.read` takes; continue where a kill stopped it.

    Args:
        source: files, a glob, structures.
        target: the packed file, ``.h5``.
        rules: keys, units and signs of the labels.
        format: of the source, where names do not say it.
        batch: structures per commit.

    Returns:
        The dataset over the packed file.

    Raises:
        DataError: what reading raises; ``target`` is there already and holds something else.
    """
    target, rules = Path(target), rules or Rules()
    reading = Reading(source, rules, format)
    if reading.packed is not None:
        return write_packed(reading.packed, target, reading.packed.provenance)
    header: dict[str, Any] = {
        "files": [[str(p), files.sha256(p)] for p in reading.paths],
        "rules": repr(rules),
        "format": format,
    }
    if reading.objects is not None:
        header["objects"] = len(reading.objects)
    if target.exists():
        store = Packed(target)
        if store.provenance.get("packed_from") == header and reading.paths:
            return Dataset(store, store.provenance)
        raise DataError(f"{target} is there already and was made from something else; delete it or name another file.")
    journal = Journal(target.with_name(target.name + ".journal"), header)
    try:
        _fill(journal, reading, batch)
        provenance = reading.provenance() | {"packed_from": header}
        made = write_packed(journal, target, provenance)
    finally:
        journal.close()
    journal.remove()
    return made


def _fill(journal: Journal, reading: Reading, batch: int) -> None:
    start = (0, 0)
    if journal.state:
        start = tuple(journal.state["next"])
        reading.restore(journal.state["reading"])
    if journal.state.get("complete"):
        return
    place = start
    with bar("Reading", None) as shown:
        shown.advance(journal.count)
        for structure, number, frame in reading.located(start):
            journal.append(structure)
            place = (number, frame + 1)
            shown.advance()
            if journal.count % batch == 0:
                journal.commit({"next": place, "reading": reading.state()})
    reading.check()
    journal.commit({"next": place, "reading": reading.state(), "complete": True})


def _lock(file: Any, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: nobody else can write to an open file there
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DataError(f"Another process is writing to {path}; wait for it to end.") from None


def _shown(header: Mapping[str, Any]) -> str:
    return ", ".join(name for name, _ in header.get("files", [])) or "structures in memory"
