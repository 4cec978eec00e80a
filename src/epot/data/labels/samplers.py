"""Structures to label: displaced, strained, vibrating, moving.

Every sampler takes a seed (or a numpy ``Generator``) and is reproducible from it; it sets ``config_type`` (how the
structure was made) and ``group`` (what a split must not tear apart: one trajectory, or the offspring of one parent).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ConfigError, DataError
from ..structure import Structure
from .task import bare

TRIES = 200


def rattle(
    structure: Structure, n: int, *, stdev: float = 0.05, closest: float = 0.7, seed: int | np.random.Generator = 0
) -> list[Structure]:
    """Every coordinate displaced by a Gaussian.

    Args:
        structure: the parent.
        n: how many.
        stdev: Å, of each coordinate.
        closest: no two atoms come closer than this fraction of the sum of their covalent radii (or of what the
            parent has, where that is less); structures that do are drawn again.
        seed: of the random numbers.

    Raises:
        ConfigError: an impossible argument.
        DataError: ``stdev`` is so large that no acceptable structure was found.
    """
    _check(n=n, stdev=stdev)
    rng = np.random.default_rng(seed)

    def draw() -> Structure:
        return _moved(structure, rng.normal(scale=stdev, size=structure.positions.shape))

    return _draw(structure, n, draw, closest, "rattle", f"stdev={stdev}")


def strain(
    structure: Structure,
    n: int,
    *,
    maximum: float = 0.05,
    stdev: float = 0.05,
    closest: float = 0.7,
    seed: int | np.random.Generator = 0,
) -> list[Structure]:
    """The cell strained at random, and its atoms rattled.

    Args:
        structure: the parent, periodic along three axes.
        n: how many.
        maximum: the components of the symmetric strain are uniform in ``[-maximum, maximum]``.
        stdev: Å, of the Gaussian displacement of each coordinate; 0 for none.
        closest: as in :func:`rattle`.
        seed: of the random numbers.

    Raises:
        ConfigError: an impossible argument.
        DataError: the structure has no full cell, or no acceptable structure was found.
    """
    _check(n=n, stdev=stdev, maximum=maximum)
    if maximum >= 0.5:
        raise ConfigError(f"A strain of up to {maximum} turns the cell inside out; take at most 0.3.")
    _need_cell(structure)
    rng = np.random.default_rng(seed)

    def draw() -> Structure:
        half = rng.uniform(-maximum, maximum, size=(3, 3))
        symmetric = np.triu(half) + np.triu(half, 1).T
        deformed = _deformed(structure, np.eye(3) + symmetric)
        return _moved(deformed, rng.normal(scale=stdev, size=structure.positions.shape))

    return _draw(structure, n, draw, closest, "strain", f"maximum={maximum} stdev={stdev}")


def volumes(structure: Structure, n: int, *, lowest: float = 0.85, highest: float = 1.15) -> list[Structure]:
    """``n`` copies, evenly spaced in volume from ``lowest`` to ``highest`` times that of the parent.

    Raises:
        ConfigError: an impossible argument.
        DataError: the structure has no full cell.
    """
    _check(n=n)
    if not 0 < lowest < highest:
        raise ConfigError(f"Volumes run from {lowest} to {highest} of the parent's; expected 0 < lowest < highest.")
    _need_cell(structure)
    scales = np.linspace(lowest, highest, n) ** (1 / 3)
    return [_named(structure, _deformed(structure, np.eye(3) * s), "volumes", f"scale={s:.6f}") for s in scales]


def _draw(
    parent: Structure, n: int, draw: Callable[[], Structure], closest: float, how: str, note: str
) -> list[Structure]:
    limit = min(closest, 0.95 * nearest_pair(parent))
    found = []
    for _ in range(n):
        for _ in range(TRIES):
            candidate = draw()
            if limit <= 0 or nearest_pair(candidate, limit) >= limit:
                break
        else:
            raise DataError(
                f"{TRIES} draws of {how} ({note}) all brought atoms of {parent.formula} closer than {limit:.2f} of "
                "the sum of their covalent radii: take smaller displacements or a smaller `closest`."
            )
        found.append(_named(parent, candidate, how, note))
    return found


def nearest_pair(structure: Structure, within: float = 1.2) -> float:
    """Smallest distance between two atoms (or images) over the sum of their covalent radii; inf if above ``within``."""
    import ase
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    radii = covalent_radii[structure.numbers]
    if not structure.pbc.any() and len(structure) < 500:
        i, j = np.triu_indices(len(structure), 1)
        d = np.linalg.norm(structure.positions[i] - structure.positions[j], axis=1)
        least = float((d / (radii[i] + radii[j])).min(initial=np.inf))
        return least if least <= within else np.inf
    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    i, j, d = neighbor_list("ijd", atoms, radii * within)
    return float((d / (radii[i] + radii[j])).min()) if len(d) else np.inf


def masses(structure: Structure) -> np.ndarray:
    """Standard atomic weights, amu, ``(atoms,)``."""
    from ase.data import atomic_masses

    return np.asarray(atomic_masses[structure.numbers], dtype=np.float64)


def _named(parent: Structure, child: Structure, how: str, note: str, group: str | None = None) -> Structure:
    """``child`` with its kind, its group and how it was made."""
    kind = f"{parent.config_type}_{how}" if parent.config_type else how
    family = group or parent.group or f"{parent.formula}_{how}"
    made: dict[str, Any] = dict(parent.info) | {"sampler": f"{how} {note}"}
    return child.replace(config_type=kind, group=family, info=made)


def _moved(structure: Structure, displacement: np.ndarray) -> Structure:
    return bare(structure).replace(positions=structure.positions + displacement)


def _deformed(structure: Structure, deformation: np.ndarray) -> Structure:
    return bare(structure).replace(
        cell=np.asarray(structure.cell) @ deformation, positions=structure.positions @ deformation
    )


def _need_cell(structure: Structure) -> None:
    if not structure.pbc.all():
        raise DataError(f"{structure.formula} is not periodic along three axes: it has no cell to strain.")


def _check(n: int, **amounts: float) -> None:
    if n < 1:
        raise ConfigError(f"{n} structures were asked for; expected at least 1.")
    for name, value in amounts.items():
        if not np.isfinite(value) or value < 0:
            raise ConfigError(f"{name} is {value}; expected a number that is not negative.")
