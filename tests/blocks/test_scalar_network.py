"""SchNet in one compiled call: the numbers of the operations it replaces, for any sizes, threads and upstream use."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from epot import native
from epot.blocks import scalar_network
from epot.data.structure import Structure
from epot.errors import NotFiniteError, UnknownElementError
from epot.geometry.graph import build, collate
from epot.models import schnet as module
from epot.models.schnet import SchNet
from epot.predict import predict
from epot.testing import check_potential

needs_compiler = pytest.mark.skipif(native.library("schnet") is None, reason="there is no C++ compiler")
WANT = ("energy", "forces", "virial")
SIZES = [
    {"n_features": 8, "n_layers": 2, "n_radial": 8},
    {"n_features": 40, "n_filters": 24, "n_layers": 3, "readout_activation": "silu", "cutoff_function": "polynomial"},
    {"n_features": 24, "n_filters": 130, "n_layers": 1, "radial": "bessel", "n_radial": 6},
    {"n_features": 128, "n_layers": 2, "shared_interactions": True},
]


def made(dtype, **options):
    """Biases are not zero, nor is the scale one."""
    torch.manual_seed(0)
    model = SchNet(elements=(1, 6, 8, 14), cutoff=4.0, **options).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.readout.scale.fill_(1.7)
    return model


def rattled(structure, seed):
    moved = structure.positions + np.random.default_rng(seed).normal(scale=0.1, size=structure.positions.shape)
    return Structure(structure.numbers, moved, structure.cell, structure.pbc)


@pytest.fixture
def structures(water, ethanol, silicon):
    """Molecules, a crystal, a lone atom and 70 atoms of all kinds in a box: no number of atoms fits the kernels."""
    rng = np.random.default_rng(3)
    places = np.stack(np.meshgrid(*[np.arange(5)] * 3), -1).reshape(-1, 3)[:70] * 1.6
    box = Structure(
        rng.choice([1, 6, 8, 14], 70), places + rng.normal(scale=0.1, size=(70, 3)), np.eye(3) * 8, [True] * 3
    )
    lone = Structure(np.array([8]), np.zeros((1, 3)))
    return [*(rattled(s, k) for k, s in enumerate((water, ethanol, silicon))), lone, box]


@pytest.fixture
def plainly(monkeypatch):
    """A prediction without the compiled call: the filters' tables the same, messages by other kernels."""

    def run(model, graph, want=WANT):
        with monkeypatch.context() as patch:
            patch.setattr(module, "available", lambda *_: False)
            return predict(copy.deepcopy(model), graph, want)

    return run


def apart(found, other, names=("energy", "forces", "virial", "features")):
    """Largest difference over the largest number."""
    return max(
        float((getattr(found, n) - getattr(other, n)).abs().max() / getattr(other, n).abs().max().clamp(min=1e-30))
        for n in names
    )


@needs_compiler
@pytest.mark.parametrize("options", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_same_as_the_operations(structures, plainly, options, dtype, tolerance):
    """Witness: messages, products and activations one by one, and autograd. Control: one weight a thousandth larger."""
    model = made(dtype, **options)
    graph = collate([build(s, 4.0) for s in structures])
    found, slow = predict(model, graph, WANT), plainly(model, graph)
    assert apart(found, slow) < tolerance
    assert found.forces.abs().max() > 0.1
    with torch.no_grad():
        model.interactions[0].update.layers[0].weight[0] *= 1.001
    assert apart(predict(model, graph, WANT), slow) > 10 * tolerance


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-9)])
def test_same_without_kernels(monkeypatch, structures, dtype, tolerance):
    """Energies, forces and stress with ``EPOT_NATIVE=0``, whose splines (exact to 1e-10) have no cutoff function in.

    Control: the structure a thousandth larger.
    """
    model, box = made(dtype, n_features=128, n_layers=3), structures[-1]
    graph, want = build(box, 4.0), ("energy", "forces", "stress")
    larger = build(Structure(box.numbers, box.positions * 1.001, box.cell * 1.001, box.pbc), 4.0)
    names, found = ("energy", "forces", "stress"), predict(model, graph, want)
    other = predict(model, larger, want)
    monkeypatch.setenv("EPOT_NATIVE", "0")
    slow = predict(model, graph, want)
    assert apart(found, slow, names) < 3 * tolerance
    assert apart(other, slow, names) > 100 * tolerance


def test_checks_of_potentials_without_kernels(monkeypatch):
    """It raises where one fails; with kernels they are among those of all models."""
    monkeypatch.setenv("EPOT_NATIVE", "0")
    assert check_potential(SchNet.tiny())


