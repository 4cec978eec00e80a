"""The packed store: random access from disk, transactions, kills, damage."""

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import h5py
import numpy as np
import pytest

from epot.data.packed import Packed
from epot.data.packing import Journal, pack, scan
from epot.data.readers import Rules, read
from epot.data.structure import Structure
from epot.errors import DataError


def xyz(path, n=40, seed=0):
    rng = np.random.default_rng(seed)
    text = []
    for k in range(n):
        atoms = 1 + k % 5
        forces = ":forces:R:3" if k % 3 else ""
        energy = f"REF_energy={rng.normal()!r}" if k % 4 else ""
        text.append(f"{atoms}\nProperties=species:S:1:pos:R:3{forces} {energy} config_type=t{k % 2} step={k}\n")
        for _ in range(atoms):
            row = rng.normal(size=6 if k % 3 else 3)
            text.append(f"Si {' '.join(map(repr, row.tolist()))}\n")
    path.write_text("".join(text))
    return path


def test_packing_keeps_everything(tmp_path):
    source = xyz(tmp_path / "a.xyz")
    packed = pack(source, tmp_path / "a.h5", batch=7)
    plain = read(source)
    assert packed.sha256() == plain.sha256()
    assert [s.source for s in packed] == [s.source for s in plain]
    assert [s.info for s in packed] == [s.info for s in plain]
    for key in ("files", "keys", "notes", "structures"):
        assert packed.provenance[key] == plain.provenance[key]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "a.xyz"]
    again = read(tmp_path / "a.h5")
    assert again.sha256() == plain.sha256()
    assert read(tmp_path / "a.h5", index="3:5")[0].info["step"] == 3
    assert len(read([tmp_path / "a.h5", source])) == 80


def test_columns_without_reading_structures(tmp_path, monkeypatch):
    plain = read(xyz(tmp_path / "a.xyz"))
    packed = read(plain.write(tmp_path / "a.h5"))
    some = packed[[7, 1, 4, 12]]
    monkeypatch.setattr(Packed, "__getitem__", None)
    assert some.has("forces").tolist() == [bool(k % 3) for k in (7, 1, 4, 12)]
    assert some.column("config_type") == ["t1", "t1", "t0", "t0"]
    assert some.column("group") == [None] * 4
    assert some.column("energy") == [plain[k].energy for k in (7, 1, 4, 12)]
    assert packed._source.sizes.tolist() == [len(s) for s in plain]


def test_the_file_is_plain_hdf5(tmp_path):
    plain = read(xyz(tmp_path / "a.xyz"))
    plain.write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["positions"][:], np.concatenate([s.positions for s in plain]))
        np.testing.assert_array_equal(file["pointers"][:], np.cumsum([0, *map(len, plain)]))
        assert "stress" not in file


def test_several_processes_read_one_file(tmp_path):
    packed = read(read(xyz(tmp_path / "a.xyz")).write(tmp_path / "a.h5"))
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(_energy_sum, [packed, packed]))
    assert found[0] == found[1] == _energy_sum(packed)
    assert pickle.loads(pickle.dumps(packed)).sha256() == packed.sha256()


def _energy_sum(data):
    return sum(s.energy or 0.0 for s in data)


def test_structures_are_copies(tmp_path):
    packed = read(read(xyz(tmp_path / "a.xyz")).write(tmp_path / "a.h5"))
    packed[3].positions[:] = 0
    assert np.abs(packed[3].positions).max() > 0


def test_the_same_again_is_done_at_once_and_something_else_is_refused(tmp_path):
    source = xyz(tmp_path / "a.xyz")
    pack(source, tmp_path / "a.h5")
    before = os.stat(tmp_path / "a.h5").st_mtime_ns
    pack(source, tmp_path / "a.h5")
    assert os.stat(tmp_path / "a.h5").st_mtime_ns == before
    with pytest.raises(DataError, match="made from something else"):
        pack(source, tmp_path / "a.h5", rules=Rules(keys={"energy": None}))


def packed_until(monkeypatch, count, *arguments, **options):
    """Packing that is interrupted at the ``count``-th structure."""
    append = Journal.append

    def failing(self, structure):
        if self.count >= count:
            raise KeyboardInterrupt
        append(self, structure)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", failing)
        with pytest.raises(KeyboardInterrupt):
            pack(*arguments, **options)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 25, 39])
