"""Make tests/data_files/coulomb_dscribe.npz: Coulomb and sine matrices of molecules and crystals by dscribe.

Run with a Python that has dscribe (2.1), ase and numpy:  python tests/oracles/coulomb_dscribe.py
"""

from pathlib import Path

import numpy as np
from ase.build import bulk, molecule
from dscribe.core import System
from dscribe.descriptors import CoulombMatrix, SineMatrix

KINDS = {"eigenvalues": "eigenspectrum", "sorted": "sorted_l2", "full": "none"}
ROOM = 12


def plain(atoms):
    """dscribe's own copy passes momenta and velocities, which newer versions of ase refuse."""
    return System(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


System.from_atoms = staticmethod(plain)


def systems():
    molecules = [molecule(name) for name in ("CH3CH2OH", "CH3SH", "HCN", "C6H6")]
    crystals = [
        bulk("Si", cubic=True),
        bulk("NaCl", "rocksalt", a=5.64) * (2, 1, 1),
        bulk("ZnS", "wurtzite", a=3.81, c=6.23),
    ]
    for k, atoms in enumerate([*molecules, *crystals]):
        atoms.rattle(0.05, seed=k)
    crystals[0].set_cell(crystals[0].cell[:] @ [[1, 0.1, 0], [0, 1.05, 0.2], [0, 0, 0.9]], scale_atoms=True)
    return {"coulomb": molecules, "sine": crystals}


def main():
    out = {"n_atoms_max": ROOM}
    for name, frames in systems().items():
        kind_of = CoulombMatrix if name == "coulomb" else SineMatrix
        for k, atoms in enumerate(frames):
            out[f"{name}{k}_numbers"], out[f"{name}{k}_positions"] = atoms.numbers, atoms.positions
            out[f"{name}{k}_cell"] = atoms.cell[:]
            for ours, theirs in KINDS.items():
                made = kind_of(n_atoms_max=ROOM, permutation=theirs).create(atoms)
                out[f"{name}{k}_{ours}"] = np.asarray(made).ravel()
    path = Path(__file__).parents[1] / "data_files" / "coulomb_dscribe.npz"
    np.savez_compressed(path, **out)
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
