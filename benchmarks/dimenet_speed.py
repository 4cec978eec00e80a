"""DimeNet++ beside torch_geometric's: same weights, same edges and triplets, alternating on one machine.

    python benchmarks/dimenet_speed.py --peer ENVIRONMENT/bin/python [--systems mol27 si216] [--modes search skin train]

The paper's sizes (128 channels, 4 interactions, 64 for triplets, 7 degrees, 6 radial functions), cutoff 5 Å, float32.
Energies and forces through an ASE calculator, the atoms moved by 1e-3 Å before every call: ``search`` with a neighbor
search at every call, ``skin`` (ours alone) with neighbor lists that outlive a call. ``train``: one AdamW step on
energies and forces of a collated batch of eight 27-atom molecules, its lists made before.

torch_geometric has no calculator, knows no cells, and lists neighbors and triplets with compiled extensions: here its
own layers are called in a plain calculator with vesin's search, and its triplets are listed by tensor operations that
tell images apart (its own leave out every image of i). Its environment needs torch_geometric, sympy, ase and vesin.

Arithmetic, in multiplications per pair and interaction: dense layers 10 F^2 = 164 000, with K neighbors 448 K for the
sum over triplets as matrix products and 8 000 for its radial part, against (64 + 56 + 512) K and several passes
through memory for each triplet one by one. So ours is bound by dense layers, which both have.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ours import calculator, labels_of, loss_of, moved, training_step

CUTOFF, SKIN = 5.0, 0.5
MODES = ("search", "skin", "train")


class Epot:
    """Ours, with the weights that torch_geometric drew."""

    def __init__(self, weights):
        import torch
        from systems import ELEMENTS

        from epot.interchange.torch_geometric import dimenet_from_state

        self.model = dimenet_from_state(torch.load(weights, weights_only=True), elements=ELEMENTS, cutoff=CUTOFF)

    def calculator(self, mode):
        return calculator(self.model, SKIN if mode == "skin" else 0.0)

    def step(self, frames):
        import torch

        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        return training_step(self.model, frames, optimizer, fresh=False)


class Pyg:
    """torch_geometric's layers."""

    def __init__(self, weights):
        import torch
        from torch_geometric.nn import DimeNetPlusPlus

        torch.manual_seed(0)
        self.model = DimeNetPlusPlus(128, 1, 4, 64, 8, 256, 7, 6, cutoff=CUTOFF, output_initializer="glorot_orthogonal")
        if not Path(weights).exists():
            torch.save(self.model.state_dict(), weights)

    def lists(self, frames):
        """Receivers, senders, shifts in Å, and the edges of triplets."""
        import numpy as np
        import torch
        import vesin

        search, parts, first = vesin.NeighborList(cutoff=CUTOFF, full_list=True, sorted=True), [], 0
        for atoms in frames:
            box = np.array(atoms.cell)
            i, j, s = search.compute(atoms.positions, box, bool(atoms.pbc.all()), "ijS")
            parts.append((i.astype(np.int64) + first, j.astype(np.int64) + first, s, s @ box))
            first += len(atoms)
        i, j, cells, shifts = (torch.from_numpy(np.concatenate(p)) for p in zip(*parts, strict=True))
        degrees = torch.bincount(i, minlength=first)
        begin, each = degrees.cumsum(0) - degrees, degrees[j]
        ji = torch.repeat_interleave(each)
        kj = torch.arange(len(ji)) + (begin[j] - (each.cumsum(0) - each))[ji]
        keep = (j[kj] != i[ji]) | (cells[kj] + cells[ji]).ne(0).any(1)
        return i, j, shifts.float(), kj[keep], ji[keep]

    def energies(self, z, x, lists):
        """Its forward from distances on, ``(atoms, 1)``."""
        import torch

        i, j, shifts, kj, ji = lists
        model, vectors = self.model, x[i] - x[j] - shifts
        distance = vectors.square().sum(1).sqrt()
        along, across = (vectors[ji] * vectors[kj]).sum(1), torch.cross(vectors[ji], vectors[kj], dim=1).norm(dim=1)
        rbf, sbf = model.rbf(distance), model.sbf(distance, torch.atan2(across, along), kj)
        m = model.emb(z, rbf, i, j)
        total = model.output_blocks[0](m, rbf, i, num_nodes=len(z))
        for interaction, output in zip(model.interaction_blocks, model.output_blocks[1:], strict=True):
            m = interaction(m, rbf, sbf, kj, ji)
            total = total + output(m, rbf, i, num_nodes=len(z))
        return total

    def calculator(self, mode):
        if mode == "skin":
            return None
        import torch
        from ase.calculators.calculator import Calculator, all_changes

        package = self
        self.model.eval().requires_grad_(False)

        class Plain(Calculator):
            implemented_properties = ("energy", "forces")

            def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
                super().calculate(atoms, properties, system_changes)
                x = torch.tensor(atoms.positions, dtype=torch.float32, requires_grad=True)
                energy = package.energies(torch.from_numpy(atoms.numbers), x, package.lists([atoms])).sum()
                forces = -torch.autograd.grad(energy, x)[0]
                self.results = {"energy": float(energy.detach()), "forces": forces.numpy()}

        return Plain()

    def step(self, frames):
        import torch

        lists, labels = self.lists(frames), labels_of(frames, torch.float32)
        z = torch.cat([torch.from_numpy(a.numbers) for a in frames])
        start = torch.cat([torch.tensor(a.positions, dtype=torch.float32) for a in frames])
        owner = torch.arange(len(frames)).repeat_interleave(len(frames[0]))
        model = self.model.train().requires_grad_(True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def step():
            optimizer.zero_grad(set_to_none=True)
            x = start.clone().requires_grad_()
            energy = torch.zeros(len(frames)).index_add(0, owner, self.energies(z, x, lists)[:, 0])
            forces = -torch.autograd.grad(energy.sum(), x, create_graph=True)[0]
            loss_of(energy, forces, *labels).backward()
            optimizer.step()

        return step


PACKAGES = {"epot": Epot, "pyg": Pyg}


def case_of(name, weights):
    """``make(case)`` of a worker: a training step, or moving the atoms and asking for forces."""

    def make(case):
        from systems import SYSTEMS, training_set

        system, mode = case.split()
        package = PACKAGES[name](weights)
        if mode == "train":
            return package.step(training_set())
        atoms = SYSTEMS[system]()
        atoms.calc = package.calculator(mode)
        if atoms.calc is None:
            return None
        print(f"{name} {system}: {atoms.get_potential_energy():.6f}", file=sys.stderr)
        return moved(atoms)

    return make


def main():
    from systems import SYSTEMS
    from turns import Worker, compare, header, serve

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="python of an environment with torch_geometric: it draws the weights")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each package per measurement")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn, at least three calls")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="write the fastest times to this file")
    parser.add_argument("--worker", choices=list(PACKAGES), help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        import torch  # noqa: F401  (serve sets its threads)

        if chosen.worker == "pyg":
            Pyg(chosen.weights)
        serve(case_of(chosen.worker, chosen.weights), chosen.threads)
        return
    if not chosen.peer:
        parser.error("--peer is needed: the weights are the peer's")
    header(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.pt")
        peer = Worker(chosen.peer, __file__, "pyg", chosen.threads, "--weights", weights)
        peer.times("mol27 skin", 0)  # nothing is timed: it is ready, and the weights are written
        workers = [Worker(sys.executable, __file__, "epot", chosen.threads, "--weights", weights), peer]
        cases = [f"{s} {m}" for s in chosen.systems for m in chosen.modes if m != "train"]
        cases += ["8xmol27 train"] if "train" in chosen.modes else []
        best = compare(workers, cases, chosen.rounds, chosen.seconds)
        for worker in workers:
            worker.close()
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(best, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
