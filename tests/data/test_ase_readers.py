"""ase.Atoms, ASE's databases and the outputs that ASE reads."""

import sqlite3
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

import epot.data.readers.lmdb as lmdb_reader
from epot.data.readers import read
from epot.errors import ConfigError, DataError

HERE = Path(__file__).parent
ASE_FILES = Path(ase.__file__).parent / "test" / "testdata"


def copper(seed=0):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    atoms.get_forces()
    atoms.get_stress()
    return atoms


def test_atoms_with_results_in_the_calculator():
    atoms = copper()
    (made,) = read([atoms])
    assert made.energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(made.forces, atoms.get_forces())
    np.testing.assert_array_equal(made.stress, atoms.get_stress(voigt=False))
    assert read(atoms)[0].energy == made.energy
    assert made.source == "structure 0"


def test_results_are_never_calculated():
    class Refusing(Calculator):
        implemented_properties = ("energy",)

        def calculate(self, *args, **kwargs):
            raise AssertionError("calculated")

    atoms = molecule("H2O")
    atoms.calc = Refusing()
    assert read([atoms])[0].energy is None


def test_stale_results_are_refused():
    atoms = copper()
    atoms.positions += 0.1 * np.arange(4)[:, None]
    with pytest.raises(DataError, match=r"other positions .*structure 0"):
        read([atoms])


def test_atoms_with_labels_in_info_and_arrays():
    atoms = molecule("H2O")
    atoms.info |= {"REF_energy": -3.0, "charge": 1, "config_type": "gas", "note": "x"}
    atoms.arrays["REF_forces"] = np.ones((3, 3))
    made = read([atoms, atoms])
    assert (made[0].energy, made[0].charge, made[0].config_type) == (-3.0, 1.0, "gas")
    np.testing.assert_array_equal(made[0].forces, 1.0)
    assert made[0].info == {"note": "x"}
    assert "REF_energy" in atoms.info  # the user's object is left alone


def test_a_prediction_beside_a_reference_is_a_conflict():
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = -3.0
    atoms.calc = SinglePointCalculator(atoms, energy=-2.9)
    with pytest.raises(DataError, match=r"`calc.energy` and `REF_energy`"):
        read([atoms])
    assert read([atoms], keys={"energy": "calc.energy"})[0].energy == -2.9
    assert read([atoms], keys={"energy": "REF_energy"})[0].energy == -3.0


def test_free_energy_is_said_and_can_be_chosen():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-2.9, free_energy=-3.1)
    made = read([atoms])
    assert made[0].energy == -2.9
    assert made[0].info["free_energy"] == -3.1
    assert any("free_energy" in note for note in made.provenance["notes"])
    chosen = read([atoms], keys={"energy": "free_energy"})
    assert chosen[0].energy == -3.1
    assert not chosen.provenance["notes"]


def test_what_cannot_be_read():
    with pytest.raises(DataError, match="Item 0 is of type int"):
        read([3])
    with pytest.raises(ConfigError, match="Cannot read from int"):
        read(3)


def test_datasets_and_structures_pass_through():
    made = read([copper()])
    assert read(made).sha256() == read(list(made)).sha256() == read(made[0]).sha256() == made.sha256()


