import re

import pytest
import torch

from epot.errors import FitError
from epot.fit import checkpoint, optimizers
from epot.fit.optimizers import Muon, ScheduleFree, Soap, make, orthogonalize
from epot.fit.parameters import split, widths
from epot.models.mace import MACE
from epot.models.painn import PaiNN


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(12, 12), (6, 20), (20, 6), (3, 10, 7)])
def test_newton_schulz_against_the_singular_value_decomposition(shape):
    """Witness: U V^T of torch.linalg.svd; the iteration is designed to end within 0.3 of singular value 1."""
    matrix = random(*shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    got = orthogonalize(matrix)
    singular = torch.linalg.svdvals(got)
    assert singular.min() > 0.65
    assert singular.max() < 1.35
    inside = u.mT @ got @ v.mT  # diagonal, if the singular vectors are kept
    torch.testing.assert_close(inside, torch.diag_embed(torch.diagonal(inside, dim1=-2, dim2=-1)), rtol=0, atol=1e-12)
    control = orthogonalize(matrix, steps=0)
    assert torch.linalg.svdvals(control).min() < 0.5


def test_products_in_bfloat16_leave_the_singular_vectors_and_the_spread_of_values():
    """Witness: the iteration in float64; what differs is far below what the iteration leaves (0.7 to 1.2)."""
    matrices = random(2, 160, 128).float()
    exact = orthogonalize(matrices.double())
    got = orthogonalize(matrices, precision=torch.bfloat16)
    assert got.dtype == torch.float32
    assert torch.linalg.matrix_norm(got - exact, 2).max() < 0.06  # of 1.2
    assert torch.linalg.matrix_norm(got - orthogonalize(matrices), 2).min() > 1e-4  # control: it was another precision


def test_only_large_matrices_in_single_precision_are_multiplied_in_bfloat16(monkeypatch):
    monkeypatch.setattr(optimizers, "_multiplies_bfloat16", lambda: True)
    assert optimizers.product_precision(torch.zeros(4, 128, 256)) == torch.bfloat16
    assert optimizers.product_precision(torch.zeros(4, 64, 256)) is None
    assert optimizers.product_precision(torch.zeros(128, 128, dtype=torch.float64)) is None
    monkeypatch.setattr(optimizers, "_multiplies_bfloat16", lambda: False)
    assert optimizers.product_precision(torch.zeros(128, 128)) is None


def quadratic(optimizer_class, steps=60, **settings):
    """Minimize ||A W B - C||^2; returns the losses."""
    a, b, c = random(8, 6, seed=1), random(5, 7, seed=2), random(8, 7, seed=3)
    w = torch.nn.Parameter(torch.zeros(6, 5, dtype=torch.float64))
    bias = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
    groups = [{"params": [w], "matrix": True, "weight_decay": 0.0}, {"params": [bias], "matrix": False}]
    optimizer = optimizer_class(groups, **settings)
    losses = []
    for _ in range(steps):
        loss = (a @ w @ b + bias - c).square().mean()
        w.grad, bias.grad = torch.autograd.grad(loss, [w, bias])
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, optimizer, (w, bias)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_rest_of_muon_is_adamw(amsgrad):
    """Witness: torch.optim.AdamW on the same gradients, which fall; control: of the other kind."""
    mine, other, control = (torch.nn.Parameter(random(5)) for _ in range(3))
    ours = Muon([{"params": [mine], "matrix": False, "weight_decay": 0.1, "amsgrad": amsgrad}], lr=0.03)
    theirs = torch.optim.AdamW([other], lr=0.03, weight_decay=0.1, amsgrad=amsgrad, betas=(0.9, 0.999))
    wrong = torch.optim.AdamW([control], lr=0.03, weight_decay=0.1, amsgrad=not amsgrad, betas=(0.9, 0.999))
    for k in range(20):
        grad = 0.5**k * random(5, seed=10 + k)
        for p, optimizer in ((mine, ours), (other, theirs), (control, wrong)):
            p.grad = grad.clone()
            optimizer.step()
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
    assert (mine - control).abs().max() > 1e-5


def test_amsgrad_has_the_rate_of_weights_that_a_root_divides():
    """Witness: torch's AMSGrad on v, where w = v / sqrt(n) is the map, as e3nn keeps v. Control: torch's at w's own."""
    layer = torch.nn.Linear(9, 4).double()
    divided, bias, plain = (
        torch.nn.Parameter(x.detach().clone()) for x in (3 * layer.weight, layer.bias, layer.weight)
    )
    ours = make("amsgrad", layer, 1e-2, 0.0)
    theirs = torch.optim.Adam([divided, bias], lr=1e-2, amsgrad=True)
    control = torch.optim.Adam([plain], lr=1e-2, amsgrad=True)
    for k in range(30):
        size = 0.8**k  # gradients that fall: a running mean of squares would forget the first
        layer.weight.grad, layer.bias.grad = size * random(4, 9, seed=k), size * random(4, seed=100 + k)
        divided.grad, bias.grad, plain.grad = layer.weight.grad / 3, layer.bias.grad.clone(), layer.weight.grad.clone()
        for optimizer in (ours, theirs, control):
            optimizer.step()
    torch.testing.assert_close(3 * layer.weight, divided, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(layer.bias, bias, rtol=1e-12, atol=1e-14)
    assert (plain - layer.weight).abs().max() > 0.02


def test_widths_of_maps_in_mace():
    """Square roots that e3nn would divide by; weights of powers act on each channel alone."""
    potential = MACE([1, 8], n_channels=6, max_l=1, max_ell=2, radial_mlp=(5,))
    names = {name: widths(potential).get(id(p)) for name, p in potential.named_parameters()}
    assert names["interactions.0.up"] == names["products.0.mix"] == 6
    assert names["interactions.1.mix.0"] == 12  # messages of scalars and of vectors
    assert names["interactions.0.network.layers.0"] == 8
    assert names["interactions.0.weight"] == 5
    assert names["readout.weight"] == len(potential.readout.weight)
    assert all(width is None for name, width in names.items() if "powers" in name)
    shares = {g["share"] for g in make("amsgrad", potential, 1e-2, 0.0, radial_rate=0.1).param_groups}
    assert any(abs(x - 0.1 * 8**-0.5) < 1e-12 for x in shares)


@pytest.mark.parametrize(("weight", "width"), [("network.layers.0", 8), ("weight", 5)])
def test_muon_leaves_radial_functions_to_amsgrad(weight, width):
    """Witness: torch's AMSGrad at the rate over the root of the width. Control: a map of channels, which Muon turns."""
    potential = MACE([1, 8], n_channels=6, max_l=1, max_ell=2, radial_mlp=(5,)).double()
    parts = dict(potential.named_parameters())
    mine, turned = (parts[f"interactions.0.{name}"] for name in (weight, "up"))
    other, plain = (torch.nn.Parameter(p.detach().clone()) for p in (mine, turned))
    ours = make("muon", potential, 0.01, 0.0, radial_rate=0.5)
    theirs = torch.optim.AdamW([other], lr=0.5 * 0.01 * width**-0.5, weight_decay=0.0, amsgrad=True)
    control = torch.optim.AdamW([plain], lr=0.01, weight_decay=0.0)
    for k in range(4):
        for p, q in ((mine, other), (turned, plain)):
            p.grad = random(*p.shape, seed=k)
            q.grad = p.grad.clone()
        for optimizer in (ours, theirs, control):
            optimizer.step()
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
    assert (turned - plain).abs().max() > 0.005


def test_muon_against_torch():
    """Witness: torch.optim.Muon, which iterates in bfloat16, so to a few percent only."""
    mine, other = (torch.nn.Parameter(random(6, 20).float()) for _ in range(2))
    start = mine.detach().clone()
    ours = Muon([{"params": [mine], "matrix": True, "weight_decay": 0.0}], lr=0.01)
    theirs = torch.optim.Muon([other], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for k in range(3):
        grad = random(6, 20, seed=10 + k).float()
        mine.grad, other.grad = grad.clone(), grad.clone()
        ours.step()
        theirs.step()
    moved = (mine - start).norm()
    assert (mine - other).norm() < 0.03 * moved
    assert moved > 0.01


def test_soap_without_rotation_is_adam():
    """Witness: torch.optim.Adam; a preconditioner that is the identity (sides too long to rotate) changes nothing."""
    mine, other = (torch.nn.Parameter(random(4, 3)) for _ in range(2))
    ours = Soap([{"params": [mine], "matrix": True, "weight_decay": 0.0}], lr=0.03, largest=1)
    theirs = torch.optim.Adam([other], lr=0.03, betas=(0.95, 0.95))
    for k in range(6):
        grad = random(4, 3, seed=10 + k)
        mine.grad = grad.clone()
        ours.step()
        if k:  # the first gradient only sets the eigenbasis
            other.grad = grad.clone()
            theirs.step()
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


def test_soap_finds_the_eigenbasis():
    """Witness: torch.linalg.eigh of the summed outer products, of gradients with well separated directions."""
    optimizer = Soap([{"params": [torch.nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))], "matrix": True}], lr=0.0)
    p = optimizer.param_groups[0]["params"][0]
    turn = torch.linalg.qr(random(4, 4))[0]
    for k in range(200):
        p.grad = turn @ (torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)[:, None] * random(4, 3, seed=k))
        optimizer.step()
    state = optimizer.state[p]
    exact = torch.linalg.eigh(state["l"])[1].flip(-1)
    overlap = (exact.mT @ state["ql"]).abs()
    assert overlap.diagonal().min() > 0.97


