"""Make tests/data_files/gap_fit.npz: a small GAP as gap_fit makes it and quippy predicts with it.

Two elements, energies, forces and virials of a Lennard-Jones-like pair potential; sparse points as gap_fit chose them.
Run with a Python that has quippy-ase (0.10), ase and numpy:  python tests/oracles/gap_fit.py
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from quippy.potential import Potential

SIGMAS = (0.001, 0.05, 0.02)
SOAP = {"cutoff": 3.5, "n_max": 4, "l_max": 3, "atom_sigma": 0.5, "cutoff_transition_width": 1.0}
E0 = {"C": -1.5, "Si": -0.7}


def labels(atoms):
    """Energy, forces and virial of an 8-4 pair potential with a size for each pair of elements."""
    from ase.neighborlist import neighbor_list

    size = {6: 0.75, 14: 1.1}
    i, j, r, d = neighbor_list("ijdD", atoms, 3.5)
    s = np.array([size[z] for z in atoms.numbers])
    rho = (s[i] + s[j]) / r
    energy = 0.5 * (rho**8 - 2 * rho**4).sum() + sum(E0[x] for x in atoms.get_chemical_symbols())
    slope = (-8 * rho**8 + 8 * rho**4) / r  # dV/dr of each pair
    pull = 0.5 * slope[:, None] * d / r[:, None]
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, i, pull)
    np.add.at(forces, j, -pull)
    return energy, forces, -d.T @ pull


def structures():
    rng = np.random.default_rng(5)
    made = []
    for k in range(8):
        atoms = bulk("SiC", "zincblende", a=4.36, cubic=True)
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.12, seed=k)
        if k % 4 == 3:
            atoms = Atoms(atoms.symbols, atoms.positions, cell=np.diag([20.0, 20, 20]), pbc=True)
        made.append(atoms)
    return made


def main():
    frames = structures()
    facts = [labels(a) for a in frames]
    out = {"sigmas": np.array(SIGMAS), "n_train": 6}
    for k, (atoms, (energy, forces, virial)) in enumerate(zip(frames, facts, strict=True)):
        atoms.info.update(energy=energy, virial=virial)
        atoms.arrays["forces"] = forces
        out |= {f"{k}/numbers": atoms.numbers, f"{k}/positions": atoms.positions, f"{k}/cell": np.array(atoms.cell)}
        out |= {f"{k}/energy": energy, f"{k}/forces": forces, f"{k}/virial": virial}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ase.io.write(folder / "train.xyz", frames[:6], format="extxyz")
        settings = " ".join(f"{k}={v}" for k, v in SOAP.items())
        gap = (
            f"{{soap {settings} central_weight=1.0 n_sparse=12 delta=1.0 f0=0.0 zeta=4 covariance_type=dot_product "
            "sparse_method=random add_species=T print_sparse_index=index}"
        )
        command = [
            str(Path(sys.executable).parent / "gap_fit"), "atoms_filename=train.xyz", f"gap={gap}",
            "default_sigma={" + " ".join(map(str, SIGMAS)) + " 0}", "sparse_jitter=1e-8",
            "energy_parameter_name=energy", "force_parameter_name=forces", "virial_parameter_name=virial",
            "e0={" + ":".join(f"{k}:{v}" for k, v in E0.items()) + "}", "gp_file=gp.xml", "rnd_seed=1",
            "do_copy_at_file=F", "sparse_separate_file=T",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert (folder / "gp.xml").exists(), done.stdout[-3000:] + done.stderr[-2000:]
        text = (folder / "gp.xml").read_text()
        for block in re.findall(r"<gpCoordinates.*?</gpCoordinates>", text, re.S):
            size = int(re.search(r'dimensions="(\d+)"', block).group(1))
            name = re.search(r'sparseX_filename="([^"]+)"', block).group(1)
            center = int(re.search(r" Z=\{?(\d+)", block).group(1))
            order = re.search(r"species_Z=\{([\d ]+)\}", block).group(1)
            out[f"sparse/{center}"] = np.loadtxt(folder / name).reshape(-1, size)
            out["species"] = np.array([int(z) for z in order.split()])
        model = Potential(param_filename=str(folder / "gp.xml"))
        for k, atoms in enumerate(frames):
            atoms.calc = model
            out[f"{k}/gap_energy"] = atoms.get_potential_energy()
            out[f"{k}/gap_forces"] = atoms.get_forces()
            out[f"{k}/gap_virial"] = -atoms.get_stress(voigt=False) * atoms.get_volume()
    target = Path(__file__).parents[1] / "data_files" / "gap_fit.npz"
    np.savez_compressed(target, **out)
    print(target, target.stat().st_size, {k: v.shape for k, v in out.items() if "sparse" in k}, out["species"])
    for k in range(8):
        print(k, out[f"{k}/energy"], out[f"{k}/gap_energy"], np.abs(out[f"{k}/forces"] - out[f"{k}/gap_forces"]).max())


if __name__ == "__main__":
    main()
