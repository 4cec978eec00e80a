"""GAP. Witnesses: batched autograd for the closed-form rows, finite differences, hand-written kernels."""

import numpy as np
import pytest
import torch

from epot import modelfile
from epot.blocks.design import Design
from epot.data.structure import Structure
from epot.errors import ConfigError, ModelError, UnknownElementError
from epot.fit.design import design, design_by_autograd
from epot.geometry.graph import build
from epot.models.gap import GAP
from epot.potential import Sum, make
from epot.predict import predict
from epot.terms.offsets import Offsets

NUMBERS = np.array([8, 1, 1, 6, 1])
POSITIONS = np.array([[0, 0, 0], [0.96, 0, 0.1], [-0.24, 0.93, 0], [0.3, 0.4, 2.1], [1.2, -0.2, 2.5]])
CELL = np.array([[3.2, 0, 0], [0.4, 3.4, 0], [0, 0.3, 3.9]])


@pytest.fixture
def graph():
    """A molecule and a crystal whose cell is smaller than the cutoff."""
    return build([Structure(NUMBERS, POSITIONS), Structure(NUMBERS, POSITIONS * 1.02, CELL, True)], 4.0)


@pytest.fixture
def gap():
    return GAP.tiny()


def test_closed_form_rows_equal_autograd(gap, graph):
    closed, autograd = gap.design(graph), design_by_autograd(gap, graph, chunk=4)
    for ours, theirs in zip(closed, autograd, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, atol=1e-13, rtol=1e-10)
        assert theirs.abs().max() > 1e-3


def test_rows_times_weights_are_the_prediction(gap, graph):
    made, weights = design(gap, graph), gap.readout.weight.detach()
    found = predict(gap, graph, ("energy", "forces", "virial"))
    torch.testing.assert_close(made.energy @ weights, found.energy, atol=1e-12, rtol=1e-11)
    torch.testing.assert_close(made.forces @ weights, found.forces.flatten(), atol=1e-12, rtol=1e-11)
    torch.testing.assert_close(made.virial @ weights, found.virial.reshape(-1, 9), atol=1e-12, rtol=1e-11)


def test_rows_in_a_sum_with_longer_pairs(gap, graph):
    """Other terms may see farther: the rows are those of the term's own pairs."""
    whole = build([Structure(NUMBERS, POSITIONS)], 6.0)
    potential = Sum(offset=Offsets((1, 6, 8), (-1.0, -2.0, -3.0)), body=gap)
    expected = design_by_autograd(gap, build([Structure(NUMBERS, POSITIONS)], 4.0), virial=False)
    torch.testing.assert_close(design(potential, whole, virial=False).forces, expected.forces, atol=1e-13, rtol=1e-10)
    assert design(potential, whole, forces=False, virial=False)[1:] == (None, None)
    assert isinstance(design(potential, whole), Design)


def test_kernel_is_the_power_of_the_dot_product(gap, graph):
    spectra, species = gap.soap(graph), gap.soap.species(graph)
    kernel = gap.terms[0].kernel(spectra, species)
    points = gap.terms[0].points
    kinds = torch.arange(3).repeat_interleave(2)
    for i in range(graph.n_atoms):
        for m in range(6):
            same = species[i] == kinds[m]
            expected = float(spectra[i] @ points[m]) ** 4 if same else 0.0
            assert abs(float(kernel[i, m]) - expected) < 1e-14


@pytest.mark.parametrize("zeta", [1, 2, 3, 5])
def test_powers(zeta, graph):
    made = GAP((1, 6, 8), 4.0, 2, 2, zeta=zeta, delta=0.5)
    made.set_sparse([made.soap(graph)[:2].detach()] * 3)
    dots = torch.linspace(-1, 1, 9, dtype=torch.float64)
    torch.testing.assert_close(made.terms[0]._power(dots), 0.25 * dots**zeta)
    torch.testing.assert_close(
        made.design(graph).forces, design_by_autograd(made, graph).forces, atol=1e-13, rtol=1e-10
    )


