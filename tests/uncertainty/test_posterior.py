"""The posterior of the weights against brute-force Bayesian linear regression and a dense Gaussian process."""

import math

import numpy as np
import pytest
import torch

from epot.errors import FitError
from epot.geometry.graph import build
from epot.models.gap import GAP
from epot.predict import predict
from epot.uncertainty.posterior import Rows, combine, evidence, novelty, sample, unexplained, variance
from linear_toy import dataset, radial


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def graph():
    return build(dataset(radial(), 5), 4.0)


@pytest.fixture(scope="module")
def columns(graph):
    """Witness: the response of energies, forces and virials to each weight, by the model's own linearity."""
    found = []
    for k in range(6):
        one = radial()
        one.terms["body"].readout.weight.data = torch.eye(6).double()[k]
        out = predict(one, graph, ("energy", "forces", "virial"))
        offset = one.terms["offset"](graph).energy
        energy = out.energy - torch.zeros(5).double().index_add(0, graph.owner, offset)
        found.append((energy, out.forces.flatten(), out.virial.flatten()))
    return [torch.stack(rows, 1) for rows in zip(*found, strict=True)]


def _exact(graph, forces, virial):
    return Rows(radial(seed=3), 6, 1000, _generator()).make(graph, forces=forces, virial=virial)


