"""Neighbor pairs against every image counted one by one, and against ASE."""

import ase
import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from epot.data.structure import Structure
from epot.errors import ConfigError, DataError
from epot.geometry import neighbors
from epot.geometry.neighbors import complete_cell, neighbor_pairs
from epot.testing.systems import systems


def counted(structure: Structure, cutoff: float) -> set[tuple[int, ...]]:
    """All pairs by looking at every image in a range that is certainly wide enough."""
    cell = complete_cell(structure.cell, structure.pbc)
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    fractions = structure.positions @ np.linalg.inv(cell)
    spread = np.ptp(fractions, axis=0)
    reach = [
        int(np.ceil(cutoff / h + s)) + 1 if p else 0 for h, s, p in zip(heights, spread, structure.pbc, strict=True)
    ]
    found = set()
    for s in np.ndindex(*(2 * n + 1 for n in reach)):
        shift = np.array(s) - reach
        r = structure.positions[None] - structure.positions[:, None] + shift @ cell
        for i, j in zip(*np.nonzero(np.linalg.norm(r, axis=2) < cutoff), strict=True):
            if i != j or shift.any():
                found.add((int(i), int(j), *(int(x) for x in shift)))
    return found


def listed(structure: Structure, cutoff: float) -> list[tuple[int, ...]]:
    i, j, s = neighbor_pairs(structure, cutoff)
    return [(int(a), int(b), *(int(x) for x in c)) for a, b, c in zip(i, j, s, strict=True)]


@pytest.mark.parametrize("name", systems((1, 6)))
@pytest.mark.parametrize("cutoff", [1.2, 3.0, 5.1])
def test_every_boundary_against_counting(name, cutoff):
    structure = systems((1, 6))[name]
    pairs = listed(structure, cutoff)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == counted(structure, cutoff)


@pytest.mark.parametrize("kind", ["ethanol", "silicon", "water", "slab", "wire"])
def test_against_ase(kind, request):
    structure = request.getfixturevalue(kind)
    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    i, j, s = neighbor_list("ijS", atoms, 4.3)
    witness = {(int(a), int(b), *(int(x) for x in c)) for a, b, c in zip(i, j, s, strict=True)}
    assert set(listed(structure, 4.3)) == witness


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), pbc=st.tuples(*[st.booleans()] * 3), n=st.integers(1, 4))
def test_random_cells(seed, pbc, n):
    """Skewed cells of any shape, with atoms far outside of them."""
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) + 2.5 * np.eye(3)
    cell *= np.sign(np.linalg.det(cell)) * np.array([1.0, 1.0, 0.0 if not pbc[2] else 1.0])[:, None] + 0.0
    structure = Structure(np.full(n, 6), rng.normal(size=(n, 3)) * 4.0, cell, pbc)
    assert set(listed(structure, 2.5)) == counted(structure, 2.5)


def test_sorted_by_receiver(silicon):
    i, _, _ = neighbor_pairs(silicon, 5.0)
    assert (np.diff(i) >= 0).all()


def test_far_away_atoms_of_an_open_axis(slab):
    """An open axis has no images, however short or long its vector."""
    far = slab.replace(positions=slab.positions + np.array([[0, 0, 0], [0, 0, 500.0], [0, 0, -900.0]]))
    assert set(listed(far, 3.0)) == counted(far, 3.0)


def test_one_atom_and_none():
    assert listed(Structure(np.array([2]), np.zeros((1, 3))), 5.0) == []
    assert listed(Structure(np.zeros(0, int), np.zeros((0, 3))), 5.0) == []
    alone = Structure(np.array([2]), np.zeros((1, 3)), 2.0 * np.eye(3), True)
    assert len(listed(alone, 2.1)) == 6  # its own six nearest images


def test_zero_cutoff_has_no_pairs(silicon):
    assert listed(silicon, 0.0) == []


def test_molecules_by_all_distances(monkeypatch):
    """Witness: the search that larger and periodic structures go through."""
    positions = np.random.default_rng(4).uniform(0, 6, size=(neighbors.FEW, 3))
    molecule = Structure(np.ones(neighbors.FEW, dtype=int), positions)
    few = neighbor_pairs(molecule, 3.0)
    assert (np.lexsort((few[1], few[0])) == np.arange(len(few[0]))).all()
    monkeypatch.setattr(neighbors, "FEW", 0)
    searched = neighbor_pairs(molecule, 3.0)
    order = np.lexsort((searched[1], searched[0]))
    for a, b in zip(few, searched, strict=True):
        np.testing.assert_array_equal(a, b[order])
        assert a.dtype == b.dtype
    assert len(neighbor_pairs(molecule, 3.1)[0]) > len(few[0])  # control


@pytest.mark.parametrize("cutoff", [-1.0, float("nan"), float("inf")])
def test_impossible_cutoffs(silicon, cutoff):
    with pytest.raises(ConfigError, match="length in Å"):
        neighbor_pairs(silicon, cutoff)


def test_two_atoms_at_one_place():
    clash = Structure(np.array([1, 1, 8]), np.array([[0.0, 0, 0], [0, 0, 1.0], [0, 0, 1.0]]), source="a.xyz, frame 3")
    with pytest.raises(DataError, match=r"Atoms 1 and 2 are at one place.*a.xyz, frame 3"):
        neighbor_pairs(clash, 3.0)


def test_an_atom_on_the_image_of_another():
    clash = Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [3.0, 0, 0]]), 3.0 * np.eye(3), True)
    with pytest.raises(DataError, match="at one place"):
        neighbor_pairs(clash, 2.0)


def test_flat_cells_are_refused():
    flat = Structure(np.array([1]), np.zeros((1, 3)), np.array([[1.0, 0, 0], [2.0, 0, 0], [0, 0, 1.0]]), True)
    with pytest.raises(DataError, match="linearly dependent"):
        neighbor_pairs(flat, 2.0)


def test_input_is_not_changed(slab):
    before = slab.cell.copy(), slab.positions.copy()
    neighbor_pairs(slab, 4.0)
    np.testing.assert_array_equal(slab.cell, before[0])
    np.testing.assert_array_equal(slab.positions, before[1])
