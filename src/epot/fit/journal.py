"""What a fit did, as lines of JSON: for people, plots and reports."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class Journal:
    """Appends one JSON object a line to ``journal.jsonl`` (or keeps them in memory, without a folder)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = None if folder is None else Path(folder) / "journal.jsonl"
        self.lines: list[dict[str, Any]] = [] if self.path is None else read(self.path)

    def write(self, event: str, **facts: Any) -> None:
        """Note an event (``"epoch"``, ``"solve"``) with its facts, JSON only."""
        line = {"event": event, "time": round(time.time(), 3)} | facts
        self.lines.append(line)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")

    def truncate(self, keep: int) -> None:
        """Forget everything after the first ``keep`` lines: what an interrupted run wrote past its checkpoint."""
        self.lines = self.lines[:keep]
        if self.path is not None and self.path.exists():
            self.path.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; a line torn by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
