"""The Posterior stage: one ensemble for solved and descended models."""

import numpy as np
import pytest
import torch

from epot.data.dataset import Dataset
from epot.errors import ConfigError, FitError
from epot.fit.recipe import FitState
from epot.fit.run import fit
from epot.fit.stages.posterior import Posterior
from epot.geometry.graph import build
from epot.modelfile import load
from epot.predict import predict
from epot.terms.offsets import Offsets
from epot.uncertainty.posterior import combine
from linear_toy import dataset, radial


def _state(n=12, factor=None, energy=0.01, forces=0.05, scale=1.0):
    potential = radial(scale=scale)
    return FitState(potential, Dataset(dataset(potential, n, 1, energy, forces)), factor=factor)


def _design(potential, structures):
    """Energies over root atoms and force components, by the model's linearity."""
    readout, graph = potential.terms["body"].readout, build(structures, 4.0)
    kept, columns = readout.weight.data.clone(), []
    for k in range(6):
        readout.weight.data = torch.eye(6).double()[k]
        out = predict(potential, graph)
        offsets = potential.terms["offset"](graph).energy
        energy = out.energy - torch.zeros(graph.n_structures).double().index_add(0, graph.owner, offsets)
        columns.append((energy / graph.sizes.double().sqrt(), out.forces.flatten()))
    readout.weight.data = kept
    return [torch.stack(rows, 1) for rows in zip(*columns, strict=True)]


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_spread_is_that_of_bayesian_linear_regression(scale):
    """Witness: dense design, noise of the training errors, the prior of the stage. The scale of the width is free."""
    state = _state(scale=scale)
    for s in state.train:
        assert s.forces is not None
    state.train = Dataset([s.replace(stress=None) for s in state.train])
    Posterior(members=20_000, directions=1000).run(state)
    facts = state.about["posterior"]
    energy, forces = _design(state.potential, list(state.train))
    sigma = facts["sigmas"]
    ridge = facts["prior"] ** 0.5 * torch.eye(6).double()
    factor = combine([energy / sigma["energy"], forces / sigma["forces"], ridge])
    exact = facts["alpha_train"] ** 2 * torch.linalg.inv(factor.T @ factor)
    found = torch.cov(state.potential.terms["body"].readout.member_weights)
    whiten = torch.linalg.cholesky(torch.linalg.inv(exact)).T
    error = (whiten @ found @ whiten.T - torch.eye(6)).abs().max()
    assert error < 5 * (2 / 20_000) ** 0.5
    assert (whiten @ (4 * found) @ whiten.T - torch.eye(6)).abs().max() > 1  # control: twice too wide
    few = build(list(state.train)[:4], 4.0)
    readout = state.potential.terms["body"].readout
    readout.member_weights = readout.member_weights[:, :40].clone()
    members = predict(state.potential, few, ("energy", "forces", "members")).members
    rows = scale * _design(radial(), list(state.train)[:4])[1]
    torch.testing.assert_close(members.forces.flatten(0, 1), rows @ readout.member_weights, rtol=1e-9, atol=1e-9)


def test_the_mean_of_the_members_is_the_fitted_model():
    state = _state()
    before = state.potential.terms["body"].readout.weight.clone()
    Posterior(members=16).run(state)
    readout = state.potential.terms["body"].readout
    assert readout.member_weights.shape == (6, 16)
    torch.testing.assert_close(readout.member_weights.mean(1), before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(readout.weight, before, rtol=0, atol=0)
    graph = build(list(state.train)[:4], 4.0)
    out = predict(state.potential, graph, ("energy", "forces", "members"))
    torch.testing.assert_close(out.members.energy.mean(-1), out.energy, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(out.members.forces.mean(-1), out.forces, rtol=1e-10, atol=1e-10)


def test_the_factor_of_a_solve_is_used():
    factor = torch.triu(
        torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ) + 4 * torch.eye(6)
    state = _state(factor=factor)
    Posterior(members=6000).run(state)
    facts, readout = state.about["posterior"], state.potential.terms["body"].readout
    assert facts["solved"]
    exact = facts["alpha_train"] ** 2 * torch.linalg.inv(factor.T @ factor)
    found = torch.cov(readout.member_weights)
    assert float((found - exact).norm() / exact.norm()) < 0.08
    assert float((4 * found - exact).norm() / exact.norm()) > 1  # control


def test_a_kernel_matrix_is_the_prior_where_no_factor_is_left():
    state = _state()
    readout = state.potential.terms["body"].readout
    readout.precision = 1e14 * torch.eye(6).double()  # a prior so strong that the data say nothing
    Posterior(members=4000).run(state)
    found = torch.cov(readout.member_weights) / state.about["posterior"]["alpha_train"] ** 2
    np.testing.assert_allclose(found.diagonal(), np.full(6, 1e-14), rtol=0.15)
    assert state.about["posterior"]["prior"] is None


def test_same_seed_same_members_and_old_members_go():
    one, two, three = _state(), _state(), _state()
    three.seed = 1
    for state in (one, two, three):
        Posterior(members=8).run(state)
    weights = [s.potential.terms["body"].readout.member_weights for s in (one, two, three)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    Posterior(members=4).run(one)
    assert one.potential.terms["body"].readout.n_members == 4


def test_partial_labels_are_enough():
    state = _state()
    mixed = [
        s.replace(energy=None if k % 2 else s.energy, forces=None if k % 3 else s.forces, stress=None)
        for k, s in enumerate(state.train)
    ]
    state.train = Dataset(mixed)
    Posterior().run(state)
    assert state.about["posterior"]["sigmas"].keys() == {"energy", "forces"}
    state.train = Dataset([s.replace(forces=None, stress=None) for s in dataset(state.potential, 30, 1, 0.01)])
    Posterior().run(state)
    assert state.about["posterior"]["sigmas"].keys() == {"energy"}
    assert bool(torch.isfinite(state.potential.terms["body"].readout.member_weights).all())


def test_float32_members_are_finite_and_wide_enough():
    state = _state()
    state.potential.terms["body"].readout.float()
    Posterior().run(state)
    readout = state.potential.terms["body"].readout
    assert readout.member_weights.dtype == torch.float32
    assert float(readout.member_weights.std(1).min()) > 1e-5


def test_bad_settings_and_models_without_a_readout():
    with pytest.raises(ConfigError, match="at least 2"):
        Posterior(members=1)
    with pytest.raises(ConfigError, match="above 0"):
        Posterior(prior=0.0)
    with pytest.raises(FitError, match="linear readout"):
        Posterior().check(FitState(Offsets(), Dataset([])))


def test_a_fit_resumed_before_the_posterior_draws_the_same_members(tmp_path):
    data = Dataset([s.replace(stress=None) for s in dataset(radial(), 14, 1)])
    model = {"name": "gap", "cutoff": 3.5, "n_max": 3, "l_max": 2, "n_sparse": 8}
    folder = tmp_path / "run"
    fit(model, data, folder=folder)
    members = [load(folder / "model.epot")[0].terms["body"].readout.member_weights]
    for name in ("checkpoints/after3.safetensors", "checkpoints/after4.safetensors", "model.epot"):
        (folder / name).unlink()
    assert fit(model, data, folder=folder).about["posterior"]["solved"]
    members.append(load(folder / "model.epot")[0].terms["body"].readout.member_weights)
    torch.testing.assert_close(*members, rtol=1e-7, atol=1e-7)  # the library rounds by how arrays lie in memory
    assert float(members[0].std(1).min()) > 1e-3  # control: the members differ by far more than that
