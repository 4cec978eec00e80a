"""Make tests/data_files/soap_dscribe.npz: SOAP vectors as DScribe computes them.

Run with a Python that has dscribe (2.1), ase and numpy:  python tests/oracles/soap_dscribe.py
"""

import json
from pathlib import Path

import numpy as np
from ase.build import bulk, molecule
from dscribe.descriptors import SOAP

POLY = {"function": "poly", "c": 1.3, "m": 2, "r0": 4.5}
POW = {"function": "pow", "c": 1.2, "d": 0.8, "m": 3, "r0": 2.0}
EXP = {"function": "exp", "c": 1.1, "d": 0.7, "r0": 1.5}
WEIGHTS = {"H": 0.5, "C": 1.5, "O": 2.0}
SMALL = {"r_cut": 4.0, "n_max": 3, "l_max": 3, "sigma": 0.4}
CASES = {
    "gto": {}, "gto_fine": {"n_max": 8, "l_max": 6, "r_cut": 5.0, "sigma": 0.5},
    "polynomial": {"rbf": "polynomial"}, "polynomial_fine": {"rbf": "polynomial", "n_max": 5, "l_max": 6},
    "poly": {"weighting": POLY}, "pow": {"weighting": POW}, "exp": {"weighting": EXP},
    "own": {"weighting": {"w0": 0.4}}, "pow_own": {"weighting": POW | {"w0": 0.3}},
    "inner": {"average": "inner"}, "outer": {"average": "outer"},
    "mu2": {"compression": {"mode": "mu2"}}, "mu1nu1": {"compression": {"mode": "mu1nu1"}},
    "crossover": {"compression": {"mode": "crossover"}},
    "weighted": {"compression": {"mode": "off", "species_weighting": WEIGHTS}},
    "mu2_weighted": {"compression": {"mode": "mu2", "species_weighting": WEIGHTS}},
}  # fmt: skip


def main():
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.1, seed=2)
    nacl = bulk("NaCl", "rocksalt", a=5.64)
    nacl.rattle(0.2, seed=3)
    out = {"ethanol/numbers": ethanol.numbers, "ethanol/positions": ethanol.positions, "nacl/numbers": nacl.numbers}
    out |= {"nacl/positions": nacl.positions, "nacl/cell": np.array(nacl.cell)}
    for name, change in CASES.items():
        settings = SMALL | change
        for system, atoms in {"ethanol": ethanol, "nacl": nacl}.items():
            if system == "nacl" and (name not in ("gto", "polynomial", "outer", "inner")):
                continue
            of_species = {"species": sorted(set(atoms.symbols)), "periodic": bool(atoms.pbc.any())}
            out[f"{system}/{name}/settings"] = json.dumps(settings)
            found = SOAP(**json.loads(json.dumps(settings)), **of_species).create(atoms)  # it changes what it is given
            out[f"{system}/{name}/values"] = found[:3] if found.shape[-1] > 1000 else found
    target = Path(__file__).parents[1] / "data_files" / "soap_dscribe.npz"
    np.savez_compressed(target, **out)
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main()
