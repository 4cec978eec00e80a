"""Samplers: what they promise about distances, temperature and strain."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from epot.data.labels import samplers, vibrations
from epot.data.labels.engines import make
from epot.data.structure import Structure
from epot.errors import ConfigError, DataError, EngineError
from epot.units import KB


def copper():
    return Structure.from_ase(bulk("Cu", cubic=True))


def water():
    return Structure.from_ase(molecule("H2O"))


class Springs:
    """A harmonic molecule: exactly quadratic, in the directions that are not rigid motions."""

    name = "springs"
    provides = ("energy", "forces")
    level = "harmonic"

    def __init__(self, minimum, seed=0):
        self.minimum = minimum
        n = minimum.positions.size
        basis = vibrations._internal(minimum, np.ones(n))  # unit masses: plain translations and rotations
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(basis.shape[1],) * 2)
        inner = root @ root.T + 3 * np.eye(basis.shape[1])
        self.hessian = basis @ inner @ basis.T

    def version(self):
        return "springs 1"

    def __call__(self, structure, properties=("energy", "forces")):
        shift = (structure.positions - self.minimum.positions).ravel()
        pull = self.hessian @ shift
        return {"energy": float(0.5 * shift @ pull), "forces": -pull.reshape(-1, 3)}


def modes_of(springs):
    n = len(springs.minimum)
    weights = np.repeat(samplers.masses(springs.minimum), 3) ** -0.5
    internal = vibrations._internal(springs.minimum, 1 / weights)
    dynamical = springs.hessian * np.outer(weights, weights) * vibrations.ACCELERATION
    squares, vectors = np.linalg.eigh(internal.T @ dynamical @ internal)
    displacements = ((internal @ vectors) * weights[:, None]).T.reshape(-1, n, 3)
    return vibrations.Modes(springs.minimum, np.sqrt(squares), displacements, np.zeros(0))


def test_rattle_has_its_spread_and_its_seed():
    parent = copper().replace(positions=copper().positions + 0.0)
    frames = samplers.rattle(parent, 100, stdev=0.03, seed=3)
    shifts = np.array([f.positions for f in frames]) - parent.positions
    assert shifts.std() == pytest.approx(0.03, rel=0.08)  # 1200 numbers: 2 % standard error
    assert abs(shifts.mean()) < 0.004
    again = samplers.rattle(parent, 100, stdev=0.03, seed=3)
    np.testing.assert_array_equal(frames[-1].positions, again[-1].positions)
    assert not np.array_equal(frames[-1].positions, samplers.rattle(parent, 100, stdev=0.03, seed=4)[-1].positions)
    assert {f.config_type for f in frames} == {"rattle"}
    assert len({f.group for f in frames}) == 1
    assert not any(f.has("energy") for f in frames)


def test_atoms_are_kept_apart():
    pair = Structure(np.array([8, 8]), np.array([[0.0, 0, 0], [0, 0, 1.3]]))
    frames = samplers.rattle(pair, 50, stdev=0.3, closest=0.9, seed=0)
    near = [samplers.nearest_pair(f, 9.0) for f in frames]
    assert min(near) >= 0.9
    free = [samplers.nearest_pair(f, 9.0) for f in samplers.rattle(pair, 50, stdev=0.3, closest=0.0, seed=0)]
    assert min(free) < 0.9  # control
    with pytest.raises(DataError, match="smaller displacements"):
        samplers.rattle(copper(), 5, stdev=3.0, closest=0.95)


def test_images_count_as_neighbors():
    chain = Structure(np.array([29]), np.zeros((1, 3)), np.diag([2.0, 9.0, 9.0]), True)
    assert samplers.nearest_pair(chain) == pytest.approx(2.0 / (2 * 1.32))


def test_strain_is_symmetric_and_bounded():
    parent = copper()
    frames = samplers.strain(parent, 100, maximum=0.04, stdev=0.0, seed=1)
    found = np.array([np.linalg.solve(parent.cell, f.cell) - np.eye(3) for f in frames])
    np.testing.assert_allclose(found, found.transpose(0, 2, 1), atol=1e-12)
    assert np.abs(found).max() <= 0.04
    assert np.abs(found).max() > 0.036
    # Scaled positions are unchanged: the atoms move with the cell.
    scaled = np.linalg.solve(frames[0].cell.T, frames[0].positions.T)
    np.testing.assert_allclose(scaled, np.linalg.solve(parent.cell.T, parent.positions.T), atol=1e-12)
    with pytest.raises(DataError, match="no cell to strain"):
        samplers.strain(water(), 1)


def test_volumes():
    frames = samplers.volumes(copper(), 5, lowest=0.8, highest=1.2)
    np.testing.assert_allclose([f.volume / copper().volume for f in frames], [0.8, 0.9, 1.0, 1.1, 1.2])


def test_impossible_arguments():
    with pytest.raises(ConfigError, match="at least 1"):
        samplers.rattle(copper(), 0)
    with pytest.raises(ConfigError, match="stdev is -1"):
        samplers.rattle(copper(), 1, stdev=-1.0)
    with pytest.raises(ConfigError, match="lowest < highest"):
        samplers.volumes(copper(), 3, lowest=1.2, highest=0.8)


def test_modes_are_those_of_the_hessian():
    springs = Springs(water())
    known = vibrations.modes(water(), springs, workers=0)
    exact = modes_of(springs)
    assert len(known.frequencies) == 3  # 9 less 3 translations and 3 rotations
    np.testing.assert_allclose(known.frequencies, exact.frequencies, rtol=1e-9)
    assert len(known.imaginary) == 0


def test_classical_sampling_has_half_kt_a_mode():
    # Closed form: equipartition, <E> = kT/2 for each of the 3 modes.
    springs = Springs(water())
    known = modes_of(springs)
    frames = vibrations.normal_modes(water(), None, 1500, temperature=300.0, closest=0.0, known=known, seed=2)
    energies = np.array([springs(f)["energy"] for f in frames])
    error = energies.std() / np.sqrt(len(energies))
    assert abs(energies.mean() - 1.5 * KB * 300) < 4 * error
    assert error < 0.03 * 1.5 * KB * 300
    hotter = vibrations.normal_modes(water(), None, 1500, temperature=400.0, closest=0.0, known=known, seed=2)
    assert abs(np.mean([springs(f)["energy"] for f in hotter]) - 1.5 * KB * 300) > 4 * error  # control


def test_zero_point():
    # Closed form: at 0 K the potential energy of a mode is a quarter of its quantum; at high temperature kT/2.
    frequencies = np.array([0.1, 0.7])
    for kelvin, energy in ((0.0, vibrations.HBAR * frequencies / 4), (1e6, np.full(2, KB * 1e6 / 2))):
        spread = vibrations.amplitudes(frequencies, kelvin, zero_point=True)
        potential = 0.5 * frequencies**2 * spread**2 / vibrations.ACCELERATION
        np.testing.assert_allclose(potential, energy, rtol=1e-3)
    assert np.all(vibrations.amplitudes(frequencies, 0.0) == 0)


def test_md_samples_the_temperature():
    # Closed form: BAOAB's positions are exact for a harmonic force: <E> = kT/2 a mode; block averages for the error.
    springs = Springs(water())
    frames = vibrations.md(
        water(), springs, 800, temperature=300.0, timestep=1.0, every=5, warm_up=100, friction=0.05, seed=5, workers=0
    )
    energies = np.array([springs(f)["energy"] for f in frames])
    blocks = energies.reshape(20, -1).mean(1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    assert abs(energies.mean() - 1.5 * KB * 300) < 4 * error
    assert error < 0.2 * 1.5 * KB * 300


def test_md_trajectories_are_groups():
    engine = make("ase.calculators.emt:EMT")
    frames = vibrations.md(copper(), engine, 2, temperature=(300.0, 600.0), every=2, warm_up=2, seed=0, workers=0)
    assert [f.config_type for f in frames] == ["md_300K", "md_300K", "md_600K", "md_600K"]
    assert len({f.group for f in frames}) == 2
    again = vibrations.md(copper(), engine, 2, temperature=(300.0, 600.0), every=2, warm_up=2, seed=0, workers=2)
    np.testing.assert_array_equal(frames[-1].positions, again[-1].positions)


def test_relaxing_finds_the_minimum():
    squeezed = water().replace(positions=water().positions * 1.1)
    engine = Springs(water())
    relaxed = vibrations.relax(squeezed, engine, fmax=1e-4, workers=0)
    assert relaxed.energy == pytest.approx(0, abs=1e-8)
    assert np.abs(relaxed.forces).max() < 1e-4
    with pytest.raises(EngineError, match="did not relax"):
        vibrations.relax(squeezed, engine, fmax=1e-12, steps=1, workers=0)


def test_modes_of_water_by_gfn2(tmp_path):
    # Witness: ASE's own vibrational analysis on tblite's own calculator.
    tblite = pytest.importorskip("tblite.ase")
    from ase.vibrations import Vibrations

    minimum = vibrations.relax(water(), "gfn2", fmax=1e-3, workers=0)
    found = vibrations.modes(minimum, "gfn2", workers=0).wavenumbers
    atoms = minimum.to_ase()
    atoms.calc = tblite.TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.01)
    analysis = Vibrations(atoms, name=str(tmp_path / "vib"), delta=0.005, nfree=4)
    analysis.run()
    expected = analysis.get_frequencies()[-3:].real
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    assert not np.allclose(found, np.sqrt(2) * expected, rtol=0.05)  # the control: a wrong factor of two in a mass
