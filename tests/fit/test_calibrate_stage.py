"""The Calibrate stage on data whose errors are known."""

import numpy as np
import pytest
import torch

from epot.data.dataset import Dataset
from epot.errors import ConfigError
from epot.fit.recipe import FitState
from epot.fit.stages.calibrate import Calibrate, residuals
from epot.fit.stages.posterior import Posterior
from epot.uncertainty.calibration import Calibration, statistics
from epot.uncertainty.domain import Domain
from linear_toy import dataset, radial


def _uncertain(spread=0.05, seed=0):
    """A truth, and a potential whose weights are a draw of the distribution that its members are draws of."""
    generator = torch.Generator().manual_seed(seed)
    truth, model = radial(), radial()
    readout = model.terms["body"].readout
    sigma = spread * torch.linspace(0.3, 2.0, 6).double()
    readout.weight.data += sigma * torch.randn(6, generator=generator, dtype=torch.float64)
    readout.member_weights = readout.weight.detach()[:, None] + sigma[:, None] * torch.randn(
        6, 32, generator=generator, dtype=torch.float64
    )
    return truth, model


def test_a_known_scale_is_recovered():
    """Members four times too narrow: the forces' scale goes into them, whatever it was."""
    truth, model = _uncertain()
    readout = model.terms["body"].readout
    valid = Dataset(dataset(truth, 60, 3))
    right = FitState(model, valid, valid)
    Calibrate().run(right)
    wide = readout.member_weights.clone()
    readout.member_weights = readout.weight.detach()[:, None] + (wide - readout.weight.detach()[:, None]) / 4
    narrow = FitState(model, valid, valid)
    raw = residuals(model, valid)
    Calibrate().run(narrow)
    torch.testing.assert_close(readout.member_weights, wide, rtol=1e-9, atol=1e-9)
    made = Calibration.from_json(narrow.about["calibration"])
    assert made.forces == 1.0
    errors, spreads, sizes = residuals(model, valid)
    assert statistics(errors["forces"], spreads["forces"])["calibration_factor"] == pytest.approx(1.0)
    assert statistics(errors["energy"], made.energy * spreads["energy"])["calibration_factor"] == pytest.approx(1.0)
    assert statistics(errors["stress"], made.stress * spreads["stress"])["calibration_factor"] == pytest.approx(1.0)
    factor = statistics(raw[0]["forces"], raw[1]["forces"])["calibration_factor"]
    assert factor == pytest.approx(4.0)  # control: raw members are not calibrated
    assert len(sizes) == 60


def test_it_holds_on_structures_that_were_not_used():
    """Many models drawn from the same distribution: their mean square z on other structures is 1 on average."""
    squares = []
    for seed in range(6):
        truth, model = _uncertain(seed=seed)
        state = FitState(model, Dataset([]), Dataset(dataset(truth, 8, 100 + seed)))
        Calibrate().run(state)
        errors, spreads, _ = residuals(model, dataset(truth, 8, 500 + seed))
        squares.append(np.mean((errors["forces"] / spreads["forces"]) ** 2))
    assert np.mean(squares) == pytest.approx(1.0, abs=4 * np.std(squares) / 6**0.5)
    assert np.mean(squares) < 2.0


def test_the_limit_of_forces_goes_into_the_domain():
    truth, model = _uncertain()
    state = FitState(model, Dataset([]), Dataset(dataset(truth, 40, 3)))
    Calibrate(quantile=0.5, factor=3.0).run(state)
    _, spreads, _ = residuals(model, state.valid)
    expected = 3.0 * np.quantile(spreads["forces"], 0.5)  # members are calibrated by now
    assert state.about["domain"]["forces_std"] == pytest.approx(expected, rel=1e-9)
    assert state.about["calibration"]["forces_limit"] == pytest.approx(expected, rel=1e-9)
    made = Domain.from_dataset(dataset(truth, 5), 4.0).to_json() | state.about["domain"]
    assert Domain.from_json(made).forces_std == pytest.approx(expected)


def test_without_members_the_held_out_error():
    truth, model = radial(), radial()
    model.terms["body"].readout.weight.data *= 1.1
    state = FitState(model, Dataset([]), Dataset(dataset(truth, 40, 3)))
    Calibrate().run(state)
    made = state.about["calibration"]
    errors, spreads, sizes = residuals(model, state.valid)
    assert spreads is None
    assert made["kind"] == "constant"
    assert made["constant"]["forces"] == pytest.approx(np.sqrt(np.mean(errors["forces"] ** 2)))
    assert made["constant"]["energy"] == pytest.approx(np.sqrt(np.mean((errors["energy"] / sizes) ** 2)))
    assert "same for every structure" in made["notes"][0]


def test_doubts_are_noted():
    truth, model = _uncertain()
    data = Dataset(dataset(truth, 10, 3))
    state = FitState(model, data, None)
    Calibrate().run(state)
    assert state.about["calibration"]["data"] == {"set": "train", "n": 10}
    assert any("training set" in n for n in state.about["calibration"]["notes"])
    assert any("Only 10 structures" in n for n in state.about["calibration"]["notes"])
    state = FitState(model, data, Dataset(dataset(truth, 40, 4)))
    state.journal.write("epoch", epoch=1)
    Calibrate().run(state)
    assert any("never saw" in n for n in state.about["calibration"]["notes"])
    with pytest.raises(ConfigError, match="quantile"):
        Calibrate(quantile=0.0)


def test_posterior_then_calibrate_is_right_on_the_noise_of_the_weights():
    """A ridge model fitted to noisy labels: its error against the clean truth is what the posterior predicts."""
    truth = radial()
    noisy = dataset(truth, 8, 1, energy=0.3, forces=0.5)
    state = FitState(radial(), Dataset(noisy), Dataset(dataset(truth, 40, 7)))
    _refit(state.potential, noisy)
    Posterior(members=64, directions=1000).run(state)
    Calibrate().run(state)
    errors, spreads, _ = residuals(state.potential, dataset(truth, 40, 8))
    found = statistics(errors["forces"], spreads["forces"])
    assert found["calibration_factor"] == pytest.approx(1.0, abs=0.3)
    assert found["spearman"] > 0.3


def _refit(potential, structures):
    """Least squares of the forces."""
    from epot.geometry.graph import build
    from epot.predict import predict

    readout, graph, columns = potential.terms["body"].readout, build(structures, 4.0), []
    for k in range(6):
        readout.weight.data = torch.eye(6).double()[k]
        columns.append(predict(potential, graph).forces.flatten())
    labels = torch.from_numpy(np.concatenate([s.forces for s in structures])).flatten()
    readout.weight.data = torch.linalg.lstsq(torch.stack(columns, 1), labels).solution
