"""Datasets: selection, concatenation, content hash, statistics, and what is written comes back."""

import subprocess
import sys

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule

from epot.data.dataset import Dataset
from epot.data.descriptor import pair_distances
from epot.data.readers import read
from epot.data.structure import Structure
from epot.errors import DataError
from epot.geometry.neighbors import neighbor_pairs


def several():
    rng = np.random.default_rng(0)
    made = []
    for k in range(12):
        n = 1 + k % 4
        labels = {}
        if k % 2:
            labels["energy"] = float(rng.normal())
        if k % 3:
            labels["forces"] = rng.normal(size=(n, 3))
        if k % 4 == 0:
            labels |= {"stress": np.diag(rng.normal(size=3)), "cell": np.eye(3) * (5 + k), "pbc": True}
        if k == 5:
            labels |= {"charges": rng.normal(size=n), "dipole": rng.normal(size=3), "charge": -1.0, "spin": 2}
        made.append(
            Structure(
                rng.integers(1, 20, size=n), rng.normal(size=(n, 3)) * 3, config_type=["a", "b", None][k % 3],
                group=f"g{k // 3}" if k < 9 else None, source=f"memory {k}",
                info={"step": k, "name": "with space", "nothing": None, "vector": np.arange(3.0),
                      "nested": {"x": [1, 2]},
                      "text": "0001", "yes": True, "quote": 'say "no"\\', "matrix": np.eye(2), "energy_extra": 1.5},
                arrays={"tags": np.arange(n), "velocity": rng.normal(size=(n, 3)), "fixed": np.arange(n) > 0}, **labels,
            )
        )  # fmt: skip
    return made


def same(one, two):
    for name in ("numbers", "positions", "cell", "pbc", "energy", "forces", "stress", "charges", "dipole"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None), name
        np.testing.assert_array_equal(a, b, err_msg=name) if a is not None else None
    for name in ("charge", "spin", "config_type", "group"):
        assert getattr(one, name) == getattr(two, name), name
    assert set(one.info) == set(two.info)
    for key, value in one.info.items():
        np.testing.assert_array_equal(two.info[key], value, err_msg=key)
        assert isinstance(two.info[key], str) == isinstance(value, str)
    assert set(one.arrays) == set(two.arrays)
    for key, value in one.arrays.items():
        np.testing.assert_array_equal(two.arrays[key], value, err_msg=key)


@pytest.mark.parametrize("name", ["all.xyz", "all.xyz.gz", "all.h5"])
def test_everything_that_is_written_comes_back(tmp_path, name):
    data = Dataset(several())
    back = read(data.write(tmp_path / name))
    assert len(back) == len(data)
    for one, two in zip(data, back, strict=True):
        same(one, two)
    assert back.sha256() == data.sha256()


def test_ase_reads_what_is_written(tmp_path):
    data = Dataset([s.replace(info={}, arrays={}) for s in several()])
    atoms = ase.io.read(data.write(tmp_path / "all.xyz"), ":")
    for ours, theirs in zip(data, atoms, strict=True):
        results = theirs.calc.results if theirs.calc else {}
        assert ours.energy == results.get("energy")
        if ours.forces is not None:
            np.testing.assert_array_equal(ours.forces, results["forces"])
        if ours.stress is not None:
            np.testing.assert_array_equal(ours.stress.ravel()[[0, 4, 8, 5, 2, 1]], results["stress"])


def test_leftover_keys_that_look_like_labels_do_not_come_back_as_labels(tmp_path):
    data = Dataset(
        [
            Structure(
                np.array([1]), np.zeros((1, 3)), energy=1.0, info={"energy": 7.0, "REF_energy": 8.0, "virial": "no"}
            )
        ]
    )
    (back,) = read(data.write(tmp_path / "x.xyz"))
    assert back.energy == 1.0
    assert sorted(back.info) == ["other_REF_energy", "other_energy", "other_virial"]


