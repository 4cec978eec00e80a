"""From what the user names to a stream of structures: formats, globs, several files, provenance."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ... import files
from ...errors import ConfigError, DataError
from ..dataset import Dataset
from ..structure import Structure
from . import xyz
from .compressed import bare_name
from .frame import Frame
from .keys import Interpreter, Rules

_XYZ = "extended XYZ: ASE's convention"
_ASE = "ASE's units"


class Opened(NamedTuple):
    """A file that frames come from, who says what its units are, and units that differ from eV and Å."""

    frames: Iterator[Frame]
    convention: str
    defaults: dict[str, str]


class Reading:
    """One act of reading.

    Args:
        source: see :func:`epot.data.readers.read`.
        rules: what the user declared.
        format: of all files, where the names do not say it.

    Attributes:
        packed: the dataset, where the source is one packed file or a dataset already; nothing is parsed then.
    """

    def __init__(self, source: Any, rules: Rules, format: str | None = None) -> None:
        self.rules, self.format = rules, format
        self.packed: Dataset | None = None
        self.paths: list[Path] = []
        self.objects: Sequence[Any] | None = None
        self._readers: dict[str, Interpreter] = {}
        self._counts: dict[str, int] = {}
        self._sort(source)

    def _sort(self, source: Any) -> None:
        if isinstance(source, Dataset):
            self.packed = Dataset(source._source, source.provenance, source.indices)
        elif isinstance(source, (str, os.PathLike)):
            self.paths = expand(source)
        elif isinstance(source, Structure) or hasattr(source, "get_atomic_numbers"):
            self.objects = [source]
        else:
            try:
                items = list(source)
            except TypeError:
                raise ConfigError(
                    f"Cannot read from {type(source).__name__}; give a file, a glob, ase.Atoms or a list of them."
                ) from None
            if items and all(isinstance(item, (str, os.PathLike)) for item in items):
                self.paths = [path for item in items for path in expand(item)]
            else:
                self.objects = items
        if len(self.paths) == 1 and self.kind(self.paths[0]) == "packed":
            from ..packed import Packed

            store = Packed(self.paths[0])
            self.packed = Dataset(store, store.provenance)

    def kind(self, path: Path) -> str:
        """``"xyz"``, ``"packed"``, ``"npz"``, ``"db"``, ``"lmdb"`` or ``"ase"``."""
        if self.format is not None:
            return {"extxyz": "xyz", "xyz": "xyz", "npz": "npz", "db": "db", "aselmdb": "lmdb", "h5": "packed"}.get(
                self.format, "ase"
            )
        suffix = Path(bare_name(path)).suffix
        return {
            ".xyz": "xyz", ".extxyz": "xyz", ".h5": "packed", ".hdf5": "packed", ".npz": "npz", ".db": "db",
            ".aselmdb": "lmdb", ".lmdb": "lmdb",
        }.get(suffix, "ase")  # fmt: skip

    def structures(self, start: tuple[int, int] = (0, 0), limit: int | None = None) -> Iterator[Structure]:
        """Structure after structure, over all files.

        Args:
            start: from which file and frame on, for a reading that is continued.
            limit: stop after that many.
        """
        for structure, _, _ in islice(self.located(start), limit):
            yield structure

    def located(self, start: tuple[int, int] = (0, 0)) -> Iterator[tuple[Structure, int, int]]:
        """Structures with the number of their file and of their frame in it."""
        if self.objects is not None:
            for frame, item in enumerate(self.objects[start[1] :], start[1]):
                self._counts["memory"] = frame + 1
                yield self._object(item, frame), 0, frame
            return
        for number, path in enumerate(self.paths):
            if number < start[0]:
                continue
            first = start[1] if number == start[0] else 0
            frame = first - 1
            for frame, structure in enumerate(self._file(path, first), first):
                self._counts[str(path)] = frame + 1
                yield structure, number, frame
            if frame < 0:
                raise DataError(f"{path} holds no structures.")

    def _file(self, path: Path, first: int) -> Iterator[Structure]:
        kind = self.kind(path)
        if kind == "packed":
            from ..packed import Packed

            store = Packed(path)
            yield from (store[k] for k in range(first, len(store)))
            return
        opened = self._open(path, kind, first)
        reader = self._reader(opened.convention, opened.defaults)
        for frame in opened.frames:
            yield reader.structure(frame)

    def _open(self, path: Path, kind: str, first: int) -> Opened:
        if kind == "xyz":
            return Opened(xyz.frames(path, first), _XYZ, {})
        if kind == "npz":
            from . import arrays

            return arrays.open_npz(path, self.rules, first)
        from . import ase_formats

        if kind == "db":
            return Opened(ase_formats.database(path, first), _ASE, {})
        if kind == "lmdb":
            from . import lmdb

            return Opened(lmdb.frames(path, first), _ASE, {})
        return Opened(ase_formats.outputs(path, self.format, first), _ASE, {})

    def _object(self, item: Any, number: int) -> Structure:
        if isinstance(item, Structure):
            return item
        if not hasattr(item, "get_atomic_numbers"):
            raise DataError(f"Item {number} is of type {type(item).__name__}; expected ase.Atoms or Structure.")
        from .ase_formats import from_atoms

        return self._reader(_ASE, {}).structure(from_atoms(item, f"structure {number}"))

    def _reader(self, convention: str, defaults: dict[str, str]) -> Interpreter:
        if convention not in self._readers:
            self._readers[convention] = Interpreter(self.rules, convention, defaults)
        return self._readers[convention]

    def check(self) -> None:
        """After everything was read: was every key there that the user named?"""
        for reader in self._readers.values():
            reader.check_named()

    def state(self) -> dict[str, Any]:
        """What was counted so far, JSON: a reading that is continued begins with it."""
        readers = {name: [r.defaults, r.state()] for name, r in self._readers.items()}
        return {"counts": self._counts, "readers": readers}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self._counts = dict(state["counts"])
        for name, (defaults, counted) in state["readers"].items():
            self._reader(name, defaults).restore(counted)

    def provenance(self) -> dict[str, Any]:
        """Facts for :class:`Dataset`: files with hashes and counts, keys, units and signs, notes."""
        listed = [
            {"path": str(p), "sha256": files.sha256(p), "bytes": p.stat().st_size, "structures": self._counts[str(p)]}
            for p in self.paths
            if str(p) in self._counts
        ]
        readers = list(self._readers.values())
        keys = readers[0].report() if len(readers) == 1 else {r.convention: r.report() for r in readers}
        return {
            "files": listed,
            "structures": sum(self._counts.values()),
            "keys": keys,
            "notes": [note for reader in readers for note in reader.messages()],
        }


def expand(source: str | os.PathLike) -> list[Path]:
    """The files of a path or glob, sorted.

    Raises:
        DataError: there is none.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it, or a glob like '{path}/*.xyz'.")
    found = sorted(Path(name) for name in glob.glob(str(source), recursive=True) if Path(name).is_file())
    if not found:
        kind = "matches" if glob.has_magic(str(source)) else "is there"
        raise DataError(f"No file {kind}: {source} (looked in {Path.cwd()}).")
    return found
