"""What is in a dataset: counts, elements, labels, ranges, closest approaches."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..elements import SYMBOLS
from ..progress import track
from .dataset import Dataset
from .descriptor import pair_distances
from .structure import LABELS

NEAR = 3.0  # Å: closest approaches are searched below this


@dataclass
class Range:
    """Of numbers that are finite.

    Attributes:
        count: how many.
        minimum, maximum, mean, std: in the unit of the quantity.
    """

    count: int = 0
    minimum: float = np.inf
    maximum: float = -np.inf
    mean: float = 0.0
    std: float = 0.0
    _squares: float = field(default=0.0, repr=False)

    def add(self, values: Any) -> None:
        """Take numbers in; merges mean and spread (Chan, Golub, LeVeque 1979, eq. 2.1)."""
        values = np.asarray(values, dtype=float).ravel()
        values = values[np.isfinite(values)]
        if not values.size:
            return
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        mean, total = float(values.mean()), self.count + values.size
        shift = mean - self.mean
        self._squares += float(((values - mean) ** 2).sum()) + shift**2 * self.count * values.size / total
        self.mean += shift * values.size / total
        self.count = total
        self.std = float(np.sqrt(self._squares / total))

    def to_json(self) -> dict[str, Any] | None:
        return {k: v for k, v in asdict(self).items() if k[0] != "_"} if self.count else None


@dataclass
class Statistics:
    """What :meth:`Dataset.statistics` counts.

    Attributes:
        structures, atoms: how many.
        sizes: atoms per structure.
        elements: symbol to (atoms, structures).
        labels: label to the number of structures that have it.
        not_finite: label to the number of structures where it holds NaN or infinities.
        periodic: ``"abc"``, ``"ab"``, ``"none"`` to structures.
        config_types: to structures; ``""`` for those without.
        groups: how many different ones.
        charges: total charge to structures.
        formulas: the ten most frequent, to structures.
        energy_per_atom: eV. force: norm per atom, eV/Å. stress: components, eV/Å^3. volume_per_atom: Å^3.
        net_force: norm of the sum of forces of a structure, eV/Å.
        closest: pair of symbols to the smallest distance, Å, of pairs nearer than 3 Å.
    """

    structures: int = 0
    atoms: int = 0
    sizes: Range = field(default_factory=Range)
    elements: dict[str, tuple[int, int]] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    not_finite: dict[str, int] = field(default_factory=dict)
    periodic: dict[str, int] = field(default_factory=dict)
    config_types: dict[str, int] = field(default_factory=dict)
    groups: int = 0
    charges: dict[str, int] = field(default_factory=dict)
    formulas: dict[str, int] = field(default_factory=dict)
    energy_per_atom: Range = field(default_factory=Range)
    force: Range = field(default_factory=Range)
    stress: Range = field(default_factory=Range)
    volume_per_atom: Range = field(default_factory=Range)
    net_force: Range = field(default_factory=Range)
    closest: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ranges without numbers are None."""
        return {k: v.to_json() if isinstance(v, Range) else v for k, v in vars(self).items()}

    def __str__(self) -> str:
        def pairs(counts: dict[str, Any]) -> str:
            return ", ".join(f"{k or 'without'} {v}" for k, v in counts.items()) or "none"

        lines = [
            f"structures       {self.structures} with {self.atoms} atoms ({self.sizes.minimum:.0f} to "
            f"{self.sizes.maximum:.0f} each)",
            "elements         " + ", ".join(f"{s} {a} in {n}" for s, (a, n) in self.elements.items()),
            "labels           " + pairs(self.labels),
            "periodic         " + pairs(self.periodic),
        ]
        if self.not_finite:
            lines.append("not finite       " + pairs(self.not_finite))
        if set(self.config_types) - {""}:
            lines.append("config types     " + pairs(self.config_types))
        if self.groups:
            lines.append(f"groups           {self.groups}")
        if set(self.charges) - {"0"}:
            lines.append("total charge     " + pairs(self.charges))
        lines.append("formulas         " + pairs(self.formulas))
        for label, name, unit in (
            ("energy per atom", "energy_per_atom", "eV"), ("force", "force", "eV/Å"),
            ("net force", "net_force", "eV/Å"), ("stress", "stress", "eV/Å^3"),
            ("volume per atom", "volume_per_atom", "Å^3"),
        ):  # fmt: skip
            found: Range = getattr(self, name)
            if found.count:
                lines.append(
                    f"{label:16s} {found.minimum:.4g} to {found.maximum:.4g} {unit}, mean {found.mean:.4g}, "
                    f"std {found.std:.4g}"
                )
        if self.closest:
            lines.append("closest          " + ", ".join(f"{k} {v:.3f}" for k, v in self.closest.items()) + " Å")
        return "\n".join(lines)


def statistics(data: Dataset) -> Statistics:
    """See :meth:`Dataset.statistics`. One pass; nothing is kept in memory."""
    made = Statistics(structures=len(data), labels=dict.fromkeys(LABELS, 0))
    elements: dict[int, list[int]] = {}
    formulas: dict[str, int] = {}
    groups: set[str] = set()
    closest: dict[tuple[int, int], float] = {}
    for structure in track(data, "Statistics"):
        n = len(structure)
        made.atoms += n
        made.sizes.add(n)
        for z, count in zip(*np.unique(structure.numbers, return_counts=True), strict=True):
            entry = elements.setdefault(int(z), [0, 0])
            entry[0] += int(count)
            entry[1] += 1
        _count(formulas, structure.formula)
        _count(made.periodic, "".join("abc"[k] for k in range(3) if structure.pbc[k]) or "none")
        _count(made.config_types, structure.config_type or "")
        _count(made.charges, f"{structure.charge:g}")
        if structure.group is not None:
            groups.add(structure.group)
        _labels(made, structure)
        _closest(closest, structure)
    made.groups = len(groups)
    made.elements = {SYMBOLS[z]: (a, s) for z, (a, s) in sorted(elements.items())}
    made.labels = {k: v for k, v in made.labels.items() if v}
    made.formulas = dict(sorted(formulas.items(), key=lambda item: -item[1])[:10])
    made.closest = {f"{SYMBOLS[a]}-{SYMBOLS[b]}": d for (a, b), d in sorted(closest.items())}
    return made


def _count(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _labels(made: Statistics, structure: Any) -> None:
    for label in LABELS:
        value = getattr(structure, label)
        if value is not None:
            made.labels[label] += 1
            if not np.isfinite(value).all():
                _count(made.not_finite, label)
    n = max(len(structure), 1)
    if structure.energy is not None:
        made.energy_per_atom.add(structure.energy / n)
    if structure.forces is not None:
        made.force.add(np.linalg.norm(structure.forces, axis=1))
        made.net_force.add(np.linalg.norm(structure.forces.sum(axis=0)))
    if structure.stress is not None:
        made.stress.add(structure.stress)
    if structure.pbc.all():
        made.volume_per_atom.add(structure.volume / n)


def _closest(closest: dict[tuple[int, int], float], structure: Any) -> None:
    i, j, distance = pair_distances(structure, NEAR)
    one, two = structure.numbers[i], structure.numbers[j]
    low, high = np.minimum(one, two), np.maximum(one, two)
    code = low * 200 + high
    for pair in np.unique(code):
        key = (int(pair) // 200, int(pair) % 200)
        closest[key] = min(closest.get(key, np.inf), float(distance[code == pair].min()))
