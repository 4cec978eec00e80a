"""``epot label`` and ``epot sample``, as typed."""

import json

import ase.io
import pytest
import typer
from ase.build import bulk, molecule
from typer.testing import CliRunner

from epot.cli.label import label
from epot.cli.sample import sample
from epot.errors import ConfigError


def run(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def crystal(tmp_path):
    path = tmp_path / "crystal.xyz"
    ase.io.write(path, bulk("Cu", cubic=True))
    return path


def test_sample_then_label(tmp_path, crystal):
    frames, out = tmp_path / "frames.xyz", tmp_path / "out.xyz"
    done = run(sample, crystal, frames, "--how", "strain", "--n", 5, "--seed", 3)
    assert done.exit_code == 0
    assert "5 structures (strain: 5)" in done.output
    emt = ("--engine", "ase.calculators.emt:EMT", "--workers", 0)
    done = run(label, frames, out, *emt, "--option", "asap_cutoff=true", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.output.splitlines()[-1])
    assert (facts["labelled"], facts["failed"]) == (5, [])
    assert facts["engine"]["options"] == {"asap_cutoff": True}
    found = ase.io.read(out, ":")
    assert len(found) == 5
    assert {a.info["config_type"] for a in found} == {"strain"}
    assert all(a.get_forces().shape == (4, 3) for a in found)


def test_md_on_an_engine(tmp_path, crystal):
    out = tmp_path / "md.xyz"
    arguments = ("--how", "md", "--n", 2, "--every", 2, "--temperature", 300, "--temperature", 500, "--json")
    done = run(sample, crystal, out, *arguments, "--engine", "ase.calculators.emt:EMT")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["config_types"] == {"md_300K": 2, "md_500K": 2}


def test_normal_modes_by_gfn2(tmp_path):
    pytest.importorskip("tblite")
    source, out = tmp_path / "in.xyz", tmp_path / "out.xyz"
    ase.io.write(source, molecule("H2O"))
    done = run(sample, source, out, "--how", "normal_modes", "--temperature", 300, "--n", 10, "--engine", "gfn2")
    assert done.exit_code == 0, done.output
    assert len(ase.io.read(out, ":")) == 10


def test_failures_are_listed_and_make_the_exit_code(tmp_path):
    source, out = tmp_path / "in.xyz", tmp_path / "out.xyz"
    ase.io.write(source, [bulk("Cu", cubic=True), bulk("Si", cubic=True)])
    done = run(label, source, out, "--engine", "ase.calculators.emt:EMT", "--workers", 0)
    assert done.exit_code == 1
    assert "1 of 2 labelled" in done.output
    assert "No EMT-potential for Si" in done.output
    assert len(ase.io.read(out, ":")) == 1


def test_what_is_typed_wrongly(tmp_path, crystal):
    for arguments, message in (
        (("--how", "ratle"), "did you mean 'rattle'"),
        (("--how", "md"), "needs an engine"),
    ):
        done = run(sample, crystal, tmp_path / "o.xyz", *arguments)
        assert isinstance(done.exception, ConfigError)
        assert message in str(done.exception)
    done = run(label, crystal, tmp_path / "o.xyz", "--option", "accuracy")
    assert "has no '='" in str(done.exception)
