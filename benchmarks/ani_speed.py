"""ANI beside torchani's: same weights, same structures, alternating in one session.

    python benchmarks/ani_speed.py --peer-python ENVIRONMENT/bin/python [--threads 1] [--members 8] [--json out.json]

torchani's ``simple_ani`` as it comes: symmetry functions of ANI-2x' sizes with a smooth cutoff (5.2 and 3.5 Å), its
default widths, GELU, float32; for silicon the same with one network. Energies and forces through each package's ASE
calculator, the atoms moved by 1e-3 Å before every call; ours twice, with a neighbor search at every call (``search``)
and with lists that outlive a call (``skin`` 0.5 Å, its default); torchani plain and scripted with both
its neighbor searches; ``--peer-modes`` also takes ``compile``, which breaks the graph at every number that it reads and
takes minutes to start. ``train``: one AdamW step on energies and forces of a collated batch of
eight 27-atom molecules. Each package runs in a process of its own, one at a time, in turns; the ratios are those of
torchani's best mode to ours, of least times, of medians, and of least processor times (which other work on the machine
changes least). A mode that fails is left out and named.

Arithmetic of a triple (8 radial, 4 angular functions): 12 exponentials and powers and 32 multiplications, of which
torchani stores the 32 products; here they are summed by a matrix product. See src/epot/features/aev_kernels.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")
PEER_MODES = [f"{kind} {search}" for kind in ("plain", "jit", "compile") for search in ("all_pairs", "cell_list")]
OUR_MODES = ["skin", "search"]
HCNO = ("H", "C", "N", "O")


class Ours:
    """Reads the weights that the peer has drawn."""

    def __init__(self, folder, members):
        self.folder = folder

    def potential(self, system):
        import torch

        from epot.interchange.torchani import from_torchani

        torch.manual_seed(0)
        return from_torchani(torch.load(self.folder / f"{kind(system)}.pt", weights_only=True))

    def calculator(self, system, mode):
        from epot.simulate.calculator import Calculator

        return Calculator(self.potential(system).eval(), skin=0.5 if mode == "skin" else 0.0)

    def trainer(self, frames, mode):
        import torch

        from epot.data.structure import Structure
        from epot.geometry.graph import build, collate
        from epot.predict import predict

        model = self.potential("mol27").train()
        graphs = [build(Structure.from_ase(a), model.cutoff) for a in frames]
        energies = torch.tensor([a.info["energy"] for a in frames], dtype=torch.float64)
        forces = torch.cat([torch.from_numpy(a.arrays["forces"]) for a in frames])
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-6)

        def step():
            made = predict(model, collate(graphs), create_graph=True)
            loss = ((made.energy - energies) / 27).square().mean() + (made.forces - forces).square().mean()
            for parameter, grad in zip(
                parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
            ):
                parameter.grad = grad
            optimizer.step()

        return step


class Torchani:
    """The peer, which draws the weights and writes them."""

    def __init__(self, folder, members):
        import torch

        self.torch, self.members = torch, members
        for name in ("hcno", "si"):
            path = folder / f"{name}.pt"
            state = self.model(name, "all_pairs").state_dict()
            if not path.exists():
                torch.save(state, path)

    def model(self, name, search):
        from torchani.aev import AEVComputer
        from torchani.arch import ANI, simple_ani
        from torchani.nn import ANINetworks, AtomicNetwork, Ensemble
        from torchani.sae import SelfEnergy

        self.torch.manual_seed(0)
        if name == "hcno":
            made = simple_ani(
                list(HCNO), lot="wb97x-631gd", ensemble_size=self.members, neighborlist=search, repulsion=False,
                dispersion=False,
            )  # fmt: skip
            return made.eval()
        aev = AEVComputer.like_2x(
            num_species=1, cutoff_fn="smooth", neighborlist=search, radial_start=0.9, radial_cutoff=5.2,
            angular_start=0.9,
        )  # fmt: skip
        networks = [
            ANINetworks({"Si": AtomicNetwork((aev.out_dim, 160, 128, 96, 1), "gelu", False)})
            for _ in range(self.members)
        ]
        return ANI(("Si",), aev, Ensemble(networks), SelfEnergy(("Si",), (0.0,))).eval()

    def calculator(self, system, mode):
        how, search = mode.split()
        made = self.model(kind(system), search)
        if how == "compile":
            from torchani.ase import Calculator

            made.forward = self.torch.compile(made.forward, dynamic=True)
            return Calculator(made)
        return made.ase(jit=how == "jit")

    def trainer(self, frames, mode):
        torch = self.torch
        how, search = mode.split()
        made = self.model("hcno", search).train()
        numbers = torch.stack([torch.tensor(a.numbers) for a in frames])
        start = torch.stack([torch.tensor(a.positions, dtype=torch.float32) for a in frames])
        energies = torch.tensor([a.info["energy"] for a in frames])
        forces = torch.stack([torch.tensor(a.arrays["forces"], dtype=torch.float32) for a in frames])
        optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-6)
        called = {"plain": lambda m: m, "jit": torch.jit.script, "compile": torch.compile}[how](made)

        def step():
            optimizer.zero_grad(set_to_none=True)
            x = start.clone().requires_grad_()
            energy = called((numbers, x)).energies
            found = -torch.autograd.grad(energy.sum(), x, create_graph=True)[0]
            loss = ((energy - energies) / 27).square().mean() + (found - forces).square().mean()
            loss.backward()
            optimizer.step()

        return step


def kind(system):
    return "si" if system.startswith("si") else "hcno"


def caller(package, system, mode):
    """A function that does one unit of work: a training step, or moving the atoms and asking for forces."""
    from systems import SYSTEMS, training_set

    if system == "train":
        return package.trainer(training_set(), mode)
    atoms = SYSTEMS[system]()
    atoms.calc = package.calculator(system, mode)
    start, rng = atoms.positions.copy(), np.random.default_rng(1)

    def call():
        atoms.positions = start + rng.normal(scale=1e-3, size=start.shape)
        return atoms.get_potential_energy(), atoms.get_forces()

    return call


def work(name, folder, threads, members):
    """Answer one JSON order a line."""
    import torch

    torch.set_num_threads(threads)
    out, sys.stdout = sys.stdout, sys.stderr
    package = {"epot": Ours, "torchani": Torchani}[name](Path(folder), members)
    calls = {}
    print(json.dumps({"torch": torch.__version__}), file=out, flush=True)
    for line in sys.stdin:
        order, answer = json.loads(line), {}
        where = order["system"], order["mode"]
        if order["do"] == "prepare":
            try:
                calls = {where: caller(package, *where)}
                for _ in range(4):
                    found = calls[where]()
                answer = {"forces": None if found is None else found[1].tolist()}
            except Exception as why:
                answer = {"failed": f"{type(why).__name__}: {str(why).splitlines()[0][:90] if str(why) else ''}"}
        else:
            wall, cpu, end = [], [], time.perf_counter() + order["seconds"]
            calls[where]()
            while not wall or time.perf_counter() < end:
                begin, used = time.perf_counter(), time.process_time()
                calls[where]()
                wall.append((time.perf_counter() - begin) * 1e3)
                cpu.append((time.process_time() - used) * 1e3)
            answer = {"wall": wall, "cpu": cpu}
        print(json.dumps(answer), file=out, flush=True)


class Worker:
    """A process with one package."""

    def __init__(self, name, python, folder, chosen):
        environment = os.environ | {"OMP_NUM_THREADS": str(chosen.threads), "MKL_NUM_THREADS": str(chosen.threads)}
        order = [python, "-W", "ignore", __file__, "--worker", name, "--folder", folder]
        order += ["--threads", str(chosen.threads), "--members", str(chosen.members)]
        self.process = subprocess.Popen(
            order, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
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


def compare(workers, system, ours, peers, chosen):
    """One of our modes and all of the peer's on one system, in turns: a row of the table."""
    walls, cpus, failed, forces = {}, {}, {}, {}
    order = {"system": system, "mode": ours}
    forces["epot"] = workers["epot"].ask(do="prepare", **order)["forces"]
    for mode in peers:  # each with our mode beside it
        ready = workers["torchani"].ask(do="prepare", system=system, mode=mode)
        if "failed" in ready:
            failed[f"torchani {mode}"] = ready["failed"]
            continue
        forces.setdefault("torchani", ready["forces"])
        for _ in range(chosen.rounds):
            for name, own in (("epot", ours), ("torchani", mode)):
                got = workers[name].ask(do="sample", system=system, mode=own, seconds=chosen.seconds)
                for kept, measure in ((walls, "wall"), (cpus, "cpu")):
                    kept.setdefault(f"{name} {own}", []).extend(got[measure])
    row = {"system": system, "mode": ours, "threads": chosen.threads, "loadavg": os.getloadavg()[0]}
    row["failed"] = failed
    row["modes"] = {
        k: {"median_ms": statistics.median(v), "min_ms": min(v), "cpu_ms": min(cpus[k]), "n": len(v)}
        for k, v in walls.items()
    }
    mine = row["modes"][f"epot {ours}"]
    for measure in ("median_ms", "min_ms", "cpu_ms"):
        best = min((v[measure], k) for k, v in row["modes"].items() if k.startswith("torchani"))
        row[measure] = {"epot": mine[measure], "torchani": best[0], "best": best[1], "ratio": best[0] / mine[measure]}
    if forces["epot"] is not None:
        row["apart"] = float(np.abs(np.array(forces["epot"]) - np.array(forces["torchani"])).max())
    return row


