"""What every kind of SOAP must have: symmetries, derivatives in each of its three ways, refusals.

Witnesses: autograd through the plain operations (for the derivatives written by hand), finite differences (for
those), the degenerate pair of Pozdnyakov et al., Phys. Rev. Lett. 125, 166001 (2020).
"""

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.errors import ConfigError, DataError
from epot.features import describe, soap_density, soap_jacobian
from epot.features.descriptor import Descriptor, make
from epot.features.descriptors.selected import Selected
from epot.features.descriptors.soap import Soap
from epot.features.descriptors.soap_average import SoapAverage
from epot.features.soap_layout import mixing_matrix, quip_order
from epot.geometry.graph import build, collate

SMALL = {"cutoff": 3.0, "n_max": 3, "l_max": 2, "sigma": 0.5, "cutoff_width": 1.0}
KINDS = [
    {},
    {"compression": "mu1nu1"},
    {"compression": "crossover", "dialect": "featomic"},
    {"mixing": 2},
    {"mixing": 2, "compression": "mu1nu1", "dialect": "dscribe"},
    {"dialect": "dscribe"},
    {"dialect": "dscribe", "basis": "polynomial", "weighting": {"function": "poly", "c": 1.0, "m": 2, "r0": 3.5}},
    {"dialect": "featomic", "weighting": {"function": "pow", "c": 1.0, "d": 1.0, "m": 3, "r0": 2.0}},
    {"dialect": "featomic", "normalize": True},
]
IDS = [" ".join(f"{k}={v['function'] if k == 'weighting' else v}" for k, v in kind.items()) for kind in KINDS]
kinds = pytest.mark.parametrize("kind", KINDS, ids=IDS)


@pytest.fixture(scope="module")
def box():
    rng = np.random.default_rng(3)
    base = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    positions = np.concatenate([base, base + [2.2, 0.3, 1.9], [[1.1, 2.9, 0.7]]]) + 0.05 * rng.normal(size=(7, 3))
    cell = np.array([[4.2, 0, 0], [0.5, 4.5, 0], [0, 0.4, 4.1]])
    return Structure(np.array([8, 1, 1, 8, 1, 1, 6]), positions, cell, True)


LONE = Structure(np.array([8]), np.zeros((1, 3)))


def of(kind, **change):
    return Soap((1, 6, 8), **(SMALL | kind | change))


@kinds
def test_symmetries(kind, box):
    soap = of(kind)
    before = soap(build(box, soap.cutoff))
    scale = float(before.abs().max())
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    order = np.array([5, 3, 1, 0, 6, 2, 4])
    for matrix in (q, q @ np.diag([1, 1, -1])):
        wrapped = box.positions + np.outer([1, 0, -2, 0, 0, 3, 0], box.cell[1])
        moved = Structure(box.numbers[order], (wrapped @ matrix)[order] + 0.7, box.cell @ matrix, True)
        torch.testing.assert_close(soap(build(moved, soap.cutoff)), before[order], atol=1e-10 * scale, rtol=0)
    pair = Structure(
        np.tile(box.numbers, 2), np.concatenate([box.positions, box.positions + box.cell[0]]),
        box.cell * [[2], [1], [1]], True,
    )  # fmt: skip
    torch.testing.assert_close(soap(build(pair, soap.cutoff)), before.repeat(2, 1), atol=1e-10 * scale, rtol=0)
    sheared = Structure(box.numbers, box.positions * [1.02, 1, 0.98], box.cell * [1.02, 1, 0.98], True)
    assert (soap(build(sheared, soap.cutoff)) - before).abs().max() > 1e-4 * scale


@kinds
@pytest.mark.parametrize("parts", ["one", "one, species apart", "many"])
def test_derivatives_written_by_hand_are_those_of_autograd(kind, parts, box, monkeypatch):
    if parts == "one, species apart":
        monkeypatch.setattr(soap_density, "MIXED", 0)
    if parts == "many":
        monkeypatch.setattr(soap_density, "POINTS", 60)
        monkeypatch.setattr(soap_density, "KEPT", 100)
        monkeypatch.setattr(soap_jacobian, "NUMBERS", 100)
        monkeypatch.setattr(soap_jacobian, "LEAST", 16)
        monkeypatch.setattr(soap_jacobian, "BASIS", 60)
    soap = of(kind)
    graph = collate([build(box, soap.cutoff), build(LONE, soap.cutoff)])
    made = soap_density.plan(graph, soap.species(graph), soap.elements)
    assert (len(made.parts) > 1) == (parts == "many")
    assert any(block.members is not None for block in made.parts[0].blocks) == (parts == "one")
    weights = torch.randn(soap.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for first_order in (False, True):
        leaf = graph.vectors().detach().requires_grad_()
        spectra = soap(graph.replace(_vectors=leaf, first_order=first_order, _made={}))
        found.append((spectra.detach(), *torch.autograd.grad((spectra @ weights).square().sum(), leaf)))
    scale = float(found[0][1].abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-13 * scale, rtol=1e-13)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-13 * scale, rtol=0)
    expected = Descriptor.jacobian(soap, graph)
    torch.testing.assert_close(soap.jacobian(graph), expected, atol=1e-13 * float(expected.abs().max()), rtol=0)