@pytest.mark.parametrize("kind", [Muon, Soap])
def test_optimizers_minimize(kind):
    losses, _, _ = quadratic(kind, steps=300, lr=0.02)
    assert losses[-1] < 0.35 * losses[0]
    assert losses[-1] < losses[50]


@pytest.mark.parametrize("name", ["adamw", "amsgrad", "schedule_free", "muon", "soap"])
def test_state_survives_a_checkpoint(name, tmp_path):
    def steps(optimizer, module, first, n):
        for k in range(first, first + n):
            for i, p in enumerate(module.parameters()):
                p.grad = random(*p.shape, seed=100 * k + i).float()
            optimizer.step()

    def net():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))

    whole, first = net(), net()
    optimizer = make(name, whole, 1e-2, 1e-3)
    steps(optimizer, whole, 0, 15)
    before = make(name, first, 1e-2, 1e-3)
    steps(before, first, 0, 7)
    tensors, facts = checkpoint.pack_optimizer(before)
    checkpoint.save(tmp_path / "c.safetensors", tensors | checkpoint.prefixed("w", first.state_dict()), facts)
    tensors, facts = checkpoint.load(tmp_path / "c.safetensors")
    second = net()
    second.load_state_dict(checkpoint.under("w", tensors))
    after = make(name, second, 1e-2, 1e-3)
    checkpoint.unpack_optimizer(after, {k: v for k, v in tensors.items() if not k.startswith("w/")}, facts)
    steps(after, second, 7, 8)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    fresh = net()
    fresh.load_state_dict(first.state_dict())
    steps(make(name, fresh, 1e-2, 1e-3), fresh, 7, 8)  # control: without its state it goes elsewhere
    assert not torch.equal(next(fresh.parameters()), next(whole.parameters()))


