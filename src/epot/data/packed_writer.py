"""Write a packed file (:mod:`.packed`) in two passes over the structures: how large everything is, then everything."""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import files
from ..errors import DataError
from ..progress import track
from . import records
from .dataset import Dataset
from .packed import FORMAT, USERBLOCK, Packed, make_head
from .structure import LABELS, Structure

_TALL = ("numbers", "positions", "forces", "charges")


def write_packed(structures: Iterable[Structure], target: Path, provenance: Mapping[str, Any]) -> Dataset:
    """Write beside ``target``, flush to the disk, and put it in its place.

    Args:
        structures: can be passed over twice and gives the same both times.
        target: the packed file.
        provenance: JSON.

    Raises:
        DataError: there is nothing to write, or the disk refuses.
    """
    with files.replacing(target) as beside:
        columns = _plan(structures, provenance)
        places = _lay_out(columns, beside)
        _fill(structures, columns, places, beside)
    store = Packed(target)
    return Dataset(store, store.provenance)


def _plan(structures: Iterable[Structure], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Every column: an array where it is small, or its shape and type where it is filled in the second pass."""
    sizes, extras, masks, charges = [], [], [], []
    names: dict[str, dict[str, int]] = {"config_type": {}, "group": {}}
    codes: dict[str, list[int]] = {"config_type": [], "group": []}
    for structure in track(structures, "Measuring"):
        sizes.append(len(structure))
        extras.append(len(_extra(structure)))
        masks.append(sum(structure.has(label) << bit for bit, label in enumerate(LABELS)))
        charges.append(structure.charge)
        for name, table in names.items():
            value = getattr(structure, name)
            codes[name].append(-1 if value is None else table.setdefault(value, len(table)))
    n, atoms = len(sizes), sum(sizes)
    if not n:
        raise DataError("There are no structures to write.")
    columns: dict[str, Any] = {
        "pointers": np.concatenate([[0], np.cumsum(sizes)]).astype("<i8"),
        "extra_pointers": np.concatenate([[0], np.cumsum(extras)]).astype("<i8"),
        "labels": np.array(masks, "u1"),
        "charge": np.array(charges, "<f8"),
        "config_type": np.array(codes["config_type"], "<i4"),
        "group": np.array(codes["group"], "<i4"),
        "config_types": _json(list(names["config_type"])),
        "groups": _json(list(names["group"])),
        "provenance": _json(dict(provenance)),
        "numbers": ((atoms,), "u1"),
        "positions": ((atoms, 3), "<f8"),
        "cell": ((n, 3, 3), "<f8"),
        "pbc": ((n, 3), "u1"),
        "extra": ((sum(extras),), "u1"),
    }
    anywhere = int(np.bitwise_or.reduce(columns["labels"]))
    shapes = {"energy": (n,), "forces": (atoms, 3), "stress": (n, 3, 3), "charges": (atoms,), "dipole": (n, 3)}
    for bit, label in enumerate(LABELS):
        if anywhere >> bit & 1:
            columns[label] = (shapes[label], "<f8")
    return columns


def _json(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value, default=str).encode(), "u1")


def _extra(structure: Structure) -> bytes:
    return records.encode_mapping(records.extras(structure))


def _lay_out(columns: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Make the HDF5 file with room for every column; where each begins."""
    contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    contiguous.set_layout(h5py.h5d.CONTIGUOUS)
    contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    contiguous.set_obj_track_times(False)  # the same content gives the same bytes
    places = {}
    with h5py.File(path, "w", userblock_size=USERBLOCK) as file:
        file.attrs["epot_packed_format"] = FORMAT
        for name, column in columns.items():
            shape, kind = (column.shape, column.dtype) if isinstance(column, np.ndarray) else column
            space = h5py.h5s.create_simple(tuple(shape))
            kind_id = h5py.h5t.py_create(np.dtype(kind), logical=True)
            made = h5py.h5d.create(file.id, name.encode(), kind_id, space, dcpl=contiguous)
            places[name] = int(made.get_offset())
    return places


def _fill(structures: Iterable[Structure], columns: Mapping[str, Any], places: dict[str, int], path: Path) -> None:
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and would be a crash in the mapped memory
            os.posix_fallocate(file.fileno(), 0, size)
        with mmap.mmap(file.fileno(), 0) as mapped:
            views = {}
            for name, column in columns.items():
                shape, kind = (column.shape, column.dtype) if isinstance(column, np.ndarray) else column
                views[name] = np.ndarray(tuple(shape), kind, buffer=mapped, offset=places[name])
                if isinstance(column, np.ndarray):
                    views[name][...] = column
            _copy(structures, views)
            index = {
                name: [places[name], view.dtype.str, list(view.shape), zlib.crc32(view.data)]
                for name, view in views.items()
            }
            views.clear()
            mapped[:USERBLOCK] = make_head({"format": FORMAT, "bytes": size, "columns": index})
            mapped.flush()


def _copy(structures: Iterable[Structure], views: Mapping[str, np.ndarray]) -> None:
    pointers, extras = views["pointers"].tolist(), views["extra_pointers"].tolist()
    present = [label for label in LABELS if label in views]
    for k, structure in enumerate(track(structures, "Packing", total=len(pointers) - 1)):
        atoms = slice(pointers[k], pointers[k + 1])
        views["numbers"][atoms] = structure.numbers
        views["positions"][atoms] = structure.positions
        views["cell"][k] = structure.cell
        views["pbc"][k] = structure.pbc
        for label in present:
            if structure.has(label):
                views[label][atoms if label in _TALL else k] = getattr(structure, label)
        views["extra"][extras[k] : extras[k + 1]] = np.frombuffer(_extra(structure), "u1")
