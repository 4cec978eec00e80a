"""Structures from the engine's own energy surface: relaxed, vibrating at a temperature, and moving in time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from ...errors import ConfigError, EngineError
from ...progress import Bar, bar
from ...units import KB
from ..structure import Structure
from .engines import Engine, make
from .pool import remote
from .run import label
from .samplers import _check, _draw, _moved, _named, masses
from .task import bare

HBAR = 0.6582119569509066  # eV fs
ACCELERATION = 9.648533212331002e-3  # 1 eV/Å/amu in Å/fs^2


def relax(
    structure: Structure, engine: str | Engine, *, fmax: float = 0.01, steps: int = 500, workers: int = 1
) -> Structure:
    """The nearest minimum at fixed cell, with its energy and forces (L-BFGS).

    Args:
        structure: where to start.
        engine: a name or an engine.
        fmax: eV/Å, of the largest force at the end.
        steps: at most.
        workers: 1 runs the engine in a process of its own, 0 in this one.

    Raises:
        EngineError: it is not reached within ``steps``, or the engine failed.
    """
    import ase
    from ase.optimize import LBFGS

    made = make(engine)
    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    with remote(made, ("energy", "forces"), workers) as call:
        atoms.calc = _calculator(call, structure)
        if not LBFGS(atoms, logfile=os.devnull).run(fmax=fmax, steps=steps):
            raise EngineError(f"{structure.formula} did not relax to {fmax} eV/Å in {steps} steps with {made.name}.")
        found = atoms.calc.results
    return bare(structure).replace(positions=atoms.positions, **found)


def _calculator(call: Callable[[Structure], dict[str, Any]], structure: Structure) -> Any:
    from ase.calculators.calculator import Calculator, all_changes

    class _Labels(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            self.results = call(structure.replace(positions=atoms.positions))

    return _Labels()


@dataclass(frozen=True, eq=False)
class Modes:
    """Normal modes at a minimum.

    Attributes:
        structure: the minimum.
        frequencies: angular, 1/fs, ``(modes,)``, ascending; rigid motions and imaginary modes are left out.
        displacements: Å per unit of the mass-weighted normal coordinate (amu^1/2 Å), ``(modes, atoms, 3)``.
        imaginary: angular frequencies of the modes along which the energy falls, 1/fs, ``(number,)``.
    """

    structure: Structure
    frequencies: np.ndarray
    displacements: np.ndarray
    imaginary: np.ndarray

    @property
    def wavenumbers(self) -> np.ndarray:
        """cm^-1, ``(modes,)``."""
        return self.frequencies / (2 * np.pi * 2.99792458e-5)


def modes(structure: Structure, engine: str | Engine, *, step: float = 0.005, workers: int = 1) -> Modes:
    """Normal modes from central differences of the engine's forces (6N calculations).

    Args:
        structure: a minimum of the engine's energy.
        engine: a name or an engine.
        step: Å, of the displacements.
        workers: processes; 0 computes in this one.

    Raises:
        EngineError: a calculation failed.
    """
    n = len(structure)
    shifts = step * np.concatenate([np.eye(3 * n), -np.eye(3 * n)]).reshape(-1, n, 3)
    data = label([_moved(structure, d) for d in shifts], engine, workers=workers, properties=("energy", "forces"))
    if data.provenance["failed"]:
        raise EngineError(f"The Hessian of {structure.formula} needs all displacements; one failed: "
                          f"{data.provenance['failed'][0]['reason']}")  # fmt: skip
    forces = np.array([s.forces for s in data]).reshape(2, 3 * n, 3 * n)
    hessian = (forces[1] - forces[0]) / (2 * step)
    weights = np.repeat(masses(structure), 3) ** -0.5
    dynamical = 0.5 * (hessian + hessian.T) * weights[:, None] * weights[None, :] * ACCELERATION
    internal = _internal(structure, 1 / weights)
    squares, vectors = np.linalg.eigh(internal.T @ dynamical @ internal)
    tiny = 1e-6 * max(float(squares.max(initial=0.0)), 1e-12)
    bound = squares > tiny
    displacements = ((internal @ vectors) * weights[:, None]).T.reshape(-1, n, 3)
    return Modes(structure, np.sqrt(squares[bound]), displacements[bound], np.sqrt(-squares[squares < -tiny]))


def _internal(structure: Structure, root_masses: np.ndarray) -> np.ndarray:
    """Orthonormal mass-weighted directions free of translations and, for molecules, rotations: ``(3 atoms, free)``."""
    n = len(structure)
    weighted = root_masses.reshape(n, 3)
    rigid = [weighted * axis for axis in np.eye(3)]
    if not structure.pbc.any():
        mass = weighted[:, :1] ** 2
        centred = structure.positions - (mass * structure.positions).sum(0) / mass.sum()
        rigid += [weighted * np.cross(axis, centred) for axis in np.eye(3)]
    u, s, _ = np.linalg.svd(np.array(rigid).reshape(len(rigid), -1).T, full_matrices=True)
    rank = int((s > 1e-6 * s.max()).sum())
    return np.asarray(u[:, rank:])


def normal_modes(
    structure: Structure,
    engine: str | Engine | None,
    n: int,
    *,
    temperature: float = 300.0,
    zero_point: bool = False,
    closest: float = 0.7,
    seed: int | np.random.Generator = 0,
    known: Modes | None = None,
    workers: int = 1,
) -> list[Structure]:
    """Displaced along the normal modes as a harmonic system at a temperature is.

    The normal coordinates are Gaussian with variance kT/w^2, or (hbar/2w) coth(hbar w/2kT) with ``zero_point``.
    Rigid motions and imaginary modes are left alone. The structure is relaxed first unless ``known`` modes are given.

    Args:
        structure: the parent, near a minimum.
        engine: a name or an engine.
        n: how many.
        temperature: K.
        zero_point: quantum instead of classical amplitudes.
        closest: as in :func:`epot.data.labels.samplers.rattle`.
        seed: of the random numbers.
        known: modes from :func:`modes`, to use them again at another temperature.
        workers: processes for the Hessian.

    Raises:
        ConfigError: an impossible argument.
        EngineError: a calculation failed, or there is no mode to displace along.
    """
    _check(n, temperature=float(temperature))
    if known is None:
        if engine is None:
            raise ConfigError("Normal modes need an engine, or `known` modes.")
        known = modes(relax(structure, engine, workers=workers), engine, workers=workers)
    if not len(known.frequencies):
        raise EngineError(f"{structure.formula} has no vibration to displace along.")
    rng = np.random.default_rng(seed)
    spread = amplitudes(known.frequencies, temperature, zero_point)

    def draw() -> Structure:
        coordinates = rng.normal(size=len(spread)) * spread
        return _moved(known.structure, np.tensordot(coordinates, known.displacements, axes=1))

    how = f"normal_modes_{temperature:g}K"
    return _draw(structure, n, draw, closest, how, "zero_point" if zero_point else "classical")


def amplitudes(frequencies: np.ndarray, temperature: float, zero_point: bool = False) -> np.ndarray:
    """Standard deviations of the mass-weighted normal coordinates, amu^1/2 Å, from angular frequencies in 1/fs."""
    if not zero_point:
        return np.asarray(np.sqrt(KB * temperature * ACCELERATION) / frequencies)
    energy = HBAR * frequencies
    occupied = 1.0 if temperature == 0 else 1 / np.tanh(energy / (2 * KB * temperature))
    return np.asarray(np.sqrt(energy * ACCELERATION / 2 * occupied) / frequencies)


def md(
    structure: Structure,
    engine: str | Engine,
    n: int,
    *,
    temperature: float | Iterable[float] = 300.0,
    timestep: float = 1.0,
    every: int = 20,
    warm_up: int = 100,
    friction: float = 0.02,
    seed: int | np.random.Generator = 0,
    workers: int = 1,
) -> list[Structure]:
    """Frames of a Langevin trajectory on the engine, one trajectory a temperature.

    The integrator is BAOAB (Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34): g(x) of what it samples is
    exact for a harmonic force. The centre of mass is held. Each trajectory is a ``group`` of its own.

    Args:
        structure: where it starts.
        engine: a name or an engine.
        n: frames of each trajectory.
        temperature: K, or several.
        timestep: fs.
        every: steps between frames.
        warm_up: steps before the first frame.
        friction: 1/fs.
        seed: of the random numbers.
        workers: trajectories at a time, each with a process; 0 runs the engine in this one.

    Raises:
        ConfigError: an impossible argument.
        EngineError: a calculation failed.
    """
    wanted = [temperature] if isinstance(temperature, (int, float)) else list(temperature)
    _check(n, timestep=timestep, friction=friction, warm_up=float(warm_up))
    for value in wanted:
        _check(n, temperature=float(value))
    if every < 1:
        raise ConfigError(f"every is {every}; expected at least one step between frames.")
    made = make(engine)
    sources = np.random.default_rng(seed).spawn(len(wanted))
    steps = warm_up + n * every

    def trajectory(kelvin: float, rng: np.random.Generator, shown: Bar) -> list[Structure]:
        how = f"md_{kelvin:g}K"
        group = f"{structure.group or structure.formula}_{how}_{rng.integers(16**6):06x}"
        note = f"timestep={timestep} friction={friction}"
        frames = []
        with remote(made, ("energy", "forces"), workers) as call:
            moves = langevin(structure, call, kelvin, timestep, friction, rng)
            for count, positions in enumerate(islice(moves, steps), 1):
                shown.advance()
                if count > warm_up and (count - warm_up) % every == 0:
                    frame = bare(structure).replace(positions=positions)
                    frames.append(_named(structure, frame, how, f"step={count} {note}", group))
        return frames

    with bar(f"MD of {structure.formula}", steps * len(wanted)) as shown, ThreadPoolExecutor(max(1, workers)) as team:
        found = list(team.map(trajectory, wanted, sources, [shown] * len(wanted)))
    return [frame for frames in found for frame in frames]


def langevin(
    structure: Structure,
    call: Callable[[Structure], dict[str, Any]],
    temperature: float,
    timestep: float,
    friction: float,
    rng: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Positions after each BAOAB step (:func:`md`), for ever; ``call`` gives the labels of a structure."""
    mass = masses(structure)[:, None]
    force = lambda x: call(structure.replace(positions=x))["forces"]  # noqa: E731
    still = lambda v: v - (mass * v).sum(0) / mass.sum() if len(mass) > 1 else v  # noqa: E731
    thermal = np.sqrt(KB * temperature * ACCELERATION / mass)
    keep = np.exp(-friction * timestep)
    positions = structure.positions.copy()
    velocities = still(thermal * rng.normal(size=positions.shape))
    half = 0.5 * timestep
    acceleration = force(positions) / mass * ACCELERATION
    while True:
        velocities = velocities + half * acceleration
        positions = positions + half * velocities
        velocities = still(keep * velocities + np.sqrt(1 - keep**2) * thermal * rng.normal(size=positions.shape))
        positions = positions + half * velocities
        acceleration = force(positions) / mass * ACCELERATION
        velocities = velocities + half * acceleration
        yield positions
