"""Integrators of the equations of motion that can be stopped and continued to the last bit.

What sets them apart from those of ASE, which they are tested against: each keeps account of the energy that its
thermostat and barostat put in, so that every ensemble has a conserved quantity whose drift measures the time
step; each counts the degrees of freedom that are really thermal (the center of mass of a molecule at rest is
not); and each gives its whole state away as plain numbers.

Time is in ASE's unit, Å sqrt(amu/eV) (:data:`FS` of them are a femtosecond), momenta in sqrt(amu eV).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ase
import ase.units
import numpy as np
from scipy.linalg import expm

from ..errors import ConfigError
from ..units import KB, stress

FS = ase.units.fs
COMPRESSIBILITY = 1e-5 / stress("bar")  # Å^3/eV: between water (4.6e-5 / bar) and a metal (1e-6 / bar)


def degrees_of_freedom(atoms: ase.Atoms) -> int:
    """Momenta that a temperature speaks of: 3 per atom, less constraints, less what is conserved and zero.

    The momentum of the center of mass is taken off where the atoms are not constrained and it is zero, and so is the
    angular momentum of atoms without periodic axes (2 for those on a line).
    """
    if atoms.constraints:
        return int(atoms.get_number_of_degrees_of_freedom())
    n = 3 * len(atoms)
    momenta = atoms.get_momenta()
    small = 1e-8 * (np.abs(momenta).max(initial=0.0) + 1e-30)
    if np.abs(momenta.sum(0)).max() > small * len(atoms):
        return n
    n -= 3
    arms = atoms.positions - atoms.get_center_of_mass()
    if not atoms.pbc.any() and len(atoms) > 1:
        angular = np.abs(np.cross(arms, momenta).sum(0)).max()
        if angular <= small * np.abs(arms).sum():
            n -= np.linalg.matrix_rank(_inertia(atoms), tol=1e-6 * np.abs(_inertia(atoms)).max())
    return int(n)


def draw_momenta(atoms: ase.Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann momenta; then center of mass at rest and, without periodic axes, no rotation.

    Taking those out is a projection, so what is left has the canonical distribution on its own degrees of freedom:
    nothing is scaled, and the temperature of a few atoms fluctuates as it should.

    Args:
        atoms: changed in place.
        temperature: K.
        rng: where the numbers come from.
    """
    masses = atoms.get_masses()[:, None]
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * KB * temperature)
    if not atoms.constraints and len(atoms) > 1:
        momenta -= masses * (momenta.sum(0) / masses.sum())
        if not atoms.pbc.any():
            arms = atoms.positions - atoms.get_center_of_mass()
            spin = np.linalg.pinv(_inertia(atoms), rcond=1e-8) @ np.cross(arms, momenta).sum(0)
            momenta -= masses * np.cross(spin, arms)
    atoms.set_momenta(momenta)


def _inertia(atoms: ase.Atoms) -> np.ndarray:
    arms = atoms.positions - atoms.get_center_of_mass()
    masses = atoms.get_masses()
    square = np.einsum("i,ia,ia->", masses, arms, arms)
    return square * np.eye(3) - np.einsum("i,ia,ib->ab", masses, arms, arms)


