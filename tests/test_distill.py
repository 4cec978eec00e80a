"""A student learns what its teacher says; what the teacher knew of its limits, the student is told."""

import json
from importlib import import_module

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import epot
from epot.cli.main import _register, app
from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.distill import MADE, distill
from epot.errors import ConfigError, DataError, SimulationError, UnknownElementError
from epot.fitted import Fitted
from epot.geometry.graph import build
from epot.models.morse import Morse
from epot.potential import Committee, Sum
from epot.predict import predict
from epot.terms.offsets import Offsets
from epot.uncertainty.domain import Domain
from epot.units import KB
from linear_toy import dataset, radial

pytestmark = pytest.mark.filterwarnings("ignore::epot.uncertainty.domain.DomainWarning")  # few structures are known
module = import_module("epot.distill")
START = {"depth": 0.2, "steepness": 1.0, "length": 2.3, "cutoff": 5.0}
STUDENT = {"name": "morse", "elements": ["Cu"], **START}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Trajectories that reach their first frame soon."""
    monkeypatch.setattr(module, "WARM_UP", 40)


def copper(n: int = 6, moved: float = 0.05, seed: int = 0) -> Structure:
    """A cluster near its minimum."""
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n]
    positions = 2.5 * grid + np.random.default_rng(seed).normal(0, moved, (n, 3))
    return Structure(np.full(n, 29), positions)


def pair(depth: float = 0.35, length: float = 2.5, offset: float = -1.0) -> Sum:
    body = Morse(["Cu"], cutoff=5.0, depth=depth, steepness=1.4, length=length)
    return Sum(offset=Offsets((29,), (offset,)), body=body)


def taught(teacher, data, **options) -> Fitted:
    given = {"model": STUDENT, "n": 40, "every": 5, "temperatures": (300.0,), "seed": 3}
    return distill(teacher, data, **(given | options))


def energies(potential, structures) -> np.ndarray:
    made = [predict(potential, build(s, potential.cutoff), ("energy",)).energy for s in structures]
    return torch.cat(made).detach().numpy()


def test_the_student_finds_the_numbers_of_its_teacher():
    teacher = Fitted(pair())
    student = taught(teacher, [copper(seed=k) for k in range(3)])
    found = student.potential.terms["body"]
    assert found.depths().item() == pytest.approx(0.35, rel=1e-4)
    assert found.slopes().item() == pytest.approx(1.4, rel=1e-4)
    assert found.lengths().item() == pytest.approx(2.5, rel=1e-4)
    away = [copper(5, 0.15, seed=9), copper(7, 0.15, seed=10)]
    np.testing.assert_allclose(energies(student.potential, away), energies(teacher.potential, away), atol=1e-4)
    assert Morse(["Cu"], **START).depths().item() == pytest.approx(0.2)  # where it came from


def test_structures_come_from_the_temperature_that_was_asked_for(tmp_path):
    dimer, teacher = copper(2, moved=0.0), Fitted(pair())
    lowest, excess = float(energies(teacher.potential, [dimer])[0]), []
    for kelvin in (60.0, 480.0):
        made = taught(teacher, [dimer], temperatures=(kelvin,), n=100, every=5, folder=tmp_path / f"{kelvin:g}")
        frames = epot.read(tmp_path / f"{kelvin:g}" / MADE)
        assert len(frames) == 100
        assert {s.config_type for s in frames} == {f"distilled_{kelvin:g}K"}
        assert len({s.group for s in frames}) == 1
        assert made.about["distilled"]["temperatures"] == [kelvin]
        excess.append(np.mean([s.energy for s in frames]) - lowest)
        assert excess[-1] == pytest.approx(KB * kelvin / 2, rel=0.6)  # one vibration, harmonic: kT/2
    assert 4 < excess[1] / excess[0] < 16  # 8


def test_labels_of_the_data_are_learned_beside_those_of_the_teacher():
    truth, teacher = pair(depth=0.32), Fitted(pair(depth=0.30))
    bare = [copper(seed=k) for k in range(60)]
    data = [s.replace(energy=e.energy, forces=e.forces) for s, e in zip(bare, Fitted(truth).predict(bare), strict=True)]
    alone, mixed = taught(teacher, bare, n=20), taught(teacher, data, n=20)
    assert alone.potential.terms["body"].depths().item() == pytest.approx(0.30, rel=1e-3)
    assert 0.303 < mixed.potential.terms["body"].depths().item() < 0.32
    assert mixed.about["distilled"]["labeled"] == 60
    assert alone.about["distilled"]["labeled"] == 0
    assert mixed.about["fit"]["errors"]["valid"]["n"] == 6  # a tenth of those with labels; none of the teacher's


def test_a_committee_takes_turns_and_speaks_with_one_voice(monkeypatch):
    members = [pair(depth=0.3), pair(depth=0.4)]
    ran = []
    real = module.Calculator
    monkeypatch.setattr(
        module, "Calculator", lambda potential, **more: ran.append(potential) or real(potential, **more)
    )
    student = taught(Fitted(Committee(members)), [copper(seed=k) for k in range(4)], n=160)
    assert [any(r is m for r in ran) for m in members] == [True, True]
    assert len(ran) == 4
    assert student.potential.terms["body"].depths().item() == pytest.approx(0.35, rel=1e-3)


def test_the_student_is_told_where_its_teacher_was_guessing():
    start = copper(3, moved=0.0)
    known = Domain.from_dataset([start.replace(positions=1.05 * start.positions)], 5.0)
    student = lambda about: taught(Fitted(pair(), about), [start], temperatures=(700.0,))  # noqa: E731
    told, untold = student({"domain": known.to_json()}), student({})
    assert 0 < told.about["distilled"]["outside"] < 40
    assert untold.about["distilled"]["outside"] == 0
    limits = [m.domain.closest[29, 29] for m in (told, untold)]
    assert limits[0] > limits[1] + 0.02  # of those inside the teacher's domain only
    assert told.domain.n_structures == 40 - told.about["distilled"]["outside"]
    stranger = Domain.from_dataset([start.replace(positions=1.4 * start.positions)], 5.0)
    lost = student({"domain": stranger.to_json()})
    assert lost.about["distilled"]["outside"] == 40
    assert lost.domain.closest[29, 29] == pytest.approx(2.5)


def test_an_interrupted_one_goes_on_and_other_settings_are_refused(tmp_path, monkeypatch):
    data, teacher = [copper(seed=k) for k in range(2)], Fitted(pair())
    whole = taught(teacher, data, folder=tmp_path / "whole")

    def killed(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_fit", killed)
    with pytest.raises(KeyboardInterrupt):
        taught(teacher, data, folder=tmp_path / "run")
    assert not (tmp_path / "run" / "model.epot").exists()
    monkeypatch.undo()
    monkeypatch.setattr(module, "langevin", killed)  # nothing is made twice
    again = taught(teacher, data, folder=tmp_path / "run")
    for one, two in zip(whole.potential.parameters(), again.potential.parameters(), strict=True):
        assert torch.equal(one, two)
    assert (tmp_path / "run" / MADE).read_bytes() == (tmp_path / "whole" / MADE).read_bytes()
    read = epot.load(tmp_path / "run" / "model.epot")
    assert read.about["distilled"] == json.loads(json.dumps(again.about["distilled"]))
    assert read.domain == again.domain
    for change in ({"n": 41}, {"temperatures": (310.0,)}, {"seed": 4}):
        with pytest.raises(ConfigError, match="other settings"):
            taught(teacher, data, folder=tmp_path / "run", **change)
    with pytest.raises(ConfigError, match=r"distill\.teacher"):
        taught(Fitted(pair(depth=0.36)), data, folder=tmp_path / "run")


def test_a_trajectory_that_flies_apart_costs_itself_only(monkeypatch):
    real, count = module.langevin, []

    def fragile(*given):
        count.append(1)
        for k, positions in enumerate(real(*given)):
            if len(count) == 1 and k == 52:
                raise SimulationError("two atoms met")
            yield positions

    monkeypatch.setattr(module, "langevin", fragile)
    student = taught(Fitted(pair()), [copper(seed=k) for k in range(2)], n=80)  # two trajectories of 40 frames
    assert student.about["distilled"]["made"] == 2 + 40


def test_where_no_frame_is_reached_it_says_so(monkeypatch):
    def broken(*given):
        raise SimulationError("two atoms met")
        yield

    monkeypatch.setattr(module, "langevin", broken)
    with pytest.raises(DataError, match=r"two atoms met.*lower temperature"):
        taught(Fitted(pair()), [copper()])
    collapsed = np.zeros((6, 3))
    monkeypatch.setattr(module, "langevin", lambda *given: iter([collapsed] * 1000))
    with pytest.raises(DataError, match="atoms came too close"):
        taught(Fitted(pair()), [copper()])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"temperatures": ()}, ConfigError, "expected kelvin"),
        ({"temperatures": (300.0, -1.0)}, ConfigError, r"\[300.0, -1.0\]"),
        ({"temperatures": (float("nan"),)}, ConfigError, "expected kelvin"),
        ({"n": 0}, ConfigError, "n is 0"),
        ({"every": 0}, ConfigError, "every is 0"),
        ({"timestep": 0.0}, ConfigError, "femtoseconds"),
        ({"model": {"name": "morze"}}, ConfigError, "morse"),
        ({"options": {"descend": {"epoch": 3}}}, ConfigError, "epochs"),
    ],
)
def test_impossible_values_are_refused_before_the_teacher_works(change, error, words, monkeypatch):
    monkeypatch.setattr(module, "_make", lambda *given: pytest.fail("it began"))
    with pytest.raises(error, match=words):
        taught(Fitted(pair()), [copper()], **change)


def test_labels_of_another_level_of_theory_are_refused_or_left_out(monkeypatch):
    bare = [copper(seed=k) for k in range(20)]
    other = Fitted(pair(offset=-1.2)).predict(bare)
    data = [s.replace(energy=e.energy, forces=e.forces) for s, e in zip(bare, other, strict=True)]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_make", lambda *given: pytest.fail("it began"))
        with pytest.raises(ConfigError, match=r"\+0\.2 eV per atom.*20 structures.*--no-labels"):
            taught(Fitted(pair()), data)
    student = taught(Fitted(pair()), data, labels=False)
    assert student.about["distilled"]["labeled"] == 0
    assert energies(student.potential, bare[:3]) == pytest.approx(energies(pair(), bare[:3]), abs=1e-3)


def test_structures_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="no structure to start from"):
        taught(Fitted(pair()), [Structure(np.array([29]), np.zeros((1, 3)), energy=-1.0)])
    with pytest.raises(UnknownElementError, match="Au; the teacher knows Cu"):
        taught(Fitted(pair()), [copper().replace(numbers=np.full(6, 79))])


def test_crystals_keep_their_stress(tmp_path):
    data = [s for s in dataset(radial(1), 6) if s.pbc.all()]
    teacher = Fitted(radial(1))
    made = module._make(teacher, Dataset(data), [50.0], 4, 0.2, 1, 0, None, {})
    assert all(s.stress is not None for s in made)
    graph = build(made[0], 4.0)
    found = predict(teacher.potential, graph, ("virial",)).virial[0].numpy()
    np.testing.assert_allclose(made[0].stress, -found / made[0].volume, atol=1e-9)


def test_command(tmp_path):
    _register()
    Fitted(pair()).save(tmp_path / "teacher.epot")
    Dataset([copper(seed=k) for k in range(2)]).write(tmp_path / "start.xyz")
    call = ["distill", str(tmp_path / "teacher.epot"), str(tmp_path / "start.xyz"), "--model", "morse", "--n", "40",
            "--every", "5", "--temperature", "200", "--temperature", "300", "--out", str(tmp_path / "run")]  # fmt: skip
    told = CliRunner().invoke(app, call)
    assert told.exit_code == 0, told.output
    assert "40 structures of the teacher" in told.output
    assert "epot eval" in told.output
    again = CliRunner().invoke(app, [*call, "--json"])
    facts = json.loads(again.stdout.splitlines()[-1])
    assert facts["made"] == 40
    assert facts["model"] == str(tmp_path / "run" / "model.epot")
    cited = CliRunner().invoke(app, ["cite", facts["model"]]).output
    assert "Matin2025" in cited
    assert cited.count("Morse1929") == 1
