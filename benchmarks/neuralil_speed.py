"""NeuralIL: the addition theorem beside the double sum over neighbors that it replaces; energies, forces and a step.

    python benchmarks/neuralil_speed.py [--data ../shared/data] [--threads 1] [--seconds 2]

Three systems: ethanol, 192 atoms of water and, with ``--data``, a frame of ethylammonium nitrate (225 atoms). n_max 4
and a cutoff of 3.5 Å, as published, and 8, the default, in float32; neighbor lists are made before. ``values`` are the
power spectra, ``gradient`` those and one backward pass to the pair vectors. The double sum is written with a padded
neighbor axis and matrix products; it is checked against the addition theorem before anything is timed. ``forces`` are
energy and forces of the residual core, ``step`` those and the gradient of a loss on them (28 ethanols, one frame).
All alternate within a round; minimum times of the process on its processor are printed.
"""

import argparse
import time
from pathlib import Path

import torch
from ase.build import molecule
from systems import water

from epot.data.readers import read
from epot.data.structure import Structure
from epot.features.descriptors.spherical_bessel import SphericalBessel
from epot.geometry.graph import build, collate
from epot.models.neuralil import NeuralIL
from epot.predict import predict

CUTOFF = 3.5
WIDTHS = {4: (64, 32, 16), 8: (192, 96, 48)}


def double_sum(bessel, graph):
    """The definition: every two neighbors of an atom, Legendre polynomials of the cosine between them."""
    slots = graph.padded()
    vectors = graph.vectors().to(bessel.sums.dtype)
    far = vectors.new_tensor([[bessel.cutoff, 0.0, 0.0]])
    vectors = torch.cat([vectors, far])[slots]
    species = torch.cat([bessel.species(graph)[graph.pairs[1]], torch.zeros(1, dtype=torch.int64)])[slots]
    kind = torch.nn.functional.one_hot(species, bessel.n_species).to(vectors)
    r = vectors.square().sum(-1).sqrt()
    units = vectors / r[..., None]
    cosines = units @ units.transpose(1, 2)
    radial = bessel.radial(r.flatten()).T.view(*r.shape, -1)
    parts, start, before, legendre = [], 0, torch.zeros_like(cosines), torch.ones_like(cosines)
    for order in range(bessel.n_max + 1):
        stop = start + bessel.n_max - order + 1
        g = kind[..., None] * radial[:, :, None, start:stop]
        inner = torch.einsum("ajk,akbn->ajbn", legendre * ((2 * order + 1) / (4 * torch.pi)), g)
        parts.append(torch.einsum("ajxn,ajbn->axbn", g, inner))
        before, legendre = legendre, ((2 * order + 1) * cosines * legendre - order * before) / (order + 1)
        start = stop
    whole = torch.cat(parts, -1)
    return torch.stack([whole[:, a, b] for a, b in bessel.channels], 1).flatten(1)


def cases(structure, batch, n_max):
    """Name to function."""
    elements = sorted({int(z) for z in structure.numbers})
    bessel = SphericalBessel(elements, CUTOFF, n_max)
    graph = build(structure, CUTOFF)
    worst = float((bessel(graph) - double_sum(bessel, graph)).abs().max())
    assert worst < 1e-10 * float(bessel(graph).abs().max()), worst
    bessel = bessel.float()
    potential = NeuralIL(elements, CUTOFF, n_max, widths=WIDTHS[n_max])
    parameters = list(potential.parameters())
    many = collate([graph] * batch)

    def gradient(spectra):
        leaf = graph.vectors().detach().requires_grad_()
        torch.autograd.grad(spectra(graph.replace(_vectors=leaf)).sum(), leaf)

    def step():
        made = predict(potential, many.replace(_made={}), create_graph=True)
        loss = made.forces.square().mean() + made.energy.square().mean()
        torch.autograd.grad(loss, parameters, allow_unused=True)

    return {
        "values": lambda: bessel(graph),
        "values, double sum": lambda: double_sum(bessel, graph),
        "gradient": lambda: gradient(bessel),
        "gradient, double sum": lambda: gradient(lambda g: double_sum(bessel, g)),
        "forces": lambda: predict(potential, graph),
        "step": step,
    }


def measure(functions, seconds):
    """Minimum milliseconds of each, in turn."""
    found = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, found.values())) < 4:
        for name, function in functions.items():
            start = time.process_time()
            with torch.set_grad_enabled("values" not in name):
                function()
            found[name].append(1000 * (time.process_time() - start))
    return {name: min(times) for name, times in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each system and n_max")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    systems = {"ethanol": (Structure.from_ase(molecule("CH3CH2OH")), 28), "water": (Structure.from_ase(water()), 1)}
    if given.data is not None:
        systems["ionic liquid"] = (read(given.data / "oracles" / "neuralil" / "ean_validation.xyz.gz")[0], 1)
    print(f"{given.threads} threads, minimum ms")
    for name, (structure, batch) in systems.items():
        for n_max in WIDTHS:
            ms = measure(cases(structure, batch, n_max), given.seconds)
            line = f"{name:12s} {len(structure):4d} atoms n_max {n_max}"
            for k in ("values", "gradient"):
                other = ms[f"{k}, double sum"]
                line += f"  {k} {ms[k]:.2f} (double sum {other:.1f}, x{other / ms[k]:.1f})"
            print(f"{line}  forces {ms['forces']:.2f}  step ({batch * len(structure)} atoms) {ms['step']:.1f}")


if __name__ == "__main__":
    main()
