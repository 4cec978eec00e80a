"""Structures without their labels: duplicates, closest approaches, compositions, cells; energies per composition."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import covalent_radii
from scipy.spatial import cKDTree

from ..data.dataset import Dataset
from ..data.structure import Structure
from ..elements import SYMBOLS
from ..errors import DataError
from ..geometry.neighbors import neighbor_pairs
from .doctor_labels import Frames, finite
from .doctor_report import Report, listed

NEAR = 0.04  # of fingerprints times the root of the number of atoms: displacements of about 0.005 Å
OUTLIER = 6.0  # median absolute deviations


def closest(frames: Frames, report: Report) -> list[int]:
    """Closest approach of every element pair; returns frames with atoms at one place."""
    nearest: dict[tuple[int, int], tuple[float, int]] = {}
    bonds, clash = [], []
    for k, s in frames:
        try:
            reach = 4.2 * float(covalent_radii[s.numbers].max(initial=0.7))  # a bond in Bohr, and some
            i, j, shift = neighbor_pairs(s, max(3.2, min(reach, 6.5)))
        except DataError:
            clash.append(k)
            continue
        if not len(i):
            continue
        r = np.linalg.norm(s.positions[j] - s.positions[i] + shift @ np.asarray(s.cell), axis=1)
        radii = covalent_radii[s.numbers]
        relative = r / (radii[i] + radii[j])
        starts = np.flatnonzero(np.diff(i, prepend=-1))
        bonds.append(np.minimum.reduceat(relative, starts))
        low, high = np.minimum(s.numbers[i], s.numbers[j]), np.maximum(s.numbers[i], s.numbers[j])
        for code in np.unique(low * 200 + high):
            best = float(r[low * 200 + high == code].min())
            key = (int(code) // 200, int(code) % 200)
            if best < nearest.get(key, (np.inf, 0))[0]:
                nearest[key] = (best, k)
    if clash:
        report.add("error", "atoms at one place, or a flat cell", listed(clash), "remove these structures.", clash)
    _judge_distances(nearest, bonds, report)
    return clash


def _judge_distances(nearest: Mapping, bonds: Sequence[np.ndarray], report: Report) -> None:
    report.figures["closest_A"] = {
        f"{SYMBOLS[a]}-{SYMBOLS[b]}": round(r, 4) for (a, b), (r, _) in sorted(nearest.items())
    }
    short = [(a, b, r, k) for (a, b), (r, k) in nearest.items() if r < 0.5 * (covalent_radii[a] + covalent_radii[b])]
    if short:
        said = "; ".join(f"{SYMBOLS[a]}-{SYMBOLS[b]} {r:.2f} Å in frame {k}" for a, b, r, k in short[:5])
        report.add(
            "warning", "very short distances", said,
            "fine for repulsion curves; otherwise atoms that collide.", [k for *_, k in short],
        )  # fmt: skip
    if bonds:
        typical = float(np.median(np.concatenate(bonds)))
        report.figures["bond_over_covalent_radii"] = typical
        if not 0.6 < typical < 1.65:
            unit = "Bohr (1.9 times Å)" if typical > 1.65 else "nm or another unit"
            report.add(
                "error" if 1.7 < typical < 2.3 or typical < 0.3 else "warning", "positions may not be in Å",
                f"a typical neighbor is {typical:.2f} times the sum of covalent radii away (about 1 expected)",
                f"they look like {unit}: declare it, `--unit length=...`.",
            )  # fmt: skip


def composition(frames: Frames, report: Report) -> None:
    """Energies per element by robust regression: outliers, and whether the elements can be told apart."""
    elements = sorted({int(z) for _, s in frames for z in s.numbers})
    labelled = [(k, s) for k, s in frames if finite(s, "energy") and len(s)]
    singles = sorted({SYMBOLS[int(s.numbers[0])] for _, s in labelled if len(s) == 1 and not s.pbc.any()})
    report.figures["isolated_atoms"] = singles
    report.add("info", "isolated atoms", ", ".join(singles) or "none: offsets come from regression")
    if len(labelled) < 2:
        return
    counts = np.array([[(s.numbers == z).sum() for z in elements] for _, s in labelled], dtype=float)
    energies = np.array([s.energy for _, s in labelled], dtype=float)
    size = counts.sum(1)
    rank = int(np.linalg.matrix_rank(counts))
    if rank < len(elements):
        report.add(
            "info", "energies per element cannot be told apart",
            f"the compositions span {rank} of {len(elements)} dimensions",
            "fine for these compositions; add isolated atoms to extrapolate to others.",
        )  # fmt: skip
    rest = _robust(counts / size[:, None], energies / size)
    bulk = size > 1
    if bulk.sum() < 8:
        return
    mad = 1.4826 * max(float(np.median(np.abs(rest[bulk] - np.median(rest[bulk])))), 1e-3)
    odd = [k for (k, _), r, b in zip(labelled, rest, bulk, strict=True) if b and abs(r) > OUTLIER * mad]
    if odd:
        worst = max(range(len(labelled)), key=lambda n: abs(rest[n]) * bulk[n])
        report.add(
            "warning", "energies far from the others of their composition",
            f"{len(odd)} structures more than {OUTLIER:.0f} deviations ({OUTLIER * mad:.3g} eV/atom) away, up to "
            f"{rest[worst]:+.3g} eV/atom in frame {labelled[worst][0]}: {listed(odd)}",
            "strained or broken structures may be meant; a calculation that went wrong, another unit or level may not.",
            odd,
        )  # fmt: skip
    _per_atom(counts, energies, report)


def _robust(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Residuals of a fit of least absolute deviations, by reweighting."""
    weight = np.ones(len(target))
    rest = target
    for _ in range(8):
        root = np.sqrt(weight)
        rest = target - design @ np.linalg.lstsq(design * root[:, None], target * root, rcond=1e-10)[0]
        weight = 1 / np.maximum(np.abs(rest), 1e-3 + 0.1 * np.median(np.abs(rest)))
    return rest


