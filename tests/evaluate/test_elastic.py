"""Elastic constants: closed relations of pair potentials, finite relaxation as a witness, labels as the reference."""

import numpy as np
import pytest
from ase.build import bulk

from epot.data.structure import Structure
from epot.errors import DataError, ModelError
from epot.evaluate.elastic import at_rest, cubic_crystal, elastic_constants, regress, strained, strained_cells, voigt
from epot.geometry.graph import build
from epot.potential import Output, Potential
from epot.predict import predict
from epot.units import GPA


class LennardJones(Potential):
    """``sum_pairs 4 eps ((s/r)^12 - (s/r)^6) w(r)`` with a smooth fade between onset and cutoff."""

    pairwise = True

    def __init__(self, epsilon=0.0104, sigma=3.4, cutoff=9.0, onset=7.0):
        super().__init__()
        self.epsilon, self.sigma, self.cutoff, self.onset = epsilon, sigma, cutoff, onset

    def forward(self, graph):
        square = graph.vectors().square().sum(1)
        c6 = (self.sigma**2 / square) ** 3
        x = ((square.sqrt() - self.onset) / (self.cutoff - self.onset)).clamp(0, 1)
        pair = 2 * self.epsilon * (c6**2 - c6) * (1 - x**3 * (10 - 15 * x + 6 * x**2))
        return Output(graph.positions.new_zeros(graph.n_atoms).index_add(0, graph.pairs[0], pair))


ARGON = Structure.from_ase(bulk("Ar", "fcc", a=5.2, cubic=True))
FORM = LennardJones(cutoff=9.0, onset=7.0)


def test_a_pair_potential_obeys_cauchy():
    """Central forces and inversion symmetry: C12 = C44 at rest (Born and Huang 1954, section 11)."""
    rest = at_rest(FORM, ARGON)
    found = elastic_constants(FORM, rest)
    cubic = found.cubic()
    assert cubic["C12"] == pytest.approx(cubic["C44"], rel=1e-5)
    assert found.clamped == pytest.approx(found.relaxed, abs=1e-6)  # every atom is a center of inversion
    assert found.clamped == pytest.approx(found.clamped.T, abs=1e-5)


def test_control_cauchy_fails_under_pressure():
    squeezed = ARGON.replace(cell=ARGON.cell * 0.985, positions=ARGON.positions * 0.985)
    with pytest.raises(ModelError, match="relax it"):
        elastic_constants(FORM, squeezed)


def test_bulk_modulus_is_that_of_the_energy():
    """Witness: V d2E/dV2 by differences of the energy."""
    rest = at_rest(FORM, ARGON)
    cubic = elastic_constants(FORM, rest).cubic()

    def energy(x):
        s = rest.replace(cell=rest.cell * x, positions=rest.positions * x)
        return float(predict(FORM, build(s, FORM.cutoff), ("energy",)).energy)

    h = 1e-3
    second = (energy(1 + h) - 2 * energy(1) + energy(1 - h)) / h**2
    assert (cubic["C11"] + 2 * cubic["C12"]) / 3 == pytest.approx(second / 9 / rest.volume / GPA, rel=1e-4)


def test_free_atoms_give_way_as_a_relaxation_says():
    """A crystal whose atoms are no centers of inversion: diamond. Witness: Newton steps to zero forces by hand."""
    form = LennardJones(cutoff=6.0, onset=4.0, sigma=2.2, epsilon=0.5)
    diamond = at_rest(form, Structure.from_ase(bulk("Si", "diamond", a=5.3)))
    found = elastic_constants(form, diamond)
    assert abs(found.relaxed - found.clamped).max() > 1.0  # the control: it matters
    strain, s = 1e-3, None
    stresses = []
    for sign in (1, -1):
        s = strained(diamond, 3, sign * strain)
        for _ in range(20):
            made = predict(form, build(s, form.cutoff), ("stress", "hessian"))
            step = np.linalg.pinv(made.hessian.numpy(), rcond=1e-8) @ made.forces.numpy().ravel()
            s = s.replace(positions=s.positions + step.reshape(-1, 3))
        stresses.append(voigt(made.stress[0].numpy()))
    witness = (stresses[0] - stresses[1]) / (2 * strain) / GPA
    assert found.relaxed[:, 3] == pytest.approx(witness, abs=2e-3 * abs(witness).max())


def test_regression_recovers_what_made_the_stresses():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6))
    strains = np.concatenate([x * np.eye(6) for x in (-0.04, -0.02, 0.02, 0.04)] + [np.zeros((1, 6))])
    offset, found = regress(strains, 0.1 + strains @ matrix.T + strains**2 * 3.0)
    assert found == pytest.approx(matrix, abs=1e-12)
    assert offset == pytest.approx(np.full(6, 0.1), abs=1e-12)


def test_a_form_agrees_with_its_own_labels():
    """Cells labeled by the potential itself: data and potential must give the same constants, and the lattice."""
    rest = at_rest(FORM, ARGON)
    cells = [rest, *(strained(rest, k, x) for k in range(6) for x in (-0.02, -0.01, 0.01, 0.02))]
    graph = build(cells, FORM.cutoff)
    made = predict(FORM, graph, ("stress",))
    forces = made.forces.numpy().reshape(len(cells), -1, 3)
    labeled = [
        s.replace(stress=t, forces=f, energy=0.0) for s, t, f in zip(cells, made.stress.numpy(), forces, strict=True)
    ]
    found = cubic_crystal(FORM, labeled)
    exact = elastic_constants(FORM, rest).cubic()
    assert found["data"] == found["same cells"]
    assert found["data"]["a"] == pytest.approx(rest.volume ** (1 / 3), rel=1e-5)
    assert found["at rest"]["a"] == pytest.approx(rest.volume ** (1 / 3), rel=1e-7)
    for name, value in exact.items():
        assert found["at rest"][name] == pytest.approx(value, rel=1e-4)
        assert found["data"][name] == pytest.approx(value, rel=0.02)  # a regression over 2 % of strain


def test_too_few_cells_are_refused():
    with pytest.raises(DataError, match="free of forces"):
        strained_cells([ARGON])


def test_no_minimum_is_said():
    with pytest.raises(ModelError, match="zero pressure"):
        at_rest(FORM, ARGON.replace(cell=ARGON.cell * 2, positions=ARGON.positions * 2))


def test_shared_silicon(shared_data):
    """Witness: PW91 silicon by another code, C11 153.3 and C12 56.3 GPa (the GAP-18 test suite's reference)."""
    from epot.data.readers import read

    data = read(shared_data / "mlearn/Si_train.xyz.gz")
    _, chosen, strains = strained_cells(data)
    offset, matrix = regress(strains, np.array([voigt(data[k].stress) for k in chosen]))
    assert len(chosen) == 34
    assert matrix[0, 0] / GPA == pytest.approx(153.3, rel=0.03)
    assert matrix[0, 1] / GPA == pytest.approx(56.3, rel=0.05)
    assert abs(offset).max() / GPA < 0.5
