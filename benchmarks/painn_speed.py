"""PaiNN beside schnetpack's: same weights, same structures, alternating in one session.

    python benchmarks/painn_speed.py --peer-python ENVIRONMENT/bin/python [--systems mol27 si216] [--json out.json]

128 features, 3 interactions, 20 Gaussians, cutoff 5 Å, float32. Energies and forces through each package's ASE
calculator, the atoms moved by 1e-3 Å before every call; twice: with a neighbor search at every call (``search``), and
with neighbor lists that outlive a call (``skin`` 0.5 Å, the default of ours). ``train``: one AdamW step on energies and
forces of a collated batch of eight 27-atom molecules. Each package runs in a process of its own, one at a time, in
turns A B A B; medians, quartiles, processor time and the ratio of the medians of wall time are printed. A second busy
process on the machine slows both, the more the more threads there are; look at the load that is printed too.

Arithmetic, per pair and interaction, F = 128 features, K = 21 (20 radial functions and the bias), in multiplications:
making the filters 3 K F = 8000, using them 8 F = 1000, and backwards the same for the table and 3 K F more for the
distance. Per atom and interaction 15 F^2 = 250 000 forward, as many backward. The first interaction costs K F per atom
and element instead, because there the messages depend on the sender's element alone, and the last needs no new
vectors. The other way round, sum_j B_ij T_j before the filters (7 K F per pair, but no filters), was measured and is
slower at 30 to 60 neighbors on a processor with 100 GFLOP/s per core. So the time goes into (silicon, one core):
matrix products for filters 30 %, elementwise work on blocks of pairs 35 %, atoms 20 %, distances, bases and rest 15 %.

The environment of the peer needs schnetpack 2 (2.1.1 was used), torch and ase.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import typing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
CUTOFF, FEATURES, LAYERS, RADIAL, SKIN = 5.0, 128, 3, 20, 0.5


# ------------------------------------------------------------------------------------------------- in the workers
class Ours:
    """epot, with the weights of the file that the peer wrote."""

    def __init__(self, weights):
        import torch
        from systems import ELEMENTS

        from epot.interchange.schnetpack import from_schnetpack

        self.torch = torch
        self.model = from_schnetpack(torch.load(weights, weights_only=True), elements=ELEMENTS)

    def calculator(self, mode):
        from epot.simulate.calculator import Calculator

        return Calculator(self.model, skin=SKIN if mode == "skin" else 0.0)

    def trainer(self, frames):
        import copy

        from epot.data.structure import Structure
        from epot.geometry.graph import build
        from epot.predict import predict

        torch, model = self.torch, copy.deepcopy(self.model).train()
        graph = build([Structure.from_ase(a) for a in frames], CUTOFF)
        energies = torch.tensor([a.info["energy"] for a in frames], dtype=torch.float64)
        forces = torch.cat([torch.from_numpy(a.arrays["forces"]) for a in frames])
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3)

        def step():
            made = predict(model, graph, create_graph=True)
            loss = ((made.energy - energies) / 27).square().mean() + (made.forces - forces).square().mean()
            for parameter, grad in zip(
                parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
            ):
                parameter.grad = grad
            optimizer.step()

        return step


class Schnetpack:
    """The peer, which draws the weights and writes them."""

    def __init__(self, weights):
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        import torch
        import torch.utils.data.dataloader as loader

        if not hasattr(loader, "T_co"):  # a name that schnetpack imports and torch no longer has
            loader.T_co = typing.TypeVar("T_co", covariant=True)
        import schnetpack

        self.torch, self.spk, self.path = torch, schnetpack, f"{weights}.model"
        torch.manual_seed(0)
        radial = schnetpack.nn.GaussianRBF(RADIAL, CUTOFF)
        body = schnetpack.representation.PaiNN(FEATURES, LAYERS, radial, schnetpack.nn.CosineCutoff(CUTOFF))
        self.model = schnetpack.model.NeuralNetworkPotential(
            representation=body,
            input_modules=[schnetpack.atomistic.PairwiseDistances()],
            output_modules=[
                schnetpack.atomistic.Atomwise(n_in=FEATURES, output_key="energy"),
                schnetpack.atomistic.Forces(),
            ],
        )
        torch.save(self.model.state_dict(), weights)
        torch.save(self.model, self.path)

    def neighbors(self, mode):
        search = self.spk.transform.MatScipyNeighborList(cutoff=CUTOFF)
        return self.spk.transform.SkinNeighborList(search, cutoff_skin=SKIN) if mode == "skin" else search

    def calculator(self, mode):
        from schnetpack.interfaces.ase_interface import SpkCalculator

        return SpkCalculator(self.path, neighbor_list=self.neighbors(mode), energy_unit="eV", dtype=self.torch.float32)

    def trainer(self, frames):
        from schnetpack.interfaces.ase_interface import AtomsConverter

        torch = self.torch
        batch = AtomsConverter(neighbor_list=self.neighbors("search"), dtype=torch.float32)(frames)
        energies = torch.tensor([a.info["energy"] for a in frames], dtype=torch.float32)
        forces = torch.cat([torch.tensor(a.arrays["forces"], dtype=torch.float32) for a in frames])
        model = torch.load(self.path, weights_only=False).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def step():
            optimizer.zero_grad(set_to_none=True)
            out = model({k: v.clone() for k, v in batch.items()})
            loss = ((out["energy"] - energies) / 27).square().mean() + (out["forces"] - forces).square().mean()
            loss.backward()
            optimizer.step()

        return step


def caller(package, system, mode):
    """A function that does one unit of work: a training step, or moving the atoms and asking for forces."""
    import numpy as np
    from systems import SYSTEMS, training_set

    if mode == "train":
        return package.trainer(training_set())
    atoms = SYSTEMS[system]()
    atoms.calc = package.calculator(mode)
    start, rng = atoms.positions.copy(), np.random.default_rng(1)

    def call():
        atoms.positions = start + rng.normal(scale=1e-3, size=start.shape)
        return atoms.get_potential_energy(), atoms.get_forces()

    return call


def peak_mb(reset=False):
    """Largest resident size of this process so far, or since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def work(name, weights, threads):
    """Answer one JSON order a line."""
    import torch

    torch.set_num_threads(threads)
    out, sys.stdout = sys.stdout, sys.stderr
    package = {"epot": Ours, "schnetpack": Schnetpack}[name](weights)
    call = None
    print(json.dumps({"torch": torch.__version__}), file=out, flush=True)
    for line in sys.stdin:
        order, answer = json.loads(line), {}
        if order["do"] == "prepare":
            base = peak_mb(reset=True)
            call = caller(package, order["system"], order["mode"])
            for _ in range(3):
                found = call()
            answer = {"peak_mb": peak_mb(), "before_mb": base}
            if found is not None:
                answer |= {"energy": float(found[0]), "forces": found[1].tolist()}
        elif order["do"] == "sample":
            wall, cpu, end = [], [], time.perf_counter() + order["seconds"]
            call()
            while not wall or time.perf_counter() < end:
                t, c = time.perf_counter(), time.process_time()
                call()
                wall.append((time.perf_counter() - t) * 1e3)
                cpu.append((time.process_time() - c) * 1e3)
            answer = {"wall": wall, "cpu": cpu}
        print(json.dumps(answer), file=out, flush=True)


