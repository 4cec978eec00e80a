"""Bonds, angles and torsions perceived from molecules and liquids of known structure."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from epot.data.structure import Structure
from epot.errors import DataError
from epot.geometry.topology import difference, from_bonds, perceive, unwrapped


@pytest.mark.parametrize(
    ("name", "bonds", "angles", "torsions"),
    [
        ("CH4", 4, 6, 0), ("CH3CH2OH", 8, 13, 12), ("C6H6", 12, 18, 24), ("HCN", 2, 1, 0), ("C2H2", 3, 2, 0),
        ("H2O2", 3, 2, 1),
    ],
)  # fmt: skip
def test_known_molecules(name, bonds, angles, torsions):
    """Witness: structural formulas; nothing turns around the straight angles of HCN and acetylene."""
    found = perceive(Structure.from_ase(molecule(name)))
    assert (len(found.bonds), len(found.angles), len(found.torsions)) == (bonds, angles, torsions)


def test_kinds_of_ethanol():
    found = perceive(Structure.from_ase(molecule("CH3CH2OH")))
    assert sorted(set(found.kinds(0))) == ["C", "H", "O"]
    assert sorted(set(found.kinds(1))) == ["C(C,H,H,H)", "C(C,H,H,O)", "H(C)", "H(O)", "O(C,H)"]
    assert len(set(found.kinds(2))) == 6  # hydrogen atoms of the two carbon atoms differ
    pairs, apart = found.close_pairs()
    assert [int((apart == k).sum()) for k in (1, 2, 3)] == [8, 13, 12]
    assert {tuple(p) for p in pairs[apart == 1].tolist()} == {tuple(b) for b in found.bonds.tolist()}


def test_two_molecules_and_rings():
    atoms = molecule("H2O")
    other = atoms.copy()
    other.translate([5, 0, 0])
    assert len(perceive(Structure.from_ase(atoms + other)).bonds) == 4
    ring = from_bonds(np.full(3, 6), np.array([[0, 1], [1, 2], [0, 2]]))
    assert len(ring.torsions) == 0
    assert ring.close_pairs()[1].tolist() == [1, 1, 1]
    square = from_bonds(np.full(4, 6), np.array([[0, 1], [1, 2], [2, 3], [0, 3]]))
    assert sorted(square.close_pairs()[1].tolist()) == [1, 1, 1, 1, 2, 2]


def test_departures():
    ethanol = Structure.from_ase(molecule("CH3CH2OH"))
    topology = perceive(ethanol)
    assert difference(ethanol, topology) is None
    order = np.roll(np.arange(9), 1)
    swapped = Structure(ethanol.numbers[order], ethanol.positions[order])
    assert "another order" in difference(swapped, topology)
    assert "not" in difference(Structure.from_ase(molecule("CH4")), topology)
    k = int(np.flatnonzero(ethanol.numbers == 1)[0])
    positions = ethanol.positions.copy()
    positions[k] += 3.0
    assert "broken" in difference(ethanol.replace(positions=positions), topology)
    positions = ethanol.positions.copy()
    positions[-1] = positions[-2] + [0.5, 0, 0]
    assert difference(ethanol.replace(positions=positions), topology) is not None


def waters():
    """Four molecules in a skewed cell; atoms moved to other images at random: most bonds run through faces."""
    rng = np.random.default_rng(0)
    cell = np.array([[6.2, 0.0, 0.0], [1.0, 6.0, 0.0], [0.3, -0.8, 5.9]])
    water, parts = molecule("H2O"), []
    for k in range(4):
        water.rotate(80 * k, (1, 2, 3))
        parts.append(water.positions + (np.array([k % 2, k // 2, (k % 2) / 2]) / 2) @ cell)
    whole = np.concatenate(parts)
    moved = whole + rng.integers(-2, 3, (12, 3)) @ cell
    return whole, Structure(np.tile([8, 1, 1], 4), moved, cell, True)


def test_bonds_through_the_faces_of_a_cell():
    """Witness: the same molecules without a cell, whole."""
    whole, liquid = waters()
    found = perceive(liquid)
    cluster = from_bonds(liquid.numbers, np.array([[3 * k, 3 * k + h] for k in range(4) for h in (1, 2)]))
    assert (found.bonds == cluster.bonds).all()
    assert (found.angles == cluster.angles).all()
    assert sum(len(children) for _, children in found.tree()) == 8
    lengths = lambda x: np.linalg.norm(x[found.bonds[:, 0]] - x[found.bonds[:, 1]], axis=1)  # noqa: E731
    np.testing.assert_allclose(lengths(unwrapped(liquid, found)), lengths(whole), atol=1e-12)
    assert (lengths(liquid.positions) > 3).any()  # control
    assert difference(liquid, found) is None
    stretched = liquid.positions.copy()
    stretched[4] += 0.8 * (whole[4] - whole[3])
    assert "broken" in difference(liquid.replace(positions=stretched), found)


def test_a_chain_longer_than_the_cell_is_wide():
    """Bonds lead once around the slab's open direction, not into themselves: a whole molecule all the same."""
    positions = np.stack([1.2 * np.arange(8), 0.9 * (np.arange(8) % 2), 1.0 * np.arange(8)], 1)
    cell = np.diag([6.0, 9.0, 1.0])
    chain = Structure(np.full(8, 6), positions, cell, (True, True, False))
    found = perceive(chain)
    np.testing.assert_allclose(unwrapped(chain, found), positions, atol=1e-12)
    wrapped = positions.copy()
    wrapped[:, 0] %= 6.0
    np.testing.assert_allclose(unwrapped(chain.replace(positions=wrapped), found), positions, atol=1e-12)


@pytest.mark.parametrize("atoms", [
    bulk("Si"), bulk("Si", cubic=True).repeat(2), bulk("Al").repeat(3), bulk("NaCl", "rocksalt", 5.6, cubic=True),
])  # fmt: skip
def test_crystals_and_metals_are_refused(atoms):
    with pytest.raises(DataError, match="crystal, a metal.*stillinger_weber.*gap"):
        perceive(Structure.from_ase(atoms))


def test_bad_input():
    with pytest.raises(DataError, match="No two atoms.*lennard_jones"):
        perceive(Structure.from_ase(bulk("Ar", "fcc", 5.3, cubic=True)))
    with pytest.raises(DataError, match="one"):
        perceive(Structure(np.array([1]), np.zeros((1, 3))))
