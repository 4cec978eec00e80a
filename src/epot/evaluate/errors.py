"""Errors of a potential on labelled structures: what they are, where they are, and whether they were foreseen.

Definitions. delta is prediction minus label. ``energy``: delta of the energy of a whole structure, meV.
``energy_per_atom``: the same divided by the atoms of the structure, meV/atom. ``forces``: delta of each Cartesian
component, meV/Å. ``stress``: delta of each of the nine components, meV/Å^3. MAE is the mean of the absolute values,
RMSE the root of the mean square, both over all such values (of structures, or of components) with equal weight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import tee
from typing import Any

import numpy as np

from ..data.structure import Structure
from ..elements import SYMBOLS
from ..errors import LabelError
from ..potential import Potential
from ..uncertainty.calibration import Calibration, statistics
from ..uncertainty.domain import Domain
from ..uncertainty.estimate import MAX_ATOMS, Estimate, estimates

UNITS = {"energy": "meV", "energy_per_atom": "meV/atom", "forces": "meV/Å", "stress": "meV/Å^3"}
LABELS = ("energy", "forces", "stress")
KEPT = 20_000  # structures whose single errors are kept for calibration and parity plots


@dataclass
class Moments:
    """Count, mean absolute, root mean square and largest error of a stream, in meV and so on."""

    n: int = 0
    absolute: float = 0.0
    square: float = 0.0
    largest: float = 0.0

    def add(self, delta: np.ndarray) -> None:
        """Errors in eV and so on."""
        delta = 1000 * np.abs(np.asarray(delta, dtype=float)).ravel()
        if delta.size:
            self.n += delta.size
            self.absolute += float(delta.sum())
            self.square += float(np.square(delta).sum())
            self.largest = max(self.largest, float(delta.max()))

    def row(self) -> dict[str, Any]:
        """``n mae rmse max``."""
        return {
            "n": self.n,
            "mae": self.absolute / self.n,
            "rmse": math.sqrt(self.square / self.n),
            "max": self.largest,
        }


@dataclass(frozen=True)
class Errors:
    """What :func:`evaluate` found.

    Attributes:
        n_structures: how many were compared.
        all: ``energy energy_per_atom forces stress`` (those with labels) to ``n mae rmse max``, in :data:`UNITS`.
        by_element: symbol to ``n mae rmse max`` of its force components.
        by_config_type: config_type to the same as ``all``.
        calibration: target to :func:`epot.uncertainty.calibration.statistics` on this set, in eV and so on.
        worst: the structures with the largest errors, worst first.
        outside: how many lie outside the domain of the potential; None where it has none.
        seconds: that it took.
        values: target to labels, predictions and, where there are any, standard deviations of (at most about twenty
            thousand evenly spaced) structures, for plots; not in :meth:`to_json`.
    """

    n_structures: int
    all: Mapping[str, Mapping[str, Any]]
    by_element: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_config_type: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    calibration: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    worst: Sequence[Mapping[str, Any]] = ()
    outside: int | None = None
    seconds: float = 0.0
    values: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Everything but ``values``, with units."""
        kept = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "values"}
        return {"units": {k: UNITS[k] for k in self.all}} | kept | {"worst": list(self.worst)}

    def table(self) -> str:
        """As text, for a terminal."""
        lines = [f"{self.n_structures} structures", _HEAD]
        lines += [_line(name, row, UNITS[name]) for name, row in self.all.items()]
        if len(self.by_element) > 1:
            lines += ["", "forces by element"] + [
                _line(f"  {k}", r, UNITS["forces"]) for k, r in self.by_element.items()
            ]
        if len(self.by_config_type) > 1:
            lines += ["", "by config_type"]
            for kind, rows in self.by_config_type.items():
                shown = {n: r for n, r in rows.items() if n != "energy"}
                lines += [_line(f"  {kind[:14]} {n}", r, UNITS[n]) for n, r in shown.items()]
        for target, row in self.calibration.items():
            if row.get("n"):
                lines += ["", _calibration_text(target, row)]
        if self.worst:
            lines += ["", "worst structures"] + [f"  {_worst_text(w)}" for w in self.worst]
        if self.outside:
            lines += ["", f"{self.outside} of {self.n_structures} structures lie outside the domain of the potential"]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def evaluate(
    potential: Potential,
    about: Mapping[str, Any],
    dataset: Iterable[Structure],
    *,
    uncertainty: bool = True,
    worst: int = 5,
    max_atoms: int = MAX_ATOMS,
    device: str = "cpu",
) -> Errors:
    """Compare a potential with labels, one batch in memory at a time.

    Args:
        potential: any.
        about: what travels with it: its calibration and domain are used.
        dataset: labelled structures; each is compared in the labels that it has.
        uncertainty: False leaves the standard deviations out, which is faster with an ensemble.
        worst: how many structures to list.
        max_atoms: of a batch.
        device: where the potential is.

    Raises:
        LabelError: no structure has a label to compare with, or one is not finite.
        UnknownElementError: the potential does not know an element.
    """
    start = time.monotonic()
    calibration, domain = Calibration.of(about), Domain.of(about)
    want = _wanted(dataset)
    total = len(dataset) if isinstance(dataset, Sequence) else None
    collected = _Collected(every=max(1, math.ceil((total or 0) / KEPT)), worst=worst)
    left, right = _tee(dataset)
    found = estimates(
        potential, right, want, calibration=calibration, domain=domain, uncertainty=uncertainty,
        max_atoms=max_atoms, device=device, label="evaluate",
    )  # fmt: skip
    for structure, estimate in zip(left, found, strict=True):
        collected.add(structure, estimate)
    return collected.finish(domain is not None, time.monotonic() - start)


