"""The loop of a simulation: steps, looks of the guard, rows, frames, checkpoints."""

from __future__ import annotations

import io
import json
import time as clock
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from ..errors import ConfigError, DataError, SimulationError
from ..progress import bar
from ..uncertainty.domain import Domain
from ..units import GPA
from .calculator import Calculator
from .guard import Finding, Guard
from .integrators import VelocityVerlet
from .runfolder import RunFolder
from .thermo import COLUMNS, read_thermo, summarize


@dataclass(frozen=True, eq=False)
class Run:
    """What a simulation gave.

    Attributes:
        atoms: the last frame, with momenta and calculator.
        thermo: columns of the log (:data:`COLUMNS`), ``(rows,)`` each; NaN where a quantity is not defined.
        summary: mean temperature, drift, guard, speed, ...: what ``summary.json`` holds.
        folder: of the run; None where nothing was written.
    """

    atoms: ase.Atoms
    thermo: dict[str, np.ndarray]
    summary: dict[str, Any]
    folder: Path | None = None


class Loop:
    """The state of a run between steps."""

    def __init__(
        self, atoms: ase.Atoms, integrator: VelocityVerlet, files: RunFolder, guard: Guard, settings: dict[str, Any],
        domain: Domain | None,
    ) -> None:  # fmt: skip
        self.atoms, self.integrator, self.files, self.guard = atoms, integrator, files, guard
        self.settings, self.domain = settings, domain
        self.step, self.reference = 0, 0.0
        self.steps_done, self.seconds = 0, 0.0
        self.reasons: dict[str, int] = {}

    def begin(self, resume: bool) -> None:
        """From the checkpoint, or from the start."""
        found = self.files.load() if resume else None
        if found is None:
            self.files.clear()
            self.reference = self._safely(self.integrator.conserved)
            self.files.append("thermo.csv", ",".join(COLUMNS) + "\n")
            self._look()
            self._row()
            self._frame()
            self._save()
            return
        arrays, facts = found
        self._same(facts["settings"])
        self.files.cut(facts["lengths"])
        self.atoms.set_cell(arrays["cell"], scale_atoms=False)
        self.atoms.positions = arrays["positions"]
        self.atoms.arrays["momenta"] = arrays["momenta"]
        self.integrator.restore(facts["integrator"])
        self.step, self.reference = facts["step"], facts["reference"]
        self.guard.counts.update(facts["counts"])
        self.reasons = dict(facts["reasons"])

    def _same(self, before: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(self.settings))
        changed = [k for k in now if before.get(k) != now[k]]
        if changed:
            told = "; ".join(f"{k}: {before.get(k)!r}, now {now[k]!r}" for k in changed)
            raise ConfigError(
                f"{self.files.path} holds a run with other settings ({told}). Take another folder, or resume=False "
                "(--restart) to forget it."
            )

    def run(self, n_steps: int, checkpoint_every: int) -> None:
        """Up to step ``n_steps``."""
        began, first = clock.monotonic(), self.step
        stride = max(1, min(10, n_steps // 100))
        try:
            with bar(f"md {self.settings['ensemble']}", float(n_steps)) as shown:
                shown.advance(float(first))
                while self.step < n_steps:
                    self._safely(self.integrator.step)
                    self.step += 1
                    self._after(n_steps, checkpoint_every)
                    if self.step % stride == 0 or self.step == n_steps:
                        shown.advance(float(self.step - first))
                        first = self.step
                        if self.step % (10 * stride) == 0:
                            shown.note(f"{self.integrator.temperature():.0f} K")
        finally:
            self.seconds = clock.monotonic() - began
            self.files.close()

    def _after(self, n_steps: int, checkpoint_every: int) -> None:
        self.steps_done += 1
        if self.step % self.guard.every == 0:
            self._look()
        if self.step % self.settings["log_every"] == 0:
            self._row()
        if self.step % self.settings["frame_every"] == 0:
            self._frame()
        if self.step % checkpoint_every == 0 or self.step == n_steps:
            self._save()

    def _safely(self, call: Any) -> Any:
        """A structure that cannot be evaluated is saved before the error goes on."""
        try:
            return call()
        except (SimulationError, DataError) as why:
            self._outside([Finding("broken", str(why))])
            self.files.close()
            where = "Before the first step" if call == self.integrator.conserved else f"In step {self.step + 1}"
            raise SimulationError(f"{where}: {why}{self._saved()}") from why

    def _saved(self) -> str:
        if self.files.path is None:
            return ""
        return (
            f"\nThe frame is in {self.files.path / 'outside.xyz'}: label it (`epot label`) and add it to the "
            f"training set. The run up to its last checkpoint is in {self.files.path}."
        )

    def _look(self) -> None:
        if self.guard.policy == "off":
            return
        target = None if self.settings["ensemble"] == "nve" else self.settings["temperature"]
        found = self.guard.look(
            self.atoms, self.domain, temperature=self.integrator.temperature(), target=target, drift=self._drift()
        )
        if not found:
            return
        self._outside(found)
        if self.guard.ends(found):
            self._row()
            self.files.close()
            told = "; ".join(f.text for f in found)
            kind = "broke" if any(f.kind == "broken" for f in found) else "left the domain of its potential"
            raise SimulationError(f"The simulation {kind} at step {self.step}: {told}.{self._saved()}")

    def _outside(self, found: list[Finding]) -> None:
        """Save the frame, without the potential's own energy: it is there to be labelled."""
        for finding in found:
            reason = finding.text.split("(")[0].split(" Å")[0].rstrip("0123456789. -")
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if sum(self.guard.counts.values()) <= self.guard.keep:
            frame = self.atoms.copy()
            del frame.arrays["momenta"]
            frame.info |= {"step": self.step, "reason": "; ".join(f.text for f in found).replace('"', "'")}
            self.files.append("outside.xyz", _extxyz(frame))

    def _drift(self) -> float:
        return (self.integrator.conserved() - self.reference) / len(self.atoms)

    def _row(self) -> None:
        atoms, calc = self.atoms, self.atoms.calc
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        pressure = volume = std = np.nan
        if atoms.pbc.all():
            volume = atoms.get_volume()
            if "stress" in calc.results:
                pressure = (2 * kinetic / (3 * volume) - atoms.get_stress()[:3].mean()) / GPA
        if self.settings["uncertainty"]:
            std = calc.results.get("energy_std", np.nan)
        force = np.linalg.norm(atoms.get_forces(), axis=1).max()
        counts = self.guard.counts
        values = (
            self.step, self.step * self.settings["timestep"], potential, kinetic, potential + kinetic,
            self.integrator.conserved(), self.integrator.temperature(), pressure, volume, force, std,
            counts["outside"], counts["broken"],
        )  # fmt: skip
        self.files.append("thermo.csv", ",".join("" if v != v else f"{v:.15g}" for v in values) + "\n")

    def _frame(self) -> None:
        frame = self.atoms.copy()
        kept = {k: v for k, v in self.atoms.calc.results.items() if k in ("energy", "forces", "stress", "charges")}
        frame.calc = SinglePointCalculator(frame, **kept)
        frame.info |= {"step": self.step, "time_fs": self.step * self.settings["timestep"]}
        if "energy_std" in self.atoms.calc.results:
            frame.info["energy_std"] = self.atoms.calc.results["energy_std"]
            frame.arrays["forces_std"] = self.atoms.calc.results["forces_std"]
        self.files.append("trajectory.xyz", _extxyz(frame))

    def _save(self) -> None:
        atoms = self.atoms
        self.files.save(
            {"positions": atoms.positions, "momenta": atoms.get_momenta(), "cell": atoms.cell.array},
            {
                "step": self.step, "reference": self.reference, "integrator": self.integrator.state(),
                "settings": self.settings, "counts": dict(self.guard.counts), "reasons": self.reasons,
            },
        )  # fmt: skip

    def finish(self) -> Run:
        thermo = read_thermo(self.files.text("thermo.csv"))
        self.files.close()
        summary = summarize(thermo, len(self.atoms), self.settings["timestep"]) | {
            "ensemble": self.settings["ensemble"],
            "temperature_target_K": None if self.settings["ensemble"] == "nve" else self.settings["temperature"],
            "guard": {
                "policy": self.guard.policy,
                **{k: self.guard.counts[k] for k in ("outside", "broken")},
                "knows_domain": self.domain is not None,
            },
            "reasons": self.reasons,
        }
        if self.steps_done and self.seconds > 0:
            summary["ms_per_step"] = 1e3 * self.seconds / self.steps_done
            summary["ns_per_day"] = self.steps_done * self.settings["timestep"] * 1e-6 / self.seconds * 86400
        if isinstance(self.atoms.calc, Calculator):
            pairs = self.atoms.calc.pairs
            summary["steps_per_neighbor_search"] = pairs.steps / max(1, pairs.searches)
        self.files.summarize(summary)
        return Run(self.atoms, thermo, summary, self.files.path)


def _extxyz(atoms: ase.Atoms) -> str:
    buffer = io.StringIO()
    ase.io.write(buffer, atoms, format="extxyz")
    return buffer.getvalue()
