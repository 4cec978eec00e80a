"""Spherical Bessel power spectra.

Witnesses: the reference values printed in the NeuralIL repository, the double sum over pairs of neighbors with Legendre
polynomials (scipy), Gauss-Legendre quadrature, finite differences, symmetry.
"""

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, spherical_jn

from epot.data.structure import Structure
from epot.errors import ConfigError, UnknownElementError
from epot.features.bessel import radial_functions, roots
from epot.features.descriptor import Descriptor, make
from epot.features.descriptors.spherical_bessel import SphericalBessel
from epot.geometry.graph import build, collate

NEIGHBORS = np.array(
    [
        (1.3681827, -1.3103517, -1.3131874),
        (-1.5151760, 1.3360077, -1.3477119),
        (-1.3989598, -1.2973683, 1.3679189),
        (1.2279369, 1.3400378, 1.4797429),
    ]
)
REFERENCE = [
    [0.031871, 0.138079, 0.099814, 0.000580, 0.106035],
    [0.000416, 0.000514, 0.002311, 0.003456],
    [0.002641, 0.001099, 0.005239],
    [0.654837, 0.367765],
    [0.483945],
]  # fmt: skip


def test_values_of_the_neuralil_repository():
    methane = Structure(np.full(5, 6), np.vstack([np.zeros(3), NEIGHBORS]))
    spectrum = SphericalBessel((6,), 3.7711, 4)(build(methane, 3.7711))[0]
    np.testing.assert_allclose(spectrum, np.concatenate(REFERENCE), rtol=0, atol=5.1e-7)


def test_roots_are_roots_and_interlace():
    table = roots(8, 10)
    for order, row in enumerate(table):
        assert np.abs(spherical_jn(order, row)).max() < 1e-14
        assert (np.diff(row) > 3).all()
        assert (np.diff(row) < 4.5).all()
    assert table[1, 0] == pytest.approx(4.493409457909064, abs=1e-14)  # tan x = x


@pytest.mark.parametrize("n_max", [4, 9])
def test_radial_functions_are_orthonormal(n_max):
    nodes, weights = np.polynomial.legendre.leggauss(200)
    r = (nodes + 1) * 1.85
    g = radial_functions(r, 3.7, n_max)
    start = 0
    for order in range(n_max + 1):
        part = g[start : start + n_max - order + 1]
        start += len(part)
        np.testing.assert_allclose((part * r**2 * weights * 1.85) @ part.T, np.eye(len(part)), atol=1e-12)
    assert start == len(g)


def test_value_slope_and_curvature_vanish_at_the_cutoff():
    bessel = SphericalBessel((1,), 4.0, 5)
    ends = []
    for distance in (4.0, 3.0):  # the second: a control
        r = torch.full((1,), distance, dtype=torch.float64, requires_grad=True)
        values, found = bessel.radial(r)[:, 0], []
        for value in values:
            (slope,) = torch.autograd.grad(value, r, create_graph=True)
            (bend,) = torch.autograd.grad(slope, r, retain_graph=True)
            found.append([float(value.detach()), float(slope.detach()), float(bend)])
        ends.append(np.abs(found).max(0))
    assert (ends[0] < [1e-13, 1e-10, 2e-8]).all()
    assert (ends[1] > 0.1).all()


def pair_loop(structure, bessel):
    """The definition, atom by atom, neighbor by neighbor."""
    graph = build(structure, bessel.cutoff)
    vectors, (receivers, senders) = graph.vectors().numpy(), graph.pairs.numpy()
    orders = np.concatenate([np.full(bessel.n_max - n + 1, n) for n in range(bessel.n_max + 1)])
    rows = []
    for i in range(graph.n_atoms):
        near = vectors[receivers == i]
        kinds = structure.numbers[senders[receivers == i]]
        r = np.linalg.norm(near, axis=1)
        g = radial_functions(r, bessel.cutoff, bessel.n_max)
        cosines = np.clip((near / r[:, None]) @ (near / r[:, None]).T, -1, 1)
        kernel = np.stack([(2 * n + 1) / (4 * np.pi) * eval_legendre(n, cosines) for n in orders])
        each = np.einsum("nj,nk,njk->njk", g, g, kernel)
        row = []
        for a, one in enumerate(bessel.elements):
            for other in bessel.elements[a:]:
                row.append(each[:, kinds == one][:, :, kinds == other].sum((1, 2)))
        rows.append(np.concatenate(row))
    return np.stack(rows)


