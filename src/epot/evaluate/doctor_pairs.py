"""A pair potential fitted to the forces: what energies and stresses ought to be, up to a factor near 1.

Labels of one structure are derivatives of one function. A rough model of that function, fitted to the forces
alone, predicts energies and stresses with slope about 1; a slope near the ratio of two units, or a negative one,
tells which unit or sign is wrong. (The forces of a pair potential are linear in its coefficients; its virial is
``sum r (x) f``.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.structure import Structure
from ..geometry.neighbors import neighbor_pairs

CUTOFF = 5.0
CENTERS = np.linspace(0.7, CUTOFF, 18)
WIDTH = 1.1 * (CENTERS[1] - CENTERS[0])
MOST_ATOMS = 12_000  # over all structures that are fitted
MOST_FRAMES = 400


@dataclass(frozen=True)
class Rows:
    """What a pair potential says of one structure, one column for each coefficient.

    Attributes:
        frame: which structure.
        energy: ``(P,)``.
        forces: ``(3 atoms, P)``.
        virial: dE/d(strain), ``(9, P)``.
        counts: atoms of each element, ``(E,)``.
    """

    frame: int
    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Relation:
    """A straight line ``label = slope * model`` through what composition does not explain.

    Attributes:
        slope: 1 where label and forces belong together.
        correlation: of label and model.
        n: how many structures (energies) or components (stresses).
    """

    slope: float
    correlation: float
    n: int


class PairModel:
    """The pair potential of a dataset.

    Args:
        structures: what is fitted, with their frame numbers; only those with finite forces count.
    """

    def __init__(self, structures: Sequence[tuple[int, Structure]]) -> None:
        labelled = [
            (k, s) for k, s in structures if s.forces is not None and np.isfinite(s.forces).all() and len(s) > 1
        ]
        self.elements = sorted({int(z) for _, s in labelled for z in s.numbers})
        self.sample = _sample(labelled)
        self.rows = [rows(k, s, self.elements) for k, s in self.sample]
        size = len(CENTERS) * len(self.elements) * (len(self.elements) + 1) // 2
        gram, right, self.total = np.zeros((size, size)), np.zeros(size), 0.0
        self.sizes = np.array([np.sqrt(np.square(np.asarray(s.forces)).mean()) for _, s in self.sample])
        moving = self.sizes[self.sizes > 1e-3]
        floor = float(np.median(moving)) if len(moving) else 1.0
        for row, (_, s), rms in zip(self.rows, self.sample, self.sizes, strict=True):
            force, weight = np.asarray(s.forces).ravel(), 1 / max(rms, floor) ** 2  # absurd structures decide nothing
            gram += weight * row.forces.T @ row.forces
            right += weight * row.forces.T @ force
            self.total += weight * float(force @ force)
        ridge = 1e-6 * np.trace(gram) / max(size, 1) + 1e-12
        self.coefficients = np.linalg.solve(gram + ridge * np.eye(size), right)
        self.explained = 0.0
        if self.total > 0:
            w = self.coefficients
            self.explained = float((2 * right @ w - w @ gram @ w) / self.total)

    def each(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slope and correlation of the forces of each structure against the model's, and the rms of the latter."""
        slopes, correlations, sizes = [], [], []
        for row, (_, s) in zip(self.rows, self.sample, strict=True):
            x, y = row.forces @ self.coefficients, np.asarray(s.forces).ravel()
            slopes.append(x @ y / max(x @ x, 1e-12))
            correlations.append(x @ y / max(np.sqrt((x @ x) * (y @ y)), 1e-12))
            sizes.append(np.sqrt(np.mean(x**2)))
        return np.array(slopes), np.array(correlations), np.array(sizes)

    def energies(self) -> Relation | None:
        """Energies against those of the model; None where there are too few."""
        chosen = [(r, s) for r, (_, s) in zip(self.rows, self.sample, strict=True) if s.energy is not None]
        chosen = [(r, s) for r, s in chosen if np.isfinite(np.asarray(s.energy))]
        if len(chosen) < 8:
            return None
        counts = np.array([r.counts for r, _ in chosen], dtype=float)
        model = np.array([r.energy @ self.coefficients for r, _ in chosen])
        label = np.array([s.energy for _, s in chosen], dtype=float)
        size = counts.sum(1)
        x, y = (_without(v / size, counts / size[:, None]) for v in (model, label))
        return _relation(x, y)

    def stresses(self) -> Relation | None:
        """Stresses against the model's virial per volume; None where there are too few."""
        model, label = [], []
        least = 0.3 * float(np.median(self.sizes[self.sizes > 1e-3])) if (self.sizes > 1e-3).any() else 0.0
        for row, (_, s), size in zip(self.rows, self.sample, self.sizes, strict=True):
            if size < least:  # forces that vanish by symmetry say nothing of the pressure
                continue
            if s.stress is not None and s.pbc.all() and np.isfinite(s.stress).all():
                model.append(row.virial @ self.coefficients / s.volume)
                label.append(np.asarray(s.stress).ravel())
        if len(model) < 4:
            return None
        return _relation(np.concatenate(model), np.concatenate(label))