@pytest.mark.parametrize("changed", ["groups", "settings"])
def test_state_of_another_kind_is_refused(toynet, changed):
    """As an earlier version left it. Control: its own state is taken."""
    optimizer = make("muon", toynet(), 1e-2, 1e-3)
    tensors, facts = checkpoint.pack_optimizer(optimizer)
    checkpoint.unpack_optimizer(optimizer, tensors, facts)
    old = [{k: v for k, v in g.items() if k != "share" or changed == "groups"} for g in facts["groups"]]
    with pytest.raises(FitError, match="delete the checkpoint"):
        checkpoint.unpack_optimizer(optimizer, tensors, facts | {"groups": old[: 1 if changed == "groups" else 2]})


def test_only_matrices_decay(toynet):
    potential = toynet()
    matrices, others = split(potential)
    names = {id(p): name for name, p in potential.named_parameters()}
    assert sorted(names[id(p)] for p in matrices) == ["dense.weight", "mix.weight"]
    assert sorted(names[id(p)] for p in others) == [
        "dense.bias", "embedding.weight", "mix.bias", "readout.bias", "readout.weight",
    ]  # fmt: skip
    potential.mix.weight.requires_grad_(False)
    assert len(split(potential)[0]) == 1
    for name in optimizers.RATES:
        decay = {g["weight_decay"] for g in make(name, potential, 1e-3, 0.1).param_groups if len(g["params"]) > 1}
        assert decay == {0.0}


def test_what_mixes_channels_in_mace():
    """Maps of degrees are stacks of matrices. Powers have weights of each channel alone; maps of elements are named."""
    torch.manual_seed(1)
    potential = MACE.tiny().double()
    matrices, others = split(potential)
    names = {id(p): name for name, p in potential.named_parameters()}
    assert {"interactions.1.up", "products.0.mix"} <= {names[id(p)] for p in matrices}
    rest = {"products.0.powers.weights.1", "interactions.0.up", "interactions.1.skip", "hidden", "embedding.weight"}
    assert rest <= {names[id(p)] for p in others}
    stack = potential.interactions[0].skip.detach()
    alone = torch.stack([torch.stack([orthogonalize(m) for m in kind]) for kind in stack])
    assert torch.allclose(orthogonalize(stack), alone, atol=1e-9)


