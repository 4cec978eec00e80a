"""PaiNN and SchNet beside schnetpack, graph-pes and torch_geometric: alternating, same machine, same sizes.

    python benchmarks/message_passing_speed.py --model schnet --peers schnetpack=ENVIRONMENT/bin/python \\
        graphpes=ENVIRONMENT/bin/python pyg=ENVIRONMENT/bin/python [--systems mol27 si216] [--modes search train]

128 features, 3 interactions, cutoff 5 Å, float32; 20 Gaussians in PaiNN, 50 in SchNet; weights are random. Energies and
forces through each package's ASE calculator, the atoms moved by 1e-3 Å before every call: ``search`` with a neighbor
search at every call, ``skin`` with neighbor lists that outlive a call (0.5 Å here and in schnetpack, 1 Å in graph-pes,
their defaults). torch_geometric has no calculator, no neighbor search of its own without an extension, and no periodic
cells: a plain calculator with vesin's search is written around it here. ``train``: one Adam step on energies and
forces of a collated batch of eight 27-atom molecules. Each package in a process of its own, in turns; printed are the
fastest and the median, the ratio of the fastest to ours, and the memory that each case takes. schnetpack and graph-pes
need no more than their pip installs, torch_geometric vesin besides.

What the time goes into, in ours, per pair and interaction of SchNet (one core, 128 channels, float32): a filter from
six terms of a spline 31 ns, taking the sender 13, multiplying 13, summing 11, and backward three times as much; the
filter network itself would take 22 800 multiplications, 0.5 µs forward alone. Training makes filters at some 400 nodes.
"""

import argparse
import contextlib
import json
import os
import sys
import typing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ours import calculator, labels_of, loss_of, moved, training_step

CUTOFF, FEATURES, LAYERS, SKIN = 5.0, 128, 3, 0.5
RADIAL = {"painn": 20, "schnet": 50}
MODES = ("search", "skin", "train")


class Epot:
    """Ours."""

    def __init__(self, model):
        import torch
        from systems import ELEMENTS

        from epot.potential import make

        torch.manual_seed(0)
        sizes = {"n_features": FEATURES, "n_layers": LAYERS, "n_radial": RADIAL[model], "radial": "gaussian"}
        self.model = make({"name": model, "elements": list(ELEMENTS), "cutoff": CUTOFF} | sizes)

    def calculator(self, mode):
        return calculator(self.model, SKIN if mode == "skin" else 0.0)

    def step(self, frames):
        import torch

        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        return training_step(self.model, frames, optimizer)


class Schnetpack:
    def __init__(self, model):
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        import torch
        import torch.utils.data.dataloader as loader

        if not hasattr(loader, "T_co"):  # a name that schnetpack imports and torch no longer has
            loader.T_co = typing.TypeVar("T_co", covariant=True)
        import schnetpack as spk

        self.spk = spk
        torch.manual_seed(0)
        kind = {"painn": spk.representation.PaiNN, "schnet": spk.representation.SchNet}[model]
        body = kind(FEATURES, LAYERS, spk.nn.GaussianRBF(RADIAL[model], CUTOFF), spk.nn.CosineCutoff(CUTOFF))
        output = [spk.atomistic.Atomwise(n_in=FEATURES, output_key="energy"), spk.atomistic.Forces()]
        self.model = spk.model.NeuralNetworkPotential(
            representation=body, input_modules=[spk.atomistic.PairwiseDistances()], output_modules=output
        )

    def neighbors(self, mode):
        search = self.spk.transform.MatScipyNeighborList(cutoff=CUTOFF)
        return self.spk.transform.SkinNeighborList(search, cutoff_skin=SKIN) if mode == "skin" else search

    def calculator(self, mode):
        import tempfile

        import torch
        from schnetpack.interfaces.ase_interface import SpkCalculator

        with tempfile.TemporaryDirectory() as folder:
            torch.save(self.model, f"{folder}/model")
            return SpkCalculator(
                f"{folder}/model", neighbor_list=self.neighbors(mode), energy_unit="eV", dtype=torch.float32
            )

    def step(self, frames):
        import torch
        from schnetpack.interfaces.ase_interface import AtomsConverter

        batch = AtomsConverter(neighbor_list=self.neighbors("search"), dtype=torch.float32)(frames)
        labels, model = labels_of(frames, torch.float32), self.model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def step():
            optimizer.zero_grad(set_to_none=True)
            out = model({k: v.clone() for k, v in batch.items()})
            loss_of(out["energy"], out["forces"], *labels).backward()
            optimizer.step()

        return step


class Graphpes:
    def __init__(self, model):
        import torch
        from graph_pes import models

        torch.manual_seed(0)
        if model == "painn":
            self.model = models.PaiNN(channels=FEATURES, radial_features=RADIAL[model], layers=LAYERS, cutoff=CUTOFF)
        else:
            self.model = models.SchNet(
                channels=FEATURES, expansion_features=RADIAL[model], layers=LAYERS, cutoff=CUTOFF
            )

    def prepare(self, frames):
        from graph_pes import AtomicGraph

        graphs = [AtomicGraph.from_ase(a, CUTOFF) for a in frames]
        with contextlib.suppress(Exception):  # without labels it cannot scale energies, and then it leaves them
            self.model.pre_all_components(graphs)
        return graphs

    def calculator(self, mode):
        from graph_pes.utils.calculator import GraphPESCalculator

        return GraphPESCalculator(self.model.eval(), skin=1.0 if mode == "skin" else 0.0)

    def step(self, frames):
        import torch
        from graph_pes.atomic_graph import to_batch

        batch = to_batch(self.prepare(frames))
        labels = batch.properties["energy"], batch.properties["forces"]
        optimizer = torch.optim.Adam(self.model.train().parameters(), lr=1e-3)

        def step():
            optimizer.zero_grad(set_to_none=True)
            out = self.model.predict(batch, properties=["energy", "forces"])
            loss_of(out["energy"], out["forces"], *labels).backward()
            optimizer.step()

        return step


