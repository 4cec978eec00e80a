"""Labels looked at one structure at a time: missing, not finite, absurd, unbalanced, torn from their atoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.structure import LABELS, Structure
from .doctor_report import Report, listed

Frames = Sequence[tuple[int, Structure]]
ABSURD = 30.0  # eV/Å
MEDIAN = 8.0  # eV/Å: no simulation has half of its forces above this
NET_FORCE = 1e-2  # eV/Å
NET_TORQUE = 0.02  # of the sum of |arm| |force|


def examine(frames: Frames, report: Report) -> None:
    """All checks of this module."""
    _missing(frames, report)
    _not_finite(frames, report)
    _constant(frames, report)
    _forces(frames, report)
    _balance(frames, report)
    _stress(frames, report)
    _charges(frames, report)
    _precision(frames, report)


def finite(structure: Structure, label: str) -> bool:
    """Whether a label is there and a number."""
    return structure.has(label) and bool(np.isfinite(getattr(structure, label)).all())


def _missing(frames: Frames, report: Report) -> None:
    total = len(frames)
    counts = {label: sum(s.has(label) for _, s in frames) for label in LABELS}
    report.figures["labels"] = counts
    if not counts["energy"] and not counts["forces"]:
        found = ", ".join(k for k, v in counts.items() if v) or "no labels at all"
        keys = sorted({k for _, s in list(frames)[:50] for k in (*s.info, *s.arrays)})
        seen = f"; keys that are there: {', '.join(keys[:12])}" if keys else ""
        report.add(
            "error", "no energies and no forces", f"{total} structures have {found}{seen}",
            "say which keys hold them: keys={'energy': '...', 'forces': '...'} (`--key energy=...`).",
        )  # fmt: skip
        return
    for label in ("energy", "forces", "stress"):
        without = [k for k, s in frames if not s.has(label) and (label != "stress" or s.pbc.all())]
        if 0 < counts[label] < total and without:
            report.add(
                "info" if label == "stress" else "warning", f"some structures have no {label}",
                f"{len(without)} of {total}: {listed(without)}", "partial labels are used as they are.", without,
            )  # fmt: skip
    if not counts["forces"]:
        report.add("info", "no forces", f"{total} structures have energies only", "forces hold far more information.")


def _not_finite(frames: Frames, report: Report) -> None:
    bad = [(k, s.problems()) for k, s in frames if s.problems()]
    if bad:
        numbers = [k for k, _ in bad]
        report.add(
            "error", "labels that are not finite", f"{listed(numbers)}: {bad[0][1][0]}",
            "repeat or remove these calculations: NaN usually means that they did not converge.", numbers,
        )  # fmt: skip


def _constant(frames: Frames, report: Report) -> None:
    energies = [s.energy for _, s in frames if finite(s, "energy") and len(s) > 1]
    if len(energies) > 4 and len(set(energies)) == 1:
        report.add(
            "error", "all energies are equal", f"{len(energies)} structures have {energies[0]} eV",
            "they are placeholders: read the right key.",
        )  # fmt: skip
    for label in ("forces", "stress"):
        zero = [k for k, s in frames if s.has(label) and len(s) > 1 and not np.any(getattr(s, label))]
        if len(zero) > max(2, 0.2 * len(frames)):
            report.add(
                "warning", f"{label} that are exactly zero", listed(zero),
                "right for perfect crystals, by symmetry; elsewhere they are placeholders: leave them out.", zero,
            )  # fmt: skip


def _forces(frames: Frames, report: Report) -> None:
    sizes = [(k, np.linalg.norm(np.asarray(s.forces), axis=1)) for k, s in frames if finite(s, "forces") and len(s)]
    if not sizes:
        return
    largest = [(k, float(size.max())) for k, size in sizes]
    every = np.concatenate([size for _, size in sizes])
    report.figures["forces_rms_eV_per_A"] = float(np.sqrt((every**2).mean() / 3))
    report.figures["forces_max_eV_per_A"] = float(every.max())
    absurd = sorted((k for k, f in largest if f > ABSURD), key=lambda k: -dict(largest)[k])
    if absurd:
        report.add(
            "error" if every.max() > 1000 else "warning", f"forces above {ABSURD:.0f} eV/Å",
            f"up to {every.max():.0f} eV/Å in {len(absurd)} structures: {listed(absurd)}",
            "atoms that collide, calculations that did not converge, or another unit; such frames spoil a fit.", absurd,
        )  # fmt: skip
    if float(np.median(every)) > MEDIAN:
        report.add(
            "error", "forces too large for eV/Å", f"half of them are above {np.median(every):.1f} eV/Å",
            "they look like kcal/mol/Å (23 times eV/Å): declare the unit, `--unit energy=kcal/mol`.",
        )  # fmt: skip


def _balance(frames: Frames, report: Report) -> None:
    net, torn, open_systems = [], [], 0
    for k, s in frames:
        if not finite(s, "forces") or len(s) < 2:
            continue
        force = np.asarray(s.forces)
        total = float(np.abs(force.sum(0)).max())
        if total > NET_FORCE:
            net.append((total, k))
        if not s.pbc.any() and len(s) > 2:
            open_systems += 1
            arms = s.positions - s.positions.mean(0)
            size = float((np.linalg.norm(arms, axis=1) * np.linalg.norm(force, axis=1)).sum())
            torque = float(np.linalg.norm(np.cross(arms, force).sum(0)))
            if size > 0.5 and torque > NET_TORQUE * size:
                torn.append((torque / size, k))
    if net:
        net.sort(reverse=True)
        report.add(
            "warning", f"net forces above {NET_FORCE} eV/Å",
            f"up to {net[0][0]:.2g} eV/Å in {len(net)} structures: {listed([k for _, k in net])}",
            "no momentum-conserving potential can fit this part; tighten the calculation's grid or convergence.",
            [k for _, k in net],
        )  # fmt: skip
    if torn:
        torn.sort(reverse=True)
        most = len(torn) > 0.5 * open_systems
        report.add(
            "error" if most or torn[0][0] > 0.2 else "warning", "forces that turn isolated molecules",
            f"torque up to {torn[0][0]:.0%} of what these forces could exert, in {len(torn)} of {open_systems}: "
            f"{listed([k for _, k in torn])}",
            "forces and positions do not belong together: atoms in another order, or a rotated molecule.",
            [k for _, k in torn],
        )  # fmt: skip


def _stress(frames: Frames, report: Report) -> None:
    labelled = [(k, s) for k, s in frames if finite(s, "stress")]
    stresses = [(k, np.asarray(s.stress)) for k, s in labelled]
    skew = [k for k, stress in stresses if np.abs(stress - stress.T).max() > 1e-3 * np.abs(stress).max() + 1e-6]
    if skew:
        report.add(
            "error", "stresses that are not symmetric", listed(skew),
            "nine numbers in another order, or a Voigt order misread.", skew,
        )  # fmt: skip
    opened = [k for k, s in labelled if not s.pbc.all()]
    if opened:
        report.add(
            "warning", "stresses of systems that are not periodic along all axes", listed(opened),
            "they have no volume: leave the stress out (keys={'stress': None}).", opened,
        )  # fmt: skip


def _charges(frames: Frames, report: Report) -> None:
    off = [k for k, s in frames if finite(s, "charges") and abs(float(np.asarray(s.charges).sum()) - s.charge) > 0.05]
    if off:
        report.add(
            "warning", "atomic charges that do not add up to the total charge", listed(off),
            "set `charge` of these structures, or look at the charge scheme.", off,
        )  # fmt: skip


def _precision(frames: Frames, report: Report) -> None:
    energies = np.array([s.energy for _, s in frames if finite(s, "energy")], dtype=float)
    if len(energies) > 4 and np.array_equal(energies, energies.astype(np.float32).astype(float)):
        spacing = float(np.spacing(np.abs(energies).max().astype(np.float32)))
        if spacing > 1e-4:
            report.add(
                "info", "energies in single precision", f"steps of {1000 * spacing:.2g} meV per structure",
                "the error of energies cannot become smaller than this.",
            )  # fmt: skip
