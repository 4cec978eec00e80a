"""Why descriptors: one network and one kernel on coordinates and on invariant descriptions, and what breaks.

The same molecules, turned, moved and with like atoms renumbered, have the same energy. A model of raw coordinates does
not know this; sorted lists know it, but bend where two entries change places; sums over atoms of smooth functions of
their neighbors know it and are smooth (Behler and Parrinello, Phys. Rev. Lett. 98, 146401 (2007),
doi:10.1103/PhysRevLett.98.146401; Bartok, Kondor, Csanyi, Phys. Rev. B 87, 184115 (2013),
doi:10.1103/PhysRevB.87.184115).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.build
import numpy as np
import torch
from scipy.optimize import minimize

from ..data.readers import read
from ..data.structure import Structure
from ..elements import SYMBOLS
from ..errors import ConfigError, DataError
from ..fit.run import fit
from ..geometry.graph import build
from ..geometry.topology import difference, perceive
from ..models.force_field import ForceField
from ..potential import Potential
from ..predict import predict
from ..units import KB

NETWORK = (32, 32)
CHANGES = ("unchanged", "turned", "moved", "renumbered")
TEMPERATURE = 500.0
GRID = 400
MORE = 5
DESCRIPTORS: dict[str, dict[str, Any]] = {
    "coordinates": {"name": "cartesian"},
    "sorted distances": {"name": "distances"},
    "Coulomb eigenvalues": {"name": "coulomb_matrix", "kind": "eigenvalues"},
    "sorted Coulomb matrix": {"name": "coulomb_matrix", "kind": "sorted"},
}
ATOMS = {"name": "acsf", "cutoff": 4.0, "radial": 6, "angular": 2}


def symmetry(
    data: str | os.PathLike | None = None, *, n_train: int = 100, n_test: int = 50, epochs: int = 80, seed: int = 0
) -> dict[str, Any]:
    """Train on one molecule in one orientation, test on the same molecules turned, moved and renumbered.

    Args:
        data: structures of one molecule with energies and forces, its atoms in one order; None for ethanol that
            vibrates at 500 K in a classical force field.
        n_train, n_test: structures. Kernels of whole molecules, which learn from energies alone, get :data:`MORE` times
            as many, where there are so many.
        epochs: of each network.
        seed: of everything random.

    Returns:
        JSON: for each model ``errors`` (change to energy MAE in meV and force MAE in meV/Å), ``breaking`` (change to
        the mean of what the change does to its own energy, meV) and ``kink`` (the largest jump of the slope along a
        path on which two bonds of equal kind exchange their lengths, eV/Å).

    Raises:
        ConfigError: a number is below what is needed.
        DataError: too few structures, other molecules among them, or labels are missing.
    """
    if n_train < 10 or n_test < 1 or epochs < 1:
        raise ConfigError(f"The demonstration needs 10 structures to train; given: {n_train}, {n_test}, {epochs}.")
    start = time.monotonic()
    more = (MORE - 1) * n_train
    structures = vibrating(n_train + n_test + more, seed) if data is None else _read(data, n_train + n_test, more)
    test, train = structures[:n_test], structures[n_test : n_test + n_train]
    energies = [s.replace(forces=None) for s in structures[n_test:]]
    sets = changed(test, seed)
    rows: dict[str, Any] = {}
    curves = {}
    for name, (config, stages) in models(len(structures[0]), epochs, structures[0]).items():
        state = fit(config, energies if config["name"] == "krr" else train, holdout=0.0, stages=stages, seed=seed)
        potential = state.potential.double().eval()
        rows[name] = assess(potential, sets)
        path, slopes, jump = kink(potential, test[0])
        rows[name]["kink"] = jump
        curves[name] = slopes.tolist()
    spread = 1000 * float(np.std([s.energy or 0.0 for s in test]))
    return {
        "molecule": structures[0].formula,
        "data": "ethanol in a classical force field, normal modes at 500 K" if data is None else str(data),
        "n_train": n_train,
        "n_energies": len(energies),
        "n_test": n_test,
        "energy_spread_meV": spread,
        "models": rows,
        "path": {"length_A": path.tolist(), "slopes_eV_A": curves},
        "seconds": round(time.monotonic() - start, 1),
    }


def models(n_atoms: int, epochs: int, example: Structure) -> dict[str, tuple[dict[str, Any], list[Any]]]:
    """Name to configuration and stages: the same network, and the same kernel, on each description."""
    numbers, counts = np.unique(example.numbers, return_counts=True)
    room: dict[str, dict[str, Any]] = {
        "distances": {"counts": {SYMBOLS[z]: n for z, n in zip(numbers.tolist(), counts.tolist(), strict=True)}},
        "cartesian": {"n_atoms_max": n_atoms},
        "coulomb_matrix": {"n_atoms_max": n_atoms},
    }
    descend = {"stage": "descend", "epochs": epochs, "batch_atoms": 10 * n_atoms, "ema": 0.98}
    network: list[Any] = ["offsets", "standardize", descend]
    made: dict[str, tuple[dict[str, Any], list[Any]]] = {}
    for name, descriptor in DESCRIPTORS.items():
        config = descriptor | room[descriptor["name"]]
        made[f"network, {name}"] = ({"name": "mlp", "descriptor": config, "hidden": NETWORK}, network)
    made["network, symmetry functions of atoms"] = (
        {"name": "acsf_nn", "descriptor": ATOMS, "hidden": NETWORK},
        network,
    )
    kernel: list[Any] = ["offsets", "kernel", "solve"]
    for name in ("coordinates", "sorted distances", "Coulomb eigenvalues"):
        config = DESCRIPTORS[name] | room[DESCRIPTORS[name]["name"]]
        made[f"kernel, {name}"] = ({"name": "krr", "descriptor": config, "kernel": "gaussian"}, kernel)
    gap = {"name": "gap", "cutoff": 4.0, "n_sparse": 200}
    made["kernel, SOAP of atoms"] = (gap, ["offsets", "sparse", "solve"])
    return made


def vibrating(n: int, seed: int) -> list[Structure]:
    """Ethanol along its normal modes at 500 K, always in the same orientation, labeled by a force field."""
    field = ForceField(depth=1)
    field.set_topology(Structure.from_ase(ase.build.molecule("CH3CH2OH")))
    with torch.no_grad():
        field.torsions[:, 2] += 0.1
    base = _relaxed(field, Structure.from_ase(ase.build.molecule("CH3CH2OH")))
    hessian = predict(field, build(base, field.cutoff), ("hessian",)).hessian
    assert hessian is not None
    stiffness, modes = np.linalg.eigh(hessian.numpy())
    kept = np.argsort(np.abs(stiffness))[6:]  # neither moved nor turned
    widths = np.sqrt(KB * TEMPERATURE / np.maximum(stiffness[kept], 0.3))
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        moves = modes[:, kept] @ (widths * rng.normal(size=len(kept)))
        s = base.replace(positions=base.positions + moves.reshape(-1, 3))
        found = predict(field, build(s, field.cutoff))
        assert found.forces is not None
        made.append(s.replace(energy=float(found.energy), forces=found.forces.numpy()))
    return made


def _relaxed(potential: Potential, structure: Structure) -> Structure:
    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        found = predict(potential, build(structure.replace(positions=x.reshape(-1, 3)), potential.cutoff))
        assert found.forces is not None
        return float(found.energy), -found.forces.numpy().ravel()

    best = minimize(value, structure.positions.ravel(), jac=True, method="L-BFGS-B").x
    return structure.replace(positions=best.reshape(-1, 3))


def _read(data: str | os.PathLike, n: int, more: int) -> list[Structure]:
    whole = read(data)
    if len(whole) < n:
        raise DataError(f"{data} holds {len(whole)} structures; the demonstration needs {n}.")
    n = min(n + more, len(whole))
    made = [whole[int(k)] for k in np.linspace(0, len(whole) - 1, n).round()]
    made = [made[int(k)] for k in np.random.default_rng(0).permutation(n)]
    topology = perceive(made[0])
    for s in made:
        why = difference(s, topology) if s.energy is not None and s.forces is not None else "energy or forces lack"
        if why is not None:
            raise DataError(f"The demonstration is with one molecule, labeled; in {s.source or s.formula} {why}.")
    return made


def changed(test: Sequence[Structure], seed: int) -> dict[str, list[Structure]]:
    """The same molecules: as they are, each turned at random, moved by about 1 Å, like atoms renumbered."""
    rng = np.random.default_rng([seed, 1])
    made: dict[str, list[Structure]] = {name: [] for name in CHANGES}
    for s in test:
        q, r = np.linalg.qr(rng.normal(size=(3, 3)))
        q = q * np.sign(np.diag(r))
        q[:, 0] *= np.linalg.det(q)
        order = np.arange(len(s))
        for z in np.unique(s.numbers):
            like = np.flatnonzero(s.numbers == z)
            order[like] = rng.permutation(like)
        middle = s.positions.mean(0)
        forces = np.asarray(s.forces)
        made["unchanged"].append(s)
        made["turned"].append(s.replace(positions=(s.positions - middle) @ q + middle, forces=forces @ q))
        made["moved"].append(s.replace(positions=s.positions + rng.normal(size=3)))
        made["renumbered"].append(s.replace(positions=s.positions[order], forces=forces[order]))
    return made


def assess(potential: Potential, sets: Mapping[str, Sequence[Structure]]) -> dict[str, Any]:
    """Errors on each set of structures, and how far the potential departs from what it said of the first."""
    errors, breaking, first = {}, {}, None
    for name, structures in sets.items():
        found = predict(potential, build(structures, potential.cutoff))
        assert found.forces is not None
        energies, forces = found.energy.numpy(), found.forces.numpy()
        first = energies if first is None else first
        wanted = np.array([s.energy for s in structures])
        labels = np.concatenate([np.asarray(s.forces) for s in structures])
        errors[name] = {
            "energy": 1000 * float(np.abs(energies - wanted).mean()),
            "forces": 1000 * float(np.abs(forces - labels).mean()),
        }
        if name != "unchanged":
            breaking[name] = 1000 * float(np.abs(energies - first).mean())
    return {"errors": errors, "breaking": breaking}


def kink(potential: Potential, structure: Structure) -> tuple[np.ndarray, np.ndarray, float]:
    """The slope of the energy while one bond to hydrogen is stretched past the length of another, and its largest jump.

    Returns:
        Lengths, Å, and slopes dE/d(length), eV/Å, ``(GRID,)``; the jump that is left of the largest change between two
        points when they come together, eV/Å: zero where the potential is smooth.
    """
    hydrogen, anchor = _bond(structure)
    axis = structure.positions[hydrogen] - structure.positions[anchor]
    axis = axis / np.linalg.norm(axis)

    def slopes(lengths: np.ndarray) -> np.ndarray:
        places = []
        for length in lengths:
            positions = structure.positions.copy()
            positions[hydrogen] = positions[anchor] + length * axis
            places.append(structure.replace(positions=positions))
        found = predict(potential, build(places, potential.cutoff)).forces
        assert found is not None
        return -(found.numpy().reshape(len(lengths), -1, 3)[:, hydrogen] @ axis)

    grid = np.linspace(0.95, 1.35, GRID)
    values = slopes(grid)
    worst = 0.0
    for k in np.argsort(-np.abs(np.diff(values, 2)))[:4]:  # where the slope bends most
        low, high = grid[k], grid[k + 2]
        for _ in range(24):
            middle = 0.5 * (low + high)
            a, b, c = slopes(np.array([low, middle, high]))
            low, high = (low, middle) if abs(b - a) > abs(c - b) else (middle, high)
        a, b = slopes(np.array([low, high]))
        worst = max(worst, float(abs(b - a)))
    return grid, values, worst


def _bond(structure: Structure) -> tuple[int, int]:
    """A hydrogen atom and what it is bonded to, the one with most hydrogen atoms; else the first bond."""
    neighbors = perceive(structure).neighbors()
    hydrogens = [[j for j in near if structure.numbers[j] == 1] for near in neighbors]
    anchor = int(np.argmax([len(h) for h in hydrogens]))
    if hydrogens[anchor]:
        return hydrogens[anchor][0], anchor
    anchor = next(k for k, near in enumerate(neighbors) if near)
    return neighbors[anchor][0], anchor


def table(result: Mapping[str, Any]) -> str:
    """As text, for a terminal."""
    head = (
        f"{'MAE of energy, meV / forces, meV/Å':40s}" + "".join(f"{c:>18s}" for c in CHANGES) + f"{'kink, eV/Å':>14s}"
    )
    sizes = f"{result['n_train']} structures ({result['n_energies']} energies for kernels of whole molecules)"
    lines = [
        f"{result['molecule']}: {result['data']}; {sizes} to train, {result['n_test']} to test;",
        f"energies spread by {result['energy_spread_meV']:.0f} meV.",
        head,
    ]
    for name, row in result["models"].items():
        cells = [f"{row['errors'][c]['energy']:.1f} / {row['errors'][c]['forces']:.0f}" for c in CHANGES]
        lines.append(f"{name:40s}" + "".join(f"{c:>18s}" for c in cells) + f"{row['kink']:>14.1e}")
    lines += ["", f"{'what the change alone does, meV':40s}" + " " * 18 + "".join(f"{c:>18s}" for c in CHANGES[1:])]
    for name, row in result["models"].items():
        cells = [f"{row['breaking'][c]:.2g}" for c in CHANGES[1:]]
        lines.append(f"{name:40s}" + " " * 18 + "".join(f"{c:>18s}" for c in cells))
    return "\n".join([*lines, f"{result['seconds']:.0f} s"])


def picture(result: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Draw errors by change, and slopes along the path, to a file whose ending says its format."""
    from matplotlib.figure import Figure

    path = Path(path)
    figure = Figure(figsize=(12, 4.6), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(result["models"])
    for k, change in enumerate(CHANGES):
        values = [max(result["models"][n]["errors"][change]["energy"], 1e-3) for n in names]
        left.barh(np.arange(len(names)) + 0.2 * k, values, height=0.18, label=change)
    left.set(xscale="log", xlabel="error of the energy (MAE), meV", yticks=np.arange(len(names)) + 0.3)
    left.set_yticklabels(names, fontsize=8)
    left.invert_yaxis()
    left.legend(fontsize=8)
    for name, slopes in result["path"]["slopes_eV_A"].items():
        if name.startswith("network") and "coordinates" not in name:
            right.plot(result["path"]["length_A"], slopes, label=name.removeprefix("network, "), linewidth=1)
    right.set(xlabel="length of one C-H bond, Å", ylabel="dE/dr, eV/Å", title="Sorting bends the curve", ylim=(-7, 7))
    right.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path)
    except ValueError as why:
        raise ConfigError(f"{path} cannot be drawn to: {why}") from None
    return path
