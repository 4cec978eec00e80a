"""Seconds and memory of a GAP fit beside those of gap_fit, in turns: the same structures, sparse points and sigmas.

    python benchmarks/gap_fit_speed.py --peer-python ENVIRONMENT/bin/python [--frames 50 100 200] [--points 1000]

ENVIRONMENT has quippy-ase (with gap_fit in its bin). Structures: 64 silicon atoms, rattled, with energies and forces
of a Morse potential. SOAP n_max 8, l_max 6, 5 Å, zeta 4, as in QUIP's conventions; one thread unless --threads says
else. gap_fit chooses the sparse points; ours are read from its XML file, so both solve the same problem: the largest
difference of predicted energies and forces is printed. Both processes are timed whole (start, neighbor lists, rows,
solve); ``cpu`` are seconds of the processor, which other work on the machine disturbs less.

Arithmetic for N frames of 64 atoms with 28 neighbors each and M points: rows of the forces are one product of
(3 * 1792 N) x 252 x M (the distinct elements of the channel matrices), 2.7 GFLOP a frame for M = 1000; the
triangular factor takes 2 * 193 N * M^2, 0.39 GFLOP a frame.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ase.calculators.morse import MorsePotential
from ase.io import write
from systems import silicon

SOAP = {"cutoff": 5.0, "n_max": 8, "l_max": 6, "atom_sigma": 0.5, "cutoff_transition_width": 0.5}
SIGMAS = {"energy_sigma": 0.002, "force_sigma": 0.1}


def frames(n):
    made = []
    for k in range(n):
        atoms = silicon(2, seed=k, amplitude=0.1)
        atoms.calc = MorsePotential(epsilon=1.0, r0=2.35, rho0=4.0, rcut1=4.0, rcut2=5.0)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        atoms.info["energy"], atoms.arrays["forces"] = energy, forces
        made.append(atoms)
    return made


def peer(python, folder, points):
    """One run of gap_fit; its XML file is left in the folder."""
    soap = " ".join(f"{k}={v}" for k, v in SOAP.items())
    gap = (
        f"{{soap {soap} zeta=4 delta=1.0 f0=0.0 central_weight=1.0 n_sparse={points} covariance_type=dot_product "
        "sparse_method=random add_species=T}"
    )
    return [
        str(Path(python).parent / "gap_fit"), "atoms_filename=train.xyz", f"gap={gap}", "sparse_jitter=1e-8",
        "default_sigma={0.002 0.1 0 0}", "energy_parameter_name=energy", "force_parameter_name=forces",
        "e0={Si:0.0}", "gp_file=gap.xml", "rnd_seed=1", "do_copy_at_file=F", "sparse_separate_file=T",
    ]  # fmt: skip


def ours(folder):
    """The same fit here, in a process of its own: reads train.xyz and the sparse points of gap.xml."""
    import numpy as np
    import torch

    import epot
    from epot.data.dataset import Dataset
    from epot.fit.recipe import FitState
    from epot.fit.stages.solve import Solve
    from epot.geometry.graph import build
    from epot.interchange.gap_xml import load
    from epot.predict import predict

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    potential = load(folder / "gap.xml")
    theirs = potential.terms["body"].readout.weight.detach().clone()
    train = Dataset(list(epot.read(folder / "train.xyz")))
    start = time.perf_counter()
    state = FitState(potential, train)
    Solve(**SIGMAS, jitter=1e-8).run(state)
    facts = {"solve_s": round(time.perf_counter() - start, 2), "rows": state.about["fit"]["solve"]["rows"]}
    graph = build(train[0], potential.cutoff)
    mine = predict(potential, graph)
    with torch.no_grad():
        potential.terms["body"].readout.weight.copy_(theirs)
    other = predict(potential, graph)
    facts["energy_apart"] = float((mine.energy - other.energy).abs().max())
    facts["forces_apart"] = float((mine.forces - other.forces).abs().max())
    facts["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    assert np.isfinite(facts["energy_apart"])
    print(json.dumps(facts))


def timed(command, folder, threads):
    """Seconds of the processor, of the clock, peak memory in MB and output of one process."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads)) | {"EPOT_PROGRESS": "0"}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        out.seek(0)
        text = out.read()
    if status:
        raise SystemExit(f"{command[0]} failed:\n{text[-2000:]}")
    return usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss / 1024, text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="of an environment with quippy-ase")
    parser.add_argument("--frames", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.ours:
        ours(chosen.ours)
        return
    for n in chosen.frames:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder / "train.xyz", frames(n), format="extxyz")
            best = {}
            for _ in range(chosen.rounds):
                for who, command in (
                    ("gap_fit", peer(chosen.peer_python, folder, chosen.points)),
                    ("epot", [sys.executable, os.path.abspath(__file__), "--ours", str(folder)]),
                ):
                    found = timed(command, folder, chosen.threads)
                    best[who] = min(best.get(who, found), found)
            facts = json.loads(best["epot"][3].strip().splitlines()[-1])
            line = {"frames": n, "points": chosen.points, "threads": chosen.threads}
            for place, what in enumerate(("cpu_s", "s", "mb")):
                line |= {f"{who}_{what}": round(t[place], 1) for who, t in best.items()}
            for place, what in enumerate(("cpu_ratio", "ratio")):
                line[what] = round(best["gap_fit"][place] / best["epot"][place], 1)
            print(json.dumps(line | facts), flush=True)


if __name__ == "__main__":
    main()
