"""SOAP beside DScribe, featomic and QUIP, in turn: values, and values with all derivatives in full.

    python benchmarks/descriptor_speed.py --peer-python ENVIRONMENT/bin/python [--systems mol27 si216] [--threads 2]

n_max 8, l_max 6, cutoff 5 Å, sigma 0.5 Å, float64, neighbor search included. ``dscribe``, ``featomic`` and ``quip`` in
a case's name are conventions: ours in that dialect against that code, which is the same vector (DScribe's counts
neighbors up to 6.86 Å, the others up to 5 Å). The derivatives of ours and featomic's are those of each atom's vector by
each of its neighbors; featomic's are summed over images and stored by species, QUIP's by neighbor, DScribe has none for
periodic structures. The environment of the peers needs dscribe 2.1, featomic 0.6, quippy-ase 0.10 and ase.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from turns import Worker, compare, header, serve

CUTOFF, N_MAX, L_MAX, SIGMA = 5.0, 8, 6, 0.5


def atoms_of(system):
    from systems import SYSTEMS

    atoms = SYSTEMS[system]()
    return atoms, sorted(set(atoms.numbers.tolist()))


def ours(case):
    import torch

    from epot.data.structure import Structure
    from epot.features.descriptors.soap import Soap
    from epot.geometry.graph import build

    system, dialect, what = case.split()
    atoms, elements = atoms_of(system)
    width = None if dialect == "dscribe" else 0.5
    soap = Soap(elements, CUTOFF, N_MAX, L_MAX, SIGMA, dialect=dialect, cutoff_width=width)
    structure = Structure.from_ase(atoms)

    def call():
        graph = build(structure, soap.cutoff)
        with torch.no_grad():
            return soap(graph), soap.jacobian(graph) if what == "gradients" else None

    return call


def dscribe(case):
    from dscribe.descriptors import SOAP

    system, dialect, what = case.split()
    if dialect != "dscribe" or what != "values":
        return None
    atoms, elements = atoms_of(system)
    made = SOAP(species=elements, r_cut=CUTOFF, n_max=N_MAX, l_max=L_MAX, sigma=SIGMA, periodic=bool(atoms.pbc.any()))
    return lambda: made.create(atoms, n_jobs=1)


def featomic(case):
    from featomic import SoapPowerSpectrum

    system, dialect, what = case.split()
    if dialect != "featomic":
        return None
    atoms, _ = atoms_of(system)
    made = SoapPowerSpectrum(
        cutoff={"radius": CUTOFF, "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        density={"type": "Gaussian", "width": SIGMA},
        basis={"type": "TensorProduct", "max_angular": L_MAX, "radial": {"type": "Gto", "max_radial": N_MAX - 1}},
    )
    gradients = ["positions"] if what == "gradients" else []
    return lambda: made.compute(atoms, gradients=gradients, use_native_system=True)


def quip(case):
    from quippy.descriptors import Descriptor

    system, dialect, what = case.split()
    if dialect != "quip":
        return None
    atoms, elements = atoms_of(system)
    listed = "{" + " ".join(str(z) for z in elements) + "}"
    made = [
        Descriptor(
            f"soap cutoff={CUTOFF} cutoff_transition_width=0.5 n_max={N_MAX} l_max={L_MAX} atom_sigma={SIGMA} "
            f"n_Z=1 Z={z} n_species={len(elements)} species_Z={listed}"
        )
        for z in elements
    ]
    return lambda: [d.calc(atoms, grad=what == "gradients") for d in made]


WORKERS = {"epot": ours, "dscribe": dscribe, "featomic": featomic, "quip": quip}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="of the environment with the peers")
    parser.add_argument("--systems", nargs="+", default=["mol27", "si216", "water192", "si1000"])
    parser.add_argument("--peers", nargs="*", default=["dscribe", "featomic", "quip"])
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
    for peer in chosen.peers:
        workers = [
            Worker(sys.executable, __file__, "epot", chosen.threads),
            Worker(chosen.peer_python, __file__, peer, chosen.threads),
        ]
        cases = [f"{s} {peer} {w}" for s in chosen.systems for w in ("values", "gradients")]
        kept = [c for c in cases if not (c.endswith("gradients") and (peer == "dscribe" or "si1000" in c))]
        compare(workers, kept, chosen.rounds)
        for w in workers:
            w.close()


if __name__ == "__main__":
    main()
