"""Symmetry functions beside DScribe, in turn: values; then gradients, and forces of a network on them, beside values.

    python benchmarks/acsf_speed.py --peer-python ENVIRONMENT/bin/python [--systems mol27 si216] [--threads 2]

Eight G2 for each element and eight G4 for each pair (two eta, zeta 1 and 4, lambda 1 and -1), cutoff 5 Å, cosine
cutoff function, float64. ``values`` includes the neighbor search, as DScribe's does. DScribe has no analytical
derivatives: ``gradients`` (all of them, in full) and ``forces`` (energies and forces of a float32 network of 64-64
units by one backward pass, neighbor search included) are ours alone. The peer's environment needs dscribe 2.1 and ase.

Arithmetic: a triple costs two exponentials, two powers of two bases, the cutoff function of the third side and a
2 x 4 matrix product; silicon has 378 triples for each atom, of which 47 % have a third side within the cutoff.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from turns import Worker, compare, header, serve

CUTOFF = 5.0
G2 = [[eta, 0.0] for eta in (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)]
G4 = [[eta, zeta, sign] for eta in (0.01, 0.1) for zeta in (1.0, 4.0) for sign in (-1.0, 1.0)]


def atoms_of(system):
    from systems import SYSTEMS

    atoms = SYSTEMS[system]()
    return atoms, sorted(set(atoms.numbers.tolist()))


def ours(case):
    import torch

    from epot.data.structure import Structure
    from epot.features.descriptors.acsf import ACSF
    from epot.geometry.graph import build
    from epot.models.acsf_nn import AcsfNN
    from epot.predict import predict

    system, what = case.split()
    atoms, elements = atoms_of(system)
    structure = Structure.from_ase(atoms)
    made = ACSF(elements, CUTOFF, G2, G4, "cosine")
    potential = AcsfNN(elements, made.config())

    def call():
        graph = build(structure, CUTOFF)
        if what == "forces":
            return predict(potential, graph)
        with torch.no_grad():
            return made(graph) if what == "values" else made.jacobian(graph)

    return call


def dscribe(case):
    from dscribe.descriptors import ACSF

    system, what = case.split()
    if what != "values":
        return None
    atoms, elements = atoms_of(system)
    made = ACSF(species=elements, r_cut=CUTOFF, g2_params=G2, g4_params=G4, periodic=bool(atoms.pbc.any()))
    return lambda: made.create(atoms)


WORKERS = {"epot": ours, "dscribe": dscribe}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="of the environment with dscribe")
    parser.add_argument("--systems", nargs="+", default=["mol27", "si216", "water192", "si1000"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        if chosen.worker == "epot":
            import torch  # noqa: F401 (serve sets its threads)
        serve(WORKERS[chosen.worker], chosen.threads)
        return
    header(chosen.threads)
    workers = [
        Worker(sys.executable, __file__, "epot", chosen.threads),
        Worker(chosen.peer_python, __file__, "dscribe", chosen.threads),
    ]
    compare(workers, [f"{s} {w}" for s in chosen.systems for w in ("values", "gradients", "forces")], chosen.rounds)
    for w in workers:
        w.close()


if __name__ == "__main__":
    main()
