import ase.build
import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.lj import LennardJones as AseLennardJones
from lennard_jones import LennardJones

from epot.data.structure import Structure
from epot.errors import ModelError, SimulationError, UnknownElementError
from epot.geometry.graph import build
from epot.potential import Output, Potential
from epot.predict import predict
from epot.simulate.calculator import Calculator

CALIBRATION = {"kind": "ensemble", "energy": 2.0, "forces": 3.0, "stress": 4.0}


def crystal():
    atoms = ase.build.bulk("Ar", cubic=True, a=5.3) * (2, 2, 2)
    atoms.rattle(0.1, seed=0)
    return atoms


def test_energy_forces_stress_are_those_of_ase():
    """Witness: ASE's own LennardJones with the same smooth cutoff."""
    ours, theirs = crystal(), crystal()
    ours.calc = Calculator(LennardJones())
    theirs.calc = AseLennardJones(sigma=3.4, epsilon=0.0104, rc=7.0, ro=5.0, smooth=True)
    assert abs(ours.get_potential_energy() - theirs.get_potential_energy()) < 1e-12
    assert ours.get_potential_energy() == ours.get_potential_energy(force_consistent=True)
    assert np.abs(ours.get_forces() - theirs.get_forces()).max() < 1e-14
    assert np.abs(ours.get_stress() - theirs.get_stress()).max() < 1e-15
    assert np.abs(ours.get_potential_energies() - theirs.get_potential_energies()).max() < 1e-13
    ours.cell[:] = ours.cell.array @ (np.eye(3) + 0.02 * np.array([[0, 1, 0.5], [1, 1, 0], [0.5, 0, -1]]))
    theirs.cell[:] = ours.cell
    assert np.abs(ours.get_stress() - theirs.get_stress()).max() < 1e-15
    assert np.abs(ours.get_stress()[3:]).max() > 1e-5  # shear is really there, in ASE's order


def test_one_evaluation_gives_everything():
    atoms, lj = crystal(), LennardJones()
    atoms.calc = Calculator(lj)
    atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energy(), atoms.get_potential_energies()
    assert lj.calls == 1
    atoms.positions[0, 0] += 1e-9
    atoms.get_forces()
    assert lj.calls == 2


def test_stress_without_a_volume_is_refused_with_the_reason():
    atoms = ase.build.molecule("C6H6")
    atoms.calc = Calculator(LennardJones(sigma=1.0))
    with pytest.raises(PropertyNotImplementedError, match="no volume"):
        atoms.get_stress()
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_charges()


def test_unknown_element_is_named_and_checked_for_every_composition():
    atoms = crystal()
    atoms.calc = Calculator(LennardJones(elements=(18,)))
    atoms.get_forces()
    atoms.numbers[3] = 10
    with pytest.raises(UnknownElementError, match="Ne"):
        atoms.get_forces()


class Broken(Potential):
    """Not a number for one atom."""

    def __init__(self, forces_only: bool) -> None:
        super().__init__()
        self.cutoff, self.forces_only = 4.0, forces_only

    def forward(self, graph):
        x = graph.positions - graph.positions.detach()
        energy = x.sum(1)
        poison = torch.zeros_like(energy)
        poison[2] = float("nan")
        if self.forces_only:
            return Output(energy + (x.square().sum(1)).sqrt() * (torch.arange(graph.n_atoms) == 2))  # gradient 0/0
        return Output(energy + poison)


@pytest.mark.parametrize("forces_only", [True, False])
def test_numbers_that_are_not_finite_are_never_passed_on(forces_only):
    atoms = ase.build.molecule("CH4")
    atoms.calc = Calculator(Broken(forces_only))
    with pytest.raises(SimulationError, match=r"atom 2 \(H\)" if not forces_only else "not a finite number"):
        atoms.get_potential_energy()
    assert atoms.calc.results == {}


def test_total_charge_is_read_and_its_change_noticed():
    class Charged(Potential):
        cutoff = 3.0

        def forward(self, graph):
            share = graph.charge[graph.owner] / graph.n_atoms
            return Output(share + 0 * graph.positions.sum(1), charges=share)

    atoms = ase.build.molecule("H2O")
    atoms.calc = Calculator(Charged())
    assert atoms.get_potential_energy() == 0.0
    atoms.info["charge"] = -1
    assert atoms.get_potential_energy() == pytest.approx(-1.0, abs=1e-15)
    assert atoms.get_charges() == pytest.approx([-1 / 3] * 3)


def test_standard_deviations_are_the_calibrated_spread_of_the_members():
    """Witness: the definition, from the members of predict: sigma = alpha std(members), one alpha a target."""
    atoms, lj = crystal(), LennardJones(members=7)
    atoms.calc = Calculator(lj, {"calibration": CALIBRATION}, uncertainty=True)
    forces = atoms.get_forces()
    graph = build(Structure.from_ase(atoms), lj.cutoff)
    members = predict(lj, graph, ("energy", "forces", "stress", "members")).members
    results = atoms.calc.results
    assert results["energy_std"] == pytest.approx(2.0 * float(members.energy.std(-1)), rel=1e-12)
    assert np.allclose(results["forces_std"], 3.0 * members.forces.std(-1), rtol=1e-10, atol=1e-15)
    assert np.allclose(results["stress_std"][0], 4.0 * members.stress.std(-1)[0, 0, 0], rtol=1e-10)
    assert results["forces_std"].shape == forces.shape


def test_standard_deviations_on_request_only():
    atoms, lj = crystal(), LennardJones(members=3)
    atoms.calc = Calculator(lj, {"calibration": CALIBRATION})
    before = atoms.get_forces()
    assert "forces_std" not in atoms.calc.results
    assert atoms.calc.get_property("forces_std", atoms).shape == (len(atoms), 3)
    assert np.array_equal(before, atoms.get_forces())


def test_uncertainty_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="Posterior"):
        Calculator(LennardJones(members=3), uncertainty=True)
    atoms = crystal()
    atoms.calc = Calculator(LennardJones())
    with pytest.raises(PropertyNotImplementedError, match="Posterior"):
        atoms.calc.get_property("energy_std", atoms)


def test_constant_calibration_needs_no_members():
    atoms = crystal()
    made = {"kind": "constant", "constant": {"energy": 0.01, "forces": 0.05}}
    atoms.calc = Calculator(LennardJones(), {"calibration": made}, uncertainty=True)
    atoms.get_forces()
    assert atoms.calc.results["energy_std"] == pytest.approx(0.01 * len(atoms))
    assert np.all(atoms.calc.results["forces_std"] == 0.05)


def test_skin_does_not_change_a_trajectory():
    """Newton's equations from the same start with skin 0 and 0.8 Å: the same bits."""
    from epot.simulate.md import run_md

    start = crystal()
    runs = [
        run_md(start, Calculator(LennardJones(), skin=skin), ensemble="nve", temperature=400, timestep=2.0, steps=80)
        for skin in (0.0, 0.8)
    ]
    assert np.array_equal(runs[0].atoms.positions, runs[1].atoms.positions)
    assert runs[1].atoms.calc.pairs.searches < runs[0].atoms.calc.pairs.searches / 4
