"""The closed-form solve: sigmas of structures, evidence, restart, memory. Witnesses: dense formulas with NumPy."""

import numpy as np
import pytest
import torch
from toy_data import molecules

from epot.data.dataset import Dataset
from epot.errors import ConfigError, FitError, LabelError
from epot.fit import checkpoint, triangle
from epot.fit.config import build_potential
from epot.fit.design import design
from epot.fit.recipe import FitState
from epot.fit.stages.solve import Solve
from epot.fit.stages.sparse import SelectSparse
from epot.fit.triangle import Triangle, refuse_too_large
from epot.geometry.graph import build
from epot.models.gap import GAP
from epot.potential import Sum
from epot.terms.offsets import Offsets


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("EPOT_PROGRESS", "0")


def state_of(train, **options):
    body = GAP((1, 8), **({"cutoff": 3.5, "n_max": 3, "l_max": 2, "n_sparse": 12} | options))
    state = FitState(Sum(offset=Offsets((1, 8), (-3.0, -7.0)), body=body), train)
    SelectSparse().run(state)
    return state


def weights_of(state, solve):
    solve.run(state)
    return state.potential.terms["body"].readout.weight.detach().clone()


def test_sigmas_of_a_structure_are_absolute():
    """The same numbers as config-type sigmas give, without the root of the atoms."""
    data = molecules(6)
    one, rest = data[0], [data[k] for k in range(1, 6)]
    grouped = Dataset([one.replace(config_type="own"), *rest])
    by_group = Solve(config_type_sigma={"own": {"energy": 0.01, "forces": 0.3}})
    expected = weights_of(state_of(grouped), by_group)
    info = {"energy_sigma": 0.01 * len(one) ** 0.5, "force_sigma": 0.3}
    found = weights_of(state_of(Dataset([one.replace(info=info), *rest])), Solve())
    assert torch.equal(found, expected)
    per_atom = {"force_atom_sigma": np.full(len(one), 0.3)}
    found = weights_of(state_of(Dataset([one.replace(info=info, arrays=per_atom), *rest])), Solve())
    assert torch.equal(found, expected)
    assert not torch.equal(weights_of(state_of(data), Solve()), expected)


@pytest.mark.parametrize("info", [{"energy_sigma": 0.0}, {"force_sigma": -1.0}, {"virial_sigma": "small"}])
def test_sigmas_of_a_structure_must_be_above_zero(info):
    data = Dataset([molecules(1)[0].replace(info=info)])
    with pytest.raises(LabelError, match=rf"toy frame 0: {next(iter(info))}.*above 0"):
        Solve().check(state_of(data))
    arrays = {"force_atom_sigma": np.array([0.1, 0.0, 0.1])}
    with pytest.raises(LabelError, match="force_atom_sigma"):
        Solve().check(state_of(Dataset([molecules(1)[0].replace(arrays=arrays)])))


def test_evidence_is_that_of_the_gaussian():
    """Witness: the density of a normal distribution with the covariance ``Sigma + K P^-1 K^T``, in full."""
    rng = np.random.default_rng(0)
    k, y = rng.normal(size=(40, 7)), rng.normal(size=40)
    sigma = rng.uniform(0.5, 2, 40)
    root = rng.normal(size=(7, 7))
    p = root @ root.T + np.eye(7)
    prior = torch.from_numpy(np.linalg.cholesky(p).T.copy())
    system = Triangle(prior)
    for part in (slice(0, 11), slice(11, 40)):
        rows, targets = (torch.from_numpy(v[part]) for v in (k / sigma[:, None], y / sigma))
        system.add(rows, targets, -np.log(sigma[part]).sum())
    covariance = np.diag(sigma**2) + k @ np.linalg.inv(p) @ k.T
    expected = -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1] + 40 * np.log(2 * np.pi))
    assert system.log_likelihood(prior) == pytest.approx(expected, rel=1e-10)
    assert system.log_likelihood(2 * prior) != pytest.approx(expected, rel=1e-3)


def test_evidence_prefers_the_sigma_of_the_noise():
    """Targets drawn from the model itself with noise of 0.7: of three sigmas, the true one is the most likely."""
    rng = np.random.default_rng(1)
    k = rng.normal(size=(200, 7))
    y = k @ rng.normal(size=7) + 0.7 * rng.normal(size=200)
    found = {}
    for sigma in (0.35, 0.7, 1.4):
        prior = torch.eye(7, dtype=torch.float64)
        system = Triangle(prior)
        system.add(torch.from_numpy(k / sigma), torch.from_numpy(y / sigma), -200 * np.log(sigma))
        found[sigma] = system.log_likelihood(prior)
    assert max(found, key=found.get) == 0.7


def test_the_fit_reports_its_evidence():
    """Witness: the density of a normal distribution, from the rows of the potential."""
    state = state_of(molecules(4))
    solve = Solve(energy_sigma=0.1, force_sigma=0.5, jitter=1e-9)
    solve.run(state)
    body, rows, left = state.potential.terms["body"], [], []
    for s in state.train:
        made = design(body, build(s, 3.5), virial=False)
        base = np.where(s.numbers == 1, -3.0, -7.0).sum()
        rows += [made.energy.numpy(), made.forces.numpy()]
        left += [[s.energy - base], s.forces.ravel()]
    sigma = np.concatenate([[0.1 * len(s) ** 0.5] + [0.5] * 3 * len(s) for s in state.train])
    k, y, p = np.concatenate(rows), np.concatenate(left), body.precision().numpy()
    p = p + 1e-9 * p.diagonal().mean() * np.eye(len(p))
    covariance = np.diag(sigma**2) + k @ np.linalg.solve(p, k.T)
    expected = y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1]
    assert state.about["fit"]["solve"]["log_likelihood"] == pytest.approx(-0.5 * expected, rel=1e-6)


