import itertools

import ase.build
import numpy as np
import pytest
import torch
from lennard_jones import LennardJones

from epot.data.structure import Structure
from epot.errors import ConfigError, DataError, SimulationError
from epot.geometry.graph import build
from epot.predict import predict
from epot.simulate.skin import SkinPairs, equal


def crystal(n=2):
    atoms = ase.build.bulk("Ar", cubic=True, a=5.3) * (n, n, n)
    atoms.rattle(0.2, seed=0)
    return atoms


def ask(pairs, atoms):
    return pairs.graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def same(atoms, listed, cutoff):
    """Energy, forces and stress of a graph against those of a search from scratch."""
    lj = LennardJones(cutoff=cutoff, onset=0.7 * cutoff)
    want = ("energy", "forces", "stress") if atoms.pbc.all() else ("energy", "forces", "virial")
    ours, fresh = predict(lj, listed, want), predict(lj, build(Structure.from_ase(atoms), cutoff), want)
    pairs = [(a, b) for a, b in zip(ours, fresh, strict=True) if isinstance(a, torch.Tensor)]
    return listed.n_pairs, max(float((a - b).abs().max() / b.abs().max().clamp(min=1.0)) for a, b in pairs)


@pytest.mark.parametrize("pbc", [True, False, (True, True, False)])
def test_hot_trajectory_gives_what_a_fresh_search_gives(pbc):
    atoms, rng = crystal(), np.random.default_rng(1)
    atoms.pbc = pbc
    velocities = rng.normal(size=(len(atoms), 3)) * 0.02
    pairs = SkinPairs(6.0, 0.6)
    for _ in range(60):
        atoms.positions += velocities
        velocities += rng.normal(size=velocities.shape) * 0.005
        count, worst = same(atoms, ask(pairs, atoms), 6.0)
        assert count > 0
        assert worst < 1e-12
    assert 1 < pairs.searches < 30


def test_strain_shear_and_rotation_of_the_cell():
    atoms, rng = crystal(), np.random.default_rng(2)
    pairs = SkinPairs(6.0, 0.8)
    for _ in range(60):
        strain = rng.normal(size=(3, 3)) * 0.004 - 0.002 * np.eye(3)  # it shrinks: pairs come in from outside
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        atoms.positions += rng.normal(size=(len(atoms), 3)) * 0.01
        assert same(atoms, ask(pairs, atoms), 6.0)[1] < 1e-12
    assert 1 < pairs.searches < 40


def test_cell_that_changes_beside_atoms_that_stay():
    """The affine map of the bound moves the atoms, the atoms do not move: their displacement counts."""
    atoms, pairs = crystal(), SkinPairs(6.0, 0.6)
    for _ in range(30):
        atoms.set_cell(atoms.cell.array * 0.997, scale_atoms=False)
        assert same(atoms, ask(pairs, atoms), 6.0)[1] < 1e-12
    assert pairs.searches > 1


def test_control_a_list_that_is_never_searched_again_misses_pairs():
    class Frozen(SkinPairs):
        def _covers(self, *arguments):
            return self._positions is not None

    atoms, pairs = crystal(), Frozen(6.0, 0.6)
    worst = 0.0
    for _ in range(20):
        atoms.set_cell(atoms.cell.array * 0.99, scale_atoms=True)
        worst = max(worst, same(atoms, ask(pairs, atoms), 6.0)[1])
    assert worst > 1e-3


def test_control_half_the_bound_misses_pairs():
    """Displacements up to the whole skin instead of half of it: two atoms may then approach by twice the skin."""

    class Loose(SkinPairs):
        def _covers(self, numbers, positions, cell, pbc):
            return self._positions is not None and np.abs(positions - self._positions).max() < self.skin

    atoms = ase.Atoms("Ar2", [[0, 0, 0], [7.05, 0, 0]])
    pairs, honest = Loose(6.0, 1.0), SkinPairs(6.0, 1.0)
    for graph in (ask(pairs, atoms), ask(honest, atoms)):
        assert graph.n_pairs == 0
    atoms.positions += [[0.9, 0, 0], [0, 0, 0]]
    atoms.positions -= [[0, 0, 0], [0.9, 0, 0]]
    assert ask(pairs, atoms).n_pairs == 0
    assert ask(honest, atoms).n_pairs == 2


def test_wrapping_atoms_changes_nothing():
    atoms, pairs = crystal(), SkinPairs(6.0, 0.6)
    lj = LennardJones(cutoff=6.0, onset=4.0)
    before = predict(lj, ask(pairs, atoms))
    atoms.positions += 3.0
    atoms.wrap()
    after = predict(lj, ask(pairs, atoms))
    assert abs(before.energy - after.energy) < 1e-12
    assert (before.forces - after.forces).abs().max() < 1e-12


def test_a_drifting_molecule_needs_one_search():
    """A common translation brings no pair in."""
    atoms, pairs = ase.build.molecule("C6H6"), SkinPairs(5.0, 0.5)
    for _ in range(50):
        atoms.positions += 0.3
        ask(pairs, atoms)
    assert (pairs.searches, pairs.steps) == (1, 50)