class VelocityVerlet:
    """Newton's equations: constant energy (Swope, Andersen, Berens, Wilson, J. Chem. Phys. 76, 637, 1982, Eq. 2.5).

    Args:
        atoms: with a calculator and momenta; moved in place. Constraints are respected as ASE's integrator does.
        timestep: fs.

    Attributes:
        exchanged: eV, put in by thermostat and barostat so far.
    """

    def __init__(self, atoms: ase.Atoms, timestep: float) -> None:
        if not timestep > 0:
            raise ConfigError(f"timestep is {timestep!r}; expected femtoseconds, more than 0.")
        self.atoms, self.dt = atoms, timestep * FS
        self.masses = atoms.get_masses()[:, None]
        self.exchanged = 0.0
        self.freedom = degrees_of_freedom(atoms)
        if self.freedom <= 0:
            raise ConfigError("These atoms have no degree of freedom to move in (one atom alone, or all are fixed).")

    def step(self) -> None:
        """One time step; afterwards forces of the new positions are in the calculator."""
        self.kick(self.dt / 2)
        self.drift(self.dt)
        self.kick(self.dt / 2)

    def kick(self, dt: float) -> None:
        self.atoms.set_momenta(self.atoms.get_momenta() + dt * self.atoms.get_forces(md=True))

    def drift(self, dt: float) -> None:
        atoms = self.atoms
        momenta, positions = atoms.get_momenta(), atoms.positions.copy()
        atoms.set_positions(positions + dt * momenta / self.masses)
        if atoms.constraints:  # RATTLE: the momenta that led to where the constraint allowed the atoms to go
            atoms.set_momenta((atoms.positions - positions) * self.masses / dt)

    def conserved(self) -> float:
        """eV, constant but for the error of the time step."""
        return float(self.atoms.get_potential_energy() + self.atoms.get_kinetic_energy() - self.exchanged)

    def temperature(self) -> float:
        """K, of the thermal degrees of freedom."""
        return float(2 * self.atoms.get_kinetic_energy() / (self.freedom * KB))

    def state(self) -> dict[str, Any]:
        """What is not in positions, momenta and cell: JSON."""
        return {"exchanged": self.exchanged, "freedom": self.freedom}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state` gave."""
        self.exchanged, self.freedom = float(state["exchanged"]), int(state["freedom"])


class _Stochastic(VelocityVerlet):
    """With a temperature and random numbers."""

    def __init__(self, atoms: ase.Atoms, timestep: float, temperature: float, rng: np.random.Generator) -> None:
        super().__init__(atoms, timestep)
        if not temperature > 0:
            raise ConfigError(f"temperature is {temperature!r}; expected kelvin, more than 0.")
        self.kT, self.rng = KB * temperature, rng

    def state(self) -> dict[str, Any]:
        return super().state() | {"rng": self.rng.bit_generator.state}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.rng.bit_generator.state = state["rng"]


class Langevin(_Stochastic):
    """Langevin dynamics in the order BAOAB (Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34, Eq. 7).

    Of the orders of kick B, drift A and friction O it has the smallest error in the distribution of positions, none for
    harmonic forces.

    Args:
        atoms, timestep: as for :class:`VelocityVerlet`.
        temperature: K.
        friction: 1/fs; 0.01 couples weakly enough to keep dynamics of a few ps, 0.001 is for transport.
        rng: random numbers.
    """

    def __init__(
        self, atoms: ase.Atoms, timestep: float, temperature: float, rng: np.random.Generator, friction: float = 0.01
    ) -> None:
        super().__init__(atoms, timestep, temperature, rng)
        if not friction > 0:
            raise ConfigError(f"friction is {friction!r}; expected a rate in 1/fs, more than 0.")
        self.keep = math.exp(-friction / FS * self.dt)
        if not atoms.constraints:
            self.freedom = 3 * len(atoms)  # the bath moves the center of mass too

    def step(self) -> None:
        self.kick(self.dt / 2)
        self.drift(self.dt / 2)
        self.rub()
        self.drift(self.dt / 2)
        self.kick(self.dt / 2)

    def rub(self) -> None:
        """O: friction and noise, exactly; what they put in is booked."""
        atoms = self.atoms
        before = atoms.get_kinetic_energy()
        noise = self.rng.standard_normal((len(atoms), 3)) * np.sqrt(self.masses * self.kT * (1 - self.keep**2))
        atoms.set_momenta(self.keep * atoms.get_momenta() + noise)
        self.exchanged += atoms.get_kinetic_energy() - before


class Bussi(_Stochastic):
    """Stochastic velocity rescaling (Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101, 2007, Eq. A7).

    One random number acts on all velocities, so the dynamics is hardly disturbed.

    Args:
        atoms, timestep, rng: as for :class:`Langevin`.
        temperature: K.
        relaxation: fs, of the kinetic energy.
    """

    def __init__(
        self, atoms: ase.Atoms, timestep: float, temperature: float, rng: np.random.Generator, relaxation: float = 100.0
    ) -> None:
        super().__init__(atoms, timestep, temperature, rng)
        if not relaxation > 0:
            raise ConfigError(f"relaxation is {relaxation!r}; expected femtoseconds, more than 0.")
        self.keep = math.exp(-self.dt / (relaxation * FS))
        if atoms.get_kinetic_energy() <= 0:
            raise ConfigError("A thermostat that rescales velocities needs some: draw them (velocities='draw').")

    def step(self) -> None:
        self.rescale()
        super().step()

    def rescale(self) -> None:
        kinetic = self.atoms.get_kinetic_energy()
        normal = self.rng.standard_normal()
        rest = 2.0 * self.rng.standard_gamma(0.5 * (self.freedom - 1)) if self.freedom > 1 else 0.0
        share = (1 - self.keep) * 0.5 * self.kT / kinetic
        square = self.keep + share * (rest + normal**2) + 2 * normal * math.sqrt(self.keep * share)
        sign = 1.0 if normal + math.sqrt(self.keep / share) >= 0 else -1.0  # Eq. A8
        self.atoms.set_momenta(sign * math.sqrt(square) * self.atoms.get_momenta())
        self.exchanged += (square - 1) * kinetic


class CellRescaling(Bussi):
    """Constant pressure: stochastic cell rescaling, of first order and with the right fluctuations.

    Bernetti, Bussi, J. Chem. Phys. 153, 114107 (2020), Eq. 5, for the volume; Del Tatto, Raiteri, Bernetti, Bussi,
    Appl. Sci. 12, 1139 (2022), Eq. 5, for the whole cell, kept from turning by taking symmetric strains only:

        d(strain) = -(beta/3 tau) (P_0 - P) dt + sqrt(2 beta kT / (3 V tau)) dW,

    beta the compressibility, P the pressure tensor; of the volume alone its trace. The temperature is held by
    :class:`Bussi`.

    Args:
        atoms, timestep, temperature, rng, relaxation: as for :class:`Bussi`.
        pressure: eV/Å^3, positive when it compresses.
        pressure_relaxation: fs; the true time is this times (true / assumed compressibility).
        compressibility: Å^3/eV.
        shape: let the cell change its shape too (crystals); False: the volume alone (liquids).
    """

    def __init__(
        self, atoms: ase.Atoms, timestep: float, temperature: float, rng: np.random.Generator,
        relaxation: float = 100.0, *, pressure: float = 0.0, pressure_relaxation: float = 1000.0,
        compressibility: float = COMPRESSIBILITY, shape: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(atoms, timestep, temperature, rng, relaxation)
        if not atoms.pbc.all():
            raise ConfigError("Constant pressure needs a cell that is periodic along all three axes.")
        if not (pressure_relaxation > 0 and compressibility > 0):
            raise ConfigError("pressure_relaxation (fs) and compressibility (Å^3/eV) must be more than 0.")
        if atoms.constraints:
            raise ConfigError("Constant pressure moves every atom with the cell: take the constraints off.")
        self.pressure, self.shape = pressure, shape
        self.rate = compressibility / (3 * pressure_relaxation * FS)

    def step(self) -> None:
        self.rescale()
        strain = self.draw_strain()
        before = self.virial()
        self.kick(self.dt / 2)
        self.drift(self.dt)
        self.deform(strain)
        self.kick(self.dt / 2)
        # The potential energy that the deformation alone brought, by the trapezoidal rule: error of third order.
        self.exchanged -= 0.5 * float(np.sum((before + self.virial()) * strain))

    def virial(self) -> np.ndarray:
        """-dU/d(strain), eV."""
        return -self.atoms.get_volume() * self.atoms.get_stress(voigt=False)

    def pressure_tensor(self) -> np.ndarray:
        """eV/Å^3, with the kinetic part."""
        momenta = self.atoms.get_momenta()
        return (momenta.T @ (momenta / self.masses) + self.virial()) / self.atoms.get_volume()

    def draw_strain(self) -> np.ndarray:
        noise = math.sqrt(2 * self.kT * self.rate * self.dt / self.atoms.get_volume())
        if self.shape:
            random = self.rng.standard_normal((3, 3))
            away = self.pressure_tensor() - self.pressure * np.eye(3)
            return self.rate * self.dt * away + noise * 0.5 * (random + random.T)
        away = np.trace(self.pressure_tensor()) / 3 - self.pressure
        size = self.rate * self.dt * away + noise * self.rng.standard_normal() / math.sqrt(3)
        return size * np.eye(3)

    def deform(self, strain: np.ndarray) -> None:
        """Cell and positions by exp(strain), momenta by its inverse."""
        atoms = self.atoms
        kinetic, volume = atoms.get_kinetic_energy(), atoms.get_volume()
        stretch = expm(strain)
        atoms.set_cell(atoms.cell.array @ stretch, scale_atoms=False)
        atoms.set_positions(atoms.positions @ stretch)
        atoms.set_momenta(atoms.get_momenta() @ np.linalg.inv(stretch))
        self.exchanged += atoms.get_kinetic_energy() - kinetic + self.pressure * (atoms.get_volume() - volume)

    def conserved(self) -> float:
        """eV: enthalpy less what was exchanged."""
        return super().conserved() + self.pressure * self.atoms.get_volume()
