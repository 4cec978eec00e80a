import ase.build
import ase.io
import numpy as np
import pytest
import torch
from lennard_jones import LennardJones, QuickLennardJones

from epot.data.readers import read
from epot.errors import SimulationError
from epot.potential import Output, Potential
from epot.simulate.calculator import Calculator
from epot.simulate.guard import Guard
from epot.simulate.md import run_md
from epot.uncertainty.domain import Domain

OPTIONS = {"ensemble": "nve", "temperature": 120.0, "timestep": 4.0, "steps": 60, "log_every": 5}


def argon():
    return ase.build.bulk("Ar", cubic=True, a=5.3) * (2, 2, 2)


def domain(closest=3.2, **changes):
    made = {"elements": ["Ar"], "cutoff": 7.0, "closest": {"Ar-Ar": closest}, "neighbors": {"Ar": [20, 80]}}
    return {"domain": made | changes}


def test_inside_nothing_is_found(tmp_path):
    run = run_md(argon(), LennardJones(), about=domain(), guard="stop", folder=tmp_path, **OPTIONS)
    assert run.summary["guard"] == {"policy": "stop", "outside": 0, "broken": 0, "knows_domain": True}
    assert not (tmp_path / "outside.xyz").exists()


def test_warn_counts_saves_and_goes_on(tmp_path):
    run = run_md(argon(), LennardJones(), about=domain(3.6), guard="warn", folder=tmp_path, **OPTIONS)
    count = run.summary["guard"]["outside"]
    assert 0 < count < 7
    assert run.thermo["outside"][-1] == count
    assert run.summary["steps"] == 60
    assert any("Ar-Ar" in reason for reason in run.summary["reasons"])
    saved = read(tmp_path / "outside.xyz")
    assert len(saved) == count
    assert not saved[0].has("energy")  # what is there to be labelled must not carry the potential's own energy
    assert not saved[0].has("forces")
    frames = ase.io.read(tmp_path / "outside.xyz", ":")
    assert "closest in the training set" in frames[0].info["reason"]
    assert frames[0].info["step"] % 10 == 0
    assert frames[0].get_all_distances(mic=True)[np.triu_indices(32, 1)].min() < 3.6 - 0.05


def test_stop_ends_saves_the_frame_and_says_why(tmp_path):
    with pytest.raises(SimulationError, match=r"left the domain.*step \d+: Ar-Ar.*\n.*outside\.xyz"):
        run_md(argon(), LennardJones(), about=domain(3.6), guard="stop", folder=tmp_path, **OPTIONS)
    assert len(read(tmp_path / "outside.xyz")) == 1
    assert not (tmp_path / "summary.json").exists()
    with pytest.raises(SimulationError, match="left the domain"):  # the same again, from the checkpoint
        run_md(argon(), LennardJones(), about=domain(3.6), guard="stop", folder=tmp_path, **OPTIONS)
    assert len(read(tmp_path / "outside.xyz")) == 1


def test_stop_before_the_first_step(tmp_path):
    with pytest.raises(SimulationError, match="step 0"):
        run_md(argon(), LennardJones(), about=domain(4.5), guard="stop", folder=tmp_path, **OPTIONS)


def test_without_a_domain_nothing_is_said_to_be_inside():
    """An imported potential, say: what is broken is still found."""
    run = run_md(argon(), LennardJones(), about={}, guard="warn", **OPTIONS)
    assert run.summary["guard"] == {"policy": "warn", "outside": 0, "broken": 0, "knows_domain": False}
    near = argon()
    near.positions[1] = near.positions[0] + [0.3, 0.0, 0.0]
    with pytest.raises(SimulationError, match="broke"):
        run_md(near, LennardJones(), about={}, guard="warn", **OPTIONS)


def test_off_looks_at_nothing():
    run = run_md(argon(), LennardJones(), about=domain(4.5), guard="off", **OPTIONS)
    assert run.summary["guard"] == {"policy": "off", "outside": 0, "broken": 0, "knows_domain": True}


