"""Writes tests/data_files/schnet_schnetpack.npz: energies and forces of schnetpack's SchNet with random weights.

    PYTHON_OF_SCHNETPACK tests/oracles/schnet_schnetpack.py

Run it in an environment with schnetpack 2 (made with 2.1.1 and torch 2.13.0). Everything is float64: a small
molecule and a periodic cell smaller than the cutoff (structures of painn_schnetpack.py), for both bases, for shared
interactions and for filters of another width than the features; and beside it schnet_schnetpack.model, the first of
them as schnetpack saves its models.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from painn_schnetpack import structures  # also mends what schnetpack needs of torch

import schnetpack as spk  # isort: skip
from schnetpack.interfaces.ase_interface import AtomsConverter  # isort: skip
from schnetpack.transform import MatScipyNeighborList  # isort: skip

CUTOFF, F, LAYERS, N_RADIAL = 4.0, 8, 3, 8
OUT = Path(__file__).parents[1] / "data_files" / "schnet_schnetpack.npz"
CASES = {
    "gaussian": {},
    "bessel": {},
    "shared": {"shared_interactions": True},
    "narrow": {"n_filters": 6},
}


def model(case: str) -> torch.nn.Module:
    torch.manual_seed(len(case))
    radial = spk.nn.BesselRBF(N_RADIAL, CUTOFF) if case == "bessel" else spk.nn.GaussianRBF(N_RADIAL, CUTOFF)
    body = spk.representation.SchNet(F, LAYERS, radial, spk.nn.CosineCutoff(CUTOFF), **CASES[case])
    made = spk.model.NeuralNetworkPotential(
        representation=body,
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[spk.atomistic.Atomwise(n_in=F, output_key="energy"), spk.atomistic.Forces()],
    )
    for parameter in made.parameters():  # biases start at zero: give them values, so that they are compared
        torch.nn.init.normal_(parameter, std=0.4)
    made = made.double().eval()
    if case == "bessel":  # made in float32: round in float64 instead
        radial.freqs = torch.arange(1, N_RADIAL + 1, dtype=torch.float64) * torch.pi / CUTOFF
    else:
        radial.offsets = torch.linspace(0, CUTOFF, N_RADIAL, dtype=torch.float64)
        radial.widths = torch.full((N_RADIAL,), CUTOFF / (N_RADIAL - 1), dtype=torch.float64)
    return made


def main() -> None:
    kept = {}
    convert = AtomsConverter(neighbor_list=MatScipyNeighborList(cutoff=CUTOFF), dtype=torch.float64)
    for case in CASES:
        made = model(case)
        if case == "gaussian":
            torch.save(made, OUT.with_suffix(".model"))
        table = "representation.embedding.weight"
        kept |= {f"{case}/state/{k}": (v[:15] if k == table else v).numpy() for k, v in made.state_dict().items()}
        for name, atoms in structures().items():
            out = made(convert(atoms))
            kept[f"{case}/{name}/energy"] = out["energy"].detach().numpy()
            kept[f"{case}/{name}/forces"] = out["forces"].detach().numpy()
    for name, atoms in structures().items():
        kept |= {f"{name}/{k}": v for k, v in (("numbers", atoms.numbers), ("positions", atoms.positions),
                                               ("cell", np.array(atoms.cell)), ("pbc", atoms.pbc))}  # fmt: skip
    np.savez_compressed(OUT, **kept)
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
