"""``epot data``: thin over the Python calls, JSON for machines."""

import json

import pytest
from typer.testing import CliRunner

from epot.cli.data import app
from epot.data.readers import read
from epot.errors import ConfigError

XYZ = "".join(
    f"2\nREF_energy={-k} config_type={'ab'[k % 2]} group=g{k // 2}\nH 0 0 0\nO 0 0 {1 + k / 50}\n" for k in range(20)
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all.xyz").write_text(XYZ)
    return tmp_path


def run(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_info(folder):
    text = run("info", "all.xyz")
    assert "structures       20 with 40 atoms" in text
    assert "from `REF_energy` in eV" in text
    found = json.loads(run("info", "all.xyz", "--json"))
    assert found["statistics"]["labels"] == {"energy": 20}
    assert found["sha256"] == read("all.xyz").sha256()
    scaled = json.loads(run("info", "all.xyz", "--unit", "energy=Hartree", "--index", "1:2", "--json"))
    assert scaled["statistics"]["energy_per_atom"]["mean"] == pytest.approx(-27.211386 / 2)
    assert json.loads(run("info", "all.xyz", "--key", "energy=", "--json"))["statistics"]["labels"] == {}


def test_pack_and_convert(folder):
    found = json.loads(run("pack", "all.xyz", "all.h5", "--batch", "3", "--json"))
    assert found["structures"] == 20
    assert run("info", "all.h5", "--verify").startswith("structures       20")
    run("convert", "all.h5", "back.xyz.gz")
    assert read("back.xyz.gz").sha256() == read("all.xyz").sha256()
    with pytest.raises(ConfigError, match="Name what to read"):
        run("pack", "all.xyz")


def test_split(folder):
    run("split", "all.xyz", "--fractions", "0.6,0.2,0.2", "--by", "group", "--seed", "3", "--out", "parts/{part}.xyz")
    parts = [read(folder / "parts" / f"{name}.xyz") for name in ("train", "valid", "test")]
    assert [len(p) for p in parts] == [12, 4, 4]
    groups = [set(p.column("group")) for p in parts]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    records = json.loads((folder / "parts" / "split.json").read_text())
    assert [r["structures"] for r in records] == [12, 4, 4]
    assert records[0]["sha256"] == parts[0].sha256()
    for wrong in (["--fractions", "a,b"], ["--out", "x.xyz"]):
        with pytest.raises(ConfigError):
            run("split", "all.xyz", *wrong)


def test_catalog():
    assert "3bpa" in run("catalog")
    assert json.loads(run("catalog", "3bpa"))["licence"] == "MIT"
    assert "rmd17" in json.loads(run("catalog", "--json"))
