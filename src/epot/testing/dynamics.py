"""Checks of what happens in use: short distances, single precision, dynamics."""

from __future__ import annotations

import copy
import math
from itertools import combinations_with_replacement

import numpy as np
import torch
from ase.data import atomic_masses

from ..data.structure import Structure
from ..predict import predict
from .case import Case, as_array
from .check import Found, absent, check
from .systems import bare

NEAREST = 0.2  # Å: how near two atoms come in a dimer curve


def dimer_distances(cutoff: float, n: int = 80) -> np.ndarray:
    """Å, from 0.2 Å to just beyond the cutoff, denser where atoms are near."""
    return np.geomspace(NEAREST, max(cutoff, 2.0) * 1.02, n)


@check
def dimers(case: Case) -> Found:
    """Energies and forces of every pair of elements are finite from 0.2 Å to beyond the cutoff."""
    for a, b in list(combinations_with_replacement(case.elements, 2))[:15]:
        energies, forces = dimer_curve(case, a, b, dimer_distances(case.cutoff))
        bad = ~(np.isfinite(energies) & np.isfinite(forces))
        if bad.any():
            r = dimer_distances(case.cutoff)[int(np.argmax(bad))]
            return Found(math.inf, 0, f"elements {a} and {b}: not finite at {r:.2f} Å")
    return Found(0, 0, f"finite from {NEAREST} Å")


def dimer_curve(case: Case, a: int, b: int, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy (eV, of the pair) and force along the bond (eV/Å, positive: apart) at each distance."""
    pairs = [Structure(np.array([a, b]), np.array([[0.0, 0.0, 0.0], [r, 0.0, 0.0]])) for r in distances]
    made = case.predict(pairs)
    return as_array(made.energy), as_array(made.forces).reshape(-1, 2, 3)[:, 1, 0]


@check
def single_precision(case: Case) -> Found:
    """A potential in float32 gives the forces of float64, also 1000 Å from the origin."""
    floating = {t.dtype for t in case.native.parameters()}
    if torch.float32 not in floating:
        return absent("it has no parameters in single precision")
    low = copy.deepcopy(case.native)
    worst, where = 0.0, "relative to the root mean square force"
    for name, s in case.systems.items():
        far = bare(s, positions=s.positions + np.array([1000.0, -700.0, 300.0]))
        exact = as_array(case.predict(s).forces)
        rough = as_array(predict(low, case.graph(far)).forces)
        size = max(float(np.sqrt(np.square(exact).mean())), 1e6 * case.noise(s))
        error = float(np.abs(rough - exact).max()) / size
        if not error <= worst:
            worst, where = error, f"'{name}', relative to the root mean square force"
    return Found(worst, 1e-3, where)


@check
def conservation(case: Case) -> Found:
    """In velocity Verlet the error of the energy falls as the square of the time step: forces conserve energy."""
    structure = case.molecule()
    masses = atomic_masses[structure.numbers][:, None]
    stiffness = as_array(case.predict(structure, ("hessian",)).hessian)
    weight = np.repeat(masses[:, 0], 3) ** -0.5
    fastest = float(np.sqrt(np.abs(np.linalg.eigvalsh(weight[:, None] * stiffness * weight)).max()))
    if fastest == 0:
        return absent("it has no forces")
    velocities = case.rng().normal(size=structure.positions.shape) * 0.03 * fastest
    ratio, drift = math.inf, 0.0
    for shrink in (1.0, 0.25):
        step = 0.15 * shrink / fastest
        coarse = energy_error(case, structure, velocities, step, 20)
        fine = energy_error(case, structure, velocities, step / 2, 40)
        kinetic = 0.5 * float((masses * velocities**2).sum())
        if fine <= 1e-9 * max(kinetic, 1.0):
            return Found(0, 0.5, "energy is conserved to rounding")
        if fine / coarse < ratio:
            ratio, drift = fine / coarse, fine / kinetic
    return Found(ratio, 0.5, f"error left when the step is halved (1/4 expected); {drift:.1e} of the kinetic energy")


def energy_error(case: Case, structure: Structure, velocities: np.ndarray, step: float, n_steps: int) -> float:
    """eV: largest departure of the total energy from its start in velocity Verlet (time in Å sqrt(amu/eV))."""
    masses = atomic_masses[structure.numbers][:, None]
    x, v = structure.positions.copy(), velocities.copy()

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
        made = case.predict(bare(structure, positions=positions))
        return float(made.energy[0]), as_array(made.forces)

    energy, force = evaluate(x)
    start, worst = energy + 0.5 * float((masses * v**2).sum()), 0.0
    for _ in range(n_steps):
        v = v + 0.5 * step * force / masses
        x = x + step * v
        energy, force = evaluate(x)
        v = v + 0.5 * step * force / masses
        worst = max(worst, abs(energy + 0.5 * float((masses * v**2).sum()) - start))
    return worst
