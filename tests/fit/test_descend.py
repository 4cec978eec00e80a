import math

import numpy as np
import pytest
import torch

from epot.data.dataset import Dataset
from epot.errors import ConfigError, FitError
from epot.fit import metrics, optimizers
from epot.fit.batches import Samples, in_order
from epot.fit.loop import Loop
from epot.fit.loss import Loss
from epot.fit.recipe import FitState, offsets_of
from epot.fit.stages.descend import Descend
from epot.fit.stages.offsets import FitOffsets
from epot.potential import Sum
from epot.terms.offsets import Offsets


def state(toynet, train, valid=None, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        potential = Sum(offset=Offsets((1, 8)), body=toynet())
    made = FitState(potential, train, valid, seed)
    FitOffsets().run(made)
    return made


def settings(**more):
    return {"epochs": 5, "batch_atoms": 24, "learning_rate": 1e-2, "ema": 0.9} | more


def epochs(state):
    return [line for line in state.journal.lines if line["event"] == "epoch"]


@pytest.mark.parametrize("optimizer", ["adamw", "schedule_free", "muon", "soap"])
def test_it_learns_and_leaves_no_global_state(toynet, molecules, optimizer):
    st = state(toynet, molecules(40), molecules(8, 1))
    before = torch.get_rng_state(), torch.get_default_dtype()
    Descend(**settings(epochs=25, optimizer=optimizer)).run(st)
    lines = epochs(st)
    assert lines[-1]["valid_forces_rmse"] < 0.35 * st.journal.lines[0]["spread"]["forces"]
    assert lines[-1]["valid_forces_rmse"] < 0.5 * lines[0]["valid_forces_rmse"]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_default_dtype() == before[1]
    assert not st.potential.training
    assert all(p.grad is None for p in st.potential.parameters())
    assert {"train_loss", "train_energy", "train_forces", "gradient_norm", "learning_rate"} <= lines[0].keys()


def test_same_seed_same_numbers(toynet, molecules):
    runs = []
    for seed in (0, 0, 1):
        st = state(toynet, molecules(12), molecules(4, 1), seed)
        Descend(**settings(epochs=3)).run(st)
        runs.append([line["train_loss"] for line in epochs(st)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_best_averaged_weights_are_kept(toynet, molecules):
    """Witness: errors of the potential that is left equal those the journal lists for the best epoch."""
    valid = molecules(8, 1)
    st = state(toynet, molecules(20), valid)
    Descend(**settings(epochs=8, learning_rate=8e-2, schedule="constant", centered=False)).run(st)
    best = min(epochs(st), key=lambda line: line["score"])
    again = metrics.evaluate(st.potential, in_order(Samples(valid, 4.0), 96))
    assert again["forces_rmse"] == pytest.approx(best["valid_forces_rmse"], rel=1e-12)
    assert again["energy_mae"] == pytest.approx(best["valid_energy_mae"], rel=1e-12)
    assert st.journal.lines[-1]["best_epoch"] == best["epoch"]


def test_a_constant_of_the_energies_is_left_to_the_offsets(toynet, molecules):
    """Witness: least squares leave no mean error on what was fitted to; without it one of ten times more stays."""
    left: dict[bool, float] = {}
    for centered in (True, False):
        train = molecules(20)
        st = state(toynet, train)
        Descend(**settings(epochs=8, learning_rate=2e-2, centered=centered)).run(st)
        graphs = in_order(Samples(train, 4.0), 96)
        left[centered] = metrics.evaluate(st.potential, graphs, centered=True)["energy_mean"]
    assert abs(left[True]) < 1e-6
    assert abs(left[False]) > 1e-4


def test_energies_of_free_atoms_stay(toynet, molecules):
    st = state(toynet, molecules(12))
    st.about["fit"]["offsets"]["method"] = "isolated"
    before = offsets_of(st.potential).energies.clone()
    assert not Descend(**settings()).centers(st)
    assert Descend(**settings()).holds(st)
    assert not Descend(**settings(centered=False)).holds(st)
    Descend(**settings(epochs=2)).run(st)
    assert torch.equal(offsets_of(st.potential).energies, before)
    st.about["fit"]["offsets"]["method"] = "regression"
    assert Descend(**settings()).centers(st)


def test_energies_that_are_far_off_do_not_hold_up_forces(toynet, molecules):
    """Energies per element 2 eV wrong: the constant waits and is made up for in the end; at its full weight from the
    start it costs forces."""
    end: dict[bool | None, dict[str, float]] = {}
    for centered in (None, False):
        st = state(toynet, molecules(40), molecules(8, 1))
        st.about["fit"]["offsets"]["method"] = "given"
        offsets_of(st.potential).energies.add_(2.0)
        Descend(**settings(epochs=40, centered=centered, energy_weight=10.0)).run(st)
        end[centered] = epochs(st)[-1]
        first = epochs(st)[0]["valid_energy_rmse"]
    assert end[None]["valid_forces_rmse"] < 0.9 * end[False]["valid_forces_rmse"]
    assert end[None]["valid_energy_rmse"] < 0.1 * first


def test_a_free_constant_needs_energies_per_element(toynet, molecules):
    st = state(toynet, molecules(12))
    st.potential = toynet()
    with pytest.raises(FitError, match="Offsets"):
        Descend(**settings(centered=True)).check(st)


def test_the_journal_shows_the_rate_of_the_schedule(toynet, molecules):
    st = state(toynet, molecules(12))
    Descend(**settings(epochs=2, batch_atoms=1000, warmup=0.0, optimizer="adamw")).run(st)
    assert [line["learning_rate"] for line in epochs(st)] == pytest.approx([1e-2, 0.5e-2])


@pytest.mark.parametrize("optimizer", ["muon", "amsgrad"])
def test_one_wild_gradient_does_not_decide_what_follows(toynet, molecules, monkeypatch, optimizer):
    """The 41st of 160 gradients is 1e5 times too long: with the limit the fit ends as if nothing had happened."""
    real, end, logged = Loop._descend, {}, {}
    for name, clip, wild in (("calm", 5.0, 1.0), ("limited", 5.0, 1e5), ("free", None, 1e5)):

        def descend(self, total, factor, wild=wild):
            real(self, total * (wild if self.at.step == 40 else 1.0), factor)

        monkeypatch.setattr(Loop, "_descend", descend)
        st = state(toynet, molecules(40), molecules(8, 1))
        Descend(**settings(epochs=20, clip=clip, optimizer=optimizer)).run(st)
        assert len(epochs(st)) == 20
        end[name] = epochs(st)[-1]["valid_forces_rmse"]
        logged[name] = max(line["gradient_norm"] for line in epochs(st))
    assert end["limited"] < 1.2 * end["calm"]
    assert end["free"] > 1.3 * end["calm"]
    assert logged["limited"] > 100 * logged["calm"]  # the journal has the norm as it was


def test_the_limit_of_gradients_follows_what_lasts(toynet, molecules):
    """From next to nothing to ordinary within a hundred steps; a single one leaves it where it was."""
    st = state(toynet, molecules(12))
    samples = Samples(st.train, 4.0, elements=st.potential.elements)
    loop = Loop(Descend(clip=5.0), st, samples, None, Loss(), {"forces": 1.0})
    for norm in [0.0, 1e-9] + [1.0] * 150:
        limit = loop._limit(norm)
        loop.at.step += 1
    assert limit == pytest.approx(5.0, rel=0.5)
    assert loop._limit(1e6) == pytest.approx(limit, rel=0.1)
    assert loop._limit(1.0) < 2 * limit
    loop.stage.clip = None
    assert loop._limit(1e6) == float("inf")


@pytest.mark.parametrize(
    ("optimizer", "given", "expected"),
    [("muon", None, 1.0), ("soap", None, 0.1), ("amsgrad", None, 1.0), ("amsgrad", 0.3, 0.3)],
)
def test_rates_are_the_optimizers_own_unless_given(toynet, molecules, monkeypatch, optimizer, given, expected):
    """Of radial functions; and the journal's rate is the schedule's, whatever share of it the first group has."""
    seen, make = [], optimizers.make
    monkeypatch.setattr(optimizers, "make", lambda *args: seen.append(args) or make(*args))
    st = state(toynet, molecules(12))
    more = {"optimizer": optimizer, "radial_rate": given, "learning_rate": None}
    Descend(**settings(epochs=2, batch_atoms=1000, warmup=0.0, **more)).run(st)
    assert seen[0][-1] == expected
    rate = optimizers.RATES[optimizer]
    assert [line["learning_rate"] for line in epochs(st)] == pytest.approx([rate, 0.5 * rate])


def test_early_stopping(toynet, molecules):
    st = state(toynet, molecules(12), molecules(4, 1))
    Descend(**settings(epochs=50, learning_rate=1e-30, patience=3)).run(st)
    assert len(epochs(st)) < 15
    assert "not improved for 3 epochs" in st.journal.lines[-1]["why"]


def test_a_budget_of_time_ends_the_schedule(toynet, molecules):
    st = state(toynet, molecules(12))
    Descend(**settings(epochs=None, max_time=1.0, batch_atoms=6)).run(st)
    assert st.journal.lines[-1]["why"] == "its time is up"
    assert epochs(st)[-1]["seconds"] < 3.0
    assert epochs(st)[-1]["learning_rate"] < 2e-3


def test_time_that_runs_out_between_epochs_makes_no_empty_one(toynet, molecules, monkeypatch):
    from epot.fit.loop import Loop

    over, late = Loop.over, []

    def asked(self, n_batches):
        why = over(self, n_batches)
        late.extend([True] if why is None and self.at.epoch == 2 else [])
        return why

    monkeypatch.setattr(Loop, "over", asked)
    monkeypatch.setattr(Loop, "elapsed", lambda self: 10.0 if late else 0.0)
    st = state(toynet, molecules(12))
    Descend(**settings(epochs=None, max_time=1.0, batch_atoms=6)).run(st)
    assert late
    assert st.journal.lines[-1]["why"] == "its time is up"
    assert [line["epoch"] for line in epochs(st)] == [1, 2]


def test_a_loss_that_blows_up_stops_it_clearly_with_a_finite_model(toynet, molecules, monkeypatch):
    from epot.fit import schedule

    monkeypatch.setattr(schedule, "ramp", lambda progress, *_: math.inf if progress > 0.5 else 1.0)
    st = state(toynet, molecules(12))
    with pytest.raises(FitError, match=r"not finite .* epoch 3.*learning_rate"):
        Descend(**settings()).run(st)
    assert len(epochs(st)) == 2
    assert all(torch.isfinite(p).all() for p in st.potential.parameters())


def test_the_last_good_checkpoint_survives_a_blow_up(toynet, molecules, tmp_path, monkeypatch):
    from epot.fit.loop import Loop

    st = state(toynet, molecules(12))
    st.folder = tmp_path
    step = Loop.step

    def broken(self, *args):
        if self.at.step == 7:
            next(iter(self.parameters.values())).data.fill_(math.nan)
        return step(self, *args)

    monkeypatch.setattr(Loop, "step", broken)
    with pytest.raises(FitError, match="last good state is kept"):
        Descend(**settings(checkpoint_every=0.0)).run(st)
    monkeypatch.setattr(Loop, "step", step)
    Descend(**settings(checkpoint_every=0.0)).run(st)
    assert len(epochs(st)) == 5
    assert all(torch.isfinite(p).all() for p in st.potential.parameters())


def test_partial_labels_train_on_what_there_is(toynet, molecules):
    data = [s.replace(energy=None) if k % 2 else s.replace(forces=None) for k, s in enumerate(molecules(20))]
    st = state(toynet, Dataset(data), molecules(4, 1))
    Descend(**settings(epochs=10)).run(st)
    lines = epochs(st)
    assert lines[-1]["valid_forces_rmse"] < lines[0]["valid_forces_rmse"]
    alone = state(toynet, Dataset([s.replace(forces=None) for s in molecules(12)]))
    Descend(**settings()).run(alone)
    assert "train_forces" not in epochs(alone)[0]
    unlabeled = state(toynet, Dataset([s.replace(energy=None) for s in molecules(6)]))
    with pytest.raises(FitError, match="no label"):
        Descend(**settings(targets=["energy"])).check(unlabeled)


def test_stress_is_fitted(toynet, molecules):
    """Crystals labeled by the same potential with other weights: the stress error falls with forces switched off."""
    from epot.data.structure import Structure
    from epot.geometry.graph import build
    from epot.predict import predict

    torch.manual_seed(3)
    truth = Sum(body=toynet())
    rng = np.random.default_rng(0)
    data = []
    for _ in range(10):
        cell = np.eye(3) * 3.2 + 0.1 * rng.normal(size=(3, 3))
        s = Structure(np.array([8, 1]), rng.uniform(0, 1, (2, 3)) + np.array([[0, 0, 0], [1.5, 1.5, 1.5]]), cell, True)
        made = predict(truth, build(s, 4.0), ("energy", "stress"))
        data.append(s.replace(energy=float(made.energy), stress=made.stress[0].numpy()))
    st = state(toynet, Dataset(data), Dataset(data))
    assert set(st.journal.lines[-1]["spread"]) == {"energy", "virial"}
    Descend(**settings(epochs=60, batch_atoms=8)).run(st)
    lines = epochs(st)
    assert lines[-1]["valid_stress_rmse"] < 0.7 * lines[0]["valid_stress_rmse"]
    samples = Samples(Dataset(data), 4.0)
    graph, labels = samples.batch(range(10))
    direct = predict(st.potential, graph, ("energy", "stress")).stress - labels.stress
    errors = metrics.evaluate(st.potential, [(graph, labels)])
    assert errors["stress_mae"] == pytest.approx(float(direct.abs().mean()), rel=1e-12)


def test_plateau_schedule_cuts_the_rate(toynet, molecules):
    st = state(toynet, molecules(12), molecules(4, 1))
    Descend(**settings(epochs=14, schedule="plateau", plateau_patience=2, learning_rate=1e-30)).run(st)
    assert epochs(st)[-1]["learning_rate"] < 0.6e-30


def test_a_parameter_that_is_frozen_stays(toynet, molecules):
    st = state(toynet, molecules(12))
    embedding = st.potential.terms["body"].embedding.weight.requires_grad_(False)
    before = embedding.detach().clone()
    Descend(**settings(epochs=2)).run(st)
    assert torch.equal(before, embedding)
    st.potential.requires_grad_(False)
    with pytest.raises(FitError, match="nothing to train"):
        Descend().check(st)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"epochs": 0}, "epochs"), ({"ema": 1.0}, "ema"), ({"clip": 1.0}, "clip"), ({"forces_weight": -1.0}, "forces")],
)
def test_impossible_settings_are_refused(wrong, word):
    with pytest.raises(ConfigError, match=word):
        Descend(**wrong)


def test_tensorboard_is_optional(toynet, molecules, tmp_path, monkeypatch):
    import sys
    import types

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'epot\[track\]'"):
        Descend(tensorboard=True).check(state(toynet, molecules(6)))
    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step, walltime):
            written.append((name, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    st = state(toynet, molecules(12), molecules(4, 1))
    st.folder = tmp_path
    Descend(**settings(epochs=2, tensorboard=True)).run(st)
    assert written[0] == str(tmp_path / "tensorboard")
    assert ("valid_forces_mae", epochs(st)[0]["step"]) in written
    assert written[-1] == "closed"
