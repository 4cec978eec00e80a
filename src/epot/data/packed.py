"""Packed HDF5: structures one after the other in a few large arrays, read from disk where they are asked for.

The file is plain HDF5 (any HDF5 tool opens it) of contiguous, uncompressed arrays, so each array is at one place
in the file and is mapped into memory: reading a structure costs no call of the HDF5 library, many processes share
one file, and nothing is loaded before it is used. Where the arrays are stands with a checksum in the HDF5 user block
at the beginning of the file. A file is written once, completely, and never changed (:mod:`.packing`).

Arrays, for n structures with A atoms together: ``pointers (n+1,)`` (structure k has the atoms ``pointers[k]`` to
``pointers[k+1]``), ``numbers (A,)``, ``positions (A, 3)`` Å, ``cell (n, 3, 3)`` Å, ``pbc (n, 3)``, ``labels (n,)`` (bit
k: the k-th of energy, forces, stress, charges, dipole is there), ``energy (n,)`` eV, ``forces (A, 3)`` eV/Å,
``stress (n, 3, 3)`` eV/Å^3, ``charges (A,)`` e, ``dipole (n, 3)`` e Å, ``charge (n,)`` e, ``config_type`` and ``group
(n,)`` (index into the JSON lists ``config_types`` and ``groups``, -1: none), ``extra`` (bytes; structure k has
``extra_pointers[k]`` to ``extra_pointers[k+1]``) and ``provenance`` (JSON). Label arrays that nobody has are left out.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .records import decode_mapping
from .structure import LABELS, Structure

USERBLOCK = 8192
MAGIC = b"EPOTPACK"
FORMAT = 1
_HEAD = struct.Struct("<8sII")
_PER_ATOM = ("forces", "charges")
_NEEDED = (
    "pointers", "numbers", "positions", "cell", "pbc", "labels", "charge", "config_type", "group", "config_types",
    "groups", "extra_pointers", "extra", "provenance",
)  # fmt: skip


def make_head(index: dict[str, Any]) -> bytes:
    """The user block: magic, checksum, length, JSON index; padded with zeros."""
    text = json.dumps(index).encode()
    if len(text) > USERBLOCK - _HEAD.size:
        raise DataError("The index of a packed file does not fit into its user block.")
    return (_HEAD.pack(MAGIC, zlib.crc32(text), len(text)) + text).ljust(USERBLOCK, b"\0")


class Packed(Sequence[Structure]):
    """Structures in a packed file; each is read from disk when it is asked for.

    Args:
        path: written by :func:`epot.data.packing.pack` or :meth:`Dataset.write`.

    Raises:
        DataError: missing, not a packed file, truncated, damaged, or of a newer format.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        path = self.path
        try:
            with path.open("rb") as file:
                head = file.read(USERBLOCK)
                size = os.fstat(file.fileno()).st_size
                self.header = _read_head(head, size, path)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            beside = path.with_name(path.name + ".journal")
            hint = " It was not finished: run the same `epot data pack` again." if beside.exists() else ""
            raise DataError(f"There is no file {path}.{hint}") from None
        except OSError as why:
            raise DataError(f"{path} cannot be read: {why}.") from None
        try:
            self._columns = {name: self._view(*entry[:3]) for name, entry in self.header["columns"].items()}
            self._check_shapes()
            self._names = {k: json.loads(self._columns[k].tobytes()) for k in ("config_types", "groups", "provenance")}
        except (KeyError, TypeError, ValueError, IndexError, RecursionError, AttributeError, OverflowError) as why:
            raise DataError(f"{path} is damaged ({type(why).__name__}: {why}); make it again.") from None
        self.provenance: dict[str, Any] = self._names["provenance"]

    def _view(self, offset: int, kind: str, shape: list[int]) -> np.ndarray:
        dtype = np.dtype(kind)
        if dtype.kind not in "iuf" or offset < 0:
            raise ValueError(f"an array of {kind}")
        return np.ndarray(tuple(shape), dtype, buffer=self._map, offset=offset)

    def _check_shapes(self) -> None:
        columns = self._columns
        n, atoms = len(columns["pointers"]) - 1, len(columns["numbers"])
        for name in _NEEDED:
            columns[name]
        for name, total in (("pointers", atoms), ("extra_pointers", len(columns["extra"]))):
            ends = columns[name]
            if ends.shape != (n + 1,) or ends[0] != 0 or ends[-1] != total or (np.diff(ends) < 0).any():
                raise ValueError(f"`{name}` does not fit")
        shapes = {"positions": (atoms, 3), "cell": (n, 3, 3), "pbc": (n, 3), "labels": (n,), "energy": (n,),
                  "forces": (atoms, 3), "stress": (n, 3, 3), "charges": (atoms,), "dipole": (n, 3), "charge": (n,),
                  "config_type": (n,), "group": (n,)}  # fmt: skip
        for name, shape in shapes.items():
            if name in columns and columns[name].shape != shape:
                raise ValueError(f"`{name}` has shape {columns[name].shape}")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open()

    def __len__(self) -> int:
        return len(self._columns["pointers"]) - 1

    def __repr__(self) -> str:
        return f"Packed({str(self.path)!r}, {len(self)} structures)"

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self[k] for k in range(*key.indices(len(self)))]
        k = int(key) + (len(self) if key < 0 else 0)
        if not 0 <= k < len(self):
            raise IndexError(f"structure {key} of {len(self)}")
        columns = self._columns
        first, last = columns["pointers"][k : k + 2].tolist()
        start, end = columns["extra_pointers"][k : k + 2].tolist()
        what = f"{self.path}, structure {k}"
        more = decode_mapping(columns["extra"][start:end].tobytes(), what)
        mask = int(columns["labels"][k])
        found: dict[str, Any] = {"charge": float(columns["charge"][k])}
        try:
            for bit, label in enumerate(LABELS):
                if mask >> bit & 1:
                    column = columns[label]
                    found[label] = column[first:last] if label in _PER_ATOM else column[k]
            return Structure(
                columns["numbers"][first:last], columns["positions"][first:last], columns["cell"][k],
                columns["pbc"][k] != 0, **found, **more,
            )  # fmt: skip
        except (TypeError, KeyError) as why:
            raise DataError(f"{what} is damaged ({why}).") from None

    def has(self, label: str) -> np.ndarray:
        """Which structures have the label, ``(n,)`` bool, without reading them."""
        return (self._columns["labels"] >> LABELS.index(label) & 1).astype(bool)

    def column(self, name: str) -> list[Any] | np.ndarray | None:
        """``energy`` (None where it is missing), ``charge``, ``config_type`` or ``group`` of all; None for others."""
        if name in ("config_type", "group"):
            names = [*self._names[name + "s"], None]
            return [names[k] for k in self._columns[name].tolist()]
        if name == "charge":
            return self._columns[name].tolist()
        if name == "energy":
            values = self._columns["energy"].tolist() if "energy" in self._columns else [0.0] * len(self)
            return [v if there else None for v, there in zip(values, self.has("energy"), strict=True)]
        return None

    @property
    def sizes(self) -> np.ndarray:
        """Atoms in each structure, ``(n,)``."""
        return np.diff(self._columns["pointers"])

    def verify(self) -> None:
        """Compare every array with its checksum: reads the whole file.

        Raises:
            DataError: names the array that has changed since the file was written.
        """
        for name, (offset, kind, shape, checksum) in self.header["columns"].items():
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            if zlib.crc32(memoryview(self._map)[offset : offset + size]) != checksum:
                raise DataError(f"{self.path}: `{name}` is damaged (its checksum differs); make the file again.")


def _read_head(head: bytes, size: int, path: Path) -> dict[str, Any]:
    if not head.startswith(MAGIC) or len(head) < USERBLOCK:
        raise DataError(f"{path} is not a packed file of epot; make one: `epot data pack train.xyz {path}`.")
    _, checksum, length = _HEAD.unpack_from(head)
    text = head[_HEAD.size : _HEAD.size + length]
    if zlib.crc32(text) != checksum:
        raise DataError(f"{path} is damaged: the checksum of its index differs; make it again.")
    index = json.loads(text)
    if index["format"] > FORMAT:
        raise DataError(f"{path} has format {index['format']}; this epot reads up to {FORMAT}: pip install -U epot.")
    if index["bytes"] != size:
        raise DataError(
            f"{path} has {size} bytes, {index['bytes']} were written: it is truncated or was changed; make it again."
        )
    return index