# -------------------------------------------------------------------------------------------------- in the parent
class Worker:
    def __init__(self, name, python, weights, chosen):
        environment = os.environ | {"OMP_NUM_THREADS": str(chosen.threads), "MKL_NUM_THREADS": str(chosen.threads)}
        order = [
            python,
            "-W",
            "ignore",
            __file__,
            "--worker",
            name,
            "--weights",
            weights,
            "--threads",
            str(chosen.threads),
        ]
        self.process = subprocess.Popen(
            order, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        if chosen.priority:  # the share of the process's own group: no rights are needed to lower or raise it as root
            Path(f"/proc/{self.process.pid}/autogroup").write_text("-15")
        self.about = self._answer()

    def ask(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended; its error is above")
        return json.loads(line)


def quartiles(values):
    if len(values) < 3:
        return [min(values), statistics.median(values), max(values)]
    return statistics.quantiles(values, n=4)


def compare(workers, system, mode, chosen):
    """One line of the table."""
    first = {name: worker.ask(do="prepare", system=system, mode=mode) for name, worker in workers.items()}
    rounds = {name: {"wall": [], "cpu": []} for name in workers}
    for _ in range(chosen.rounds):
        for name, worker in workers.items():
            got = worker.ask(do="sample", seconds=chosen.seconds)
            rounds[name]["wall"] += got["wall"]
            rounds[name]["cpu"] += got["cpu"]
    row = {"system": system, "mode": mode, "loadavg": os.getloadavg()[0]}
    for name, found in rounds.items():
        low, middle, high = quartiles(found["wall"])
        row[name] = {
            "median_ms": middle, "q25_ms": low, "q75_ms": high, "min_ms": min(found["wall"]), "n": len(found["wall"]),
            "cpu_ms": statistics.median(found["cpu"]),
            "peak_mb": first[name]["peak_mb"], "before_mb": first[name]["before_mb"],
        }  # fmt: skip
    if len(workers) == 2:
        ours, peer = row["epot"], row["schnetpack"]
        row["ratio"] = {k: peer[k] / ours[k] for k in ("median_ms", "min_ms", "cpu_ms")}
        if mode != "train":
            apart = [abs(a - b) for x, y in zip(*(f["forces"] for f in first.values()), strict=True)
                     for a, b in zip(x, y, strict=True)]  # fmt: skip
            energy = [f["energy"] for f in first.values()]
            row["apart"] = {"energy": abs(energy[0] - energy[1]), "forces": max(apart), "of": abs(energy[0])}
    return row


def show(row):
    parts = [f"{row['system']:10s} {row['mode']:6s}"]
    for name in ("epot", "schnetpack"):
        if name in row:
            r = row[name]
            parts.append(
                f"{name} {r['median_ms']:8.2f} ms ({r['q25_ms']:.2f} to {r['q75_ms']:.2f}; min {r['min_ms']:.2f}; "
                f"cpu {r['cpu_ms']:.1f}; {r['peak_mb']:.0f} MB)"
            )
    if "ratio" in row:
        r = row["ratio"]
        parts.append(f"ratio {r['median_ms']:5.2f} (min {r['min_ms']:.2f}, cpu {r['cpu_ms']:.2f})")
    if "apart" in row:
        parts.append(f"dE {row['apart']['energy']:.1e} of {row['apart']['of']:.3g}, dF {row['apart']['forces']:.1e}")
    print("  ".join(parts) + f"  load {row['loadavg']:.1f}", flush=True)


def main():
    from systems import SYSTEMS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of an environment with schnetpack")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--modes", nargs="+", default=["search", "skin", "train"], choices=["search", "skin", "train"])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each package per measurement")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn, at least one call")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--priority", action="store_true", help="give both a larger share of a busy machine (Linux, root)"
    )
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--worker", choices=["epot", "schnetpack"], help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        work(chosen.worker, chosen.weights, chosen.threads)
        return
    if not chosen.peer_python:
        parser.error("--peer-python is needed: the weights are the peer's")
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.pt")
        peer = Worker("schnetpack", chosen.peer_python, weights, chosen)
        workers = {"epot": Worker("epot", sys.executable, weights, chosen), "schnetpack": peer}
        work_list = [(s, m) for s in chosen.systems for m in chosen.modes if m != "train"]
        if "train" in chosen.modes:
            work_list.append(("8 x mol27", "train"))
        rows = []
        for system, mode in work_list:
            rows.append(compare(workers, system, mode, chosen))
            show(rows[-1])
    if chosen.json:
        Path(chosen.json).write_text(
            json.dumps({"about": {n: w.about for n, w in workers.items()}, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
