"""Ridge regression on descriptors: rows in closed form, a fit of data that it can represent, chunks, products."""

import numpy as np
import pytest
import torch

import epot.blocks.descriptor_rows as rows_of
from epot.errors import ConfigError
from epot.fit.design import design, design_by_autograd
from epot.fit.run import fit
from epot.geometry.graph import build
from epot.models.linear import Linear
from epot.predict import predict
from epot.testing.systems import systems

SOAP = {"name": "soap", "cutoff": 4.0, "n_max": 2, "l_max": 1, "cutoff_width": 4.0}
ACSF = {"name": "acsf", "cutoff": 4.0, "radial": 3, "angular": 2}


def made(descriptor, quadratic=False, elements=(1, 6, 8), seed=0):
    """With statistics as of a training set, and random weights."""
    model = Linear(elements, descriptor, quadratic)
    random = torch.Generator().manual_seed(seed)
    shape = model.standardize.mean.shape
    draw = lambda: torch.rand(shape, generator=random, dtype=torch.float64)  # noqa: E731
    model.standardize.set(draw(), 0.5 + draw())
    with torch.no_grad():
        model.readout.weight.copy_(torch.randn(model.readout.weight.shape, generator=random, dtype=torch.float64))
    return model


@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("descriptor", [SOAP, ACSF], ids=lambda d: d["name"])
def test_rows_are_those_of_autograd(descriptor, quadratic, monkeypatch):
    """Witness: gradients of the summed features; and rows times weights are what `predict` says."""
    if descriptor is ACSF and quadratic:
        descriptor = ACSF | {"radial": 2, "angular": 0}
    model = made(descriptor, quadratic, (1, 8))
    graph = build(list(systems((1, 8)).values())[:3], model.cutoff)
    found, witness = design(model, graph), design_by_autograd(model, graph)
    for a, b in zip(found, witness, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * float(b.abs().max()))
    said = predict(model, graph, ("forces", "virial"))
    weight = model.readout.weight.detach()
    torch.testing.assert_close((found.forces @ weight).view(-1, 3), said.forces, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close((found.virial @ weight).view(-1, 3, 3), said.virial, rtol=1e-9, atol=1e-10)
    monkeypatch.setattr(rows_of, "BYTES", 1)  # one atom at a time
    for a, b in zip(design(model, graph), found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * float(b.abs().max()))


def test_rows_depend_on_the_statistics():
    """Control: with other scales the rows are others."""
    graph = build(systems((1, 8))["molecule"], 4.0)
    a, b = (design(made(SOAP, seed=k), graph).forces for k in (0, 1))
    assert float((a - b).abs().max()) > 1e-2


def structures(n, seed, size=9):
    rng = np.random.default_rng(seed)
    base = systems((1, 8), seed=4)["molecule"]
    return [base.replace(positions=base.positions + 0.08 * rng.normal(size=base.positions.shape)) for _ in range(n)]


def test_it_finds_what_it_can_represent():
    """Labels by a model of the same kind: forces of structures that it never saw agree."""
    truth = made(SOAP, elements=(1, 8))
    labeled = []
    for s in structures(60, 1):
        found = predict(truth, build(s, truth.cutoff))
        labeled.append(s.replace(energy=float(found.energy), forces=found.forces.numpy()))
    options = {"solve": {"energy_sigma": 1e-6, "force_sigma": 1e-6, "prior": 1e-6}}
    state = fit({"name": "linear", "descriptor": SOAP}, labeled[:50], holdout=0.0, options=options)
    assert [line["event"] for line in state.journal.lines].count("standardize") == 1
    for s in labeled[50:]:
        found = predict(state.potential, build(s, 4.0))
        np.testing.assert_allclose(found.forces.numpy(), s.forces, atol=1e-4 * np.abs(s.forces).max())
    options["solve"]["prior"] = 1e16
    stiff = fit({"name": "linear", "descriptor": SOAP}, labeled[:50], holdout=0.0, options=options)
    found = predict(stiff.potential, build(labeled[-1], 4.0)).forces.numpy()
    assert np.abs(found - labeled[-1].forces).max() > 1e-2 * np.abs(labeled[-1].forces).max()  # control: no freedom


def test_a_descriptor_of_whole_structures():
    """No closed form, but a fit: energies of molecules on the eigenvalues of their Coulomb matrices."""
    model = Linear((1, 8), {"name": "coulomb_matrix", "n_atoms_max": 8})
    graph = build(structures(2, 0), 0.0)
    assert model.design(graph) is None
    assert design(model, graph).energy.shape == (2, 9)
    assert not model.pairwise


def test_the_ridge_shrinks_weights():
    labeled = [
        s.replace(energy=float(np.linalg.norm(s.positions[0] - s.positions[1]))) for s in structures(20, 2)
    ]  # fmt: skip
    sizes = []
    for prior in (1e-3, 1e7):
        state = fit({"name": "linear", "descriptor": SOAP}, labeled, holdout=0.0, options={"solve": {"prior": prior}})
        sizes.append(float(state.potential.terms["body"].readout.weight.detach().norm()))
    assert sizes[1] < 0.1 * sizes[0]


def test_unknown_descriptors_are_refused():
    with pytest.raises(ConfigError, match="soap"):
        Linear((1, 8), "soup")
    with pytest.raises(ConfigError, match="cut"):
        Linear((1, 8), {"name": "soap", "cut": 3.0})
