import ase.build
import ase.md.bussi
import ase.md.langevinbaoab
import ase.md.verlet
import ase.units
import numpy as np
import pytest
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.constraints import FixAtoms
from lennard_jones import LennardJones, QuickLennardJones, QuickSprings
from scipy.stats import kstest

from epot.errors import ConfigError
from epot.simulate.calculator import Calculator
from epot.simulate.integrators import (
    FS,
    Bussi,
    CellRescaling,
    Langevin,
    VelocityVerlet,
    degrees_of_freedom,
    draw_momenta,
)
from epot.units import GPA, KB


def argon(temperature=60.0, n=2, a=5.3):
    atoms = ase.build.bulk("Ar", cubic=True, a=a) * (n, n, n)
    draw_momenta(atoms, temperature, np.random.default_rng(0))
    return atoms


def ase_argon():
    atoms = argon()
    atoms.calc = AseLennardJones(sigma=3.4, epsilon=0.0104, rc=7.0, ro=5.0, smooth=True)
    return atoms


def our_argon():
    atoms = argon()
    atoms.calc = Calculator(LennardJones())
    return atoms


def quick_argon():
    atoms = argon()
    atoms.calc = QuickLennardJones()
    return atoms


def repeat(integrator, steps):
    for _ in range(steps):
        integrator.step()
    return integrator.atoms


def test_femtosecond():
    assert pytest.approx(0.09822694788) == FS


def test_verlet_is_that_of_ase():
    """Witness: ASE's VelocityVerlet on ASE's LennardJones."""
    ours = repeat(VelocityVerlet(our_argon(), 4.0), 40)
    theirs = ase_argon()
    ase.md.verlet.VelocityVerlet(theirs, 4.0 * ase.units.fs).run(40)
    assert np.abs(ours.positions - theirs.positions).max() < 1e-11
    assert np.abs(ours.get_momenta() - theirs.get_momenta()).max() < 1e-11


def test_bussi_is_that_of_ase():
    """Witness: ASE's Bussi, with the same random numbers and our count of the degrees of freedom."""
    integrator = Bussi(our_argon(), 4.0, 60.0, np.random.default_rng(5), relaxation=80.0)
    theirs = ase_argon()
    dynamics = ase.md.bussi.Bussi(theirs, 4.0 * ase.units.fs, 60.0, 80.0 * ase.units.fs, rng=np.random.default_rng(5))
    dynamics.ndof = integrator.freedom
    dynamics.target_kinetic_energy = 0.5 * 60.0 * ase.units.kB * integrator.freedom
    ours = repeat(integrator, 40)
    dynamics.run(40)
    assert np.abs(ours.positions - theirs.positions).max() < 1e-6  # their kB is CODATA 2014
    assert abs(integrator.exchanged - dynamics.transferred_energy) < 1e-7


def test_langevin_is_that_of_ase():
    """Witness: ASE's LangevinBAOAB with the same random numbers."""
    ours = repeat(Langevin(our_argon(), 4.0, 60.0, np.random.default_rng(6), friction=0.01), 40)
    theirs = ase_argon()
    ase.md.langevinbaoab.LangevinBAOAB(
        theirs, 4.0 * ase.units.fs, temperature_K=60.0, T_tau=100.0 * ase.units.fs, rng=np.random.default_rng(6)
    ).run(40)
    assert np.abs(ours.positions - theirs.positions).max() < 1e-6


def test_the_quick_lennard_jones_is_that_of_ase():
    """So that what many steps of it show holds for the potential of the other tests."""
    ours, theirs = quick_argon(), argon()
    ours.rattle(0.2, seed=0)
    ours.cell[:] = ours.cell.array @ (np.eye(3) + 0.02 * np.array([[0, 1, 0.5], [1, 1, 0], [0.5, 0, 1]]))
    theirs.positions, theirs.cell = ours.positions, ours.cell
    theirs.calc = AseLennardJones(sigma=3.4, epsilon=0.0104, rc=5.2, ro=4.2, smooth=True)
    assert abs(ours.get_potential_energy() - theirs.get_potential_energy()) < 1e-12
    assert np.abs(ours.get_forces() - theirs.get_forces()).max() < 1e-12
    assert np.abs(ours.get_stress() - theirs.get_stress()).max() < 1e-14


def test_energy_error_of_verlet_is_of_second_order():
    errors = []
    for timestep in (8.0, 4.0):
        integrator = VelocityVerlet(quick_argon(), timestep)
        start = integrator.conserved()
        worst = 0.0
        for _ in range(int(400 / timestep)):
            integrator.step()
            worst = max(worst, abs(integrator.conserved() - start))
        errors.append(worst)
    assert 3.3 < errors[0] / errors[1] < 4.8


