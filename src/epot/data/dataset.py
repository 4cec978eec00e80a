"""A sequence of structures with provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from .structure import Structure


class Dataset(Sequence[Structure]):
    """Structures, in memory or streamed from disk, with where they came from.

    Args:
        structures: any sequence; it is indexed, never copied, so it may live on disk.
        provenance: JSON-able facts (file, sha256, level of theory, units, split, ...).
        indices: which of ``structures``, in which order; None for all.
    """

    def __init__(
        self,
        structures: Sequence[Structure],
        provenance: Mapping[str, Any] | None = None,
        indices: np.ndarray | None = None,
    ) -> None:
        self._source = structures
        self.provenance = dict(provenance or {})
        self.indices = np.arange(len(structures)) if indices is None else np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, key: int) -> Structure: ...
    @overload
    def __getitem__(self, key: slice | Sequence[int] | np.ndarray) -> Dataset: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, np.integer)):
            return self._source[int(self.indices[key])]
        chosen = self.indices[key if isinstance(key, slice) else np.asarray(key)]
        return Dataset(self._source, self.provenance, chosen)

    def __iter__(self) -> Iterator[Structure]:
        for index in self.indices:
            yield self._source[int(index)]

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        found: set[int] = set()
        for structure in self:
            found.update(structure.numbers.tolist())
        return tuple(sorted(found))

    def has(self, label: str) -> np.ndarray:
        """Which structures have the label, ``(len,)`` bool."""
        return np.array([s.has(label) for s in self], dtype=bool)

    def __repr__(self) -> str:
        return f"Dataset({len(self)} structures)"
