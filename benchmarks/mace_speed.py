"""MACE beside mace-torch, and beside the fastest equivariant peers: energies, forces and training steps, in turn.

    python benchmarks/mace_speed.py --peer-python MACE/bin/python [--systems mol27 si216 water192 si1000 train]
    python benchmarks/mace_speed.py --nequip-python NEQUIP/bin/python --tensornet-python TORCHMDNET/bin/python

64x0e+64x1o, max_ell 3, correlation 3, 2 layers, 8 Bessel functions, radial network 64 64 64, cutoff 5 Å, float32;
residual interactions in both layers, as mace-torch's command line has them; sizes and numbers of neighbors the same,
weights random on both sides (tests/interchange/test_mace_files.py shows that the same weights give the same numbers;
speed does not depend on them). Each through its ASE calculator, the atoms moved by 1e-3 Å before every call; ``epot``
is with compiled kernels and its default skin of 0.5 Å, ``eager`` the same with EPOT_NATIVE=0, ``search`` compiled
with a neighbor search at every call as mace-torch has it. ``train``: an optimizer step on energies and forces of
eight 27-atom molecules, collated.

NequIP: l_max 1, 64 features, 4 layers, exported ahead of time (its documented fast mode; training compiled).
TensorNet: 64 channels, 2 layers, as torchmd-net's calculator runs it. The environments: mace-torch 0.3, nequip 0.6 or
later, torchmd-net 2 or later.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ours import calculator, moved, training_step
from systems import ELEMENTS, SYSTEMS, training_set
from turns import Worker, compare, header, serve

CUTOFF, CHANNELS = 5.0, 64


# ------------------------------------------------------------------------------------------------- in the workers
class Ours:
    def __init__(self, skin):
        self.skin = skin

    def model(self, elements):
        import torch

        from epot.models.mace import MACE

        torch.manual_seed(0)
        return MACE(elements, CUTOFF, CHANNELS, max_l=1, interaction_first="residual", radial_mlp=(64, 64, 64))

    def make(self, case):
        if case == "train":
            return self.trainer()
        atoms = SYSTEMS[case]()
        atoms.calc = calculator(self.model(sorted(set(atoms.numbers.tolist()))), self.skin)
        return moved(atoms)

    def trainer(self):
        from epot.fit.optimizers import make

        frames = training_set()
        model = self.model(sorted(set(frames[0].numbers.tolist())))
        return training_step(model, frames, make("adamw", model, 1e-6, 0.0))


class MaceTorch:
    def __init__(self):
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

    def model(self, atoms, energy=0.0, scale=1.0, seed=0):
        import torch
        from ase.neighborlist import neighbor_list
        from e3nn import o3
        from mace import modules

        torch.set_default_dtype(torch.float32)
        torch.manual_seed(seed)
        elements = sorted(set(atoms.numbers.tolist()))
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        return modules.ScaleShiftMACE(
            r_max=CUTOFF, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, interaction_cls=block,
            interaction_cls_first=block, num_interactions=2, num_elements=len(elements),
            hidden_irreps=o3.Irreps(f"{CHANNELS}x0e + {CHANNELS}x1o"), MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.full(len(elements), energy),
            avg_num_neighbors=len(neighbor_list("i", atoms, CUTOFF)) / len(atoms),
            atomic_numbers=elements, correlation=3, gate=torch.nn.functional.silu, radial_MLP=[64, 64, 64],
            radial_type="bessel", atomic_inter_scale=scale,
            atomic_inter_shift=0.0,
        )  # fmt: skip

    def make(self, case):
        if case == "train":
            return self.trainer()
        from mace.calculators import MACECalculator

        atoms = SYSTEMS[case]()
        atoms.calc = MACECalculator(models=self.model(atoms), device="cpu", default_dtype="float32")
        return moved(atoms)

    def trainer(self):
        import torch
        from mace import data, modules
        from mace.tools import torch_geometric, utils

        frames = training_set()
        for atoms in frames:
            atoms.info["REF_energy"], atoms.arrays["REF_forces"] = atoms.info["energy"], atoms.arrays["forces"]
        model = self.model(frames[0])
        table = utils.AtomicNumberTable([int(z) for z in model.atomic_numbers])
        keys = data.KeySpecification(info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"})
        made = [
            data.AtomicData.from_config(data.config_from_atoms(a, key_specification=keys), z_table=table, cutoff=CUTOFF)
            for a in frames
        ]
        batch = next(iter(torch_geometric.dataloader.DataLoader(made, batch_size=8, shuffle=False)))
        loss_of = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
        optimizer, given = torch.optim.Adam(model.parameters(), lr=1e-6), batch.to_dict()

        def step():
            optimizer.zero_grad(set_to_none=True)
            out = model(given, training=True, compute_force=True, compute_virials=False, compute_stress=False)
            loss_of(pred=out, ref=batch).backward()
            optimizer.step()

        return step


class Nequip:
    def __init__(self, work):
        self.work = Path(work)

    def model(self, mode="eager"):
        from nequip.model import NequIPGNNModel
        from nequip.utils.global_state import set_global_state

        set_global_state(allow_tf32=False)
        names = self.names()
        return NequIPGNNModel(
            seed=1, model_dtype="float32", type_names=names, r_max=CUTOFF, avg_num_neighbors=20.0,
            per_type_energy_scales=1.0, per_type_energy_shifts=dict.fromkeys(names, 0.0), compile_mode=mode,
            num_layers=4, l_max=1, parity=False, num_features=64, radial_mlp_depth=1, radial_mlp_width=64,
            num_bessels=8,
        )  # fmt: skip

    def names(self):
        from ase.data import chemical_symbols

        return [chemical_symbols[z] for z in ELEMENTS]

    def data(self, atoms):
        from nequip.data import from_ase
        from nequip.integrations.utils import basic_transforms

        made, names = from_ase(atoms), self.names()
        for change in basic_transforms({}, CUTOFF, names, {s: s for s in names}, neighborlist_backend="matscipy"):
            made = change(made)
        return made

    def exported(self):
        """Path of the model compiled ahead of time; made once."""
        import torch
        from nequip.data import AtomicDataDict
        from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
        from nequip.utils.aot import aot_export_model
        from nequip.utils.aoti_metadata import (
            NEQUIP_AOTI_INPUTS_KEY,
            NEQUIP_AOTI_OUTPUTS_KEY,
            serialize_aoti_keys,
        )
        from nequip.utils.global_state import get_latest_global_state

        path = self.work / "nequip.nequip.pt2"
        if path.exists():
            return path
        target, model = COMPILE_TARGET_DICT["ase"], self.model().eval()
        names = (("graph", "num_frames"), ("node", "num_nodes"), ("edge", "num_edges"))
        sizes = {k: torch.export.dynamic_shapes.Dim(n, min=2, max=torch.inf) for k, n in names}
        data = target["data_settings"](AtomicDataDict.batched_from_list([self.data(SYSTEMS["water192"]())]))
        about = dict(model.metadata.items()) | {
            NEQUIP_AOTI_INPUTS_KEY: serialize_aoti_keys(target["input"]),
            NEQUIP_AOTI_OUTPUTS_KEY: serialize_aoti_keys(target["output"]),
        }
        about |= get_latest_global_state(only_metadata_related=True)
        about = {k: str(int(v)) if isinstance(v, bool) else str(v) for k, v in about.items()}
        aot_export_model(
            model=model, device="cpu", input_fields=target["input"], output_fields=target["output"], data=data,
            batch_map=target["batch_map_settings"](sizes), output_path=str(path),
            inductor_configs={"aot_inductor.metadata": about},
        )  # fmt: skip
        return path

    def make(self, case):
        if case == "train":
            return self.trainer()
        from nequip.integrations.ase import NequIPCalculator

        atoms = SYSTEMS[case]()
        atoms.calc = NequIPCalculator.from_compiled_model(
            str(self.exported()), device="cpu", chemical_species_to_atom_type_map=True
        )
        return moved(atoms)

    def trainer(self):
        import torch
        from nequip.data import AtomicDataDict

        model, frames = self.model("compile").train(), training_set()
        batch = AtomicDataDict.batched_from_list([self.data(a) for a in frames])
        energies = torch.tensor([[a.info["energy"]] for a in frames], dtype=torch.float64)
        forces = torch.cat([torch.as_tensor(a.arrays["forces"], dtype=torch.float64) for a in frames])
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
        for key in (AtomicDataDict.TOTAL_ENERGY_KEY, AtomicDataDict.FORCE_KEY):
            batch.pop(key, None)

        def step():
            optimizer.zero_grad(set_to_none=True)
            out = model(dict(batch))
            loss = ((out[AtomicDataDict.TOTAL_ENERGY_KEY] - energies) / 27).square().mean()
            (loss + (out[AtomicDataDict.FORCE_KEY] - forces).square().mean()).backward()
            optimizer.step()

        return step


class TensorNet:
    def __init__(self, work):
        self.path = Path(work) / "tensornet.ckpt"
        self.arguments = {
            "model": "tensornet", "embedding_dimension": 64, "num_layers": 2, "num_rbf": 32, "rbf_type": "expnorm",
            "trainable_rbf": False, "activation": "silu", "attn_activation": "silu", "cutoff_lower": 0.0,
            "cutoff_upper": CUTOFF, "max_z": 100, "max_num_neighbors": 64, "num_heads": 8, "distance_influence": "both",
            "neighbor_embedding": True, "aggr": "add", "equivariance_invariance_group": "O(3)", "precision": 32,
            "derivative": True, "atom_filter": -1, "prior_model": None, "output_model": "Scalar", "reduce_op": "add",
            "box_vecs": None, "static_shapes": False, "remove_ref_energy": False,
        }  # fmt: skip

    def make(self, case):
        import torch
        from torchmdnet.calculators import TMDNETCalculator
        from torchmdnet.models.model import create_model

        model = create_model(dict(self.arguments))
        if case == "train":
            return self.trainer(model.train())
        state = {"model." + k: v for k, v in model.state_dict().items()}
        torch.save({"state_dict": state, "hyper_parameters": dict(self.arguments)}, self.path)
        atoms = SYSTEMS[case]()
        atoms.info["charge"] = 0.0
        atoms.calc = TMDNETCalculator(str(self.path), device="cpu", compile=False, max_num_neighbors=100)
        return moved(atoms)

    def trainer(self, model):
        import torch

        frames = training_set()
        numbers = torch.cat([torch.tensor(a.numbers) for a in frames])
        start = torch.cat([torch.tensor(a.positions, dtype=torch.float32) for a in frames])
        owner = torch.arange(len(frames)).repeat_interleave(27)
        energies = torch.tensor([[a.info["energy"]] for a in frames], dtype=torch.float32)
        forces = torch.cat([torch.tensor(a.arrays["forces"], dtype=torch.float32) for a in frames])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

        def step():
            optimizer.zero_grad(set_to_none=True)
            energy, force = model(numbers, start.clone(), batch=owner)
            (((energy - energies) / 27).square().mean() + (force - forces).square().mean()).backward()
            optimizer.step()

        return step


def make_worker(name, work):
    makers = {"epot": lambda: Ours(0.5), "eager": lambda: Ours(0.5), "search": lambda: Ours(0.0), "mace": MaceTorch}
    makers |= {"nequip": lambda: Nequip(work), "tensornet": lambda: TensorNet(work)}
    return makers[name]().make


# -------------------------------------------------------------------------------------------------- in the parent
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for peer in ("peer", "nequip", "tensornet"):
        parser.add_argument(f"--{peer}-python", help="of the peer's environment; without, it is left out")
    parser.add_argument("--systems", nargs="+", default=["mol27", "si216", "water192", "si1000", "train"])
    parser.add_argument("--modes", nargs="+", default=["epot", "eager", "search"], help="ours")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--work", default=os.path.join(tempfile.gettempdir(), "epot_mace_speed"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    os.makedirs(chosen.work, exist_ok=True)
    if chosen.worker:
        import torch  # noqa: F401 (serve sets its threads)

        serve(make_worker(chosen.worker, chosen.work), chosen.threads)
        return
    header(chosen.threads)
    workers = []
    for name in chosen.modes:
        os.environ["EPOT_NATIVE"] = "0" if name == "eager" else "1"
        workers.append(Worker(sys.executable, __file__, name, chosen.threads, "--work", chosen.work))
    peers = {"mace": chosen.peer_python, "nequip": chosen.nequip_python, "tensornet": chosen.tensornet_python}
    for name, python in peers.items():
        if python:
            workers.append(Worker(python, __file__, name, chosen.threads, "--work", chosen.work))
    start = time.perf_counter()
    compare(workers, chosen.systems, chosen.rounds, chosen.seconds)
    print(f"{time.perf_counter() - start:.0f} s")
    for w in workers:
        w.close()


if __name__ == "__main__":
    main()
