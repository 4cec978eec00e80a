"""The store of a labelling campaign: every label is committed as it comes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, DataError
from ..structure import Structure

FORMAT = 1


def key_of(structure: Structure, settings: str) -> str:
    """What a label is filed under: the hash of geometry, charge, spin and everything the engine was told."""
    digest = hashlib.sha256(settings.encode())
    for array in (structure.numbers, structure.positions, structure.cell, structure.pbc):
        data = np.ascontiguousarray(array)
        digest.update(str(data.shape).encode() + data.tobytes())
    digest.update(json.dumps([structure.charge, structure.spin]).encode())
    return digest.hexdigest()


class Campaign:
    """Labels and failures in an SQLite file; a kill at any moment leaves all that was put in.

    Args:
        path: the file, made if it is not there; None keeps it in memory.
        settings: the engine's, JSON-able.

    Raises:
        ConfigError: the file holds labels of other settings.
        DataError: the file is not a campaign.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings = json.dumps(settings, sort_keys=True)
        self._database = sqlite3.connect(":memory:" if path is None else path, timeout=60)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            with self._database:
                self._database.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)")
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS labels (key TEXT PRIMARY KEY, labels TEXT, reason TEXT, "
                    "seconds REAL, version TEXT, time TEXT DEFAULT CURRENT_TIMESTAMP)"
                )
                self._agree()
        except (sqlite3.DatabaseError, UnicodeError) as why:  # names in a damaged schema need not be UTF-8
            self.close()
            raise DataError(
                f"{path} cannot be used as a campaign's store ({why}): move it away to start afresh."
            ) from None
        except ConfigError:
            self.close()
            raise

    def _agree(self) -> None:
        facts = dict(self._database.execute("SELECT name, value FROM facts"))
        if int(facts.get("format", FORMAT)) > FORMAT:
            raise ConfigError(f"{self.path} was written by a newer epot (format {facts['format']}): update epot.")
        if facts.get("settings", self.settings) != self.settings:
            old, new = json.loads(facts["settings"]), json.loads(self.settings)
            changed = [
                f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in sorted(old | new) if old.get(k) != new.get(k)
            ]
            raise ConfigError(
                f"{self.path} holds labels of other settings ({'; '.join(changed)}). Labels of two levels of theory "
                "do not mix in one file: give another output, or move the campaign away."
            )
        self._database.executemany(
            "INSERT OR IGNORE INTO facts VALUES (?, ?)", [("format", str(FORMAT)), ("settings", self.settings)]
        )

    def put(self, key: str, answer: Mapping[str, Any], version: str) -> None:
        """Commit one label (``{"labels": ...}``) or failure (``{"reason": ...}``)."""
        labels = json.dumps(answer["labels"]) if "labels" in answer else None
        with self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO labels (key, labels, reason, seconds, version) VALUES (?, ?, ?, ?, ?)",
                (key, labels, answer.get("reason"), answer.get("seconds"), version),
            )

    def state(self) -> tuple[set[str], dict[str, str]]:
        """Keys of what is labelled, and key to reason of what failed."""
        rows = self._database.execute("SELECT key, reason FROM labels").fetchall()
        return {k for k, reason in rows if reason is None}, {k: r for k, r in rows if r is not None}

    def get(self, key: str) -> tuple[dict[str, Any], str]:
        """The labels filed under ``key`` and the version of the program that made them."""
        row = self._database.execute("SELECT labels, version FROM labels WHERE key = ?", (key,)).fetchone()
        if row is None or row[0] is None:
            raise DataError(f"There is no label under {key}.")
        labels = {k: np.array(v) if isinstance(v, list) else v for k, v in json.loads(row[0]).items()}
        return labels, row[1]

    def seconds(self) -> float:
        """Wall time of all labels together, summed over the workers."""
        return float(self._database.execute("SELECT COALESCE(SUM(seconds), 0) FROM labels").fetchone()[0])

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
