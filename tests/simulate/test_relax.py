import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.constraints import FixAtoms
from lennard_jones import LennardJones
from scipy.optimize import minimize_scalar

from epot.data.structure import Structure
from epot.errors import ConfigError, SimulationError
from epot.simulate.relax import relax
from epot.units import GPA


def rattled():
    atoms = ase.build.bulk("Ar", cubic=True, a=5.5)
    atoms.rattle(0.1, seed=0)
    return atoms


@pytest.mark.parametrize("optimizer", ["lbfgs", "bfgs", "fire"])
def test_dimer_has_the_length_of_the_minimum(optimizer):
    """Closed form: 2^(1/6) sigma and -epsilon."""
    dimer = ase.Atoms("Ar2", [[0, 0, 0], [3.4, 0.3, 0]])
    found = relax(dimer, LennardJones(), fmax=1e-6, optimizer=optimizer)
    assert found.converged
    assert found.atoms.get_distance(0, 1) == pytest.approx(2 ** (1 / 6) * 3.4, abs=1e-4)
    assert found.energy == pytest.approx(-0.0104, abs=1e-9)
    assert found.energy_change < 0
    assert found.max_stress is None
    assert np.array_equal(dimer.positions[0], [0, 0, 0])


@pytest.mark.parametrize("pressure", [0.0, 1.0])
def test_crystal_finds_the_lattice_constant(pressure):
    """Witness: the minimum of the enthalpy over the lattice constant, with ASE's LennardJones."""

    def enthalpy(a):
        atoms = ase.build.bulk("Ar", cubic=True, a=a)
        atoms.calc = AseLennardJones(sigma=3.4, epsilon=0.0104, rc=7.0, ro=5.0, smooth=True)
        return atoms.get_potential_energy() + pressure * GPA * a**3

    best = minimize_scalar(enthalpy, bounds=(4.5, 5.8), method="bounded", options={"xatol": 1e-7}).x
    found = relax(rattled(), LennardJones(), cell="full", pressure=pressure * GPA, fmax=1e-4)
    assert found.converged
    assert np.allclose(found.atoms.cell.array, best * np.eye(3), atol=1e-3)
    assert found.max_stress == pytest.approx(pressure * GPA, abs=1e-5)


def test_kinds_of_cell():
    start = rattled()
    start.cell[:] = start.cell.array @ np.diag([1.02, 1.0, 0.99])
    start.positions = start.positions @ np.diag([1.02, 1.0, 0.99])
    run = {kind: relax(start, LennardJones(), cell=kind, fmax=1e-4).atoms for kind in ("fixed", "volume", "shape")}
    assert np.array_equal(run["fixed"].cell.array, start.cell.array)
    ratio = np.diag(run["volume"].cell.array) / np.diag(start.cell.array)
    assert np.ptp(ratio) < 1e-9
    assert abs(ratio[0] - 1) > 1e-3
    assert run["shape"].get_volume() == pytest.approx(start.get_volume(), rel=1e-6)
    assert np.ptp(np.diag(run["shape"].cell.array)) < np.ptp(np.diag(start.cell.array)) / 5


def test_trajectory_steps_and_constraints(tmp_path):
    start = rattled()
    start.set_constraint(FixAtoms([0]))
    found = relax(Structure.from_ase(start), LennardJones(), fmax=1e-3, trajectory=tmp_path / "a" / "t.xyz", steps=4)
    frames = ase.io.read(tmp_path / "a" / "t.xyz", ":")
    assert not found.converged
    assert found.steps == 4
    assert [f.info["step"] for f in frames] == list(range(len(frames)))
    energies = [f.get_potential_energy() for f in frames]
    assert energies[-1] == pytest.approx(found.energy, abs=1e-7)
    assert np.all(np.diff(energies) < 0)
    fixed = relax(start, LennardJones(), fmax=1e-3, steps=3)
    assert np.array_equal(fixed.atoms.positions[0], start.positions[0])
    assert fixed.summary()["steps"] == 3


def test_the_end_is_compared_with_the_training_set():
    domain = {
        "elements": ["Ar"], "cutoff": 7.0, "closest": {"Ar-Ar": 4.5}, "neighbors": {"Ar": [10, 200]},
    }  # fmt: skip
    found = relax(rattled(), LennardJones(), about={"domain": domain}, fmax=1e-2)
    assert any("Ar-Ar" in text for text in found.violations)


def test_what_cannot_be_is_refused():
    dimer = ase.Atoms("Ar2", [[0, 0, 0], [3.4, 0, 0]])
    with pytest.raises(ConfigError, match="lbfgs"):
        relax(dimer, LennardJones(), optimizer="lbfg")
    with pytest.raises(ConfigError, match="periodic"):
        relax(dimer, LennardJones(), cell="full")
    with pytest.raises(ConfigError, match="fmax"):
        relax(dimer, LennardJones(), fmax=0.0)
    dimer.positions[1] = dimer.positions[0] + 1e-5
    with pytest.raises(SimulationError, match="one place"):
        relax(dimer, LennardJones())
