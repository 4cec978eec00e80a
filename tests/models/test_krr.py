"""Kernel ridge regression of molecules: closed form, scales, kernels, forces; the network on whole molecules."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from epot.blocks.manhattan import manhattan
from epot.data.structure import Structure
from epot.errors import ConfigError, LabelError, ModelError
from epot.fit.run import fit
from epot.fit.stages.kernel import evidence
from epot.geometry.graph import build
from epot.models.krr import KERNELS, Krr
from epot.models.mlp import Mlp
from epot.potential import make
from epot.predict import predict
from epot.testing import CheckFailure, checks
from epot.testing.systems import systems

MATRIX = {"name": "coulomb_matrix", "n_atoms_max": 9}


def energy_of(positions):
    """Something smooth that depends on all distances."""
    r = np.linalg.norm(positions[:, None] - positions[None], axis=2)[np.triu_indices(len(positions), 1)]
    return float(np.exp(-r).sum())


def molecules(n, seed=0):
    rng = np.random.default_rng(seed)
    base = molecule("CH3CH2OH")
    moved = [base.positions + 0.1 * rng.normal(size=base.positions.shape) for _ in range(n)]
    return [Structure(base.numbers, p, energy=energy_of(p)) for p in moved]


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_the_solution_is_kernel_ridge_regression(kernel):
    """Witness: alpha = (K + N s^2)^-1 y by numpy, with kernels written out."""
    data, others = molecules(40), molecules(5, seed=9)
    model = {"name": "krr", "descriptor": MATRIX, "kernel": kernel, "length": 20.0, "delta": 0.5}
    options = {"solve": {"energy_sigma": 1e-3, "jitter": 0.0}}
    state = fit(model, data, holdout=0.0, options=options)
    term, offsets = state.potential.terms["body"], state.potential.terms["offset"].energies.numpy()
    describe = lambda s: term.descriptor(build(s, 0.0)).numpy()  # noqa: E731
    x, z = describe(data), describe(others)

    def k(a, b):
        d = a[:, None] - b[None]
        power = np.abs(d).sum(2) / 20.0 if kernel == "laplacian" else np.square(d).sum(2) / (2 * 20.0**2)
        return 0.25 * np.exp(-power)

    free = sum(offsets[n] for n in data[0].numbers)
    y = np.array([s.energy for s in data]) - free
    alpha = np.linalg.solve(k(x, x) + 9 * 1e-6 * np.eye(40), y)
    found = predict(state.potential, build(others, 0.0), ("energy",)).energy.numpy()
    np.testing.assert_allclose(found, k(z, x) @ alpha + free, atol=1e-8)
    np.testing.assert_allclose(term.precision().numpy(), k(x, x), atol=1e-13)
    assert "readout.precision" not in term.state_dict() or not len(term.readout.precision)  # files do not hold it


def test_it_learns_and_scales_are_found():
    """The error on new molecules is far below the spread; with an absurd length it is not (control)."""
    data, others = molecules(150), molecules(40, seed=3)
    spread = np.std([s.energy for s in others])
    errors = {}
    for length in (None, 1e-3):
        model = {"name": "krr", "descriptor": {"name": "distances", "n_each": 6}, "kernel": "gaussian"}
        state = fit(model | {"length": length}, data, holdout=0.0)
        found = predict(state.potential, build(others, 0.0), ("energy",)).energy.numpy()
        errors[length] = np.abs(found - [s.energy for s in others]).mean() / spread
    assert errors[None] < 0.15
    assert errors[1e-3] > 0.5
    facts = state.about["fit"]["kernel"]
    assert facts["points"] == 150
    assert facts["length"] == 1e-3


def test_few_points_and_uncertainty():
    data = molecules(60)
    model = {"name": "krr", "descriptor": MATRIX, "n_points": 20}
    state = fit(model, data, holdout=0.2)
    assert len(state.potential.terms["body"].points) == 20
    assert state.potential.terms["body"].readout.n_members == 16
    assert state.about["calibration"]["energy"] > 0


def test_evidence():
    """Witness: scipy's multivariate normal; data drawn with a known noise give it back."""
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    x = rng.uniform(0, 10, 200)
    gram = np.exp(-((x[:, None] - x) ** 2) / 2)
    y = rng.multivariate_normal(np.zeros(200), 4 * gram + 0.01 * np.eye(200))
    value, delta, noise = evidence(gram, y)
    exact = multivariate_normal(np.zeros(200), delta**2 * gram + noise**2 * np.eye(200)).logpdf(y)
    assert value - 100 * np.log(2 * np.pi) == pytest.approx(exact, rel=1e-6)
    assert noise == pytest.approx(0.1, rel=0.2)
    assert delta == pytest.approx(2.0, rel=0.5)
    assert evidence(gram, y, delta=20.0)[0] < value - 5


def test_manhattan():
    """Witness: written out; first and second derivatives against finite differences."""
    random = torch.Generator().manual_seed(0)
    x, p = (torch.randn(n, 7, generator=random, dtype=torch.float64) for n in (4, 5))
    torch.testing.assert_close(manhattan(x, p), (x[:, None] - p).abs().sum(2))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: manhattan(t, p), x)
    weights = torch.randn(4, 5, generator=random, dtype=torch.float64, requires_grad=True)
    slopes = lambda w: torch.autograd.grad((manhattan(x, p) * w.square()).sum(), x, create_graph=True)[0]  # noqa: E731
    assert torch.autograd.gradcheck(slopes, weights)


def test_forces_of_the_laplacian_kernel():
    """Away from the points (where it has kinks) its forces are the slope of its energy."""
    tiny = Krr.tiny()
    model = Krr(tiny.elements, tiny.descriptor.config(), "laplacian")
    model.set_points(tiny.points, 30.0, 1.0)
    with torch.no_grad():
        model.readout.weight.fill_(0.7)
    for check in checks(only=["forces", "stress", "hessian", "double_backward", "rotation", "permutation"]):
        check(model)


