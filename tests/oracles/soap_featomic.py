"""Make tests/data_files/soap_featomic.npz: SOAP vectors and their gradients as featomic computes them.

Run with a Python that has featomic (0.6), ase and numpy:  python tests/oracles/soap_featomic.py
"""

from pathlib import Path

import numpy as np
from ase.build import bulk, molecule
from featomic import SoapPowerSpectrum


def describe(atoms, species, *, cutoff, n_max, l_max, sigma, width, weight, scaling, gradients):
    density = {"type": "Gaussian", "width": sigma, "center_atom_weight": weight}
    if scaling:
        density["scaling"] = {"type": "Willatt2018", **scaling}
    calculator = SoapPowerSpectrum(
        cutoff={"radius": cutoff, "smoothing": {"type": "ShiftedCosine", "width": width}},
        density=density,
        basis={
            "type": "TensorProduct", "max_angular": l_max, "radial": {"type": "Gto", "max_radial": n_max - 1},
            "spline_accuracy": None,
        },
    )  # fmt: skip
    found = calculator.compute(atoms, gradients=["positions", "cell"] if gradients else [], use_native_system=True)
    size = (l_max + 1) * n_max**2
    pairs = [(a, b) for k, a in enumerate(species) for b in species[k:]]
    values = np.zeros((len(atoms), size * len(pairs)))
    positions, cell = (
        np.zeros((len(atoms), len(atoms), 3, values.shape[1])),
        np.zeros((len(atoms), 3, 3, values.shape[1])),
    )
    for key, block in found.items():
        _, a, b = (int(key[k]) for k in ("center_type", "neighbor_1_type", "neighbor_2_type"))
        to = slice(pairs.index((a, b)) * size, (pairs.index((a, b)) + 1) * size)
        rows = np.array(block.samples["atom"])
        values[rows, to] = block.values
        if gradients:
            samples = block.gradient("positions").samples
            of = np.array(samples["sample"])
            positions[rows[of], np.array(samples["atom"]), :, to] += block.gradient("positions").values
            of = np.array(block.gradient("cell").samples["sample"])
            cell[rows[of], :, :, to] += block.gradient("cell").values
    return values, positions, cell


def main():
    si = bulk("Si", cubic=True)
    si.rattle(0.15, seed=1)
    water = molecule("H2O")
    water.set_cell([[4.2, 0, 0], [0.5, 4.5, 0], [0, 0.4, 4.1]])
    water.pbc = True
    water.rattle(0.1, seed=3)
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.1, seed=2)
    small = dict(cutoff=3.5, n_max=2, l_max=2, sigma=0.4, width=0.7, weight=1.0, scaling=None)
    cases = {
        "si": (si, small | dict(cutoff=5.0, n_max=6, l_max=6, sigma=0.5, width=0.5), False),
        "si_scaled": (si, small | dict(n_max=3, scaling=dict(exponent=3, rate=1.2, scale=2.0)), False),
        "narrow": (ethanol, small | dict(sigma=0.2, n_max=5, l_max=4, cutoff=3.0), False),
        "water": (water, small | dict(n_max=3, weight=0.0), True),
        "ethanol": (ethanol, small, True),
    }
    out = {}
    for name, (atoms, settings, gradients) in cases.items():
        species = sorted(set(atoms.numbers.tolist()))
        values, positions, cell = describe(atoms, species, gradients=gradients, **settings)
        scaling = settings.pop("scaling") or {}
        out[f"{name}/numbers"], out[f"{name}/positions"] = atoms.numbers, atoms.positions
        out[f"{name}/cell"], out[f"{name}/pbc"] = np.array(atoms.cell), atoms.pbc
        out[f"{name}/species"], out[f"{name}/settings"] = species, np.array(list(settings.values()))
        out[f"{name}/scaling"] = np.array([scaling[k] for k in ("rate", "scale", "exponent")] if scaling else [])
        out[f"{name}/values"] = values
        if gradients:
            out[f"{name}/by_position"], out[f"{name}/by_cell"] = positions, cell
    target = Path(__file__).parents[1] / "data_files" / "soap_featomic.npz"
    np.savez_compressed(target, **out)
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main()
