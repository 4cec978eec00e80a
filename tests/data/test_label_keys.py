"""Keys, units and signs: detected spellings, declared units, conflicts refused, everything said."""

import logging

import ase.units
import numpy as np
import pytest

from epot.data.readers import read
from epot.errors import ConfigError, DataError

CELL = 'Lattice="2 0 0 0 3 0 0 0 4"'
STRESS = np.array([[0.01, 0.002, 0.003], [0.002, -0.02, 0.004], [0.003, 0.004, 0.03]])
VOLUME = 24.0


def words(matrix):
    return " ".join(map(repr, np.asarray(matrix).ravel().tolist()))


def one(tmp_path, comment, columns="", row="", **options):
    path = tmp_path / "one.xyz"
    path.write_text(f"1\n{CELL} Properties=species:S:1:pos:R:3{columns} {comment}\nSi 0.1 0.2 0.3 {row}\n")
    return read(path, **options)


@pytest.mark.parametrize(
    "key",
    ["energy", "REF_energy", "ref_energy", "dft_energy", "DFT_energy", "Energy", "total_energy", "energy_dft",
     "QM-energy", "etot", "reference_energy", "energyref"],
)  # fmt: skip
def test_spellings_of_the_energy(tmp_path, key):
    made = one(tmp_path, f"{key}=-2.5 other=3")
    assert made[0].energy == -2.5
    assert made[0].info == {"other": 3}
    assert made.provenance["keys"]["energy"]["keys"] == {key: 1}


@pytest.mark.parametrize(
    "key", ["energy_A_dft", "energy_baseline", "mace_energy", "core_energy", "kinetic_energy", "energy_std"]
)
def test_what_is_not_the_energy_is_kept_and_not_taken(tmp_path, key):
    made = one(tmp_path, f"{key}=-2.5")
    assert made[0].energy is None
    assert made[0].info == {key: -2.5}


@pytest.mark.parametrize(
    ("key", "sign"), [("force", 1), ("forces", 1), ("REF_forces", 1), ("dft_force", 1), ("gradient", -1)]
)
def test_spellings_of_the_forces(tmp_path, key, sign):
    made = one(tmp_path, "energy=1", f":{key}:R:3", "1.0 -2.0 3.0")
    np.testing.assert_array_equal(made[0].forces, sign * np.array([[1.0, -2.0, 3.0]]))


def test_two_energies_that_differ_are_refused_and_the_choice_is_told(tmp_path):
    with pytest.raises(
        DataError, match=r"Both `energy` and `REF_energy` .* values differ .*frame 0.*keys=\{'energy': 'energy'\}"
    ):
        one(tmp_path, "energy=1 REF_energy=2")
    made = one(tmp_path, "energy=1 REF_energy=2", keys={"energy": "REF_energy"})
    assert made[0].energy == 2
    assert made[0].info == {"energy": 1}
    assert one(tmp_path, "energy=1.5 REF_energy=1.5")[0].energy == 1.5


def test_the_two_that_differ_may_come_late(tmp_path):
    path = tmp_path / "late.xyz"
    path.write_text("".join(f"1\nenergy={k} REF_energy={min(k, 3)}\nH 0 0 0\n" for k in range(6)))
    with pytest.raises(DataError, match="frame 4"):
        read(path)


def test_stress_with_nine_numbers(tmp_path):
    made = one(tmp_path, f'stress="{words(STRESS)}"')
    np.testing.assert_array_equal(made[0].stress, STRESS)
    entry = made.provenance["keys"]["stress"]
    assert entry["unit"] == "eV/Å^3"
    assert entry["sign"] == "positive under tension"
    assert "convention" in entry["sign_from"]
    assert not made.provenance["notes"]


def test_virial_is_minus_volume_times_stress_and_that_is_said(tmp_path, caplog):
    """Witness: QUIP's and GAP's virial is -V times ASE's stress (libAtoms, extended XYZ convention)."""
    with caplog.at_level(logging.WARNING, logger="epot.data"):
        made = one(tmp_path, f'virial="{words(-VOLUME * STRESS)}"')
    np.testing.assert_allclose(made[0].stress, STRESS, rtol=1e-14)
    assert "`virial`" in caplog.text
    assert "positive under compression" in caplog.text
    assert made.provenance["keys"]["stress"]["unit"] == "eV"
    declared = one(tmp_path, f'virial="{words(-VOLUME * STRESS)}"', virial_sign="compression", units={"virial": "eV"})
    assert declared.provenance["keys"]["stress"]["sign_from"] == "declared"
    assert not declared.provenance["notes"]
    turned = one(tmp_path, f'virial="{words(VOLUME * STRESS)}"', virial_sign="tension")
    np.testing.assert_allclose(turned[0].stress, STRESS, rtol=1e-14)


def test_stress_and_virial_must_agree(tmp_path):
    both = f'stress="{words(STRESS)}" virial="{words(-VOLUME * STRESS)}"'
    np.testing.assert_array_equal(one(tmp_path, both)[0].stress, STRESS)
    opposite = f'stress="{words(STRESS)}" virial="{words(VOLUME * STRESS)}"'
    with pytest.raises(DataError, match="agree with the sign turned"):
        one(tmp_path, opposite)
    np.testing.assert_allclose(one(tmp_path, opposite, virial_sign="tension")[0].stress, STRESS)
    np.testing.assert_allclose(one(tmp_path, opposite, keys={"virial": "virial"})[0].stress, -STRESS)


