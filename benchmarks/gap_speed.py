"""Milliseconds of one energy-and-forces call of a GAP (SOAP n_max 8, l_max 6, 5 Å, 1000 sparse points, float64).

    python benchmarks/gap_speed.py [--threads 2] [--repeat 20] [--profile]

The neighbor list is not counted. Systems: 27-atom molecule (4 elements), 216 and 1000 silicon atoms.
"""

import argparse
import json
import time

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from epot.data.structure import Structure
from epot.geometry.graph import build
from epot.models.gap import GAP
from epot.predict import predict


def systems():
    """Name to (atoms, elements)."""
    rng = np.random.default_rng(0)
    parts = [molecule(name) for name in ("C5H5N", "C6H6", "H2O", "H")]
    for k, part in enumerate(parts):
        part.translate([0, 0, 3.0 * k])
    both = sum(parts, Atoms())
    out = {"mol27": (both, (1, 6, 7, 8))}
    for n in (3, 5):
        out[f"si{8 * n**3}"] = (bulk("Si", "diamond", a=5.43, cubic=True) * (n, n, n), (14,))
    for atoms, _ in out.values():
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
    return out


def potential(structure, elements, points):
    """A GAP with sparse points from rattled copies of the structure itself, and random weights."""
    made = GAP(elements, n_sparse=points)
    rng, spectra, kinds = np.random.default_rng(1), [], []
    while sum(len(k) for k in kinds) < points:
        moved = structure.replace(
            positions=structure.positions + rng.normal(scale=0.05, size=structure.positions.shape)
        )
        graph = build(moved, made.cutoff)
        spectra.append(made.soap(graph).detach())
        kinds.append(made.soap.species(graph))
    rows, kind = torch.cat(spectra)[:points], torch.cat(kinds)[:points]
    made.set_sparse([rows[kind == k] for k in range(len(elements))])
    with torch.no_grad():
        made.readout.weight.copy_(torch.randn(points, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for name, (atoms, elements) in systems().items():
        structure = Structure.from_ase(atoms)
        made = potential(structure, elements, chosen.points)
        graph = build(structure, made.cutoff)
        predict(made, graph)
        times = []
        for _ in range(chosen.repeat):
            start = time.perf_counter()
            predict(made, graph)
            times.append(1e3 * (time.perf_counter() - start))
        line = {"system": name, "atoms": len(atoms), "pairs": graph.n_pairs, "size": made.soap.size}
        print(json.dumps(line | {"min_ms": round(min(times), 2), "median_ms": round(float(np.median(times)), 2)}))
        if chosen.profile:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                predict(made, graph)
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=40))


if __name__ == "__main__":
    main()
