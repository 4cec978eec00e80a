"""MACE's options that are off by default."""

import pytest
import torch

from epot.blocks.channels import FeatureNorm
from epot.errors import ConfigError
from epot.fit.parameters import split
from epot.geometry.graph import build
from epot.models.mace import MACE
from epot.predict import predict
from epot.testing import check_potential

SIZES = {"n_channels": 4, "max_ell": 2, "n_radial": 4, "radial_mlp": (8,), "n_readout": 4, "cutoff": 4.0}


def potential(**options):
    torch.manual_seed(3)
    return MACE(elements=(1, 6, 8), **SIZES, **options).double()


@pytest.fixture
def graph(ethanol):
    return build(ethanol, 4.0)


def test_trainable_frequencies_begin_as_the_fixed_ones(graph):
    """Witness: Bessel functions without a parameter. Control: other frequencies."""
    fixed, free = potential(), potential(trainable_bessel=True)
    assert set(free.state_dict()) - set(fixed.state_dict()) == {"basis.frequencies"}
    assert free.config()["trainable_bessel"] is True
    expected, found = predict(fixed, graph), predict(free, graph)
    torch.testing.assert_close(found.forces, expected.forces, atol=1e-5, rtol=0)  # pi is rounded to single precision
    with torch.no_grad():
        free.basis.frequencies.mul_(1.05)  # also: tables that are kept are made again
    assert (predict(free, graph).forces - expected.forces).abs().max() > 1e-3


@pytest.mark.parametrize("native", ["0", "1"])
def test_gradient_of_the_frequencies(graph, monkeypatch, native):
    """Of a loss on energy and forces, against differences: through the splines of compiled kernels, and without."""
    monkeypatch.setenv("EPOT_NATIVE", native)
    model = potential(trainable_bessel=True, distance_transform="agnesi" if native == "0" else None)
    frequencies = model.basis.frequencies

    def loss():
        made = predict(model, graph, create_graph=True)
        return made.energy.square().sum() + made.forces.square().sum()

    (found,) = torch.autograd.grad(loss(), frequencies)
    assert found.abs().min() > 1e-6
    for k, step in enumerate(1e-5 * torch.eye(len(found), dtype=torch.float64)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                frequencies.add_(sign * step)
            values.append(float(loss().detach()))
            with torch.no_grad():
                frequencies.sub_(sign * step)
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(found[k]), rel=1e-5)


def test_frequencies_do_not_decay():
    matrices, others = split(potential(trainable_bessel=True))
    assert any(p.shape == (SIZES["n_radial"],) for p in others)
    assert all(p.dim() > 1 for p in matrices)


def test_only_bessel_functions_have_frequencies():
    with pytest.raises(ConfigError, match="needs 'bessel'"):
        potential(trainable_bessel=True, radial="gaussian")


def test_checks_with_trainable_frequencies():
    check_potential(potential(trainable_bessel=True))


def test_normed_features_have_unit_root_mean_squares():
    """Each degree counts alike, whatever its size. Control: factors of the channels stay in."""
    torch.manual_seed(5)
    norm = FeatureNorm(3, 16).double()
    features = [10.0**-n * torch.randn(7, 2 * n + 1, 16, dtype=torch.float64) for n in range(3)]
    squares = torch.stack([x.square().mean((1, 2)) for x in norm(features)]).mean(0)
    torch.testing.assert_close(squares, torch.ones_like(squares), atol=1e-4, rtol=0)
    with torch.no_grad():
        norm.gain.mul_(2.0)
    assert float(norm(features)[0].detach().square().mean()) > 4.0
    assert all(torch.isfinite(x).all() for x in norm([torch.zeros_like(x) for x in features]))
    assert not any(p.shape == norm.gain.shape for p in split(potential(feature_norm=True))[0])
