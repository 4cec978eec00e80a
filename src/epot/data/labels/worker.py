"""A process that labels structures: JSON lines in, JSON lines out.

Started as ``python -m epot.data.labels.worker`` by :mod:`.pool`. A process of its own, so that an engine that crashes,
hangs or fills the memory takes one label with it; started by name, so that a user's script needs no
``if __name__ == "__main__"``. It ends when its standard input does, and so never outlives what started it.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any

from ...errors import EpotError
from .engines import make
from .task import attempt, unpack


def main() -> None:
    """Read the engine, then one structure a line; answer each."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever an engine prints goes to standard error
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    order = json.loads(lines.get())
    try:
        engine = make(order["engine"], order["options"])
        answer: dict[str, Any] = {"ready": True}
    except EpotError as why:
        answer = {"reason": str(why)}
    print(json.dumps(answer), file=out, flush=True)
    while True:
        structure = unpack(json.loads(lines.get()))
        print(json.dumps(attempt(engine, structure, tuple(order["properties"]))), file=out, flush=True)


if __name__ == "__main__":
    main()
