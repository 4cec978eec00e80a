"""``epot doctor model``: whether a fitted potential is what a simulation takes it for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
import torch
from ase.data import atomic_masses, covalent_radii

from ..data.structure import Structure
from ..elements import SYMBOLS
from ..potential import Potential
from ..predict import predict
from ..progress import bar
from ..testing import checks
from ..testing.case import Case, as_array
from ..testing.check import Check, Result
from ..testing.dynamics import dimer_curve, dimer_distances
from ..testing.systems import bare
from ..units import KB
from .doctor_report import Report

FS = 0.09822694743  # of one fs in Å sqrt(amu/eV)
LARGE = 200  # atoms: structures with more are not used for checks that repeat them
ADVICE = {
    "forces": "forces are not the gradient of the energy: no simulation conserves anything with it.",
    "stress": "pressures, NPT and cell relaxations are wrong.",
    "cutoff": "energy is not conserved when atoms cross the cutoff.",
    "single_precision": "run it in float64, or refit with less ill-conditioned weights.",
    "conservation": "energy drifts in NVE.",
    "dimers": "add a repulsive term (zbl) or close pairs to the training data.",
}


def examine(
    potential: Potential, structures: Sequence[Structure] = (), *, seed: int = 0, compiled: bool = False
) -> Report:
    """Test a potential: derivatives, symmetries, extensivity, the cutoff, dimers, energy drift, precision.

    Args:
        potential: any; it is not changed.
        structures: of its domain (some test structures); a few small ones are used. Small systems of its elements,
            of every kind of boundary, are always used too.
        seed: of random choices.
        compiled: compare a compiled copy with the eager one (takes a minute and needs a C++ compiler).

    Returns:
        An error for everything that breaks a law of physics or the contract of a potential, warnings for what
        limits its use. Its JSON travels in the model file.
    """
    report = Report(f"{type(potential).__name__}")
    chosen = _chosen(structures)
    every = checks()
    with bar("examine the potential", len(every) + 4) as shown:
        case = Case(potential, seed=seed)
        known = set(potential.elements or ()) or None
        domain = {name: s for name, s in chosen.items() if known is None or set(s.numbers.tolist()) <= known}
        own = Case(potential, domain, seed=seed) if domain else None
        results = []
        for check in every:
            shown.note(check.name)
            results.append(_worst(check, case, own))
            shown.advance()
        _judge(results, report)
        _dimers(case, report)
        shown.advance()
        if own is not None:
            _drift(own, report)
        else:
            report.add(
                "info", "no simulation was tried", "it starts from a structure of the domain: give some (--data)"
            )
        shown.advance()
        _precision(potential, own or case, report)
        shown.advance()
        if compiled:
            _compiled(potential, own or case, report)
        shown.advance()
    return report


def _chosen(structures: Sequence[Structure]) -> dict[str, Structure]:
    """Up to four structures, the smallest of evenly spaced ones."""
    if not len(structures):
        return {}
    spaced = np.unique(np.linspace(0, len(structures) - 1, min(40, len(structures))).astype(int))
    small = sorted((structures[int(k)] for k in spaced), key=len)
    small = [s for s in small if 1 < len(s) <= LARGE]
    kinds: dict[tuple, list[Structure]] = {}
    for s in small:
        kinds.setdefault((s.formula, s.pbc.tobytes()), []).append(s)
    picked = [group[0] for group in kinds.values()][:4]
    return {f"{k}: {s.formula}": s for k, s in enumerate(picked)}


def _worst(check: Check, case: Case, own: Case | None) -> Result:
    """The worse verdict of the made systems and of those of the domain."""
    first = check.examine(case)
    if own is None or not first.passed:
        return first
    second = check.examine(own)
    return second if second.applies and (not second.passed or second.worst > first.worst) else first


def _judge(results: Sequence[Result], report: Report) -> None:
    worst = {r.check: r.worst if np.isfinite(r.worst) else None for r in results}  # JSON knows no infinity
    report.figures["checks"] = {
        r.check: {"worst": worst[r.check], "allowed": r.bound, "passed": r.passed} for r in results
    }
    docs = {c.name: c.doc for c in checks()}
    for r in results:
        if not r.passed:
            limits = r.check in ("single_precision",)
            report.add(
                "warning" if limits else "error", f"{r.check}: {docs[r.check]}",
                f"{r.worst:.2e} (allowed {r.bound:.0e}) {r.text}",
                ADVICE.get(r.check, "mend the model, not the check."),
            )  # fmt: skip
    passed = [r for r in results if r.passed and r.applies]
    report.add("info", "checks that hold", f"{len(passed)} of {len(results)}: {', '.join(r.check for r in passed)}")


def _dimers(case: Case, report: Report) -> None:
    """Below 0.6 of a bond atoms must repel each other everywhere; where they do not there is a hole to fall into."""
    curves, holes = {}, []
    for a, b in list(combinations_with_replacement(case.elements, 2))[:36]:
        name, r = f"{SYMBOLS[a]}-{SYMBOLS[b]}", dimer_distances(case.cutoff, 160)
        energy, force = dimer_curve(case, a, b, r)
        depth = energy - energy[-1]
        lowest = int(depth.argmin())
        curves[name] = {"at_0.2_A": float(depth[0]), "lowest": float(depth[lowest]), "lowest_at_A": float(r[lowest])}
        attracts = (r < 0.6 * (covalent_radii[a] + covalent_radii[b])) & (force < 0)
        if case.cutoffs() and attracts.any():
            holes.append(f"{name} from {r[attracts].min():.2f} to {r[attracts].max():.2f} Å")
    report.figures["dimers"] = curves
    if holes:
        report.add(
            "warning", "atoms attract each other at short distance",
            f"{len(holes)} of {len(curves)} pairs of elements: {'; '.join(holes[:6])}", ADVICE["dimers"],
        )  # fmt: skip


def _drift(case: Case, report: Report) -> None:
    """Energy in 200 steps of 0.5 fs at constant energy, started at 300 K."""
    name, structure = min(case.systems.items(), key=lambda item: (len(item[1]) < 2, len(item[1])))
    masses = atomic_masses[structure.numbers][:, None]
    velocities = case.rng().normal(size=structure.positions.shape) * np.sqrt(KB * 300 / masses)
    velocities -= (masses * velocities).sum(0) / masses.sum()
    x, v, dt = structure.positions.copy(), velocities, 0.5 * FS
    energies = []
    forces = as_array(case.predict(structure).forces)
    for _ in range(200):
        v = v + 0.5 * dt * forces / masses
        x = x + dt * v
        made = case.predict(bare(structure, positions=x))
        forces = as_array(made.forces)
        v = v + 0.5 * dt * forces / masses
        energies.append(float(made.energy[0]) + 0.5 * float((masses * v**2).sum()))
        if not np.isfinite(energies[-1]) or np.abs(forces).max() > 1e4:
            report.add(
                "warning", "a simulation of 100 fs explodes", f"'{name}' after {len(energies)} steps of 0.5 fs",
                "the structure is outside of what the potential learned; give structures of its domain (--data).",
            )  # fmt: skip
            return
    times = 0.5e-3 * np.arange(1, 201)  # ps
    drift = float(np.polyfit(times, energies, 1)[0]) / len(structure)
    spread = float(np.std(energies)) / len(structure)
    report.figures["nve"] = {"system": name, "drift_eV_per_atom_ps": drift, "fluctuation_eV_per_atom": spread}
    if abs(drift) > 0.02:
        report.add(
            "warning", "energy drifts", f"{1000 * drift:.3g} meV/atom/ps in '{name}', 200 steps of 0.5 fs in float64",
            "use a shorter time step; if that does not help, forces do not conserve energy.",
        )  # fmt: skip


def _precision(potential: Potential, case: Case, report: Report) -> None:
    """Forces in the potential's own precision against float64."""
    worst = 0.0
    for s in case.systems.values():
        rough = predict(case.native, case.graph(s)).forces
        worst = max(worst, float(np.abs(as_array(rough) - as_array(case.predict(s).forces)).max(initial=0)))
    report.figures["own_precision_vs_float64_eV_per_A"] = worst


def _compiled(potential: Potential, case: Case, report: Report) -> None:
    """Energies of a compiled copy against the eager one."""
    graph = case.graph(next(iter(case.systems.values())))
    eager = predict(case.native, graph, ("energy",)).energy
    try:
        fast = torch.compile(case.native, dynamic=True)
        with torch.no_grad():
            other = fast(graph).energy.double().sum()
    except Exception as why:  # whatever the compiler throws is the finding
        report.add("warning", "it cannot be compiled", f"{type(why).__name__}: {str(why).splitlines()[0][:200]}")
        return
    difference = float((eager.sum() - other).abs())
    report.figures["compiled_vs_eager_eV"] = difference
    if difference > 1e-4 * graph.n_atoms:
        report.add("error", "compiled and eager energies differ", f"{difference:.2e} eV", "do not use it compiled.")
