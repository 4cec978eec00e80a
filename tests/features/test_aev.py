"""Atomic environment vectors: their sums written out, derivatives, symmetry, smoothness, what is refused.

Torchani's values are compared in tests/interchange/test_torchani.py.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from epot.data.structure import Structure
from epot.errors import ConfigError, UnknownElementError
from epot.features import aev_kernels, aev_layout
from epot.features.descriptor import make
from epot.features.descriptors.aev import AEV
from epot.geometry.graph import build, collate

SMALL = {"cutoff": 4.4, "angular_cutoff": 3.4, "radial_shifts": 3, "angular_shifts": 2, "sections": 3}


@pytest.fixture
def oxides():
    """Three elements in a skewed cell shorter than the cutoff."""
    rng = np.random.default_rng(3)
    cell = np.array([[3.9, 0.2, 0.0], [0.9, 4.1, -0.3], [0.1, 0.4, 4.3]])
    places = np.array([[0, 0, 0], [0.5, 0.5, 0.05], [0.5, 0, 0.5], [0, 0.45, 0.5], [0.3, 0.25, 0.75]])
    return Structure(np.array([6, 8, 1, 8, 6]), (places + 0.05 * rng.random((5, 3))) @ cell, cell, True)


def molecule(numbers, positions):
    return Structure(np.array(numbers), np.array(positions))


def written_out(structure, descriptor, fade):
    """The equations, one term after the other."""
    graph = build(structure, descriptor.cutoff)
    i, j = graph.pairs.numpy()
    vectors, kinds = graph.vectors().numpy(), [descriptor.elements.index(z) for z in structure.numbers]
    n = len(descriptor.elements)
    radial = np.zeros((len(structure), n, len(descriptor.radial_shifts)))
    angular = np.zeros((len(structure), n, n, len(descriptor.angular_shifts), len(descriptor.sections)))
    centers, angles = np.array(descriptor.angular_shifts), np.array(descriptor.sections)
    for a, b, v in zip(i, j, vectors, strict=True):
        r = np.linalg.norm(v)
        terms = 0.25 * np.exp(-descriptor.radial_eta * (r - np.array(descriptor.radial_shifts)) ** 2)
        radial[a, kinds[b]] += terms * fade(r, descriptor.cutoff)
    for p, q in itertools.combinations(range(len(i)), 2):
        u, v = np.linalg.norm(vectors[p]), np.linalg.norm(vectors[q])
        if i[p] == i[q] and max(u, v) < descriptor.angular_cutoff:
            theta = math.acos(0.95 * vectors[p] @ vectors[q] / (u * v))
            turn = 2 * (0.5 * (1 + np.cos(theta - angles))) ** descriptor.zeta
            far = np.exp(-descriptor.angular_eta * ((u + v) / 2 - centers) ** 2)
            low, high = sorted((kinds[j[p]], kinds[j[q]]))
            both = fade(u, descriptor.angular_cutoff) * fade(v, descriptor.angular_cutoff)
            angular[i[p], low, high] += both * np.outer(far, turn)
    upper = np.triu_indices(n)
    return np.concatenate([radial.reshape(len(structure), -1), angular[:, *upper].reshape(len(structure), -1)], 1)


@pytest.mark.parametrize("zeta", [14.1, 32.0, 1.0])
def test_the_sums_written_out(oxides, zeta):
    """Witness: Smith 2017, Eqs. 3 and 4 with the two factors of the codes, in plain loops."""
    made = AEV((1, 6, 8), **SMALL, zeta=zeta)
    expected = written_out(oxides, made, lambda r, cutoff: 0.5 * (1 + math.cos(math.pi * r / cutoff)))
    rows = made(build(oxides, made.cutoff)).numpy()
    assert rows.shape == expected.shape == (5, made.size)
    assert np.abs(rows - expected).max() < 1e-12
    assert np.abs(rows - expected[:, ::-1]).max() > 0.1  # control: the order of the components matters


@pytest.mark.parametrize("function", ["cosine", "exponential", "poly2"])
def test_derivatives_of_both_orders(oxides, function):
    """Against finite differences (torch.autograd.gradcheck), as functions of the pair vectors."""
    made = AEV((1, 6, 8), cutoff_function=function, **SMALL)
    graph = build(Structure(oxides.numbers[:4], oxides.positions[:4]), made.cutoff)
    vectors = graph.vectors().clone().requires_grad_()
    rows = lambda v: made(graph.replace(_vectors=v))  # noqa: E731
    assert torch.autograd.gradcheck(rows, vectors, atol=1e-7, fast_mode=True)
    assert torch.autograd.gradgradcheck(rows, vectors, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("layout", ["1x", "2x"])
def test_three_ways_to_the_derivatives(oxides, layout):
    """Products with the Jacobian from either side and the Jacobian itself, against autograd on ordinary operations."""
    made = AEV((1, 6, 8), layout)
    graph = collate([build(s, made.cutoff) for s in (oxides, molecule([8], [[0.0, 0, 0]]), oxides)])
    vectors, where = made._prepare(graph)
    constants = made._constants()
    leaf = vectors.clone().requires_grad_()
    plain = aev_kernels.plain(leaf, where, constants)
    rows, kept = aev_kernels.value(vectors, where, constants, True)
    assert torch.allclose(rows, plain, rtol=0, atol=1e-13)
    generator = torch.Generator().manual_seed(0)
    random = lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)  # noqa: E731
    grad, tangent = random(plain).requires_grad_(), random(leaf)
    (pulled,) = torch.autograd.grad(plain, leaf, grad, create_graph=True)
    (pushed,) = torch.autograd.grad(pulled, grad, tangent)
    assert torch.allclose(aev_kernels.pull(grad.detach(), kept, where, constants), pulled, rtol=0, atol=1e-11)
    assert torch.allclose(aev_kernels.push(tangent, kept, where, constants), pushed, rtol=0, atol=1e-11)
    whole = made.jacobian(graph)
    assert whole.shape == (graph.n_pairs, 3, made.size)
    contracted = torch.einsum("pas,ps->pa", whole, grad.detach()[graph.pairs[0]])
    assert torch.allclose(contracted, pulled, rtol=0, atol=1e-11)


def test_symmetry(oxides):
    """Rotation, reflection, translation, order of atoms and the choice of the cell change nothing."""
    made = AEV((1, 6, 8), **SMALL)
    rows = made(build(oxides, made.cutoff))
    turn = Rotation.random(random_state=0).as_matrix() * -1
    moved = Structure(oxides.numbers, oxides.positions @ turn + 1.3, oxides.cell @ turn, True)
    assert torch.allclose(made(build(moved, made.cutoff)), rows, rtol=0, atol=1e-12)
    order = np.array([3, 1, 4, 0, 2])
    swapped = oxides.replace(numbers=oxides.numbers[order], positions=oxides.positions[order])
    assert torch.allclose(made(build(swapped, made.cutoff)), rows[order], rtol=0, atol=1e-12)
    double = oxides.to_ase() * (2, 1, 1)
    assert torch.allclose(made(build(Structure.from_ase(double), made.cutoff)), rows.repeat(2, 1), rtol=0, atol=1e-12)
    stretched = oxides.replace(positions=oxides.positions * 1.01)
    assert float((made(build(stretched, made.cutoff)) - rows).abs().max()) > 1e-3  # control


def bend(function, step=1e-3):
    """Jump of the second derivative where an atom leaves the angular cutoff, relative to the largest one inside."""
    made = AEV((1, 6), cutoff_function=function, **SMALL)
    end = made.angular_cutoff

    def curve(x):
        positions = np.array([[0.0, 0, 0], [1.0, 0.1, 0], [0.3, x, 0.1]])
        x = float(np.sqrt(x**2 - 0.1))
        positions[2, 1] = x
        return made(build(molecule([6, 1, 1], positions), made.cutoff)).numpy()[0]

    second = lambda x: (curve(x + step) - 2 * curve(x) + curve(x - step)) / step**2  # noqa: E731
    inside = np.abs([second(x) for x in np.linspace(end - 1, end - 0.1, 10)]).max(0).max()
    return np.abs(second(end + 2 * step) - second(end - 2 * step)).max() / inside


def test_smooth_at_the_cutoff():
    """Curvature goes to zero with the exponential and polynomial cutoffs; the papers' cosine jumps (control)."""
    assert bend("exponential") < 5e-3
    assert bend("poly2") < 0.02
    assert bend("cosine") > 0.5


