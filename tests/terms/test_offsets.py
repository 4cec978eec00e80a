"""Energies per element."""

import numpy as np
import pytest
import torch

from epot.errors import ConfigError
from epot.geometry.graph import build
from epot.potential import make
from epot.predict import predict
from epot.terms.offsets import Offsets


def test_sums_by_hand(ethanol):
    offsets = Offsets(("H", "C", 8), values=(-13.6, -1027.5, -2041.25))
    made = predict(offsets, build(ethanol, offsets.cutoff), ("energy", "forces", "virial"))
    assert float(made.energy[0]) == pytest.approx(2 * -1027.5 + 6 * -13.6 - 2041.25, abs=1e-9)
    assert not made.forces.any()
    assert not made.virial.any()


def test_values_wait_for_a_fit(ethanol):
    offsets = Offsets(("H", "C", "O"))
    assert not predict(offsets, build(ethanol, 0.0), ("energy",)).energy.any()
    offsets.energies[6] = -1.0
    assert float(predict(offsets, build(ethanol, 0.0), ("energy",)).energy[0]) == -2.0


def test_configuration():
    offsets = Offsets(("H", "O"), values=(1.0, 2.0))
    assert offsets.config() == {"name": "offsets", "elements": [1, 8], "values": [1.0, 2.0]}
    assert torch.equal(make(offsets.config()).energies, offsets.energies)


def test_kept_in_double_precision():
    assert Offsets((1,), values=(-1234.56789012345,)).energies.dtype == torch.float64
    np.testing.assert_equal(float(Offsets((1,), values=(-1234.56789012345,)).energies[1]), -1234.56789012345)


def test_counts_must_agree():
    with pytest.raises(ConfigError, match="1 values for 2 elements"):
        Offsets((1, 8), values=(1.0,))


def test_unknown_elements():
    with pytest.raises(ConfigError, match="'Xx' is not a chemical element"):
        Offsets(("Xx",))
