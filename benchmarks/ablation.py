"""What a recipe gains by each of its parts: one change at a time from a base, on 3BPA, at equal wall time.

    OMP_NUM_THREADS=1 python benchmarks/ablation.py --model mace:small --max-time 10m --seeds 3
    OMP_NUM_THREADS=1 python benchmarks/ablation.py --only ema schedule --max-time 10m --set descend.batch_atoms=135
    python benchmarks/ablation.py --list

Every run fits to 450 of the 500 structures at 300 K (``train_300K``) for ``--max-time``, the schedule ending with it;
the other 50 validate. Choose by the validation columns: the last three are of the derived tests at 300, 600 and 1200 K
and are printed to show what a choice was worth. Energies are RMSE of the molecule in meV, forces RMSE in meV/Å: mean
and standard deviation over the seeds; ``change`` is the mean of the differences of the validation score from the base,
seed by seed, in percent, with its standard error. The score is the one by which a fit chooses its best epoch, of the
finished potential: root mean square errors of energies per atom and of forces, each over the spread of its labels.

Each run has a folder of its own under ``--out`` and goes on there if it was interrupted; what is finished stands in
``results.jsonl`` and is not run again. Wall time compares nothing on a machine with other work (look at the steps);
there give ``--epochs``, which makes runs of equal length, and weigh the processor time that each took. Seeds come
first, so that a table of one seed is complete before the second begins.
"""

