"""Energies and forces of a GAP beside QUIP's calculator, in turn, and cost against the number of atoms.

    python benchmarks/gap_speed.py --peer-python ENVIRONMENT/bin/python [--systems mol27 si216] [--threads 2]
    python benchmarks/gap_speed.py --scaling [--threads 2]

SOAP with n_max 8, l_max 6, cutoff 5 Å, sigma 0.5 Å, transition 0.5 Å, zeta 4; 1000 sparse points, float64. Each
through its ASE calculator, the atoms moved by 1e-3 Å before every call; ours keeps its neighbor lists in a skin of
0.5 Å, its default. QUIP's potential is a GAP XML that its gap_fit makes of rattled copies with made-up energies (into
``--work``, once); ours has sparse points of rattled copies and random weights: speed does not depend on either.

Arithmetic for silicon, 28 neighbors, per atom: radial series 28 x 46 x 112 = 0.14 million multiplications, harmonics
and their sums 0.06, derivatives of both 0.1, spectra 252 components, kernels 2 x 252 x 1000 = 0.5: 0.8 million. The
environment of the peer needs quippy-ase 0.10 and ase.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from systems import SYSTEMS, molecule, silicon, water
from turns import Worker, compare, header, serve

CUTOFF, N_MAX, L_MAX, SIGMA, WIDTH, POINTS = 5.0, 8, 6, 0.5, 0.5, 1000
SIZES = (5, 8, 12, 18)


def frames(system):
    """Rattled structures that hold enough environments of every element."""
    if system == "mol27":
        return [molecule(seed=k, amplitude=0.08) for k in range(260)]
    if system == "water192":
        return [water(seed=k) for k in range(8)]
    return [silicon(2, seed=k, amplitude=0.1) for k in range(20)]


def call_of(calculator, atoms):
    """Energy and forces of atoms that moved."""
    rng, start = np.random.default_rng(1), atoms.positions.copy()
    atoms.calc = calculator

    def call():
        atoms.positions = start + rng.normal(scale=1e-3, size=start.shape)
        return atoms.get_potential_energy(), atoms.get_forces()

    return call


def ours(system, atoms=None):
    import torch

    from epot.data.structure import Structure
    from epot.geometry.graph import build
    from epot.models.gap import GAP
    from epot.simulate.calculator import Calculator

    atoms = SYSTEMS[system]() if atoms is None else atoms
    elements = sorted(set(atoms.numbers.tolist()))
    made = GAP(elements, CUTOFF, N_MAX, L_MAX, SIGMA, n_sparse=POINTS, cutoff_width=WIDTH)
    each, found = POINTS // len(elements), [[] for _ in elements]
    for frame in frames(system):
        graph = build(Structure.from_ase(frame), CUTOFF)
        with torch.no_grad():
            spectra, species = made.soap(graph), made.soap.species(graph)
        for k, kept in enumerate(found):
            kept.append(spectra[species == k][: each - sum(map(len, kept))])
        if all(sum(map(len, kept)) >= each for kept in found):
            break
    made.set_sparse([torch.cat(kept) for kept in found])
    with torch.no_grad():
        made.readout.weight.normal_(generator=torch.Generator().manual_seed(0))
    return call_of(Calculator(made), atoms)


def fit_quip(system, work):
    """Path of a GAP that gap_fit made for a system; made once."""
    import ase.io

    kind = "si" if system.startswith("si") else system
    target, data = Path(work) / f"gap_{kind}.xml", Path(work) / f"gap_{kind}.xyz"
    if target.exists():
        return target
    made = frames(system)
    for k, atoms in enumerate(made):
        atoms.info["energy"] = float(np.random.default_rng(k).normal())
        if not atoms.pbc.any():
            atoms.set_cell([30, 30, 30])
    ase.io.write(data, made, format="extxyz")
    each = POINTS // len(set(made[0].numbers.tolist()))
    soap = (
        f"soap cutoff={CUTOFF} cutoff_transition_width={WIDTH} n_max={N_MAX} l_max={L_MAX} atom_sigma={SIGMA} zeta=4 "
        f"delta=1.0 n_sparse={each} covariance_type=dot_product sparse_method=random f0=0.0 add_species=T"
    )
    command = [str(Path(sys.executable).parent / "gap_fit"), f"at_file={data}", f"gap={{{soap}}}", f"gp_file={target}"]
    command += ["energy_parameter_name=energy", "default_sigma={0.01 0.1 0.0 0.0}", "sparse_jitter=1e-8"]
    command += ["e0_method=average", "do_copy_at_file=F", "sparse_separate_file=T"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, check=False)
    if not target.exists():
        raise SystemExit(f"gap_fit failed: {(done.stdout + done.stderr)[-500:]}")
    return target


def quip(system, work):
    from quippy.potential import Potential

    atoms = SYSTEMS[system]()
    if not atoms.pbc.any():
        atoms.set_cell([30, 30, 30])
    return call_of(Potential("IP GAP", param_filename=str(fit_quip(system, work))), atoms)


def scaling(threads):
    """Time and its exponent from 1000 to 46656 silicon atoms."""
    import torch

    torch.set_num_threads(threads)
    header(threads)
    sizes, times = [], []
    for n in SIZES:
        atoms = silicon(n)
        call, found = ours("si216", atoms), []
        call()
        for _ in range(3):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
        sizes.append(len(atoms))
        times.append(min(found))
        print(
            f"{len(atoms):6d} atoms {1e3 * times[-1]:10.1f} ms {1e6 * times[-1] / len(atoms):8.1f} µs/atom", flush=True
        )
    print(f"time ~ atoms^{np.polyfit(np.log(sizes), np.log(times), 1)[0]:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="of the environment with quippy; without, ours alone")
    parser.add_argument("--systems", nargs="+", default=["mol27", "si216", "water192", "si1000"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", default=os.path.join(tempfile.gettempdir(), "epot_gap_speed"))
    parser.add_argument("--scaling", action="store_true", help="cost against the number of atoms, ours alone")
    parser.add_argument("--worker", choices=["epot", "quip"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    os.makedirs(chosen.work, exist_ok=True)
    if chosen.scaling:
        scaling(chosen.threads)
        return
    if chosen.worker:
        if chosen.worker == "epot":
            import torch  # noqa: F401 (serve sets its threads)
        serve(ours if chosen.worker == "epot" else lambda case: quip(case, chosen.work), chosen.threads)
        return
    header(chosen.threads)
    workers = [Worker(sys.executable, __file__, "epot", chosen.threads, "--work", chosen.work)]
    if chosen.peer_python:
        workers.append(Worker(chosen.peer_python, __file__, "quip", chosen.threads, "--work", chosen.work))
    compare(workers, chosen.systems, chosen.rounds)
    for w in workers:
        w.close()


if __name__ == "__main__":
    main()
