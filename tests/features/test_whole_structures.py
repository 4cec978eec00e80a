"""Descriptors of whole structures: Coulomb and sine matrices against dscribe, distances, coordinates."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from epot.data.structure import Structure
from epot.errors import ConfigError, ModelError, UnknownElementError
from epot.features.describe import describe
from epot.features.descriptor import make
from epot.features.matrices import eigenvalues, triangle
from epot.geometry.graph import build

ORACLE = Path(__file__).parents[1] / "data_files" / "coulomb_dscribe.npz"
NAMES = ("coulomb_matrix", "sine_matrix", "cartesian", "distances")


def oracle(name, kind):
    """Structures, and the rows of dscribe as ours are laid out."""
    data = np.load(ORACLE)
    n = int(data["n_atoms_max"])
    frames, rows = [], []
    while f"{name}{len(frames)}_numbers" in data:
        key = f"{name}{len(frames)}_"
        cell = data[key + "cell"]
        frames.append(Structure(data[key + "numbers"], data[key + "positions"], cell, bool(cell.any())))
        row = data[key + kind]
        a, b = triangle(n).numpy()
        rows.append(row if kind == "eigenvalues" else row.reshape(n, n)[a, b])
    return frames, np.stack(rows), n


@pytest.mark.parametrize("kind", ["eigenvalues", "sorted", "full"])
@pytest.mark.parametrize("name", ["coulomb", "sine"])
def test_dscribe(name, kind):
    """Witness: dscribe 2.1, molecules of different size in one batch, with its unit."""
    frames, rows, n = oracle(name, kind)
    made = describe(f"{name}_matrix", frames, n_atoms_max=n, kind=kind, unit="angstrom").values
    scale = np.abs(rows).max(1, keepdims=True)
    np.testing.assert_allclose(made / scale, rows / scale, atol=1e-12, rtol=0)
    other = describe(f"{name}_matrix", frames, n_atoms_max=n, kind=kind, unit="bohr").values
    assert np.abs(other / scale - rows / scale).max() > 1e-2  # control: the unit matters


def test_the_paper_has_atomic_units():
    """Closed form: H2 at 1 bohr is [[1/2, 1], [1, 1/2]], eigenvalues 3/2 and -1/2."""
    pair = Structure(np.array([1, 1]), np.array([[0, 0, 0], [0.529177210903, 0, 0]]))
    made = describe("coulomb_matrix", pair, n_atoms_max=3).values
    np.testing.assert_allclose(made, [[1.5, -0.5, 0.0]], atol=1e-14)


def random_molecule(seed=0):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=seed)
    return Structure.from_ase(atoms)


def crystal():
    atoms = bulk("ZnS", "zincblende", a=5.4, cubic=True)
    atoms.rattle(0.1, seed=3)
    return Structure.from_ase(atoms)


def changed(structure, rng):
    """Turned, mirrored, moved and renumbered."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(len(structure))
    positions = (structure.positions @ q + rng.normal(size=3))[order]
    return Structure(structure.numbers[order], positions, np.asarray(structure.cell) @ q, structure.pbc)


@pytest.mark.parametrize(
    ("config", "invariant"),
    [
        ({"name": "coulomb_matrix"}, True),
        ({"name": "coulomb_matrix", "kind": "sorted"}, True),
        ({"name": "coulomb_matrix", "kind": "full"}, False),
        ({"name": "distances"}, True),
        ({"name": "sine_matrix"}, True),
        ({"name": "sine_matrix", "kind": "sorted"}, True),
        ({"name": "cartesian"}, False),
    ],
    ids=str,
)
def test_invariance_and_its_controls(config, invariant):
    structure = crystal() if config["name"] == "sine_matrix" else random_molecule()
    other = changed(structure, np.random.default_rng(1))
    a, b = describe(config, [structure, other]).values
    difference = np.abs(a - b).max() / np.abs(a).max()
    assert difference < 1e-12 if invariant else difference > 1e-2


def central(descriptor, structure, atom, axis, step=1e-3):
    """Fourth-order difference of the row."""
    weights, places = np.array([1.0, -8.0, 8.0, -1.0]) / 12, (-2, -1, 1, 2)
    rows = []
    for place in places:
        positions = structure.positions.copy()
        positions[atom, axis] += place * step
        graph = build(structure.replace(positions=positions), 0.0)
        rows.append(descriptor(graph)[0].detach().numpy())
    return np.einsum("p,ps->s", weights, np.array(rows)) / step


@pytest.mark.parametrize(
    ("name", "kind"),
    [(n, k) for n in NAMES for k in (("eigenvalues", "sorted", "full") if "matrix" in n else (None,))],
)
def test_jacobian_against_differences(name, kind):
    structure = crystal() if name == "sine_matrix" else random_molecule()
    config = {"name": name} | ({"kind": kind} if kind else {})
    descriptor = make(config, sorted(set(structure.numbers.tolist())))
    found = descriptor.jacobian(build(structure, 0.0)).numpy()
    for atom, axis in ((0, 0), (3, 2), (7, 1)):
        witness = central(descriptor, structure, atom, axis)
        scale = max(1.0, np.abs(found).max())
        np.testing.assert_allclose(found[atom, axis] / scale, witness / scale, atol=2e-8)


