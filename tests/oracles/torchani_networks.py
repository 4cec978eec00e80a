"""Writes tests/data_files/torchani.npz: symmetry functions, energies and forces of torchani with random weights.

    PYTHON_OF_TORCHANI tests/oracles/torchani_networks.py

Run it in an environment with torchani 2 (made with 2.9.0 and torch 2.13.0). Everything is float64, constants included
(torchani keeps them in single precision unless told otherwise). Networks are small, symmetry functions as published.
"""

from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from torchani.aev import AEVComputer
from torchani.arch import ANI
from torchani.nn import ANINetworks, AtomicNetwork, Ensemble
from torchani.sae import SelfEnergy
from torchani.utils import linspace
from written import write

OUT = Path(__file__).parents[1] / "data_files" / "torchani.npz"
HCNO, HCNOSFCL = ("H", "C", "N", "O"), ("H", "C", "N", "O", "S", "F", "Cl")
SELF = (-0.4993212, -37.8338334, -54.5732825, -75.0424519)  # Hartree, wB97X/6-31G*
CASES = {  # layout, cutoff function, activation, biases, members
    "single": ("2x", "smooth", "gelu", False, 1),
    "ensemble": ("1x", "cosine", "celu", True, 3),
}


def structures() -> dict[str, Atoms]:
    """Positions in no special order: nothing is symmetric."""
    rng = np.random.default_rng(11)

    def scattered(symbols: list[str], size: float, least: float, periodic: bool) -> Atoms:
        made = Atoms(pbc=periodic, cell=np.diag([size, size * 1.1, size * 0.95]) + 0.2 * rng.normal(size=(3, 3)))
        while len(made) < len(symbols):
            tried = made.copy()
            tried.append("X")
            tried.positions[-1] = rng.random(3) @ tried.cell.array
            apart = tried.get_all_distances(mic=periodic)[-1, :-1]
            if not len(apart) or apart.min() > least:
                made = tried
        made.symbols = symbols
        if not periodic:
            made.cell = None
        return made

    return {
        "molecule": scattered(["C", "H", "N", "H", "O", "C", "H", "H", "O", "H", "C", "N"], 4.5, 0.95, False),
        "other": scattered(["O", "C", "H", "H", "H", "C", "H"], 3.6, 0.95, False),
        "box": scattered(["O", "H", "H", "N", "C", "H", "C", "O", "H", "H"], 4.4, 1.0, True),
        "halides": scattered(["S", "C", "Cl", "H", "F", "N", "O", "H", "C", "S"], 4.8, 1.1, False),
    }


def symmetry_functions(layout: str, window: str, n: int) -> AEVComputer:
    make = AEVComputer.like_1x if layout == "1x" else AEVComputer.like_2x
    made = make(num_species=n, cutoff_fn=window).double()
    start, far, eta = (0.9, 5.2, 16.0) if layout == "1x" else (0.8, 5.1, 19.7)
    angular, zeta, n_shifts, n_sections = (8.0, 32.0, 4, 8) if layout == "1x" else (12.5, 14.1, 8, 4)
    half = np.pi / n_sections / 2
    for part, name, values in (
        (made.radial, "eta", [eta]), (made.radial, "shifts", linspace(start, far, 16)),
        (made.angular, "eta", [angular]), (made.angular, "zeta", [zeta]),
        (made.angular, "shifts", linspace(start, 3.5, n_shifts)),
        (made.angular, "sections", linspace(half, np.pi + half, n_sections)),
    ):  # fmt: skip
        getattr(part, name).copy_(torch.tensor(values, dtype=torch.float64))
    return made


def model(case: str) -> torch.nn.Module:
    layout, window, activation, bias, members = CASES[case]
    torch.manual_seed(len(case))
    aev = symmetry_functions(layout, window, len(HCNO))
    act = torch.nn.CELU(0.1) if activation == "celu" else activation
    widths = {"H": (7, 5, 4), "C": (6, 5, 4), "N": (5, 4, 3), "O": (5, 4, 3)}
    networks = [
        ANINetworks({s: AtomicNetwork((aev.out_dim, *w, 1), act, bias) for s, w in widths.items()})
        for _ in range(members)
    ]
    for p in (p for network in networks for p in network.parameters()):
        torch.nn.init.normal_(p, std=0.5)
    made = ANI(HCNO, aev, Ensemble(networks) if members > 1 else networks[0], SelfEnergy(HCNO, SELF))
    for p in made.parameters():
        p.data = p.data.half().float()  # fewer bytes in the file
    made = made.double().eval()
    made.energy_shifter.self_energies.copy_(torch.tensor(SELF, dtype=torch.float64))
    return made


def tensors(atoms: Atoms) -> tuple:
    numbers = torch.tensor(atoms.numbers)[None]
    positions = torch.tensor(atoms.positions, dtype=torch.float64)[None].requires_grad_()
    if not atoms.pbc.any():
        return numbers, positions, None, None
    return numbers, positions, torch.tensor(atoms.cell.array), torch.tensor(atoms.pbc)


def main() -> None:
    kept = {}
    for case in CASES:
        made = model(case)
        for key, value in made.state_dict().items():
            small = ".weight" in key or ".bias" in key
            kept[f"{case}/state/{key}"] = (value.half() if small else value).numpy()
        for name, atoms in structures().items():
            if set(atoms.symbols) <= set(HCNO):
                numbers, positions, cell, pbc = tensors(atoms)
                each = made((numbers, positions), cell, pbc, ensemble_values=True).energies.flatten()
                energy = made((numbers, positions), cell, pbc).energies.sum()
                kept[f"{case}/{name}/energy"] = energy.detach().numpy()
                kept[f"{case}/{name}/members"] = each.detach().numpy()
                kept[f"{case}/{name}/forces"] = -torch.autograd.grad(energy, positions)[0][0].numpy()
    for layout, window, elements, name in (
        ("1x", "cosine", HCNO, "molecule"), ("1x", "cosine", HCNO, "box"), ("2x", "cosine", HCNOSFCL, "halides"),
        ("2x", "smooth", HCNO, "molecule"),
    ):  # fmt: skip
        numbers, positions, cell, pbc = tensors(structures()[name])
        order = torch.tensor([elements.index(s) for s in structures()[name].symbols])[None]
        rows = symmetry_functions(layout, window, len(elements))(order, positions, cell, pbc)
        kept[f"aev/{layout}/{window}/{name}"] = rows[0].detach().numpy()
    write(OUT, kept, structures())


if __name__ == "__main__":
    main()
