"""What every reader yields: one frame as the file has it, before anyone decided what its labels are called."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Frame(NamedTuple):
    """One frame of a file.

    Attributes:
        numbers: ``(atoms,)`` int64.
        positions: ``(atoms, 3)``, in the file's unit of length.
        cell: ``(3, 3)``, rows.
        pbc: ``(3,)`` bool.
        info: values of the whole structure, by the file's names.
        arrays: values per atom, by the file's names.
        results: what a calculation said, by ASE's names and in ASE's units; nothing for plain files.
        source: ``"train.xyz, frame 17"``, for messages.
        checked: numbers are those of elements, arrays have the shapes and types above and belong to this frame alone.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    info: dict[str, Any]
    arrays: dict[str, np.ndarray]
    results: dict[str, Any]
    source: str
    checked: bool = False