@pytest.mark.parametrize("make", [crystal, lambda: ase.build.molecule("C6H6")])
def test_a_search_that_finds_the_same_pairs_keeps_what_was_made_of_them(make):
    """Witness: graphs of a search that knows nothing."""
    atoms, rng = make(), np.random.default_rng(5)
    pairs, kept = SkinPairs(4.2, 0.0), []
    for move in (0.0, 1e-5, 1e-5, 0.4, 1e-5):
        atoms.positions += move * rng.normal(size=atoms.positions.shape)
        graph, fresh = ask(pairs, atoms), ask(SkinPairs(4.2, 0.0), atoms)
        for name in ("numbers", "positions", "owner", "cell", "pbc", "pairs", "shifts"):
            assert torch.equal(getattr(graph, name), getattr(fresh, name)), name
        assert torch.equal(graph.vectors(), fresh.vectors())
        assert torch.equal(graph.row_pointers(), fresh.row_pointers())
        kept.append(graph._made)
    assert pairs.searches == 5
    assert [a is b for a, b in itertools.pairwise(kept)] == [True, True, False, True]
    atoms.numbers[0] = 7  # the same pairs of other atoms
    graph = ask(pairs, atoms)
    assert int(graph.numbers[0]) == 7
    assert graph._made is not kept[-1]
    atoms.positions[0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        ask(pairs, atoms)


def test_results_do_not_depend_on_history_to_the_last_bit():
    atoms, rng = crystal(), np.random.default_rng(3)
    old, lj = SkinPairs(6.0, 1.0), LennardJones(cutoff=6.0, onset=4.0)
    for _ in range(8):
        atoms.positions += rng.normal(size=(len(atoms), 3)) * 0.02
        aged = ask(old, atoms)
    assert old.searches == 1
    for skin in (0.0, 0.3, 1.0):
        fresh = ask(SkinPairs(6.0, skin), atoms)
        assert torch.equal(aged.pairs, fresh.pairs)
        assert torch.equal(aged.shifts, fresh.shifts)
        assert torch.equal(predict(lj, aged).forces, predict(lj, fresh).forces)


def test_views_are_kept_while_the_pairs_stay_and_made_again_when_not():
    atoms, rng = crystal(), np.random.default_rng(4)
    pairs = SkinPairs(6.0, 0.8)
    first = ask(pairs, atoms)
    first.padded(), first.reverse_pairs()
    assert ask(pairs, atoms).padded() is first.padded()
    changed = 0
    for _ in range(6):
        atoms.positions += rng.normal(size=(len(atoms), 3)) * 0.03
        graph = ask(pairs, atoms)
        changed += graph.n_pairs != first.n_pairs
        fresh = build(Structure.from_ase(atoms), 6.0)
        reverse = graph.reverse_pairs()
        assert torch.equal(reverse[reverse], torch.arange(graph.n_pairs))
        assert torch.equal(graph.pairs[:, reverse], graph.pairs.flip(0))
        assert torch.equal(graph.shifts[reverse], -graph.shifts)
        assert (graph.vectors()[reverse] + graph.vectors()).abs().max() == 0
        assert graph.row_pointers()[-1] == fresh.n_pairs
    assert changed > 0


@pytest.mark.parametrize("skin", [0.0, 0.5])
def test_small_cells_one_atom_and_no_pairs(skin):
    for atoms in (
        ase.build.bulk("Cu"),  # cell smaller than the cutoff
        ase.Atoms("Ar"),
        ase.Atoms("Ar2", [[0, 0, 0], [20.0, 0, 0]]),
        ase.build.bulk("Ti", "hcp", a=2.9, c=4.6),
    ):
        pairs = SkinPairs(6.0, skin)
        for _ in range(3):
            atoms.positions += 0.01
            graph = ask(pairs, atoms)
            assert graph.n_pairs == build(Structure.from_ase(atoms), 6.0).n_pairs


def test_other_atoms_and_other_periodicity_are_searched():
    pairs = SkinPairs(6.0, 0.5)
    atoms = crystal()
    ask(pairs, atoms)
    atoms.pbc = (True, True, False)
    assert ask(pairs, atoms).n_pairs == build(Structure.from_ase(atoms), 6.0).n_pairs
    atoms.numbers[0] = 10
    assert ask(pairs, atoms).numbers[0] == 10
    assert pairs.searches == 3


def test_atoms_that_meet_between_searches_are_named():
    atoms = ase.Atoms("Ar3", [[0, 0, 0], [0.1, 0, 0], [4, 0, 0]])
    pairs = SkinPairs(6.0, 1.0)
    ask(pairs, atoms)
    atoms.positions[1, 0] = 1e-5
    with pytest.raises(SimulationError, match="Atoms 0 and 1"):
        ask(pairs, atoms)


def test_negative_skin_is_refused():
    with pytest.raises(ConfigError, match="skin"):
        SkinPairs(5.0, -0.1)


def test_arrays_are_equal_as_numpy_says():
    """Witness: ``np.array_equal``, of whole numbers many and few, other types and shapes, and what is not a number."""
    many, four = np.arange(20000), np.arange(4)
    arrays = [four, four.astype(np.int32), four.reshape(2, 2), four.astype(float), many, many[::-1], many[:0]]
    arrays += [four > 4, four > 2, *(np.array([x, 1.0]) for x in (np.nan, -0.0, 0.0))]
    for a in arrays:
        for b in arrays:
            assert equal(a, b.copy()) == np.array_equal(a, b)
