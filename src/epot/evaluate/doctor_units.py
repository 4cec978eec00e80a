"""Whether energies, forces and stresses are derivatives of one function, and which unit or sign explains it if not."""

from __future__ import annotations

import numpy as np

from .. import units
from .doctor_labels import Frames
from .doctor_pairs import PairModel, Relation
from .doctor_paths import forces_against_energies, strained, works
from .doctor_report import Report, listed

KCAL, HA, BOHR, KJ = units.KCAL_MOL, units.HARTREE, units.BOHR, units.KJ_MOL
RATIOS = {
    KCAL: "forces in kcal/mol/Å beside energies in eV",
    1 / KCAL: "energies in kcal/mol beside forces in eV/Å",
    HA / BOHR: "forces in Hartree/Bohr beside energies in eV",
    HA: "forces in Hartree/Å beside energies in eV",
    1 / HA: "energies in Hartree beside forces in eV/Å",
    1 / BOHR: "forces per Bohr beside positions in Å (both in atomic units: Hartree and Hartree/Bohr)",
    BOHR: "positions in Bohr beside forces per Å",
    KJ: "forces in kJ/mol/Å beside energies in eV",
    1 / KJ: "energies in kJ/mol beside forces in eV/Å",
    10 * KJ: "forces in kJ/mol/nm beside energies in eV",
    1e3: "energies in meV beside forces in eV/Å",
    HA / KCAL / BOHR: "forces in Hartree/Bohr beside energies in kcal/mol",
}
JOINED = {KCAL: "kcal/mol/Å", HA / BOHR: "Hartree/Bohr", KJ: "kJ/mol/Å"}
STRESSES = {
    units.GPA: "stresses in GPa",
    units.KBAR: "stresses in kbar",
    HA / BOHR**3: "stresses in Hartree/Bohr^3",
    1e-4 * units.GPA: "stresses in bar",
}


def examine(frames: Frames, report: Report) -> None:
    """All checks of this module."""
    found = works(frames)
    model = PairModel(frames)
    report.figures["pair_model"] = {"structures": len(model.rows), "explained": model.explained}
    torn = _torn(model, report)
    _frames_apart(model, report)
    paths = forces_against_energies(found)
    by_strain, by_stress = strained(found)
    relation, how, sure = paths or by_strain, "between neighboring structures", 0.8
    if relation is None or relation.correlation**2 < 0.2:
        reliable = model.explained > 0.6 and len(model.rows) >= 20
        relation, how, sure = (
            model.energies() if reliable else None,
            "against a pair potential fitted to the forces",
            0.85,
        )
    if relation is not None and not torn:
        _note(report, "energy_vs_forces", relation, how)
        _judge_forces(relation, how, sure, report)
    elif relation is None and any(s.has("forces") for _, s in frames):
        report.add("info", "energies and forces could not be compared", "too few structures that are alike")
    _stresses(frames, by_stress, model, report)


def _note(report: Report, name: str, relation: Relation, how: str) -> None:
    report.figures[name] = {"slope": relation.slope, "correlation": relation.correlation, "n": relation.n, "how": how}


def named(slope: float, table: dict[float, str], within: float) -> str | None:
    """The entries whose ratios are the slope's up to a factor ``within``, the nearest first; None without any."""
    away = {ratio: abs(float(np.log(abs(slope) / ratio))) for ratio in table}
    near = sorted((ratio for ratio in table if away[ratio] < np.log(within)), key=lambda ratio: away[ratio])
    return " or ".join(table[ratio] for ratio in near) or None


def _judge_forces(relation: Relation, how: str, sure: float, report: Report) -> None:
    slope, exact = relation.slope, how.startswith("between")
    evidence = f"slope {slope:.3g} {how} (1 expected; correlation {relation.correlation:.2f}, n = {relation.n})"
    if relation.correlation < -sure and relation.n >= 8:
        also = "" if 0.5 < -slope < 2 else f" and {named(slope, RATIOS, 1.6) or 'a factor'}"
        report.add(
            "error", "forces have the wrong sign" + also, evidence,
            "the file holds gradients: change their sign, or read the right key.",
        )  # fmt: skip
    elif relation.correlation > sure and relation.n >= 8 and not (0.6 < slope < 1.6 if exact else 0.2 < slope < 5):
        unit = named(slope, RATIOS, 1.35 if exact else 1.6)
        report.add(
            "error" if unit else "warning", unit or "energies and forces disagree", evidence,
            "declare the units when the file is read (units={...}, `--unit energy=...`), or convert one of them.",
        )  # fmt: skip


