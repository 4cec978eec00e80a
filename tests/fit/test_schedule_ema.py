import math

import pytest
import torch

from epot.fit import schedule
from epot.fit.ema import Average


def test_linear_schedule_values():
    f = lambda p: schedule.factor(p, "linear", 0.1)  # noqa: E731
    assert f(0.0) == 0.0
    assert f(0.05) == pytest.approx(0.5)
    assert f(0.1) == pytest.approx(1.0)
    assert f(0.55) == pytest.approx(0.5)
    assert f(1.0) == 0.0
    assert f(1.7) == 0.0  # past the end of a budget of time


def test_cosine_and_constant_schedules_by_hand():
    assert schedule.factor(0.28, "cosine", 0.04) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.25)))
    assert schedule.factor(0.28, "constant", 0.04) == 1.0
    assert schedule.factor(0.02, "constant", 0.04) == pytest.approx(0.5)
    assert schedule.factor(0.0, "cosine", 0.0) == 1.0


def test_ramp_is_geometric_from_its_start():
    assert schedule.ramp(0.3, 100.0, 0.5) == 1.0
    assert schedule.ramp(0.75, 100.0, 0.5) == pytest.approx(10.0)
    assert schedule.ramp(1.0, 100.0, 0.5) == pytest.approx(100.0)


def test_plateau_halves_after_patience_and_continues_from_its_state():
    plateau = schedule.Plateau(patience=2, smoothing=0.0)
    factors = [plateau.update(s) for s in (3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.5, 1.5, 1.5)]
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
    again = schedule.Plateau(patience=2, smoothing=0.0)
    again.restore(plateau.state())
    assert [again.update(s) for s in (9.0, 9.0, 9.0)] == [plateau.update(s) for s in (9.0, 9.0, 9.0)]
    fresh = schedule.Plateau()
    fresh.restore(schedule.Plateau().state())
    assert fresh.update(1.0) == 1.0


def test_average_against_the_closed_form():
    """Witness: the sum over steps of (1 - d_s) w_s times the product of later d."""
    w = torch.nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    average = Average({"w": w}, decay=0.6)
    values = [torch.tensor([math.sin(k), 0.3 * k], dtype=torch.float64) for k in range(8)]
    expected = w.detach().clone()
    for s, value in enumerate(values):
        with torch.no_grad():
            w.copy_(value)
        average.update()
        d = min((1 + s) / (10 + s), 0.6)
        expected = d * expected + (1 - d) * value
    torch.testing.assert_close(average.values["w"], expected, rtol=1e-12, atol=0)
    assert Average.weight(0, 0.999) == pytest.approx(0.1)
    assert Average.weight(10**6, 0.999) == 0.999


def test_average_is_applied_only_inside_the_block_even_on_error():
    w = torch.nn.Parameter(torch.ones(2))
    average = Average({"w": w}, decay=0.0)
    with torch.no_grad():
        w.fill_(3.0)
    seen = []

    def fail():
        with average.applied():
            seen.append(w.tolist())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert seen == [[1.0, 1.0]]
    assert w.tolist() == [3.0, 3.0]


def test_average_without_decay_is_the_last_weight():
    w = torch.nn.Parameter(torch.zeros(1))
    average = Average({"w": w}, decay=0.0)
    with torch.no_grad():
        w.fill_(5.0)
    average.update()
    assert average.values["w"].item() == 5.0