def test_two_triangles_are_one():
    rng = torch.Generator().manual_seed(0)
    draw = lambda *n: torch.randn(*n, generator=rng, dtype=torch.float64)  # noqa: E731
    prior, a, b, ya, yb = torch.eye(5).double(), draw(20, 5), draw(30, 5), draw(20), draw(30)
    whole, other = Triangle(prior), Triangle(torch.zeros(5, 5).double())
    whole.add(torch.cat([a, 3 * b]), torch.cat([ya, 3 * yb]))
    part = Triangle(prior)
    part.add(a, ya)
    other.add(b, yb)
    part.merge(other, 3.0)
    torch.testing.assert_close(part.solve(), whole.solve())
    assert part.residual() == pytest.approx(whole.residual())


def test_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    """Killed after the second checkpoint: the same weights to the last bit, and only the rest is done again."""
    made = state_of(molecules(80))
    expected = weights_of(made, Solve())
    state = state_of(molecules(80))
    state.folder = tmp_path
    rows, calls = Solve._rows, []

    def counted(self, state, fixed, structures):
        calls.append(len(structures))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return rows(self, state, fixed, structures)

    monkeypatch.setattr(Solve, "_rows", counted)
    with pytest.raises(KeyboardInterrupt):
        Solve(checkpoint_every=0.0).run(state)
    assert checkpoint.load(state.checkpoint)[1]["structures"] == sum(calls[:3])
    again = state_of(molecules(80))
    again.folder = tmp_path
    found = weights_of(again, Solve(checkpoint_every=0.0))
    assert torch.equal(found, expected)
    assert sum(calls[4:]) == 80 - sum(calls[:3])
    other = state_of(molecules(80), n_sparse=8)
    other.folder = tmp_path
    with pytest.raises(FitError, match="this fit has 8"):
        Solve().run(other)


def test_too_large_for_the_memory(monkeypatch):
    state = state_of(molecules(6))
    Solve().check(state)
    monkeypatch.setattr(triangle, "bytes_of_memory", lambda: 10_000)
    with pytest.raises(FitError, match=r"12 weights .* need 0\.\d GB of memory; 0\.0 GB are free.*fewer sparse points"):
        Solve().check(state)
    with pytest.raises(FitError, match=r"power spectra of 63 numbers.*n_max"):
        SelectSparse().check(state)
    monkeypatch.setattr(triangle, "bytes_of_memory", lambda: None)
    refuse_too_large(1e30, "Rows", "")


def test_memory_does_not_grow_with_the_structures():
    """Rows wait in blocks of 1024 at most, beside the factor."""
    system = Triangle(torch.eye(6).double())
    for _ in range(50):
        system.add(torch.randn(100, 6).double(), torch.randn(100).double())
        assert system._waits < 1024 + 100
    assert system.rows == 5000


def test_sigmas_and_scale_of_the_most_evidence():
    """No factor of any of the three makes the data likelier, and the reported evidence is that of a fit with them."""
    data = molecules(16)
    free = ["energy_sigma", "force_sigma", "delta"]
    state = state_of(data, n_sparse=20)
    graph = build(list(data), 3.5)
    solve = Solve(energy_sigma=0.01, force_sigma=0.1, evidence=free)
    solve.check(state)
    solve.run(state)
    facts, body = state.about["fit"]["solve"], state.potential.terms["body"]
    assert body.delta == body.terms[0].delta == pytest.approx(facts["evidence_factors"]["delta"])
    assert body.delta != 1

    def again(energy=1.0, force=1.0, delta=1.0):
        other = state_of(data, n_sparse=20, delta=body.delta * delta)
        Solve(facts["energy_sigma"] * energy, facts["force_sigma"] * force).run(other)
        return other

    same = again()
    best = same.about["fit"]["solve"]["log_likelihood"]
    assert best == pytest.approx(facts["log_likelihood"], abs=1e-3)
    torch.testing.assert_close(body(graph).energy, same.potential.terms["body"](graph).energy, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(state.factor.T @ state.factor, same.factor.T @ same.factor, rtol=1e-6, atol=1e-6)
    for change in ({"energy": 1.3}, {"energy": 0.7}, {"force": 1.1}, {"force": 0.9}, {"delta": 1.5}, {"delta": 0.6}):
        assert again(**change).about["fit"]["solve"]["log_likelihood"] < best, change


def test_evidence_of_what_there_is():
    with pytest.raises(ConfigError, match=r"names theta; expected some of energy_sigma"):
        Solve(evidence=["theta"])
    state = state_of(molecules(3))
    state.potential = build_potential("linear", [1, 8])
    with pytest.raises(ConfigError, match=r"delta.*Linear has none"):
        Solve(evidence=["delta"]).check(state)
