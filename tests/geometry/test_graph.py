"""Batches: vectors, views made on demand, joining, narrowing, and that nothing goes stale."""

import dataclasses

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.errors import DataError, UnknownElementError
from epot.geometry.graph import build, collate
from epot.testing.systems import systems


@pytest.fixture
def structures():
    return list(systems((1, 8)).values())


@pytest.fixture
def graph(structures):
    return build(structures, 4.0)


def test_vectors_are_what_the_convention_says(graph):
    i, j = graph.pairs.numpy()
    cell = graph.cell.numpy()[graph.owner.numpy()[i]]
    images = np.einsum("pa,pab->pb", graph.shifts.numpy(), cell)
    witness = graph.positions.numpy()[j] - graph.positions.numpy()[i] + images
    np.testing.assert_allclose(graph.vectors().numpy(), witness, atol=1e-14)
    assert float(graph.vectors().norm(dim=1).max()) < 4.0


def test_joined_is_built_together(structures, graph):
    joined = collate([build(s, 4.0) for s in structures])
    for field in dataclasses.fields(graph):
        a, b = getattr(graph, field.name), getattr(joined, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else field.name == "_made" or a == b


def test_joined_views_are_those_of_the_joined(structures, graph):
    singles = [build(s, 4.0) for s in structures]
    for g in singles:
        g.row_pointers(), g.padded(), g.reverse_pairs()
    joined = collate(singles)
    assert set(joined._made) == {"row_pointers", "padded", "reverse_pairs"}
    for view in ("row_pointers", "padded", "reverse_pairs"):
        assert torch.equal(getattr(joined, view)(), getattr(graph, view)()), view


def test_sizes_and_owners(structures, graph):
    assert graph.sizes.tolist() == [len(s) for s in structures]
    assert (graph.owner.diff() >= 0).all()
    assert (graph.owner[graph.pairs[0]] == graph.owner[graph.pairs[1]]).all()


def test_what_is_bound():
    """A cell of one atom is a crystal; an atom alone, in a wide box, or two beyond the cutoff are free atoms."""
    one, far = [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 4.1]]
    lone = Structure(np.array([8]), np.array(one))
    crystal, box = (Structure(np.array([8]), np.array(one), cell=a * np.eye(3), pbc=True) for a in (3.0, 9.0))
    near = Structure(np.array([8, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.9]]))
    made = build([lone, crystal, near, box, Structure(np.array([8, 1]), np.array(far))], 4.0)
    assert made.bound.tolist() == [False, True, True, False, False]
    assert made.within(3.5).bound.tolist() == [False, True, False, False, False]


def test_row_pointers_and_padding(graph):
    pointers, padded = graph.row_pointers(), graph.padded()
    for atom in range(graph.n_atoms):
        mine = (graph.pairs[0] == atom).nonzero()[:, 0]
        assert mine.tolist() == list(range(int(pointers[atom]), int(pointers[atom + 1])))
        assert padded[atom][padded[atom] < graph.n_pairs].tolist() == mine.tolist()


def test_reverse_pairs_are_an_involution(graph):
    back = graph.reverse_pairs()
    assert torch.equal(back[back], torch.arange(graph.n_pairs))
    assert torch.equal(graph.pairs[:, back], graph.pairs.flip(0))
    torch.testing.assert_close(graph.vectors()[back], -graph.vectors(), atol=1e-13, rtol=0)


def test_within_is_a_shorter_cutoff(structures, graph):
    shorter, witness = graph.within(2.2), build(structures, 2.2)
    rows = [torch.cat([g.pairs.T, g.shifts], 1).tolist() for g in (shorter, witness)]
    assert sorted(rows[0]) == sorted(rows[1])
    fresh = shorter.replace(_vectors=None)
    torch.testing.assert_close(shorter.vectors(), fresh.vectors(), rtol=0, atol=0)
    assert torch.equal(shorter.row_pointers(), witness.row_pointers())
    assert graph.within(4.0) is graph
    assert graph.within(0.0).n_pairs == 0


def test_views_do_not_go_stale(graph):
    """Control: the views of the wider graph are made first and must not be those of the narrower one."""
    wide = graph.padded(), graph.row_pointers(), graph.reverse_pairs()
    narrow = graph.within(2.2)
    assert int(narrow.row_pointers()[-1]) == narrow.n_pairs < int(wide[1][-1])
    assert narrow.reverse_pairs().shape[0] == narrow.n_pairs


def test_vectors_follow_new_positions(graph):
    narrow = graph.within(2.2)
    moved = narrow.replace(positions=narrow.positions * 1.01, cell=narrow.cell * 1.01)
    torch.testing.assert_close(moved.vectors(), narrow.vectors() * 1.01, rtol=1e-12, atol=1e-12)


def test_frozen(graph):
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.cutoff = 3.0


def test_a_graph_does_not_share_memory_that_it_changes(silicon):
    before = silicon.positions.copy()
    graph = build(silicon, 3.0)
    _ = graph.positions * 2
    np.testing.assert_array_equal(silicon.positions, before)


def test_to_a_device_keeps_everything(graph):
    moved = graph.within(3.0).to("cpu")
    torch.testing.assert_close(moved.vectors(), graph.within(3.0).vectors())


def test_unknown_elements_are_named(silicon):
    with pytest.raises(UnknownElementError, match=r"holds Si; this potential knows H, O"):
        build(silicon, 3.0, elements=(1, 8))
    assert build(silicon, 3.0, elements=(14, 8)).n_atoms == 8


def test_no_structures():
    with pytest.raises(DataError, match="at least one structure"):
        build([], 3.0)


def test_different_cutoffs_are_not_joined(silicon):
    with pytest.raises(ValueError, match="different cutoffs"):
        collate([build(silicon, 3.0), build(silicon, 4.0)])


def test_graph_without_pairs():
    graph = build(Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [9.0, 0, 0]])), 3.0)
    assert graph.n_pairs == 0
    assert graph.padded().shape == (2, 1)
    assert graph.row_pointers().tolist() == [0, 0, 0]
    assert graph.reverse_pairs().shape == (0,)
    assert graph.vectors().shape == (0, 3)


def test_charges_are_per_structure(ethanol):
    graph = build([ethanol.replace(charge=1.0), ethanol.replace(charge=-2.0)], 2.0)
    assert graph.charge.tolist() == [1.0, -2.0]
