"""The one place that differentiates, against closed forms and finite differences."""

import sys
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.calculators.lj import LennardJones as AseLennardJones

from epot.data.structure import Structure
from epot.errors import ConfigError, ModelError
from epot.geometry.graph import build
from epot.potential import Output, Potential, Sum
from epot.predict import predict
from epot.terms.offsets import Offsets

sys.path.insert(0, str(Path(__file__).parent / "testing"))
from broken_potentials import LennardJones  # noqa: E402

EVERYTHING = ("energy", "forces", "stress", "virial", "atom_virials")


class Springs(Potential):
    """``E = k/2 sum_i |x_i|^2``, of positions alone: what a term of long range looks like to `predict`."""

    def __init__(self, k: float = 2.0) -> None:
        super().__init__()
        self.k, self.cutoff = k, 0.0

    def forward(self, graph):
        return Output(0.5 * self.k * graph.positions.square().sum(1))


class CellEnergy(Potential):
    """``E = p V`` shared by the atoms: its stress is ``p`` times the unit matrix."""

    def __init__(self, pressure: float = 0.3) -> None:
        super().__init__()
        self.pressure, self.cutoff = pressure, 0.0

    def forward(self, graph):
        volume = torch.linalg.det(graph.cell).abs() / graph.sizes
        return Output((self.pressure * volume)[graph.owner])


class Ensemble(LennardJones):
    """Three members of known factors."""

    def forward(self, graph):
        energy = super().forward(graph).energy
        return Output(energy, members=energy[:, None] * torch.tensor([0.5, 1.0, 2.0], dtype=energy.dtype))


@pytest.fixture
def lj():
    return LennardJones(0.2, 1.2, 2.4, 3.6).double()


def test_dimer_in_closed_form():
    """E = 4 e (s^12 - s^6); F = 24 e (2 s^12 - s^6) / r; both inside the onset."""
    r, e, sigma = 1.5, 0.3, 1.4
    made = predict(LennardJones().double(), build(Structure(np.array([1, 1]), np.array([[0, 0, 0], [0, r, 0.0]])), 4.0))
    s6 = (sigma / r) ** 6
    assert float(made.energy[0]) == pytest.approx(4 * e * (s6**2 - s6), rel=1e-7)
    expected = 24 * e * (2 * s6**2 - s6) / r
    np.testing.assert_allclose(made.forces.numpy(), [[0, -expected, 0], [0, expected, 0]], rtol=1e-7, atol=1e-12)


