"""Sparse points of pairs, triples and several kernels; k-means; given indices. Witnesses: brute force."""

import numpy as np
import pytest
import torch
from toy_data import molecules

from epot import modelfile
from epot.data.dataset import Dataset
from epot.errors import ConfigError
from epot.fit.recipe import FitState
from epot.fit.run import fit
from epot.fit.stages.sparse import SelectSparse, choose, nearest_to_centers
from epot.geometry.graph import build
from epot.models.gap import GAP
from epot.potential import Sum
from epot.predict import predict
from epot.terms.offsets import Offsets

SOAP = {"name": "soap", "cutoff": 3.5, "n_max": 3, "l_max": 2, "n_sparse": 12}
PAIRS = {"name": "distance_2b", "cutoff": 3.0, "n_sparse": 6}
TRIPLES = {"name": "angle_3b", "cutoff": 2.5, "n_sparse": 7}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("EPOT_PROGRESS", "0")


def state_of(train, kernels, seed=0):
    body = GAP((1, 8), kernels=kernels)
    return FitState(Sum(offset=Offsets((1, 8)), body=body), train, seed=seed)


def chosen(train, kernels, **options):
    state = state_of(train, kernels)
    stage = SelectSparse(**options)
    stage.check(state)
    stage.run(state)
    return state, list(state.potential.terms["body"].terms)


def test_pairs_get_a_grid_from_the_shortest_distance_to_the_cutoff():
    data = molecules(12)
    _, (kernel,) = chosen(data, [PAIRS])
    assert kernel.labels == ["H-H", "H-O", "O-O"]
    assert kernel.counts.tolist() == [6, 6, 6]
    shortest = min(
        np.linalg.norm(s.positions[i] - s.positions[j])
        for s in data
        for i in np.flatnonzero(s.numbers == 1)
        for j in np.flatnonzero(s.numbers == 8)
    )
    expected = np.linspace(shortest, 3.0, 7)[:-1]
    np.testing.assert_allclose(kernel.points[6:12, 0].numpy(), expected, rtol=1e-6)
    assert bool((kernel.points[:, 1] == 1).all())


@pytest.mark.parametrize("method", ["fps", "random", "kmeans", "cur"])
def test_triples_are_descriptors_of_the_data(method):
    data = molecules(12)
    state, (kernel,) = chosen(data, [TRIPLES | {"method": method}])
    everything = [kernel.candidates(build(s, 2.5)) for s in data]
    for k, points in enumerate(kernel.points.split(kernel.counts.tolist())):
        pool = torch.cat([e[k] for e in everything])
        assert len(points) == min(7, len(pool))
        if len(points):
            assert float(torch.cdist(points[:, :3].double(), pool[:, :3]).min(1).values.max()) < 1e-6
    assert state.journal.lines[-1]["points"]["angle_3b"]["H-O-H"] == 7


def test_all_kernels_at_once_fit_and_are_saved(tmp_path):
    """Better than SOAP alone with as few points, and the same after a file."""
    data = molecules(40)
    errors = {}
    for name, kernels in {"three": [SOAP, PAIRS, TRIPLES], "one": [SOAP]}.items():
        state = fit(
            {"name": "gap", "elements": [1, 8], "kernels": kernels}, data, stages=["offsets", "sparse", "solve"]
        )
        new = molecules(6, seed=5)
        found = [predict(state.potential, build(s, 3.5)) for s in new]
        errors[name] = np.mean([np.abs(f.forces.numpy() - s.forces).mean() for f, s in zip(found, new, strict=True)])
        again = modelfile.load(modelfile.save(tmp_path / f"{name}.epot", state.potential))[0]
        assert torch.equal(predict(again, build(new[0], 3.5)).forces, found[0].forces)
    assert errors["three"] < 0.5 * errors["one"]


def test_points_are_exact_in_single_precision(tmp_path):
    """A model file holds them in half the space, and no kernel matrix."""
    state, kernels = chosen(molecules(12), [SOAP])
    assert kernels[0].points.dtype == torch.float32
    path = modelfile.save(tmp_path / "m.epot", state.potential)
    size = kernels[0].points.numel()
    assert path.stat().st_size < 4 * size + 8 * len(kernels[0].points) + 8000
    double = kernels[0].points.double()
    assert torch.equal(double.float().double(), double)


def test_groups_without_descriptors_have_no_points():
    """Three atoms with one O: no pair of O."""
    data = Dataset([s for s in molecules(12) if len(s) == 3])
    state, (kernel,) = chosen(data, [PAIRS])
    assert kernel.counts.tolist() == [6, 6, 0]
    assert not [line for line in state.journal.lines if line["event"] == "note"]


def test_indices_are_environments(tmp_path):
    data = molecules(12)
    file = tmp_path / "index"
    file.write_text("0 3\n8\n")
    _, (kernel,) = chosen(data, [SOAP], indices={"O": str(file), "H": [1, 5]})
    assert kernel.counts.tolist() == [2, 3]
    oxygens = [kernel.soap(build(s, 3.5))[s.numbers == 8] for s in data]
    expected = torch.cat(oxygens)[[0, 3, 8]]
    torch.testing.assert_close(kernel.points[2:].double(), expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indices": {"O": "nowhere"}}, "nowhere"),
        ({"indices": {"O": []}}, "empty"),
        ({"indices": {"O": [10**6]}}, "holds 1000000; the training structures have"),
        ({"indices": {"Si": [0]}}, "names Si"),
    ],
)
def test_impossible_choices(options, message):
    with pytest.raises(ConfigError, match=message):
        chosen(molecules(3), [SOAP], **options)


def test_a_file_of_something_else(tmp_path):
    file = tmp_path / "index"
    file.write_text("H 3")
    with pytest.raises(ConfigError, match="whole numbers"):
        SelectSparse(indices={"O": str(file)})


@pytest.mark.parametrize("kernel", [SOAP | {"method": "uniform"}, TRIPLES | {"method": "uniform"}])
def test_a_grid_is_for_pairs(kernel):
    with pytest.raises(ConfigError, match=r"'uniform'.*expected one of"):
        chosen(molecules(3), [kernel])


def test_clusters_are_found():
    """Five tight clusters of very unequal size: k-means has one point in each, a random choice does not."""
    rng = torch.Generator().manual_seed(0)
    centers = 10 * torch.eye(5, dtype=torch.float64)
    owner = torch.cat([torch.full((200,), 0), torch.arange(1, 5).repeat_interleave(6)])
    rows = centers[owner] + 0.1 * torch.randn(len(owner), 5, generator=rng, dtype=torch.float64)
    order = torch.cat([torch.tensor([0, 200, 206, 212, 218]), torch.arange(1, 200)])
    found = nearest_to_centers(rows, 5, order)
    assert sorted(owner[found].tolist()) == [0, 1, 2, 3, 4]
    apart = (rows[owner == 0] - rows[owner == 0].mean(0)).square().sum(1)
    assert int(found[owner[found] == 0]) == int(apart.argmin())
    assert len(set(owner[choose(rows, 5, 0, "random")].tolist())) < 5
