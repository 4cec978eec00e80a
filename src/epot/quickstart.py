"""The main job on real input, from nothing to a checked potential and molecular dynamics with it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from . import api
from .data.dataset import Dataset
from .data.labels.demo import collect
from .data.structure import Structure
from .evaluate import doctor_data, doctor_model
from .evaluate.errors import Errors
from .fitted import Fitted
from .progress import say
from .report.build import build
from .simulate.md import Run, run_md

STEPS = 6
MODEL = {"name": "gap", "n_sparse": 1000}
"""Enough for two small systems, and fitted in seconds."""


def quickstart(folder: str | os.PathLike = "runs/quickstart", *, seed: int = 0, workers: int = 2) -> Path:
    """Collect labels with GFN2-xTB, fit, check, simulate, report. Started again, it goes on where it stopped.

    Args:
        folder: gets the data, ``model.epot`` and ``report.html``.
        seed: of everything random.
        workers: processes that label.

    Returns:
        The report.

    Raises:
        EpotError: a step failed; the message says what to do.
    """
    start = time.monotonic()
    folder = Path(folder)
    _step(1, "collect labels: ethanol and crystalline silicon, GFN2-xTB (tblite)")
    parts = split(collect(folder / "data", seed=seed, workers=workers), folder / "data", seed)
    _step(2, "examine the data")
    say(doctor_data.examine(parts["train"]).text())
    _step(3, f"fit a {MODEL['name']} on {len(parts['train'])} structures")
    fitted = api.fit(MODEL, parts["train"], valid=parts["valid"], folder=folder, seed=seed)
    errors = fitted.evaluate(parts["test"])
    say(errors.table())
    _step(4, "examine the potential")
    verdict = doctor_model.examine(fitted.potential, [parts["test"][0], parts["test"][len(parts["test"]) - 1]])
    say(verdict.text())
    fitted.about["doctor"] = verdict.to_json()
    path = fitted.save(folder / "model.epot")
    _step(5, "run guarded molecular dynamics: ethanol at constant energy, silicon at 300 K")
    runs = simulate(fitted, parts["test"], folder, seed)
    _step(6, "write the report")
    page = build(folder, sets=parts, md=[run.folder for run in runs if run.folder], title="epot quickstart")
    say(closing(folder, path, page, errors, runs, time.monotonic() - start))
    return page


def _step(number: int, text: str) -> None:
    say(f"\n[{number}/{STEPS}] {text}")


def split(data: Dataset, folder: Path, seed: int) -> dict[str, Dataset]:
    """Training, validation and test structures, also as files; each config type is in each of them."""
    names = ("train", "valid", "test")
    parts = dict(zip(names, data.split(0.7, 0.15, 0.15, seed=seed, by="config_type"), strict=True))
    for name, part in parts.items():
        part.write(folder / f"{name}.xyz")
    return parts


def simulate(fitted: Fitted, test: Dataset, folder: Path, seed: int) -> list[Run]:
    """A molecule without a thermostat, which shows whether energy is conserved, and a crystal with one."""
    potential, about = fitted.potential, fitted.about
    common: dict[str, Any] = {"about": about, "seed": seed, "guard": "warn", "temperature": 300.0}
    molecule, crystal = _first(test, periodic=False), _first(test, periodic=True)
    return [
        run_md(molecule, potential, ensemble="nve", steps=2000, timestep=0.5, folder=folder / "md-ethanol", **common),
        run_md(crystal, potential, ensemble="nvt", steps=1000, timestep=2.0, folder=folder / "md-silicon", **common),
    ]


def _first(data: Dataset, periodic: bool) -> Structure:
    return next(s for s in data if bool(s.pbc.all()) == periodic)


def closing(folder: Path, path: Path, page: Path, errors: Errors, runs: list[Run], seconds: float) -> str:
    """What was made, how good it is, and what to type next."""
    energy, forces = errors.all["energy_per_atom"], errors.all["forces"]
    drift = runs[0].summary["drift_eV_per_atom_ps"]
    return f"""
Done in {seconds:.0f} s. On {errors.n_structures} structures that the fit never saw:
  energy   MAE {energy["mae"]:.2f} meV/atom   RMSE {energy["rmse"]:.2f}
  forces   MAE {forces["mae"]:.1f} meV/Å      RMSE {forces["rmse"]:.1f}
  energy drift in {runs[0].summary["time_ps"]:.1f} ps of molecular dynamics: {1000 * abs(drift):.2g} meV/atom/ps

  {path}     the potential, one file
  {page}    open it in a browser
  {folder / "data" / "labels.xyz"}    what the engine computed

Now with your own data (.venv/bin/epot, or `source .venv/bin/activate` first):
  epot doctor data train.xyz
  epot fit train.xyz --model painn --out runs/mine
  epot eval runs/mine/model.epot test.xyz
  epot md runs/mine/model.epot start.xyz --ensemble nvt --temperature 300 --time 10ps --out runs/mine/md
  epot report runs/mine --test test.xyz --md runs/mine/md
"""
