"""mace-torch, NequIP and TensorNet trained on 3BPA for the time of ours, and tested on the same structures.

    python benchmarks/threebpa_peers.py mace --data DIR --minutes 30 --peer-python MACE/bin/python
    python benchmarks/threebpa_peers.py nequip --data DIR --minutes 30 --peer-python NEQUIP/bin/python
    python benchmarks/threebpa_peers.py tensornet --data DIR --minutes 30 --peer-python TORCHMDNET/bin/python

The models are those of ``mace_speed.py``: MACE with 64x0e + 64x1o, max_ell 3, correlation 3 and 2 layers; NequIP with
l_max 1, 64 features and 4 layers, its training compiled (outside the minutes); TensorNet with 64 channels and 2
layers; 5 Å, float32. The recipe is the one of ``mace`` here, but for the optimizer: batches of five structures;
squares of errors of energies per atom, up to a constant, and of forces; the energies' weight grows from 10 to 100
over the second half; the rate falls linearly to zero; averaged weights are tested. Of the 500 structures 450 are
fitted to and 50 held out, another draw than that of ``epot bench``. Optimizers as these packages document them: Adam
with AMSGrad at 0.01 for mace-torch (which decays some weights by 5e-7) and for NequIP, or with ``--muon`` NequIP's
own Muon at 0.01; AdamW at 0.001 for TensorNet. One number, the energies' common constant, is fitted to the training
structures at the end.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from mace_speed import CUTOFF, MaceTorch, TensorNet

BATCH, DECAY = 5, 0.999
FILES = {"train": "train_300K"} | {f"{t} K": f"derived_test_{t}K" for t in (300, 600, 1200)}


def read(folder, name):
    from ase.io import read as ase_read

    with gzip.open(Path(folder) / "3bpa" / f"{name}.xyz.gz", "rt") as stream:
        frames = ase_read(stream, ":", format="extxyz")
    energies = np.array([a.get_potential_energy() for a in frames])
    return frames, energies, np.array([a.get_forces() for a in frames])


class TrainedMace:
    """Its model; which weights decay as in its ``run_train``."""

    rate = 0.01

    def __init__(self, atoms, energy, force_scale, seed, muon):
        import torch
        from mace.tools import utils

        self.model = MaceTorch().model(atoms, energy, force_scale, seed)
        named = list(self.model.named_parameters())
        maps = ("linear.weight", "skip_tp_full.weight")
        decaying = {
            n for n, _ in named if n.startswith("products") or (n.startswith("interactions") and n.endswith(maps))
        }  # fmt: skip
        groups = [
            {"params": [p for n, p in named if (n in decaying) is decays], "weight_decay": decay}
            for decays, decay in ((True, 5e-7), (False, 0.0))
        ]
        self.optimizer = torch.optim.Adam(groups, lr=self.rate, amsgrad=True)
        self.table = utils.AtomicNumberTable([int(z) for z in self.model.atomic_numbers])

    def prepare(self, atoms):
        from mace import data

        return data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=self.table, cutoff=CUTOFF)

    def predict(self, prepared):
        from mace.tools import torch_geometric

        batch = torch_geometric.Batch.from_data_list(prepared).to_dict()
        out = self.model(batch, training=self.model.training, compute_force=True)
        return out["energy"], out["forces"]


class TrainedNequip:
    """Its model, its own data pipeline, its compiled training."""

    rate = 0.01

    def __init__(self, atoms, energy, force_scale, seed, muon):
        import torch
        from nequip.model import MuonParamGroups, NequIPGNNModel
        from nequip.train import MuonWithAuxAdam
        from nequip.utils.global_state import set_global_state

        set_global_state(allow_tf32=False)
        names = ["H", "C", "N", "O"]
        self.model = NequIPGNNModel(
            seed=1 + seed, model_dtype="float32", type_names=names, r_max=CUTOFF, avg_num_neighbors=15.0,
            per_type_energy_scales=force_scale, per_type_energy_shifts=dict.fromkeys(names, energy), num_layers=4,
            compile_mode="compile", l_max=1, parity=False, num_features=64, radial_mlp_depth=1, radial_mlp_width=64,
            num_bessels=8,
        )  # fmt: skip
        if muon:
            same = {"lr": self.rate, "weight_decay": 1e-5}  # as in the docstring of MuonWithAuxAdam
            self.optimizer = MuonWithAuxAdam(MuonParamGroups(self.model, muon=dict(same), adam=dict(same)))
        else:
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.rate, amsgrad=True)
        self.names = names

    def prepare(self, atoms):
        from nequip.data import from_ase
        from nequip.integrations.utils import basic_transforms

        made = from_ase(atoms)
        for change in basic_transforms(
            {}, CUTOFF, self.names, {s: s for s in self.names}, neighborlist_backend="matscipy"
        ):
            made = change(made)
        return {k: v for k, v in made.items() if k not in ("total_energy", "forces", "stress", "virial")}

    def predict(self, prepared):
        from nequip.data import AtomicDataDict

        out = self.model(AtomicDataDict.batched_from_list(prepared))
        return out["total_energy"].reshape(-1), out["forces"]


class TrainedTensorNet:
    """Energies relative to the mean of the training structures, in units of the forces' root mean square."""

    rate = 0.001

    def __init__(self, atoms, energy, force_scale, seed, muon):
        import torch
        from torchmdnet.models.model import create_model

        self.model = create_model(dict(TensorNet(".").arguments))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.rate)
        self.scale, self.energy = force_scale, energy

    def prepare(self, atoms):
        import torch

        return torch.tensor(atoms.numbers), torch.tensor(atoms.positions, dtype=torch.float32)

    def predict(self, prepared):
        import torch

        numbers = torch.cat([n for n, _ in prepared])
        owner = torch.arange(len(prepared)).repeat_interleave(torch.tensor([len(n) for n, _ in prepared]))
        energies, forces = self.model(numbers, torch.cat([p for _, p in prepared]), batch=owner)
        sizes = torch.bincount(owner).double()
        return self.scale * energies.reshape(-1).double() + self.energy * sizes, self.scale * forces


