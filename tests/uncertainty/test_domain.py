"""Ranges of a training set, by hand and by brute force."""

import itertools
import json
import warnings

import numpy as np
import pytest
import torch

from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.errors import ModelFileError
from epot.geometry.graph import build
from epot.uncertainty.domain import Domain, DomainWarning, warn


def _make(numbers, positions, *box):
    return Structure(np.array(numbers), np.array(positions, dtype=float), *box)


def _water(oh=0.96, angle=1.82, far=3.0):
    """A water molecule and an argon beside it."""
    h = [[oh, 0, 0], [oh * np.cos(angle), oh * np.sin(angle), 0]]
    return _make([8, 1, 1, 18], [[0, 0, 0], *h, [0, 0, far]])


@pytest.fixture
def domain():
    return Domain.from_dataset(Dataset([_water(), _water(1.0), _water(0.93, far=3.4)]), 5.0)


def test_ranges_by_brute_force():
    """Witness: a loop over all images of a crystal with two elements."""
    random = np.random.default_rng(0)
    cell = np.diag([4.0, 4.4, 4.8])
    data = []
    for _ in range(4):
        positions = random.uniform(0, 1, (5, 3)) @ cell
        data.append(_make([3, 3, 17, 17, 3], positions, cell, True))
    found = Domain.from_dataset(data, 4.2)
    closest, counts = {}, {3: [], 17: []}
    for s in data:
        near = np.zeros(5, int)
        for i, j in itertools.product(range(5), repeat=2):
            for shift in itertools.product(range(-2, 3), repeat=3):
                d = np.linalg.norm(s.positions[j] - s.positions[i] + np.array(shift) @ cell)
                if 1e-9 < d < 4.2:
                    near[i] += 1
                    key = tuple(sorted((int(s.numbers[i]), int(s.numbers[j]))))
                    closest[key] = min(d, closest.get(key, d))
        for z in counts:
            counts[z] += near[s.numbers == z].tolist()
    assert dict(found.closest) == pytest.approx(closest, abs=1e-12)
    assert dict(found.neighbors) == {z: (min(c), max(c)) for z, c in counts.items()}
    assert found.n_structures == 4


def test_training_structures_are_within(domain):
    for s in (_water(), _water(1.0), _water(0.93)):
        assert domain.violations(build(s, 5.0)) == []
        assert domain.violations(build(s, 7.0)) == []  # a longer list changes nothing


def test_a_pair_too_close_is_named(domain):
    assert domain.violations(build(_water(0.89, angle=2.0), 5.0)) == []  # within the slack of 0.05 Å of 0.93
    (text,) = domain.violations(build(_water(0.80, angle=2.4), 5.0))
    assert text.startswith("H-O 0.800 Å (atoms 0, ")
    assert "closest in the training set 0.930" in text


def test_elements_pairs_and_counts_outside(domain):
    fluorine = _make([8, 1, 9], [[0, 0, 0], [0.96, 0, 0], [0, 2.0, 0]])
    texts = domain.violations(build(fluorine, 5.0))
    assert any(t.startswith("F: not in the training set") for t in texts)
    two = _make([18, 18], [[0, 0, 0], [0, 0, 4.0]])
    assert any("no such pair within 5 Å" in t for t in domain.violations(build(two, 5.0)))
    lone = _make([8], [[0, 0, 0]])
    assert any("O with 0 neighbors within 5 Å (atom 0): 3 to 3" in t for t in domain.violations(build(lone, 5.0)))


def test_uncertain_forces(domain):
    graph = build([_water(), _water()], 5.0)
    std = torch.full((8, 3), 0.1, dtype=torch.float64)
    assert domain.violations(graph, std) == []  # no limit yet
    limited = domain.with_limit(0.2)
    assert limited.violations(graph, std) == []
    std[6, 1] = 0.5
    assert limited.violations(graph, std) == ["structure 1: forces_std 0.5 eV/Å (atom 2): limit 0.2 eV/Å"]
    std[6, 1] = float("nan")
    assert len(limited.violations(graph, std)) == 1  # what is not a number is never below a limit
    assert limited.by_structure(graph, np.full(8, 0.3))[1][0] == 1


def test_json_round_trip(domain):
    again = Domain.from_json(json.loads(json.dumps(domain.with_limit(0.3).to_json())))
    assert again.elements == (1, 8, 18)
    assert dict(again.closest) == pytest.approx(dict(domain.closest), abs=1e-6)
    assert dict(again.neighbors) == dict(domain.neighbors)
    assert again.forces_std == 0.3
    with pytest.raises(ModelFileError, match="cannot be read"):
        Domain.from_json({"elements": ["H"]})
    assert Domain.of({}) is None
    assert Domain.of({"domain": {"forces_std": 1.0}}) is None


def test_one_warning_for_a_call():
    with pytest.warns(DomainWarning, match=r"2 of 3 structures are outside .*first: number 1.*: a; b"):
        warn([[], ["a", "b"], ["c"]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn([[], []])