@needs_compiler
def test_bits_do_not_depend_on_threads(structures):
    """Control: the other precision does change them."""
    model, graph = made(torch.float32, n_features=40, n_layers=3), build(structures[-1], 4.0)
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            seen.append(predict(model, graph))
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        assert torch.equal(other.forces, seen[0].forces)
        assert torch.equal(other.atom_energies, seen[0].atom_energies)
    assert not torch.equal(predict(model.double(), graph).forces, seen[0].forces)


@needs_compiler
def test_gradients_from_energies_and_from_the_hidden_layer(structures, plainly):
    """Any factors of the energies, and members of an ensemble, which start at the hidden layer.

    Witness: the operations. Control: the mean of the members is not the energy.
    """
    model = made(torch.float64, **SIZES[1])
    model.readout.member_weights = model.readout.weight.detach()[:, None] + torch.randn(40 // 2, 3).double()
    graph = collate([build(s, 4.0) for s in structures])
    want = (*WANT, "members")
    found, slow = predict(model, graph, want), plainly(model, graph, want)
    for one, other in zip(found.members, slow.members, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    assert (found.members.forces.mean(-1) - found.forces).abs().max() > 1e-2
    vectors = graph.vectors().detach().requires_grad_()
    energy, hidden = model._network().energies(graph.replace(_vectors=vectors))
    factors = torch.randn_like(energy), torch.randn_like(hidden)
    once = torch.autograd.grad([energy, hidden], vectors, factors, retain_graph=True)[0]
    parts = zip((energy, hidden), factors, strict=True)
    again = [torch.autograd.grad(t, vectors, f, retain_graph=True)[0] for t, f in parts]
    torch.testing.assert_close(sum(again), once, rtol=1e-12, atol=1e-13)
    step = 1e-6 * torch.randn_like(vectors)
    step -= step[graph.reverse_pairs()]  # pairs come in both directions
    total = lambda v: sum(  # noqa: E731
        float((f * t).sum()) for f, t in zip(factors, model._network().energies(graph.replace(_vectors=v)), strict=True)
    )
    with torch.no_grad():
        slope = (total(vectors + step) - total(vectors - step)) / 2
    assert abs(slope - float((once * step).sum())) < 1e-7 * abs(slope)


@needs_compiler
def test_activations_at_every_size(monkeypatch):
    """From -800 to 800, through a hidden layer alone. Witness: torch, in double precision. Control: the other one."""
    at = torch.cat([torch.linspace(-40, 40, 801), torch.tensor([-800.0, -90, -25, 25, 90, 800])]).double()
    functions = {
        "shifted_softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)) - np.log(2),
        "silu": torch.nn.functional.silu,
    }
    for dtype, tolerance in ((torch.float32, 3e-7), (torch.float64, 1e-15)):
        for name, function in functions.items():
            model = made(dtype, n_features=2 * len(at), n_layers=1, n_filters=8, readout_activation=name)
            with torch.no_grad():
                for parameter in model.hidden.parameters():
                    parameter.zero_()
                model.hidden.bias.copy_(at)
            lone = build(Structure(np.array([8]), np.zeros((1, 3))), 4.0)
            hidden = predict(model, lone, ("energy",)).features[0].double()
            size = at.abs() + 1
            assert ((hidden - function(at)).abs() / size).max() < tolerance
            other = functions["silu" if name != "silu" else "shifted_softplus"]
            assert ((hidden - other(at)).abs() / size).max() > 0.1


@needs_compiler
def test_unknown_elements_and_broken_numbers(water):
    model = made(torch.float32, **SIZES[0])
    for unknown in (7, 118):
        numbers = np.where(water.numbers == 8, unknown, 1)
        with pytest.raises(UnknownElementError, match="this potential knows H, C, O, Si"):
            predict(model, build(Structure(numbers, water.positions), 4.0))
    graph = build(water, 4.0)
    assert model._network().energies(graph.replace(numbers=graph.numbers * 1000)) is None
    with pytest.raises(NotFiniteError):
        predict(model, graph.replace(_vectors=graph.vectors() * float("nan")))


def test_serves_processors_alone():
    cpu = torch.device("cpu")
    ask = partial(scalar_network.available, dtype=torch.float32)
    assert ask(cpu) == (native.library("schnet") is not None)
    assert not ask(torch.device("meta"))
    assert not scalar_network.available(cpu, torch.bfloat16)
