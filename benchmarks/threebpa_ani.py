"""What an ANI that never saw 3BPA gets wrong on the derived tests: are they as hard as the published ones?

    ENVIRONMENT/bin/python benchmarks/threebpa_ani.py --data DIR

ANI-1x (eight networks, of the level of theory of the data) in torchani 2.0, the last release whose wheel holds its
weights. The environment: torchani==2.0, torch, ase, lark-parser, setuptools<80. Nothing is fitted, so errors are
of the test structures alone. Energies without their mean (isolated atoms differ), root mean squares, with the standard
error of drawing as many structures again.
"""

import argparse
import gzip
import io
from pathlib import Path

import ase.units
import numpy as np
import torch
import torchani
from ase.io import read


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="the folder that holds 3bpa/")
    model = torchani.models.ANI1x(periodic_table_index=True).double()
    rng = np.random.default_rng(0)
    folder = Path(parser.parse_args().data) / "3bpa"
    for temperature in (300, 600, 1200):
        text = gzip.decompress((folder / f"derived_test_{temperature}K.xyz.gz").read_bytes()).decode()
        frames = read(io.StringIO(text), ":", format="extxyz")
        numbers = torch.tensor(np.array([a.numbers for a in frames]))
        positions = torch.tensor(np.array([a.positions for a in frames]), requires_grad=True)
        energies = model((numbers, positions)).energies
        (slopes,) = torch.autograd.grad(energies.sum(), positions)
        wrong = energies.detach().numpy() * ase.units.Hartree - [a.get_potential_energy() for a in frames]
        energy = (wrong - wrong.mean()) ** 2
        forces = -slopes.numpy() * ase.units.Hartree - [a.get_forces() for a in frames]
        forces = (forces**2).mean((1, 2))
        again = rng.integers(0, len(frames), (2000, len(frames)))
        spread = [1e3 * np.sqrt(each[again].mean(1)).std() for each in (energy, forces)]
        made = [1e3 * np.sqrt(each.mean()) for each in (energy, forces)]
        print(
            f"{temperature} K, {len(frames)} structures: {made[0]:.1f} ± {spread[0]:.1f} meV, "
            f"{made[1]:.1f} ± {spread[1]:.1f} meV/Å"
        )


if __name__ == "__main__":
    main()
