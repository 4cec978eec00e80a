import math

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.fit.batches import join, labels_of
from epot.fit.loss import Loss, Residuals, centered, residuals
from epot.geometry.graph import build
from epot.predict import predict
from epot.terms.offsets import Offsets

WATER = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


def structures():
    """Three sizes; one without energy, one without forces, one with a stress, one whose stress has no meaning."""
    rng = np.random.default_rng(0)
    cell = np.diag([5.0, 6.0, 7.0])
    stress = rng.normal(size=(3, 3)) * 0.01
    open_axis = {"cell": np.diag([9.0] * 3), "pbc": [True, True, False]}
    return [
        Structure(np.array([8, 1, 1]), WATER, energy=-20.0, forces=rng.normal(size=(3, 3))),
        Structure(np.array([8, 1]), WATER[:2], energy=-12.0, stress=stress, **open_axis),
        Structure(
            np.array([1, 1, 1, 8]),
            np.vstack([WATER, [[2.0, 2, 2]]]),
            forces=rng.normal(size=(4, 3)),
            stress=stress,
            cell=cell,
            pbc=True,
        ),
    ]


def made_and_labels(targets=("energy", "forces", "stress")):
    s = structures()
    graph = build(s, 4.0)
    labels = join([labels_of(one, targets) for one in s])
    made = predict(Offsets((1, 8), values=(-3.0, -7.0)), graph, labels.want())
    return s, graph, labels, made


def test_residuals_by_hand_with_masks_and_sizes():
    s, graph, labels, made = made_and_labels()
    found = residuals(made, labels, graph)
    expected = torch.tensor([(-13.0 + 20.0) / 3, (-10.0 + 12.0) / 2], dtype=torch.float64)
    torch.testing.assert_close(found.energy, expected, rtol=1e-14, atol=0)
    forces = -torch.from_numpy(np.vstack([s[0].forces, s[2].forces]))
    torch.testing.assert_close(found.forces, forces, rtol=1e-14, atol=0)
    torch.testing.assert_close(found.virial, -torch.from_numpy(s[2].stress)[None] * 210.0 / 4, rtol=1e-14, atol=0)


def test_a_stress_counts_only_where_all_axes_are_periodic():
    _, _, labels, _ = made_and_labels()
    assert labels.has_stress.tolist() == [False, False, True]
    assert labels.want() == ("energy", "forces", "virial")
    _, _, labels, _ = made_and_labels(targets=("energy",))
    assert labels.want() == ("energy",)


def test_mse_by_hand():
    _, graph, labels, made = made_and_labels()
    found = residuals(made, labels, graph)
    total, parts = Loss(2.0, 3.0, 5.0, kind="mse", unit=2.0)(found, energy_factor=7.0)
    e = 2.0 * 7.0 * ((7 / 3) ** 2 + 1.0) / 2 / 4
    f = 3.0 * float((found.forces**2).sum()) / (7 * 3) / 4
    v = 5.0 * float((found.virial**2).sum()) / 9 / 4
    assert float(total) == pytest.approx(e + f + v, rel=1e-13)
    assert {k: float(p) for k, p in parts.items()} == pytest.approx({"energy": e, "forces": f, "virial": v})


def test_huber_by_hand():
    errors = torch.tensor([0.005, -0.3], dtype=torch.float64)
    expected = (0.5 * 0.005**2 + 0.01 * (0.3 - 0.005)) / 2
    total, _ = Loss(kind="huber", delta=0.01)(Residuals(errors, None, None))
    assert float(total) == pytest.approx(expected, rel=1e-13)


def test_norm_by_hand_does_not_depend_on_orientation():
    forces = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    virial = torch.full((1, 3, 3), 2.0, dtype=torch.float64)
    energy = torch.tensor([-1.0, 3.0], dtype=torch.float64)
    loss = Loss(1.0, 10.0, 100.0, kind="norm")
    total, _ = loss(Residuals(energy, forces, virial))
    assert float(total) == pytest.approx(2.0 + 10 * 3.5 + 100 * 2.0, rel=1e-13)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    turned = Residuals(energy, forces @ turn.T, turn @ virial @ turn.T)
    assert float(loss(turned)[0]) == pytest.approx(float(total), rel=1e-13)
    huber = Loss(1.0, 10.0, 100.0, kind="huber", delta=0.5)  # control: components do depend on it
    assert abs(float(huber(turned)[0]) - float(huber(Residuals(energy, forces, virial))[0])) > 1e-3


@pytest.mark.parametrize("kind", ["mse", "huber", "conditional_huber", "norm"])
def test_gradient_at_zero_error_is_finite(kind):
    forces = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    total, _ = Loss(kind=kind)(Residuals(None, forces, None))
    (grad,) = torch.autograd.grad(total, forces)
    assert torch.isfinite(grad).all()