def test_layouts_are_kept_while_the_triples_are_the_same(oxides):
    made = AEV((1, 6, 8), **SMALL)
    graph = build(oxides, made.cutoff)
    rows = made(graph)
    kept = [v for k, v in graph._made.items() if k.startswith("aev")]
    made(graph.replace(positions=graph.positions * 1.0001))
    assert [v for k, v in graph._made.items() if k.startswith("aev")][0][2] is kept[0][2]
    moved = oxides.positions.copy()
    moved[1] += [0.3, -0.2, 0.25]
    there = build(oxides.replace(positions=moved), made.cutoff)
    if there.n_pairs == graph.n_pairs and torch.equal(there.pairs, graph.pairs):
        pytest.fail("the test needs another set of pairs")
    vectors = graph.vectors() * 0.93  # the same pairs, other triples
    fresh = graph.replace(_vectors=vectors, _made={})
    again = graph.replace(_vectors=vectors)
    assert torch.equal(made(again), made(fresh))
    assert not torch.allclose(made(again), rows)


def test_blocks(monkeypatch, oxides):
    """Where blocks and chunks of triples end changes nothing but rounding."""
    made = AEV((1, 6, 8), **SMALL)
    graph = lambda: collate([build(oxides, made.cutoff)] * 3)  # noqa: E731
    rows, whole = made(graph()), made.jacobian(graph())
    for block, empty, chunk in ((1, 8, 1), (16, 0, 40), (64, 3, 10000)):
        monkeypatch.setattr(aev_layout, "BLOCK", block)
        monkeypatch.setattr(aev_layout, "CHUNK", chunk)
        monkeypatch.setattr(aev_layout, "EMPTY", empty)
        assert torch.allclose(made(graph()), rows, rtol=0, atol=1e-13)
        assert torch.allclose(made.jacobian(graph()), whole, rtol=0, atol=1e-12)


