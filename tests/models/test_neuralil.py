"""NeuralIL.

Witnesses: the formulas of the papers by numpy, atom by atom; potentials of one member; finite differences. The
published parameters are a witness in tests/interchange/test_neuralil_files.py.
"""

import numpy as np
import pytest
import torch

from epot.blocks.neuralil_core import MorseBaseline, ResidualBlock
from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.errors import ConfigError, UnknownElementError
from epot.fit.run import fit
from epot.geometry.graph import build
from epot.models.neuralil import NeuralIL
from epot.potential import Sum, make
from epot.predict import predict
from epot.terms.offsets import Offsets
from epot.testing import check_potential
from epot.uncertainty.calibration import Calibration
from epot.uncertainty.estimate import estimates

SMALL = {"elements": (1, 6, 8), "cutoff": 3.5, "n_max": 2, "widths": (12, 8)}
KINDS = [
    {"core": "dense", "morse": "none"},
    {"core": "resnet", "morse": "full", "outlet": "swish"},
    {"core": "resnet", "morse": "repulsive", "n_members": 3, "variance_heads": True},
    {"core": "dense", "n_members": 2, "outlet": "swish", "morse": "full"},
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_passes_the_checks(kind):
    only = ["forces", "rotation", "save_load", "configuration", "double_backward", "cutoff", "shapes"]
    check_potential(NeuralIL(**(SMALL | kind)), only=only)


def swish(x):
    return x / (1 + np.exp(-x))


def norm(x, module):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * array(module.weight) + array(module.bias)


def dense(x, module):
    return x @ array(module.weight).T + array(module.bias)


def array(tensor):
    return tensor.detach().numpy()


def stirred(potential):
    """Norms and biases away from ones and zeros."""
    with torch.no_grad():
        for p in potential.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return potential.double()


def test_core_of_2022_by_hand(ethanol):
    potential = stirred(NeuralIL(**(SMALL | {"core": "dense", "outlet": "swish", "widths": (12, 8, 8)})))
    graph = build(ethanol, 3.5)
    kinds = np.searchsorted([1, 6, 8], ethanol.numbers)
    x = np.hstack([array(potential.descriptor(graph)), array(potential.embed)[kinds]])
    x = swish(dense(x, potential.layers.dense[0]))
    for layer, n in zip(list(potential.layers.dense)[1:], potential.layers.norms, strict=True):
        x = swish(norm(dense(x, layer), n))
    x = swish(dense(x, potential.last))
    energy = x[:, 0] * float(potential.readout.weight.detach()) + float(potential.readout.bias.detach())
    np.testing.assert_allclose(array(potential(graph).energy), energy, rtol=1e-12)
    assert np.ptp(energy) > 1e-3


def test_blocks_of_2023_by_hand():
    x = torch.randn(5, 6, dtype=torch.float64)
    for hidden, n_out, keep in ((4, 3, False), (6, 6, True), (4, 1, False)):
        block = stirred(ResidualBlock(6, hidden, n_out, keep))
        h = swish(norm(dense(array(x), block.dense[0]), block.norms[0]))
        h = swish(norm(dense(h, block.dense[1]), block.norms[1]))
        h = dense(h, block.dense[2])
        short = array(x) if keep else dense(array(x), block.around)
        if n_out > 1:
            h = norm(h, block.norms[2])
            short = short if keep else norm(short, block.around_norm)
        np.testing.assert_allclose(array(block(x)), swish(h + short), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", ["repulsive", "full"])
def test_morse_baseline_by_hand(kind):
    """Two atoms of unlike elements: the paper's formulas, number by number."""
    pair = stirred(MorseBaseline(2, 3.0, kind))
    r = 2.4
    v = array(pair.embed)
    (a1, b1, d1), (a2, b2, d2) = 0.01 + v**2 if kind == "repulsive" else np.log1p(np.exp(v))
    near = (a2 * r + 0.25 * np.log(a1 * d1 / (a2 * d2)) + 0.5 * (a1 * b1 - a2 * b2)) / (a1 + a2)
    x = np.exp(-a1 * (near - b1))
    pure = d1 * np.exp(-2 * a1 * (2 * near - b1)) if kind == "repulsive" else d1 * x * (x - 2)
    start = 0.5 * (1 + 1 / (1 + np.exp(-float(pair.switch.detach())))) * 3.0
    t = (r**2 - start**2) / (9.0 - start**2)
    f = lambda t: np.exp(-1 / t) if t > 0 else 0.0  # noqa: E731
    fade = 1 - f(t) / (f(t) + f(1 - t))
    assert 0 < fade < 1
    one, other = torch.tensor([0]), torch.tensor([1])
    found = pair(torch.tensor([r], dtype=torch.float64), (one, other), one, 2)
    np.testing.assert_allclose(array(found), [0.5 * pure * fade, 0.0], rtol=1e-12)
    for far, expected in ((3.0, 0.0), (3.5, 0.0), (0.5 * start, 1.0)):
        assert float(pair.fade(torch.tensor([far], dtype=torch.float64)).detach()) == pytest.approx(expected, abs=1e-30)


def member(potential, m):
    """The potential of one member, with its weights."""
    alone = make(potential.config() | {"n_members": 1}).double()
    state = {k: v if k.endswith("scale") and v.dim() == 0 else v[m] for k, v in potential.state_dict().items()}
    target = alone.state_dict()
    alone.load_state_dict({k: state[k].reshape(target[k].shape) if k in state else v for k, v in target.items()})
    return alone


@pytest.mark.parametrize("kind", KINDS[2:], ids=str)
def test_members_are_potentials_of_their_own(kind, water, ethanol):
    potential = stirred(NeuralIL(**(SMALL | kind)))
    graph = build([water, ethanol], 3.5)
    made = predict(potential, graph, ("forces", "virial", "members"))
    for m in range(potential.n_members):
        alone = predict(member(potential, m), graph, ("forces", "virial"))
        torch.testing.assert_close(made.members.energy[:, m], alone.energy, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(made.members.forces[..., m], alone.forces, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(made.members.virial[..., m], alone.virial, rtol=1e-10, atol=1e-10)
        if made.variance is not None:
            torch.testing.assert_close(made.variance.energy[:, m], alone.variance.energy, rtol=1e-11, atol=0)
            torch.testing.assert_close(made.variance.forces[:, m], alone.variance.forces, rtol=1e-11, atol=0)
            assert (made.variance.energy > 0).all()
    torch.testing.assert_close(made.forces, predict(potential, graph).forces, rtol=1e-10, atol=1e-11)
    assert made.members.forces.std(-1).max() > 1e-3


def data(n, seed=0):
    """Water, shaken, with labels of a harmonic potential of the distances."""
    rng = np.random.default_rng(seed)
    base = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    made = []
    for k in range(n):
        x = base + 0.1 * rng.normal(size=(3, 3))
        forces, energy = np.zeros((3, 3)), -14.0
        for i, j, r0 in ((0, 1, 0.96), (0, 2, 0.96), (1, 2, 1.52)):
            d = x[j] - x[i]
            r = np.linalg.norm(d)
            energy += 10.0 * (r - r0) ** 2
            forces[i] += 20.0 * (r - r0) * d / r
            forces[j] -= 20.0 * (r - r0) * d / r
        made.append(Structure(np.array([8, 1, 1]), x, energy=energy, forces=forces, source=f"{k}"))
    return Dataset(made)


@pytest.mark.parametrize("heads", [False, True])
def test_a_deep_ensemble_learns_and_is_calibrated(heads):
    config = {"name": "neuralil"} | SMALL | {"elements": [1, 8], "n_members": 3, "variance_heads": heads}
    state = fit(config, data(45), valid=data(30, 1), options={"descend": {"epochs": 12, "batch_atoms": 24}})
    assert state.about["fit"]["errors"]["valid"]["forces_mae"] < 0.5 * 1.7
    found = Calibration.of(state.about)
    assert found.kind == "ensemble"
    assert found.statistics["forces"]["calibration_factor"] == pytest.approx(1.0)
    some = list(estimates(state.potential, list(data(5, 2)), calibration=found))
    assert all(e.energy_std > 0 and (e.forces_std > 0).all() for e in some)
    assert "Posterior" not in [s["stage"] for s in state.about["fit"]["stages"]]


def test_a_single_potential_has_a_posterior(ethanol):
    config = {"name": "neuralil"} | SMALL | {"elements": [1, 8]}
    state = fit(config, data(30), valid=data(15, 1), options={"descend": {"epochs": 3, "batch_atoms": 24}})
    assert [s["stage"] for s in state.about["fit"]["stages"]] == ["FitOffsets", "Descend", "Posterior", "Calibrate"]
    assert float(state.potential.terms["body"].readout.scale) > 0.1


def test_offsets_center_every_member():
    potential = Sum(offset=Offsets((1, 8)), body=NeuralIL(**(SMALL | {"elements": (1, 8), "n_members": 3})))
    some = data(40)
    fit(potential, some, stages=["offsets"], holdout=0.0)
    graph = build(list(some), 3.5)
    members = predict(potential, graph, ("energy", "members")).members.energy
    left = members - torch.tensor([[s.energy] for s in some])
    assert left.median(0).values.abs().max() < 0.2
    assert float(potential.terms["body"].readout.scale) == pytest.approx(
        np.sqrt(np.mean([s.forces**2 for s in some])), rel=1e-6
    )


def test_bad_input(ethanol):
    with pytest.raises(ConfigError, match="at least 2 widths"):
        NeuralIL(core="resnet", widths=(16,))
    with pytest.raises(ConfigError, match="n_members=0"):
        NeuralIL(n_members=0)
    with pytest.raises(ConfigError, match="expected one of"):
        make({"name": "neuralil", "core": "plain"})
    with pytest.raises(UnknownElementError, match="holds O"):
        NeuralIL((1, 6))(build(ethanol, 4.0))