def _wanted(dataset: Iterable[Structure]) -> tuple[str, ...]:
    """What to predict: forces always, stress where a look at some structures finds one."""
    if not isinstance(dataset, Sequence):
        return LABELS
    step = max(1, len(dataset) // 200)
    stressed = any(dataset[k].stress is not None for k in range(0, len(dataset), step))
    forced = any(dataset[k].forces is not None for k in range(0, len(dataset), step))
    return LABELS if stressed or step > 1 else ("energy", "forces") if forced else ("energy",)


def _tee(dataset: Iterable[Structure]) -> tuple[Iterator[Structure], Iterable[Structure]]:
    """The dataset twice: for the labels, and (with its length, where it has one) for the predictions."""
    if isinstance(dataset, Sequence):
        return iter(dataset), dataset
    labels, inputs = tee(dataset)
    return labels, inputs


class _Collected:
    """Sums over the structures seen so far."""

    def __init__(self, every: int, worst: int) -> None:
        self.every, self.n_worst = every, worst
        self.n, self.n_labels, self.outside = 0, 0, 0
        self.all: dict[str, Moments] = {}
        self.by_element: dict[str, Moments] = {}
        self.by_type: dict[str, dict[str, Moments]] = {}
        self.kept: dict[str, dict[str, list[np.ndarray]]] = {}
        self.worst: list[dict[str, Any]] = []

    def add(self, structure: Structure, estimate: Estimate) -> None:
        if problems := structure.problems():
            raise LabelError(f"{_name(structure, self.n)}: {'; '.join(problems)}. Remove it, or the label.")
        deltas = {}
        for target in LABELS:
            label, value = getattr(structure, target), getattr(estimate, target)
            if label is None or value is None:
                continue
            deltas[target] = np.asarray(np.subtract(value, label))
            if self.n % self.every == 0:
                self._keep(target, label, value, getattr(estimate, f"{target}_std"))
        self._sum(structure, deltas)
        self._rank(structure, deltas, estimate)
        self.outside += bool(estimate.violations)
        self.n_labels += bool(deltas)
        self.n += 1

    def _keep(self, target: str, label: Any, value: Any, std: Any) -> None:
        rows = self.kept.setdefault(target, {"label": [], "value": [], "std": []})
        rows["label"].append(np.ravel(label))
        rows["value"].append(np.ravel(value))
        if std is not None:
            rows["std"].append(np.ravel(std))

    def _sum(self, structure: Structure, deltas: Mapping[str, np.ndarray]) -> None:
        named = dict(deltas)
        if "energy" in deltas:
            per_atom = deltas["energy"] / max(1, len(structure))
            named = {"energy": deltas["energy"], "energy_per_atom": np.asarray(per_atom)} | named
        own = self.by_type.setdefault(structure.config_type or "none", {})
        for name, delta in named.items():
            for sums in (self.all, own):
                sums.setdefault(name, Moments()).add(delta)
        if "forces" in deltas:
            for z in np.unique(structure.numbers):
                rows = deltas["forces"][structure.numbers == z]
                self.by_element.setdefault(SYMBOLS[z], Moments()).add(rows)

    def _rank(self, structure: Structure, deltas: Mapping[str, np.ndarray], estimate: Estimate) -> None:
        """Keep the structures with the largest force (else energy per atom) error."""
        if not deltas or not self.n_worst:
            return
        row: dict[str, Any] = {"index": self.n, "source": structure.source, "formula": structure.formula}
        if "energy" in deltas:
            row["energy_per_atom"] = 1000 * float(deltas["energy"]) / max(1, len(structure))
        if "forces" in deltas and len(structure):
            row["forces_max"] = 1000 * float(np.abs(deltas["forces"]).max())
        if estimate.violations:
            row["violations"] = list(estimate.violations)
        self.worst.append(row)
        if len(self.worst) > 50 * self.n_worst:
            self.worst = self._ranked()

    def _ranked(self) -> list[dict[str, Any]]:
        size = lambda row: (row.get("forces_max", 0.0), abs(row.get("energy_per_atom", 0.0)))  # noqa: E731
        return sorted(self.worst, key=size, reverse=True)[: self.n_worst]

    def finish(self, has_domain: bool, seconds: float) -> Errors:
        if not self.n_labels:
            raise LabelError(
                f"None of {self.n} structures has energy, forces or stress to compare with. If the file holds them "
                "under other names, tell the reader which (energy_key, forces_key)."
            )
        order = [k for k in UNITS if k in self.all]
        values = {t: {k: np.concatenate(v) for k, v in rows.items() if v} for t, rows in self.kept.items()}
        complete = {t: v for t, v in values.items() if v.get("std", np.empty(0)).shape == v["label"].shape}
        return Errors(
            n_structures=self.n,
            all={k: self.all[k].row() for k in order},
            by_element={k: self.by_element[k].row() for k in sorted(self.by_element)},
            by_config_type={
                kind: {k: sums[k].row() for k in UNITS if k in sums} for kind, sums in sorted(self.by_type.items())
            },
            calibration={t: statistics(v["value"] - v["label"], v["std"]) for t, v in complete.items()},
            worst=self._ranked(),
            outside=self.outside if has_domain else None,
            seconds=seconds,
            values=values,
        )


_HEAD = f"{'':26s}{'n':>9s}{'MAE':>11s}{'RMSE':>11s}{'max':>11s}"


def _line(name: str, row: Mapping[str, Any], unit: str) -> str:
    return f"{name:26s}{row['n']:9d}{row['mae']:11.3f}{row['rmse']:11.3f}{row['max']:11.2f}  {unit}"


def _calibration_text(target: str, row: Mapping[str, Any]) -> str:
    rank = "constant" if row["spearman"] is None else f"{row['spearman']:.2f}"
    return (
        f"{target}_std: error/std {row['calibration_factor']:.2f} (best 1), within 1 std {row['coverage_1']:.1%} "
        f"(Gaussian 68.3%), within 2 {row['coverage_2']:.1%} (95.4%), rank correlation {rank}"
    )


def _worst_text(row: Mapping[str, Any]) -> str:
    parts = [f"{row['index']:6d}  {row['formula']}"]
    if "energy_per_atom" in row:
        parts.append(f"energy {row['energy_per_atom']:+.2f} meV/atom")
    if "forces_max" in row:
        parts.append(f"largest force error {row['forces_max']:.1f} meV/Å")
    return "  ".join([*parts, *row.get("violations", [])[:1], row["source"]]).rstrip()


def _name(structure: Structure, index: int) -> str:
    return structure.source or f"structure {index}"
