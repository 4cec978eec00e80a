"""The LMDB back end of ASE's database (``.aselmdb``), as written by ase-db-backends and fairchem.

A record is the JSON of ASE's row, compressed with zlib, under its number as text; ``nextid`` and ``deleted_ids`` say
which numbers there are. Databases of pickles (older ones of the Open Catalyst project) are refused: unpickling them
would run whatever they hold.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from .frame import Frame

_RESULTS = ("energy", "free_energy", "forces", "stress", "charges", "dipole", "magmom", "magmoms")
_ARRAYS = ("initial_magmoms", "initial_charges", "tags", "momenta", "masses")


def frames(path: Path, first: int = 0) -> Iterator[Frame]:
    """Records in the order of their numbers, from the ``first``-th on.

    Raises:
        DataError: the package lmdb is not installed, not such a database, or a damaged record.
    """
    try:
        import lmdb
    except ImportError as why:
        raise DataError(f"Reading {path} needs the package lmdb: pip install 'epot[io]'.") from why
    try:
        with (
            lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False) as environment,
            environment.begin() as transaction,
        ):
            end = _decode(transaction.get(b"nextid"), f"{path}, nextid")
            gone = set(_decode(transaction.get(b"deleted_ids") or zlib.compress(b"[]"), f"{path}, deleted_ids"))
            if not isinstance(end, int):
                raise DataError(f"{path}: `nextid` is {end!r}, expected a number.")
            numbers = [number for number in range(1, end) if number not in gone]
            for number in numbers[first:]:
                source = f"{path}, row {number}"
                yield _frame(_decode(transaction.get(str(number).encode()), source), source)
    except lmdb.Error as why:
        raise DataError(f"{path} is not a readable LMDB database ({why}).") from None


def _decode(raw: bytes | None, source: str) -> Any:
    if raw is None:
        raise DataError(f"{source} is missing: not an ASE database, or a damaged one.")
    if raw[:1] == b"\x80":
        raise DataError(
            f"{source} is a pickle, which epot never opens: convert the database with the code that made it."
        )
    try:
        return json.loads(zlib.decompress(raw), object_hook=_object)
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError, IndexError) as why:
        raise DataError(f"{source} is not compressed JSON ({type(why).__name__}: {why}).") from None


def _object(found: dict[str, Any]) -> Any:
    """ASE's way to write arrays in JSON; of other objects the mapping is kept."""
    if "__ndarray__" in found:
        shape, kind, values = found["__ndarray__"]
        return np.array(values, dtype=_kind(kind)).reshape(shape)
    return found["array"] if found.get("__ase_objtype__") == "cell" else found


def _kind(name: str) -> np.dtype:
    kind = np.dtype(str(name))
    if kind.kind not in "biufc":
        raise ValueError(f"an array of {name}")
    return kind


def _frame(row: Any, source: str) -> Frame:
    try:
        numbers = np.array(row["numbers"], dtype=np.int64)
        positions = np.array(row["positions"], dtype=np.float64)
        cell = np.array(row.get("cell", np.zeros((3, 3))), dtype=np.float64)
        pbc = np.array(row.get("pbc", False))
        results = {k: row[k] for k in _RESULTS if row.get(k) is not None}
        arrays = {k: np.array(row[k]) for k in _ARRAYS if row.get(k) is not None}
        info: dict[str, Any] = {}
        for key, value in {**(row.get("data") or {}), **(row.get("key_value_pairs") or {})}.items():
            per_atom = isinstance(value, np.ndarray) and value.ndim and len(value) == len(numbers)
            (arrays if per_atom else info).setdefault(key, value)
    except (KeyError, TypeError, ValueError, AttributeError) as why:
        raise DataError(f"{source} is not a row of an ASE database ({type(why).__name__}: {why}).") from None
    return Frame(numbers, positions, cell, pbc, info, arrays, results, source)