@pytest.mark.parametrize("kind", ["langevin", "bussi", "npt", "npt-shape"])
def test_what_thermostat_and_barostat_exchange_is_booked(kind):
    """The conserved quantity drifts by less than 1e-3 of what the total energy does."""
    atoms, rng = quick_argon(), np.random.default_rng(1)
    if kind == "langevin":
        integrator = Langevin(atoms, 2.0, 60.0, rng, friction=0.01)
    elif kind == "bussi":
        integrator = Bussi(atoms, 2.0, 60.0, rng, relaxation=100.0)
    else:
        options = {"pressure": 0.1 * GPA, "pressure_relaxation": 300.0, "shape": kind == "npt-shape"}
        integrator = CellRescaling(atoms, 2.0, 60.0, rng, 100.0, **options)
    start, total = integrator.conserved(), atoms.get_total_energy()
    repeat(integrator, 400)
    changed = abs(atoms.get_total_energy() - total)
    assert changed > 0.05
    assert abs(integrator.conserved() - start) < (1e-3 if "npt" not in kind else 5e-3) * changed


def kinetic_energies(make, steps=6000, every=5):
    """Of independent oscillators, in kT; and the potential energies."""
    rng = np.random.default_rng(2)
    sites = rng.uniform(0, 30, (8, 3))
    atoms = ase.Atoms("Ar4Ne4", sites)
    draw_momenta(atoms, 300.0, rng)
    atoms.positions += rng.normal(size=sites.shape) * np.sqrt(KB * 300 / 2.0)
    atoms.calc = QuickSprings(sites, 2.0)
    integrator = make(atoms, rng)
    found = []
    for k in range(steps):
        integrator.step()
        if k % every == 0:
            found.append((atoms.get_kinetic_energy(), atoms.get_potential_energy()))
    return np.array(found).T / (KB * 300.0), integrator.freedom


def canonical(values, freedom, tolerance):
    """Mean n/2 and variance n/2 of a kinetic energy in kT: the gamma distribution."""
    return abs(values.mean() / (freedom / 2) - 1) < tolerance and abs(values.var() / (freedom / 2) - 1) < 3 * tolerance


def test_langevin_samples_the_canonical_distribution():
    (kinetic, potential), freedom = kinetic_energies(lambda atoms, rng: Langevin(atoms, 10.0, 300.0, rng, 0.02))
    assert freedom == 24
    assert canonical(kinetic, 24, 0.05)
    assert canonical(potential, 24, 0.05)
    thin = kinetic[::40]  # apart by several relaxation times
    assert kstest(thin, "gamma", args=(12,)).pvalue > 1e-3


def test_bussi_samples_the_canonical_distribution():
    (kinetic, _), freedom = kinetic_energies(lambda atoms, rng: Bussi(atoms, 10.0, 300.0, rng, relaxation=50.0))
    assert canonical(kinetic, freedom, 0.05)


def test_control_a_weak_coupling_thermostat_is_too_narrow():
    """Berendsen's rescaling holds the mean and squeezes the fluctuations: the test of the variance sees it."""

    class Berendsen(Bussi):
        def rescale(self):
            target = 0.5 * self.freedom * self.kT
            factor = 1 + (1 - self.keep) * (target / self.atoms.get_kinetic_energy() - 1)
            self.atoms.set_momenta(np.sqrt(factor) * self.atoms.get_momenta())

    (kinetic, _), freedom = kinetic_energies(lambda atoms, rng: Berendsen(atoms, 10.0, 300.0, rng, relaxation=50.0))
    assert abs(kinetic.mean() / (freedom / 2) - 1) < 0.05
    assert not canonical(kinetic, freedom, 0.05)


@pytest.mark.parametrize("shape", [False, True])
def test_mean_pressure_is_the_target(shape):
    """With its statistical error from blocks; the start is far off (control)."""
    target = 0.15 * GPA
    atoms = argon(a=5.6, temperature=40.0)
    atoms.calc = QuickLennardJones()
    rng = np.random.default_rng(3)
    integrator = CellRescaling(atoms, 5.0, 40.0, rng, 50.0, pressure=target, pressure_relaxation=100.0, shape=shape)
    first = np.trace(integrator.pressure_tensor()) / 3
    found = []
    for k in range(1800):
        integrator.step()
        if k >= 400:
            found.append(np.diag(integrator.pressure_tensor()))
    blocks = np.array(found).mean(1).reshape(10, -1).mean(1)
    error = blocks.std(ddof=1) / np.sqrt(10)
    assert abs(blocks.mean() - target) < 4 * error
    assert error < 0.15 * abs(first - target)
    assert np.abs(atoms.cell.array - np.diag(np.diag(atoms.cell.array))).max() > 1e-3 if shape else True