def test_sqlite_database(tmp_path):
    path = tmp_path / "set.db"
    with connect(path, use_lock_file=False) as db:
        for seed in range(3):
            db.write(copper(seed), config_type="rattled", data={"weights": np.arange(4.0)})
        db.write(molecule("H2O"), REF_energy=-3.0)
    before = path.read_bytes()
    made = read(path)
    assert path.read_bytes() == before
    assert len(made) == 4
    assert made[1].energy == pytest.approx(copper(1).get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(made[1].stress, copper(1).get_stress(voigt=False), rtol=0, atol=1e-14)
    assert made[1].config_type == "rattled"
    np.testing.assert_array_equal(made[1].arrays["weights"], np.arange(4.0))
    assert made[3].energy == -3.0
    assert read(path, index="2:")[0].source.endswith("row 3")


def test_damaged_databases(tmp_path):
    path = tmp_path / "set.db"
    path.write_text("this is no database")
    with pytest.raises(DataError, match="not an SQLite database"):
        read(path)
    assert path.read_text() == "this is no database"
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("create table something (x int)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match="not a readable ASE database: its tables are something"):
        read(path)
    assert path.read_bytes() == before


def test_lmdb_back_end_as_ase_db_backends_writes_it():
    """The file was written by ase-db-backends 0.11.0: EMT copper, rattled by 0.05 Å with seeds 0 to 3, and water.

    Row 2 was deleted. Witness: EMT itself.
    """
    pytest.importorskip("lmdb")
    made = read(HERE / "copper_and_water.aselmdb")
    assert [s.source.rpartition(" ")[2] for s in made] == ["1", "3", "4", "5"]
    for structure, seed in zip(made, (0, 2, 3), strict=False):
        atoms = copper(seed)
        np.testing.assert_allclose(structure.positions, atoms.positions, rtol=0, atol=1e-14)
        assert structure.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(structure.forces, atoms.get_forces(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(structure.stress, atoms.get_stress(voigt=False), rtol=0, atol=1e-14)
    assert made[0].config_type == "rattled"
    assert made[3].formula == "H2O"


def test_lmdb_of_pickles_is_refused_and_records_of_plain_json_are_read(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    import json
    import pickle
    import zlib

    def put(name, records):
        with lmdb.open(str(tmp_path / name), subdir=False, map_size=1 << 20) as env, env.begin(write=True) as txn:
            for key, value in records.items():
                txn.put(key.encode(), value)
        return tmp_path / name

    pack = lambda value: zlib.compress(json.dumps(value).encode())  # noqa: E731
    row = {"numbers": [1, 8], "positions": [[0, 0, 0], [0, 0, 1.0]], "energy": -1.5, "forces": [[0, 0, 1], [0, 0, -1]]}
    made = read(put("plain.aselmdb", {"nextid": pack(2), "1": pack(row)}))
    assert made[0].energy == -1.5
    for k, (records, message) in enumerate([
        ({"nextid": pack(2), "1": pickle.dumps(row)}, "is a pickle"),
        ({"nextid": pack(2), "1": b"junk"}, "not compressed JSON"),
        ({"nextid": pack(3), "1": pack(row)}, "row 2 is missing"),
        ({"1": pack(row)}, "nextid is missing"),
        ({"nextid": pack(2), "1": pack({"numbers": [1]})}, "not a row"),
        ({"nextid": pack(2), "1": pack([1, 2])}, "not a row"),
        ({"nextid": pack(2), "1": pack(row | {"forces": [1, 2]})}, "`forces` has shape"),
    ]):  # fmt: skip
        with pytest.raises(DataError, match=message):
            read(put(f"{k}.aselmdb", records))
    (tmp_path / "junk.aselmdb").write_bytes(b"junk" * 5000)
    with pytest.raises(DataError, match="not a readable LMDB"):
        read(tmp_path / "junk.aselmdb")


def test_lmdb_without_its_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(DataError, match=r"pip install 'epot\[io\]'"):
        list(lmdb_reader.frames(HERE / "copper_and_water.aselmdb"))


@pytest.mark.parametrize(
    ("name", "format"),
    [("vasp/OUTCAR_example_1", "vasp-out"), ("vasp/vasprun_pstress.xml", "vasp-xml"), ("aims/md.out", "aims-output"),
     ("aims/numerical_stress.out", "aims-output"), ("castep/md.castep", "castep-castep"), ("qbox_test.xml", "qbox")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_calculation_outputs(name, format):
    path = ASE_FILES / name
    if not path.exists():
        pytest.skip("this ASE ships no test data")
    made = read(path, format=format)
    atoms = ase.io.read(path, ":", format=format)
    assert len(made) == len(atoms)
    for ours, theirs in zip(made, atoms, strict=True):
        assert ours.energy == theirs.get_potential_energy()
        if "forces" in theirs.calc.results:
            np.testing.assert_array_equal(ours.forces, theirs.calc.results["forces"])
        if "stress" in theirs.calc.results:
            np.testing.assert_array_equal(ours.stress, theirs.get_stress(voigt=False))
    assert made.provenance["keys"]["energy"]["unit_from"] == "ASE's units"


def test_trajectories_and_unknown_formats(tmp_path):
    ase.io.write(tmp_path / "run.traj", [copper(0), copper(1)])
    made = read(tmp_path / "run.traj", index=1)
    assert made[0].energy == copper(1).get_potential_energy()
    (tmp_path / "what.zzz").write_text("1 2 3\n")
    with pytest.raises(DataError, match="format of .* is not known"):
        read(tmp_path / "what.zzz")
    (tmp_path / "OUTCAR").write_text("nothing of VASP")
    with pytest.raises(DataError, match="OUTCAR"):
        read(tmp_path / "OUTCAR")
