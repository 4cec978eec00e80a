"""Molecular dynamics that is guarded, logged, and continues after a kill as if nothing had happened: :func:`run_md`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import BaseCalculator

from ..data.structure import Structure
from ..errors import ConfigError
from ..potential import Potential
from ..registry import check, nearest
from ..uncertainty.domain import Domain
from .calculator import Calculator
from .guard import Guard
from .integrators import Bussi, CellRescaling, Langevin, VelocityVerlet, draw_momenta
from .loop import Loop, Run
from .runfolder import RunFolder
from .thermo import read_thermo

__all__ = ["ENSEMBLES", "Run", "Settings", "read_thermo", "run_md"]

ENSEMBLES: dict[str, tuple[type[VelocityVerlet], dict[str, Any]]] = {
    "nve": (VelocityVerlet, {}),
    "nvt-langevin": (Langevin, {}),
    "nvt-bussi": (Bussi, {}),
    "npt": (CellRescaling, {"shape": False}),
    "npt-shape": (CellRescaling, {"shape": True}),
}
ALIASES = {"nvt": "nvt-langevin"}
VELOCITIES = ("auto", "draw", "keep")


@dataclass(frozen=True)
class Settings:
    """What is simulated: a run that is resumed has the same.

    Attributes:
        ensemble: ``nve``, ``nvt-langevin`` (or ``nvt``), ``nvt-bussi``, ``npt`` (volume) or ``npt-shape``
            (volume and shape).
        temperature: K, of the thermostat and of the momenta that are drawn.
        pressure: eV/Å^3 (:data:`epot.units.GPA` times GPa), for ``npt``.
        timestep: fs.
        seed: of the momenta and the thermostat.
        velocities: ``"draw"`` them, ``"keep"`` those of the atoms, or ``"auto"``: keep if there are any.
        log_every: steps between rows of the log.
        frame_every: steps between frames of the trajectory.
        uncertainty: log the standard deviation of the energy (costs a backward pass per member and step).
        options: of the integrator: ``friction`` (1/fs), ``relaxation``, ``pressure_relaxation`` (fs),
            ``compressibility`` (Å^3/eV).

    Raises:
        ConfigError: a value is impossible.
    """

    ensemble: str = "nvt-langevin"
    temperature: float = 300.0
    pressure: float = 0.0
    timestep: float = 0.5
    seed: int = 0
    velocities: str = "auto"
    log_every: int = 10
    frame_every: int = 100
    uncertainty: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ensemble", ALIASES.get(self.ensemble, self.ensemble))
        if self.ensemble not in ENSEMBLES:
            raise ConfigError(
                f"There is no ensemble {self.ensemble!r}; {nearest(self.ensemble, [*ENSEMBLES, *ALIASES])}"
            )
        if self.velocities not in VELOCITIES:
            raise ConfigError(f"velocities is {self.velocities!r}; {nearest(self.velocities, VELOCITIES)}")
        if not self.timestep > 0:
            raise ConfigError(f"timestep is {self.timestep!r}; expected femtoseconds, more than 0.")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature is {self.temperature!r}; expected kelvin, 0 or more.")
        for name in ("log_every", "frame_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected steps, 1 or more.")


def run_md(
    atoms: ase.Atoms | Structure,
    potential: Potential | BaseCalculator,
    *,
    steps: int | None = None,
    time: float | int | None = None,
    folder: str | os.PathLike | None = None,
    about: Mapping[str, Any] | None = None,
    guard: Guard | str | Mapping[str, Any] = "warn",
    resume: bool = True,
    checkpoint_every: int = 500,
    device: str = "cpu",
    **settings: Any,
) -> Run:
    """Run molecular dynamics; the atoms that are given stay as they are.

    A run with a folder resumes: the same call on the same folder goes on from the last checkpoint and gives the
    numbers of a run that was never interrupted, to the last bit (same machine, same number of threads). More
    ``steps`` prolong a finished run.

    Args:
        atoms: where to start.
        potential: a potential, or any ASE calculator.
        steps: how many; or
        time: how long, fs.
        folder: for ``thermo.csv``, ``trajectory.xyz``, ``outside.xyz``, ``checkpoint.npz``, ``summary.json``.
        about: what travelled with the potential in its model file (domain, calibration).
        guard: a policy (``"warn"``, ``"stop"``, ``"off"``) or a :class:`~epot.simulate.guard.Guard`.
        resume: False forgets an earlier run in the folder.
        checkpoint_every: steps.
        device: of the potential.
        **settings: of :class:`Settings`: ``ensemble``, ``temperature``, ``timestep``, ``seed``, ...

    Raises:
        ConfigError: an impossible or unknown argument; a folder with another run.
        SimulationError: the guard ended the run (the frame is in ``outside.xyz``), an energy is not
            finite, or a file could not be written.
    """
    chosen = Settings(**check(Settings, settings))
    n_steps = _steps(steps, time, chosen.timestep)
    if checkpoint_every < 1:
        raise ConfigError(f"checkpoint_every is {checkpoint_every}; expected steps, 1 or more.")
    guard = Guard.of(guard)
    start = atoms.to_ase() if isinstance(atoms, Structure) else atoms.copy()
    recorded = asdict(chosen) | {
        "guard": guard.settings(), "start": _digest(start), "potential": fingerprint(potential),
    }  # fmt: skip
    start.calc = _calculator(potential, about, device, chosen.uncertainty)
    integrator = _integrator(start, chosen)
    loop = Loop(start, integrator, RunFolder(folder), guard, recorded, _domain(about, start.calc))
    loop.begin(resume)
    loop.run(n_steps, checkpoint_every)
    return loop.finish()


def _steps(steps: int | None, time: float | int | None, timestep: float) -> int:
    if (steps is None) == (time is None):
        raise ConfigError("Give one of `steps` (how many) and `time` (fs).")
    made = steps if steps is not None else round(float(time or 0.0) / timestep)
    if made < 0:
        raise ConfigError(f"A run of {made} steps is not possible.")
    return int(made)


def _integrator(atoms: ase.Atoms, chosen: Settings) -> VelocityVerlet:
    """Momenta, then the integrator that the settings name; one generator gives both their random numbers."""
    rng = np.random.default_rng(chosen.seed)
    moving = atoms.has("momenta") and bool(np.any(atoms.get_momenta()))
    if chosen.velocities == "draw" or (chosen.velocities == "auto" and not moving):
        draw_momenta(atoms, chosen.temperature, rng)
    kind, fixed = ENSEMBLES[chosen.ensemble]
    given: dict[str, Any] = {"atoms": atoms, "timestep": chosen.timestep}
    if kind is not VelocityVerlet:
        given |= {"temperature": chosen.temperature, "rng": rng}
    if kind is CellRescaling:
        given |= {"pressure": chosen.pressure} | fixed
    for key in set(chosen.options) & set(given):
        raise ConfigError(f"{key!r} is an argument of run_md itself, not one of `options`.")
    return kind(**check(kind, given | dict(chosen.options)))


def _calculator(
    potential: Potential | BaseCalculator, about: Mapping[str, Any] | None, device: str, uncertainty: bool
) -> BaseCalculator:
    if isinstance(potential, Potential):
        return Calculator(potential, about, device=device, uncertainty=uncertainty)
    return potential


def _domain(about: Mapping[str, Any] | None, calc: BaseCalculator) -> Domain | None:
    about = about if about is not None else getattr(calc, "about", {})
    return Domain.from_json(about["domain"]) if about.get("domain") else None


def _digest(atoms: ase.Atoms) -> str:
    """Of what a run starts from."""
    momenta = atoms.get_momenta() if atoms.has("momenta") else np.zeros(0)
    parts = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, momenta, atoms.get_masses())
    text = b"".join(np.ascontiguousarray(p).tobytes() for p in parts) + str(atoms.info.get("charge", 0.0)).encode()
    return hashlib.sha256(text + repr([c.todict() for c in atoms.constraints]).encode()).hexdigest()[:16]


def fingerprint(potential: Potential | BaseCalculator) -> str:
    """Of the numbers of a potential, or the name of another calculator."""
    potential = potential.potential if isinstance(potential, Calculator) else potential
    if not isinstance(potential, Potential):
        return potential.name
    digest = hashlib.sha256(type(potential).__name__.encode())
    with contextlib.suppress(ConfigError, AttributeError):  # of one that is not registered only the tensors tell
        digest.update(json.dumps(potential.config(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(potential.state_dict().items()):
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + raw.numpy().tobytes())
    return digest.hexdigest()[:16]
