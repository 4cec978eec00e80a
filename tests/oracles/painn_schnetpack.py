"""Writes tests/data_files/painn_schnetpack.npz: energies and forces of schnetpack's PaiNN with random weights.

    PYTHON_OF_SCHNETPACK tests/oracles/painn_schnetpack.py

Run it in an environment with schnetpack 2 (made with 2.1.1 and torch 2.13.0). Everything is float64: a small
molecule and a periodic cell smaller than the cutoff, for both bases and for each way of sharing weights.
"""

import typing
from pathlib import Path

import numpy as np
import torch
import torch.utils.data.dataloader as loader
from ase import Atoms

if not hasattr(loader, "T_co"):  # a name that schnetpack imports and torch no longer has
    loader.T_co = typing.TypeVar("T_co", covariant=True)
import schnetpack as spk
from schnetpack.interfaces.ase_interface import AtomsConverter
from schnetpack.transform import MatScipyNeighborList
from written import write

CUTOFF, F, LAYERS, N_RADIAL = 4.0, 8, 3, 6
OUT = Path(__file__).parents[1] / "data_files" / "painn_schnetpack.npz"
CASES = {
    "gaussian": {},
    "bessel": {},
    "shared_filters": {"shared_filters": True},
    "shared_interactions": {"shared_interactions": True},
}


def structures() -> dict[str, Atoms]:
    """Positions in no special order: nothing is symmetric."""
    rng = np.random.default_rng(7)
    molecule = Atoms("CCOH6", positions=np.array([[0, 0, 0], [1.5, 0, 0], [2.1, 1.3, 0], [-0.4, 1, 0],
                     [-0.4, -0.5, 0.9],
                     [-0.4, -0.5, -0.9], [1.9, -0.5, 0.9], [1.9, -0.5, -0.9], [3.0, 1.2, 0.1]]))  # fmt: skip
    crystal = Atoms("Si4O2", scaled_positions=rng.random((6, 3)) * 0.1 + np.array(
        [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.25, 0.25, 0.25], [0.75, 0.75, 0.25]]),
        cell=[[3.9, 0.2, 0.1], [0.3, 4.1, -0.2], [-0.1, 0.4, 4.4]], pbc=True)  # fmt: skip
    molecule.positions += rng.normal(scale=0.1, size=molecule.positions.shape)
    return {"molecule": molecule, "crystal": crystal}


def potential(kind: str, case: str, n_radial: int, std: float, **options: typing.Any) -> torch.nn.Module:
    """One with random weights in float64; its radial functions are Bessel's where the case is called so."""
    torch.manual_seed(len(case))
    radial = spk.nn.BesselRBF(n_radial, CUTOFF) if case == "bessel" else spk.nn.GaussianRBF(n_radial, CUTOFF)
    made = spk.model.NeuralNetworkPotential(
        representation=getattr(spk.representation, kind)(F, LAYERS, radial, spk.nn.CosineCutoff(CUTOFF), **options),
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[spk.atomistic.Atomwise(n_in=F, output_key="energy"), spk.atomistic.Forces()],
    )
    for parameter in made.parameters():  # biases start at zero: give them values, so that they are compared
        torch.nn.init.normal_(parameter, std=std)
    made = made.double().eval()
    if case == "bessel":  # made in float32: round in float64 instead
        radial.freqs = torch.arange(1, n_radial + 1, dtype=torch.float64) * torch.pi / CUTOFF
    else:
        radial.offsets = torch.linspace(0, CUTOFF, n_radial, dtype=torch.float64)
        radial.widths = torch.full((n_radial,), CUTOFF / (n_radial - 1), dtype=torch.float64)
    return made


def evaluated(case: str, made: torch.nn.Module) -> tuple[dict[str, np.ndarray], dict[str, dict[str, torch.Tensor]]]:
    """The state, energies and forces, as they are written, and everything that it gave."""
    convert = AtomsConverter(neighbor_list=MatScipyNeighborList(cutoff=CUTOFF), dtype=torch.float64)
    table = "representation.embedding.weight"
    kept = {f"{case}/state/{k}": (v[:15] if k == table else v).numpy() for k, v in made.state_dict().items()}
    outs = {name: made(convert(atoms)) for name, atoms in structures().items()}
    for name, out in outs.items():
        kept |= {f"{case}/{name}/{what}": out[what].detach().numpy() for what in ("energy", "forces")}
    return kept, outs


def main() -> None:
    kept = {}
    for case, options in CASES.items():
        made, seen = potential("PaiNN", case, N_RADIAL, 0.25, **options), []
        made.representation.register_forward_hook(lambda module, inputs, out, seen=seen: seen.append(dict(out)))
        found, outs = evaluated(case, made)
        kept |= found
        for name, out in zip(outs, seen, strict=True):
            kept[f"{case}/{name}/mu"] = out["vector_representation"].detach().numpy()
    write(OUT, kept, structures())


if __name__ == "__main__":
    main()
