"""Errors against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest
import torch

from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.errors import LabelError, UnknownElementError
from epot.evaluate.errors import evaluate
from epot.geometry.graph import build
from epot.predict import predict
from epot.terms.offsets import Offsets
from epot.uncertainty.domain import Domain
from linear_toy import dataset, radial


def _make(numbers, spacing=2.0, **labels):
    positions = np.arange(len(numbers))[:, None] * [spacing, 0.0, 0.0]
    box = {"cell": 20 * np.eye(3), "pbc": True} if "stress" in labels else {}
    return Structure(np.array(numbers), positions, **box, **labels)


@pytest.fixture
def by_hand():
    """Energies -1 (H) and -2 (O), no forces, no stress: every error is the label, with the other sign."""
    forces = np.zeros((3, 3))
    forces[0, 0], forces[2, 1] = 0.3, -0.6  # on H and O
    data = [
        _make([1, 1, 8], energy=-4.3, forces=forces, config_type="water", source="frame a"),
        _make([1, 1], energy=-2.0, forces=np.full((2, 3), 0.1)),
        _make([8], energy=-1.5, config_type="water"),
        _make([8, 8], forces=np.zeros((2, 3)), stress=0.002 * np.eye(3)),
        _make([1]),
    ]
    return Offsets((1, 8), (-1.0, -2.0)), Dataset(data)


def test_mixed_sizes_and_partial_labels_by_hand(by_hand):
    found = evaluate(by_hand[0], {}, by_hand[1])
    assert found.n_structures == 5
    energy = found.all["energy"]  # +300, 0, -500 meV
    assert energy["n"] == 3
    assert energy["mae"] == pytest.approx(800 / 3)
    assert energy["rmse"] == pytest.approx(math.sqrt((300**2 + 500**2) / 3))
    assert energy["max"] == pytest.approx(500)
    atom = found.all["energy_per_atom"]  # +100, 0, -500 meV/atom
    assert atom["mae"] == pytest.approx(200)
    assert atom["rmse"] == pytest.approx(math.sqrt((100**2 + 500**2) / 3))
    forces = found.all["forces"]  # 9 + 6 + 6 components
    assert forces["n"] == 21
    assert forces["mae"] == pytest.approx((300 + 600 + 6 * 100) / 21)
    assert forces["rmse"] == pytest.approx(math.sqrt((300**2 + 600**2 + 6 * 100**2) / 21))
    stress = found.all["stress"]
    assert stress["n"] == 9
    assert stress["mae"] == pytest.approx(2 * 3 / 9)
    assert stress["rmse"] == pytest.approx(2 * math.sqrt(3 / 9))


def test_by_element_and_config_type(by_hand):
    found = evaluate(by_hand[0], {}, by_hand[1])
    assert found.by_element["H"]["n"] == 12
    assert found.by_element["H"]["mae"] == pytest.approx((300 + 600) / 12)
    assert found.by_element["O"]["mae"] == pytest.approx(600 / 9)
    assert found.by_config_type["water"]["energy"]["n"] == 2
    assert found.by_config_type["water"]["energy_per_atom"]["mae"] == pytest.approx(300)
    assert found.by_config_type["none"]["forces"]["n"] == 12


def test_worst_structures_come_first(by_hand):
    found = evaluate(by_hand[0], {}, by_hand[1], worst=2)
    assert [w["index"] for w in found.worst] == [0, 1]
    assert found.worst[0]["source"] == "frame a"
    assert found.worst[0]["forces_max"] == pytest.approx(600)
    many = [_make([1, 1], energy=-2.0, forces=np.full((2, 3), 0.001 * k)) for k in range(400)]
    assert [w["index"] for w in evaluate(by_hand[0], {}, many, worst=2).worst] == [399, 398]


def test_table_and_json_say_it(by_hand):
    found = evaluate(by_hand[0], {}, by_hand[1])
    text = found.table()
    for word in ("meV/atom", "meV/Å", "meV/Å^3", "water", "H", "frame a"):
        assert word in text
    made = json.loads(json.dumps(found.to_json()))
    assert made["units"]["energy"] == "meV"
    assert made["all"]["forces"]["n"] == 21
    assert "values" not in made


def test_batches_and_streams_change_nothing(by_hand):
    potential, data = radial(), dataset(radial(1), 12)
    whole = evaluate(potential, {}, data).all
    for other in (
        evaluate(potential, {}, data, max_atoms=9),
        evaluate(potential, {}, (s for s in data)),
        evaluate(potential, {}, Dataset(data)),
    ):
        for name, row in whole.items():
            assert dict(other.all[name]) == pytest.approx(row, rel=1e-10)


def test_errors_are_those_of_predict():
    """Witness: arrays joined by hand, from one graph for each structure."""
    potential, data = radial(), dataset(radial(1), 9)
    single = [predict(potential, build(s, 4.0), ("energy", "forces")) for s in data]
    delta = np.concatenate([(p.forces.numpy() - s.forces).ravel() for p, s in zip(single, data, strict=True)])
    found = evaluate(potential, {}, data)
    assert found.all["forces"]["rmse"] == pytest.approx(1000 * np.sqrt(np.mean(delta**2)), rel=1e-10)
    assert found.values["forces"]["value"] - found.values["forces"]["label"] == pytest.approx(delta, abs=1e-12)


def test_calibration_and_domain_are_reported():
    potential, data = radial(), dataset(radial(1), 9)
    readout = potential.terms["body"].readout
    noise = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    readout.member_weights = readout.weight.detach()[:, None] + noise
    domain = Domain.from_dataset(data[:8], 4.0)
    about = {"calibration": {"kind": "ensemble", "energy": 2.0, "forces": 0.5}, "domain": domain.to_json()}
    found = evaluate(potential, about, data)
    assert found.calibration["forces"]["n"] == found.all["forces"]["n"]
    halved = evaluate(potential, {"calibration": {"forces": 1.0}}, data)
    assert found.calibration["forces"]["calibration_factor"] == pytest.approx(
        2 * halved.calibration["forces"]["calibration_factor"]
    )
    assert "error/std" in found.table()
    far = dataset(radial(1), 3, scale=0.9)
    assert evaluate(potential, about, far, uncertainty=False).outside == 3
    assert evaluate(potential, about, data[:8], uncertainty=False).outside == 0
    assert not evaluate(potential, about, data, uncertainty=False).calibration


def test_bad_labels_and_elements(by_hand):
    potential, data = by_hand
    with pytest.raises(LabelError, match="None of 1 structures"):
        evaluate(potential, {}, [data[4]])
    with pytest.raises(LabelError, match="frame a: `energy` holds 1 value"):
        evaluate(potential, {}, [data[0].replace(energy=float("nan"))])
    with pytest.raises(UnknownElementError, match="F"):
        evaluate(potential, {}, [_make([9], energy=0.0)])