def show(row):
    least, middle = row["min_ms"], row["median_ms"]
    line = (
        f"{row['system']:10s} {row['mode']:6s} {row['threads']} threads  epot {least['epot']:8.2f} ms (median "
        f"{middle['epot']:.2f})  {least['best']} {least['torchani']:8.2f} ms (median {middle['torchani']:.2f})  "
        f"ratio {least['ratio']:.2f} (median {middle['ratio']:.2f}, processor "
        f"time {row['cpu_ms']['ratio']:.2f})  load {row['loadavg']:.1f}"
    )
    print(line + (f"  forces apart {row['apart']:.1e} eV/Å" if "apart" in row else ""), flush=True)
    for mode, why in row["failed"].items():
        print(f"    {mode} failed: {why}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of an environment with torchani")
    parser.add_argument("--systems", nargs="+", default=["mol27", "water192", "si216", "water1536", "train"])
    parser.add_argument("--peer-modes", nargs="+", default=PEER_MODES[:4], choices=PEER_MODES)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each package per mode")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn, at least one call")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--members", type=int, default=1, help="networks of each element")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--worker", choices=["epot", "torchani"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        work(chosen.worker, chosen.folder, chosen.threads, chosen.members)
        return
    if not chosen.peer_python:
        parser.error("--peer-python is needed: the weights are the peer's")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        peer = Worker("torchani", chosen.peer_python, folder, chosen)
        workers = {"epot": Worker("epot", sys.executable, folder, chosen), "torchani": peer}
        for system in chosen.systems:
            peers = [m for m in chosen.peer_modes if system != "water1536" or not m.endswith("all_pairs")]
            for ours in ["step"] if system == "train" else OUR_MODES:
                rows.append(compare(workers, system, ours, peers, chosen))
                show(rows[-1])
    if chosen.json:
        Path(chosen.json).write_text(json.dumps({w: workers[w].about for w in workers} | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