def test_forces_and_virial_are_derivatives(gap):
    """Witness: central differences. The control is a force with the wrong sign."""
    structure = Structure(NUMBERS, POSITIONS, CELL, True)
    found = predict(gap, build(structure, 4.0), ("energy", "forces", "virial"))
    step = 1e-4

    def energy(positions, cell=CELL):
        return float(predict(gap, build(structure.replace(positions=positions, cell=cell), 4.0), ("energy",)).energy)

    for atom, axis in ((0, 0), (3, 2), (4, 1)):
        shift = np.zeros((5, 3))
        shift[atom, axis] = step
        slope = -(energy(POSITIONS + shift) - energy(POSITIONS - shift)) / (2 * step)
        assert abs(slope - float(found.forces[atom, axis])) < 1e-7
        assert abs(slope + float(found.forces[atom, axis])) > 1e-3
    for a, b in ((0, 0), (0, 1), (2, 1)):
        strain = np.zeros((3, 3))
        strain[a, b] = step
        up, down = np.eye(3) + strain, np.eye(3) - strain
        slope = -(energy(POSITIONS @ up, CELL @ up) - energy(POSITIONS @ down, CELL @ down)) / (2 * step)
        assert abs(slope - float(found.virial[0, a, b])) < 1e-6


def test_model_file_keeps_sparse_points(gap, graph, tmp_path):
    potential = Sum(offset=Offsets((1, 6, 8), (-13.0, -1000.0, -2000.0)), body=gap)
    path = modelfile.save(tmp_path / "gap.epot", potential)
    loaded = modelfile.load(path)
    loaded = loaded[0] if isinstance(loaded, tuple) else loaded
    before, after = predict(potential, graph), predict(loaded, graph)
    assert torch.equal(before.energy, after.energy)
    assert torch.equal(before.forces, after.forces)


def test_configuration_makes_an_equal_one(gap):
    again = make(gap.config())
    assert again.config() == gap.config()
    assert again.recipe == "solve"
    assert "sparse points: H: 2, C: 2, O: 2" in repr(gap)


def test_lone_atom(gap):
    lone = build(Structure(np.array([8]), np.zeros((1, 3))), 4.0)
    found = predict(gap, lone, ("energy", "forces"))
    assert torch.isfinite(found.energy).all()
    assert float(found.forces.abs().max()) == 0
    assert gap.design(lone).forces.abs().max() == 0


def test_hessian_equals_differences_of_forces(gap):
    structure = Structure(NUMBERS[:3], POSITIONS[:3])
    hessian = predict(gap, build(structure, 4.0), ("hessian",)).hessian.numpy()
    step, columns = 1e-4, []
    for k in range(9):
        shift = np.zeros(9)
        shift[k] = step
        up, down = (
            predict(gap, build(structure.replace(positions=POSITIONS[:3] + s * shift.reshape(3, 3)), 4.0)).forces
            for s in (1, -1)
        )
        columns.append(-(up - down).flatten().numpy() / (2 * step))
    np.testing.assert_allclose(hessian, np.stack(columns, 1), atol=1e-6)


def test_without_sparse_points_it_says_so(graph):
    with pytest.raises(ModelError, match="SelectSparse"):
        predict(GAP((1, 6, 8), 4.0, 2, 2), graph)


def test_unknown_element(gap):
    with pytest.raises(UnknownElementError, match="holds Si"):
        predict(gap, build(Structure(np.array([14]), np.zeros((1, 3))), 4.0))


@pytest.mark.parametrize("bad", [{"zeta": 0}, {"n_sparse": 0}, {"delta": 0.0}, {"sigma": 0.0}, {"elements": (1, 1)}])
def test_impossible_arguments(bad):
    with pytest.raises(ConfigError):
        GAP(**bad)


def test_sparse_points_for_every_element(gap):
    with pytest.raises(ConfigError, match="3 groups"):
        gap.set_sparse([torch.ones(1, gap.soap.size)])


def test_single_precision_prediction(gap, graph):
    """Forces to 1e-4 eV/Å of the float64 ones."""
    expected = predict(gap, graph)
    found = predict(GAP.tiny().float(), graph)
    torch.testing.assert_close(found.forces.double(), expected.forces, atol=1e-4, rtol=1e-4)
    assert not torch.equal(found.forces.double(), expected.forces)


@pytest.mark.parametrize(
    "soap",
    [{"compression": "mu1nu1"}, {"compression": "crossover"}, {"mixing": 2}, {"dialect": "featomic"},
     {"dialect": "dscribe", "cutoff": 2.0, "cutoff_width": 1.0}],
    ids=str,
)  # fmt: skip
def test_rows_of_other_kinds_of_soap(soap, graph):
    made = GAP((1, 6, 8), 3.0, 3, 2, n_sparse=6, kernels=[{"name": "soap", "groups": ["O", "H"], **soap}])
    kernel = made.terms[0]
    made.set_sparse([c[:2] for c in kernel.candidates(graph.within(kernel.cutoff))])
    for ours, theirs in zip(design(made, graph), design_by_autograd(made, graph.within(made.cutoff)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
        assert theirs.abs().max() > 1e-3
