"""numpy archives: rMD17's, sGDML's, and any with numbers, positions and labels whose units are declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from .frame import Frame
from .keys import Rules

if TYPE_CHECKING:
    from .sources import Opened

_NAMES = {
    "numbers": ("nuclear_charges", "z", "Z", "numbers", "atomic_numbers", "species"),
    "positions": ("coords", "R", "positions", "pos", "coordinates"),
    "cell": ("cell", "cells", "lattice"),
    "pbc": ("pbc",),
}
_LABELS = {
    "energy": ("energy", "energies", "E"),
    "forces": ("forces", "F"),
    "stress": ("stress", "stresses"),
    "dipole": ("dipole", "dipoles", "D"),
    "charges": ("charges", "atomic_charges"),
}
_RMD17 = {"nuclear_charges", "coords", "energies", "forces", "old_indices", "old_energies", "old_forces"}


def open_npz(path: Path, rules: Rules, first: int) -> Opened:
    """Frames of an archive and the units of its kind.

    Raises:
        DataError: not an archive, pickled objects in it, arrays missing or of the wrong shape, or units that are
            neither declared nor known from the kind of archive.
    """
    from .sources import Opened

    arrays = _load(path)
    convention, units = _units(path, arrays, rules)
    return Opened(_frames(path, arrays, rules, first), convention, units)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds a single array; expected an archive (.npz) with names.")
            return {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except Exception as why:  # zip and npy headers can be damaged in any way
        raise DataError(f"{path} is not a readable npz archive ({type(why).__name__}: {why}).") from None


def _units(path: Path, arrays: Mapping[str, np.ndarray], rules: Rules) -> tuple[str, dict[str, str]]:
    if set(arrays) >= _RMD17:
        return "rMD17, known by its keys: kcal/mol and Å", {"energy": "kcal/mol", "length": "Å"}
    if "e_unit" in arrays and "r_unit" in arrays:
        length = {"Ang": "Å", "Angstrom": "Å"}.get(str(arrays["r_unit"]), str(arrays["r_unit"]))
        units = {"energy": str(arrays["e_unit"]), "length": length}
        return f"sGDML, e_unit={units['energy']} and r_unit={units['length']} in the file", units
    if missing := [name for name in ("energy", "length") if name not in rules.units]:
        raise DataError(
            f"{path} does not say its units, and its keys ({', '.join(arrays)}) are those of no known data set: "
            f"declare the unit of {' and '.join(missing)} (units={{'energy': 'kcal/mol', 'length': 'Å'}}; on the "
            "command line --unit energy=kcal/mol --unit length=Å)."
        )
    return "declared", {}


def _frames(path: Path, arrays: dict[str, np.ndarray], rules: Rules, first: int) -> Iterator[Frame]:
    numbers, positions = _needed(path, arrays, "numbers"), _needed(path, arrays, "positions")
    cells, periodic = _first(arrays, "cell"), _first(arrays, "pbc")
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise DataError(f"{path}: positions have shape {positions.shape}, expected (frames, atoms, 3).")
    count, n = positions.shape[:2]
    if numbers.shape not in ((n,), (count, n)) or numbers.dtype.kind not in "iu":
        raise DataError(f"{path}: numbers are {numbers.dtype} of shape {numbers.shape}, expected ({n},) integers.")
    labels = _renamed(path, arrays, rules, count)
    zero = np.zeros((3, 3))
    for k in range(first, count):
        source = f"{path}, frame {k}"
        z = numbers if numbers.ndim == 1 else numbers[k]
        real = np.flatnonzero(z)  # archives of different molecules are padded with zeros
        info: dict[str, Any] = {}
        rows: dict[str, np.ndarray] = {}
        for name, values in labels.items():
            value = values[k]
            if value.ndim and value.shape[0] == n:
                rows[name] = value[real]
            else:
                info[name] = value if value.ndim else value.item()
        cell = _row(cells, k, (3, 3), zero, source)
        pbc = _row(periodic, k, (3,), np.full(3, bool(np.abs(cell).max() > 0)), source)
        yield Frame(z[real].astype(np.int64), positions[k][real], cell, pbc, info, rows, {}, source)


def _first(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    return next((arrays[key] for key in _NAMES[name] if key in arrays), None)


def _needed(path: Path, arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    found = _first(arrays, name)
    if found is None:
        raise DataError(f"{path} has no {name}; expected one of {', '.join(_NAMES[name])}, it has {', '.join(arrays)}.")
    return found


def _renamed(path: Path, arrays: Mapping[str, np.ndarray], rules: Rules, count: int) -> dict[str, np.ndarray]:
    """Arrays with one entry per frame; those of labels under the label's name, unless the user named another."""
    atoms = {key for keys in _NAMES.values() for key in keys}
    rest = {k: v for k, v in arrays.items() if k not in atoms and v.dtype.kind in "biuf"}
    found = {k: v for k, v in rest.items() if v.ndim and len(v) == count}
    for label, keys in _LABELS.items():
        there = [key for key in keys if key in arrays]
        if label in rules.keys or not there:
            continue
        if there[0] not in found:
            raise DataError(f"{path}: `{there[0]}` has shape {arrays[there[0]].shape}, expected {count} entries.")
        value = found.pop(there[0])
        found[label] = value.reshape(count) if label == "energy" and value.size == count else value
    return found


def _row(values: np.ndarray | None, k: int, shape: tuple[int, ...], default: np.ndarray, source: str) -> np.ndarray:
    if values is None:
        return default
    made = values if values.shape == shape else values[k] if values.ndim == len(shape) + 1 and k < len(values) else None
    if made is None or made.shape != shape or made.dtype.kind not in "biuf":
        raise DataError(f"A cell or pbc has shape {values.shape}, expected {shape} for each frame ({source}).")
    return made
