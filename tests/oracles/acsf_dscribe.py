"""Make tests/data_files/acsf_dscribe.npz: symmetry functions as dscribe computes them.

Run with a Python that has dscribe (2.1), ase and numpy:  python tests/oracles/acsf_dscribe.py
"""

from pathlib import Path

import numpy as np
from ase.build import bulk, molecule
from dscribe.descriptors import ACSF

G2 = [[0.05, 0.0], [1.0, 0.0], [4.0, 1.3], [2.0, 3.0]]
G3 = [0.5, 2.0]
G4 = [[0.01, 1.0, 1.0], [0.01, 1.0, -1.0], [0.1, 4.0, 1.0], [0.1, 4.0, -1.0], [0.03, 2.5, -1.0]]
G5 = [[0.02, 1.0, 1.0], [0.2, 16.0, -1.0]]


def main():
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.1, seed=2)
    nacl = bulk("NaCl", "rocksalt", a=5.64)  # two atoms: images of the same ones meet in the triples
    nacl.rattle(0.2, seed=3)
    si = bulk("Si", cubic=True)
    si.rattle(0.15, seed=1)
    out = {"g2": np.array(G2), "g3": np.array(G3), "g4": np.array(G4), "g5": np.array(G5)}
    for name, atoms, cutoff in (("ethanol", ethanol, 4.0), ("nacl", nacl, 5.0), ("si", si, 5.0)):
        made = ACSF(
            species=sorted(set(atoms.numbers.tolist())), r_cut=cutoff, g2_params=G2, g3_params=G3, g4_params=G4,
            g5_params=G5, periodic=bool(atoms.pbc.any()),
        )  # fmt: skip
        out[f"{name}/numbers"], out[f"{name}/positions"] = atoms.numbers, atoms.positions
        out[f"{name}/cell"], out[f"{name}/pbc"] = np.array(atoms.cell), atoms.pbc
        out[f"{name}/cutoff"] = np.array(cutoff)
        out[f"{name}/values"] = made.create(atoms)
        if not atoms.pbc.any():  # dscribe has numerical derivatives alone, and of open systems
            out[f"{name}/gradients"] = made.derivatives(atoms, method="numerical", attach=True, return_descriptor=False)
    target = Path(__file__).parents[1] / "data_files" / "acsf_dscribe.npz"
    np.savez_compressed(target, **out)
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main()
