"""Accuracy and cost of every preset on 3BPA, as a Markdown table.

    OMP_NUM_THREADS=2 python benchmarks/presets.py --max-time 30m
    OMP_NUM_THREADS=2 python benchmarks/presets.py --max-time 30m --write docs/benchmarks.md

Each preset is fitted as `epot bench 3bpa --model PRESET --max-time ...` fits it: 450 structures at 300 K, 50 to
validate, the same wall time for all. Errors are RMSE on the derived tests, energy of the molecule in meV / forces in
meV/Å. Cost: energy and forces through the ASE calculator with its default skin, atoms moved by 1e-3 Å before every
call, least time of a second's calls, per atom of the 27-atom molecule and of 192 water atoms. ``--write`` puts the
table between the two lines ``<!-- presets -->`` and ``<!-- end of presets -->`` of a page.

What is finished stands in ``results.jsonl`` under ``--out`` and is not run again; an interrupted fit goes on.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("EPOT_PROGRESS", "0")
sys.path.insert(0, str(Path(__file__).resolve().parent))
DATA = Path(os.environ.get("EPOT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
BETWEEN = ("<!-- presets -->", "<!-- end of presets -->")
SYSTEMS = {"27-atom molecule": "mol27", "192 water atoms": "water192"}
TESTS = ("300K", "600K", "1200K")


def every():
    """Names of all presets."""
    from epot import registry

    return [f"{n}:{p}" for n in registry.names() for p in registry.presets(registry.get(n))]


def cost(potential, name):
    """Microseconds an atom for energy and forces."""
    import numpy as np
    from systems import SYSTEMS as MADE

    from epot.simulate.calculator import Calculator

    atoms, rng = MADE[name](), np.random.default_rng(0)
    atoms.calc = Calculator(potential)
    start, found = atoms.positions.copy(), []
    for _ in range(3):
        atoms.positions = start + 1e-3 * rng.normal(size=start.shape)
        atoms.get_forces()
    end = time.perf_counter() + 1.0
    while len(found) < 5 or time.perf_counter() < end:
        atoms.positions = start + 1e-3 * rng.normal(size=start.shape)
        began = time.perf_counter()
        atoms.get_forces()
        atoms.get_potential_energy()
        found.append(time.perf_counter() - began)
    return 1e6 * min(found) / len(atoms)


def run(args, name):
    """Fit, errors, times: one line of the results."""
    import torch

    from epot import modelfile
    from epot.evaluate import bench
    from epot.fit import config

    words = config.override({"model": name}, args.set)
    options = {k: dict(words[k]) for k in config.STAGES if k in words}
    options["descend"] = {"max_time": args.seconds} | options.get("descend", {})
    folder = args.out / f"{name}-{args.max_time}-seed{args.seed}".replace(":", "-")
    settings = {"options": options, "folder": folder, "seed": args.seed, "n_train": args.n_train}
    result = bench.run("3bpa", words["model"], args.data, **settings)
    potential, _ = modelfile.load(folder / "model.epot")
    return {
        "preset": name,
        "seconds": args.seconds,
        "seed": args.seed,
        "n_train": args.n_train,
        "metrics": result["metrics"],
        "parameters": sum(p.numel() for p in potential.parameters()),
        "cost": {label: cost(potential, system) for label, system in SYSTEMS.items()},
        "threads": torch.get_num_threads(),
    }


def table(rows, args):
    """Markdown."""
    head = ["preset", "parameters", *(t.replace("K", " K") for t in TESTS), *(f"µs an atom, {s}" for s in SYSTEMS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        errors = [f"{r['metrics'][t]['energy']:.1f} / {r['metrics'][t]['forces']:.1f}" for t in TESTS]
        times = [f"{r['cost'][s]:.0f}" for s in SYSTEMS]
        lines.append(f"| `{r['preset']}` | {r['parameters']} | " + " | ".join([*errors, *times]) + " |")
    threads = ", ".join(sorted({str(r["threads"]) for r in rows}))
    note = f"{args.max_time} of descent each, seed {args.seed}, threads: {threads}."
    return "\n".join([*lines, "", note])


def write(page, text):
    """Between the two lines of a page."""
    whole = page.read_text(encoding="utf-8")
    if any(whole.count(line) != 1 for line in BETWEEN):
        raise SystemExit(f"{page} needs one line {BETWEEN[0]} and one line {BETWEEN[1]}; the table goes between them.")
    before, rest = whole.split(BETWEEN[0])
    page.write_text(f"{before}{BETWEEN[0]}\n\n{text}\n\n{BETWEEN[1]}{rest.split(BETWEEN[1])[1]}", encoding="utf-8")


def main():
    from epot.cli.fit import _seconds

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="mace:small painn:fast; all without")
    parser.add_argument("--max-time", default="30m", help="of each descent, as in `epot fit`")
    parser.add_argument("--set", nargs="+", default=[], help="key=value for all of them: descend.batch_atoms=135")
    parser.add_argument("--n-train", type=int, help="structures to fit to, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("runs/presets"))
    parser.add_argument("--write", type=Path, help="page that gets the table")
    args = parser.parse_args()
    args.seconds = _seconds(args.max_time)
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "results.jsonl"
    known = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    wanted = {"seconds": args.seconds, "seed": args.seed, "n_train": args.n_train}
    rows = []
    for name in args.presets or every():
        found = [r for r in known if r.items() >= ({"preset": name} | wanted).items()]
        if not found:
            found = [run(args, name)]
            with log.open("a", encoding="utf-8") as out:
                out.write(json.dumps(found[0]) + "\n")
        rows.append(found[-1])
        print(json.dumps(rows[-1]), flush=True)
    text = table(rows, args)
    print("\n" + text)
    if args.write:
        write(args.write, text)


if __name__ == "__main__":
    main()
