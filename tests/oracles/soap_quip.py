"""Make tests/data_files/soap_quip.npz: SOAP vectors and their gradients as QUIP computes them.

Run with a Python that has quippy-ase (0.10), ase and numpy:  python tests/oracles/soap_quip.py
"""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from quippy.descriptors import Descriptor


def describe(atoms, center, species, *, cutoff, n_max, l_max, sigma, width, weight):
    listed = " ".join(str(z) for z in species)
    text = (
        f"soap cutoff={cutoff} l_max={l_max} n_max={n_max} atom_sigma={sigma} cutoff_transition_width={width} "
        f"central_weight={weight} n_Z=1 Z={{{center}}} n_species={len(species)} species_Z={{{listed}}}"
    )
    return Descriptor(text).calc(atoms, grad=True)


def main():
    si = bulk("Si", cubic=True)
    si.rattle(0.15, seed=1)
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.1, seed=2)
    nacl = bulk("NaCl", "rocksalt", a=5.64)
    nacl.rattle(0.2, seed=3)
    lone = Atoms("O", positions=[[0.1, 0.2, 0.3]])
    small = dict(cutoff=4.0, n_max=3, l_max=4, sigma=0.4, width=0.5, weight=1.0)
    cases = {
        "si": (si, (14,), dict(cutoff=5.0, n_max=8, l_max=6, sigma=0.5, width=1.0, weight=1.0), False),
        "si_fine": (si, (14,), dict(cutoff=4.5, n_max=10, l_max=9, sigma=0.3, width=0.5, weight=0.0), False),
        "si_gradient": (si, (14,), small, True),
        "nacl_gradient": (nacl, (11, 17), small | {"weight": 0.0}, True),
        "ethanol": (ethanol, (1, 6, 8), dict(cutoff=5.0, n_max=8, l_max=6, sigma=0.5, width=1.0, weight=1.0), False),
        "ethanol_gradient": (ethanol, (8, 1, 6), small | {"n_max": 2, "l_max": 3}, True),
        "lone": (lone, (8,), small, False),
    }
    out = {}
    for name, (atoms, species, settings, gradient) in cases.items():
        out[f"{name}/numbers"], out[f"{name}/positions"] = atoms.numbers, atoms.positions
        out[f"{name}/cell"], out[f"{name}/pbc"] = np.array(atoms.cell), atoms.pbc
        out[f"{name}/species"] = np.array(species)
        out[f"{name}/settings"] = np.array(
            [settings[k] for k in ("cutoff", "n_max", "l_max", "sigma", "width", "weight")]
        )
        for z in sorted(set(atoms.numbers.tolist())):
            found = describe(atoms, z, species, **settings)
            out[f"{name}/{z}/values"] = found["data"]
            if gradient:  # summed over periodic images: d p(center) / d position(atom)
                total = np.zeros((len(atoms), 3, found["data"].shape[1]))
                centers = np.asarray(found["ci"]).ravel() - 1
                full = np.zeros((len(centers), len(atoms), 3, found["data"].shape[1]))
                place = {c: k for k, c in enumerate(centers)}
                for (i, j), g in zip(found["grad_index_0based"], found["grad_data"], strict=True):
                    full[place.get(i, i), j] += g
                total = full
                out[f"{name}/{z}/gradients"] = total
    target = Path(__file__).parents[1] / "data_files" / "soap_quip.npz"
    np.savez_compressed(target, **out)
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main()
