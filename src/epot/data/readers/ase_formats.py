"""Structures of ASE: objects in memory, its SQLite database, and every calculation output that it reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from .frame import Frame

if TYPE_CHECKING:
    import ase

_OWN = ("numbers", "positions")
_LABELS = ("energy", "free_energy", "forces", "stress", "charges", "dipole", "magmom", "magmoms")


def from_atoms(atoms: ase.Atoms, source: str) -> Frame:
    """A frame of an :class:`ase.Atoms`; results are those that its calculator holds for these very positions.

    Nothing is calculated.

    Raises:
        DataError: the calculator's results belong to other positions.
    """
    results: dict[str, Any] = {}
    calculator = atoms.calc
    if calculator is not None:
        held = getattr(calculator, "results", None) or {}
        results = {k: held[k] for k in _LABELS if held.get(k) is not None}
        last = getattr(calculator, "atoms", None)
        if results and last is not None and not _same(last, atoms):
            raise DataError(
                f"The results of the calculator belong to other positions than the atoms have ({source}): compute them "
                "again, or set atoms.calc = None."
            )
    arrays = {k: np.asarray(v) for k, v in atoms.arrays.items() if k not in _OWN}
    cell = np.array(atoms.cell, dtype=np.float64)
    return Frame(atoms.numbers, atoms.positions, cell, atoms.pbc, dict(atoms.info), arrays, results, source)


def _same(one: ase.Atoms, two: ase.Atoms) -> bool:
    return (
        len(one) == len(two)
        and np.array_equal(one.numbers, two.numbers)
        and np.allclose(one.positions, two.positions, rtol=0, atol=1e-12)
        and np.allclose(one.cell, two.cell, rtol=0, atol=1e-12)
        and np.array_equal(one.pbc, two.pbc)
    )


def outputs(path: Path, format: str | None, first: int) -> Iterator[Frame]:
    """Frames of a file that ASE reads: VASP, CP2K, Quantum ESPRESSO, FHI-aims, ORCA, trajectories, ...

    Raises:
        DataError: ASE does not know the format, or cannot read the file.
    """
    from ase.io import formats

    number = first
    try:
        for atoms in formats.iread(str(path), index=slice(first, None), format=format, do_not_split_by_at_sign=True):
            yield from_atoms(atoms, f"{path}, frame {number}")
            number += 1
    except DataError:
        raise
    except formats.UnknownFileTypeError:
        raise DataError(
            f"The format of {path} is not known; name it: format='extxyz', or one of ASE's (format='vasp-out')."
        ) from None
    except Exception as why:  # ASE's readers raise whatever a malformed file makes them stumble over
        raise DataError(f"{path}, frame {number}: ASE cannot read it ({type(why).__name__}: {why}).") from why


def database(path: Path, first: int) -> Iterator[Frame]:
    """Rows of an ASE database (SQLite) in the order of their ids; keys and data become ``info``.

    Raises:
        DataError: not such a database, or a damaged row.
    """
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise DataError(f"{path} is not an SQLite database; if it is of another kind, name the format.")
    _check_tables(path)
    from ase.db import connect

    number = first
    try:
        for row in connect(str(path), type="db", use_lock_file=False, serial=True).select(sort="id", offset=first):
            yield from_row(row.toatoms(), row.key_value_pairs, row.data, f"{path}, row {row.id}")
            number += 1
    except DataError:
        raise
    except Exception as why:  # a damaged blob may make any of ASE's decoders stumble
        raise DataError(f"{path}, row {number}: not a readable ASE database ({type(why).__name__}: {why}).") from why


def _check_tables(path: Path) -> None:
    """Refuse another program's database: ASE would add its tables to it."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            tables = {name for (name,) in opened.execute("select name from sqlite_master where type = 'table'")}
    except (sqlite3.Error, UnicodeError) as why:  # names in a damaged schema need not be UTF-8
        raise DataError(f"{path} is a damaged SQLite database ({why}).") from None
    if not tables >= {"systems", "keys", "information"}:
        raise DataError(f"{path} is not a readable ASE database: its tables are {', '.join(sorted(tables)) or 'none'}.")


def from_row(atoms: ase.Atoms, pairs: Any, data: Any, source: str) -> Frame:
    """A frame of a database row; entries of ``data`` with one row per atom become arrays."""
    frame = from_atoms(atoms, source)
    for key, value in {**dict(data or {}), **dict(pairs or {})}.items():
        per_atom = isinstance(value, np.ndarray) and value.ndim and len(value) == len(frame.numbers)
        (frame.arrays if per_atom else frame.info).setdefault(key, value)
    return frame
