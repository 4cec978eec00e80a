"""Sparse points: farthest points, CUR, and the stage. Witnesses: brute force, exact leverage scores."""

import numpy as np
import pytest
import torch
from toy_data import molecules

from epot.data.dataset import Dataset
from epot.errors import ConfigError, FitError
from epot.fit.recipe import FitState
from epot.fit.selection import cur, different, farthest_points
from epot.fit.stages.sparse import SelectSparse
from epot.models.gap import GAP
from epot.potential import Sum
from epot.terms.offsets import Offsets

SMALL = {"cutoff": 3.5, "n_max": 3, "l_max": 2}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("EPOT_PROGRESS", "0")


def rows(n, size=6, seed=0):
    return torch.randn(n, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_farthest_points_by_brute_force():
    points = rows(60)
    chosen = farthest_points(points, 20, start=7).tolist()
    assert chosen[0] == 7
    for k in range(1, 20):
        distances = torch.cdist(points, points[chosen[:k]]).min(1).values
        assert abs(float(distances[chosen[k]] - distances.max())) < 1e-9


def test_farthest_points_cover_better_than_chance():
    points = rows(400, 2)
    radius = lambda c: float(torch.cdist(points, points[c]).min(1).values.max())  # noqa: E731
    assert radius(farthest_points(points, 20)) < 0.7 * radius(torch.arange(20))


def test_farthest_points_stop_at_duplicates():
    points = rows(5).repeat(4, 1)
    assert len(farthest_points(points, 12)) == 5


def test_cur_follows_the_leverage_scores():
    """Rows outside the common plane have a leverage of 1 and must be drawn nearly always."""
    points = torch.cat(
        [
            torch.cat([rows(300, 4), torch.zeros(300, 4, dtype=torch.float64)], 1),
            torch.eye(8, dtype=torch.float64)[4:] * 3,
        ]
    )
    hits = [set(range(300, 304)) <= set(cur(points, 30, seed).tolist()) for seed in range(20)]
    assert np.mean(hits) > 0.8
    chance = [set(range(300, 304)) <= set(np.random.default_rng(s).choice(304, 30, replace=False)) for s in range(20)]
    assert np.mean(chance) < 0.2


def test_different_drops_twins_and_refills():
    points = rows(10)
    points[3] = points[1]
    assert different(points, torch.arange(10), 5).tolist() == [0, 1, 2, 4, 5]
    assert len(different(points, torch.arange(10), 50)) == 9


def state_of(train, seed=0, **options):
    body = GAP((1, 8), **(SMALL | options))
    return FitState(Sum(offset=Offsets((1, 8)), body=body), train, seed=seed)


@pytest.mark.parametrize("method", ["cur", "fps", "random"])
def test_same_seed_same_points(method):
    def points(seed):
        state = state_of(molecules(20), seed=seed, n_sparse=16)
        SelectSparse(method).run(state)
        return state.potential.terms["body"].terms[0].points

    assert torch.equal(points(3), points(3))
    assert not torch.equal(points(3), points(4))
    assert len(points(3)) in (15, 16)


def test_numbers_of_each_element():
    state = state_of(molecules(20), n_sparse=30)
    SelectSparse("random", n_sparse=20, per_element={"O": 4}).run(state)
    assert state.potential.terms["body"].terms[0].counts.tolist() == [16, 4]
    assert state.journal.lines[-1]["points"] == {"H": 16, "O": 4}
    assert not [line for line in state.journal.lines if line["event"] == "note"]


def test_fewer_environments_than_asked_for():
    state = state_of(molecules(3), n_sparse=1000)
    SelectSparse().run(state)
    counts = state.potential.terms["body"].terms[0].counts.tolist()
    assert counts == [8, 5]
    notes = [line["text"] for line in state.journal.lines if line["event"] == "note"]
    assert len(notes) == 1
    assert "13 sparse points, fewer than asked for" in notes[0]
    assert "H: 8 (of 8 environments)" in notes[0]


def test_a_rare_element_gives_its_share_to_the_others():
    data = [s for s in molecules(30) if len(s) == 3]  # one O, two H each
    state = state_of(Dataset(data), n_sparse=28)
    SelectSparse("random").run(state)
    assert state.potential.terms["body"].terms[0].counts.tolist() == [18, 10]


def test_an_element_without_environments():
    body = GAP((1, 6, 8), **SMALL)
    state = FitState(Sum(offset=Offsets((1, 6, 8)), body=body), molecules(3))
    with pytest.raises(FitError, match="hold no C"):
        SelectSparse().check(state)
    with pytest.raises(FitError, match="one GAP"):
        SelectSparse().check(FitState(Offsets((1, 8)), molecules(3)))
    with pytest.raises(ConfigError, match="names Si"):
        SelectSparse(per_element={"Si": 3}).check(state_of(molecules(3)))


@pytest.mark.parametrize("options", [{"n_sparse": 0}, {"per_element": {"H": 0}}])
def test_impossible_arguments(options):
    with pytest.raises(ConfigError, match="at least one"):
        SelectSparse(**options)