@pytest.mark.parametrize("check", ["supercells", "wrapping", "cell_choice", "additivity"])
@pytest.mark.parametrize("kind", [Krr, Mlp])
def test_declared_exemptions_are_needed(kind, check, monkeypatch):
    """Control: without the declaration these checks fail."""
    torch.manual_seed(0)
    model = kind.tiny()
    model.descriptor.exempt = {}
    with pytest.raises(CheckFailure):
        checks(only=[check])[0](model, systems((1, 6, 8)))


@pytest.mark.parametrize("check", ["permutation", "rotation", "inversion", "translation", "momentum"])
def test_coordinates_break_every_symmetry(check):
    """The same network on coordinates; on the Coulomb matrix it passes (test_all_models)."""
    torch.manual_seed(0)
    model = Mlp((1, 6, 8), {"name": "cartesian", "n_atoms_max": 8}, (8,), "tanh")
    result = checks(only=[check])[0](model)
    assert not result.applies  # declared
    assert "coordinates" in result.text or "momentum" in check
    model.descriptor.exempt = {}
    with pytest.raises(CheckFailure):
        checks(only=[check])[0](model)


def test_the_network_learns():
    data = molecules(60)
    torch.manual_seed(0)
    model = {"name": "mlp", "descriptor": {"name": "distances", "n_each": 6}, "hidden": [16]}
    descend = {"stage": "descend", "epochs": 40, "ema": 0.9, "batch_atoms": 90}
    state = fit(model, data, holdout=0.0, stages=["offsets", "standardize", descend])
    found = predict(state.potential, build(data, 0.0), ("energy",)).energy.numpy()
    labels = np.array([s.energy for s in data])
    assert np.abs(found - labels).mean() < 0.55 * np.abs(labels - np.median(labels)).mean()
    assert (state.potential.terms["body"].standardize.scale != 1).any()


def test_bad_input():
    with pytest.raises(ConfigError, match="gap"):
        Krr((1, 8), "soap")
    with pytest.raises(ConfigError, match="acsf_nn"):
        Mlp((1, 8), "soap")
    with pytest.raises(ConfigError, match="laplacian"):
        make({"name": "krr", "kernel": "laplace"})
    with pytest.raises(ConfigError, match="length"):
        Krr((1, 8), length=0.0)
    with pytest.raises(ConfigError, match="hidden"):
        Mlp((1, 8), hidden=())
    with pytest.raises(ModelError, match="FitKernel"):
        Krr((1, 6, 8))(build(molecules(1), 0.0))
    crystal = systems((1, 6, 8))["crystal"].replace(energy=1.0)
    with pytest.raises(ModelError, match="periodic"):
        fit({"name": "krr", "descriptor": "coulomb_matrix"}, [crystal, crystal], holdout=0.0)
    unlabeled = [s.replace(energy=None, forces=np.zeros((9, 3))) for s in molecules(3)]
    with pytest.raises(LabelError, match="scales"):
        fit("krr", unlabeled, holdout=0.0)
    assert set(KERNELS) == {"gaussian", "laplacian"}


def crystals(n, seed=0):
    """Cells of one, two and three atoms."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        size = 1 + k % 3
        cell = np.diag([3.0, 3.0, 3.0 * size]) + 0.1 * rng.normal(size=(3, 3))
        positions = np.arange(size)[:, None] * [0.0, 0.0, 3.0] + 0.2 * rng.normal(size=(size, 3))
        made.append(Structure(np.array([6, 8, 6])[:size], positions, cell, True, energy=float(rng.normal())))
    return made


@pytest.mark.parametrize(("name", "data", "expected"), [
    ("krr", molecules(6), {"name": "coulomb_matrix", "n_atoms_max": 9}),
    ("krr", crystals(6), {"name": "sine_matrix", "n_atoms_max": 3}),
    ("mlp", crystals(6), {"name": "sine_matrix", "n_atoms_max": 3}),
])  # fmt: skip
def test_the_descriptor_is_what_the_data_need(name, data, expected):
    """Of structures of any size, the largest among the validation's; what is given stays as given."""
    stages = ["offsets", "kernel", "solve"] if name == "krr" else ["offsets"]
    state = fit(name, data[:2], valid=data, stages=stages, targets=["energy"])
    assert expected.items() <= state.potential.terms["body"].descriptor.config().items()
    given = {"name": name, "descriptor": {"name": expected["name"], "n_atoms_max": 12, "kind": "sorted"}}
    state = fit(given, data, stages=stages, targets=["energy"])
    assert given["descriptor"].items() <= state.potential.terms["body"].descriptor.config().items()
    graph = build(data, 0.0)
    torch.testing.assert_close(  # room that is not used changes nothing
        state.potential.terms["body"].descriptor(graph).count_nonzero(1), graph.sizes * (graph.sizes + 1) // 2
    )


def test_lists_by_element_have_room_for_the_data():
    state = fit({"name": "mlp", "descriptor": "distances"}, molecules(3), stages=["offsets"], holdout=0.0)
    assert state.potential.terms["body"].descriptor.counts == {"H": 6, "C": 2, "O": 1}


def test_no_descriptor_fits_molecules_and_crystals():
    with pytest.raises(ConfigError, match="both molecules and periodic ones"):
        fit("krr", [*molecules(3), *crystals(3)], holdout=0.0)
    slab = crystals(1)[0].replace(pbc=np.array([True, True, False]))
    with pytest.raises(ConfigError, match="along some axes only"):
        fit("mlp", [slab, slab], holdout=0.0)
