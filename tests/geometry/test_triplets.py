"""Triplets k -> j -> i against loops over atoms and images: only the same image of i is left out."""

import itertools

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.geometry.graph import build, collate
from epot.testing.systems import systems


def brute_force(structure, cutoff, reach=3):
    """``(i, j, S_ij, k, S_ik)`` of every triplet, counted one by one."""
    cell, x = structure.cell, structure.positions
    axes = [range(-reach, reach + 1) if periodic else (0,) for periodic in structure.pbc]
    images = [np.array(s) for s in itertools.product(*axes)]
    found = set()
    for i, j, k in itertools.product(range(len(structure)), repeat=3):
        for s in images:
            if not 0 < np.linalg.norm(x[j] + s @ cell - x[i]) < cutoff:
                continue
            for t in images:
                d = np.linalg.norm(x[k] + t @ cell - x[j])
                if 0 < d < cutoff and not (k == i and not (s + t).any()):
                    found.add((i, j, *s, k, *(s + t)))
    return found


def listed(graph):
    kj, ji = graph.triplets()
    (i, j), s = graph.pairs, graph.shifts.long()
    assert torch.equal(i[kj], j[ji])
    columns = [i[ji], j[ji], *s[ji].T, j[kj], *(s[ji] + s[kj]).T]
    return [tuple(row) for row in torch.stack(columns, 1).tolist()]


@pytest.fixture
def small_cell():
    rng = np.random.default_rng(0)
    cell = np.array([[2.6, 0.2, 0.0], [0.0, 2.4, 0.3], [0.1, 0.0, 2.8]])
    return Structure(numbers=np.array([14, 14]), positions=rng.uniform(0, 2.0, (2, 3)), cell=cell, pbc=np.ones(3, bool))


def test_small_periodic_cell(small_cell):
    graph = build(small_cell, 3.0)
    found, witness = listed(graph), brute_force(small_cell, 3.0)
    assert len(found) == len(set(found))
    assert set(found) == witness
    kj, ji = graph.triplets()
    by_index = graph.pairs[1][kj] != graph.pairs[0][ji]  # the control: leaving out every image of i
    assert int(by_index.sum()) < len(witness)


def test_molecule_and_slab():
    for name, structure in systems((1, 8)).items():
        if len(structure) <= 8:
            assert set(listed(build(structure, 2.5))) == brute_force(structure, 2.5), name


def test_order_and_joining():
    structures = list(systems((1, 8)).values())
    singles = [build(s, 4.0) for s in structures]
    for g in singles:
        _, ji = g.triplets()
        assert (ji.diff() >= 0).all()
    joined = collate(singles)
    assert "triplets" in joined._made
    for a, b in zip(joined.triplets(), build(structures, 4.0).triplets(), strict=True):
        assert torch.equal(a, b)


def test_an_atom_alone_and_a_dimer():
    alone = Structure(numbers=np.array([1]), positions=np.zeros((1, 3)))
    dimer = Structure(numbers=np.array([1, 1]), positions=np.array([[0.0, 0, 0], [0, 0, 0.8]]))
    for structure in (alone, dimer):
        kj, ji = build(structure, 3.0).triplets()
        assert kj.shape == ji.shape == (0,)
