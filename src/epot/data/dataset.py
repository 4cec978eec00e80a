"""A sequence of structures with provenance."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..errors import DataError
from .structure import LABELS, Structure

if TYPE_CHECKING:
    from .statistics import Statistics


class Dataset(Sequence[Structure]):
    """Structures, in memory or streamed from disk, with where they came from. It never changes.

    Args:
        structures: any sequence; it is indexed, never copied, so it may live on disk.
        provenance: JSON-able facts (files, sha256, keys, units, level of theory, split, ...).
        indices: which of ``structures``, in which order; None for all.
    """

    def __init__(
        self,
        structures: Sequence[Any],
        provenance: Mapping[str, Any] | None = None,
        indices: np.ndarray | None = None,
    ) -> None:
        self._source = structures
        self.provenance = dict(provenance or {})
        self.indices = np.arange(len(structures)) if indices is None else np.asarray(indices, dtype=np.int64)
        self._sha256: str | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, key: int) -> Structure: ...
    @overload
    def __getitem__(self, key: slice | Sequence[int] | np.ndarray) -> Dataset: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, np.integer)):
            return self._source[int(self.indices[key])]
        chosen = self.indices[key if isinstance(key, slice) else np.asarray(key, dtype=_index_type(key))]
        return Dataset(self._source, self.provenance, chosen)

    def __iter__(self) -> Iterator[Structure]:
        for index in self.indices.tolist():
            yield self._source[index]

    def __repr__(self) -> str:
        return f"Dataset({len(self)} structures)"

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        found: set[int] = set()
        for structure in self:
            found.update(structure.numbers.tolist())
        return tuple(sorted(found))

    def has(self, label: str) -> np.ndarray:
        """Which structures have the label, ``(len,)`` bool."""
        quick = getattr(self._source, "has", None)  # a packed store knows without reading structures
        if quick is not None:
            return quick(label)[self.indices]
        return np.array([s.has(label) for s in self], dtype=bool)

    def column(self, name: str) -> list[Any]:
        """One attribute (``"energy"``, ``"config_type"``, ``"group"``, ``"charge"``) of every structure."""
        quick = getattr(self._source, "column", None)
        if quick is not None:
            values = quick(name)
            if values is not None:
                return [values[k] for k in self.indices.tolist()]
        return [getattr(s, name) for s in self]

    def where(self, condition: Callable[[Structure], bool] | None = None, **equal: Any) -> Dataset:
        """Those structures for which a condition holds: ``data.where(lambda s: len(s) > 3)``.

        Args:
            condition: of a structure.
            **equal: attributes and the value they must have (``group="a"``), or a tuple, list or set of values.
        """
        keep = np.ones(len(self), dtype=bool)
        for name, wanted in equal.items():
            if name not in Structure.__dataclass_fields__ or name in (
                "numbers",
                "positions",
                "cell",
                "pbc",
                *LABELS[1:],
            ):
                raise DataError(
                    f"where({name}=...) cannot be compared; use energy, charge, spin, config_type, group, source."
                )
            values = wanted if isinstance(wanted, (tuple, list, set, frozenset)) else (wanted,)
            keep &= np.array([value in values for value in self.column(name)], dtype=bool)
        if condition is not None:
            keep = np.array([k and bool(condition(s)) for k, s in zip(keep, self, strict=True)], dtype=bool)
        chosen = self[np.flatnonzero(keep)]
        chosen.provenance["where"] = [
            *self.provenance.get("where", []),
            {"kept": len(chosen), "of": len(self), "equal": {k: _plain(v) for k, v in equal.items()},
             "condition": getattr(condition, "__name__", None)},
        ]  # fmt: skip
        return chosen

    def __add__(self, other: Dataset) -> Dataset:
        """One after the other; nothing is copied. The provenance keeps that of both under ``parts``."""
        if not isinstance(other, Dataset):
            return NotImplemented
        parts = [p for d in (self, other) for p in d.provenance.get("parts", [d.provenance])]
        merged: dict[str, Any] = {"files": [f for p in parts for f in p.get("files", [])], "parts": parts}
        merged["notes"] = [note for p in parts for note in p.get("notes", [])]
        theories = list(dict.fromkeys(p.get("theory") for p in parts))
        if len(theories) == 1 and theories[0] is not None:
            merged["theory"] = theories[0]
        elif len([t for t in theories if t is not None]) > 1:
            merged["notes"].append(f"levels of theory are mixed: {', '.join(map(str, theories))}.")
        return Dataset(_Chain((self, other)), merged)

    def split(
        self, *fractions: float | int, seed: int = 0, by: str | Callable[[Structure], Any] = "random"
    ) -> list[Dataset]:
        """Disjoint parts, always the same for the same data and seed.

        Args:
            *fractions: one for each part (``0.8, 0.1, 0.1``), or numbers of structures (``1000, 200``).
            seed: of the shuffling.
            by: ``"random"``; ``"group"``: no group on two sides (``Structure.group``; or a function of a structure that
                names its group); ``"config_type"``: each type in the same proportions; ``"farthest"``: the first part
                covers the data by farthest-point selection, the rest is divided at random.

        Returns:
            One dataset for each fraction; ``provenance["split"]`` says how and which (a hash of the indices).

        Raises:
            ConfigError: fractions that are impossible, an unknown ``by``.
            DataError: too few structures or groups.
        """
        from .split import split

        return split(self, fractions, seed=seed, by=by)

    def statistics(self) -> Statistics:
        """Counts, elements, coverage and ranges of labels, closest approaches."""
        from .statistics import statistics

        return statistics(self)

    def write(self, path: str | os.PathLike) -> Path:
        """Write to extended XYZ (``.xyz``, also ``.gz``, ``.xz``, ``.bz2``, ``.zst``) or to packed HDF5 (``.h5``).

        Numbers are written with all their digits. The previous file stays until the new one is complete.

        Raises:
            DataError: another suffix, or the disk refuses.
        """
        from .writers import write

        return write(self, path)

    def sha256(self) -> str:
        """Of the content: atoms, cells and labels in their order; not of file names, format or provenance."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for structure in self:
                digest.update(fingerprint(structure))
            self._sha256 = digest.hexdigest()
        return self._sha256


class _Chain(Sequence[Structure]):
    """Datasets one after the other."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(p) for p in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - (int(self._ends[part - 1]) if part else 0)]

    def has(self, label: str) -> np.ndarray:
        return np.concatenate([p.has(label) for p in self._parts])

    def column(self, name: str) -> list[Any]:
        return [value for p in self._parts for value in p.column(name)]


def fingerprint(structure: Structure) -> bytes:
    """32 bytes that differ where atoms, cell, labels, charge, spin, config_type or group differ in any bit."""
    mask = bytes(structure.has(label) for label in LABELS)
    words = repr((len(structure), structure.charge, structure.spin, structure.config_type, structure.group))
    digest = hashlib.sha256(mask + words.encode())
    for value in (structure.numbers, structure.positions, structure.cell, structure.pbc):
        digest.update(np.ascontiguousarray(value).tobytes())
    for label in LABELS:
        value = getattr(structure, label)
        if value is not None:
            digest.update(np.ascontiguousarray(value, dtype=np.float64).tobytes())
    return digest.digest()


def _index_type(key: Any) -> Any:
    return None if len(key) else np.int64  # an empty list would become an array of floats


def _plain(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
