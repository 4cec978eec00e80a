"""Units and elements against ASE (CODATA 2014 there: 1e-8 relative) and scipy (CODATA 2022: 1e-9)."""

import ase.data
import ase.units
import numpy as np
import pytest
import scipy.constants as codata

from epot import elements, units
from epot.errors import ConfigError


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (units.HARTREE, ase.units.Hartree), (units.BOHR, ase.units.Bohr), (units.RYDBERG, ase.units.Rydberg),
        (units.KCAL_MOL, ase.units.kcal / ase.units.mol), (units.KJ_MOL, ase.units.kJ / ase.units.mol),
        (units.GPA, ase.units.GPa), (units.KBAR, ase.units.GPa / 10), (units.DEBYE, ase.units.Debye),
        (units.force("Ha/bohr"), ase.units.Hartree / ase.units.Bohr),
        (units.force("kcal/mol/A"), ase.units.kcal / ase.units.mol),
        (units.force("kJ/mol/nm"), ase.units.kJ / ase.units.mol / 10),
        (units.stress("bar"), 1e-4 * ase.units.GPa), (units.energy("meV"), 1e-3), (units.length("nm"), 10.0),
    ],
)  # fmt: skip
def test_against_ase(ours, theirs):
    assert ours == pytest.approx(theirs, rel=2e-8)


def test_against_codata():
    assert pytest.approx(codata.value("Hartree energy in eV"), rel=1e-9) == units.HARTREE
    assert pytest.approx(codata.value("Bohr radius") * 1e10, rel=1e-9) == units.BOHR
    assert pytest.approx(codata.k / codata.e, rel=1e-9) == units.KB
    assert pytest.approx(4184 / codata.N_A / codata.e, rel=1e-9) == units.KCAL_MOL
    assert pytest.approx(1000 / codata.N_A / codata.e, rel=1e-8) == units.KJ_MOL
    assert pytest.approx(1e-21 / codata.c / codata.e * 1e10, rel=1e-9) == units.DEBYE


@pytest.mark.parametrize(
    ("call", "name"), [(units.energy, "furlong"), (units.length, ""), (units.force, "eV"), (units.stress, "eV/Å")]
)
def test_unknown_units_are_listed(call, name):
    with pytest.raises(ConfigError, match="is not a unit of .* that epot knows; use one of"):
        call(name)


def test_symbols_against_ase():
    assert list(elements.SYMBOLS) == list(ase.data.chemical_symbols)


@pytest.mark.parametrize("element", ["Si", 14, np.int64(14)])
def test_numbers(element):
    assert elements.to_number(element) == 14


@pytest.mark.parametrize("bad", ["X", "si", "", 0, -1, 119])
def test_what_is_no_element(bad):
    with pytest.raises(ConfigError, match="is not a chemical element; give a symbol"):
        elements.to_number(bad)


def test_names():
    assert elements.names([6, 1, 8]) == "C, H, O"