def _torn(model: PairModel, report: Report) -> bool:
    """Forces that no pair potential explains better than chance do not belong to these positions."""
    n_rows = sum(3 * len(s) for _, s in model.sample)
    few = n_rows < 20 * max(1, len(model.coefficients)) or len(model.sample) < 40
    if few or float(np.median(model.sizes)) < 0.03:
        return False
    chance = 2 * len(model.coefficients) / n_rows + 0.03
    if model.explained > chance:
        return False
    report.add(
        "error", "forces have nothing to do with the positions",
        f"a pair potential explains {max(model.explained, 0):.1%} of them in {len(model.sample)} structures; "
        f"chance alone {chance:.1%}, real data 50 to 99%",
        "atoms in another order, forces of another frame, or positions that were rotated or wrapped afterwards.",
    )  # fmt: skip
    return True


def _frames_apart(model: PairModel, report: Report) -> None:
    """Single structures whose forces are a multiple of what all the others say."""
    if len(model.rows) < 10 or model.explained < 0.5:
        return
    slopes, correlations, said = model.each()
    typical = float(np.median(slopes))
    frames = np.array([r.frame for r in model.rows])
    clear = (said > 0.3 * np.median(said)) & (np.abs(correlations) > 0.7)
    flipped = frames[clear & (slopes < -0.4 * typical)].tolist()
    if 0 < len(flipped) < 0.5 * len(frames):
        report.add(
            "error", "single structures with forces of the wrong sign", listed(flipped),
            "files of two conventions were joined.", flipped,
        )  # fmt: skip
    for low, high, what in ((12.0, np.inf, "larger"), (0.0, 1 / 12, "smaller")):
        ratio = slopes / typical
        odd = frames[clear & (ratio > low) & (ratio < high)].tolist()
        if 0 < len(odd) < 0.5 * len(frames):
            factor = float(np.median(ratio[np.isin(frames, odd)]))
            sure = len(odd) > 2 if factor < 1 else True  # a few small forces may be so by symmetry
            report.add(
                "error" if sure and named(1 / factor, JOINED, 1.4) else "warning",
                f"single structures with forces far {what} than the others say",
                f"{listed(odd)}: by a factor {factor:.3g} (kcal/mol/Å: 23; kJ/mol/Å: 96; Hartree/Bohr: 0.019)",
                "files of two units were joined.", odd,
            )  # fmt: skip
    felt = model.sizes > 0.5 * np.median(model.sizes)  # not relaxed
    lost = frames[
        felt & (said > 0.3 * np.median(said)) & (correlations < 0.2) & (np.median(correlations) > 0.75)
    ].tolist()
    if lost:
        report.add(
            "warning", "single structures whose forces do not fit their positions", listed(lost),
            "look at them: atoms in another order, or calculations that went wrong.", lost,
        )  # fmt: skip


def _stresses(frames: Frames, by_path: Relation | None, model: PairModel, report: Report) -> None:
    by_model = model.stresses()
    if by_path is not None and abs(by_path.correlation) > 0.8 and by_path.n >= 6:
        slope, relation, how = by_path.slope, by_path, "energy over work between strained structures"
        wide = (0.5, 2.0)
    elif by_model is not None and abs(by_model.correlation) > 0.85 and by_model.n >= 18 and model.explained > 0.6:
        slope, relation, how = 1 / by_model.slope, by_model, "a pair potential's virial over the stress"
        wide = (0.25, 4.0)
    else:
        if any(s.has("stress") for _, s in frames):
            report.add("info", "stresses could not be compared with energies", "too few strained structures")
        return
    _note(report, "energy_vs_stress", relation, how)
    evidence = f"slope {slope:.3g} ({how}; 1 expected, correlation {relation.correlation:.2f}, n = {relation.n})"
    size = abs(slope)
    volume = float(np.median([s.volume for _, s in frames if s.has("stress") and s.pbc.all()]))
    table = STRESSES | {1 / volume: "virials (eV) in place of stresses (eV/Å^3)"}
    unit = None if wide[0] < size < wide[1] else named(slope, table, 1.5)
    if slope < 0:
        report.add(
            "error", "stresses have the wrong sign" + (f" and are {unit}" if unit else ""), evidence,
            "positive must mean tension: read with stress_sign='compression' (`--stress-sign compression`).",
        )  # fmt: skip
    elif not wide[0] < size < wide[1]:
        report.add(
            "error" if unit else "warning", unit or "energies and stresses disagree", evidence,
            "declare the unit when the file is read (units={'stress': ...}, `--unit stress=...`).",
        )  # fmt: skip
