"""Kernels on pairs and triples. Witnesses: loops over atoms written with NumPy, batched autograd."""

import itertools

import numpy as np
import pytest
import torch

from epot.blocks.distance_kernels import AngleKernel, PairKernel
from epot.data.structure import Structure
from epot.errors import ConfigError, ModelError, UnknownElementError
from epot.fit.design import design, design_by_autograd
from epot.geometry.graph import build
from epot.models.gap import GAP
from epot.potential import make
from epot.predict import predict

NUMBERS = np.array([8, 1, 1, 8])
POSITIONS = np.array([[0, 0, 0], [0.96, 0, 0.1], [-0.24, 0.93, 0], [1.3, 1.4, 2.1]])
CELL = np.array([[3.2, 0, 0], [0.4, 3.4, 0], [0, 0.3, 3.9]])
MOLECULE = Structure(NUMBERS, POSITIONS)
CRYSTAL = Structure(NUMBERS, POSITIONS, CELL, True)
THREE = [
    {"name": "soap", "cutoff": 3.3, "n_max": 3, "l_max": 2, "delta": 0.5},
    {"name": "distance_2b", "cutoff": 3.1, "cutoff_width": 0.9, "delta": 1.5, "theta": 0.7},
    {"name": "angle_3b", "cutoff": 2.7, "cutoff_width": 0.8, "delta": 0.4, "theta": [1.0, 0.8, 1.2]},
]


def fade(r, cutoff, width):
    return 0.5 * (np.cos(np.pi * min(max((r - cutoff + width) / width, 0), 1)) + 1)


