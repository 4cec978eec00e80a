"""The closed-form solve. Witnesses: dense least squares (NumPy), exact Gaussian-process regression."""

import numpy as np
import pytest
import torch
from toy_data import molecules, morse

from epot.blocks.readout import LinearReadout
from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.errors import ConfigError, FitError, LabelError
from epot.fit.design import design
from epot.fit.recipe import FitState
from epot.fit.stages.solve import Solve, Triangle, batches
from epot.fit.stages.sparse import SelectSparse
from epot.geometry.graph import build
from epot.models.gap import GAP
from epot.potential import Output, Potential, Sum
from epot.predict import predict
from epot.terms.offsets import Offsets

SMALL = {"cutoff": 3.5, "n_max": 3, "l_max": 2, "sigma": 0.5, "delta": 0.7}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("EPOT_PROGRESS", "0")


class Ridge(Potential):
    """A fixed nonlinear map of the pair sum, then a linear readout with bias: a network's last layer."""

    def __init__(self):
        super().__init__()
        self.cutoff, self.elements = 3.5, (1, 8)
        self.readout = LinearReadout(5).double()
        self.readout.scale.fill_(0.5)

    def forward(self, graph):
        r = graph.vectors().norm(dim=1, keepdim=True)
        powers = torch.arange(1, 6, dtype=torch.float64)
        pair = torch.exp(-powers * r) * (1 - r / 3.5).clamp(min=0) ** 3
        features = torch.tanh(pair.new_zeros(graph.n_atoms, 5).index_add(0, graph.pairs[0], pair))
        energy, members = self.readout(features)
        return Output(energy, members=members, features=features)


def boxed(n, seed=1):
    """Periodic structures with energy, forces and stress by finite differences of nothing: random labels will do."""
    rng = np.random.default_rng(seed)
    made = []
    for k, s in enumerate(molecules(n, seed)):
        stress = rng.normal(size=(3, 3)) * 0.01
        made.append(s.replace(cell=np.eye(3) * 4.2, pbc=True, stress=stress + stress.T, source=f"box {k}"))
    return Dataset(made)


def state_of(train, body=None, seed=0, **options):
    body = body or GAP((1, 8), **(SMALL | options))
    potential = Sum(offset=Offsets((1, 8), (-3.0, -7.0)), body=body)
    return FitState(potential, train, seed=seed)


def solved(train, solve=None, **options):
    state = state_of(train, n_sparse=12, **options)
    SelectSparse("fps").run(state)
    (solve or Solve()).run(state)
    return state


def dense(state, solve):
    """The same problem as one matrix, row by row, for NumPy."""
    body = state.potential.terms["body"]
    rows, targets = [], []
    for s in state.train:
        graph = build(s, 3.5)
        made, sigma = design(state.potential, graph), solve.sigmas(s)
        base = np.where(s.numbers == 1, -3.0, -7.0).sum()
        if s.energy is not None:
            rows.append(made.energy.numpy() / (sigma.energy * len(s) ** 0.5))
            targets.append([(s.energy - base) / (sigma.energy * len(s) ** 0.5)])
        if s.forces is not None:
            rows.append(made.forces.numpy() / sigma.forces)
            targets.append(s.forces.ravel() / sigma.forces)
        if s.stress is not None:
            upper, scale = [0, 1, 2, 4, 5, 8], sigma.virial * len(s) ** 0.5
            rows.append(made.virial[0].numpy()[upper] / scale)
            targets.append(-s.stress.ravel()[upper] * s.volume / scale)
    precision = body.precision().numpy()
    return np.concatenate(rows), np.concatenate(targets), precision


@pytest.mark.parametrize("jitter", [1e-10, 1e-6])
def test_equals_dense_least_squares(jitter):
    data = Dataset([*molecules(6), *boxed(3)])
    solve = Solve(energy_sigma=0.002, force_sigma=0.07, virial_sigma=0.03, jitter=jitter)
    state = solved(data, solve)
    a, b, precision = dense(state, solve)
    lower = np.linalg.cholesky(precision + jitter * precision.diagonal().mean() * np.eye(12))
    expected = np.linalg.lstsq(np.vstack([a, lower.T]), np.concatenate([b, np.zeros(12)]), rcond=None)[0]
    found = state.potential.terms["body"].readout.weight.detach().numpy()
    np.testing.assert_allclose(a @ found, a @ expected, atol=1e-7 * np.abs(b).max())
    r = state.factor.numpy()
    normal = a.T @ a + lower @ lower.T
    np.testing.assert_allclose(r.T @ r, normal, atol=1e-10 * np.abs(normal).max())
    assert np.allclose(r, np.triu(r))
    line = state.journal.lines[-1]
    assert line["event"] == "solve"
    assert line["rows"] == len(b)
    left = np.sum((a @ expected - b) ** 2) + np.sum((lower.T @ expected) ** 2)
    assert abs(line["weighted_rms"] - (left / len(b)) ** 0.5) < 1e-6