def test_volume_alone_keeps_the_shape():
    atoms = our_argon()
    cell = atoms.cell.array.copy()
    repeat(CellRescaling(atoms, 4.0, 60.0, np.random.default_rng(0), pressure=GPA), 50)
    ratio = atoms.cell.array[cell != 0] / cell[cell != 0]
    assert np.ptp(ratio) < 1e-12
    assert abs(ratio[0] - 1) > 1e-4


def test_volume_fluctuates_as_the_ideal_gas_does():
    """Closed form: N free particles with their center of mass at rest have the weight V^(N-1) exp(-PV/kT) dV, a gamma
    distribution: the mean volume is N kT/P and its relative variance 1/N.
    """
    n, temperature, pressure = 16, 300.0, 0.5 * GPA
    rng = np.random.default_rng(4)
    side = (n * KB * temperature / pressure) ** (1 / 3)
    atoms = ase.Atoms("Ar16", rng.uniform(0, side, (n, 3)), cell=[side] * 3, pbc=True)
    draw_momenta(atoms, temperature, rng)
    atoms.calc = QuickSprings(atoms.positions, 0.0)
    beta = 1 / pressure  # of the ideal gas
    integrator = CellRescaling(
        atoms, 2.0, temperature, rng, 20.0, pressure=pressure, pressure_relaxation=20.0, compressibility=beta
    )
    volumes = []
    for _ in range(4000):
        integrator.step()
        volumes.append(atoms.get_volume())
    mean, spread = np.mean(volumes[200:]), np.std(volumes[200:])
    assert mean == pytest.approx(n * KB * temperature / pressure, rel=0.06)
    assert spread / mean == pytest.approx(n**-0.5, rel=0.2)


def test_drawn_momenta():
    """Center of mass at rest, no rotation, and the canonical mean on the degrees of freedom that are left."""
    energies = []
    for seed in range(300):
        atoms = ase.build.molecule("H2O")
        draw_momenta(atoms, 300.0, np.random.default_rng(seed))
        energies.append(atoms.get_kinetic_energy())
        assert np.abs(atoms.get_momenta().sum(0)).max() < 1e-12
        assert np.abs(atoms.get_angular_momentum()).max() < 1e-12
    assert degrees_of_freedom(atoms) == 3
    assert np.mean(energies) / (KB * 300) == pytest.approx(1.5, abs=4 * np.sqrt(1.5 / 300))


def test_degrees_of_freedom():
    def count(atoms, **drawn):
        draw_momenta(atoms, 300.0, np.random.default_rng(0))
        return degrees_of_freedom(atoms)

    assert count(ase.build.molecule("CO2")) == 4  # on a line: 9 - 3 - 2
    assert count(ase.build.molecule("C6H6")) == 30
    assert count(ase.build.bulk("Ar", cubic=True)) == 9
    fixed = ase.build.bulk("Ar", cubic=True)
    fixed.set_constraint(FixAtoms([0, 1]))
    assert count(fixed) == 6
    moving = ase.build.bulk("Ar", cubic=True)
    moving.set_momenta(np.ones((4, 3)))
    assert degrees_of_freedom(moving) == 12


def test_fixed_atoms_stay():
    atoms = our_argon()
    atoms.set_constraint(FixAtoms([0, 5]))
    draw_momenta(atoms, 60.0, np.random.default_rng(0))
    before = atoms.positions.copy()
    integrator = Langevin(atoms, 4.0, 60.0, np.random.default_rng(1))
    assert integrator.freedom == 3 * (len(atoms) - 2)
    repeat(integrator, 20)
    assert np.array_equal(atoms.positions[[0, 5]], before[[0, 5]])
    assert np.abs(atoms.positions - before).max() > 0.01


def test_what_cannot_be_is_refused():
    rng = np.random.default_rng(0)
    molecule = ase.build.molecule("H2O")
    draw_momenta(molecule, 300.0, rng)
    with pytest.raises(ConfigError, match="periodic along all three"):
        CellRescaling(molecule, 1.0, 300.0, rng)
    with pytest.raises(ConfigError, match="timestep"):
        VelocityVerlet(molecule, 0.0)
    with pytest.raises(ConfigError, match="temperature"):
        Langevin(molecule, 1.0, 0.0, rng)
    with pytest.raises(ConfigError, match="friction"):
        Langevin(molecule, 1.0, 300.0, rng, friction=0.0)
    with pytest.raises(ConfigError, match="velocities"):
        Bussi(ase.build.molecule("H2O"), 1.0, 300.0, rng)
    with pytest.raises(ConfigError, match="degree of freedom"):
        VelocityVerlet(ase.Atoms("Ar"), 1.0)
