"""L-BFGS after a descent, and the schedule-free optimizer in a whole fit."""

import numpy as np
import pytest
import safetensors.torch
import torch

from epot.errors import ConfigError, FitError
from epot.fit import full_batch, metrics
from epot.fit.batches import Samples, in_order
from epot.fit.recipe import FitState
from epot.fit.run import fit
from epot.fit.stages.descend import POLISHED, Descend
from epot.fit.stages.offsets import FitOffsets
from epot.potential import Sum
from epot.terms.offsets import Offsets


def state(toynet, train, valid=None, folder=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        potential = Sum(offset=Offsets((1, 8)), body=toynet())
    made = FitState(potential, train, valid, 0, folder=folder)
    FitOffsets().run(made)
    return made


def settings(**more):
    return {"epochs": 4, "batch_atoms": 24, "learning_rate": 1e-2, "ema": 0.9, "loss": "mse"} | more


def line(state, event):
    return next(x for x in reversed(state.journal.lines) if x["event"] == event)


def test_a_polish_lowers_the_loss_of_all_training_structures(toynet, molecules):
    """Witness: the loss of the weights that are left, from an evaluation of its own; control: without a polish."""
    train, losses = molecules(18), []
    for polish in (0, 30):
        st = state(toynet, train)
        st.potential.terms["body"].float()
        stage = Descend(**settings(polish=polish))
        stage.run(st)
        assert not st.potential.training
        samples, _, loss, _ = stage._prepare(st)
        problem = full_batch.Problem(stage, st, samples, loss, shifts=False)
        losses.append(problem(problem.start())[0] / full_batch.FACTOR)
    assert losses[1] < 0.5 * losses[0]
    told = line(st, "polished")
    assert told["steps"] <= 30
    assert told["loss"] == pytest.approx(losses[1], rel=1e-4)  # float32 weights of a float64 minimum
    assert {p.dtype for p in st.potential.parameters()} == {torch.float32}


def test_a_polish_never_validates_worse(toynet, molecules):
    """What is kept has the score that the journal says, which is at most that before, also where training overfits."""
    train, valid = molecules(4), molecules(12, 1)
    st = state(toynet, train, valid)
    stage = Descend(**settings(epochs=30, polish=60, centered=False))
    stage.run(st)
    told = line(st, "polished")
    assert told["score"] <= told["score_before"] == pytest.approx(line(st, "descended")["score"], rel=1e-4)
    _, _, _, scales = stage._prepare(st)
    again = metrics.score(metrics.evaluate(st.potential, in_order(Samples(valid, 4.0), 96)), scales)
    assert again == pytest.approx(told["score"], rel=1e-4)
    assert told["kept"] <= told["steps"]


def test_energies_have_the_weight_to_which_they_have_grown(toynet, molecules, monkeypatch):
    seen = []
    problem = full_batch.Problem
    monkeypatch.setattr(full_batch, "Problem", lambda *a, **k: seen.append(a[3]) or problem(*a, **k))
    Descend(**settings(epochs=1, polish=1, energy_weight=3.0, energy_growth=7.0)).run(state(toynet, molecules(6)))
    assert seen[0].energy == 21.0
    assert seen[0].forces == 1.0


def test_a_fifth_of_the_time_is_for_the_polish(toynet, molecules):
    assert Descend(max_time=10.0).descent_time == 10.0
    stage = Descend(**settings(epochs=None, max_time=2.0, polish=100_000))
    assert (stage.descent_time, stage.polish_time) == (pytest.approx(2 * (1 - POLISHED)), pytest.approx(2 * POLISHED))
    assert Descend(epochs=3, polish=5).polish_time is None
    st = state(toynet, molecules(12))
    stage.run(st)
    assert line(st, "polished")["seconds"] < 2.0
    assert 1.0 < line(st, "epoch")["seconds"] < 3.0


def test_a_fit_goes_on_with_its_polish(toynet, molecules, tmp_path, monkeypatch):
    """Killed in the polish: the same weights as uninterrupted. Control: without the polish they are others."""
    data = molecules(18)

    def run(folder, polish=6):
        fit("toynet", data, folder=folder, stages=["offsets", {"stage": "descend", **settings(polish=polish)}])
        return safetensors.torch.load_file(folder / "model.epot")

    whole, control = run(tmp_path / "whole"), run(tmp_path / "none", 0)
    minimize = full_batch.minimize

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(full_batch, "minimize", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.setattr(full_batch, "minimize", minimize)
    again = run(tmp_path / "killed")
    assert all(torch.equal(t, again[k]) for k, t in whole.items())
    assert any(not torch.equal(t, control[k]) for k, t in whole.items())


def test_where_a_polish_makes_no_sense(toynet, molecules):
    with pytest.raises(ConfigError, match="polish"):
        Descend(polish=-1)
    with pytest.raises(ConfigError, match="optimizer=lbfgs"):
        Descend(polish=5, optimizer="lbfgs")
    with pytest.raises(FitError, match=r"descend\.polish"):
        Descend(polish=5, loss="nll").check(_with_variances(toynet, molecules))


def _with_variances(toynet, molecules):
    st = state(toynet, molecules(6))
    st.potential.terms["body"].variance_heads = True
    return st


def test_schedule_free_keeps_what_it_averages(toynet, molecules):
    """The weights that are left are those whose errors the journal lists, and the rate stays after the warm-up."""
    valid = molecules(8, 1)
    st = state(toynet, molecules(20), valid)
    Descend(**settings(epochs=10, optimizer="schedule_free", ema=0.999, schedule="linear")).run(st)
    lines = [x for x in st.journal.lines if x["event"] == "epoch"]
    best = min(lines, key=lambda x: x["score"])
    again = metrics.evaluate(st.potential, in_order(Samples(valid, 4.0), 96))
    assert again["forces_rmse"] == pytest.approx(best["valid_forces_rmse"], rel=1e-12)
    assert np.allclose([x["learning_rate"] for x in lines], 1e-2)
    assert lines[-1]["valid_forces_rmse"] < 0.7 * lines[0]["valid_forces_rmse"]


def test_schedule_free_resumes(toynet, molecules, tmp_path, monkeypatch):
    """Stopped in the middle and repeated: the weights of an uninterrupted fit. Control: another number of epochs."""
    from epot.fit.loop import Loop

    data, step = molecules(18), Loop.step

    def run(folder, epochs=4):
        one = settings(epochs=epochs, optimizer="schedule_free", checkpoint_every=0.0)
        fit("toynet", data, folder=folder, stages=["offsets", {"stage": "descend", **one}])
        return safetensors.torch.load_file(folder / "model.epot")

    whole, control = run(tmp_path / "whole"), run(tmp_path / "longer", 5)

    def stopped(self, *args):
        if self.at.step == 7:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Loop, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    monkeypatch.setattr(Loop, "step", step)
    again = run(tmp_path / "stopped")
    assert all(torch.equal(t, again[k]) for k, t in whole.items())
    assert any(not torch.equal(t, control[k]) for k, t in whole.items())
