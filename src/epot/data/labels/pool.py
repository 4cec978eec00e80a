"""Labelling in parallel: one process a worker, watched by one thread each."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ...errors import EngineError
from ..structure import Structure
from .engines import Engine, options_of
from .task import attempt, pack

Answer = dict[str, Any]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def run(
    tasks: Iterable[tuple[str, Structure]],
    engine: Engine,
    properties: tuple[str, ...],
    *,
    workers: int,
    timeout: float | None,
    threads: int = 1,
) -> Iterator[tuple[str, Answer]]:
    """Label ``tasks`` (key, structure); yields (key, answer) as they come, in no particular order.

    Args:
        tasks: what to label.
        engine: what labels; each worker makes its own from its settings.
        properties: the wanted labels.
        workers: processes; 0 labels in this one, without protection against crashes and hangs.
        timeout: seconds after which a label is given up and its process killed; None to wait for ever.
        threads: each worker's.

    Raises:
        EngineError: a worker cannot make the engine.
    """
    if workers == 0:
        for key, structure in tasks:
            yield key, attempt(engine, structure, properties)
        return
    waiting: queue.SimpleQueue[tuple[str, Structure]] = queue.SimpleQueue()
    count = 0
    for task in tasks:
        waiting.put(task)
        count += 1
    order = order_for(engine, properties)
    answers: queue.SimpleQueue[tuple[str, Answer] | EngineError] = queue.SimpleQueue()
    crew = [_Crew(waiting, answers, Worker(order, timeout, threads)) for _ in range(min(workers, count))]
    try:
        for member in crew:
            member.start()
        for _ in range(count):
            answer = answers.get()
            if isinstance(answer, EngineError):
                raise answer
            yield answer
    finally:
        for member in crew:
            member.worker.stop()
        for member in crew:
            member.join()


class Worker:
    """One process that labels; made when first asked, and anew when it died.

    A process of its own also has its own number of threads: several of them on one small molecule, on a busy
    machine, are a hundred times slower than one.

    Args:
        order: ``{"engine": name, "options": ..., "properties": [...]}``.
        timeout: seconds after which a label is given up; None to wait for ever.
        threads: of the process.
    """

    def __init__(self, order: Answer, timeout: float | None = None, threads: int = 1) -> None:
        self.order, self.timeout, self.threads = order, timeout, threads
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False
        self.lock = threading.Lock()

    def label(self, structure: Structure) -> Answer:
        """The answer of :func:`.task.attempt`, or the reason why the process could not give one.

        Raises:
            EngineError: the process cannot make the engine.
        """
        process = self.process or self._begin()
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.timeout, give_up) if self.timeout else None
        if timer:
            timer.start()
        line = self._ask(process, pack(structure))
        if timer:
            timer.cancel()
        if line.endswith("\n"):
            answer: Answer = json.loads(line)
            return answer
        self._end()
        if late.is_set():
            return {"reason": f"given up after {self.timeout:g} s", "seconds": self.timeout}
        return {"reason": f"the process of the engine died ({_died(process.wait())})", "seconds": 0.0}

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.stopped = True
        self._end()

    def _begin(self) -> subprocess.Popen[str]:
        paths = [p or os.getcwd() for p in sys.path]
        environment = os.environ | dict.fromkeys(_THREADS, str(self.threads)) | {"PYTHONPATH": os.pathsep.join(paths)}
        with self.lock:
            if self.stopped:
                raise EngineError("Labelling was stopped.")
            process = self.process = subprocess.Popen(
                [sys.executable, "-m", "epot.data.labels.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8",
            )  # fmt: skip
        line = self._ask(process, self.order)
        if not line:
            raise EngineError(f"A labelling process ended before it was ready ({_died(process.wait())}).")
        if "reason" in (answer := json.loads(line)):
            raise EngineError(answer["reason"])
        return process

    @staticmethod
    def _ask(process: subprocess.Popen[str], message: Answer) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            return process.stdout.readline()
        except (BrokenPipeError, ValueError, OSError):
            return ""

    def _end(self) -> None:
        with self.lock:
            process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()


class _Crew(threading.Thread):
    """Feeds one worker."""

    def __init__(self, waiting: Any, answers: Any, worker: Worker) -> None:
        super().__init__(daemon=True)
        self.waiting, self.answers, self.worker = waiting, answers, worker

    def run(self) -> None:
        try:
            while not self.worker.stopped:
                try:
                    key, structure = self.waiting.get_nowait()
                except queue.Empty:
                    break
                self.answers.put((key, self.worker.label(structure)))
        except EngineError as why:
            self.answers.put(why)
        except Exception as why:  # never leave the main thread waiting for an answer that cannot come
            self.answers.put(EngineError(f"A labelling thread failed: {type(why).__name__}: {why}"))
        finally:
            self.worker.stop()


@contextlib.contextmanager
def remote(engine: Engine, properties: tuple[str, ...], workers: int = 1) -> Iterator[Callable[[Structure], Answer]]:
    """A function that labels one structure in a process of its own; in this one where ``workers`` is 0.

    It raises EngineError where the calculation fails.
    """
    if workers == 0:
        yield lambda structure: engine(structure, properties)
        return
    worker = Worker(order_for(engine, properties))

    def call(structure: Structure) -> Answer:
        answer = worker.label(structure)
        if "reason" in answer:
            raise EngineError(f"{engine.name}: {answer['reason']}")
        return {k: np.asarray(v) if isinstance(v, list) else v for k, v in answer["labels"].items()}

    try:
        yield call
    finally:
        worker.stop()


def order_for(engine: Engine, properties: Iterable[str]) -> Answer:
    """What a worker makes its own engine from."""
    return {"engine": engine.name, "options": options_of(engine), "properties": list(properties)}


def _died(code: int) -> str:
    return f"signal {-code}: a crash, or out of memory" if code < 0 else f"exit code {code}"
