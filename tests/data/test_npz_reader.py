"""npz archives: rMD17's keys mean kcal/mol, anything else must say its units."""

import ase.units
import numpy as np
import pytest

from epot.data.readers import read
from epot.errors import DataError

KCAL = ase.units.kcal / ase.units.mol  # the witness of the unit
RNG = np.random.default_rng(0)


def rmd17(n=4):
    return {
        "nuclear_charges": np.array([6, 8, 1]), "coords": RNG.normal(size=(n, 3, 3)), "energies": RNG.normal(size=n),
        "forces": RNG.normal(size=(n, 3, 3)), "old_indices": np.arange(n), "old_energies": RNG.normal(size=n),
        "old_forces": RNG.normal(size=(n, 3, 3)),
    }  # fmt: skip


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


def test_rmd17(tmp_path):
    arrays = rmd17()
    made = read(saved(tmp_path, **arrays))
    assert len(made) == 4
    assert made[2].energy == pytest.approx(arrays["energies"][2] * KCAL, rel=1e-7)
    np.testing.assert_allclose(made[2].forces, arrays["forces"][2] * KCAL, rtol=1e-7)
    np.testing.assert_array_equal(made[2].positions, arrays["coords"][2])
    assert made[2].info["old_indices"] == 2
    assert "rMD17" in made.provenance["keys"]["energy"]["unit_from"]
    assert made.provenance["keys"]["forces"]["unit"] == "kcal/mol/Å"
    other = read(saved(tmp_path, **arrays), keys={"energy": "old_energies", "forces": "old_forces"})
    assert other[2].energy == pytest.approx(arrays["old_energies"][2] * KCAL, rel=1e-7)
    assert [s.energy for s in read(saved(tmp_path, **arrays), index="2:")] == [s.energy for s in made[2:]]


@pytest.mark.shared
def test_rmd17_energies_are_those_of_the_xyz_file(tmp_path, shared_data):
    """Round trip through rMD17's own units: reading back what the published XYZ holds."""
    xyz = read(shared_data / "rmd17" / "ethanol_test.xyz.gz", index=":20")
    arrays = {
        "nuclear_charges": xyz[0].numbers, "coords": np.array([s.positions for s in xyz]),
        "energies": np.array([s.energy for s in xyz]) / KCAL, "forces": np.array([s.forces for s in xyz]) / KCAL,
        "old_indices": np.arange(20), "old_energies": np.zeros(20), "old_forces": np.zeros((20, 9, 3)),
    }  # fmt: skip
    made = read(saved(tmp_path, **arrays))
    np.testing.assert_allclose([s.energy for s in made], [s.energy for s in xyz], rtol=1e-8)


def test_sgdml_says_its_units(tmp_path):
    arrays = {"z": np.array([1, 1]), "R": RNG.normal(size=(3, 2, 3)), "E": RNG.normal(size=(3, 1)),
              "F": RNG.normal(size=(3, 2, 3)), "e_unit": np.array("kcal/mol"), "r_unit": np.array("Ang"),
              "name": np.array("h2")}  # fmt: skip
    made = read(saved(tmp_path, **arrays))
    assert made[1].energy == pytest.approx(arrays["E"][1, 0] * KCAL, rel=1e-7)
    assert "sGDML" in made.provenance["keys"]["energy"]["unit_from"]


def test_undeclared_units_are_refused(tmp_path):
    arrays = {"z": np.array([1, 1]), "R": RNG.normal(size=(3, 2, 3)), "E": RNG.normal(size=3)}
    with pytest.raises(DataError, match=r"does not say its units.*energy and length"):
        read(saved(tmp_path, **arrays))
    made = read(saved(tmp_path, **arrays), units={"energy": "Hartree", "length": "Å"})
    assert made[0].energy == pytest.approx(arrays["E"][0] * ase.units.Hartree, rel=1e-7)
    assert made.provenance["keys"]["energy"]["unit_from"] == "declared"


def test_molecules_padded_with_zeros_and_cells(tmp_path):
    units = {"energy": "eV", "length": "Å"}
    arrays = {"numbers": np.array([[1, 8, 0], [6, 1, 1]]), "positions": RNG.normal(size=(2, 3, 3)),
              "energy": np.array([1.0, 2.0]), "cell": np.eye(3) * 5}  # fmt: skip
    made = read(saved(tmp_path, **arrays), units=units)
    assert [s.formula for s in made] == ["HO", "CH2"]
    assert made[0].pbc.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"coords": np.zeros((4, 3))}, r"positions have shape \(4, 3\)"),
     ({"nuclear_charges": np.array([1, 2])}, "numbers are"),
     ({"nuclear_charges": np.array([1.0, 2.0, 3.0])}, "numbers are float64"),
     ({"energies": np.zeros(3)}, "expected 4 entries"),
     ({"forces": np.zeros((4, 2, 3))}, "forces"),
     ({"coords": np.full((4, 3, 3), np.nan)}, "not finite")],
)  # fmt: skip
def test_wrong_shapes(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read(saved(tmp_path, **rmd17() | changes), keys={"forces": "forces"} if "forces" in changes else None)


def test_pickled_objects_are_never_opened(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, **rmd17() | {"energies": np.array([{"a": 1}] * 4, dtype=object)})
    with pytest.raises(DataError, match="not a readable npz archive.*pickle"):
        read(path)
