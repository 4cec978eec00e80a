"""Packages measured in turn: each in a process of its own, with its own Python, one at work at a time."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path


class Worker:
    """A process that times what it is told to.

    Args:
        python: of the package's environment.
        script: which calls :func:`serve` where ``--worker name`` is among its arguments.
        name: of the worker.
        threads: that it may use.
    """

    def __init__(self, python, script, name, threads, *arguments):
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
        # how threads wait is left as each package has it: an idle worker's sleep after milliseconds
        env = os.environ | {n: str(threads) for n in names}
        self.name, self.threads = name, threads
        self.process = subprocess.Popen(
            [python, script, "--worker", name, "--threads", str(threads), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip

    def times(self, case, seconds):
        """Milliseconds of calls of one case; None where this package does not have it."""
        print(json.dumps([case, seconds]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"The worker {self.name} ended: see its messages above.")
        return json.loads(line)

    def memory(self):
        """Peak so far, MB: Python, the package and the largest case."""
        return self.times(None, 0.0)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def serve(make, threads):
    """Answer a :class:`Worker`: ``make(case)`` gives a function of no arguments, or None."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a package prints goes to the messages
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    made = {}
    for line in sys.stdin:
        case, seconds = json.loads(line)
        if case is None:
            print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), file=answers, flush=True)
            continue
        if case not in made:
            made[case] = make(case)
            for _ in range(2 if made[case] else 0):
                made[case]()
        call, found = made[case], []
        end = time.perf_counter() + seconds
        while call and (len(found) < 3 or (time.perf_counter() < end and len(found) < 200)):
            start = time.perf_counter()
            call()
            found.append(1e3 * (time.perf_counter() - start))
        print(json.dumps(found if call else None), file=answers, flush=True)


def compare(workers, cases, rounds=3, seconds=1.0):
    """Time every case in every worker, in turn; print the fastest, the median, ratios to the first worker, memory.

    Returns:
        ``{case: {worker: fastest ms}}``.
    """
    best = {}
    for case in cases:
        found = {w.name: [] for w in workers}
        for _ in range(rounds):
            for w in workers:
                found[w.name] += w.times(case, seconds) or []
        ours = min(found[workers[0].name])
        best[case] = {name: min(times) for name, times in found.items() if times}
        for name, times in found.items():
            if times:
                middle = sorted(times)[len(times) // 2]
                ratio = "" if name == workers[0].name else f"   {min(times) / ours:7.2f} x ours"
                print(f"{case:36s} {name:10s} {min(times):9.2f} ms, median {middle:9.2f}{ratio}", flush=True)
    print("peak memory, MB: " + ", ".join(f"{w.name} {w.memory():.0f}" for w in workers), flush=True)
    return best


def header(threads):
    """What the machine is doing, for the log."""
    load = os.getloadavg()[0]
    print(f"{threads} threads of {os.cpu_count()}, load {load:.2f} before the start", flush=True)


HERE = Path(__file__).resolve().parent