def filled(kernels=THREE):
    made = GAP((1, 8), kernels=kernels)
    graph = build(CRYSTAL, made.cutoff)
    for k, kernel in enumerate(made.terms):
        points = []
        for p in kernel.candidates(graph.within(kernel.cutoff)):
            points.append(p[:: max(len(p) // 3, 1)][:4])
        made.set_sparse(points, k)
    with torch.no_grad():
        made.readout.weight.copy_(torch.linspace(-1, 1, len(made.readout.weight), dtype=torch.float64))
    return made


@pytest.fixture
def gap():
    return filled()


def test_pairs_by_hand():
    kernel = PairKernel((1, 8), 3.1, 0.9, 0.7, delta=1.5)
    assert kernel.labels == ["H-H", "H-O", "O-O"]
    points = [torch.tensor([[1.0, 0.6], [2.0, 1.0]], dtype=torch.float64)] * 3
    kernel.set_points(points)
    found = kernel(build(MOLECULE, 3.1)).numpy()
    expected = np.zeros((4, 6))
    groups = {(1, 1): 0, (1, 8): 2, (8, 8): 4}
    for i, j in itertools.permutations(range(4), 2):
        r = np.linalg.norm(POSITIONS[i] - POSITIONS[j])
        if r >= 3.1:
            continue
        column = groups[tuple(sorted((NUMBERS[i], NUMBERS[j])))]
        for m, (x, w) in enumerate([(1.0, 0.6), (2.0, 1.0)]):
            expected[i, column + m] += 2.25 * np.exp(-0.5 * ((r - x) / 0.7) ** 2) * fade(r, 3.1, 0.9) * w
    np.testing.assert_allclose(found, expected, atol=1e-14)
    gram = kernel.gram().numpy()
    assert gram[0, 0] == pytest.approx(2.25 * 0.36)
    assert gram[2, 3] == pytest.approx(2.25 * 0.6 * np.exp(-0.5 / 0.49))
    assert gram[0, 2] == 0


def test_triples_by_hand():
    kernel = AngleKernel((1, 8), 2.7, 0.8, [1.0, 0.8, 1.2], delta=0.4)
    assert kernel.labels == ["H-H-H", "H-H-O", "O-H-O", "H-O-H", "H-O-O", "O-O-O"]
    point = [2.1, 0.3, 1.6]
    kernel.set_points([torch.tensor([[*point, 0.7]], dtype=torch.float64)] * 6)
    found = kernel(build(MOLECULE, 2.7)).numpy()
    expected = np.zeros((4, 6))
    for i in range(4):
        for j, k in itertools.permutations([a for a in range(4) if a != i], 2):  # both orders count
            a, b, c = (np.linalg.norm(POSITIONS[p] - POSITIONS[q]) for p, q in ((i, j), (i, k), (j, k)))
            if max(a, b) >= 2.7:
                continue
            x = np.array([a + b, (a - b) ** 2, c])
            ends = "-".join(sorted("HO"[int(NUMBERS[p] == 8)] for p in (j, k)))
            column = kernel.labels.index(f"{ends[0]}-{'HO'[int(NUMBERS[i] == 8)]}-{ends[2]}")
            value = 0.16 * np.exp(-0.5 * (((x - point) / [1.0, 0.8, 1.2]) ** 2).sum()) * 0.7
            expected[i, column] += value * fade(a, 2.7, 0.8) * fade(b, 2.7, 0.8)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert (expected > 0).any(0).sum() >= 3


def test_closed_form_rows_equal_autograd(gap):
    graph = build([MOLECULE, CRYSTAL], gap.cutoff)
    for ours, theirs in zip(design(gap, graph), design_by_autograd(gap, graph), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
        assert theirs.abs().max() > 1e-2


def test_blocks_of_rows_make_no_difference(gap, monkeypatch):
    graph = build([MOLECULE, CRYSTAL], gap.cutoff)
    whole, values = design(gap, graph), predict(gap, graph)
    monkeypatch.setattr("epot.blocks.distance_kernels.ROWS", 20)
    monkeypatch.setattr("epot.blocks.sparse_kernels.ROWS", 20)
    for ours, theirs in zip(design(gap, graph), whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-13, rtol=1e-12)
    again = predict(gap, graph)
    torch.testing.assert_close(again.forces, values.forces, atol=1e-13, rtol=1e-12)


def test_any_element_is_the_sum_of_all_groups(gap):
    """``X-X`` with the points of one group counts the pairs of all."""
    kernel, any_pair = PairKernel((1, 8), 3.1), PairKernel((1, 8), 3.1, groups=["X-X"])
    points = torch.tensor([[1.1, 1.0], [2.2, 1.0]], dtype=torch.float64)
    kernel.set_points([points] * 3)
    any_pair.set_points([points])
    graph = build(CRYSTAL, 3.1)
    torch.testing.assert_close(any_pair(graph), kernel(graph).view(4, 3, 2).sum(1))


def test_prior_is_block_diagonal_and_that_of_the_kernels(gap):
    """``K_MM`` against kernels between descriptors as candidates give them."""
    precision = gap.precision()
    assert torch.linalg.eigvalsh(precision).min() > -1e-10
    sizes = [len(k.points) for k in gap.terms]
    assert float(precision[: sizes[0], sizes[0] :].abs().max()) == 0
    soap = gap.terms[0].points.double()
    assert float(precision[0, 1]) == pytest.approx(0.25 * float(soap[0] @ soap[1]) ** 4)


def test_covariance_of_atoms_is_that_of_their_energies(gap):
    """Atoms of a graph with those of another: symmetric, positive, and zero with atoms out of reach."""
    a, b = build(MOLECULE, gap.cutoff), build(CRYSTAL, gap.cutoff)
    cross = gap.prior_covariance(a, b)
    torch.testing.assert_close(cross, gap.prior_covariance(b, a).T)
    assert torch.linalg.eigvalsh(gap.prior_covariance(b, b)).min() > -1e-10
    body = GAP((1, 8), kernels=[{"name": "distance_2b", "cutoff": 3.1}, {"name": "angle_3b", "cutoff": 2.5}])
    lone = build(Structure(np.array([8]), np.zeros((1, 3))), body.cutoff)
    assert float(body.prior_covariance(lone, b).abs().max()) == 0


def test_configuration_makes_an_equal_one(gap):
    again = make(gap.config())
    assert again.config() == gap.config()
    assert again.cutoff == 3.3
    assert "distance_2b" in str(gap.config()["kernels"])


def test_soap_kernels_take_the_arguments_of_the_potential():
    made = GAP(
        (1, 8), cutoff=3.7, n_max=4, l_max=3, n_sparse=50, kernels=[{"name": "soap"}, {"name": "soap", "zeta": 2}]
    )
    assert [k.zeta for k in made.terms] == [4, 2]
    assert [(k.soap.cutoff, k.soap.n_max, k.n_sparse) for k in made.terms] == [(3.7, 4, 50)] * 2


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        ([], "list of mappings"),
        ([{"name": "soup"}], "soap, distance_2b, angle_3b"),
        ([{"name": "distance_2b", "zeta": 3}], "zeta"),
        ([{"name": "soap", "n_maxx": 3}], "n_max"),
        ([{"name": "distance_2b", "theta": 0.0}], "theta"),
        ([{"name": "angle_3b", "theta": [1.0, 1.0]}], "or 3 of them"),
        ([{"name": "distance_2b", "groups": ["H-Si"]}], "H-Si"),
        ([{"name": "distance_2b", "groups": ["H"]}], "2 elements"),
        ([{"name": "soap", "groups": ["Si"]}], "Si is not"),
        ([{"name": "distance_2b", "cutoff": 3.0, "cutoff_width": 4.0}], "cutoff_width"),
        ([{"name": "distance_2b", "delta": -1.0}], "above 0"),
        ([{"name": "soap", "zeta": 1.5}], "zeta"),
        ([{"name": "soap", "normalize": False}], "normalize"),
    ],
)
def test_impossible_kernels(kernels, message):
    with pytest.raises(ConfigError, match=message):
        GAP((1, 8), kernels=kernels)


def test_without_soap():
    body = GAP((1, 8), kernels=[{"name": "distance_2b", "cutoff": 3.1}])
    with pytest.raises(UnknownElementError, match="holds Si"):
        predict(body, build(Structure(np.array([14]), np.zeros((1, 3))), 3.1))
    with pytest.raises(ModelError, match="SelectSparse"):
        predict(body, build(MOLECULE, 3.1))
