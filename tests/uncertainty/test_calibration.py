"""Scales, scores and intervals against closed forms, integrals and simulation."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm, spearmanr

from epot.errors import DataError, ModelFileError
from epot.predict import Members, Prediction
from epot.uncertainty.calibration import (
    Calibration,
    bins,
    calibrate,
    conformal,
    crps,
    miscalibration_area,
    nll,
    scale,
    statistics,
)


def _draws(n, alpha, seed=0):
    """Errors with standard deviation alpha * spread, spreads over one decade."""
    random = np.random.default_rng(seed)
    spread = 10 ** random.uniform(-1, 0, n)
    return alpha * spread * random.normal(size=n), spread


def test_scale_recovers_a_known_one_within_its_statistical_error():
    n, alpha = 20_000, 7.3
    found = scale(*_draws(n, alpha))
    error = alpha / math.sqrt(2 * n)  # of the root of a chi-square mean
    assert abs(found - alpha) < 4 * error
    assert abs(found - 2 * alpha) > 100 * error  # control: a wrong factor is far outside


def test_rounding_does_not_decide_the_scale():
    """Forces of perfect crystals among others. Control: what is only ten times smaller counts."""
    rng = np.random.default_rng(4)
    spread = rng.uniform(0.5, 2.0, 2000)
    delta = 3 * spread * rng.normal(size=2000)
    expected = scale(delta, spread)
    zero, noise = np.full(100, 1e-12), np.full(100, 1e-8)
    assert scale(np.append(delta, noise), np.append(spread, zero)) == pytest.approx(expected, rel=1e-12)
    assert scale(np.append(delta, np.full(100, 10.0)), np.append(spread, np.full(100, 0.1))) > 2 * expected
    assert statistics(np.append(delta, noise), np.append(spread, zero)) == statistics(delta, spread)
    more = {"forces": np.append(delta, noise)}, {"forces": np.append(spread, zero)}
    assert calibrate(*more, [1]).conformal == calibrate({"forces": delta}, {"forces": spread}, [1]).conformal


def test_scale_refuses_what_has_no_spread():
    with pytest.raises(DataError, match="agree everywhere"):
        scale(np.ones(3), np.zeros(3))
    with pytest.raises(DataError, match="same values"):
        scale(np.ones(3), np.ones(4))


@pytest.mark.parametrize(("delta", "std"), [(0.0, 1.0), (0.7, 0.3), (-2.5, 1.1), (4.0, 0.5)])
def test_crps_is_its_integral(delta, std):
    """Witness: numerical integral of (F(y) - step)^2, split where the step is."""
    below = quad(lambda y: norm.cdf(y / std) ** 2, -40 * std, delta, epsabs=1e-13, epsrel=1e-13, limit=200)[0]
    above = quad(lambda y: norm.sf(y / std) ** 2, delta, 40 * std, epsabs=1e-13, epsrel=1e-13, limit=200)[0]
    assert crps(np.array([delta]), np.array([std]))[0] == pytest.approx(below + above, abs=1e-10)
    assert crps(np.array([delta]), np.array([2 * std]))[0] != pytest.approx(below + above, abs=1e-3)  # control


def test_nll_is_scipys():
    delta, std = _draws(50, 1.0)
    assert nll(delta, std) == pytest.approx(-norm.logpdf(delta, scale=std), abs=1e-12)


def test_miscalibration_area_is_its_integral():
    """Witness: the trapezoid rule on a fine grid of expected coverages."""
    delta, std = _draws(200, 1.6, seed=3)
    grid = np.linspace(0, 1, 200_001)
    limits = norm.ppf((1 + grid[:-1]) / 2)
    observed = np.searchsorted(np.sort(np.abs(delta / std)), limits, side="right") / len(delta)
    expected = np.trapezoid(np.abs(np.append(observed, 1.0) - grid), grid)
    assert miscalibration_area(delta, std) == pytest.approx(expected, abs=2e-5)
    assert miscalibration_area(delta, 1.6 * std) < 0.5 * expected
    assert miscalibration_area(1e9 * delta, std) == pytest.approx(0.5)


@pytest.mark.parametrize("level", [0.68, 0.9, 0.95])
def test_conformal_coverage_by_simulation(level):
    """Heavy-tailed errors: the guarantee needs no Gaussian. Repeated calibration sets of 200."""
    random = np.random.default_rng(5)
    n, repeats = 200, 4000
    scores = np.abs(random.standard_t(2, size=(repeats, n)))
    new = np.abs(random.standard_t(2, size=repeats))
    q = np.array([conformal(s, np.ones(n), level) for s in scores])
    covered = np.mean(new <= q)
    error = math.sqrt(level * (1 - level) / repeats)
    assert level - 4 * error < covered < level + 1 / (n + 1) + 4 * error
    gaussian = np.mean(new <= norm.ppf((1 + level) / 2))
    assert abs(gaussian - level) > 4 * error  # control: the Gaussian interval does not cover what it says


def test_conformal_needs_enough_scores():
    assert conformal(np.ones(5), np.ones(5), 0.9) == math.inf
    assert conformal(np.arange(1.0, 10.0), np.ones(9), 0.9) == 9.0  # ceil(10 * 0.9) = 9th of 9


def test_statistics_of_calibrated_errors():
    delta, std = _draws(20_000, 1.0)
    found = statistics(delta, std)
    assert found["calibration_factor"] == pytest.approx(1, abs=0.03)
    assert found["coverage_1"] == pytest.approx(0.6827, abs=0.015)
    assert found["coverage_2"] == pytest.approx(0.9545, abs=0.01)
    assert found["spearman"] == pytest.approx(spearmanr(np.abs(delta), std).statistic)
    assert found["spearman"] > 0.3
    assert statistics(delta, np.random.default_rng(1).permutation(std))["spearman"] < 0.05  # control
    for row in found["bins"]:
        assert row["rmse"] == pytest.approx(row["rmv"], rel=0.1)
    assert sum(row["n"] for row in found["bins"]) == 20_000
    json.dumps(found)


def test_statistics_of_little_or_nothing():
    assert statistics(np.zeros(0), np.zeros(0)) == {"n": 0}
    assert statistics(np.ones(4), np.ones(4))["spearman"] is None
    assert statistics(np.array([1.0, np.nan]), np.array([1.0, 1.0]))["n"] == 1
    assert len(bins(np.ones(3), np.ones(3))) == 1


def test_each_target_has_its_own_scale():
    sizes = [3] * 4000
    energy, e_spread = _draws(4000, 5.0, seed=1)
    forces, f_spread = _draws(9000, 2.0, seed=2)
    found = calibrate({"energy": energy, "forces": forces}, {"energy": e_spread, "forces": f_spread}, sizes)
    assert found.kind == "ensemble"
    assert found.energy == pytest.approx(5.0, rel=0.05)
    assert found.forces == pytest.approx(2.0, rel=0.05)
    assert found.stress == found.forces
    assert "No held-out stress" in found.notes[0]
    assert found.statistics["energy"]["calibration_factor"] == pytest.approx(1.0)
    assert found.conformal["forces"]["0.9"] == pytest.approx(norm.ppf(0.95), rel=0.05)
    assert found.interval("forces", 0.1) == pytest.approx(0.1 * norm.ppf(0.95), rel=0.05)
    with pytest.raises(DataError, match="coverage 0.5"):
        found.interval("forces", 0.1, 0.5)


def test_without_an_ensemble_a_constant():
    """Energies: the root mean square error per atom, times the atoms of a structure."""
    found = calibrate({"energy": np.array([0.3, -0.8]), "forces": np.array([0.1, -0.1, 0.2])}, None, [3, 4])
    assert found.kind == "constant"
    assert found.constant["energy"] == pytest.approx(math.sqrt((0.1**2 + 0.2**2) / 2))
    assert found.constant["forces"] == pytest.approx(math.sqrt(0.06 / 3))
    forces = torch.zeros(7, 3, dtype=torch.float64)
    std = found.std(Prediction(torch.zeros(2).double(), torch.zeros(7).double(), forces=forces), torch.tensor([3, 4]))
    assert std["energy"].tolist() == pytest.approx([3 * found.constant["energy"], 4 * found.constant["energy"]])
    assert std["forces"].shape == (7, 3)
    assert "stress" not in std
    with pytest.raises(DataError, match="there are none"):
        calibrate({}, None, [])


def test_std_is_the_scaled_spread_of_structures_not_of_atoms():
    """The spread of a sum of members is not the root of summed atomic variances."""
    members = Members(torch.tensor([[1.0, 3.0, 5.0]]).double())
    prediction = Prediction(torch.tensor([3.0]).double(), torch.zeros(2).double(), members=members)
    assert float(Calibration(energy=10.0).std(prediction, torch.tensor([2]))["energy"]) == pytest.approx(20.0)


def test_calibration_survives_json():
    delta, std = _draws(100, 2.0)
    made = calibrate({"forces": delta}, {"forces": std}, [])
    again = Calibration.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    assert Calibration.of({}) is None
    assert Calibration.from_json({"energy": 2, "of_a_later_version": 1}).energy == 2.0
    with pytest.raises(ModelFileError, match="cannot be read"):
        Calibration.from_json({"energy": "wide"})


def test_members_that_agree_on_one_target_leave_the_others_calibrated():
    """Perfect crystals: no member has forces. Control: where all agree there is nothing to scale."""
    rng = np.random.default_rng(0)
    errors = {"energy": rng.normal(size=40), "forces": np.full(30, 1e-9)}
    found = calibrate(errors, {"energy": np.full(40, 0.5), "forces": np.zeros(30)}, [2] * 40)
    assert found.energy == pytest.approx(2.0, rel=0.3)
    assert any("agree on all held-out forces" in note for note in found.notes)
    with pytest.raises(DataError, match="agree everywhere"):
        calibrate(errors, {"energy": np.zeros(40), "forces": np.zeros(30)}, [2] * 40)