def test_all_environments_as_sparse_points_is_exact_regression():
    """With M = N and energies only, the sparse process is the full one: E* = k* (K + Sigma)^-1 y."""
    train, test = molecules(9), molecules(6, seed=7)
    energies = Dataset([s.replace(forces=None) for s in train])
    state = state_of(energies, n_sparse=10_000)
    SelectSparse("random").run(state)
    Solve(energy_sigma=0.01, jitter=1e-13).run(state)
    body = state.potential.terms["body"]

    def spectra(s):
        graph = build(s, 3.5)
        return body.soap(graph).detach().numpy()

    def covariance(a, b):
        same = a.numbers[:, None] == b.numbers[None, :]
        return (0.7**2 * (spectra(a) @ spectra(b).T) ** 4 * same).sum()

    base = lambda s: np.where(s.numbers == 1, -3.0, -7.0).sum()  # noqa: E731
    k = np.array([[covariance(a, b) for b in train] for a in train])
    noise = np.diag([0.01**2 * len(s) for s in train])
    alpha = np.linalg.solve(k + noise, [s.energy - base(s) for s in train])
    for s in test:
        expected = base(s) + np.array([covariance(s, a) for a in train]) @ alpha
        found = float(predict(state.potential, build(s, 3.5), ("energy",)).energy)
        assert abs(found - expected) < 1e-7
        assert abs(found - base(s)) > 1e-3


def test_blocks_make_no_difference():
    rows = torch.randn(4000, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = rows @ torch.arange(7.0, dtype=torch.float64) + 1
    whole, parts = (Triangle(torch.eye(7, dtype=torch.float64)) for _ in range(2))
    whole.add(rows, targets)
    for k in range(0, 4000, 100):
        parts.add(rows[k : k + 100], targets[k : k + 100])
    torch.testing.assert_close(whole.solve(), parts.solve(), atol=1e-12, rtol=1e-12)
    assert abs(whole.residual() - parts.residual()) < 1e-12


def test_fits_the_data_and_predicts_others():
    """The control: without the solve, the error is that of the offsets."""
    state = state_of(molecules(40), n_sparse=120, n_max=5, l_max=3)
    SelectSparse("fps").run(state)

    def error(potential):
        left = [predict(potential, build(s, 3.5)).forces.numpy() - s.forces for s in molecules(12, seed=5)]
        return np.sqrt(np.mean(np.concatenate(left) ** 2))

    before = error(state.potential)
    Solve().run(state)
    assert error(state.potential) < 0.15 * before


def test_partial_labels_and_config_types():
    data = list(molecules(9))
    data[0] = data[0].replace(forces=None)
    data[1] = data[1].replace(energy=None)
    data[2] = data[2].replace(config_type="liquid")
    solve = Solve(config_type_sigma={"liquid": {"energy": 0.5, "forces": 2.0}}, jitter=1e-6)
    state = solved(Dataset(data), solve)
    a, b, precision = dense(state, solve)
    assert state.journal.lines[-1]["rows"] == len(b) == sum(1 + 3 * len(s) for s in data) - 1 - 3 * len(data[0])
    lower = np.linalg.cholesky(precision + 1e-6 * precision.diagonal().mean() * np.eye(12))
    expected = np.linalg.lstsq(np.vstack([a, lower.T]), np.concatenate([b, np.zeros(12)]), rcond=None)[0]
    found = state.potential.terms["body"].readout.weight.detach().numpy()
    np.testing.assert_allclose(a @ found, a @ expected, atol=1e-7 * np.abs(b).max())
    plain = solved(Dataset(data), Solve(jitter=1e-6)).potential.terms["body"].readout.weight.detach().numpy()
    assert np.abs(a @ plain - a @ found).max() > 1e-3


def test_a_networks_last_layer_with_bias():
    """Witness: NumPy's least squares on rows by autograd, with the bias as a last, nearly free, column."""
    state = state_of(molecules(12), Ridge())
    solve = Solve(energy_sigma=0.01, force_sigma=0.1, prior=0.3)
    solve.run(state)
    readout = state.potential.terms["body"].readout
    rows, targets = [], []
    for s in state.train:
        made = design(state.potential, build(s, 3.5), virial=False)
        base, root = np.where(s.numbers == 1, -3.0, -7.0).sum(), len(s) ** 0.5
        rows.append(np.append(0.5 * made.energy.numpy()[0], 0.5 * len(s))[None] / (0.01 * root))
        rows.append(np.pad(0.5 * made.forces.numpy(), ((0, 0), (0, 1))) / 0.1)
        targets += [[(s.energy - base) / (0.01 * root)], s.forces.ravel() / 0.1]
    a = np.vstack([*rows, np.diag([0.3**0.5] * 5 + [1e-6])])
    b = np.concatenate([*targets, np.zeros(6)])
    expected = np.linalg.lstsq(a, b, rcond=None)[0]
    np.testing.assert_allclose(readout.weight.detach().numpy(), expected[:5], rtol=1e-6)
    assert abs(float(readout.bias.detach()) - expected[5]) < 1e-6
    covariance = np.linalg.inv(a.T @ a)[:5, :5]  # the bias is marginalized, not fixed
    inverse = np.linalg.inv(state.factor.numpy())
    np.testing.assert_allclose(inverse @ inverse.T, covariance, rtol=1e-6, atol=1e-12)


def test_weights_come_back_after_an_error(monkeypatch):
    state = solved(molecules(6))
    body = state.potential.terms["body"]
    before = body.readout.weight.detach().clone()
    body.readout.member_weights = torch.ones(12, 2, dtype=torch.float64)
    monkeypatch.setattr(Triangle, "solve", lambda self: torch.full((12,), float("nan"), dtype=torch.float64))
    with pytest.raises(FitError, match=r"Solve\.jitter"):
        Solve().run(state)
    assert torch.equal(body.readout.weight, before)
    assert before.abs().max() > 0
    assert body.readout.n_members == 2


def test_identical_sparse_points_are_explained():
    state = state_of(molecules(6))
    body = state.potential.terms["body"]
    spectra = body.soap(build(state.train[0], 3.5)).detach()
    body.set_sparse([spectra[[1, 1, 1]], spectra[[0, 0]]])
    with pytest.raises(FitError, match=r"singular.*same.*jitter"):
        Solve(jitter=0.0).run(state)
    Solve(jitter=1e-8).run(state)
    assert torch.isfinite(body.readout.weight).all()


def test_identical_structures_are_fitted():
    one = molecules(1)[0]
    state = state_of(Dataset([one] * 5), n_sparse=50)
    SelectSparse("random").run(state)
    assert sum(state.potential.terms["body"].terms[0].counts.tolist()) == 3
    Solve(force_sigma=1e-4, energy_sigma=1e-5).run(state)
    assert abs(float(predict(state.potential, build(one, 3.5)).energy) - one.energy) < 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy_sigma": 0.0}, "energy_sigma is 0.0"),
        ({"force_sigma": -1.0}, "force_sigma is -1.0"),
        ({"virial_sigma": 0.0}, "virial_sigma"),
        ({"prior": 0.0}, "prior"),
        ({"jitter": -1e-8}, "jitter"),
        ({"config_type_sigma": {"a": {"force": 1.0}}}, "expected energy, forces or virial"),
        ({"config_type_sigma": {"a": {"forces": 0.0}}}, r"'a'.*'forces'.*is 0.0"),
    ],
)
def test_impossible_arguments(options, message):
    with pytest.raises(ConfigError, match=message):
        Solve(**options)


