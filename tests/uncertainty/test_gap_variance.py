"""Variance of a sparse Gaussian process. Witness: dense Gaussian processes written with NumPy, and differences."""

import numpy as np
import pytest
import torch

from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.errors import FitError, ModelError
from epot.fit.recipe import FitState
from epot.fit.stages.solve import Solve
from epot.fit.stages.sparse import SelectSparse
from epot.geometry.graph import build
from epot.models.gap import GAP
from epot.potential import Sum
from epot.predict import predict
from epot.terms.offsets import Offsets
from epot.uncertainty.gap_variance import atomic_variance, gap_term, posterior_variance

KERNELS = [
    {"name": "soap", "cutoff": 3.5, "n_max": 3, "l_max": 2, "delta": 0.7, "n_sparse": 8},
    {"name": "distance_2b", "cutoff": 3.0, "delta": 1.3, "theta": 0.5, "n_sparse": 4},
    {"name": "angle_3b", "cutoff": 2.5, "delta": 0.4, "n_sparse": 5},
]


def water(seed, scale=0.1):
    rng = np.random.default_rng(seed)
    x = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [1.5, 1.6, 0.4]]) + scale * rng.normal(size=(4, 3))
    return Structure(np.array([8, 1, 1, 8]), x, energy=float(rng.normal()), forces=rng.normal(size=(4, 3)))


def fitted(structures, **solve):
    body = GAP((1, 8), kernels=KERNELS)
    state = FitState(Sum(offset=Offsets((1, 8), (-3.0, -7.0)), body=body), Dataset(structures))
    SelectSparse().run(state)
    Solve(**solve).run(state)
    return state


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("EPOT_PROGRESS", "0")


def test_is_that_of_the_dense_formula():
    """All terms from explicit inverses; energies and forces."""
    sigmas = {"energy_sigma": 0.05, "force_sigma": 0.3}
    state = fitted([water(k) for k in range(4)], **sigmas, jitter=1e-8)
    body = gap_term(state.potential)
    k_mm = body.precision().numpy()
    k_mm = k_mm + 1e-8 * k_mm.diagonal().mean() * np.eye(len(k_mm))
    rows = []
    for s in state.train:
        made = body.design(build(s, 3.5), virial=False)
        rows += [made.energy.numpy() / (0.05 * 2), made.forces.numpy() / 0.3]
    rows = np.concatenate(rows)
    inverse = np.linalg.inv(k_mm + rows.T @ rows)
    graph = build([water(10), water(11, 0.3)], 3.5)
    made = body.design(graph, virial=False)
    prior = [float(body.prior_covariance(g, g).sum()) for g in (build(water(10), 3.5), build(water(11, 0.3), 3.5))]
    k = made.energy.numpy()
    data = np.einsum("am,mn,an->a", k, inverse, k)
    expected = np.array(prior) - np.einsum("am,mn,an->a", k, np.linalg.inv(k_mm), k) + data
    found = posterior_variance(state.potential, graph, state.factor, forces=True, jitter=1e-8)
    np.testing.assert_allclose(found.energy.numpy(), expected, rtol=1e-6, atol=1e-8)
    sor = posterior_variance(state.potential, graph, state.factor, kind="sor")
    np.testing.assert_allclose(sor.energy.numpy(), data, rtol=1e-6)
    assert (found.energy > sor.energy).all()
    slopes = made.forces.numpy()
    data = np.einsum("am,mn,an->a", slopes, inverse, slopes)
    rest = found.forces.flatten().numpy() - data + np.einsum("am,mn,an->a", slopes, np.linalg.inv(k_mm), slopes)
    np.testing.assert_allclose(rest[:12], prior_of_forces(body, water(10)), rtol=1e-4, atol=1e-6)


def prior_of_forces(body, structure, step=1e-4):
    """Mixed second differences of the prior covariance of the energy."""

    def moved(k, sign):
        x = structure.positions.flatten()
        x[k] += sign * step
        return build(structure.replace(positions=x.reshape(-1, 3)), body.cutoff)

    out = []
    for k in range(12):
        up, down = moved(k, 1), moved(k, -1)
        total = sum(
            s * float(body.prior_covariance(a, b).sum())
            for s, a, b in ((1, up, up), (-1, up, down), (-1, down, up), (1, down, down))
        )
        out.append(total / (4 * step**2))
    return np.array(out)


def test_with_every_environment_as_a_sparse_point_it_is_the_exact_process():
    """Dense Gaussian-process regression of total energies: Rasmussen and Williams, Eqs. 2.25 and 2.26."""
    kernels = [KERNELS[0] | {"n_sparse": 1000}]
    train = [water(k).replace(forces=None) for k in range(5)]
    body = GAP((1, 8), kernels=kernels)
    state = FitState(Sum(offset=Offsets((1, 8), (-3.0, -7.0)), body=body), Dataset(train))
    SelectSparse("random").run(state)
    assert len(body.terms[0].points) == 20
    Solve(energy_sigma=0.1, jitter=1e-13).run(state)
    new = [water(20), water(21, 0.4), water(22, 1.0)]

    def covariance(a, b):
        return np.array([[float(body.prior_covariance(build(x, 3.5), build(y, 3.5)).sum()) for y in b] for x in a])

    noise = (0.1 * 2) ** 2 * np.eye(5)
    solve = np.linalg.solve(covariance(train, train) + noise, np.eye(5))
    cross = covariance(new, train)
    base = -20.0
    mean = base + cross @ solve @ (np.array([s.energy for s in train]) - base)
    spread = covariance(new, new).diagonal() - np.einsum("ab,bc,ac->a", cross, solve, cross)
    graph = build(new, 3.5)
    np.testing.assert_allclose(predict(state.potential, graph).energy.numpy(), mean, atol=1e-8)
    found = posterior_variance(state.potential, graph, state.factor, jitter=1e-13)
    np.testing.assert_allclose(found.energy.numpy(), spread, atol=1e-8)


def test_far_from_the_data_the_prior_comes_back():
    state = fitted([water(k) for k in range(4)])
    body = gap_term(state.potential)
    far = build(water(0, 2.0), 3.5)
    near = build(state.train[0], 3.5)
    prior = float(body.prior_covariance(far, far).sum())
    assert float(posterior_variance(state.potential, far, state.factor).energy) > 0.15 * prior
    sor = posterior_variance(state.potential, far, state.factor, kind="sor")
    assert float(sor.energy) < 0.1 * prior  # control: the ensemble's part alone is too sure
    assert float(posterior_variance(state.potential, near, state.factor).energy) < 0.05 * prior


def test_of_atoms_vanishes_at_sparse_points():
    body = GAP((1, 8), kernels=[KERNELS[0] | {"n_sparse": 1000}])
    state = FitState(Sum(offset=Offsets((1, 8)), body=body), Dataset([water(k) for k in range(2)]))
    SelectSparse("random").run(state)
    both = build([water(0), water(30, 0.5)], 3.5)
    found = atomic_variance(state.potential, both)
    assert float(found[:4].max()) < 1e-6
    assert float(found[4:].min()) > 1e-4
    assert float(found.max()) <= 0.7**2 + 1e-12


def test_what_cannot_be():
    state = fitted([water(0)])
    with pytest.raises(FitError, match="another fit"):
        posterior_variance(state.potential, build(water(0), 3.5), torch.eye(3, dtype=torch.float64))
    with pytest.raises(ModelError, match="has 0"):
        atomic_variance(Offsets((1, 8)), build(water(0), 3.5))
