"""Bonds, angles and torsions perceived from molecules of known structure."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from epot.data.structure import Structure
from epot.errors import DataError
from epot.geometry.topology import difference, from_bonds, perceive


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
    far, three = found.far_pairs()
    assert len(far) == 36 - 8 - 13
    assert three.sum() == 12


def test_two_molecules_and_rings():
    atoms = molecule("H2O")
    other = atoms.copy()
    other.translate([5, 0, 0])
    assert len(perceive(Structure.from_ase(atoms + other)).bonds) == 4
    ring = from_bonds(np.full(3, 6), np.array([[0, 1], [1, 2], [0, 2]]))
    assert len(ring.torsions) == 0
    assert len(ring.far_pairs()[0]) == 0


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


def test_bad_input():
    with pytest.raises(DataError, match="periodic"):
        perceive(Structure.from_ase(bulk("Si")))
    with pytest.raises(DataError, match="one"):
        perceive(Structure(np.array([1]), np.zeros((1, 3))))
