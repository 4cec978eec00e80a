"""The thermodynamic log of a run: its columns, how to read it, and what it says in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

COLUMNS = (
    "step", "time_fs", "potential_eV", "kinetic_eV", "total_eV", "conserved_eV", "temperature_K", "pressure_GPa",
    "volume_A3", "max_force_eV_A", "energy_std_eV", "outside", "broken",
)  # fmt: skip


def read_thermo(text: str) -> dict[str, np.ndarray]:
    """The columns of a ``thermo.csv``; NaN where a cell is empty."""
    lines = text.strip().splitlines()
    names = lines[0].split(",")
    rows = [[float(cell) if cell else np.nan for cell in line.split(",")] for line in lines[1:]]
    table = np.array(rows, dtype=float).reshape(len(rows), len(names))
    return {name: table[:, k] for k, name in enumerate(names)}


def summarize(thermo: Mapping[str, np.ndarray], n_atoms: int, timestep: float) -> dict[str, Any]:
    """Means and drift of a log.

    The drift is the slope of the conserved quantity, by least squares, per atom and ps. Means leave out the
    first fifth, where the run forgets its start.
    """
    time = thermo["time_fs"] * 1e-3
    late = slice(len(time) // 5, None)
    spread = time - time.mean()
    square = float((spread**2).sum())
    conserved = thermo["conserved_eV"]
    slope = float((spread * (conserved - conserved.mean())).sum()) / square if square > 0 else 0.0
    made = {
        "atoms": n_atoms,
        "steps": int(thermo["step"][-1]),
        "time_ps": float(time[-1]),
        "timestep_fs": timestep,
        "temperature_K": float(thermo["temperature_K"][late].mean()),
        "temperature_std_K": float(thermo["temperature_K"][late].std()),
        "drift_eV_per_atom_ps": slope / n_atoms,
    }
    for name in ("pressure_GPa", "volume_A3"):
        if np.isfinite(thermo[name]).any():
            made[name] = float(np.nanmean(thermo[name][late]))
    return made