def test_lone_atoms_and_missing_elements():
    """Zeros, with derivatives of zero; atoms out of reach of angles have a radial part only."""
    made = AEV((1, 6, 8, 9), **SMALL)
    alone = build([molecule([9], [[0.0, 0, 0]]), molecule([6, 1], [[0.0, 0, 0], [0, 0, 4.0]])], made.cutoff)
    vectors = alone.vectors().clone().requires_grad_()
    rows = made(alone.replace(_vectors=vectors))
    assert not rows[0].any()
    assert (rows[1:, :12] != 0).any()
    assert not rows[:, 12:].any()
    (found,) = torch.autograd.grad(rows.sum(), vectors)
    assert found.shape == (2, 3)
    assert torch.isfinite(found).all()
    assert made.jacobian(alone).shape == (2, 3, made.size)
    one = build(molecule([8], [[0.0, 0, 0]]), made.cutoff)
    assert made(one).shape == (1, made.size)
    assert made.jacobian(one).shape == (0, 3, made.size)
    with pytest.raises(UnknownElementError, match="knows H, C, O, F; the graph holds Si"):
        made(build(molecule([14], [[0.0, 0, 0]]), made.cutoff))


def test_precision(oxides):
    """Constants are made of the full numbers in any precision: to float32 and back changes nothing."""
    made = AEV((1, 6, 8))
    graph = build(oxides, made.cutoff)
    rows = made(graph)
    single = made.float()(graph)
    assert single.dtype == torch.float32
    assert float((single - rows).abs().max()) < 3e-6 * float(rows.abs().max())
    assert torch.equal(made.double()(graph), rows)


def test_columns_sizes_and_configuration():
    made = AEV(("H", "C", "N", "O", "S", "F", "Cl"))
    assert made.size == len(made.columns()) == 1008
    assert made.columns()[0] == "H R=0.800"
    assert made.columns()[-1] == "Cl-Cl R=3.163 theta=157.5"
    assert AEV(layout="1x").size == 384
    wider = AEV(("H",), angular_cutoff=5.0, angular_shifts=8)
    assert wider.angular_eta == pytest.approx(12.5 * (2.7 / 4.2) ** 2)  # as much overlap as before
    for one in (made, wider, AEV.tiny(), AEV(("Si",), radial_shifts=[1.0, 2.5], sections=[0.4], zeta=3.3)):
        again = make(one.config(), ("Cu",))
        assert again.config() == one.config()
        assert again.size == one.size


@pytest.mark.parametrize(
    "settings",
    [
        {"layout": "3x"}, {"cutoff_function": "cosin"}, {"angular_cutoff": 9.0}, {"angular_cutoff": -1.0},
        {"radial_shifts": 0}, {"start": 6.0}, {"radial_shifts": []}, {"sections": 0}, {"zeta": 0.0},
        {"radial_eta": -1.0}, {"elements": ()},
    ],
)  # fmt: skip
def test_what_is_refused(settings):
    with pytest.raises(ConfigError):
        make({"name": "aev"} | settings, (1, 6))