@pytest.mark.parametrize("name", NAMES)
def test_differentiable_twice(name):
    structure = crystal() if name == "sine_matrix" else random_molecule()
    if name == "sine_matrix":
        structure = structure.replace(numbers=structure.numbers[:3], positions=structure.positions[:3])
    else:
        structure = structure.replace(numbers=structure.numbers[:5], positions=structure.positions[:5])
    descriptor = make(name, sorted(set(structure.numbers.tolist())))
    graph = build(structure, 0.0)
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=descriptor.size))
    function = lambda x: (descriptor(graph.replace(positions=x))[0] * weights).sum()  # noqa: E731
    leaf = graph.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(function, leaf, eps=1e-5, atol=1e-5)
    assert torch.autograd.gradgradcheck(function, leaf, eps=1e-5, atol=1e-4, rtol=1e-3)


def test_second_derivatives_of_eigenvalues():
    """Witness: closed form of two levels, lambda = a +- sqrt(d^2 + x^2), curvature +- 1/d at x = 0."""
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    d = 0.3
    matrix = torch.stack([torch.stack([x * 0 + 1 + d, x]), torch.stack([x, x * 0 + 1 - d])])[None]
    low, high = eigenvalues(matrix)[0]
    for value, curvature in ((low, -1 / d), (high, 1 / d)):
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first, x, retain_graph=True)
        assert float(first.detach()) == pytest.approx(0, abs=1e-14)
        assert float(second) == pytest.approx(curvature, rel=1e-12)


def test_derivatives_are_finite_where_eigenvalues_coincide():
    """Methane: four equal hydrogen atoms; torch's own second derivative of eigh is not finite there."""
    structure = Structure.from_ase(molecule("CH4"))
    descriptor = make("coulomb_matrix", (1, 6))
    graph = build(structure, 0.0)
    leaf = graph.positions.clone().requires_grad_()
    row = descriptor(graph.replace(positions=leaf))[0]
    assert float(row.detach()[1:5].diff().abs().min()) < 1e-8  # they do coincide
    (first,) = torch.autograd.grad(row.square().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()
    z = torch.from_numpy(structure.numbers).double()
    trace = (0.5 * z**2.4).square().sum()
    r = torch.cdist(graph.positions, graph.positions)
    off = (z[:, None] * z / (r / 0.529177210903 + torch.eye(5))).fill_diagonal_(0.0)
    assert float(row.detach().square().sum()) == pytest.approx(float(trace + off.square().sum()), rel=1e-12)


def test_a_kink_where_two_rows_change_places():
    """The slope of a sorted row jumps; that of the sum over the row does not (control)."""
    numbers = np.array([6, 6, 1])

    def rows(x):
        positions = np.array([[0.0, 0, 0], [1.4, 0, 0], [0.7 + x, 1.0, 0.0]])
        made = describe("coulomb_matrix", Structure(numbers, positions), n_atoms_max=3, kind="sorted", gradients=True)
        return made.gradients[2, 0]

    jump = np.abs(rows(1e-7) - rows(-1e-7))
    assert jump.max() > 1e-2
    assert abs(rows(1e-7).sum() - rows(-1e-7).sum()) < 1e-5


def test_names_and_sizes():
    made = make({"name": "distances", "counts": {"C": 2, "H": 6, "O": 1}}, (1, 6, 8))
    assert made.size == 36 == len(made.columns())
    assert made.columns()[0] == "H-H 0"
    assert len(make({"name": "coulomb_matrix", "kind": "sorted", "n_atoms_max": 23}, (1,)).columns()) == 276
    for name in NAMES:
        tiny = type(make(name, (1, 6))).tiny()
        assert len(tiny.columns()) == tiny.size


def test_bad_input():
    ethanol = random_molecule()
    with pytest.raises(ModelError, match="n_atoms_max=9 or more"):
        describe("coulomb_matrix", ethanol, n_atoms_max=5)
    with pytest.raises(ModelError, match="n_each=6 or more"):
        describe("distances", ethanol, n_each=5)
    with pytest.raises(ModelError, match="sine_matrix"):
        describe("coulomb_matrix", crystal())
    with pytest.raises(ModelError, match="coulomb_matrix"):
        describe("sine_matrix", ethanol)
    with pytest.raises(UnknownElementError):
        describe("coulomb_matrix", ethanol, elements=[1, 6])
    with pytest.raises(ConfigError, match="kind"):
        make({"name": "coulomb_matrix", "kind": "random"}, (1,))
    with pytest.raises(ConfigError, match="counts"):
        make({"name": "distances", "counts": {"N": 2}}, (1, 6))
