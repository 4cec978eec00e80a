"""Committees: one descent fits every member by itself.

Witnesses: the same potentials fitted one by one; sums over members by hand; the backward pass of each member alone.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from epot.errors import ConfigError, FitError
from epot.features.descriptors.spherical_bessel import SphericalBessel
from epot.fit.batches import join, labels_of
from epot.fit.config import build_stages
from epot.fit.loss import SECANT, Loss, member_residuals, residuals
from epot.fit.run import fit
from epot.geometry.graph import build
from epot.potential import Output, Potential, Shared, Sum, has_members, is_committee
from epot.predict import predict
from epot.terms.offsets import Offsets
from epot.uncertainty.calibration import Calibration


class Unregistered(Potential):
    """For a fit's record alone."""

    def config(self):
        return {"name": type(self).__name__}


class Several(Unregistered):
    """Potentials side by side."""

    committee = True

    def __init__(self, potentials):
        super().__init__()
        self.potentials = nn.ModuleList(potentials)
        self.elements, self.cutoff, self.n_members = (1, 8), potentials[0].cutoff, len(potentials)

    def forward(self, graph):
        members = torch.stack([p(graph).energy for p in self.potentials], 1)
        return Output(members.mean(1), members)


class SharedRows(Potential):
    """Three dense networks on one descriptor; ``shared=False`` leaves out what speeds derivatives up."""

    committee = True
    n_members = 3

    def __init__(self, shared=True, own=False):
        super().__init__()
        self.bessel, self.shared, self.own = SphericalBessel((1, 8), 3.5, 2), shared, own
        self.elements, self.cutoff = (1, 8), 3.5
        generator = torch.Generator().manual_seed(5)
        draw = lambda *shape: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))  # noqa: E731
        self.first, self.last = draw(3, self.bessel.size, 5), draw(3, 5)

    def forward(self, graph):
        rows = self.bessel(graph)
        copies = rows.expand(3, *rows.shape)
        hidden = torch.tanh(torch.bmm(copies, self.first))
        members = (hidden * self.last[:, None]).sum(2).T
        common = None
        if self.own:  # a part that all have in common, of the vectors themselves
            r = graph.vectors().square().sum(1)
            common = r.new_zeros(graph.n_atoms).index_add(0, graph.pairs[0], torch.exp(-r))
            members = members + common[:, None]
        return Output(members.mean(1), members, shared=Shared((rows,), (copies,), common) if self.shared else None)


class Noisy(Unregistered):
    """Energies of a potential with the same variances for all atoms."""

    variance_heads = True

    def __init__(self, inner, members=0):
        super().__init__()
        self.inner, self.members = inner, members
        self.elements, self.cutoff = inner.elements, inner.cutoff
        self.widths = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, graph):
        found = self.inner(graph)
        return found._replace(variance=nn.functional.softplus(self.widths).expand(graph.n_atoms, 2))


