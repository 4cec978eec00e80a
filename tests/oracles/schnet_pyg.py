"""Writes tests/data_files/schnet_pyg.npz: energies and forces of torch_geometric's SchNet with random weights.

    PYTHON_OF_TORCH_GEOMETRIC tests/oracles/schnet_pyg.py

Run it in an environment with torch_geometric (made with 2.8.1 and torch 2.13.0) and ase. Float64; its default cutoff
of 10 Å and 50 Gaussians, and a shorter one with 20. Neighbors come from ASE, because its own search needs a compiled
extension and knows no periodic cells.
"""

import math
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from torch_geometric.nn import SchNet
from written import write

OUT = Path(__file__).parents[1] / "data_files" / "schnet_pyg.npz"
F, FILTERS, LAYERS = 8, 6, 3
CASES = {"default": (10.0, 50, False), "short": (4.0, 20, True)}  # cutoff, Gaussians, energies of free atoms


def structures() -> dict[str, Atoms]:
    """Nothing is symmetric."""
    rng = np.random.default_rng(5)
    molecule = Atoms("OCCH4N", positions=rng.normal(scale=0.15, size=(8, 3)) + 1.3 * np.array(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [2, 2, 1]]))  # fmt: skip
    crystal = Atoms("Si4O2", scaled_positions=rng.random((6, 3)) * 0.1 + np.array(
        [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.25, 0.25, 0.25], [0.75, 0.75, 0.25]]),
        cell=[[3.9, 0.2, 0.1], [0.3, 4.1, -0.2], [-0.1, 0.4, 4.4]], pbc=True)  # fmt: skip
    return {"molecule": molecule, "crystal": crystal}


def main() -> None:
    kept = {}
    for case, (cutoff, gaussians, atomref) in CASES.items():
        torch.manual_seed(len(case))
        table = torch.randn(100, 1, dtype=torch.float64) if atomref else None
        mean, std = (0.3, 1.7) if atomref else (None, None)
        made = SchNet(F, FILTERS, LAYERS, gaussians, cutoff, mean=mean, std=std, atomref=table).double()
        for name, parameter in made.named_parameters():
            if name != "atomref.weight":
                torch.nn.init.normal_(parameter, std=0.3)
        for module in made.modules():  # ln 2 was rounded in float32
            if hasattr(module, "shift"):
                module.shift = math.log(2)
        offset = torch.linspace(0, cutoff, gaussians, dtype=torch.float64)  # made in float32: round in float64 instead
        made.distance_expansion.offset = offset
        made.distance_expansion.coeff = -0.5 / float(offset[1]) ** 2
        state = {k: v[:15] if len(v) == 100 else v for k, v in made.state_dict().items()}
        kept |= {f"{case}/state/{k}": v.numpy() for k, v in state.items()}
        for name, atoms in structures().items():
            i, j, shifts = neighbor_list("ijS", atoms, cutoff)
            i, j, shifts = torch.from_numpy(i), torch.from_numpy(j), torch.from_numpy(shifts @ np.array(atoms.cell))
            positions = torch.tensor(atoms.positions, requires_grad=True)
            made.interaction_graph.forward = lambda pos, _, i=i, j=j, shifts=shifts: (
                torch.stack([j, i]), (pos[j] + shifts - pos[i]).norm(dim=-1))  # fmt: skip
            energy = made(torch.from_numpy(atoms.numbers), positions).sum()
            kept[f"{case}/{name}/energy"] = energy.detach().numpy()
            kept[f"{case}/{name}/forces"] = -torch.autograd.grad(energy, positions)[0].numpy()
    write(OUT, kept, structures())


if __name__ == "__main__":
    main()