def test_a_weight_of_zero_leaves_a_term_out():
    total, parts = Loss(energy=0.0)(Residuals(torch.ones(2), None, None))
    assert parts == {}
    assert not math.isnan(float(total))


def test_batches_do_not_mix_structures(toynet, molecules):
    """No gradient leaks: forces on one molecule do not change when its neighbor in the batch is replaced."""
    from epot.geometry.graph import collate

    torch.manual_seed(0)
    potential = toynet()
    data = molecules(4)
    graphs = [build(s, potential.cutoff) for s in data]
    forces = [predict(potential, collate([graphs[0], other])).forces[: graphs[0].n_atoms] for other in graphs[1:]]
    for f in forces[1:]:
        assert torch.equal(f, forces[0])
    moved = build(data[0].replace(positions=data[0].positions * 1.01), potential.cutoff)  # control
    assert not torch.equal(predict(potential, moved).forces, forces[0])


def test_conditional_huber_by_hand():
    """Witness: torch's Huber loss of each group of atoms with its delta; a threshold belongs to the next group."""
    norms = torch.tensor([3.0, 99.9, 100.0, 199.0, 200.0, 299.0, 300.0, 5000.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    errors = 0.05 * torch.randn(8, 3, generator=generator, dtype=torch.float64)
    delta, unit = 0.02, 2.0
    groups = [1.0, 1.0, 0.7, 0.7, 0.4, 0.4, 0.1, 0.1]
    each = [
        torch.nn.functional.huber_loss(e / unit, torch.zeros(3, dtype=torch.float64), delta=delta * g)
        for e, g in zip(errors, groups, strict=True)
    ]
    loss = Loss(kind="conditional_huber", delta=delta, unit=unit)
    total, _ = loss(Residuals(None, errors, None, forces_label=norms))
    assert float(total) == pytest.approx(float(torch.stack(each).mean()), rel=1e-13)
    plain, _ = Loss(kind="huber", delta=delta, unit=unit)(Residuals(None, errors, None))
    small, _ = loss(Residuals(None, errors, None, forces_label=torch.ones_like(norms)))
    assert float(small) == pytest.approx(float(plain), rel=1e-13)
    assert abs(float(total) - float(plain)) > 0.1 * float(plain)  # control
    energies, _ = loss(Residuals(errors[:, 0], None, None))
    assert float(energies) == pytest.approx(
        float(Loss(kind="huber", delta=delta, unit=unit)(Residuals(errors[:, 0], None, None))[0]), rel=1e-13
    )


def test_labels_of_forces_go_with_their_errors():
    """Of the atoms that have labels, in their order; the same with members, each atom's once for each of them."""
    _, graph, labels, made = made_and_labels()
    found = residuals(made, labels, graph)
    assert torch.equal(found.forces_label, labels.forces[labels.has_forces].norm(dim=1))
    assert len(found.forces_label) == len(found.forces)


def test_centered_energies_know_no_common_constant():
    """The gradient of what moves all energies alike is zero, of one energy it is not; a lone energy stays."""
    errors, bound = torch.tensor([0.1, -0.3, 0.7], dtype=torch.float64), torch.ones(3, dtype=torch.bool)
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    total, _ = Loss(kind="mse")(centered(Residuals(errors + shift, None, None), bound))
    assert float(total.detach()) == pytest.approx(float(np.var(errors.numpy())), rel=1e-14)
    (slope,) = torch.autograd.grad(total, shift)
    assert float(slope.sum()) == pytest.approx(0.0, abs=1e-15)
    assert float(slope.abs().min()) > 0.01
    plain, _ = Loss(kind="mse")(Residuals(errors + shift, None, None))
    assert abs(float(torch.autograd.grad(plain, shift)[0].sum())) > 0.1
    alone = Residuals(errors[:1], None, None)
    assert centered(alone, bound[:1]) is alone


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_a_constant_of_part_of_its_weight(share):
    """Witness: mean squares are variance + share mean^2, of structures of what is bound; free atoms stay."""
    errors = torch.tensor([0.1, -0.3, 5.0, 0.7], dtype=torch.float64)
    bound = torch.tensor([True, True, False, True])
    left = centered(Residuals(errors, None, None), bound, share).energy
    assert float(left[2]) == 5.0
    kept = errors[bound]
    expected = float(kept.var(correction=0) + share * kept.mean() ** 2)
    assert float(left[bound].square().mean()) == pytest.approx(expected, rel=1e-14)
    assert (share == 1.0) == torch.equal(left, errors)