def test_addition_theorem_is_the_double_sum(water, silicon, ethanol):
    """Cells shorter than the cutoff: neighbors j and k may be images of one atom."""
    for structure, elements in ((water, (1, 8)), (silicon, (14,)), (ethanol, (6, 1, 8))):
        bessel = SphericalBessel(elements, 4.2, 4)
        expected = pair_loop(structure, bessel)
        np.testing.assert_allclose(bessel(build(structure, 4.2)), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        assert np.abs(expected).max() > 0.3


def test_invariance(water):
    bessel = SphericalBessel((1, 8), 3.5, 4)
    before = bessel(build(water, 3.5))
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    order = np.array([5, 3, 1, 0, 2, 4])
    for matrix in (q, q @ np.diag([1, 1, -1])):
        moved = Structure(water.numbers[order], (water.positions @ matrix)[order] + 0.7, water.cell @ matrix, True)
        torch.testing.assert_close(bessel(build(moved, 3.5)), before[order], atol=1e-12, rtol=0)
    double = Structure(
        np.tile(water.numbers, 2), np.concatenate([water.positions, water.positions + water.cell[1]]),
        water.cell * [[1], [2], [1]], True,
    )  # fmt: skip
    torch.testing.assert_close(bessel(build(double, 3.5)), before.repeat(2, 1), atol=1e-12, rtol=0)
    squeezed = water.replace(positions=water.positions * 0.99)  # a control
    assert (bessel(build(squeezed, 3.5)) - before).abs().max() > 1e-2


def test_twice_differentiable_and_once_more(water):
    bessel = SphericalBessel((1, 8), 3.0, 2)
    graph = build(water.replace(pbc=False), 2.0)
    weights = torch.randn(bessel.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def energy(vectors):
        return (bessel(graph.replace(_vectors=vectors)) @ weights).square().sum()

    def forces(vectors):
        return torch.autograd.grad(energy(vectors), vectors, create_graph=True)[0].square().sum()

    vectors = graph.vectors().detach().requires_grad_()
    assert torch.autograd.gradcheck(energy, vectors)
    assert torch.autograd.gradgradcheck(energy, vectors, atol=1e-4)
    few = build(Structure(np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0.9, 0.1, 0.3], [-0.4, 0.9, 0.2]])), 3.0)
    graph = few
    leaf = few.vectors().detach().requires_grad_()
    assert torch.autograd.gradgradcheck(forces, leaf, atol=1e-3, fast_mode=True)


def test_short_way_of_a_loss_on_forces(water):
    """Witness: the same through operations that autograd knows alone."""
    bessel = SphericalBessel((1, 8), 3.5, 3)
    graph = build(water, 3.5)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(bessel.size, dtype=torch.float64, generator=generator, requires_grad=True)

    def plain(vectors):
        t = bessel.terms(vectors)
        c = (
            t.new_zeros(graph.n_atoms * 2, t.shape[1])
            .index_add(0, bessel.layout(graph).rows, t)
            .view(-1, 2, t.shape[1])
        )
        return torch.stack([(c[:, a] * c[:, b]) @ bessel.sums for a, b in bessel.channels], 1).flatten(1)

    found = []
    for function in (lambda v: bessel(graph.replace(_vectors=v)), plain):
        vectors = graph.vectors().detach().requires_grad_()
        energy = torch.tanh(function(vectors) @ weights).sum()
        (g,) = torch.autograd.grad(energy, vectors, create_graph=True)
        found.append(torch.autograd.grad(g.square().sum(), weights)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-11)
    assert found[0].abs().max() > 1e-2


