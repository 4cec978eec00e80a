"""Make tests/data_files/gap_kernels.npz and the folder gap_xml: pairs, triples and SOAP together as gap_fit fits them.

The structures and labels are those of tests/oracles/gap_fit.py: two elements, energies, forces and virials. Sparse
points are as gap_fit chose them; what quippy predicts with the result, and its variances, are kept.
Run with a Python that has quippy-ase (0.10), ase and numpy:  python tests/oracles/gap_kernels.py
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
from gap_fit import E0, SIGMAS, labels, structures
from quippy.potential import Potential

KERNELS = (
    "{distance_2b cutoff=3.4 cutoff_transition_width=0.6 delta=1.5 theta_uniform=0.6 covariance_type=ard_se n_sparse=6 "
    "sparse_method=uniform f0=0.0 add_species=T}",
    "{distance_Nb order=2 cutoff=2.9 cutoff_transition_width=0.8 delta=0.5 theta_uniform=0.9 covariance_type=ard_se "
    "n_sparse=4 sparse_method=random f0=0.0 compact_clusters=T add_species=T}",
    "{angle_3b cutoff=2.7 cutoff_transition_width=0.7 delta=0.4 theta_fac=0.35 covariance_type=ard_se "
    "n_sparse=8 sparse_method=random f0=0.0 add_species=T}",
    "{soap cutoff=3.5 n_max=4 l_max=3 atom_sigma=0.5 cutoff_transition_width=1.0 central_weight=1.0 n_sparse=10 "
    "delta=0.7 f0=0.0 zeta=4 covariance_type=dot_product sparse_method=random add_species=T}",
)


def rename(folder):
    """Labels without the date, so that a second run gives the same files."""
    path = folder / "gap.xml"
    text = path.read_text()
    label = re.search(r"<(GAP_[\d_]+)>", text).group(1)
    path.write_text(text.replace(label, "GAP"))
    for file in folder.glob("gap.xml.sparseX.*"):
        file.rename(folder / file.name.replace(label, "GAP"))


def main():
    data = Path(__file__).parents[1] / "data_files"
    folder = data / "gap_xml"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    frames = structures()
    out = {"sigmas": np.array(SIGMAS), "n_train": 6}
    for k, atoms in enumerate(frames):
        energy, forces, virial = labels(atoms)
        atoms.info.update(energy=energy, virial=virial)
        atoms.arrays["forces"] = forces
        out |= {f"{k}/numbers": atoms.numbers, f"{k}/positions": atoms.positions, f"{k}/cell": np.array(atoms.cell)}
        out |= {f"{k}/energy": energy, f"{k}/forces": forces, f"{k}/virial": virial}
    ase.io.write(folder / "train.xyz", frames[:6], format="extxyz")
    command = [
        str(Path(sys.executable).parent / "gap_fit"), "atoms_filename=train.xyz", "gap={" + " : ".join(KERNELS) + "}",
        "default_sigma={" + " ".join(map(str, SIGMAS)) + " 0}", "sparse_jitter=1e-9",
        "energy_parameter_name=energy", "force_parameter_name=forces", "virial_parameter_name=virial",
        "e0={" + ":".join(f"{k}:{v}" for k, v in E0.items()) + "}", "gp_file=gap.xml", "rnd_seed=1",
        "do_copy_at_file=F", "sparse_separate_file=T",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (folder / "gap.xml").exists(), done.stdout[-3000:] + done.stderr[-2000:]
    for name in ("train.xyz", "train.xyz.idx"):
        (folder / name).unlink(missing_ok=True)
    rename(folder)
    model = Potential(param_filename=str(folder / "gap.xml"), calc_args="local_gap_variance")
    for k, atoms in enumerate(frames):
        atoms.calc = model
        out[f"{k}/gap_energy"] = atoms.get_potential_energy()
        out[f"{k}/gap_forces"] = atoms.get_forces()
        out[f"{k}/gap_virial"] = -atoms.get_stress(voigt=False) * atoms.get_volume()
    np.savez_compressed(data / "gap_kernels.npz", **out)
    print(len(re.findall("<gpCoordinates", (folder / "gap.xml").read_text())), "coordinates")
    for path in sorted(folder.iterdir()):
        print(path.name, path.stat().st_size)
    for k in range(8):
        print(k, out[f"{k}/energy"], out[f"{k}/gap_energy"], np.abs(out[f"{k}/forces"] - out[f"{k}/gap_forces"]).max())


if __name__ == "__main__":
    main()