def test_signs_and_units_of_a_stress(tmp_path):
    kbar = -STRESS / (0.1 * ase.units.GPa)  # VASP's: kbar, positive under compression; ASE's units are the witness
    made = one(tmp_path, f'stress="{words(kbar)}"', units={"stress": "kbar"}, stress_sign="compression")
    np.testing.assert_allclose(made[0].stress, STRESS, rtol=1e-7)
    entry = made.provenance["keys"]["stress"]
    assert (entry["unit"], entry["unit_from"], entry["sign_from"]) == ("kbar", "declared", "declared")


def test_six_numbers(tmp_path):
    xx, yy, zz, yz, xz, xy = STRESS.ravel()[[0, 4, 8, 5, 2, 1]]
    made = one(tmp_path, f'REF_stress="{words([xx, yy, zz, yz, xz, xy])}"')
    np.testing.assert_array_equal(made[0].stress, STRESS)
    assert any("xx yy zz yz xz xy" in note for note in made.provenance["notes"])
    made = one(tmp_path, f'REF_stress="{words([xx, yy, zz, xy, yz, xz])}"', stress_order="vasp")
    np.testing.assert_array_equal(made[0].stress, STRESS)


def test_a_stress_that_is_not_symmetric_is_said(tmp_path):
    made = one(tmp_path, 'stress="1 2 3 0 1 0 0 0 1"')
    assert any("not symmetric" in note for note in made.provenance["notes"])


def test_a_virial_without_a_volume_is_left_out_and_said(tmp_path):
    path = tmp_path / "atom.xyz"
    path.write_text('1\nenergy=1 virial="0 0 0 0 0 0 0 0 0"\nH 0 0 0\n')
    made = read(path)
    assert made[0].stress is None
    assert any("without a volume" in note for note in made.provenance["notes"])


def test_units_of_energy_and_length_convert_forces_too(tmp_path):
    made = one(tmp_path, "energy=1 dipole='1 0 0'", ":forces:R:3", "1 0 0",
               units={"energy": "Hartree", "length": "Bohr", "dipole": "Debye"})  # fmt: skip
    assert made[0].energy == pytest.approx(ase.units.Hartree, rel=1e-8)
    assert made[0].forces[0, 0] == pytest.approx(ase.units.Hartree / ase.units.Bohr, rel=1e-8)
    assert made[0].positions[0, 0] == pytest.approx(0.1 * ase.units.Bohr, rel=1e-8)
    assert made[0].cell[0, 0] == pytest.approx(2 * ase.units.Bohr, rel=1e-8)
    assert made[0].dipole[0] == pytest.approx(ase.units.Debye, rel=1e-8)
    assert made.provenance["keys"]["forces"]["unit"] == "Hartree/Bohr"


def test_a_stress_in_an_undeclared_unit_is_refused_where_energies_are_foreign(tmp_path):
    with pytest.raises(DataError, match="unit of the stress is not"):
        one(tmp_path, f'energy=1 stress="{words(STRESS)}"', units={"energy": "Hartree"})


def test_labels_can_be_left_out_and_named_keys_must_exist(tmp_path):
    made = one(tmp_path, f'energy=1 stress="{words(STRESS)}"', keys={"stress": None})
    assert made[0].stress is None
    assert "stress" in made[0].info
    with pytest.raises(DataError, match=r"No structure has the key 'REF_energie'.*did you mean 'REF_energy'"):
        one(tmp_path, "REF_energy=1", keys={"energy": "REF_energie"})


@pytest.mark.parametrize(
    "options",
    [{"keys": {"enrgy": "E"}}, {"units": {"energie": "eV"}}, {"units": {"energy": "eVolt"}}, {"stress_sign": "up"},
     {"stress_order": "other"}, {"index": "a:b"}, {"keys": {"stress": "a", "virial": "b"}}],
)  # fmt: skip
def test_impossible_options(tmp_path, options):
    with pytest.raises(ConfigError):
        one(tmp_path, "energy=1", **options)


def test_other_labels(tmp_path):
    made = one(
        tmp_path, 'total_charge=-1 multiplicity=2 config_type=liquid group=7 dipole="1 2 3"', ":charges:R:1", "0.5"
    )[0]
    assert (made.charge, made.spin, made.config_type, made.group) == (-1.0, 2, "liquid", "7")
    np.testing.assert_array_equal(made.charges, [0.5])
    np.testing.assert_array_equal(made.dipole, [1.0, 2.0, 3.0])


def test_different_keys_in_different_frames_are_said(tmp_path):
    path = tmp_path / "mixed.xyz"
    path.write_text("1\nenergy=1\nH 0 0 0\n1\nREF_energy=2\nH 0 0 0\n")
    made = read(path)
    assert [s.energy for s in made] == [1, 2]
    assert any("different keys" in note for note in made.provenance["notes"])
