"""Campaigns: nothing is lost, nothing is done twice, failures do not stop them."""

import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from epot.data.labels import label, write
from epot.data.labels.campaign import Campaign
from epot.data.labels.samplers import rattle
from epot.data.structure import Structure
from epot.errors import ConfigError, DataError, EngineError

EMT_PATH = "ase.calculators.emt:EMT"


@pytest.fixture(autouse=True)
def _own_engines(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("EPOT_PROGRESS", "0")


def copper(n=6, seed=0):
    atoms = bulk("Cu", cubic=True)
    return rattle(Structure.from_ase(atoms), n, seed=seed)


def faulty(kinds):
    """One copper pair each; the first x coordinate tells the engine how to misbehave."""
    return [Structure(np.array([29, 29]), np.array([[k, 0.0, 0.01 * i], [k, 0.0, 2.5]])) for i, k in enumerate(kinds)]


@pytest.mark.parametrize("workers", [0, 2])
def test_labels_are_those_of_the_calculator(workers):
    # Witness: ASE's EMT called directly.
    frames = copper(4)
    data = label(frames, EMT_PATH, workers=workers)
    assert len(data) == 4
    for frame, got in zip(frames, data, strict=True):
        atoms = frame.to_ase()
        atoms.calc = EMT()
        assert got.energy == atoms.get_potential_energy()
        np.testing.assert_array_equal(got.forces, atoms.get_forces())
        np.testing.assert_array_equal(got.stress, atoms.get_stress(voigt=False))
        assert got.config_type == "rattle"
        assert got.info["level_of_theory"].startswith("EMT (ase 3.")
    wrong = frames[0].to_ase()
    wrong.positions[0, 0] += 0.01
    wrong.calc = EMT()
    assert data[0].energy != wrong.get_potential_energy()


def test_the_written_file_is_read_back_by_ase(tmp_path):
    out = tmp_path / "out.xyz.gz"
    data = label(copper(3), EMT_PATH, out=out, workers=0)
    found = ase.io.read(out, ":")
    assert len(found) == 3
    for ours, theirs in zip(data, found, strict=True):
        assert theirs.get_potential_energy() == pytest.approx(ours.energy, abs=1e-9)
        np.testing.assert_allclose(theirs.get_forces(), ours.forces, atol=1e-8)
        np.testing.assert_allclose(theirs.get_stress(voigt=False), ours.stress, atol=1e-9)
        assert "EMT" in theirs.info["level_of_theory"]


def test_a_second_call_computes_nothing(tmp_path):
    log, out, frames = tmp_path / "log", tmp_path / "out.xyz", copper(4)
    options = {"seconds": 0.0, "log": str(log)}
    label(frames[:2], "label_engines:Slow", options=options, out=out, workers=0)
    first = len(log.read_text().splitlines())
    label([*frames, frames[1]], "label_engines:Slow", options=options, out=out, workers=0)  # more structures, one twice
    assert len(log.read_text().splitlines()) == 2 * first
    again = label(frames, "label_engines:Slow", options=options, out=out, workers=0)
    assert len(log.read_text().splitlines()) == 2 * first
    assert len(again) == 4
    moved = [frames[0].replace(positions=frames[0].positions + 1e-9)]
    label(moved, "label_engines:Slow", options=options, out=out, workers=0)
    assert len(log.read_text().splitlines()) > 2 * first  # control: another geometry is another key


def test_other_settings_for_the_same_file_are_refused(tmp_path):
    out = tmp_path / "out.xyz"
    label(copper(1), EMT_PATH, out=out, workers=0)
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=r"other settings \(options: \{\} there, \{'asap_cutoff': True\} now\)"):
        label(copper(1), EMT_PATH, options={"asap_cutoff": True}, out=out, workers=0)
    with pytest.raises(ConfigError, match="properties"):
        label(copper(1), EMT_PATH, properties=("energy",), out=out, workers=0)
    assert out.read_bytes() == before


def test_failures_are_recorded_and_do_not_stop_the_others(tmp_path):
    out = tmp_path / "out.xyz"
    frames = faulty([0, 1, 0, 2, 3, 4, 0])
    data = label(frames, "label_engines:Faulty", out=out, workers=2, timeout=4.0)
    assert [s.positions[0, 2] for s in data] == pytest.approx([0.0, 0.02, 0.06])
    reasons = {f["index"]: f["reason"] for f in data.provenance["failed"]}
    assert set(reasons) == {1, 3, 4, 5}
    assert "SCF not converged" in reasons[1]
    assert "given up after 4 s" in reasons[3]
    assert "died (signal 6" in reasons[4]
    assert "`energy` with values that are not finite" in reasons[5]
    assert len(ase.io.read(out, ":")) == 3
    # They stay failed until asked for again, and then are tried again.
    again = label(frames[:3], "label_engines:Faulty", out=out, workers=0)
    assert len(again.provenance["failed"]) == 1
    with sqlite3.connect(f"{out}.campaign") as store:
        store.execute("UPDATE labels SET reason = 'before' WHERE reason LIKE '%SCF%'")
    store.close()
    retried = label(frames[:3], "label_engines:Faulty", out=out, workers=0, retry_failed=True)
    assert "SCF not converged" in retried.provenance["failed"][0]["reason"]