def _sample(labelled: Sequence[tuple[int, Structure]]) -> list[tuple[int, Structure]]:
    """Evenly over the file, so many that the fit takes seconds."""
    if not labelled:
        return []
    mean = float(np.mean([len(s) for _, s in labelled]))
    n = int(np.clip(MOST_ATOMS / mean, 1, min(MOST_FRAMES, len(labelled))))
    return [labelled[k] for k in np.unique(np.linspace(0, len(labelled) - 1, n).astype(int))]


def rows(frame: int, structure: Structure, elements: Sequence[int]) -> Rows:
    """Energy, forces and virial of every coefficient's function, for one structure."""
    i, j, shift = neighbor_pairs(structure, CUTOFF)
    vectors = structure.positions[j] - structure.positions[i] + shift @ np.asarray(structure.cell)
    r = np.linalg.norm(vectors, axis=1)
    unit = vectors / r[:, None]
    kind = _kinds(structure.numbers, i, j, elements)
    value, slope = _functions(r)
    n, size = len(structure), len(CENTERS) * len(elements) * (len(elements) + 1) // 2
    energy, forces, virial = np.zeros(size), np.zeros((3 * n, size)), np.zeros((9, size))
    for k in np.unique(kind):
        chosen = kind == k
        columns = slice(k * len(CENTERS), (k + 1) * len(CENTERS))
        energy[columns] = 0.5 * value[chosen].sum(0)
        u, ri, d = unit[chosen], r[chosen], slope[chosen]
        virial[:, columns] = 0.5 * np.einsum("p,pa,pb,pk->abk", ri, u, u, d).reshape(9, -1)
        pushed = (u[:, :, None] * d[:, None, :]).reshape(len(u), -1)
        order = i[chosen]
        starts = np.flatnonzero(np.diff(order, prepend=-1))
        summed = np.add.reduceat(pushed, starts, axis=0).reshape(len(starts), 3, -1)
        forces.reshape(n, 3, size)[order[starts], :, columns] = summed
    counts = np.array([(structure.numbers == z).sum() for z in elements])
    return Rows(frame, energy, forces, virial, counts)


def _kinds(numbers: np.ndarray, i: np.ndarray, j: np.ndarray, elements: Sequence[int]) -> np.ndarray:
    index = np.searchsorted(elements, numbers)
    low, high = np.minimum(index[i], index[j]), np.maximum(index[i], index[j])
    return low * len(elements) - low * (low - 1) // 2 + high - low


def _functions(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gaussians times ``(1 - (r/cutoff)^2)^2`` and their derivatives, ``(pairs, K)``."""
    x = (r[:, None] - CENTERS) / WIDTH
    bump = np.exp(-(x**2))
    y = 1 - (r / CUTOFF) ** 2
    window, fall = (y**2)[:, None], (-4 * y * r / CUTOFF**2)[:, None]
    return bump * window, bump * (fall - 2 * x / WIDTH * window)


def _without(values: np.ndarray, composition: np.ndarray) -> np.ndarray:
    """What composition does not explain linearly."""
    return values - composition @ np.linalg.lstsq(composition, values, rcond=1e-10)[0]


def _relation(x: np.ndarray, y: np.ndarray) -> Relation | None:
    """The line through the origin, without the few points that would decide it alone."""
    keep = np.abs(x) <= 6 * max(float(np.median(np.abs(x))), 1e-12)
    x, y = x[keep], y[keep]
    if len(x) < 4 or not (x @ x > 0 and y @ y > 0):
        return None
    return Relation(float(x @ y / (x @ x)), float(x @ y / np.sqrt((x @ x) * (y @ y))), len(x))
