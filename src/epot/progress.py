"""One progress bar for everything that may take longer than two seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Bar:
    """What :func:`bar` yields: ``advance`` it, ``note`` beside it what is happening."""

    def __init__(self, progress: Any = None, task: Any = None) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int | float = 1) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, steps)

    def note(self, text: str) -> None:
        if self._progress is not None:
            self._progress.update(self._task, note=text)


@contextmanager
def bar(label: str, total: int | float | None) -> Iterator[Bar]:
    """A bar on standard error while the block runs; a line at the end where there is no terminal.

    Args:
        label: what is being done.
        total: how many steps; None where it is not known.

    ``EPOT_PROGRESS=0`` silences it.
    """
    if os.environ.get("EPOT_PROGRESS") == "0":
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    start = time.monotonic()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=False) as progress:
        yield Bar(progress, progress.add_task(label, total=total, note=""))
    seconds = time.monotonic() - start
    if not console.is_terminal and seconds > 2:
        print(f"{label}: {seconds:.1f} s", file=sys.stderr)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """``items``, with a bar."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with bar(label, total) as shown:
        for item in items:
            yield item
            shown.advance()


def say(text: str) -> None:
    """A line for the person who waits, on standard output, at once."""
    print(text, flush=True)


def notice(text: str) -> None:
    """A line for the person who waits, on standard error; ``EPOT_PROGRESS=0`` silences it."""
    if os.environ.get("EPOT_PROGRESS") != "0":
        print(text, file=sys.stderr, flush=True)