@pytest.mark.parametrize("name", optimizers.RATES)
def test_radial_networks_learn_more_slowly(name):
    """One update goes a tenth as far. Control: everything else goes as far as without."""

    def moved(share):
        torch.manual_seed(3)
        potential = MACE.tiny()
        start = {k: p.detach().clone() for k, p in potential.named_parameters()}
        optimizer = make(name, potential, 1e-3, 0.0, share)
        for _ in range(2):
            torch.manual_seed(4)
            for p in potential.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
        return {k: (p.detach() - start[k]).norm() for k, p in potential.named_parameters()}

    whole, part = moved(1.0), moved(0.1)
    for k, distance in whole.items():
        expected = 0.1 if re.fullmatch(r"interactions\.\d\.(network\..*|weight)", k) else 1.0
        assert float(part[k] / distance) == pytest.approx(expected, rel=1e-3)


def test_schedule_free_by_its_equations():
    """Witness: equations 3 to 5 of arXiv:2405.15682 with Adam's scale, number by number, with a rate that rises."""
    b1, b2, eps, decay = 0.9, 0.98, 1e-8, 0.1
    p = torch.nn.Parameter(random(7))
    z, x, v, total = p.detach().clone(), p.detach().clone(), torch.zeros(7, dtype=torch.float64), 0.0
    optimizer = ScheduleFree([{"params": [p], "weight_decay": decay}], lr=0.0)
    for k, rate in enumerate([0.0, 0.01, 0.02, 0.03, 0.03, 0.015]):
        y = (1 - b1) * z + b1 * x
        torch.testing.assert_close(p.detach(), y, rtol=0, atol=1e-14)
        grad = random(7, seed=10 + k)
        v = b2 * v + (1 - b2) * grad**2
        z = z - rate * (grad / ((v / (1 - b2 ** (k + 1))).sqrt() + eps) + decay * y)
        highest = min(0.03, 0.01 * k)
        total += highest**2
        c = highest**2 / total if total else 0.0
        x = (1 - c) * x + c * z
        p.grad, optimizer.param_groups[0]["lr"] = grad.clone(), rate
        optimizer.step()
        torch.testing.assert_close(optimizer.averages([p])[0], x, rtol=0, atol=1e-14)
    assert (p.detach() - x).abs().max() > 1e-4  # what is trained is not what is kept


def test_schedule_free_is_a_plain_mean_at_a_constant_rate():
    """Closed form: x is the mean of all z; with b1 = 0 gradients are taken at z, and z is RMSprop's path."""
    p = torch.nn.Parameter(random(5))
    optimizer = ScheduleFree([{"params": [p]}], lr=0.02, betas=(0.0, 0.98))
    path = []
    for k in range(9):
        p.grad = random(5, seed=30 + k)
        optimizer.step()
        path.append(optimizer.state[p]["z"].clone())
        assert torch.equal(p.detach(), path[-1])
    torch.testing.assert_close(optimizer.averages([p])[0], torch.stack(path).mean(0), rtol=1e-13, atol=0)
    idle = torch.nn.Parameter(random(2))
    assert torch.equal(optimizer.averages([idle])[0], idle)


def test_schedule_free_keeps_better_weights_than_it_is_at():
    """On a least-squares problem with noise in its gradients; and the control, that the last weights are worse."""
    target, noise = random(20), torch.Generator().manual_seed(5)
    p = torch.nn.Parameter(torch.zeros(20, dtype=torch.float64))
    optimizer = ScheduleFree([{"params": [p]}], lr=0.05)
    for _ in range(400):
        p.grad = p.detach() - target + 2.0 * torch.randn(20, generator=noise, dtype=torch.float64)
        optimizer.step()
    errors = [float((w - target).norm()) for w in (optimizer.averages([p])[0], optimizer.state[p]["z"])]
    assert errors[0] < 0.6 * errors[1]


def test_only_models_that_say_so_have_the_rates_of_e3nn():
    """Control: a model whose weights are what its paper states rates of keeps AdamW at the whole rate."""
    for potential, expected in ((MACE([1, 8], n_channels=4, max_ell=1), True), (PaiNN((1, 8), n_features=8), False)):
        rest = [g for g in make("muon", potential, 1e-2, 0.0).param_groups if not g["matrix"]]
        assert rest
        assert {g["amsgrad"] for g in rest} == {expected}
        assert (min(g["share"] for g in rest) < 1) == expected
