import json

import ase.build
import ase.io
import pytest
from typer.testing import CliRunner

from epot import modelfile
from epot.cli import _quantities, md, relax
from epot.errors import ConfigError, SimulationError
from epot.models.painn import PaiNN
from epot.potential import Sum
from epot.terms.offsets import Offsets
from epot.units import GPA


@pytest.fixture
def model(tmp_path):
    torch = pytest.importorskip("torch")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = PaiNN.tiny().double()
    body.readout.scale.fill_(0.01)  # untrained: soft forces
    offsets = Offsets(body.elements, values=[-1.0] * len(body.elements))
    return modelfile.save(tmp_path / "model.epot", Sum(offset=offsets, body=body), {"elements": list(body.elements)})


@pytest.fixture
def start(tmp_path):
    ase.io.write(tmp_path / "start.xyz", [ase.build.molecule("CH4"), ase.build.molecule("H2O")])
    return tmp_path / "start.xyz"


def call(command, *words):
    import typer

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(w) for w in words])


def test_md(model, start, tmp_path):
    out = tmp_path / "run"
    words = (model, start, "--out", out, "--time", "10fs", "--temperature", "50", "--option", "friction=0.02")
    first = call(md.md, *words)
    assert first.exit_code == 0, first.output
    for text in ("20 steps", "3 atoms", "target 50 K", "meV per atom and ps", "guard", "ns/day", "Next:"):
        assert text in first.output
    assert "nothing can tell" in first.output  # this model has no record of its data
    assert "0 looks found it broken" in first.output
    assert "outside the training data" not in first.output
    assert {p.name for p in out.iterdir()} == {"thermo.csv", "trajectory.xyz", "checkpoint.npz", "summary.json"}
    again = call(md.md, *words, "--json")
    assert json.loads(again.output)["steps"] == 20
    assert not json.loads(again.output)["guard"]["knows_domain"]
    other = call(md.md, *words, "--seed", "1")
    assert isinstance(other.exception, ConfigError)
    assert "--restart" in str(other.exception)
    assert call(md.md, *words, "--seed", "1", "--restart", "--index", "0").output.count("5 atoms") == 1


def test_relax(model, start, tmp_path):
    out = tmp_path / "relaxed.xyz"
    made = call(relax.relax, model, start, out, "--fmax", "0.005", "--trajectory", tmp_path / "t.xyz", "--json")
    assert made.exit_code == 0, made.output
    assert [r["converged"] for r in json.loads(made.output)] == [True, True]
    assert len(ase.io.read(out, ":")) == 2
    assert (tmp_path / "t-0.xyz").exists()
    assert (tmp_path / "t-1.xyz").exists()
    stuck = call(relax.relax, model, start, out, "--fmax", "1e-12", "--steps", "1", "--index", "0")
    assert isinstance(stuck.exception, SimulationError)
    assert "NOT converged in 1 steps" in stuck.output


@pytest.mark.parametrize(
    ("text", "value"), [("10ps", 1e4), ("500 fs", 500.0), ("1.5ns", 1.5e6), ("2e-1PS", 200.0), ("0", 0.0)]
)
def test_times(text, value):
    assert _quantities.time(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1GPa", GPA), ("1bar", GPA / 1e4), ("-0.5 GPa", -GPA / 2), ("1atm", 1.01325e-4 * GPA), ("0", 0.0)],
)
def test_pressures(text, value):
    assert _quantities.pressure(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["10", "ps", "10 lightyears", "1e", "", "nan ps"])
def test_quantities_without_a_known_unit_are_refused(text):
    with pytest.raises(ConfigError, match="10ps"):
        _quantities.time(text)