@kinds
def test_twice_differentiable(kind, box):
    soap = Soap((1, 8), **(SMALL | {"n_max": 2, "l_max": 1} | kind))
    cluster = Structure(box.numbers[:4], box.positions[:4])
    graph = build(cluster, soap.cutoff)
    weights = torch.randn(soap.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def energy(positions):
        return (soap(graph.replace(positions=positions)) @ weights).square().sum() / 100

    positions = graph.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, positions, atol=1e-6)
    assert torch.autograd.gradgradcheck(energy, positions, atol=1e-5)


def test_results_of_another_call_between_forward_and_backward_do_no_harm(box):
    soap = of({})
    other = build(Structure(box.numbers[::-1], box.positions[::-1] * 1.1), soap.cutoff)
    gradients = []
    for disturbed in (False, True):
        graph = build(box, soap.cutoff)
        leaf = graph.vectors().detach().requires_grad_()
        spectra = soap(graph.replace(_vectors=leaf, first_order=True))
        if disturbed:
            soap(other)
        gradients += torch.autograd.grad(spectra[:, :7].sum(), leaf)
    torch.testing.assert_close(*gradients, atol=1e-14, rtol=0)


@kinds
def test_unfolded_matrices_keep_the_dot_product(kind, box):
    soap = of(kind)
    contract, c = soap.contract, soap.coefficients(build(box, soap.cutoff))
    mixed = contract.mix(c)
    products = contract.products(mixed)
    matrices, total = soap.unfold(products), 0
    for degree, f in enumerate(contract.factors):
        part = slice(degree**2, (degree + 1) ** 2)
        spread = f * torch.einsum("iam,ibm->iab", c[:, :, part], mixed[:, :, part])
        total = total + torch.einsum("iab,jab->ij", spread, matrices[:, degree])
    torch.testing.assert_close(total, products @ products.T, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dialect", ["quip", "dscribe", "featomic"])
@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_lone_atom_is_finite(dialect, weight):
    soap = of({"dialect": dialect}, center_weight=weight)
    graph = build(LONE, soap.cutoff)
    spectrum = soap(graph)
    assert torch.isfinite(spectrum).all()
    assert (spectrum.abs().max() > 1e-3) == (weight > 0)
    assert soap.jacobian(graph).shape == (0, 3, soap.size)
    for distance in (soap.cutoff - 1e-5, soap.cutoff + 1e-5):
        pair = build(Structure(np.array([8, 1]), np.array([[0, 0, 0], [0, 0, distance]])), soap.cutoff + 0.1)
        for first_order in (False, True):
            leaf = pair.vectors().detach().requires_grad_()
            found = soap(pair.replace(_vectors=leaf, first_order=first_order))
            assert torch.isfinite(torch.autograd.grad(found.sum(), leaf)[0]).all()
        assert torch.isfinite(soap.jacobian(pair)).all()


@kinds
def test_nothing_jumps_where_an_atom_passes_the_cutoff(kind):
    soap = of(kind, normalize=False)

    def at(distance):
        graph = build(Structure(np.array([8, 1, 6]), np.array([[0, 0, 0], [0, 1.1, 0], [distance, 0, 0]])), 6.5)
        return soap(graph)[0], soap.jacobian(graph).abs().sum((0, 1))

    inside, outside = at(soap.cutoff - 1e-6), at(soap.cutoff + 1e-6)
    scale = float(at(1.5)[0].abs().max())
    assert (inside[0] - outside[0]).abs().max() < 1e-9 * scale
    assert (inside[1] - outside[1]).abs().max() < 1e-4 * scale


@pytest.mark.parametrize("dialect", ["quip", "dscribe", "featomic"])
def test_a_pair_that_three_body_descriptors_cannot_tell_apart(dialect):
    """Four neighbors on a ring of radius 1.2 at multiples of 45 degrees: 0 1 3 4 and 0 1 2 5."""

    def ring(steps):
        angles = np.array(steps) * np.pi / 4
        around = 1.2 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
        return Structure(np.array([6, 1, 1, 1, 1]), np.concatenate([np.zeros((1, 3)), around]))

    def apart(structure):
        x = structure.positions[1:]
        return np.sort(np.linalg.norm(x[:, None] - x, axis=2)[np.triu_indices(4, 1)])

    soap = Soap((1, 6), 4.0, 6, 6, 0.4, dialect=dialect)
    one, other = ring((0, 1, 3, 4)), ring((0, 1, 2, 5))
    a, b = (soap(build(s, soap.cutoff)) for s in (one, other))
    # all angles at the center agree, so the distances do; what differs is which of them meet at a neighbor
    np.testing.assert_allclose(apart(one), apart(other), atol=1e-12)
    assert (a[0] - b[0]).abs().max() < 2e-14 * float(a.abs().max())
    assert (a[1:].sort(0).values - b[1:].sort(0).values).abs().max() > 1e-3 * float(a.abs().max())


def test_ten_elements_stay_affordable():
    elements = ("H", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Br")
    sizes = {
        name: Soap(elements, n_max=8, l_max=6, **kind).size
        for name, kind in {"all": {}, "mu1nu1": {"compression": "mu1nu1"}, "mixed": {"mixing": 3}}.items()
    }
    assert sizes == {"all": 7 * 80 * 81 // 2, "mu1nu1": 7 * 80 * 8, "mixed": 7 * 24 * 25 // 2}
    mixed = Soap(elements, n_max=2, l_max=1, mixing=3)
    again = make(mixed.config(), ())
    assert again.config() == mixed.config()
    assert len(mixed.config()["mixing"]) == 3  # the matrix itself travels


def test_mixing_is_near_for_near_elements():
    matrix = mixing_matrix((6, 7, 14, 17, 79), 5)
    similar = matrix.T @ matrix
    np.testing.assert_allclose(np.diag(similar), 1)
    assert similar[0, 1] > similar[0, 2] > similar[0, 4]


def test_average_of_atoms(box):
    graph = build([box, LONE], 3.0)
    settings = {k: v for k, v in SMALL.items()}
    outer, inner = (SoapAverage((1, 6, 8), kind, settings) for kind in ("outer", "inner"))
    each = outer.each(graph)
    torch.testing.assert_close(outer(graph), torch.stack([each[:7].mean(0), each[7]]))
    assert (inner(graph)[0] - outer(graph)[0]).abs().max() > 1e-3
    torch.testing.assert_close(inner(graph)[1], outer(graph)[1])  # one atom is its own mean
    assert outer.jacobian(graph).shape == (8, 3, outer.size)


def test_selected_components(box):
    config = {"name": "soap", **SMALL}
    chosen = Selected((1, 6, 8), config, kept=[5, 0, 17])
    graph, whole = build(box, 3.0), make(config, (1, 6, 8))
    torch.testing.assert_close(chosen(graph), whole(graph)[:, [5, 0, 17]])
    torch.testing.assert_close(chosen.jacobian(graph), whole.jacobian(graph)[..., [5, 0, 17]])
    assert chosen.columns() == [whole.columns()[k] for k in (5, 0, 17)]
    assert make(chosen.config(), ()).columns() == chosen.columns()
    for wrong in ([], [1, 1], [-1], [whole.size]):
        with pytest.raises(ConfigError, match="Selected.kept"):
            Selected((1, 6, 8), config, kept=wrong)
    with pytest.raises(ConfigError, match="whole structures"):
        Selected((1, 6, 8), "soap_average")


def test_order_of_quip_has_degrees_innermost():
    assert quip_order(2, 1).tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"basis": "polynomial"}, "no basis 'polynomial'"),
        ({"dialect": "dscribe", "basis": "polinomial"}, "did you mean 'polynomial'"),
        ({"dialect": "dscribe", "cutoff": 0.9, "cutoff_width": None}, "begins at 1 Å"),
        ({"dialect": "featomic", "n_max": 40}, "linearly dependent"),
        ({"compression": "mu1nu2"}, "did you mean 'mu1nu1'"),
        ({"mixing": 4}, "between 1 and the number of elements, 3"),
        ({"mixing": [[1.0, 2.0]]}, "rows of 3 finite numbers"),
        ({"mixing": [[1.0, 2.0, 3.0], [1.0]]}, "rows of 3 finite numbers"),
        ({"weighting": {"function": "pov"}}, "did you mean 'pow'"),
        ({"weighting": {"function": "pow", "c": 1.0}}, "needs c, d, m, r0"),
        ({"weighting": {"function": "exp", "c": 1.0, "d": 1.0, "r0": 0.0}}, "positive"),
        ({"l_max": -1}, "l_max"),
    ],
)
def test_impossible_arguments(change, message):
    with pytest.raises(ConfigError, match=message):
        of({}, **change)


def test_a_result_larger_than_memory_is_refused_before_it_is_made(box):
    with pytest.raises(DataError, match="choose a smaller basis"):
        describe.describe("soap", box, gradients=True, memory=10**6)


def test_single_precision(box):
    """As exact as its numbers allow: predictions in float32 lose 1e-6, not more."""
    soap, single = of({}), of({}).float()
    graph = build(box, soap.cutoff)
    gradients = []
    for made in (soap, single):
        leaf = graph.vectors().detach().requires_grad_()
        spectra = made(graph.replace(_vectors=leaf, first_order=True, _made={}))
        gradients += torch.autograd.grad(spectra[:, :7].sum(), leaf)
    assert spectra.dtype == torch.float32
    assert single.jacobian(graph).dtype == torch.float32
    torch.testing.assert_close(single(graph).double(), soap(graph), atol=2e-6, rtol=0)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=0)
