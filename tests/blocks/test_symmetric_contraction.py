"""Symmetric contraction. Witnesses: mace-torch 0.3.16, einsum with whole tensors, finite differences."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from epot.blocks import symmetric_contraction
from epot.blocks.coupling import symmetric_couplings
from epot.blocks.equivariant import wigner_d
from epot.blocks.symmetric_contraction import SymmetricContraction
from epot.errors import ConfigError, DataError

KEPT = np.load(Path(__file__).parents[1] / "data_files" / "mace_algebra.npz")
CASES = sorted({name.rsplit("/", 1)[0] for name in KEPT.files if name.startswith("B/") and name.endswith("features")})


def made(n_elements, channels, l_max, l_out, correlation, reduced=False, seed=0):
    torch.manual_seed(seed)
    return SymmetricContraction(n_elements, channels, l_max, l_out, correlation, reduced).double()


def features(l_max, channels, atoms, seed=1):
    return torch.randn(
        (l_max + 1) ** 2, channels, atoms, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def by_einsum(module, l_max, a, counts, correlation, reduced=False):
    """mace-torch's way: the whole tensor, one feature after another."""
    rows = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    weights, out = iter(module.weights), []
    for l_out in module.l_out:
        total = 0
        for order in range(1, correlation + 1):
            tensor = symmetric_couplings(l_max, l_out, order, reduced)
            table = torch.einsum("p...k,nkc->p...cn", tensor, next(weights)[rows])
            for _ in range(order):
                table = torch.einsum("pa...cn,acn->p...cn", table, a)
            total = total + table
        out.append(total)
    return out


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_mace(name):
    l_max, order, reduced = int(name[2]), int(name.split("/")[3]), bool(int(name[-1]))
    l_out = [int(n) for n in name.split("/")[2]]
    module = made(2, 3, l_max, l_out, order, reduced)
    for w, (n, k) in zip(module.weights, [(n, k) for n in l_out for k in range(1, order + 1)], strict=True):
        w.data.copy_(torch.from_numpy(KEPT[f"{name}/weights/{n}/{k}"]))
    a = torch.from_numpy(KEPT[f"{name}/features"]).permute(2, 1, 0)
    found = torch.cat([b.permute(2, 1, 0).flatten(1) for b in module(a, (3, 1))], 1)
    np.testing.assert_allclose(found.detach().numpy(), KEPT[f"{name}/values"], atol=1e-12)
    other, expected = module(a, (2, 2))[0].detach().numpy()[0].T, KEPT[f"{name}/values"][:, :3]
    np.testing.assert_allclose(other[[0, 1, 3]], expected[[0, 1, 3]], atol=1e-12)
    assert np.abs(other[2] - expected[2]).max() > 1e-3  # another element, other weights