def test_uncertain_forces_are_outside():
    """The members disagree by 1 % of each force; alpha makes that as large as we like."""
    calibration = {"kind": "ensemble", "energy": 1.0, "forces": 100.0, "stress": 1.0}
    about = domain(3.0, forces_std=1e-3) | {"calibration": calibration}
    run = run_md(argon(), LennardJones(members=4), about=about, **OPTIONS)
    assert run.summary["guard"]["outside"] > 0
    assert any("forces_std" in reason for reason in run.summary["reasons"])
    quiet = run_md(argon(), LennardJones(members=4), about=domain(3.0) | {"calibration": calibration}, **OPTIONS)
    assert quiet.summary["guard"]["outside"] == 0
    assert np.array_equal(quiet.atoms.positions, run.atoms.positions)  # looking changes nothing


def test_guard_does_not_change_what_goes_on_after_a_stop(tmp_path):
    whole = run_md(argon(), LennardJones(), about=domain(3.6), folder=tmp_path / "a", **OPTIONS)
    for steps in (25, 60):
        parts = run_md(
            argon(), LennardJones(), about=domain(3.6), folder=tmp_path / "b", **(OPTIONS | {"steps": steps})
        )
    assert whole.summary["guard"] == parts.summary["guard"]
    assert whole.summary["reasons"] == parts.summary["reasons"]
    assert (tmp_path / "a" / "outside.xyz").read_bytes() == (tmp_path / "b" / "outside.xyz").read_bytes()


def test_saved_frames_are_limited(tmp_path):
    guard = Guard(every=1, keep=3)
    run = run_md(argon(), LennardJones(), about=domain(4.5), guard=guard, folder=tmp_path, **OPTIONS)
    assert run.summary["guard"]["outside"] == 61
    assert len(read(tmp_path / "outside.xyz")) == 3
    assert guard.counts == {}  # the run has its own


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ({"max_force": 1e-3}, "force of"),
        ({"max_temperature": 5.0}, "temperature of"),
        ({"max_drift": 1e-9}, "drifted"),
        ({"closest": 3.7}, "collide"),
    ],
)
def test_broken_runs_end_whatever_the_policy(guard, message, tmp_path):
    with pytest.raises(SimulationError, match=f"broke at step.*{message}"):
        run_md(argon(), LennardJones(), guard=guard, folder=tmp_path, **(OPTIONS | {"timestep": 10.0}))
    assert len(read(tmp_path / "outside.xyz")) == 1


class Attraction(Potential):
    """Falls to a hole: atoms meet."""

    cutoff = 5.0

    def forward(self, graph):
        r = graph.vectors().square().sum(1).sqrt()
        return Output(graph.positions.new_zeros(graph.n_atoms).index_add(0, graph.pairs[0], -5 * (1 - r / 5) ** 2))


def test_atoms_that_fall_onto_each_other_end_the_run(tmp_path):
    pair = ase.Atoms("Ar2", [[0, 0, 0], [2.0, 0, 0]])
    with pytest.raises(SimulationError, match="collide"):
        run_md(
            pair, Attraction(), ensemble="nve", temperature=1.0, timestep=1.0, steps=3000, guard={"every": 1},
            folder=tmp_path,
        )  # fmt: skip
    assert len(read(tmp_path / "outside.xyz")) == 1


class Poison(LennardJones):
    """Not a number after a while."""

    def forward(self, graph):
        out = super().forward(graph)
        return out._replace(energy=out.energy * torch.tensor(float("nan"))) if self.calls > 20 else out


@pytest.mark.parametrize("guard", ["warn", "off"])
def test_energy_that_is_not_finite_ends_the_run_and_its_frame_is_saved(guard, tmp_path):
    with pytest.raises(SimulationError, match=r"In step 20: .*not a finite number.*\n.*outside\.xyz"):
        run_md(argon(), Poison(), guard=guard, folder=tmp_path, **OPTIONS)
    assert "not a finite number" in ase.io.read(tmp_path / "outside.xyz").info["reason"]


def test_any_calculator_of_ase_is_guarded_where_it_can_be():
    with pytest.raises(SimulationError, match="force of"):
        run_md(argon(), QuickLennardJones(), guard={"max_force": 1e-4}, about=domain(), **OPTIONS)


def test_domain_of_the_calculator_is_taken():
    calc = Calculator(LennardJones(), domain(4.5))
    run = run_md(argon(), calc, **OPTIONS)
    assert run.summary["guard"]["outside"] == 7
    assert Domain.from_json(calc.about["domain"]).closest == {(18, 18): 4.5}
