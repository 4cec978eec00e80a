"""The folder of a run: files that grow, and a checkpoint that says up to where they count.

A checkpoint is written beside and renamed, after the growing files were flushed to the disk; it holds their
lengths. On resume they are cut to these lengths, so that what a killed run wrote past its checkpoint is written
again, once.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SimulationError
from ..files import write_atomic

GROWING = ("thermo.csv", "trajectory.xyz", "outside.xyz")
CHECKPOINT = "checkpoint.npz"
SUMMARY = "summary.json"
FORMAT = 1


class RunFolder:
    """Files of one run. Without a path what would be written is kept in memory.

    Args:
        path: the folder, made if need be; None for memory.

    Raises:
        SimulationError: the folder cannot be made or written.
    """

    def __init__(self, path: str | os.PathLike | None) -> None:
        self.path = None if path is None else Path(path)
        self.memory: dict[str, list[str]] = {name: [] for name in GROWING}
        self._open: dict[str, Any] = {}
        if self.path is not None:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as why:
                raise SimulationError(f"The folder {self.path} cannot be made: {why}.") from why

    def append(self, name: str, text: str) -> None:
        """Add to a growing file."""
        if self.path is None:
            self.memory[name].append(text)
            return
        try:
            if name not in self._open:
                self._open[name] = (self.path / name).open("ab")
            self._open[name].write(text.encode())
        except OSError as why:
            raise SimulationError(self._full(name, why)) from why

    def _full(self, name: str, why: OSError) -> str:
        return (
            f"{name} in {self.path} could not be written ({why}). The run up to its last checkpoint is intact: make "
            "room and start the same command again."
        )

    def text(self, name: str) -> str:
        """What a growing file holds."""
        if self.path is None:
            return "".join(self.memory[name])
        self.flush()
        path = self.path / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def flush(self) -> None:
        """Everything that was appended is in the files."""
        for name, file in self._open.items():
            try:
                file.flush()
            except OSError as why:
                raise SimulationError(self._full(name, why)) from why

    def close(self) -> None:
        self.flush()
        for file in self._open.values():
            file.close()
        self._open = {}

    def save(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """A checkpoint: arrays, JSON, and the lengths of the growing files."""
        if self.path is None:
            return
        self.flush()
        for file in self._open.values():
            os.fsync(file.fileno())
        lengths = {name: (self.path / name).stat().st_size for name in GROWING if (self.path / name).exists()}
        text = json.dumps(dict(facts) | {"format": FORMAT, "lengths": lengths})
        buffer = io.BytesIO()
        np.savez(buffer, **(dict(arrays) | {"facts": np.array(text)}))  # type: ignore[arg-type]
        write_atomic(self.path / CHECKPOINT, buffer.getvalue(), error=SimulationError)

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The checkpoint, or None; cuts the growing files to where it counts.

        Raises:
            SimulationError: it cannot be read, is of a newer format, or a file is shorter than it says.
        """
        if self.path is None or not (self.path / CHECKPOINT).exists():
            return None
        try:
            with np.load(io.BytesIO((self.path / CHECKPOINT).read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(str(arrays.pop("facts")))
            version = facts["format"]
            lengths = {name: int(facts["lengths"].get(name, 0)) for name in GROWING}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as why:
            raise SimulationError(
                f"{self.path / CHECKPOINT} cannot be read ({why}): take another folder, or resume=False to start anew."
            ) from why
        if version != FORMAT:
            raise SimulationError(f"{self.path / CHECKPOINT} has format {version}; this epot reads {FORMAT}.")
        return arrays, facts | {"lengths": lengths}

    def cut(self, lengths: Mapping[str, int]) -> None:
        """Forget what growing files hold past these lengths (bytes).

        Raises:
            SimulationError: a file is shorter: somebody changed it.
        """
        if self.path is None:
            return
        self.close()
        for name in GROWING:
            path, length = self.path / name, int(lengths.get(name, 0))
            size = path.stat().st_size if path.exists() else 0
            if size < length:
                raise SimulationError(
                    f"{path} has {size} bytes; the checkpoint says {length}. It was changed or replaced: "
                    "put it back, take another folder, or resume=False to start anew."
                )
            if size > length:
                os.truncate(path, length)

    def clear(self) -> None:
        """Forget an earlier run."""
        if self.path is None:
            return
        self.close()
        for name in (CHECKPOINT, SUMMARY, *GROWING):
            (self.path / name).unlink(missing_ok=True)

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """``summary.json``."""
        if self.path is not None:
            write_atomic(self.path / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode(), error=SimulationError)