def test_rows_with_all_directions_are_the_design(graph, columns):
    energy, forces, virial = columns
    labels = torch.randn(graph.n_atoms, 3, generator=_generator(), dtype=torch.float64)
    boxes = torch.randn(5, 3, 3, generator=_generator(), dtype=torch.float64)
    made = _exact(graph, labels, boxes)
    torch.testing.assert_close(made["energy"][0], energy, rtol=1e-12, atol=1e-12)
    gram = lambda rows: rows.T @ rows  # noqa: E731  (the order of rows does not matter to a posterior)
    rows, values = made["forces"]
    torch.testing.assert_close(gram(rows), gram(forces), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(rows.T @ values, forces.T @ labels.flatten(), rtol=1e-10, atol=1e-11)
    rows, values = made["virial"]
    weight = graph.sizes.repeat_interleave(9).double()
    torch.testing.assert_close(gram(rows), virial.T @ (virial / weight[:, None]), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(rows.T @ values, virial.T @ (boxes.flatten() / weight), rtol=1e-10, atol=1e-11)


def test_few_random_directions_are_right_on_average(graph, columns):
    forces = columns[1]
    exact = forces.T @ forces
    total = torch.zeros(6, 6).double()
    repeats = 200
    sketch = Rows(radial(), 6, 2, _generator(1))
    labels = torch.zeros(graph.n_atoms, 3).double()
    for _ in range(repeats):
        rows = sketch.make(graph, forces=labels)["forces"][0]
        assert len(rows) == 2 * 5
        total += rows.T @ rows / repeats
    error = (total - exact).norm() / exact.norm()
    assert error < 0.15
    assert (2 * total - exact).norm() / exact.norm() > 4 * error  # control


def test_atoms_without_labels_have_no_rows(graph):
    labels = torch.zeros(graph.n_atoms, 3).double()
    labels[graph.owner == 2] = float("nan")
    kept = _exact(graph, labels, None)["forces"][0]
    some = graph.n_atoms - int(graph.sizes[2])
    assert len(kept) == 3 * some
    labels[:] = float("nan")
    assert len(_exact(graph, labels, None)["forces"][0]) == 0


def test_variance_is_that_of_bayesian_linear_regression(columns):
    """Witness: the inverse of the normal matrix, which is well conditioned here."""
    energy, forces, _ = columns
    stacked = torch.cat([energy / 0.01, forces / 0.1])
    prior = torch.diag(torch.linspace(0.5, 2, 6).double())
    factor = combine([energy / 0.01, forces / 0.1, prior.sqrt()])
    covariance = torch.linalg.inv(stacked.T @ stacked + prior)
    new = torch.randn(20, 6, generator=_generator(), dtype=torch.float64)
    torch.testing.assert_close(variance(factor, new), (new @ covariance * new).sum(1), rtol=1e-10, atol=0)
    streamed = combine([combine([prior.sqrt(), forces / 0.1]), energy / 0.01])  # in another order and in blocks
    torch.testing.assert_close(streamed.T @ streamed, factor.T @ factor, rtol=1e-10, atol=1e-10)


def test_samples_have_the_covariance_of_the_posterior(columns):
    factor = combine([columns[1] / 0.1, torch.eye(6).double()])
    exact = torch.linalg.inv(factor.T @ factor)
    n = 40_000
    drawn = sample(factor, n, _generator(4))
    assert float(drawn.mean(1).abs().max()) < 1e-12  # recentered
    whiten = factor @ (drawn @ drawn.T / (n - 1)) @ factor.T  # the identity, with errors of sqrt(2/n)
    error = (whiten - torch.eye(6)).abs().max()
    assert error < 5 * math.sqrt(2 / n)
    wrong = (4 * whiten - torch.eye(6)).abs().max()  # control: members twice too wide
    assert wrong > 50 * math.sqrt(2 / n)
    assert exact.shape == (6, 6)


def test_few_members_are_unbiased():
    """The mean over many small ensembles of their sample variance: unbiased although they are recentered."""
    factor = torch.tensor([[2.0]]).double()
    generator = _generator(9)
    variances = [float(sample(factor, 4, generator).var()) for _ in range(4000)]
    assert np.mean(variances) == pytest.approx(0.25, abs=4 * 0.25 * math.sqrt(2 / 3 / 4000))


def test_singular_factor_is_refused():
    with pytest.raises(FitError, match="singular"):
        sample(torch.zeros(2, 2).double(), 3, _generator())


def test_evidence_finds_the_prior_that_made_the_weights():
    generator = _generator(2)
    size, precision = 400, 25.0
    weights = torch.randn(size, generator=generator, dtype=torch.float64) / precision**0.5
    rows = torch.randn(600, size, generator=generator, dtype=torch.float64) * 5
    found = evidence(torch.linalg.qr(rows, mode="r").R, weights)
    assert found == pytest.approx(precision, rel=4 * math.sqrt(2 / size))
    assert evidence(torch.linalg.qr(rows, mode="r").R, 2 * weights) == pytest.approx(found / 4, rel=0.05)  # control


def test_evidence_never_lets_the_factor_be_singular():
    rows = torch.zeros(3, 3).double()
    rows[0, 0] = 1e6
    huge = torch.full((3,), 1e12).double()
    assert evidence(rows, huge) == pytest.approx(1e12 * 1e-15)
    assert evidence(rows, huge, single=True) == pytest.approx(1e12 * 1e-11)


def test_spread_and_unexplained_part_are_the_dense_gaussian_process():
    """Sparse points = training points: DTC is exact. Witness: k** - k^T (K + Sigma)^-1 k."""
    random = np.random.default_rng(1)
    x, new = np.sort(random.uniform(0, 4, 12)), np.linspace(-3, 9, 25)
    kernel = lambda a, b: torch.from_numpy(1.7 * np.exp(-0.5 * (a[:, None] - b) ** 2 / 0.4**2))  # noqa: E731
    precision, cross = kernel(x, x), kernel(new, x)
    noise = 0.05
    factor = combine([kernel(x, x) / noise, torch.linalg.cholesky(precision).T])
    dense = 1.7 - (cross @ torch.linalg.inv(precision + noise**2 * torch.eye(12).double()) * cross).sum(1)
    rest = unexplained(cross, precision, 1.7, jitter=0.0)
    torch.testing.assert_close(variance(factor, cross) + rest, dense, rtol=1e-8, atol=1e-9)
    far = new > 8
    assert (
        float(variance(factor, cross)[torch.from_numpy(far)].max()) < 1e-6
    )  # control: the spread alone is sure of nothing
    assert float(rest[torch.from_numpy(far)].min()) > 1.69
    assert float(unexplained(precision, precision, 1.7).max()) < 1e-7  # nothing is left at a sparse point


def test_unexplained_refuses_a_singular_kernel():
    with pytest.raises(FitError, match="singular"):
        unexplained(torch.ones(1, 2).double(), -torch.eye(2).double(), 1.0)


def test_novelty_of_a_gap_is_its_gaussian_process_variance(graph, ethanol):
    """Witness: the dense formula over the descriptors; atoms that are sparse points themselves are not new."""
    made = GAP(elements=(1, 6, 8), cutoff=4.0, n_max=3, l_max=3, n_sparse=6, delta=2.0)
    own = build(ethanol, 4.0)
    spectra, species = made.soap(own), made.soap.species(own)
    made.set_sparse([spectra[species == k][:2] for k in range(3)])
    cross, k_mm = made(own).features, made.precision()
    dense = 4.0 - (cross @ torch.linalg.inv(k_mm + 4e-10 * torch.eye(len(k_mm)).double()) * cross).sum(1)
    found = novelty(made, own)
    torch.testing.assert_close(found, dense.clamp(min=0) / 4.0, rtol=1e-6, atol=1e-7)
    chosen = torch.cat([(species == k).nonzero()[:2, 0] for k in range(3)])
    assert float(found[chosen].max()) < 1e-7
    lone = build(ethanol.replace(positions=20 * ethanol.positions), 4.0)
    assert float(novelty(made, lone).min()) > 1e-3  # control: atoms on their own are new
    assert novelty(radial(), graph) is None