def train(kind, folder, minutes, threads, seed, muon):
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    frames, energies, forces = read(folder, FILES["train"])
    n_atoms = len(frames[0])
    order = rng.permutation(len(frames))
    kept, held = order[50:], order[:50]
    peer = {"mace": TrainedMace, "nequip": TrainedNequip, "tensornet": TrainedTensorNet}[kind](
        frames[0], float(energies[kept].mean() / n_atoms), float(np.sqrt((forces[kept] ** 2).mean())), seed, muon
    )
    model, parameters = peer.model, list(peer.model.parameters())
    data = [peer.prepare(a) for a in frames]

    def loss_of(chosen, weight):
        energy, force = peer.predict([data[i] for i in chosen])
        errors = (energy - torch.as_tensor(energies[chosen])) / n_atoms
        errors = errors - errors.mean()
        wrong = force - torch.as_tensor(forces[chosen].reshape(-1, 3), dtype=force.dtype)
        return weight * errors.square().mean() + wrong.square().mean()

    def score(prepared, energy, force):
        found = [peer.predict(prepared[i : i + BATCH]) for i in range(0, len(prepared), BATCH)]
        wrong_energy = torch.cat([e.detach() for e, _ in found]).double().numpy() - energy
        wrong_force = torch.cat([f.detach() for _, f in found]).double().numpy() - force.reshape(-1, 3)
        return wrong_energy, 1e3 * np.sqrt((wrong_force**2).mean())

    model.train()
    start = time.perf_counter()
    for i in range(3):  # compiles; rates of zero leave the weights as they are
        for group in peer.optimizer.param_groups:
            group["lr"] = 0.0
        peer.optimizer.zero_grad()
        loss_of(kept[BATCH * i : BATCH * (i + 1)], 10.0).backward()
        peer.optimizer.step()
    say = {
        "peer": kind,
        "muon": muon,
        "parameters": sum(p.numel() for p in parameters),
        "compiled_s": time.perf_counter() - start,
    }
    print(json.dumps(say), flush=True)
    averages = [p.detach().clone() for p in parameters]
    start, step, said, queue = time.perf_counter(), 0, 0, []
    while (share := (time.perf_counter() - start) / (60 * minutes)) < 1:
        if len(queue) < BATCH:
            queue = list(rng.permutation(kept))
        chosen, queue = np.array(queue[:BATCH]), queue[BATCH:]
        for group in peer.optimizer.param_groups:
            group["lr"] = peer.rate * (1 - share)
        peer.optimizer.zero_grad()
        loss_of(chosen, 10.0 ** (1 + max(0.0, 2 * share - 1))).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 100.0)
        peer.optimizer.step()
        step += 1
        decay = min(DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - decay)
        if share > (said + 1) / 8:
            said += 1
            wrong, force = score([data[i] for i in held], energies[held], forces[held])
            say = {"share": share, "steps": step, "valid_meV": 1e3 * wrong.std(), "valid_meV/A": force}
            print(json.dumps(say), flush=True)
    with torch.no_grad():
        torch._foreach_copy_(parameters, averages)
    model.eval()
    wrong, force = score([data[i] for i in kept], energies[kept], forces[kept])
    constant, row = wrong.mean(), {"steps": step, "train_meV/A": force}
    for name in list(FILES)[1:]:
        test, energy, reference = read(folder, FILES[name])
        wrong, force = score([peer.prepare(a) for a in test], energy, reference)
        row[name] = f"{1e3 * np.sqrt(((wrong - constant) ** 2).mean()):.1f} / {force:.1f}"
    print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["mace", "nequip", "tensornet"])
    parser.add_argument("--peer-python", help="of the peer's environment; without, this one")
    parser.add_argument("--data", required=True, help="the folder with the reference data")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--muon", action="store_true", help="of NequIP, in place of Adam")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.peer_python:
        rest = [x for x in sys.argv[1:] if x not in ("--peer-python", chosen.peer_python)]
        os.environ |= {n: str(chosen.threads) for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        raise SystemExit(subprocess.call([chosen.peer_python, __file__, *rest]))
    train(chosen.peer, chosen.data, chosen.minutes, chosen.threads, chosen.seed, chosen.muon)


if __name__ == "__main__":
    main()
