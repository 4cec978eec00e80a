"""A published foundation model of mace-torch's, imported: the original's numbers and times beside ours.

    python benchmarks/published_mace.py mace-omat-0-small.model --peer-python MACE/bin/python [--systems mol27 si216]

The file is one that mace-torch loads; MACE-OMAT-0-small is in the wheel of macer 0.1.13 on PyPI (its licence: ASL):

    pip download --no-deps macer==0.1.13 && unzip -j macer-0.1.13-*.whl '*/mace-omat-0-small.model'

Times in float32, in turn: each through its ASE calculator, the atoms moved by 1e-3 Å before every call; ``epot`` with
its default skin of 0.5 Å, ``search`` with a neighbor search at every call as mace-torch has it, ``eager`` without
compiled kernels. Then energies, forces and stress of eight structures in float64 (``--write FILE`` keeps the original's
and the structures: tests/data_files/mace_omat.json was written so).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ours import calculator, moved
from systems import SYSTEMS
from turns import Worker, compare, header, serve

NAMES = ("epot", "eager", "search", "mace")


def structures():
    """Rattled: an ionic crystal in a skew cell, covalent, metallic, an oxide on a surface, a molecule, an actinide, and
    copper so dense that the repulsion of nuclei acts."""
    from ase.build import add_adsorbate, bulk, fcc111, molecule
    from ase.spacegroup import crystal

    rng = np.random.default_rng(0)
    salt = bulk("NaCl", "rocksalt", 5.64) * (2, 2, 2)
    salt.set_cell(salt.cell.array @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
    surface = fcc111("Pt", (2, 2, 3), vacuum=8)
    add_adsorbate(surface, "O", 1.3, "fcc")
    surface.pbc, surface.info = True, {}
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    titanate = crystal(["Sr", "Ti", "O"], places, spacegroup=221, cellpar=[3.9] * 3 + [90] * 3) * (2, 1, 1)
    found = [salt, bulk("Si", "diamond", 5.43, cubic=True), bulk("Fe", "bcc", 2.87), molecule("CH3CH2OH"), surface]
    found += [titanate, bulk("U", "bcc", 3.4, cubic=True), bulk("Cu", "fcc", 2.2)]
    for atoms in found:
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
    return found


def plain(atoms):
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def answers(calculate, given):
    """Energy, forces and stress of structures as :func:`plain` writes them."""
    from ase import Atoms

    made = []
    for each in given:
        atoms = Atoms(**each, calculator=calculate)
        stress = atoms.get_stress(voigt=False).tolist() if atoms.pbc.all() else None
        made.append({"energy": atoms.get_potential_energy(), "forces": atoms.get_forces().tolist(), "stress": stress})
    return made


def peer(file, dtype):
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    from mace.calculators import MACECalculator

    return MACECalculator(model_paths=file, device="cpu", default_dtype=dtype)


def ours(file, skin):
    from epot import interchange

    return calculator(interchange.load(file), skin)


def worker(args):
    def make(case):
        atoms = SYSTEMS[case]()
        if args.worker == "mace":
            atoms.calc = peer(args.file, "float32")
        else:
            from epot import interchange

            atoms.calc = calculator(interchange.load(args.file).float(), 0.0 if args.worker == "search" else 0.5)
        return moved(atoms)

    serve(make, args.threads)


def check(args):
    """Largest differences of one structure after the other."""
    with tempfile.TemporaryDirectory() as folder:
        given, back = Path(folder) / "given.json", Path(folder) / "back.json"
        given.write_text(json.dumps([plain(a) for a in structures()]))
        script = [args.peer_python, __file__, args.file, "--answer", str(given), str(back)]
        subprocess.run(script, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        given, theirs = json.loads(given.read_text()), json.loads(back.read_text())
    if args.write:
        both = [g | t for g, t in zip(given, theirs, strict=True)]
        Path(args.write).write_text(json.dumps({"file": Path(args.file).name, "structures": both}))
    for g, a, b in zip(given, answers(ours(args.file, 0.0), given), theirs, strict=True):
        energy = abs(a["energy"] - b["energy"]) / len(g["numbers"])
        forces = np.abs(np.array(a["forces"]) - b["forces"]).max()
        stress = "" if a["stress"] is None else f", stress {np.abs(np.array(a['stress']) - b['stress']).max():.0e}"
        largest = np.abs(b["forces"]).max()
        print(f"{sorted(set(g['numbers']))}: energy {energy:.0e} eV/atom, forces {forces:.0e} of {largest:.2f}{stress}")


def run(args):
    header(args.threads)
    pythons = {name: sys.executable for name in NAMES[:3]}
    if args.peer_python:
        pythons["mace"] = args.peer_python
    workers = []
    for name, python in pythons.items():
        os.environ["EPOT_NATIVE"] = "0" if name == "eager" else "1"
        workers.append(Worker(python, __file__, name, args.threads, args.file))
    compare(workers, args.systems, args.rounds)
    for each in workers:
        each.close()
    if args.peer_python:  # last: a worker's peak of memory begins at that of the process that starts it
        check(args)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--peer-python")
    parser.add_argument("--systems", nargs="*", default=["mol27", "si216", "water192"], choices=list(SYSTEMS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write")
    parser.add_argument("--worker", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--answer", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args)
    elif args.answer:
        given = json.loads(Path(args.answer[0]).read_text())
        Path(args.answer[1]).write_text(json.dumps(answers(peer(args.file, "float64"), given)))
    else:
        run(args)


if __name__ == "__main__":
    main()
