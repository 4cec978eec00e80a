"""The doctor's verdict on potentials: healthy ones, broken ones, and what goes into the model file."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from epot import modelfile, registry
from epot.evaluate.doctor_model import examine
from epot.potential import Sum
from epot.terms.offsets import Offsets

sys.path.insert(0, str(Path(__file__).parents[1] / "testing"))
import broken_potentials as zoo  # noqa: E402


@pytest.fixture
def named(monkeypatch):
    class Entry:
        def __init__(self, kind):
            self.name, self.kind = kind.__name__.lower(), kind

        def load(self):
            return self.kind

    kinds = {zoo.LennardJones, *(k for kinds in zoo.CONTROLS.values() for k in kinds)}
    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry(k) for k in kinds])


def titles(report, severity):
    return " | ".join(f.title for f in report.of(severity))


def test_a_healthy_potential(named):
    report = examine(zoo.LennardJones())
    assert report.verdict == "healthy"
    json.dumps(report.to_json(), allow_nan=False)
    curve = report.figures["dimers"]["H-H"]
    assert curve["at_0.2_A"] > 1e6  # 1.2 eV * 7^12
    assert curve["lowest"] == pytest.approx(-0.3, rel=1e-2)  # epsilon, at 2^(1/6) sigma
    assert curve["lowest_at_A"] == pytest.approx(1.4 * 2 ** (1 / 6), rel=0.03)
    assert len(report.figures["checks"]) == 27


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (zoo.FlippedForces, "forces"),
        (zoo.StressWithoutCells, "stress"),
        (zoo.HardCutoff, "cutoff"),
        (zoo.LooksAlongZ, "rotation"),
    ],
)
def test_broken_potentials(kind, check, named):
    report = examine(kind())
    assert report.verdict == "errors"
    json.dumps(report.to_json(), allow_nan=False)
    assert f"{check}: " in titles(report, "error")


def test_holes_at_short_distance(named):
    class Collapses(zoo.LennardJones):
        """Attractive all the way in, as a fit without close pairs may be."""

        def pairs(self, graph, vectors):
            r = vectors.norm(dim=1)
            return -0.1 * self.strength * (1 - (r / self.cutoff) ** 2).clamp(min=0) ** 3

    report = examine(Collapses())
    assert "attract each other at short distance" in titles(report, "warning")
    assert "attract" not in titles(examine(zoo.LennardJones()), "warning")


def test_in_its_domain(named, silicon, ethanol):
    report = examine(zoo.LennardJones(sigma=1.0), [silicon, ethanol])
    assert report.verdict == "healthy"
    assert report.figures["nve"]["system"].endswith(("Si8", "C2H6O"))
    assert abs(report.figures["nve"]["drift_eV_per_atom_ps"]) < 0.02


def test_command_and_model_file(named, tmp_path):
    from epot.cli.doctor import app

    potential = Sum(offset=Offsets((1, 8), values=(-13.6, -2041.0)), body=zoo.LennardJones())
    path = modelfile.save(tmp_path / "m.epot", potential, {"elements": [1, 8]})
    shown = CliRunner().invoke(app, ["model", str(path), "--write", "--json"])
    assert shown.exit_code == 0, shown.output
    about = modelfile.load(path)[1]
    assert about["elements"] == [1, 8]
    assert about["doctor"] == json.loads(shown.output)
    broken = modelfile.save(tmp_path / "b.epot", zoo.FlippedForces())
    assert CliRunner().invoke(app, ["model", str(broken)]).exit_code == 1


def test_the_potential_is_not_changed(named):
    potential = zoo.LennardJones().train()
    before = float(potential.strength.detach())
    examine(potential)
    assert potential.training
    assert float(potential.strength.detach()) == before
    np.testing.assert_equal(potential.strength.dtype.itemsize, 4)
