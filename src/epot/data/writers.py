"""Write a dataset to extended XYZ or to packed HDF5, completely or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..elements import SYMBOLS
from ..errors import DataError
from ..progress import track
from .dataset import Dataset
from .readers.compressed import bare_name, writing
from .readers.spelling import is_label
from .readers.xyz import Mistake, parse_comment
from .structure import Structure


def write(data: Dataset, path: str | os.PathLike) -> Path:
    """See :meth:`Dataset.write`."""
    path = Path(path)
    suffix = Path(bare_name(path)).suffix
    if suffix in (".h5", ".hdf5"):
        from .packed_writer import write_packed

        write_packed(data, path, data.provenance)
        return path
    if suffix not in (".xyz", ".extxyz"):
        raise DataError(
            f"Cannot write {path.name}: its suffix says no format that epot writes; use .xyz (also .xyz.gz, .xyz.xz, "
            ".xyz.bz2, .xyz.zst) or .h5."
        )
    with files.replacing(path) as beside, writing(beside, path.name.lower()) as out:
        write_xyz(track(data, f"Writing {path.name}"), out)
    return path


def write_xyz(structures: Iterable[Structure], out: Any) -> None:
    """Frames of extended XYZ as ASE reads them: ``energy`` eV, ``forces`` eV/Å, ``stress`` eV/Å^3, ...

    A leftover key that a reader would take for a label (a second energy) is written with ``other_`` before it.
    """
    for structure in structures:
        out.write(_frame(structure).encode())


def _frame(structure: Structure) -> str:
    columns: dict[str, np.ndarray] = {"pos": structure.positions}
    columns |= {name: getattr(structure, name) for name in ("forces", "charges") if structure.has(name)}
    for name, values in structure.arrays.items():
        if np.shape(values)[:1] == (len(structure),):
            columns[_key(name, columns, "arrays")] = np.asarray(values).reshape(len(structure), -1)
    properties, texts = ["species:S:1"], [[SYMBOLS[z] for z in structure.numbers.tolist()]]
    for name, values in columns.items():
        kind, made = _column(values.reshape(len(structure), -1))
        properties.append(f"{name}:{kind}:{len(made)}")
        texts.extend(made)
    head = _comment(structure, ":".join(properties))
    body = "\n".join(" ".join(row) for row in zip(*texts, strict=True))
    return f"{len(structure)}\n{head}\n{body}\n"


def _column(values: np.ndarray) -> tuple[str, list[list[str]]]:
    kind = {"f": "R", "i": "I", "u": "I", "b": "L"}.get(values.dtype.kind, "S")
    if kind == "L":
        return kind, [["T" if x else "F" for x in column] for column in values.T]
    if kind == "S":
        return kind, [[str(x).replace(" ", "_") or "_" for x in column] for column in values.T]
    return kind, [[repr(x) for x in column] for column in values.T.tolist()]


def _comment(structure: Structure, properties: str) -> str:
    parts: dict[str, Any] = {}
    cell = np.asarray(structure.cell)
    if cell.any():
        parts["Lattice"] = cell.ravel()
    parts["Properties"] = properties
    for name in ("energy", "stress", "dipole", "charge", "spin", "config_type", "group"):
        value = getattr(structure, name)
        if value is not None and not (name == "charge" and value == 0.0):
            parts[name] = value.T.ravel() if name == "stress" else value
    for name, value in structure.info.items():
        parts[_key(name, parts, "info")] = value
    parts["pbc"] = [bool(p) for p in structure.pbc]
    return " ".join(f"{_word(name)}={_text(name, value)}" for name, value in parts.items())


def _key(name: str, taken: Mapping[str, Any], place: str) -> str:
    name = str(name)
    while (
        name in taken
        or name in ("Lattice", "Properties", "pbc", "pos", "species", "Z", "numbers")
        or is_label(name, place)
    ):
        name = f"other_{name}"
    return name.replace(":", "_") if place == "arrays" else name


def _word(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-." else "_" for c in name) or "_"


def _text(name: str, value: Any) -> str:
    """The shortest text that is read back as the same value."""
    if name == "Properties":
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, int, float)):
        return ("T" if value else "F") if isinstance(value, bool) else repr(value)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.size > 1 and value.dtype.kind in "if":
        return '"' + " ".join(map(repr, value.tolist())) + '"'
    if isinstance(value, list) and len(value) > 1 and all(isinstance(v, bool) for v in value):
        return '"' + " ".join("T" if v else "F" for v in value) + '"'
    if isinstance(value, str) and value and not set(value) & set("\n\r"):
        quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        plain = value if not set(value) & set(" \t\"'\\={}[],") else quoted
        if _read_back(plain) == value:
            return plain
        if _read_back(quoted) == value:
            return quoted
    made = json.dumps(_jsonable(value)).replace("\\", "\\\\").replace('"', '\\"')
    return f'"_JSON {made}"'


def _read_back(text: str) -> Any:
    try:
        return parse_comment(f"key={text} last=1").get("key")
    except Mistake:
        return None


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _jsonable(value.tolist())
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
