"""Derivatives by fourth-order central differences: the witness of every analytic one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..data.structure import Structure
from .case import Case
from .systems import bare, strained

STEPS = (1e-3, 2e-4, 4e-3)  # Å, or of strain
WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12.0
PLACES = np.array([-2.0, -1.0, 1.0, 2.0])


def agree(analytic: np.ndarray, witness: Callable[[float], np.ndarray], scale: float) -> tuple[float, int]:
    """The largest ``|analytic - difference| / scale`` and its index in the flattened array.

    A component may agree at any of the steps: at a longer one a pair may cross a cutoff, where the second
    derivative jumps; at a shorter one rounding is larger, most of all where large weights of kernels cancel.
    What is wrong disagrees at all.
    """
    errors = np.full(analytic.shape, np.inf)
    for step in STEPS:
        errors = np.fmin(errors, np.abs(analytic - witness(step)))
        if errors.max(initial=0.0) <= 1e-8 * scale:
            break
    worst = int(errors.argmax()) if errors.size else 0
    return float(errors.max(initial=0.0)) / scale, worst


def along(case: Case, moved: Sequence[Callable[[float], Structure]], step: float, want: str = "energy") -> np.ndarray:
    """d(energy)/d(parameter), or d(forces)/d(parameter), for each one-parameter family of structures.

    Differences are taken atom by atom before they are summed, so that large offsets do not cost digits.
    """
    made = [make(float(place * step)) for make in moved for place in PLACES]
    values = case.each(made, want)
    values = values.reshape(len(moved), 4, *values.shape[1:])
    slopes = np.einsum("p,mp...->m...", WEIGHTS, values) / step
    return slopes.sum(1) if want == "energy" else slopes


def displacements(structure: Structure, components: np.ndarray) -> list[Callable[[float], Structure]]:
    """Moves of single coordinates, numbered as in ``positions.ravel()``."""

    def move(component: int) -> Callable[[float], Structure]:
        def at(step: float) -> Structure:
            positions = structure.positions.copy()
            positions.ravel()[component] += step
            return bare(structure, positions=positions)

        return at

    return [move(int(c)) for c in components]


def strains(structure: Structure) -> list[Callable[[float], Structure]]:
    """The nine components of a strain, as in ``strain.ravel()``."""

    def pull(component: int) -> Callable[[float], Structure]:
        def at(step: float) -> Structure:
            strain = np.zeros((3, 3))
            strain.ravel()[component] = step
            return strained(structure, strain)

        return at

    return [pull(k) for k in range(9)]