def test_everything_against_ase(lj, silicon, water):
    for structure in (silicon, water):
        atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
        atoms.calc = AseLennardJones(epsilon=0.2, sigma=1.2, ro=2.4, rc=3.6, smooth=True)
        made = predict(lj, build(structure, 3.6), EVERYTHING)
        np.testing.assert_allclose(made.energy.numpy(), [atoms.get_potential_energy()], rtol=1e-7)
        np.testing.assert_allclose(made.forces.numpy(), atoms.get_forces(), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(made.stress[0].numpy(), atoms.get_stress(voigt=False), rtol=1e-6, atol=1e-10)
        np.testing.assert_allclose(made.virial.numpy(), -made.stress.numpy() * structure.volume, rtol=1e-12)
        np.testing.assert_allclose(made.atom_virials.sum(0).numpy(), made.virial[0].numpy(), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(float(made.atom_energies.sum()), float(made.energy[0]), rtol=1e-12)


def test_tension_is_positive(lj):
    """A crystal pulled apart: (1/V) dE/d(strain) > 0, as in ASE; pushed together: negative."""
    signs = []
    for a in (1.25, 1.6):
        structure = Structure(np.array([18]), np.zeros((1, 3)), a * np.eye(3), True)
        signs.append(float(predict(lj, build(structure, 3.6), ("stress",)).stress[0].trace()))
    assert signs[0] < 0 < signs[1]


def test_hessian_of_a_spring_in_closed_form():
    structure = Structure(np.array([1, 8]), np.array([[0.3, 0, 0], [0, 1.0, 0]]))
    made = predict(Springs(2.0), build(structure, 0.0), ("hessian", "forces", "virial"))
    np.testing.assert_allclose(made.hessian.numpy(), 2.0 * np.eye(6), atol=1e-14)
    np.testing.assert_allclose(made.forces.numpy(), -2.0 * structure.positions, atol=1e-14)
    np.testing.assert_allclose(made.virial[0].numpy(), -2.0 * structure.positions.T @ structure.positions, atol=1e-14)


@pytest.mark.parametrize("pairwise", [True, False])
def test_forces_do_not_depend_on_what_else_is_wanted(lj, ethanol, pairwise):
    """With a Hessian the pair vectors are functions of the positions: their gradient must not be counted twice."""
    lj.pairwise = pairwise
    graph = build(ethanol, 3.6)
    plain = predict(lj, graph, ("forces", "virial"))
    for want in (("forces", "virial", "hessian"), ("forces", "virial", "atom_virials")):
        made = predict(lj, graph, want)
        torch.testing.assert_close(made.forces, plain.forces, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(made.virial, plain.virial, rtol=1e-12, atol=1e-12)


def test_hessian_through_pairs_and_positions(lj, ethanol):
    together = Sum(pairs=lj, springs=Springs(0.7))
    structure = Structure(ethanol.numbers[:4], ethanol.positions[:4])
    hessian = predict(together, build(structure, 3.6), ("hessian",)).hessian.numpy()
    step, columns = 1e-4, []
    for k in range(12):
        change = np.zeros(12)
        change[k] = step
        ends = [structure.positions + sign * change.reshape(4, 3) for sign in (1, -1)]
        up, down = (predict(together, build(structure.replace(positions=x), 3.6)).forces.numpy().ravel() for x in ends)
        columns.append(-(up - down) / (2 * step))
    np.testing.assert_allclose(hessian, np.array(columns).T, rtol=1e-5, atol=1e-5 * np.abs(hessian).max())


def test_energy_of_the_cell_has_a_stress(water):
    made = predict(CellEnergy(0.3), build([water, water], 0.0), EVERYTHING)
    np.testing.assert_allclose(made.stress.numpy(), np.stack([0.3 * np.eye(3)] * 2), atol=1e-12)
    assert not made.forces.any()
    np.testing.assert_allclose(made.atom_virials[:6].sum(0).numpy(), made.virial[0].numpy(), atol=1e-12)


def test_stress_of_an_open_system_is_refused(lj, slab, water):
    with pytest.raises(ModelError, match=r"1 of 2 structures \(first: number 1\).*Ask for 'virial'"):
        predict(lj, build([water, slab], 3.6), ("stress",))
    assert predict(lj, build(slab, 3.6), ("virial",)).virial.shape == (1, 3, 3)


def test_a_hessian_is_of_one_structure(lj, ethanol):
    with pytest.raises(ModelError, match="this graph has 2"):
        predict(lj, build([ethanol, ethanol], 3.6), ("hessian",))


def test_a_graph_with_too_few_pairs_is_refused(lj, ethanol):
    """Without the refusal the energy would be wrong in silence."""
    with pytest.raises(ModelError, match=r"looks 3.6 Å far but the graph has pairs up to 3.0 Å"):
        predict(lj, build(ethanol, 3.0))


def test_a_graph_with_more_pairs_changes_nothing(silicon):
    class NoWindow(LennardJones):  # does not look at the distance itself
        def pairs(self, graph, vectors):
            return torch.ones_like(vectors[:, 0])

    assert float(predict(NoWindow(), build(silicon, 6.0)).energy) == build(silicon, 4.0).n_pairs


def test_unknown_words_are_named(lj, ethanol):
    with pytest.raises(ConfigError, match="did you mean 'forces'"):
        predict(lj, build(ethanol, 3.6), ("force",))


def test_only_what_is_wanted(lj, ethanol):
    made = predict(lj, build(ethanol, 3.6), ("energy",))
    assert made.forces is made.stress is made.virial is made.hessian is None
    assert not made.energy.requires_grad


def test_members_with_everything(water):
    made = predict(Sum(offset=Offsets((1, 8), values=(-1.0, -2.0)), body=Ensemble()), build(water, 4.0),
                   ("energy", "forces", "stress", "members"))  # fmt: skip
    factors = np.array([0.5, 1.0, 2.0])
    body = float(made.energy[0]) + 8.0  # four H, two O
    np.testing.assert_allclose(made.members.energy[0].numpy(), factors * body - 8.0, rtol=1e-6)
    np.testing.assert_allclose(
        made.members.forces.numpy(), made.forces.numpy()[..., None] * factors, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        made.members.stress.numpy(), made.stress.numpy()[..., None] * factors, rtol=1e-5, atol=1e-6
    )


def test_members_without_forces(water):
    assert predict(Ensemble(), build(water, 4.0), ("energy", "members")).members.energy.shape == (1, 3)
    assert predict(Ensemble(), build(water, 4.0), ("forces",)).members is None


def test_no_ensemble_is_said(lj, water):
    for want in (("members",), ("forces", "members")):
        with pytest.raises(ModelError, match="no ensemble"):
            predict(lj, build(water, 3.6), want)


def test_create_graph_keeps_the_history(ethanol):
    potential = LennardJones()
    predict(potential, build(ethanol, 4.0), create_graph=True).forces.square().sum().backward()
    assert float(potential.strength.grad) != 0
    made = predict(potential, build(ethanol, 4.0))
    assert not made.forces.requires_grad
    assert not made.energy.requires_grad


def test_energies_are_summed_in_double_precision():
    """A float32 sum of 1000 energies of -2041 eV would be off by tenths of an eV."""

    class Heavy(Potential):
        cutoff = 0.0

        def forward(self, graph):
            return Output(torch.full((graph.n_atoms,), -2041.3, dtype=torch.float32))

    many = Structure(np.full(1000, 8), np.arange(3000.0).reshape(1000, 3))
    assert float(predict(Heavy(), build(many, 0.0), ("energy",)).energy) == pytest.approx(-2041300, abs=0.1)


def test_works_where_gradients_are_off(lj, ethanol):
    with torch.no_grad():
        made = predict(lj, build(ethanol, 3.6))
    assert made.forces.abs().max() > 0