def test_members_are_fitted_as_if_alone(toynet, molecules):
    torch.manual_seed(3)
    alone = [toynet(width=8), toynet(width=8)]
    offsets = Offsets((1, 8), (-3.0, -7.0))
    together = Sum(offset=offsets, body=Several([copy.deepcopy(p) for p in alone]))
    settings = {"epochs": 4, "batch_atoms": 30, "optimizer": "adamw", "ema": 0.5, "clip": None}
    run = lambda p: fit(  # noqa: E731
        p, molecules(16), stages=["descend"], options={"descend": settings}, holdout=0.0
    )
    run(together)
    for potential, member in zip(alone, together.terms["body"].potentials, strict=True):
        before = {k: v.clone() for k, v in potential.state_dict().items()}
        run(Sum(offset=offsets, body=potential))
        for name, value in potential.state_dict().items():
            torch.testing.assert_close(member.state_dict()[name], value, rtol=1e-6, atol=1e-9)
        assert (potential.dense.weight - before["dense.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["norm", "mse", "logcosh", "logcosh_norm"])
def test_loss_is_the_mean_of_the_members_losses(toynet, molecules, kind):
    torch.manual_seed(0)
    potentials = [toynet(), toynet(), toynet()]
    data = [molecules(6)[k] for k in range(6)]
    graph, labels = build(data, 4.0), join([labels_of(s) for s in data])
    loss = Loss(2.0, 3.0, kind=kind, unit=0.7, delta=0.2)
    made = predict(Several(potentials), graph, ("energy", "forces", "members"), create_graph=True)
    total, _ = loss(member_residuals(made, labels, graph))
    each = [loss(residuals(predict(p, graph), labels, graph))[0] for p in potentials]
    assert float(total.detach()) == pytest.approx(float(torch.stack(each).mean()), rel=1e-12)
    mean = loss(residuals(made, labels, graph))[0]  # a control: the loss of the mean is another
    assert abs(float(mean.detach()) - float(total.detach())) > 1e-3


def test_bags_choose_structures_member_by_member(toynet, molecules):
    torch.manual_seed(0)
    potentials = [toynet(), toynet()]
    data = [molecules(4)[k] for k in range(4)]
    graph, labels = build(data, 4.0), join([labels_of(s) for s in data])
    bags = torch.tensor([[True, False], [True, False], [False, True], [False, True]])
    made = predict(Several(potentials), graph, ("energy", "forces", "members"), create_graph=True)
    found = member_residuals(made, labels, graph, bags)
    for potential, half, energies in (
        (potentials[0], data[:2], found.energy[:2]),
        (potentials[1], data[2:], found.energy[2:]),
    ):
        few = build(half, 4.0)
        alone = residuals(predict(potential, few), join([labels_of(s) for s in half]), few)
        torch.testing.assert_close(energies, alone.energy, rtol=1e-12, atol=1e-12)
    assert found.forces.shape == (sum(len(s) for s in data), 3)
    (grad,) = torch.autograd.grad(found.energy[:2].sum(), potentials[1].mix.weight, allow_unused=True)
    assert grad is None or not grad.any()


def test_bagging_in_a_fit(toynet, molecules):
    torch.manual_seed(0)
    settings = {"epochs": 2, "batch_atoms": 30, "bagging": 0.5}
    several = Sum(offset=Offsets((1, 8)), body=Several([toynet(width=8), toynet(width=8)]))
    state = fit(several, molecules(16), options={"descend": settings})
    assert [line["event"] for line in state.journal.lines][-1] == "done"
    with pytest.raises(FitError, match="one member"):
        fit(toynet(), molecules(16), options={"descend": settings})
    with pytest.raises(ConfigError, match="bagging"):
        fit(toynet(), molecules(16), options={"descend": {"bagging": 0.0}})


@pytest.mark.parametrize("own", [False, True])
def test_shared_rows_give_the_same_derivatives(molecules, own):
    """Witness: a backward pass of each member by itself, through everything."""
    graph = build([molecules(3)[k] for k in range(3)], 3.5)
    baseline = Offsets((1, 8), (-3.0, -7.0))
    grads, made = [], []
    for shared in (True, False):
        potential = SharedRows(shared, own)
        found = predict(Sum(offset=baseline, body=potential), graph, ("forces", "virial", "members"), create_graph=True)
        assert is_committee(potential)
        (found.members.forces.pow(3).sum() + found.members.virial.pow(2).sum()).backward()
        grads.append([potential.first.grad, potential.last.grad])
        made.append(found)
    torch.testing.assert_close(made[0].members.forces, made[1].members.forces, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(made[0].members.virial, made[1].members.virial, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(made[0].forces, predict(potential, graph).forces, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(made[0].virial, predict(potential, graph, ("virial",)).virial, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-10)
    assert grads[0][0].abs().max() > 1e-2
    spread = made[0].members.forces.std(-1)
    assert spread.max() > 0.1
    alone = predict(potential, graph, ("forces", "members"))
    assert not alone.members.forces.requires_grad


def test_recipe_of_a_committee_has_no_posterior(toynet, molecules):
    several = Sum(offset=Offsets((1, 8)), body=Several([toynet(), toynet()]))
    assert has_members(several)
    assert [type(s).__name__ for s in build_stages(None, several, has_valid=True)] == [
        "FitOffsets",
        "Descend",
        "Calibrate",
    ]
    state = fit(several, molecules(24), options={"descend": {"epochs": 3}}, holdout=0.3)
    found = Calibration.of(state.about)
    assert found.kind == "ensemble"
    assert found.statistics["forces"]["calibration_factor"] == pytest.approx(1.0)
    assert found.forces != 1.0  # kept in the calibration: members of a committee are not moved


def test_learned_variances_and_members_add_up(toynet, molecules):
    """Witness: mean of the variances plus variance of the means, by numpy."""
    torch.manual_seed(0)
    graph = build([molecules(3)[k] for k in range(3)], 4.0)
    noisy = Noisy(Several([toynet(), toynet(), toynet()]))
    made = predict(noisy, graph, ("energy", "forces", "members"))
    std = Calibration(energy=2.0, forces=3.0).std(made, graph.sizes)
    owner, raw = graph.owner.numpy(), noisy(graph).variance.detach().numpy()
    energy = np.bincount(owner, raw[:, 0]) + made.members.energy.numpy().var(-1, ddof=1)
    np.testing.assert_allclose(std["energy"], 2 * np.sqrt(energy), rtol=1e-12)
    forces = raw[:, 1:] + made.members.forces.numpy().var(-1, ddof=1)
    np.testing.assert_allclose(std["forces"], 3 * np.sqrt(forces), rtol=1e-12)


def test_likelihood_by_hand_and_its_minimum(toynet, molecules):
    torch.manual_seed(0)
    data = [molecules(3)[k] for k in range(3)]
    graph, labels = build(data, 4.0), join([labels_of(s) for s in data])
    noisy = Noisy(toynet())
    made = predict(noisy, graph)
    total, parts = Loss(2.0, 3.0, kind="nll", unit=0.5)(residuals(made, labels, graph))
    e = (made.energy - labels.energy).numpy()
    v = made.variance.energy.numpy()
    n = graph.sizes.numpy()
    energy = np.mean(0.5 * (e**2 / v + np.log(v / n**2 / 0.25)))
    s = np.sqrt(SECANT * made.variance.forces.numpy())
    norms = np.linalg.norm((made.forces - labels.forces).numpy(), axis=1)
    forces = np.mean(np.log(np.cosh(np.pi * norms / 2 / s)) + np.log(s / 0.5))
    assert float(total) == pytest.approx(2 * energy + 3 * forces, rel=1e-10)
    assert float(parts["forces"]) == pytest.approx(3 * forces, rel=1e-10)


def test_a_fit_learns_the_variance(molecules):
    """Errors of known sizes of energies and forces: a potential that knows nothing else learns their variances."""
    rng = np.random.default_rng(0)
    noise = lambda s: {"energy": rng.normal() * 1.5 * len(s) ** 0.5, "forces": 0.4 * rng.normal(size=(len(s), 3))}  # noqa: E731
    data = [s.replace(**noise(s)) for s in molecules(60)]
    noisy = Sum(offset=Offsets((1, 8), (0.0, 0.0)), body=Noisy(Still()))
    settings = {"epochs": 60, "learning_rate": 0.2, "optimizer": "adamw", "ema": 0.9}
    fit(noisy, data, stages=["descend"], options={"descend": settings}, holdout=0.0)
    graph = build(data, 4.0)
    learned = predict(noisy, graph, ("energy",)).variance
    assert float((learned.energy / graph.sizes).mean()) == pytest.approx(1.5**2, rel=0.3)
    assert float(learned.forces.mean()) == pytest.approx(0.4**2, rel=0.15)


class Still(Unregistered):
    """No energy, whatever the geometry."""

    elements, cutoff = (1, 8), 4.0

    def forward(self, graph):
        return Output(graph.positions.new_zeros(graph.n_atoms))


def test_likelihood_needs_variances(toynet, molecules):
    with pytest.raises(FitError, match="learns variances"):
        fit(toynet(), molecules(16), options={"descend": {"loss": "nll"}})
