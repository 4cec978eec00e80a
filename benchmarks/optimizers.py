"""Optimizers at equal cost: the same potential, data, loss and schedule, each for the same processor time.

    OMP_NUM_THREADS=1 python benchmarks/optimizers.py --seconds 120 --seeds 3
    OMP_NUM_THREADS=1 python benchmarks/optimizers.py --seeds 1 --optimizers muon:3e-3 muon:3e-3:loss=mse,ema=0.99

The cost of a step is measured first (blocks of ten steps of each in turn, in process time, so that other work on the
machine does not count); each optimizer then gets as many epochs as fit into the budget, and its schedule ends with
them. Prints one line a run and a table of medians over seeds. Data: rMD17 ethanol, official split 01, from the folder
of EPOT_DATA.

With ``--seconds 14 --seeds 3 --structures 200 --validation 60 --optimizers adamw:3e-3 muon:3e-3 soap:3e-3`` on a busy
machine with 2 cores, median (least, most) of energies in meV/atom and forces in meV/Å:

    adamw    18.5 ms a step    3.30 (3.07, 3.43)    73.2 (72.1, 74.8)
    muon     22.1              2.14 (1.96, 2.24)    62.7 (61.6, 64.3)
    soap     22.9              2.14 (2.08, 2.18)    63.4 (62.4, 63.9)
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("EPOT_PROGRESS", "0")

DATA = Path(os.environ.get("EPOT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def state_of(args, seed):
    from epot.data.readers import read
    from epot.fit.config import build_potential
    from epot.fit.recipe import FitState
    from epot.fit.stages.offsets import FitOffsets

    train = read(str(DATA / args.train))[: args.structures]
    valid = read(str(DATA / args.test))[: args.validation]
    model = {"name": "painn", "n_features": args.features, "n_layers": args.layers}
    state = FitState(build_potential(model, train.elements, seed), train, valid, seed)
    FitOffsets().run(state)
    return state


def stage_of(args, word, epochs):
    """A descent of ``name``, ``name:rate`` or ``name:rate:key=value,key=value``."""
    from epot.fit.stages.descend import Descend

    name, rate, settings = (word.split(":") + ["", ""])[:3]
    given = dict(pair.split("=") for pair in settings.split(",") if pair)
    settings = {k: v if k in ("loss", "schedule") else float(v) for k, v in given.items()}
    settings = {"batch_atoms": args.batch_atoms, "learning_rate": float(rate or 0) or None} | settings
    settings["batch_atoms"] = int(settings["batch_atoms"])
    return Descend(epochs=epochs, optimizer=name, **settings)


def costs_of_a_step(args, names):
    """Seconds of processor time of a step of each optimizer: blocks of ten steps in turn, the least of five."""
    from epot.fit.loop import Loop

    loops = {}
    for name in names:
        stage, state = stage_of(args, name, 10), state_of(args, 0)
        loops[name] = Loop(stage, state, *stage._prepare(state))
    blocks = {name: [] for name in names}
    for _ in range(6):
        for name, loop in loops.items():
            start = time.process_time()
            for indices in (loop.batches() * 10)[:10]:
                loop.step(indices, 0.0)
            blocks[name].append((time.process_time() - start) / 10)
    return {name: (min(spent[1:]), len(loops[name].batches())) for name, spent in blocks.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "muon", "soap"], help="name:rate:key=value,...")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--structures", type=int, default=300)
    parser.add_argument("--validation", type=int, default=100)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch-atoms", type=int, default=90)
    parser.add_argument("--train", default="rmd17/ethanol_train.xyz.gz")
    parser.add_argument("--test", default="rmd17/ethanol_test.xyz.gz")
    args = parser.parse_args()
    rows = {}
    costs = costs_of_a_step(args, args.optimizers)
    for seed in range(args.seeds):
        for word in args.optimizers:
            cost, per_epoch = costs[word]
            rows.setdefault(word, {"cost": cost, "energy": [], "forces": []})
            epochs = max(1, round(args.seconds / (cost * per_epoch)))
            state = state_of(args, seed)
            stage_of(args, word, epochs).run(state)
            best = min((x for x in state.journal.lines if x["event"] == "epoch"), key=lambda x: x["score"])
            rows[word]["energy"].append(1000 * best["valid_energy_mae"])
            rows[word]["forces"].append(1000 * best["valid_forces_mae"])
            facts = {k: best[k] for k in ("epoch", "step", "valid_energy_mae", "valid_forces_mae", "seconds")}
            told = {"optimizer": word, "seed": seed, "ms_per_step": 1000 * cost, "epochs": epochs} | facts
            print(json.dumps(told), flush=True)
    print(f"\n{args.seconds:.0f} s each, {args.seeds} seeds; median (least, most) of the validation MAE")
    print(f"{'optimizer':40s}{'ms/step':>9s}{'energy, meV/atom':>28s}{'forces, meV/Å':>28s}")
    for word, row in rows.items():
        cells = [
            f"{statistics.median(row[k]):.3f} ({min(row[k]):.3f}, {max(row[k]):.3f})" for k in ("energy", "forces")
        ]
        print(f"{word:40s}{1000 * row['cost']:9.1f}{cells[0]:>28s}{cells[1]:>28s}")


if __name__ == "__main__":
    main()
