import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from lennard_jones import LennardJones, QuickLennardJones

from epot.data.readers import read
from epot.data.structure import Structure
from epot.errors import ConfigError, SimulationError
from epot.simulate.calculator import Calculator
from epot.simulate.md import run_md
from epot.units import GPA

FILES = ("thermo.csv", "trajectory.xyz")
OPTIONS = {
    "nve": {},
    "nvt-langevin": {"options": {"friction": 0.01}},
    "nvt-bussi": {"options": {"relaxation": 50.0}},
    "npt": {"pressure": 0.1 * GPA},
    "npt-shape": {"pressure": 0.1 * GPA},
}


def argon():
    return ase.build.bulk("Ar", cubic=True, a=5.3) * (2, 2, 2)


def run(folder, ensemble="nvt-langevin", steps=40, potential=None, **options):
    chosen = {
        "temperature": 80.0, "timestep": 3.0, "log_every": 2, "frame_every": 10, "checkpoint_every": 7, "seed": 3,
    }  # fmt: skip
    chosen |= OPTIONS[ensemble] | options
    return run_md(argon(), potential or LennardJones(), ensemble=ensemble, steps=steps, folder=folder, **chosen)


@pytest.mark.parametrize("ensemble", list(OPTIONS))
def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(ensemble, tmp_path):
    """To the last bit: positions, momenta, cell, and every byte of the files."""
    whole = run(tmp_path / "whole", ensemble)
    for steps in (13, 26, 40):  # 13 and 26 are no multiples of anything
        parts = run(tmp_path / "parts", ensemble, steps=steps)
    assert np.array_equal(whole.atoms.positions, parts.atoms.positions)
    assert np.array_equal(whole.atoms.get_momenta(), parts.atoms.get_momenta())
    assert np.array_equal(whole.atoms.cell.array, parts.atoms.cell.array)
    for name in FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    other = run(tmp_path / "other", ensemble, seed=4)
    assert np.abs(other.atoms.positions - whole.atoms.positions).max() > 1e-3  # control


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_md

calls, forward = [], test_md.LennardJones.forward

def killed(self, graph):
    calls.append(1)
    if len(calls) == 32:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, graph)

