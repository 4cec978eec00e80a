"""The catalog: complete entries, hashes of the reference copies, and downloads that are checked."""

import json

import pytest

from epot.data import catalog
from epot.elements import NUMBERS
from epot.errors import ConfigError, DataError
from epot.files import sha256
from epot.units import ENERGY


@pytest.mark.parametrize("name", catalog.names())
def test_entries_are_complete(name):
    entry = catalog.entry(name)
    assert tuple(sorted(entry)) == tuple(sorted(catalog.FIELDS))
    assert all(symbol in NUMBERS for symbol in entry["elements"].split())
    assert set(entry["labels"]) <= {"energy", "forces", "stress", "charges", "dipole"}
    assert entry["units"]["energy"] in ENERGY
    assert entry["title"]
    assert entry["licence"]
    assert "(" in entry["citation"]
    for item in entry["files"]:
        assert item["url"].startswith("https://")
        assert item["sha256"] is None or len(item["sha256"]) == 64


@pytest.mark.shared
@pytest.mark.parametrize("name", catalog.names())
def test_hashes_of_the_reference_copies(shared_data, name):
    reference = catalog.entry(name)["reference"]
    assert {p.name for p in (shared_data / name).glob("*.xyz.gz")} == set(reference)
    for file, expected in reference.items():
        assert sha256(shared_data / name / file) == expected


def test_unknown_names():
    with pytest.raises(ConfigError, match="did you mean '3bpa'"):
        catalog.entry("3bp")


@pytest.fixture
def local(tmp_path, monkeypatch):
    source = tmp_path / "source.xyz"
    source.write_text("1\nenergy=1\nH 0 0 0\n")
    item = {"url": source.as_uri(), "name": "train.xyz", "sha256": sha256(source)}
    monkeypatch.setattr(catalog, "entry", lambda name: {"files": [item], "repository": "someone/something"})
    return source, item


def test_fetch_checks_the_hash(tmp_path, local):
    source, item = local
    (path,) = catalog.fetch("any", tmp_path / "data")
    assert path.read_bytes() == source.read_bytes()
    source.write_text("2\nsomething else\n")
    assert catalog.fetch("any", tmp_path / "data") == [path]  # there and right: not fetched again
    path.write_text("damaged")
    with pytest.raises(DataError, match="expected .*it was not kept"):
        catalog.fetch("any", tmp_path / "data")
    assert path.read_text() == "damaged"
    assert not [p for p in path.parent.iterdir() if p.name.endswith(".part")]


def test_fetch_remembers_a_hash_that_the_catalog_does_not_know(tmp_path, local):
    source, item = local
    item["sha256"] = None
    (path,) = catalog.fetch("any", tmp_path / "data")
    assert json.loads((path.parent / "sha256.json").read_text()) == {"train.xyz": sha256(source)}
    path.unlink()
    source.write_text("2\nsomething else\n")
    with pytest.raises(DataError, match="was not kept"):
        catalog.fetch("any", tmp_path / "data")


def test_fetch_without_files_or_network(tmp_path, local):
    _, item = local
    item["url"] = (tmp_path / "missing").as_uri()
    with pytest.raises(DataError, match="cannot be fetched"):
        catalog.fetch("any", tmp_path / "data")
    item["url"] = "http://example.org/x"
    with pytest.raises(DataError, match="only https"):
        catalog.fetch("any", tmp_path / "data")


def test_sets_without_a_readable_source_say_where_they_are(tmp_path):
    with pytest.raises(DataError, match="github.com/materialsvirtuallab/mlearn"):
        catalog.fetch("mlearn", tmp_path)