def test_an_interrupted_packing_continues(tmp_path, monkeypatch, count):
    source = xyz(tmp_path / "a.xyz")
    other = xyz(tmp_path / "b.xyz", 13, seed=1)
    whole = pack([source, other], tmp_path / "whole.h5", batch=10)
    packed_until(monkeypatch, count, [source, other], tmp_path / "a.h5", batch=10)
    with pytest.raises(DataError, match="was not finished: run the same"):
        Packed(tmp_path / "a.h5")
    stored = sum(kind == b"STRU" for kind, _, _ in scan(tmp_path / "a.h5.journal"))
    assert stored >= count // 10 * 10
    made = pack([source, other], tmp_path / "a.h5", batch=10)
    assert made.sha256() == whole.sha256()
    assert made.provenance == whole.provenance
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not (tmp_path / "a.h5.journal").exists()


@pytest.mark.parametrize("cut", [1, 3, 17, 200, 5000])
def test_a_torn_journal_loses_only_what_was_not_committed(tmp_path, monkeypatch, cut):
    source = xyz(tmp_path / "a.xyz")
    whole = pack(source, tmp_path / "whole.h5", batch=10)
    packed_until(monkeypatch, 35, source, tmp_path / "a.h5", batch=10)
    journal = tmp_path / "a.h5.journal"
    journal.write_bytes(journal.read_bytes()[:-cut] + b"\xff" * (cut % 2))
    assert pack(source, tmp_path / "a.h5", batch=10).sha256() == whole.sha256()


def test_a_journal_of_something_else_is_refused(tmp_path, monkeypatch):
    source = xyz(tmp_path / "a.xyz")
    packed_until(monkeypatch, 15, source, tmp_path / "a.h5", batch=10)
    xyz(source, seed=5)
    with pytest.raises(DataError, match="was begun from something else"):
        pack(source, tmp_path / "a.h5")
    (tmp_path / "b.h5.journal").write_text("my own diary")
    with pytest.raises(DataError, match="is not a journal of epot"):
        pack(source, tmp_path / "b.h5")
    assert (tmp_path / "b.h5.journal").read_text() == "my own diary"


def test_two_processes_do_not_write_to_one_journal(tmp_path):
    first = Journal(tmp_path / "x.journal", {"a": 1})
    with pytest.raises(DataError, match="Another process is writing"):
        Journal(tmp_path / "x.journal", {"a": 1})
    first.close()
    Journal(tmp_path / "x.journal", {"a": 1}).close()


def test_a_journal_by_itself(tmp_path):
    """As labels use it: committed one by one, read back while it grows."""
    made = [Structure(np.array([1]), np.full((1, 3), float(k)), energy=float(k)) for k in range(3)]
    journal = Journal(tmp_path / "x.journal", {"engine": "none"})
    for k, structure in enumerate(made):
        journal.append(structure)
        journal.commit({"done": k})
    assert [s.energy for s in journal] == [0.0, 1.0, 2.0]
    journal.append(made[0])
    journal._file.flush()
    journal.close()
    again = Journal(tmp_path / "x.journal", {"engine": "none"})
    assert (len(again), again.state) == (3, {"done": 2})
    again.remove()
    assert not (tmp_path / "x.journal").exists()


def test_kill_minus_nine_at_any_moment(tmp_path, spawn):
    """SIGKILL, twice, then the same command to the end: the same bytes as without a kill."""
    source = xyz(tmp_path / "a.xyz", 500)
    whole = pack(source, tmp_path / "whole.h5", batch=20)
    command = [sys.executable, "-c", "import sys; from epot.data.packing import pack; pack(*sys.argv[1:], batch=20)",
               str(source), str(tmp_path / "a.h5")]  # fmt: skip
    journal, last, kills = tmp_path / "a.h5.journal", 0, 0
    for _ in range(2):
        process = spawn(command)
        while process.poll() is None and (not journal.exists() or journal.stat().st_size < last + 25_000):
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        last = journal.stat().st_size if journal.exists() else last
    assert kills >= 1
    assert not (tmp_path / "a.h5").exists() or Packed(tmp_path / "a.h5").verify() is None
    subprocess.run(command, check=True)
    made = read(tmp_path / "a.h5")
    assert made.sha256() == whole.sha256()
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["a.h5", "a.xyz", "whole.h5"]


def test_a_full_disk_is_an_error_and_the_previous_file_stays(tmp_path, monkeypatch):
    source = read(xyz(tmp_path / "a.xyz"))
    path = source.write(tmp_path / "a.h5")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="No space left"):
        source[:5].write(path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "a.xyz"]


def test_damage_is_found(tmp_path):
    path = read(xyz(tmp_path / "a.xyz")).write(tmp_path / "a.h5")
    whole = bytearray(path.read_bytes())
    store = Packed(path)
    store.verify()
    offset = store.header["columns"]["positions"][0] + 11
    whole[offset] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match="`positions` is damaged"):
        Packed(path).verify()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="is truncated or was changed"):
        Packed(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(whole))
    with pytest.raises(DataError, match="not a packed file"):
        Packed(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not a packed file"):
        Packed(path)