def test_labels_that_cannot_be_fitted():
    bad = molecules(2)[0].replace(energy=float("nan"))
    with pytest.raises(LabelError, match=r"not finite.*toy frame 0"):
        Solve().check(state_of(Dataset([bad])))
    with pytest.raises(LabelError, match="nothing to fit"):
        Solve().check(state_of(Dataset([bad.replace(energy=None, forces=None)])))
    with pytest.raises(FitError, match="descent"):
        Solve().check(FitState(Offsets((1, 8)), molecules(2)))


def test_batches_keep_the_order():
    data = molecules(50)
    made = list(batches(data))
    assert [s.source for b in made for s in b] == [s.source for s in data]
    assert all(sum(len(s) for s in b) >= 64 for b in made[:-1])


def test_stress_rows_have_the_sign_of_ase():
    """A stress label alone gives a potential that pulls the same way: -V stress is the virial."""
    base = molecules(3)[2].replace(cell=np.eye(3) * 4.2, pbc=True, energy=None, forces=None)
    for sign in (1, -1):
        state = state_of(Dataset([base.replace(stress=sign * 0.01 * np.eye(3))]), n_sparse=6)
        SelectSparse("random").run(state)
        Solve(virial_sigma=1e-4).run(state)
        found = predict(state.potential, build(base, 3.5), ("stress",)).stress[0]
        assert sign * float(found.diagonal().mean()) > 0.002


def test_labels_of_the_toy_are_consistent():
    s = molecules(1)[0]
    shift = np.zeros_like(s.positions)
    shift[0, 0] = 1e-5
    up, down = (morse(Structure(s.numbers, s.positions + k * shift)).energy for k in (1, -1))
    assert abs(-(up - down) / 2e-5 - s.forces[0, 0]) < 1e-6