import argparse
import contextlib
import copy
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("EPOT_PROGRESS", "0")
DATA = Path(os.environ.get("EPOT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SUITE = "3bpa"
BASE = {
    "descend": {
        "optimizer": "muon", "learning_rate": 0.01, "radial_rate": 1.0, "weight_decay": 0.0, "schedule": "linear",
        "warmup": 0.02, "loss": "mse", "delta": 0.01, "energy_weight": 10.0, "energy_growth": 10.0, "centered": True,
        "ema": 0.999, "batch_atoms": 135, "polish": 0,
    },
    "offsets": {"method": "regression"},
}  # fmt: skip
MEAN = "mean energy per atom"


def descend(**settings):
    return {"descend": settings}


OWN = {"adamw": 3e-3, "amsgrad": 1e-2, "schedule_free": 1e-2, "muon": 1e-2, "soap": 3e-3}
GROUPS = {
    "ema": {"0.999": {}, "off": descend(ema=0.0)},
    "schedule": {k: descend(schedule=k) for k in ("linear", "cosine", "plateau")},
    "optimizer": {k: descend(optimizer=k, learning_rate=rate) for k, rate in OWN.items()},
    "rate": {f"{rate:g}": descend(learning_rate=rate) for rate in (5e-3, 1e-2, 2e-2)},
    "radial rate": {f"{share:g}": descend(radial_rate=share) for share in (0.3, 1.0)},
    "radial functions": {
        "left to AMSGrad": {}, "turned by Muon": {"turned": 1.0}, "turned by Muon, at a tenth": {"turned": 0.1}
    },
    "constant": {"free": {}, "fitted": descend(centered=False)},
    "decay": {f"{decay:g}": descend(weight_decay=decay) for decay in (0.0, 0.02)},
    "growth": {f"{growth:g}": descend(energy_growth=growth) for growth in (1.0, 10.0)},
    "loss": {k: descend(loss=k) for k in ("mse", "norm", "huber")},
    "offsets": {"by composition": {}, MEAN: {"offsets": {"method": MEAN}}},
    "radial": {"8 functions, p = 5": {}, "16 functions, p = 6": {"model": {"n_radial": 16, "cutoff_power": 6}}},
    "blocks": {
        "residual, both": {},
        "agnostic, residual": {"model": {"interaction_first": "agnostic"}},
        "divided by a density": {"model": {"interaction_first": "density", "interaction": "density_residual"}},
        "nonlinear, gated": {
            "model": {"interaction_first": "nonlinear", "interaction": "nonlinear", "cutoff_on_radial": False}
        },
    },
    "network": {"[64, 64]": {}, "[64, 64, 64]": {"model": {"radial_mlp": [64, 64, 64]}}},
    "features": {"as they are": {}, "unit root mean squares": {"model": {"feature_norm": True}}},
    "polish": {"none": {}, "L-BFGS": descend(polish=300)},
    "batch": {f"{n} molecules": descend(batch_atoms=27 * n) for n in (2, 5, 9)},
    "couplings": {"reduced": {}, "iterated": {"model": {"reduced_couplings": False}}},
    "energy weight": {f"{weight:g}": descend(energy_weight=weight) for weight in (0.1, 10.0)},
    "scale": {"in the readout's weights": {}, "learned, of each element": {"scaled": True}},
    "perturbed": {"no": {}, "each once more, 0.002 Å away": {"moved": 0.002}},
    "direct forces": {"none": {}, "in the first fifth": {"direct": 0.2}, "in the first half": {"direct": 0.5}},
    "members": {
        "one": {},
        "3 snapshots, with restarts": {"members": 3, "restart": True},
        "3 fits, a third each": {"members": 3},
    },
}  # fmt: skip
ONLY_MACE = ("radial rate", "radial functions", "radial", "blocks", "network", "features", "couplings")


def seconds(text):
    from epot.cli.fit import _seconds

    return _seconds(text)


def settings_of(args, change):
    """Model's arguments and stages' settings of a run: the base, what the command line changes of it, the change."""
    from epot import registry
    from epot.fit import config
    from epot.fit.optimizers import RATES

    words = config.override({"model": args.model, **BASE}, args.set)
    model = registry.expand(words["model"])
    model = {k: p.default for k, p in registry.parameters(registry.get(model["name"])).items()} | model
    model = {k: v for k, v in model.items() if k != "elements"} | change.get("model", {})
    stages = {k: dict(words[k]) | change.get(k, {}) for k in config.STAGES if k in words or k in change}
    length = {"max_time": seconds(args.max_time)} if args.epochs is None else {"epochs": args.epochs}
    stages["descend"] = length | stages["descend"]
    stages["descend"].setdefault("learning_rate", RATES[stages["descend"]["optimizer"]])
    more = {k: change[k] for k in ("scaled", "moved", "members", "restart", "turned", "direct") if k in change}
    return {"model": model, "stages": json.loads(json.dumps(stages))} | more


def mean_energies(train):
    """One energy for all elements: the mean of the energies per atom."""
    from epot.elements import SYMBOLS

    mean = statistics.fmean(s.energy / len(s.numbers) for s in train)
    return {"method": "given", "values": {SYMBOLS[z]: mean for z in sorted(set(train.elements))}}


def scaled(body):
    """A potential's energies, times a learned number for each element."""
    import torch

    from epot.potential import Output, Potential

    class Scaled(Potential):
        def __init__(self, body):
            super().__init__()
            self.body, self.cutoff, self.elements = body, body.cutoff, body.elements
            self.factors = torch.nn.Parameter(torch.ones(120))

        def forward(self, graph):
            found = self.body(graph)
            factors = self.factors[graph.numbers]
            return Output(found.energy * factors, features=found.features * factors[:, None])

        def config(self):
            return {"scaled": self.body.config()}

    return Scaled(body)


def mean_of(potentials):
    """The mean of several potentials."""
    import torch

    from epot.potential import Output, Potential

    class Mean(Potential):
        def __init__(self, potentials):
            super().__init__()
            self.each = torch.nn.ModuleList(potentials)
            self.cutoff, self.elements = potentials[0].cutoff, potentials[0].elements

        def forward(self, graph):
            return Output(torch.stack([one(graph).energy for one in self.each]).mean(0))

    return Mean(potentials)


@contextlib.contextmanager
def turned(share):
    """Muon turns the matrices of radial functions, too, at a share of the rate."""
    from epot.fit import optimizers
    from epot.fit.parameters import radial_parameters, split

    made = optimizers.make

    def make(name, potential, lr, weight_decay, radial_rate=1.0):
        radial = {id(p) for p in radial_parameters(potential)}
        matrices, others = split(potential)
        groups = [
            {"params": own, "weight_decay": 0.0, "matrix": matrix, "share": part, "lr": part * lr}
            for slow, part in ((False, 1.0), (True, share)) for some, matrix in ((matrices, True), (others, False))
            if (own := [p for p in some if (id(p) in radial) == slow])
        ]  # fmt: skip
        return optimizers.Muon(groups, lr=lr)

    optimizers.make = make
    try:
        yield
    finally:
        optimizers.make = made


def score(errors, train):
    """The number by which a fit chooses its best epoch; all structures are of one composition."""
    import numpy as np

    from epot.fit import metrics
    from epot.fit.stages.offsets import spreads

    scales = spreads(train, np.zeros(120))
    of_each = {"energy_rmse": errors["energy"] / len(train[0]), "forces_rmse": errors["forces"]}
    return metrics.score({k: v / 1000 for k, v in of_each.items()}, scales)


def with_moved(train, distance, seed):
    """The structures, and each once more with its atoms moved: energies follow their forces, forces are left as they
    were, which is wrong by the curvature times the distance."""
    import numpy as np

    from epot.data.dataset import Dataset

    random = np.random.default_rng([seed, 11])
    moves = [random.normal(scale=distance, size=s.positions.shape) for s in train]
    new = [
        s.replace(positions=s.positions + move, energy=s.energy - float((s.forces * move).sum()))
        for s, move in zip(train, moves, strict=True)
    ]
    return Dataset([*train, *new], train.provenance)


def run(args, settings, seed, folder):
    """One fit and its errors, as one line of the results."""
    from direct_forces import DirectForces

    from epot.data.readers import read
    from epot.evaluate import bench
    from epot.evaluate.errors import evaluate
    from epot.fit.config import build_potential, build_stages
    from epot.fit.run import fit
    from epot.fit.stages.descend import Descend

    suite = bench.get(SUITE)
    train, valid = bench.split(suite, args.data, args.n_train, seed)
    stages = dict(settings["stages"])
    if stages.get("offsets", {}).get("method") == MEAN:
        stages["offsets"] = mean_energies(train)
    labeled = train
    if "moved" in settings:
        train = with_moved(labeled, settings["moved"], seed)
    if "direct" in settings:
        stages["descend"] = stages["descend"] | {"max_time": (1 - settings["direct"]) * stages["descend"]["max_time"]}
    members, n_members, potential, steps = [], settings.get("members", 1), None, 0
    if n_members > 1:
        length = {k: v // n_members for k, v in stages["descend"].items() if k in ("max_time", "epochs")}
        stages["descend"] = stages["descend"] | length
    began, spent = time.monotonic(), time.process_time()
    for member in range(n_members):
        own = seed + 100 * member
        if potential is None or not settings.get("restart"):
            potential = build_potential(settings["model"], sorted(set(train.elements)), own, [train, valid])
        if "scaled" in settings:
            potential.terms["body"] = scaled(potential.terms["body"])
        plan = build_stages(None, potential, False, stages)
        if "direct" in settings:
            place = next(k for k, stage in enumerate(plan) if isinstance(stage, Descend))
            plan.insert(place, DirectForces(settings["direct"] * seconds(args.max_time), stages["descend"]))
        kept = folder if n_members == 1 and "scaled" not in settings else None  # what no file can hold
        with turned(settings["turned"]) if "turned" in settings else contextlib.nullcontext():
            state = fit(potential, train, valid=valid, stages=plan, folder=kept, seed=own, device=args.device)
        members.append(copy.deepcopy(state.potential))
        steps += [line["step"] for line in state.journal.lines if line["event"] == "epoch"][-1]
    made = mean_of(members) if n_members > 1 else state.potential
    cost = {"seconds_fit": time.monotonic() - began, "processor_seconds": time.process_time() - spent}
    tests = {} if args.no_tests else suite.tests
    sets = {"valid": valid} | {name: read(str(args.data / file)) for name, file in tests.items()}
    errors = {}
    for name, data in sets.items():
        found = evaluate(made, state.about, data, uncertainty=False, device=args.device).all
        errors[name] = {k: found[k]["rmse"] for k in ("energy", "forces")}
    facts = {"steps": steps, "score": score(errors["valid"], labeled)}
    facts |= {"parameters": sum(p.numel() for p in made.parameters()), "machine": platform.node()}
    return facts | {k: round(v, 2) for k, v in cost.items()} | {"errors": errors}


def plan_of(args):
    """``{(group, label): settings}``; labels that mean the same settings share their runs."""
    model = args.model.split(":")[0]
    groups = args.only or [g for g in GROUPS if g not in ONLY_MACE or model == "mace"]
    unknown = [g for g in groups if g not in GROUPS]
    if unknown:
        raise SystemExit(f"There is no group {', '.join(unknown)}; known: {', '.join(GROUPS)}.")
    wanted = {("base", ""): settings_of(args, {})}
    return wanted | {(g, label): settings_of(args, change) for g in groups for label, change in GROUPS[g].items()}


def budget(args):
    return args.max_time if args.epochs is None else f"{args.epochs} epochs"


def key_of(settings, seed, n_train):
    return json.dumps({**settings, "seed": seed, "n_train": n_train}, sort_keys=True)


def cell(values, digits=1):
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def table(args, plan, results):
    """Markdown: a row a label."""
    sets = ("valid",) if args.no_tests else ("valid", "300K", "600K", "1200K")
    print(f"\n{args.model}, {budget(args)} a run, RMSE: energy of the molecule, meV / forces, meV/Å\n")
    print("| | | seeds | steps | s | change, % | " + " | ".join(sets) + " |\n|" + "---|" * (6 + len(sets)))
    of = lambda s: [results[k] for seed in range(args.seeds) if (k := key_of(s, seed, args.n_train)) in results]  # noqa: E731
    base = {r["seed"]: r for r in of(plan["base", ""])}
    for (group, label), settings in plan.items():
        found = of(settings)
        if not found:
            continue
        changes = [100 * (r["score"] / base[r["seed"]]["score"] - 1) for r in found if r["seed"] in base]
        error = f" ± {statistics.stdev(changes) / len(changes) ** 0.5:.1f}" if len(changes) > 1 else ""
        change = "" if settings == plan["base", ""] or not changes else f"{statistics.fmean(changes):+.1f}{error}"
        cells = [
            " / ".join(cell([r["errors"][s][k] for r in found if s in r["errors"]]) for k in ("energy", "forces"))
            for s in sets
        ]  # fmt: skip
        steps = f"{statistics.fmean(r['steps'] for r in found):.0f}"
        spent = f"{statistics.fmean(r['processor_seconds'] for r in found):.0f}"
        print(f"| {group} | {label} | {len(found)} | {steps} | {spent} | {change} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mace:small", help="a model or preset")
    parser.add_argument("--only", nargs="+", help="groups; all without")
    parser.add_argument("--set", nargs="+", default=[], help="key=value, changes of the base: model.cutoff=4.5")
    parser.add_argument("--max-time", default="10m", help="of the descent, as in `epot fit`")
    parser.add_argument("--epochs", type=int, help="in place of --max-time, where other work is on the machine")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n-train", type=int, help="structures to fit to, at most")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-tests", action="store_true", help="validation errors alone, while choosing")
    parser.add_argument("--list", action="store_true", help="show groups, and what each label changes")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, run nothing")
    args = parser.parse_args()
    plan = plan_of(args)
    if args.list:
        for group, labels in GROUPS.items():
            print("\n".join(f"{group:18s}{label:32s}{json.dumps(change)}" for label, change in labels.items()))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "results.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    results = {key_of(r["settings"], r["seed"], r["n_train"]): r for r in map(json.loads, lines)}
    for seed in range(0 if args.table else args.seeds):
        for (group, label), settings in plan.items():
            key = key_of(settings, seed, args.n_train)
            if key in results:
                continue
            name = "-".join(f"{args.model} {budget(args)} {group} {label} {args.n_train or ''}".split())
            folder = args.out / name.replace(":", "-") / f"seed{seed}"
            facts = {"group": group, "label": label, "seed": seed, "n_train": args.n_train, "settings": settings}
            results[key] = facts | run(args, settings, seed, folder)
            with log.open("a", encoding="utf-8") as out:
                out.write(json.dumps(results[key]) + "\n")
            shown = {k: v for k, v in results[key].items() if k not in ("settings", "n_train", "machine")}
            print(json.dumps(shown), flush=True)
    table(args, plan, results)


if __name__ == "__main__":
    main()
