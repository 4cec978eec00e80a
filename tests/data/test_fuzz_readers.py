"""Whatever happens to a file, a reader raises an EpotError or reads it: nothing else, and nothing is executed."""

import gzip
import io
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from epot.data.packed import USERBLOCK, Packed, _read_head
from epot.data.packing import Journal
from epot.data.readers import read
from epot.errors import EpotError

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
XYZ = b"""3
Lattice="4 0 0 0 5 0 0 0 6" Properties=species:S:1:pos:R:3:forces:R:3:tags:I:1 energy=-1.5 virial="1 2 3 2 5 6 3 6 9" \
config_type=slab flags="T F" x="_JSON [1, null]" pbc="T T F" charge=1
Si 0.0 0.0 0.0 1.0 0.0 -1e-3 1
O 1.5 0.0 0.25 -1.0 0.0 0.001 2
O 1.5 2.0 0.25 -1.0 nan 0.001 -2
1
Properties=species:S:1:pos:R:3 energy=2.5 REF_energy=2.5
H 0.0 0.0 1.0
"""

ways = st.sampled_from(["flip", "cut", "insert", "delete", "repeat"])
edits = st.lists(st.tuples(ways, st.floats(0, 1), st.binary(min_size=1, max_size=6)), min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="epot.data")


def damaged(payload, changes):
    data = bytearray(payload)
    for kind, where, piece in changes:
        k = int(where * max(len(data) - 1, 0))
        if kind == "flip":
            data[k : k + 1] = bytes([(data[k] if data else 0) ^ (piece[0] or 1)])
        elif kind == "cut":
            del data[k:]
        elif kind == "insert":
            data[k:k] = piece
        elif kind == "delete":
            del data[k : k + len(piece)]
        else:
            data[k:k] = data[k : k + 40 * len(piece)]
    return bytes(data)


def survives(path, **options):
    try:
        for structure in read(path, **options):
            assert structure.positions.shape == (len(structure), 3)
            assert np.isfinite(structure.positions).all()
    except EpotError:
        pass


@QUICK
@given(edits)
def test_xyz(tmp_path, changes):
    path = tmp_path / "x.xyz"
    path.write_bytes(damaged(XYZ, changes))
    survives(path)


@QUICK
@given(st.text(max_size=120))
def test_any_comment_line(tmp_path, text):
    path = tmp_path / "x.xyz"
    path.write_text(f"1\n{text}\nH 0 0 0\n", encoding="utf-8", errors="surrogatepass")
    survives(path)


@QUICK
@given(edits)
def test_compressed_xyz(tmp_path, changes):
    path = tmp_path / "x.xyz.gz"
    path.write_bytes(damaged(gzip.compress(XYZ * 3, mtime=0), changes))
    survives(path)


def archive():
    out = io.BytesIO()
    rng = np.random.default_rng(0)
    np.savez(out, z=np.array([6, 1]), R=rng.normal(size=(3, 2, 3)), E=rng.normal(size=3), F=rng.normal(size=(3, 2, 3)))
    return out.getvalue()


@QUICK
@given(edits)
def test_npz(tmp_path, changes):
    path = tmp_path / "x.npz"
    path.write_bytes(damaged(archive(), changes))
    survives(path, units={"energy": "eV", "length": "Å"})


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    (folder / "x.xyz").write_bytes(XYZ)
    return read(folder / "x.xyz").write(folder / "x.h5").read_bytes()


def survives_packed(path):
    """Without :func:`read`: the tests' type checker would look into the dataset that it returns, at a random place."""
    try:
        for structure in Packed(path):
            assert np.isfinite(structure.positions).all()
    except EpotError:
        pass


@QUICK
@given(edits)
def test_packed(tmp_path, packed, changes):
    path = tmp_path / "x.h5"
    path.write_bytes(damaged(packed, changes))
    survives_packed(path)


@QUICK
@given(st.integers(0, USERBLOCK + 4000), st.integers(1, 255))
def test_packed_with_one_byte_changed(tmp_path, packed, place, change):
    """The length stays right, so that what is behind the index is reached too."""
    data = bytearray(packed)
    data[place % len(data)] ^= change
    (tmp_path / "x.h5").write_bytes(data)
    survives_packed(tmp_path / "x.h5")


@QUICK
@given(st.data())
def test_packed_with_damaged_columns(tmp_path, packed, data):
    """Every column in turn, where the bytes that hold the pointers, the names and the extras are."""
    path = tmp_path / "x.h5"
    columns = _read_head(packed[:USERBLOCK], len(packed), path)["columns"]
    name = data.draw(st.sampled_from(sorted(columns)))
    offset, kind, shape, _ = columns[name]
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    changed = bytearray(packed)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[offset + data.draw(st.integers(0, size - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    survives_packed(path)


@settings(QUICK, max_examples=30)
@given(edits)
def test_journal(tmp_path, changes):
    path = tmp_path / "x.journal"
    path.unlink(missing_ok=True)
    (tmp_path / "x.xyz").write_bytes(XYZ)
    journal = Journal(path, {"a": 1})
    for structure in read(tmp_path / "x.xyz"):
        journal.append(structure)
        journal.commit({"n": journal.count})
    journal.close()
    path.write_bytes(damaged(path.read_bytes(), changes))
    try:
        again = Journal(path, {"a": 1})
    except EpotError:
        return
    assert len(list(again)) == again.count == again.state.get("n", 0)
    again.close()


@settings(QUICK, max_examples=50)
@given(edits)
@example([("flip", 0.041423677714828695, b"\x80")])  # a name in the schema that is no UTF-8
def test_database(tmp_path, changes):
    from ase.build import molecule
    from ase.db import connect

    path, whole = tmp_path / "x.db", tmp_path / "whole.db"
    if not whole.exists():
        with connect(whole, use_lock_file=False) as db:
            db.write(molecule("H2O"), REF_energy=-1.0, data={"a": np.arange(3)})
    path.write_bytes(damaged(whole.read_bytes(), changes))
    survives(path)