def test_jacobian_in_closed_form_is_that_of_autograd(water, ethanol):
    for structure, elements in ((water, (8, 1)), (ethanol, (1, 6, 8))):
        bessel = SphericalBessel(elements, 3.3, 3)
        graph = build(structure, 3.3)
        expected = Descriptor.jacobian(bessel, graph)
        torch.testing.assert_close(bessel.jacobian(graph), expected, rtol=0, atol=1e-11)
        assert expected.abs().max() > 0.1


def test_lone_atoms_batches_and_pairs_beyond_the_cutoff(water):
    bessel = SphericalBessel((1, 8), 3.0, 4)
    lone = build(Structure(np.array([8]), np.zeros((1, 3))), 3.0)
    assert not bessel(lone).any()
    one = build(water, 3.0)
    torch.testing.assert_close(bessel(collate([lone, one]))[1:], bessel(one), atol=1e-14, rtol=0)
    torch.testing.assert_close(bessel(build(water, 5.0)), bessel(one), atol=1e-12, rtol=0)


def test_float32_and_back_loses_nothing(water):
    bessel = SphericalBessel((1, 8), 3.5, 4)
    graph = build(water, 3.5)
    before, slopes = bessel(graph), bessel.jacobian(graph)
    single = bessel.float()(graph)
    assert single.dtype == torch.float32
    assert 1e-9 < (single - before).abs().max() < 1e-4
    assert torch.equal(bessel.double()(graph), before)
    assert torch.equal(bessel.jacobian(graph), slopes)


def test_columns_and_configuration():
    bessel = SphericalBessel(("C", "H"), 3.5, 2)
    assert bessel.size == len(bessel.columns()) == 3 * 6
    assert bessel.columns()[:2] == ["C C l0 n0", "C C l0 n1"]
    assert bessel.columns()[-1] == "H H l2 n0"
    assert make(bessel.config(), (1,)).columns() == bessel.columns()


def test_bad_input(ethanol):
    with pytest.raises(ConfigError, match=r"cutoff above 0.*0.0"):
        SphericalBessel((1,), 0.0)
    with pytest.raises(ConfigError, match="n_max"):
        SphericalBessel((1,), 3.0, -1)
    with pytest.raises(UnknownElementError, match="H, C.*holds O"):
        SphericalBessel((1, 6))(build(ethanol, 4.0))


def test_forces_of_lone_atoms_vanish():
    bessel = SphericalBessel((1, 8), 3.0, 3)
    lone = build(Structure(np.array([8, 1]), np.array([[0.0, 0, 0], [0, 0, 5.0]])), 3.0)
    positions = lone.positions.clone().requires_grad_()
    (slope,) = torch.autograd.grad(bessel(lone.replace(positions=positions)).sum(), positions, create_graph=True)
    assert not slope.any()
    assert bessel.jacobian(lone).shape == (0, 3, bessel.size)


def test_blocks_change_nothing(monkeypatch, water, ethanol):
    """Many atoms are computed a block at a time: here one or two atoms each, one of them alone."""
    from epot.features.descriptors import spherical_bessel

    bessel = SphericalBessel((1, 6, 8), 3.0, 3)
    lone = Structure(np.array([8]), np.zeros((1, 3)))
    found = []
    for size in (2**18, 400):
        monkeypatch.setattr(spherical_bessel, "BLOCK", size)
        graph = build([water, lone, ethanol], 3.0)
        vectors = graph.vectors().detach().requires_grad_()
        rows = bessel(graph.replace(_vectors=vectors))
        (slope,) = torch.autograd.grad(rows.sin().sum(), vectors, create_graph=True)
        assert (len(bessel.layout(graph).blocks) > 3) == (size == 400)
        found.append((rows.detach(), slope.detach(), torch.autograd.grad(slope.square().sum(), vectors)[0]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
