"""Splits: disjoint, complete, repeatable, recorded; groups stay whole; types keep their proportions."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epot.data.dataset import Dataset
from epot.data.descriptor import descriptors, farthest_points
from epot.data.split import part_sizes
from epot.data.structure import Structure
from epot.errors import ConfigError, DataError


def data(n=100, groups=None, types=None):
    rng = np.random.default_rng(0)
    return Dataset([
        Structure(np.array([6, 1]), np.array([[0, 0, 0], [0, 0, 1 + rng.uniform()]]), info={"k": k},
                  group=groups[k] if groups else None, config_type=types[k] if types else None)
        for k in range(n)
    ])  # fmt: skip


def members(part):
    return {s.info["k"] for s in part}


@pytest.mark.parametrize("by", ["random", "config_type", "farthest", "group"])
def test_parts_are_disjoint_complete_and_repeatable(by):
    whole = data(100, groups=[f"g{k // 2}" for k in range(100)], types=["abc"[k % 3] for k in range(100)])
    parts = whole.split(0.7, 0.2, 0.1, seed=3, by=by)
    assert [len(p) for p in parts] == [70, 20, 10]
    assert set.union(*map(members, parts)) == set(range(100))
    again = whole.split(0.7, 0.2, 0.1, seed=3, by=by)
    assert [members(p) for p in parts] == [members(p) for p in again]
    other = whole.split(0.7, 0.2, 0.1, seed=4, by=by)
    assert members(parts[2]) != members(other[2])
    record = parts[1].provenance["split"][-1]
    assert (record["by"], record["seed"], record["part"], record["structures"], record["of"]) == (by, 3, 1, 20, 100)
    chosen = np.array(sorted(members(parts[1])), dtype="<i8")
    assert record["indices_sha256"] == hashlib.sha256(chosen.tobytes()).hexdigest()
    assert "split" not in whole.provenance


def test_splits_of_splits_are_recorded():
    train, test = data(50).split(0.8, 0.2)
    inner = train.split(10, 5)[0]
    assert [r["of"] for r in inner.provenance["split"]] == [50, 40]
    assert members(inner) <= members(train)
    assert not members(inner) & members(test)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=30, max_size=80), st.integers(0, 5))
def test_no_group_is_torn_apart(labels, seed):
    whole = data(len(labels), groups=[f"g{x}" for x in labels])
    try:
        parts = whole.split(0.6, 0.2, 0.2, seed=seed, by="group")
    except DataError:
        return  # too few or too unequal groups: said, not bent
    groups = [{s.group for s in p} for p in parts]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert sum(map(len, parts)) == len(labels)


def test_control_a_random_split_tears_groups():
    torn = data(60, groups=[f"g{k % 6}" for k in range(60)]).split(0.6, 0.2, 0.2, seed=0)
    assert {s.group for s in torn[0]} & {s.group for s in torn[1]}


def test_groups_from_a_function_and_structures_without_one():
    whole = data(60, types=[f"t{k % 6}" for k in range(60)])
    one, two = whole.split(0.5, 0.5, by=lambda s: s.config_type)
    assert not {s.config_type for s in one} & {s.config_type for s in two}
    with pytest.raises(DataError, match="No structure has a `group`"):
        whole.split(0.5, 0.5, by="group")
    mixed = data(10, groups=["g"] * 4 + [None] * 6)
    parts = mixed.split(0.5, 0.5, by="group")
    assert sum("g" in {s.group for s in p} for p in parts) == 1
    assert parts[0].provenance["split"][0]["without_group"] == 6
    with pytest.raises(DataError, match="2 groups, too few for 3 parts"):
        data(10, groups=["a", "b"] * 5).split(0.4, 0.3, 0.3, by="group")


def test_stratified_keeps_proportions():
    types = ["common"] * 80 + ["rare"] * 10 + [None] * 10
    train, test = data(100, types=types).split(0.8, 0.2, by="config_type")
    count = lambda part, name: part.column("config_type").count(name)  # noqa: E731
    assert [count(train, t) for t in ("common", "rare", None)] == [64, 8, 8]
    assert [count(test, t) for t in ("common", "rare", None)] == [16, 2, 2]
    single = [f"t{k // 3}" for k in range(99)]  # 33 types of three: rounding must not pile up
    train, test = data(99, types=single).split(66, 33, by="config_type")
    assert {single.count(t) - train.column("config_type").count(t) for t in set(single)} == {1}


def test_farthest_covers_better_than_random():
    whole = data(200)
    length = lambda part: np.array([s.positions[1, 2] for s in part])  # noqa: E731
    gap = lambda part: np.abs(length(whole)[:, None] - length(part)).min(axis=1).max()  # noqa: E731
    far, random = whole.split(20, 100, by="farthest")[0], whole.split(20, 100)[0]
    assert gap(far) < 0.5 * gap(random)


def test_farthest_points_on_a_line():
    points = np.linspace(0, 1, 101)[:, None]
    assert farthest_points(points, 5).tolist()[:3] in ([50, 0, 100], [50, 100, 0])
    assert sorted(farthest_points(points, 101).tolist()) == list(range(101))


def test_the_descriptor_does_not_see_rotation_translation_order_and_cell_choice():
    rng = np.random.default_rng(2)
    z, x = np.array([14, 8, 8, 1]), rng.uniform(0, 4, size=(4, 3))
    cell = np.array([[4.0, 0.3, 0.0], [0.0, 4.5, 0.2], [0.4, 0.0, 5.0]])
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = [2, 0, 3, 1]
    skewed = cell + np.array([[0.0, 0, 0], [0, 0, 0], [1, 0, 0]]) @ cell
    doubled = np.concatenate([x, x + cell[0]])
    made = descriptors(Dataset([
        Structure(z, x, cell, True),
        Structure(z[order], (x[order] + 1.7) @ turn, cell @ turn, True),
        Structure(z, x, skewed, True),
        Structure(np.tile(z, 2), doubled, np.diag([2, 1, 1]) @ cell, True),
        Structure(z, x + 0.01 * np.eye(4, 3), cell, True),
    ]))  # fmt: skip
    for k in (1, 2, 3):
        np.testing.assert_allclose(made[k], made[0], rtol=0, atol=1e-12)
    assert np.abs(made[4] - made[0]).max() > 1e-4  # the control


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
def test_sizes_follow_fractions(n, raw):
    fractions = [f / sum(raw) for f in raw]
    try:
        sizes = part_sizes(n, fractions)
    except DataError:
        assert n * min(fractions) < 1
        return
    assert sum(sizes) == n
    assert all(abs(size - f * n) < 1 + 1e-6 for size, f in zip(sizes, fractions, strict=True))


@pytest.mark.parametrize("fractions", [(), (0.8, 0.3), (-0.1, 0.5), (0.5, 2.0), (0,), (1.5,)])
def test_impossible_fractions(fractions):
    with pytest.raises(ConfigError):
        data(10).split(*fractions)


def test_other_mistakes():
    with pytest.raises(ConfigError, match="did you mean 'random'"):
        data(10).split(0.5, 0.5, by="randon")
    with pytest.raises(DataError, match="need 12 structures together, but there are 10"):
        data(10).split(8, 4)
    with pytest.raises(DataError, match="would be empty"):
        data(3).split(0.9, 0.1)
    assert [len(p) for p in data(10).split(0.5, 0.2)] == [5, 2]
    assert len(data(10).split(1.0)[0]) == len(data(10).split(1)[0]) == 10