def _per_atom(counts: np.ndarray, energies: np.ndarray, report: Report) -> None:
    """Energies that fit much better as means over the atoms than as sums are means."""
    size = counts.sum(1)
    if len(energies) < 20 or np.ptp(size) < 0.5 * size.mean():
        return
    spread = lambda design, target: float(np.median(np.abs(_robust(design, target))))  # noqa: E731
    total = spread(counts / size[:, None], energies / size)
    mean = spread(counts / size[:, None], energies)
    if total > 30 * max(mean, 1e-4):
        report.add(
            "error", "energies are per atom",
            f"they scatter by {mean:.3g} eV as such, by {total:.3g} eV/atom as totals",
            "multiply them by the number of atoms: `energy` is of the whole structure.",
        )  # fmt: skip


def cells(frames: Frames, report: Report) -> None:
    """Heights of the cells along periodic axes."""
    heights = []
    for k, s in frames:
        if s.pbc.all() and s.volume > 0:
            heights.append((float((1 / np.linalg.norm(np.linalg.inv(s.cell), axis=0)).min()), k))
    if heights:
        report.figures["cell_heights_A"] = [min(heights)[0], max(heights)[0]]
        flat = [k for h, k in heights if h < 1.5]
        if flat:
            report.add(
                "warning", "cells lower than 1.5 Å", listed(flat), "are the cells complete, and in Å?", flat
            )  # fmt: skip


def fingerprint(structure: Structure) -> np.ndarray:
    """Sums over pairs of smooth functions of the distance, per atom: unchanged by turning, moving, renumbering."""
    i, j, shift = neighbor_pairs(structure, 5.0)
    r = np.linalg.norm(structure.positions[j] - structure.positions[i] + shift @ np.asarray(structure.cell), axis=1)
    weight = np.sqrt(structure.numbers[i] * structure.numbers[j]) * (1 - (r / 5.0) ** 2) ** 2
    centers = np.linspace(0.8, 4.6, 16)
    sums = weight @ np.exp(-(((r[:, None] - centers) / 0.28) ** 2)) if len(r) else np.zeros(16)
    return sums / np.square(structure.numbers).mean() ** 0.5 / len(structure)