@pytest.mark.parametrize(
    ("l_max", "l_out", "correlation"),
    [(0, (0,), 3), (2, (0, 1, 2), 3), (3, (0, 1), 3), (3, (1,), 2), (3, (0, 2), 1), (1, (0, 1), 4), (2, (0,), 4)],
)
def test_values_are_those_of_einsum(l_max, l_out, correlation):
    module, a, counts = made(3, 2, l_max, l_out, correlation), features(l_max, 2, 5), (2, 0, 3)
    expected = by_einsum(module, l_max, a, counts, correlation)
    for once in (False, True):
        for b, e in zip(module(a, counts, once), expected, strict=True):
            torch.testing.assert_close(b, e, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("correlation", [1, 2, 3, 4])
def test_first_and_second_derivatives(correlation):
    module, a = made(2, 2, 2, (0, 1), correlation), features(2, 2, 3).requires_grad_()
    names = [name for name, _ in module.named_parameters()]

    def values(a, *weights):
        return tuple(torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (a, (1, 2))))

    assert torch.autograd.gradcheck(values, (a, *module.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(values, (a, *module.parameters()), fast_mode=True)


def test_chunks_do_not_change_anything(monkeypatch):
    module, a, counts = made(2, 5, 2, (0, 1), 3), features(2, 5, 9).requires_grad_(), (2, 7)
    found = []
    for chunk, atoms in ((10**6, 10**6), (4, 3)):
        monkeypatch.setattr(symmetric_contraction, "CHUNK", chunk)
        monkeypatch.setattr(symmetric_contraction, "ATOMS", atoms)
        b = torch.cat(module(a, counts))
        (slope,) = torch.autograd.grad(b.sin().sum(), a, create_graph=True)
        found.append([b, slope, *torch.autograd.grad(slope.square().sum(), [a, *module.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_forces_alone_are_those_of_training():
    module, a, counts = made(2, 4, 3, (0, 1), 3), features(3, 4, 6).requires_grad_(), (4, 2)
    slopes = [torch.autograd.grad(torch.cat(module(a, counts, once)).sin().sum(), a)[0] for once in (False, True)]
    torch.testing.assert_close(*slopes, atol=1e-12, rtol=1e-12)


def test_kept_coefficients_follow_the_weights():
    module, a = made(1, 2, 1, (0,), 2), features(1, 2, 3)
    before = module(a, (3,), True)[0]
    with torch.no_grad():
        module.weights[0].mul_(2)
    after = module(a, (3,), True)[0]
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, module(a, (3,))[0].detach())
    module.float()
    assert module(a.float(), (3,), True)[0].dtype == torch.float32
    torch.testing.assert_close(copy.deepcopy(module)(a.float(), (3,), True)[0].double(), after, atol=1e-5, rtol=1e-5)


def test_first_used_in_inference_mode():
    module, a = made(1, 2, 1, (0,), 2), features(1, 2, 3)
    with torch.inference_mode():
        before = module(a, (3,), True)[0].clone()
    found = [module(a.requires_grad_(), (3,), once)[0] for once in (True, False)]
    slopes = [torch.autograd.grad(b.sum(), a)[0] for b in found]
    torch.testing.assert_close(*slopes)
    assert torch.equal(before, found[0].detach())


def test_results_turn_with_the_features():
    module, a = made(1, 3, 2, (0, 1, 2), 3), features(2, 3, 4)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)))[0]
    turn = torch.block_diag(*(wigner_d(n, rotation) for n in range(3)))
    turned = module(torch.einsum("ij,jcn->icn", turn, a), (4,))
    for n, (b, t) in enumerate(zip(module(a, (4,)), turned, strict=True)):
        torch.testing.assert_close(t, torch.einsum("ij,jcn->icn", wigner_d(n, rotation), b), atol=1e-10, rtol=0)
        assert n == 0 or not torch.allclose(t, b, atol=1e-2)


def test_no_atoms():
    module, a = made(2, 2, 1, (0, 1), 3), features(1, 2, 0).requires_grad_()
    assert [b.shape for b in module(a, (0, 0))] == [(1, 2, 0), (3, 2, 0)]
    assert torch.autograd.grad(module(a, (0, 0), True)[0].sum(), a)[0].shape == a.shape


@pytest.mark.parametrize("bad", [{"correlation": 5}, {"correlation": 0}, {"l_out": ()}, {"n_channels": 0}])
def test_bad_sizes_are_refused(bad):
    with pytest.raises(ConfigError, match="symmetric contraction"):
        SymmetricContraction(**({"n_elements": 1, "n_channels": 2, "l_max": 1, "l_out": (0,), "correlation": 2} | bad))


@pytest.mark.parametrize("counts", [(2, 2), (3,), (4, -1)])
def test_counts_that_do_not_agree_are_refused(counts):
    with pytest.raises(DataError, match="atoms of each element"):
        made(2, 2, 1, (0,), 2)(features(1, 2, 3), counts)


@pytest.mark.parametrize("counts", [(3, 0, 5, 1), (0, 4, 0, 0), (2, 2, 2, 2), (1, 0, 0, 7)], ids=str)
def test_few_atoms_of_several_elements(counts):
    """Elements contracted together, as one after another: values and gradients. Control: elements exchanged."""
    torch.manual_seed(0)
    module = made(4, 3, 2, (0, 1), 3, True)
    a = torch.randn(sum(counts), 9, 3, dtype=torch.float64, requires_grad=True)
    one_by_one, together = (module.of_atoms(a, counts, once) for once in (False, True))
    along = [torch.randn_like(b) for b in one_by_one]
    grads = [torch.autograd.grad(b, a, along)[0] for b in (one_by_one, together)]
    for expected, found in zip([*one_by_one, grads[0]], [*together, grads[1]], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    if counts == (3, 0, 5, 1):
        other = module.of_atoms(a, (5, 0, 3, 1), once=True)
        assert (other[0] - one_by_one[0]).abs().max() > 1e-3
    with torch.no_grad():
        module.weights[0].mul_(2)  # what was kept is made again
    assert (module.of_atoms(a, counts, once=True)[0] - together[0]).abs().max() > 1e-3


def test_few_atoms_of_many_compositions():
    """Coefficients are kept for each set of elements, not for each composition."""
    module = made(4, 3, 2, (0,), 2, True)
    for n in range(1, 9):
        module.of_atoms(torch.randn(n + 1, 9, 3, dtype=torch.float64), (n, 0, 1, 0), once=True)
    assert list(module._kept._held) == [(0, 2)]
