"""Filtered messages of compiled kernels beside those of torch with the filters themselves; models in both modes."""

import numpy as np
import pytest
import torch

from epot import native
from epot.blocks.filter_tables import Taps, grid, intervals, radial_splines
from epot.blocks.filtered_splines import spline_pairs
from epot.data.structure import Structure
from epot.features.cutoff import cosine_cutoff, polynomial_cutoff
from epot.features.radial import radial_basis
from epot.geometry.graph import build, collate
from epot.models.painn import PaiNN
from epot.models.schnet import SchNet
from epot.potential import make
from epot.predict import predict
from epot.testing import check_potential

CUTOFF, CPU = 4.0, torch.device("cpu")
FADES = {"cosine": cosine_cutoff, "polynomial": polynomial_cutoff}
needs_kernels = pytest.mark.skipif(native.library("messages") is None, reason="there is no C++ compiler")


def model(name, fade="cosine", radial="gaussian"):
    torch.manual_seed(0)
    sizes = {"elements": (1, 6, 8), "cutoff": CUTOFF, "n_features": 18, "n_layers": 3, "n_radial": 10}
    made = make({"name": name, "cutoff_function": fade, "radial": radial} | sizes).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # biases are not zero
    return made


@pytest.fixture
def graph(water, ethanol):
    alone = Structure(np.array([6]), np.zeros((1, 3)))
    return collate([build(s, CUTOFF) for s in (water, ethanol, alone)])


@pytest.mark.parametrize("radial", ["gaussian", "bessel"])
@pytest.mark.parametrize("fade", FADES)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-7), (torch.float64, 1e-10)])
def test_splines_of_radial_functions(radial, fade, dtype, allowed):
    """As many nodes as each precision has; from 0.5 Å to the cutoff and at it. Control: a quarter of the nodes.

    Witness: the functions themselves, in float64.
    """
    r = torch.linspace(0.5, CUTOFF, 3001, dtype=torch.float64)
    window = FADES[fade](r, CUTOFF).unsqueeze(1)
    exact = torch.cat([radial_basis(radial, r, CUTOFF, 20) * window, window], 1)

    def worst(n):
        on = grid(CUTOFF, n, torch.float64, CPU)
        taps = Taps(r, on, CUTOFF, lambda r, _: (torch.ones_like(r), torch.zeros_like(r)))
        table = radial_splines(radial, 20, fade, CUTOFF, n, torch.float64, CPU)
        return float((taps.values(table) - exact).abs().max() / exact.abs().max())

    n = intervals(radial, 20, dtype)
    assert worst(n) < allowed
    assert worst(n // 4) > 10 * worst(n)


@needs_kernels
@pytest.mark.parametrize("radial", ["gaussian", "bessel"])
@pytest.mark.parametrize("fade", FADES)
def test_messages_and_gradients(graph, monkeypatch, radial, fade):
    """Witness: filters of every pair, by torch. Control: another filter."""
    painn = model("painn", fade, radial)
    f, weight = painn.n_features, painn.filters[1].detach()
    traced = graph.replace(_vectors=graph.vectors().detach().requires_grad_())
    torch.manual_seed(1)
    table = torch.randn(graph.n_atoms, 5 * f, dtype=torch.float64, requires_grad=True)
    along = [torch.randn(*shape, dtype=torch.float64) for shape in ((graph.n_atoms, f), (graph.n_atoms, 3, f))]

    def derivatives(pairs, weight):
        weight = weight.clone().requires_grad_()
        out = pairs.messages(table, weight)
        leaves = (table, weight, traced.vectors())
        first = torch.autograd.grad(
            sum((a * b).sum() for a, b in zip(out, along, strict=True)), leaves, create_graph=True
        )
        forces = torch.zeros_like(graph.positions).index_add(0, graph.pairs[0], first[2])
        forces = forces.index_add(0, graph.pairs[1], -first[2])
        second = torch.autograd.grad((forces.sin() + forces).sum(1).square().sum(), leaves[:2])
        return *out, *first[:2], forces, *second

    ours = spline_pairs(traced, torch.float64, CUTOFF, radial, painn.n_radial, fade)
    monkeypatch.setenv("EPOT_NATIVE", "0")
    theirs = painn._pairs(traced)
    monkeypatch.delenv("EPOT_NATIVE")
    assert type(ours) is not type(theirs)
    expected, found = derivatives(theirs, weight), derivatives(ours, weight)
    other = derivatives(ours, weight * 1.01)
    for a, b, allowed in zip(found, expected, [1e-10] * 3 + [1e-9] * 2 + [1e-8] * 2, strict=True):
        scale = float(b.detach().abs().max())
        assert float((a - b).detach().abs().max()) < allowed * scale
    assert float((other[0] - expected[0]).detach().abs().max()) > 1e-3


@needs_kernels
@pytest.mark.parametrize("fade", FADES)
@pytest.mark.parametrize("name", ["painn", "schnet"])
def test_models_are_the_same_in_both_modes(name, fade, graph, monkeypatch):
    """Energies, forces and the gradient of a loss on them, with and without history. Witness: torch alone.

    Control: the other cutoff function.
    """
    potential = model(name, fade)

    def found(potential):
        made = predict(potential, graph, ("energy", "forces", "virial"), create_graph=True)
        loss = made.forces.square().sum() + made.energy.square().sum()
        grads = torch.autograd.grad(loss, list(potential.parameters()), allow_unused=True, materialize_grads=True)
        fast = predict(potential, graph, ("energy", "forces", "virial"))
        parts = [made.energy, made.forces, made.virial, fast.energy, fast.forces, fast.virial, *grads]
        return [p.detach() for p in parts]

    compiled = found(potential)
    monkeypatch.setenv("EPOT_NATIVE", "0")
    for a, b in zip(compiled, found(potential), strict=True):
        assert (a - b).abs().max() < 1e-8 * max(1.0, float(b.abs().max()))
    other = found(model(name, "cosine" if fade == "polynomial" else "polynomial"))
    assert (other[1] - compiled[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [PaiNN, SchNet])
def test_properties_without_kernels(kind, monkeypatch):
    """With them: tests/models/test_all_models.py."""
    monkeypatch.setenv("EPOT_NATIVE", "0")
    torch.manual_seed(0)
    check_potential(kind.tiny())