test_md.LennardJones.forward = killed
test_md.run(sys.argv[2], sys.argv[3])
"""


def test_kill_and_rerun(tmp_path):
    """SIGKILL in the middle of a step, past a checkpoint; the same call then gives the files of an untouched run."""
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path / "killed"), "nvt-bussi"]
    environment = os.environ | {"EPOT_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with np.load(tmp_path / "killed" / "checkpoint.npz") as file:
        assert json.loads(str(file["facts"]))["step"] == 28
    for folder in ("killed", "whole"):
        run(tmp_path / folder, "nvt-bussi")
    for name in FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_what_a_killed_run_wrote_past_its_checkpoint_is_cut(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", steps=21)
    for name in FILES:
        with (tmp_path / "parts" / name).open("a") as out:
            out.write("torn li")
    parts = run(tmp_path / "parts")
    assert np.array_equal(whole.atoms.positions, parts.atoms.positions)
    for name in FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_files_and_summary(tmp_path):
    made = run(tmp_path, "nvt-bussi", uncertainty=False)
    frames = ase.io.read(tmp_path / "trajectory.xyz", ":")
    assert [f.info["step"] for f in frames] == [0, 10, 20, 30, 40]
    assert frames[-1].info["time_fs"] == 120.0
    assert np.abs(frames[-1].positions - made.atoms.positions).max() < 1e-7
    assert np.abs(frames[-1].get_momenta() - made.atoms.get_momenta()).max() < 1e-7
    assert frames[-1].get_potential_energy() == pytest.approx(made.atoms.get_potential_energy(), abs=1e-7)
    assert read(tmp_path / "trajectory.xyz")[2].has("forces")
    thermo = made.thermo
    assert thermo["step"].tolist() == list(range(0, 41, 2))
    assert np.allclose(thermo["total_eV"], thermo["potential_eV"] + thermo["kinetic_eV"])
    stress = made.atoms.get_stress(include_ideal_gas=True)[:3].mean()
    assert thermo["pressure_GPa"][-1] == pytest.approx(-stress / GPA, rel=1e-9)
    assert np.isnan(thermo["energy_std_eV"]).all()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == json.loads(json.dumps(made.summary))
    assert summary["steps"] == 40
    assert summary["time_ps"] == pytest.approx(0.12)
    assert summary["ns_per_day"] == pytest.approx(86400 * 3e-6 / (summary["ms_per_step"] * 1e-3))
    assert abs(summary["drift_eV_per_atom_ps"]) < 1e-4


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = run(None, steps=10)
    assert made.folder is None
    assert len(made.thermo["step"]) == 6
    assert not list(tmp_path.iterdir())


def test_finished_run_is_left_and_can_be_prolonged(tmp_path):
    run(tmp_path, steps=20)
    potential = LennardJones()
    again = run(tmp_path, steps=20, potential=potential)
    assert potential.calls <= 1
    assert again.summary["steps"] == 20
    assert run(tmp_path, steps=30).summary["steps"] == 30


class Shifted(LennardJones):
    """Another class, other tensors."""


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"temperature": 90.0}, "temperature"), ({"seed": 9}, "seed"), ({"potential": Shifted()}, "potential")],
)
def test_a_folder_with_another_run_is_refused(changes, named, tmp_path):
    run(tmp_path, steps=10)
    before = (tmp_path / "thermo.csv").read_bytes()
    with pytest.raises(ConfigError, match=named):
        run(tmp_path, steps=10, **changes)
    assert (tmp_path / "thermo.csv").read_bytes() == before
    assert run(tmp_path, steps=10, resume=False, **changes).summary["steps"] == 10


def test_corrupt_checkpoint_and_shortened_files_are_told(tmp_path):
    run(tmp_path, steps=14)
    good = (tmp_path / "checkpoint.npz").read_bytes()
    for bad in (good[:100], b"", os.urandom(300), good[:-30]):
        (tmp_path / "checkpoint.npz").write_bytes(bad)
        with pytest.raises(SimulationError, match="resume=False"):
            run(tmp_path, steps=20)
    (tmp_path / "checkpoint.npz").write_bytes(good)
    (tmp_path / "thermo.csv").write_text("step\n")
    with pytest.raises(SimulationError, match="changed or replaced"):
        run(tmp_path, steps=20)


def test_full_disk_is_told_and_the_checkpoint_stays(tmp_path, monkeypatch):
    run(tmp_path, steps=14)
    good = (tmp_path / "checkpoint.npz").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SimulationError, match="No space left"):
        run(tmp_path, steps=30)
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.npz").read_bytes() == good
    whole = run(tmp_path / "whole", steps=30)
    assert np.array_equal(run(tmp_path, steps=30).atoms.positions, whole.atoms.positions)


def test_velocities():
    moving = argon()
    moving.set_momenta(np.random.default_rng(0).normal(size=(len(moving), 3)))
    kept = run_md(moving, QuickLennardJones(), ensemble="nve", steps=0)
    assert np.array_equal(kept.atoms.get_momenta(), moving.get_momenta())
    drawn = run_md(moving, QuickLennardJones(), ensemble="nve", steps=0, velocities="draw")
    assert np.abs(drawn.atoms.get_momenta() - moving.get_momenta()).max() > 0.1
    cold = run_md(argon(), QuickLennardJones(), ensemble="nve", steps=2, velocities="keep", temperature=0.0)
    assert cold.thermo["kinetic_eV"][0] == 0
    structure = run_md(Structure.from_ase(moving), QuickLennardJones(), ensemble="nve", steps=0)
    assert np.allclose(structure.atoms.get_momenta(), moving.get_momenta())


def test_time_gives_steps_and_drift_is_the_slope():
    made = run_md(argon(), QuickLennardJones(), ensemble="nve", time=100.0, timestep=4.0, temperature=60.0, log_every=1)
    assert made.summary["steps"] == 25
    t, e = made.thermo["time_fs"] / 1000, made.thermo["conserved_eV"]
    assert made.summary["drift_eV_per_atom_ps"] == pytest.approx(np.polyfit(t, e, 1)[0] / 32, rel=1e-6, abs=1e-12)


def test_newton_conserves_energy():
    """Drift below 1e-5 eV per atom and ps at 80 K; control: a time step of 60 fs loses it."""
    good = run_md(argon(), QuickLennardJones(), ensemble="nve", steps=1500, timestep=4.0, temperature=80.0)
    assert abs(good.summary["drift_eV_per_atom_ps"]) < 1e-7
    with pytest.raises(SimulationError, match="drifted|force|temperature|collide"):
        run_md(argon(), QuickLennardJones(), ensemble="nve", steps=1500, timestep=150.0, temperature=300.0)


def test_uncertainty_is_logged():
    about = {"calibration": {"kind": "ensemble", "energy": 2.0, "forces": 1.0, "stress": 1.0}}
    made = run(None, steps=6, potential=LennardJones(members=4), about=about, uncertainty=True)
    assert (made.thermo["energy_std_eV"] > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": "nvt-bussy"}, "nvt-bussi"),
        ({"temprature": 300.0}, "temperature"),
        ({"options": {"fricton": 0.1}}, "friction"),
        ({"options": {"timestep": 0.1}}, "run_md itself"),
        ({"timestep": -1.0}, "timestep"),
        ({"velocities": "drawn"}, "draw"),
        ({"guard": "halt"}, "Guard.policy"),
        ({"guard": {"max_forces": 1.0}}, "max_force"),
        ({"steps": None}, "one of"),
        ({"steps": -5}, "-5 steps"),
        ({"log_every": 0}, "log_every"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        run_md(argon(), QuickLennardJones(), **({"steps": 5} | options))


def test_overhead_of_a_step_is_small():
    """Integrator, neighbor list, graph, log: below 2 ms beside the potential, on a busy machine."""
    molecule = ase.build.molecule("C60")[:27]
    lj = LennardJones(epsilon=1e-6, sigma=1.0, cutoff=5.0, onset=4.0)
    spent = []
    forward = lj.forward

    def timed(graph):
        start = time.perf_counter()
        out = forward(graph)
        spent.append(time.perf_counter() - start)
        return out

    lj.forward = timed
    made = run_md(molecule, Calculator(lj), ensemble="nve", steps=100, temperature=50.0)
    assert made.summary["ms_per_step"] - 1e3 * np.median(spent) < 20  # instrumented by the import hook