class Pyg:
    def __init__(self, model):
        import torch
        from torch_geometric.nn import SchNet

        if model != "schnet":
            raise SystemExit("torch_geometric has no PaiNN.")
        torch.manual_seed(0)
        self.model = SchNet(FEATURES, FEATURES, LAYERS, RADIAL[model], CUTOFF)

    def calculator(self, mode):
        if mode == "skin":
            return None
        import numpy as np
        import torch
        import vesin
        from ase.calculators.calculator import Calculator, all_changes

        model, search = self.model.eval(), vesin.NeighborList(cutoff=CUTOFF, full_list=True)

        class Plain(Calculator):
            implemented_properties = ("energy", "forces")

            def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
                super().calculate(atoms, properties, system_changes)
                box, periodic = np.array(atoms.cell), bool(atoms.pbc.all())
                i, j, shifts = search.compute(atoms.positions, box, periodic, "ijS")
                edges = torch.from_numpy(np.stack([j, i]).astype(np.int64))
                shifts = torch.from_numpy(shifts @ box).float()
                positions = torch.tensor(atoms.positions, dtype=torch.float32, requires_grad=True)
                model.interaction_graph.forward = lambda x, _: (edges, (x[edges[0]] + shifts - x[edges[1]]).norm(dim=1))
                energy = model(torch.from_numpy(atoms.numbers), positions).sum()
                forces = -torch.autograd.grad(energy, positions)[0]
                self.results = {"energy": float(energy.detach()), "forces": forces.numpy()}

        return Plain()

    def step(self, frames):
        import torch
        import vesin

        search, edges = vesin.NeighborList(cutoff=CUTOFF, full_list=True), []
        for k, frame in enumerate(frames):
            i, j = search.compute(frame.positions, frame.cell.array, False, "ij")
            edges.append(torch.tensor([j.tolist(), i.tolist()]) + k * len(frame))
        edges = torch.cat(edges, 1)
        self.model.interaction_graph.forward = lambda x, _: (edges, (x[edges[0]] - x[edges[1]]).norm(dim=1))
        numbers = torch.cat([torch.from_numpy(a.numbers) for a in frames])
        start = torch.cat([torch.tensor(a.positions, dtype=torch.float32) for a in frames])
        owner = torch.arange(len(frames)).repeat_interleave(len(frames[0]))
        labels, model = labels_of(frames, torch.float32), self.model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def step():
            optimizer.zero_grad(set_to_none=True)
            positions = start.clone().requires_grad_()
            energy = model(numbers, positions, owner)
            forces = -torch.autograd.grad(energy.sum(), positions, create_graph=True)[0]
            loss_of(energy, forces, *labels).backward()
            optimizer.step()

        return step


PACKAGES = {"epot": Epot, "schnetpack": Schnetpack, "graphpes": Graphpes, "pyg": Pyg}


def peak_mb(reset=False):
    """Largest resident size of this process so far, or since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    line = next(x for x in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def case_of(name, model):
    """``make(case)`` of a worker: a training step, or moving the atoms and asking for forces."""

    from systems import SYSTEMS, training_set

    def make(case):
        system, mode = case.split()
        before = peak_mb(reset=True)
        call = prepared(system, mode)
        for _ in range(2 if call else 0):
            call()
        print(f"{case}: {name} takes {peak_mb() - before:.0f} MB beside {before:.0f}", file=sys.stderr, flush=True)
        return call

    def prepared(system, mode):
        package = PACKAGES[name](model)
        if mode == "train":
            return package.step(training_set())
        atoms = SYSTEMS[system]()
        if name == "graphpes":
            package.prepare([atoms])
        atoms.calc = package.calculator(mode)
        if atoms.calc is None:
            return None
        return moved(atoms)

    return make


def main():
    from systems import SYSTEMS
    from turns import Worker, compare, header, serve

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(RADIAL), default="schnet")
    parser.add_argument("--peers", nargs="*", default=[], help="name=python of its environment")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each package per measurement")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn, at least three calls")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="write the fastest times to this file")
    parser.add_argument("--worker", choices=list(PACKAGES), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        import torch  # noqa: F401  (serve sets its threads)

        serve(case_of(chosen.worker, chosen.model), chosen.threads)
        return
    header(chosen.threads)
    environments = {"epot": sys.executable} | dict(peer.split("=", 1) for peer in chosen.peers)
    workers = [
        Worker(python, __file__, name, chosen.threads, "--model", chosen.model) for name, python in environments.items()
    ]
    cases = [f"{s} {m}" for s in chosen.systems for m in chosen.modes if m != "train"]
    cases += ["8xmol27 train"] if "train" in chosen.modes else []
    best = compare(workers, cases, chosen.rounds, chosen.seconds)
    for worker in workers:
        worker.close()
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(best, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