def test_other_suffixes_are_refused_and_nothing_is_left_behind(tmp_path):
    with pytest.raises(DataError, match="its suffix says no format"):
        Dataset(several()).write(tmp_path / "x.dat")
    with pytest.raises(DataError, match="no structures to write"):
        Dataset([]).write(tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_leaves_the_previous_file(tmp_path):
    class Failing(Dataset):
        def __iter__(self):
            yield self._source[0]
            raise OSError("No space left on device")

    path = tmp_path / "x.xyz"
    Dataset(several()).write(path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="No space left.*previous file"):
        Failing(several()).write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_selection():
    data = Dataset(several(), {"theory": "none"})
    assert len(data[2:5]) == 3
    assert data[[4, 1]][0] is data[4]
    assert len(data[[]]) == 0
    assert data[np.arange(12) % 2 == 0][1] is data[2]
    assert [s.info["step"] for s in data.where(config_type="a")] == [0, 3, 6, 9]
    assert [s.info["step"] for s in data.where(lambda s: len(s) == 4, group=("g0", "g1"))] == [3]
    assert data.where(config_type="a").provenance["where"][0]["kept"] == 4
    assert data.provenance == {"theory": "none"}
    with pytest.raises(DataError, match="cannot be compared"):
        data.where(forces=1)
    assert data.has("energy").tolist() == [k % 2 == 1 for k in range(12)]


def test_concatenation():
    one, two = Dataset(several(), {"files": [{"path": "a"}], "theory": "PBE"}), Dataset(several()[:3], {"theory": "HF"})
    both = one + two + one[:2]
    assert len(both) == 17
    assert both[12] is two[0]
    assert both[-1] is one[1]
    assert [s.info["step"] for s in both] == [*range(12), 0, 1, 2, 0, 1]
    assert both.has("energy").tolist() == [s.has("energy") for s in both]
    assert any("PBE, HF" in note for note in both.provenance["notes"])
    assert len(both.provenance["parts"]) == 3


def test_the_hash_is_of_the_content():
    data = Dataset(several())
    assert data.sha256() == Dataset(several(), {"x": 1}).sha256()
    assert data.sha256() == Dataset([s.replace(source="elsewhere") for s in several()]).sha256()
    for changed in ({"energy": 1e-300}, {"charge": 0.5}, {"positions": several()[0].positions + 1e-15}, {"group": "h"}):
        assert Dataset([several()[0].replace(**changed), *several()[1:]]).sha256() != data.sha256()
    assert data[::-1].sha256() != data.sha256()


def test_statistics():
    water, copper = molecule("H2O"), bulk("Cu", cubic=True)
    data = Dataset([
        Structure.from_ase(water, energy=-3.0, forces=np.zeros((3, 3)), config_type="gas"),
        Structure.from_ase(copper, energy=np.nan, stress=np.eye(3)),
    ])  # fmt: skip
    found = data.statistics()
    assert (found.structures, found.atoms) == (2, 7)
    assert found.elements == {"H": (2, 1), "O": (1, 1), "Cu": (4, 1)}
    assert found.labels == {"energy": 2, "forces": 1, "stress": 1}
    assert found.not_finite == {"energy": 1}
    assert found.periodic == {"none": 1, "abc": 1}
    assert found.energy_per_atom.mean == found.energy_per_atom.minimum == -1.0
    assert found.closest["H-O"] == pytest.approx(water.get_distance(0, 1), abs=1e-12)
    assert found.closest["Cu-Cu"] == pytest.approx(3.61 / np.sqrt(2), abs=1e-12)  # fcc: a / sqrt(2)
    assert found.volume_per_atom.mean == pytest.approx(3.61**3 / 4)
    assert "Cu 4 in 1" in str(found)
    assert found.to_json()["energy_per_atom"]["count"] == 1


def test_ranges_merge_exactly():
    from epot.data.statistics import Range

    values = np.random.default_rng(3).normal(5, 2, size=100)
    merged = Range()
    for piece in np.split(values, [3, 4, 50]):
        merged.add(piece)
    np.testing.assert_allclose([merged.mean, merged.std], [values.mean(), values.std()], rtol=1e-13)
    assert (merged.minimum, merged.maximum, merged.count) == (values.min(), values.max(), 100)


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)])
def test_distances_are_those_of_the_neighbor_search(pbc):
    """Witness: vesin, through epot.geometry.neighbors; a skewed cell smaller than the cutoff."""
    rng = np.random.default_rng(1)
    cell = np.array([[3.0, 0.2, 0.1], [1.0, 3.5, 0.0], [0.5, -0.6, 4.0]])
    structure = Structure(np.full(5, 14), rng.uniform(-4, 8, size=(5, 3)), cell, np.array(pbc, dtype=bool))
    i, j, distance = pair_distances(structure, 6.0)
    a, b, shift = neighbor_pairs(structure, 6.0)
    witness = np.linalg.norm(structure.positions[b] - structure.positions[a] + shift @ cell, axis=1)
    np.testing.assert_allclose(np.sort(distance), np.sort(witness), rtol=0, atol=1e-12)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == sorted(zip(a.tolist(), b.tolist(), strict=True))


def test_reading_and_statistics_import_no_torch(tmp_path):
    path = Dataset(several()).write(tmp_path / "x.h5")
    code = (
        "import sys; from epot.data.readers import read; from epot.data import packing, statistics, writers, catalog; "
        f"d = read({str(path)!r}); d.statistics(); d.split(0.5, 0.5, by='farthest'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
