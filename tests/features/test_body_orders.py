"""Descriptors of two and three bodies. Witnesses: sums in plain Python, autograd, symmetry, least squares."""

import json

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev

from epot.data.structure import Structure
from epot.errors import ConfigError
from epot.features.descriptor import make
from epot.features.descriptors.three_body import ThreeBody
from epot.features.descriptors.two_body import TwoBody
from epot.features.distance_basis import DistanceBasis
from epot.geometry.graph import build

MADE = {
    "two": TwoBody((1, 8), 3.4, n=4),
    "three": ThreeBody((1, 8), 3.6, 3.0, n=3, n_angles=3, two_body=2),
    "triangles": ThreeBody((8, 1), 3.2, 3.2, n=2, n_angles=4, two_body=0, cutoff_function="poly3"),
}


def phi(r, cutoff, n):
    """``T_n(x) fc(r)``, by numpy."""
    length, y = cutoff / 4, r / cutoff
    last = np.exp(-cutoff / length)
    x = 2 * (np.exp(-r / length) - last) / (1 - last) - 1
    fade = 1 + y**3 * (-10 + y * (15 - 6 * y)) if r < cutoff else 0.0
    return chebyshev.chebval(x, np.eye(n)) * fade


def test_basis_of_distances():
    basis = DistanceBasis(4.0, 6, "poly2")
    r = torch.linspace(0.3, 4.2, 40, dtype=torch.float64, requires_grad=True)
    values, slopes = basis(r)
    expected = np.stack([phi(x, 4.0, 6) for x in r.tolist()])
    np.testing.assert_allclose(values.detach().numpy(), expected, atol=1e-13)
    found = torch.stack([torch.autograd.grad(v.sum(), r, retain_graph=True)[0] for v in values.T], 1)
    torch.testing.assert_close(slopes, found, atol=1e-12, rtol=1e-12)


def test_values_are_the_sums_that_they_say(water):
    made = MADE["three"]
    graph = build(water, made.cutoff)
    vectors, senders = graph.vectors().numpy(), water.numbers[graph.pairs[1].numpy()]
    expected = np.zeros((len(water), made.size))
    for i in range(len(water)):
        own = (graph.pairs[0] == i).nonzero()[:, 0].tolist()
        for p in own:
            r = np.linalg.norm(vectors[p])
            start = [1, 8].index(senders[p]) * 2
            expected[i, start : start + 2] += phi(r, 3.6, 2)
            for q in own[: own.index(p)]:
                s = np.linalg.norm(vectors[q])
                a, b = phi(r, 3.0, 3), phi(s, 3.0, 3)
                sides = np.array([a[n] * b[m] + a[m] * b[n] for n in range(3) for m in range(n, 3)])
                angle = chebyshev.chebval(vectors[p] @ vectors[q] / (r * s), np.eye(3))
                start = 4 + 18 * [(1, 1), (1, 8), (8, 8)].index(tuple(sorted((senders[p], senders[q]))))
                expected[i, start : start + 18] += np.outer(sides, angle).ravel()
    np.testing.assert_allclose(made(graph).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("name", MADE)
def test_jacobian_is_the_derivative(water, name):
    made, graph = MADE[name], build(water, 3.6)
    leaf = graph.vectors().requires_grad_()
    total = made(graph.replace(_vectors=leaf)).sum(0)
    expected = torch.stack([torch.autograd.grad(t, leaf, retain_graph=True)[0] for t in total], -1)
    torch.testing.assert_close(made.jacobian(graph), expected, atol=1e-12, rtol=1e-12)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("name", ["two", "triangles"])
def test_twice_differentiable(water, name):
    made = MADE[name]
    graph = build(Structure(water.numbers[:3], water.positions[:3]), made.cutoff)

    def rows(positions):
        return made(graph.replace(positions=positions))

    positions = graph.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(rows, positions)
    assert torch.autograd.gradgradcheck(rows, positions, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", MADE)
def test_symmetry(water, name):
    made = MADE[name]
    before = made(build(water, made.cutoff))
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    order = np.array([5, 3, 1, 0, 2, 4])
    moved = Structure(water.numbers[order], (water.positions @ q)[order] + 0.7, water.cell @ q, True)
    torch.testing.assert_close(made(build(moved, made.cutoff)), before[order], atol=1e-12, rtol=0)
    positions = np.concatenate([water.positions, water.positions + water.cell[0]])
    double = Structure(np.tile(water.numbers, 2), positions, water.cell * [[2], [1], [1]], True)
    torch.testing.assert_close(made(build(double, made.cutoff)), before.repeat(2, 1), atol=1e-11, rtol=0)
    assert (before - made(build(water.replace(positions=water.positions * 1.01), made.cutoff))).abs().max() > 1e-3


@pytest.mark.parametrize("name", MADE)
def test_lone_atom_and_neighbor_at_the_cutoff(name):
    made = MADE[name]
    lone = build(Structure(np.array([8]), np.zeros((1, 3))), made.cutoff)
    assert made(lone).abs().max() == 0
    assert made.jacobian(lone).shape == (0, 3, made.size)
    pair = lambda d: build(Structure(np.array([8, 1]), np.array([[0, 0, 0], [d, 0, 0.0]])), 4.0)  # noqa: E731
    assert made(pair(made.cutoff - 1e-4)).abs().max() < 1e-9
    assert name == "triangles" or made(pair(2.0)).abs().max() > 1e-2


def test_two_bodies_are_any_pair_potential():
    """Least squares of a Lennard-Jones potential between 0.9 sigma and the cutoff; a cosine series needs far more."""
    r = np.linspace(2.0, 5.9, 400)
    target = ((2.2 / r) ** 12 - (2.2 / r) ** 6) * np.stack([phi(x, 6.0, 1) for x in r])[:, 0]
    rows = np.stack([phi(x, 6.0, 12) for x in r])
    error = rows @ np.linalg.lstsq(rows, target, rcond=None)[0] - target
    assert np.abs(error).max() < 1e-5 * np.abs(target).max()
    cosines = np.cos(np.pi * np.arange(12) * r[:, None] / 6.0) * rows[:, :1]
    worse = cosines @ np.linalg.lstsq(cosines, target, rcond=None)[0] - target
    assert np.abs(worse).max() > 10 * np.abs(error).max()


@pytest.mark.parametrize("name", MADE)
def test_columns_and_configuration(name):
    made = MADE[name]
    assert len(set(made.columns())) == made.size
    assert make(json.loads(json.dumps(made.config())), (1,)).columns() == made.columns()
    assert made.float()(build(Structure(np.array([8]), np.zeros((1, 3))), 4.0)).dtype == torch.float32
    made.double()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (TwoBody, {"n": 0}), (TwoBody, {"cutoff": 0.0}), (TwoBody, {"cutoff_function": "square"}),
        (ThreeBody, {"n": 0}), (ThreeBody, {"n_angles": 0}), (ThreeBody, {"triangle_cutoff": 7.0}),
    ],
)  # fmt: skip
def test_impossible_arguments(kind, change):
    with pytest.raises(ConfigError):
        kind((1, 8), **change)
