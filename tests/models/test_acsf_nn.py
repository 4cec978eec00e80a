"""Behler-Parrinello networks. Witnesses: the equations written out, finite differences of the shipped checks."""

import numpy as np
import pytest
import torch

from epot import modelfile
from epot.errors import ConfigError
from epot.geometry.graph import build
from epot.models.acsf_nn import AcsfNN
from epot.potential import make
from epot.predict import predict
from epot.testing import check_potential


def test_energy_is_the_networks(water):
    """Eqs. 1 and 3 in numpy."""
    made = AcsfNN.tiny().double()
    graph = build(water, made.cutoff)
    random = torch.Generator().manual_seed(0)
    shape = made.standardize.mean.shape
    made.standardize.set(
        torch.rand(shape, generator=random).double(), torch.rand(shape, generator=random).double() + 0.5
    )
    rows, found = made.descriptor(graph).numpy(), made(graph).energy.detach().numpy()
    column = 0
    weights = made.readout.weight.detach().numpy()
    for k, z in enumerate(made.elements):
        own = water.numbers == z
        y = (rows[own] - made.standardize.mean[k].numpy()) / made.standardize.scale[k].numpy()
        for layer in made.networks.networks[k]:
            y = y @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
            y = y / (1 + np.exp(-y))
        last = weights[column : column + y.shape[1] + 1]
        column += y.shape[1] + 1
        np.testing.assert_allclose(found[own], y @ last[:-1] + last[-1], atol=1e-13)
    assert column == len(weights)


@pytest.mark.parametrize("descriptor", ["acsf", {"name": "soap", "cutoff": 4.0, "n_max": 2, "l_max": 2}])
def test_any_descriptor(descriptor, water):
    made = AcsfNN(("H", "O"), descriptor, hidden={"H": (8, 8), "O": (4,)})
    assert made.descriptor.columns()[0] == made.descriptor.columns()[0]
    again = make(made.config())
    assert again.config() == made.config()
    assert again.descriptor.size == made.descriptor.size
    found = predict(made, build(water, made.cutoff))
    assert found.forces.abs().max() > 1e-3
    assert made(build(water, made.cutoff)).energy.dtype == torch.float32


def test_checks_of_a_sum_of_descriptors_own_elements():
    """A descriptor may know more elements, in another order."""
    made = AcsfNN((8, 1), AcsfNN.tiny().config()["descriptor"] | {"elements": [1, 6, 8]}, hidden=(4,))
    check_potential(made, only=["forces", "permutation", "configuration", "save_load"])


def test_file_keeps_statistics(tmp_path, water):
    made = AcsfNN.tiny()
    made.standardize.set(*(torch.rand_like(made.standardize.mean) + 0.5 for _ in range(2)))
    loaded = modelfile.load(modelfile.save(tmp_path / "nn.epot", made))
    loaded = loaded[0] if isinstance(loaded, tuple) else loaded
    graph = build(water, made.cutoff)
    assert torch.equal(loaded(graph).energy, made(graph).energy)
    assert not torch.equal(AcsfNN.tiny()(graph).energy, made(graph).energy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": ()}, "at least one unit"),
        ({"hidden": {"H": (3,)}}, "no hidden layers for O"),
        ({"activation": "tanhh"}, "did you mean 'tanh'"),
        ({"descriptor": "acfs"}, "did you mean 'acsf'"),
        ({"descriptor": {"name": "acsf", "elements": [1]}}, "does not tell O apart"),
        ({"descriptor": "coulomb_matrix"}, "whole structures"),
    ],
)
def test_impossible_arguments(change, message):
    with pytest.raises(ConfigError, match=message):
        AcsfNN(**({"elements": ("H", "O")} | change))