def test_nothing_labelled_is_an_error(tmp_path):
    with pytest.raises(EngineError, match="none of the 2 structures; the first: .*SCF not converged"):
        label(faulty([1, 1]), "label_engines:Faulty", out=tmp_path / "out.xyz", workers=0)


SCRIPT = """
import sys
from epot.data.labels import label
sys.path.insert(0, {tests!r})
from test_label_campaign import copper
label(copper(24), "label_engines:Slow", options={options!r}, out={out!r}, workers=2)
"""


def test_a_kill_loses_at_most_what_was_in_flight(tmp_path, spawn):
    out, log, folder = tmp_path / "out.xyz", tmp_path / "log", str(Path(__file__).parent)
    options = {"seconds": 0.1, "log": str(log)}
    script = SCRIPT.format(tests=folder, options=options, out=str(out))
    process = spawn([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": folder})
    deadline = time.monotonic() + 60
    while (len(log.read_text().splitlines()) if log.exists() else 0) < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the workers see their input end
    made = log.read_text().splitlines()
    assert not out.exists()
    with sqlite3.connect(f"{out}.campaign") as store:
        kept = store.execute("SELECT COUNT(*) FROM labels WHERE reason IS NULL").fetchone()[0]
    store.close()
    assert len(made) - 2 <= kept <= len(made) < 24  # two workers: at most two in flight
    time.sleep(0.5)
    assert log.read_text().splitlines() == made  # no worker outlives its campaign
    data = label(copper(24), "label_engines:Slow", options=options, out=out, workers=1)
    assert len(log.read_text().splitlines()) - len(made) == 24 - kept
    whole = label(copper(24), EMT_PATH, workers=0)
    for got, want in zip(data, whole, strict=True):
        assert got.energy == want.energy
        np.testing.assert_array_equal(got.forces, want.forces)


def test_a_campaign_in_portions(tmp_path):
    out = tmp_path / "out.xyz"
    first = label(copper(5), EMT_PATH, out=out, workers=0, limit=2)
    assert len(first) == 2
    assert len(label(copper(5), EMT_PATH, out=out, workers=0)) == 5


def test_a_file_that_is_no_campaign(tmp_path):
    (tmp_path / "out.xyz.campaign").write_text("not a database, and long enough to be looked at by SQLite " * 20)
    with pytest.raises(DataError, match="move it away"):
        label(copper(1), EMT_PATH, out=tmp_path / "out.xyz", workers=0)


def test_writing_is_all_or_nothing(tmp_path):
    out = tmp_path / "out.xyz"
    write(copper(2), out)
    before = out.read_bytes()

    def torn():
        yield copper(1)[0]
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write(torn(), out)
    assert out.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.xyz"]


def test_what_is_asked_wrongly_is_explained(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'gfn2'"):
        label(copper(1), "gfn3")
    with pytest.raises(ConfigError, match="did you mean 'forces'"):
        label(copper(1), EMT_PATH, properties=("force",))
    with pytest.raises(ConfigError, match="gives energy, forces, stress, not dipole"):
        label(copper(1), EMT_PATH, properties=("dipole",))
    with pytest.raises(ConfigError, match="does not take these options"):
        label(copper(1), "label_engines:Slow", options={"nonsense": 1})
    with pytest.raises(EngineError, match="Cannot import 'EMT' from 'ase.calculators.nowhere'"):
        label(copper(1), "ase.calculators.nowhere:EMT")
    with pytest.raises(ConfigError, match="not an extended XYZ file"):
        label(copper(1), EMT_PATH, out=tmp_path / "out.json")
    with pytest.raises(ConfigError, match="no folder"):
        label(copper(1), EMT_PATH, out=tmp_path / "nowhere" / "out.xyz")
    with pytest.raises(ConfigError, match="needs a process to kill"):
        label(copper(1), EMT_PATH, workers=0, timeout=1.0)


def test_a_store_whose_schema_is_no_text_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "x.campaign"
    Campaign(path, {"engine": "emt"}).close()
    damaged = path.read_bytes().replace(b"tablelabels", b"table\xecabels")
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"x\.campaign cannot be used"):
        Campaign(path, {"engine": "emt"})
    assert path.read_bytes() == damaged
