"""Checks of who may influence whom: structures of a batch, pairs, distant fragments, the cutoff."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..data.structure import Structure
from ..predict import Prediction, predict
from .case import Case, as_array
from .check import Found, absent, check
from .systems import bare

ALLOWED = 1e-9


@check
def few_atoms(case: Case) -> Found:
    """One atom, and two beyond the cutoff: finite energies that add up, and no forces."""
    singles = [Structure(np.array([z]), np.array([[0.1, 0.2, 0.3]])) for z in case.elements]
    alone = case.predict(singles)
    energies, forces = as_array(alone.energy), as_array(alone.forces)
    if not np.isfinite(energies).all() or not np.isfinite(forces).all():
        return Found(math.inf, 0, "the energy of an isolated atom is not finite")
    worst, where = float(np.abs(forces).max()), "eV/Å, force on an isolated atom"
    if not case.long_ranged():
        a, b = case.elements[0], case.elements[-1]
        apart = Structure(np.array([a, b]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, case.cutoff + 1.0]]))
        difference = abs(case.energy(apart) - energies[0] - energies[-1])
        if not difference <= worst:
            worst, where = difference, "eV, two atoms beyond the cutoff against two isolated ones"
    return Found(worst, 1e-10 * max(1.0, float(np.abs(energies).max())), where)


@check
def batch(case: Case) -> Found:
    """A structure in a batch, whatever else is in it, is predicted as it is alone."""
    names = [*case.systems, *list(case.systems)[:1]]
    together = case.predict([case.systems[n] for n in names], ("forces", "virial"))
    energies, forces, virials = (as_array(x) for x in (together.energy, together.forces, together.virial))
    worst, where, start = 0.0, "nothing differs", 0
    for k, name in enumerate(names):
        alone = case.predict(case.systems[name], ("forces", "virial"))
        stop = start + len(case.systems[name])
        noise = 1e3 * case.noise(case.systems[name])
        for what, x, y in (
            ("energy", as_array(alone.energy)[0], energies[k]),
            ("forces", as_array(alone.forces), forces[start:stop]),
            ("virial", as_array(alone.virial)[0], virials[k]),
        ):
            difference = float(np.abs(x - y).max(initial=0)) / max(float(np.abs(x).max(initial=0)), noise)
            if not difference <= worst:
                worst, where = difference, f"{what} of '{name}' in a batch against alone (relative)"
        start = stop
    return Found(worst, ALLOWED, where)


@check
def no_leak(case: Case) -> Found:
    """The energy of one structure has exactly no gradient with respect to atoms and cells of another."""
    structures = list(case.systems.values())
    structures = structures if len(structures) > 1 else [*structures, case.molecule()]
    graph = case.graph(structures)
    positions, cell = graph.positions.clone().requires_grad_(), graph.cell.clone().requires_grad_()
    energy = case.potential(graph.replace(positions=positions, cell=cell, _vectors=None)).energy
    if not energy.requires_grad:
        return absent("the energy does not depend on the geometry")
    worst = 0.0
    for k in range(graph.n_structures):
        found = torch.autograd.grad(
            energy[graph.owner == k].double().sum(), (positions, cell), retain_graph=True, allow_unused=True
        )
        for gradient, mine in zip(found, (graph.owner == k, torch.arange(graph.n_structures) == k), strict=True):
            if gradient is not None:
                worst = max(worst, float(gradient[~mine].abs().max()))
    return Found(worst, 0, "eV/Å, gradient of one structure's energy on another structure")


@check
def pair_order(case: Case) -> Found:
    """The order in which the neighbors of an atom are listed does not matter."""
    graph = case.graph(list(case.systems.values()))
    order = torch.from_numpy(np.lexsort((case.rng().random(graph.n_pairs), graph.pairs[0].numpy())))
    shuffled = graph.replace(pairs=graph.pairs[:, order], shifts=graph.shifts[order], _vectors=None)
    a, b = (predict(case.potential, g) for g in (graph, shuffled))
    size = max(float(np.abs(as_array(a.forces)).max(initial=0)), 1e3 * case.noise(case.molecule()))
    worst = float(np.abs(as_array(a.forces) - as_array(b.forces)).max(initial=0)) / size
    energies = np.abs(as_array(a.energy) - as_array(b.energy)) / (1.0 + np.abs(as_array(a.energy)))
    return Found(max(worst, float(energies.max())), ALLOWED, "energies or forces differ (relative)")


@check
def additivity(case: Case) -> Found:
    """Two molecules far apart: energies add up, forces are those of each alone; of long range: the rest decays."""
    a = case.molecule()
    b = bare(a, positions=a.positions[::-1] * 0.97, numbers=a.numbers[::-1])
    reach = float(np.linalg.norm(np.ptp(a.positions, axis=0))) + case.cutoff + 2.0
    lone = case.energy(a) + case.energy(b)

    def joined(distance: float) -> Structure:
        positions = np.concatenate([a.positions, b.positions + np.array([distance, 0.0, 0.0])])
        return Structure(np.concatenate([a.numbers, b.numbers]), positions, charge=a.charge + b.charge)

    rest = [abs(case.energy(joined(factor * reach)) - lone) for factor in (1, 2, 4)]
    noise = 1e3 * case.noise(joined(reach))
    if case.long_ranged():
        ratio = max(rest[1] / max(rest[0], noise), rest[2] / max(rest[1], noise))
        return Found(ratio, 0.8, "what is left of the interaction when the distance doubles")
    apart = as_array(case.predict(joined(reach)).forces)
    alone = np.concatenate([as_array(case.predict(s).forces) for s in (a, b)])
    forces = float(np.abs(apart - alone).max()) / max(float(np.abs(alone).max()), noise)
    energy = max(rest) / max(abs(lone), noise)
    return Found(max(forces, energy), ALLOWED, "energies or forces of two distant molecules (relative)")


@check
def cutoff(case: Case) -> Found:
    """Energy and forces go to zero at the cutoff (of every term) without a step, and are not zero inside."""
    if not case.cutoffs():
        return absent("it has no pairs")
    worst, where = 0.0, "no step"
    for distance in case.cutoffs():
        for third in (False, True):
            inside = _line(case, third, 0.5 * distance)
            if not third and distance == case.cutoff and float(np.abs(as_array(inside.forces)).max()) == 0:
                return Found(math.inf, 0, f"control: no force at {0.5 * distance:.2f} Å, half of the cutoff")
            for what, step in _steps(case, third, distance).items():
                if not step <= worst:
                    kind = "a third atom leaving" if third else "two atoms parting"
                    worst, where = step, f"{what} at {distance:.2f} Å, {kind}: step relative to the slope before it"
    if not case.long_ranged():
        c = case.cutoff
        beyond, further = _line(case, False, c * 1.0001), _line(case, False, c + 3.0)
        rest = float(np.abs(as_array(beyond.forces)).max()) + abs(float(beyond.energy - further.energy))
        if rest > 0:
            return Found(math.inf, 0, f"{rest:.1e} eV or eV/Å are left beyond the cutoff of {c} Å")
    return Found(worst, 0.1, where)


def _line(case: Case, third: bool, distance: float) -> Prediction:
    """Two atoms at a distance; with ``third``, that one stands behind a bonded pair and only it moves."""
    z = [case.elements[0], case.elements[-1]]
    x = [0.0, distance]
    if third:
        z, x = [*z, case.elements[0]], [*x, -min(1.5, 0.45 * case.cutoff)]
    positions = np.zeros((len(x), 3))
    positions[:, 0] = x
    graph = case.graph(Structure(np.array(z), positions))
    return predict(case.potential, graph)


def _steps(case: Case, third: bool, distance: float) -> dict[str, float]:
    """How much energy and forces change from just inside to just outside, over their change from 100 times further.

    About 1e-2 where they are smooth (less for higher orders), 1 where there is a step.
    """
    near, far = 1e-5 * distance, 1e-3 * distance
    places = (distance - near, distance + near, distance - far, distance + far)
    found = [_line(case, third, place) for place in places]
    noise = 1e-13 * (1.0 + max(float(np.abs(as_array(f.atom_energies)).sum()) for f in found))
    steps = {}
    for what in ("energy", "forces"):
        values = [as_array(getattr(f, what)) for f in found]
        step = float(np.abs(values[0] - values[1]).max())
        slope = float(np.abs(values[2] - values[3]).max())
        steps[what] = 0.0 if step <= 10 * noise else step / max(slope, noise)
    return steps