def duplicates(sets: Mapping[str, Frames], report: Report, skip: Sequence[int] = ()) -> None:
    """Equal and nearly equal structures, within the first set and between it and the others."""
    first = next(iter(sets))
    groups: dict[tuple, list[tuple[str, int, Structure]]] = defaultdict(list)
    for name, frames in sets.items():
        for k, s in frames:
            if len(s) > 1 and not (name == first and k in skip):
                groups[(np.sort(s.numbers).tobytes(), s.pbc.tobytes(), s.charge, s.spin)].append((name, k, s))
    exact: dict[str, list[tuple[int, int]]] = {name: [] for name in sets}
    near: dict[str, list[tuple[int, int]]] = {name: [] for name in sets}
    differ = []
    for group in groups.values():
        tree = cKDTree(np.array([fingerprint(s) for _, _, s in group]))
        for a, b in sorted(tree.query_pairs(NEAR * len(group[0][2]) ** -0.5)):
            (name_a, ka, sa), (name_b, kb, sb) = sorted((group[a], group[b]), key=lambda g: g[0] != first)
            if name_a == first:
                same = _key(sa) == _key(sb)
                (exact if same else near)[name_b].append((ka, kb))
                if (
                    same
                    and finite(sa, "energy")
                    and finite(sb, "energy")
                    and abs(sa.energy - sb.energy) > 1e-3 * len(sa)
                ):
                    differ.append((ka, kb))
    _judge_duplicates(first, exact, near, differ, report)


def _key(structure: Structure) -> str:
    parts = (structure.numbers, np.round(structure.positions, 4) + 0.0, np.round(structure.cell, 4) + 0.0)
    return hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest()


def _judge_duplicates(first: str, exact: Mapping, near: Mapping, differ: Sequence, report: Report) -> None:
    if exact[first]:
        again = sorted({b for _, b in exact[first]})
        report.add(
            "warning", "structures that occur more than once", f"{len(again)} repeat an earlier one: {listed(again)}",
            "remove them, or they leak into a validation set split from this file.", again,
        )  # fmt: skip
    if near[first]:
        again = sorted({b for _, b in near[first]})
        report.add(
            "info", "structures nearly equal to earlier ones", f"{len(again)} within about 0.005 Å: {listed(again)}",
            "split by group, so that they stay on one side.", again,
        )  # fmt: skip
    if differ:
        report.add(
            "error", "equal structures with different energies",
            f"{len(differ)} pairs: " + "; ".join(f"frames {a} and {b}" for a, b in differ[:5]),
            "two levels of theory, or two spin states, were mixed.", [a for a, _ in differ],
        )  # fmt: skip
    for name in exact:
        if name != first and exact[name]:
            leak = sorted({a for a, _ in exact[name]})
            report.add(
                "error", f"structures that also are in {name}", f"{len(leak)} of {first}: {listed(leak)}",
                "errors measured there are too good: remove them from one side.", leak,
            )  # fmt: skip
        if name != first and near[name]:
            leak = sorted({a for a, _ in near[name]})
            report.add(
                "warning", f"structures nearly equal to some in {name}", f"{len(leak)} of {first}: {listed(leak)}",
                "split by trajectory, not at random.", leak,
            )  # fmt: skip


def theory(dataset: Dataset, frames: Frames, report: Report) -> None:
    """More than one level of theory, as far as the files say."""
    keys = ("level_of_theory", "theory", "functional", "xc", "method", "basis", "dft_functional", "calc_type")
    for key in keys:
        values = sorted({str(s.info[key]) for _, s in frames if key in s.info})
        if len(values) > 1:
            report.add(
                "warning", "more than one level of theory", f"`{key}`: {', '.join(values[:6])}",
                "energies of two levels have two zeros: fit one, or refit offsets for each.",
            )  # fmt: skip
    if dataset.provenance.get("theory"):
        report.figures["theory"] = dataset.provenance["theory"]
