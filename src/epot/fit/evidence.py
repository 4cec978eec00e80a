"""Sigmas and the scale of the kernel that make the training data most likely (type-II maximum likelihood)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize

from ..typing import Tensor
from .triangle import Triangle

PRIOR = "delta"
"""Name of the factor of the prior's scale among those of the sigmas."""
BOUND = math.log(1e3)
"""Factors are looked for between 1/1000 and 1000."""


def combined(parts: Mapping[str, Triangle], prior: Tensor, factors: Mapping[str, float]) -> tuple[Triangle, Tensor]:
    """The system of all parts with their sigmas times factors, and the prior that it began with.

    Args:
        parts: rows of energies, forces and virials, each in a triangle of its own that began with zeros.
        prior: upper triangular, as for :class:`Triangle`.
        factors: of the sigmas, by name of the part, and of the prior's standard deviation, ``"delta"``; 1 if not named.
    """
    scaled = prior / factors.get(PRIOR, 1.0)
    system = Triangle(scaled)
    for name, part in parts.items():
        system.merge(part, 1 / factors.get(name, 1.0))
    return system, scaled


def most_likely(parts: Mapping[str, Triangle], prior: Tensor, free: Sequence[str]) -> dict[str, float]:
    """Factors of the ``free`` sigmas, and of delta, that maximize the evidence (Rasmussen and Williams, Eq. 5.8).

    Nelder and Mead's simplex in the logarithms: each trial costs a few M^3, and no rows are made again.
    """

    def lost(logs: np.ndarray) -> float:
        factors = dict(zip(free, np.exp(np.clip(logs, -BOUND, BOUND)), strict=True))
        system, scaled = combined(parts, prior, factors)
        return -system.log_likelihood(scaled) + float(np.square(logs - np.clip(logs, -BOUND, BOUND)).sum()) * 1e6

    simplex = np.concatenate([np.zeros((1, len(free))), np.eye(len(free))])
    options = {"initial_simplex": simplex, "xatol": 0.02, "fatol": 0.1, "maxfev": 60 * len(free)}
    found = minimize(lost, simplex[0], method="Nelder-Mead", options=options).x
    return dict(zip(free, np.exp(np.clip(found, -BOUND, BOUND)).tolist(), strict=True))
