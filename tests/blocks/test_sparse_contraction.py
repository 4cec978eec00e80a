"""Powers of features as sparse polynomials beside the symmetric contraction by matrix products, and gradients."""

import pytest
import torch

from epot import native
from epot.blocks import sparse_contraction as sparse
from epot.blocks.symmetric_contraction import SymmetricContraction

pytestmark = pytest.mark.skipif(native.library("polynomials") is None, reason="there is no C++ compiler")
COUNTS = (2, 0, 3)  # atoms of each element; one is not there
CASES = [
    (l_max, l_out, order, reduced)
    for l_max, l_out, order in [(3, 0, 3), (3, 1, 3), (2, 2, 3), (1, 1, 4), (2, 0, 4), (3, 1, 2), (2, 1, 1), (0, 0, 3)]
    for reduced in (False, True)
]


def scene(l_max, l_out, order, reduced, channels=3, seed=0):
    torch.manual_seed(seed)
    module = SymmetricContraction(len(COUNTS), channels, l_max, range(l_out + 1), order, reduced).double()
    terms = sparse.terms(l_max, range(l_out + 1), order, reduced)
    a = torch.randn(sum(COUNTS), (l_max + 1) ** 2, channels, dtype=torch.float64, requires_grad=True)
    kinds = torch.tensor([k for k, n in enumerate(COUNTS) if n])
    species = torch.arange(len(kinds)).repeat_interleave(torch.tensor([n for n in COUNTS if n]))
    sizes = [2 * n + 1 for n in range(l_max + 1)]

    def compiled(a, *weights):
        k = sparse.coefficients(terms, weights, kinds)
        return sparse.contracted(a.split(sizes, 1), k, terms, species)

    def by_torch(a, *weights):
        names = [name for name, _ in module.named_parameters()]
        given = dict(zip(names, weights, strict=True))
        made = torch.func.functional_call(module, given, (a.permute(1, 2, 0).contiguous(), COUNTS))
        return [b.permute(2, 0, 1) for b in made]

    return module, a, compiled, by_torch


def derivatives(operator, inputs):
    out = operator(*inputs)
    random = torch.Generator().manual_seed(3)
    along = [torch.randn(b.shape, dtype=b.dtype, generator=random).requires_grad_() for b in out]
    first = torch.autograd.grad(out, inputs, along, create_graph=True)
    other = [torch.randn(b.shape, dtype=b.dtype, generator=random) for b in first]
    return out, first, torch.autograd.grad(first, [*inputs, *along], other, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_as_by_matrix_products(case, channels, monkeypatch):
    """Values, first and second derivatives. Control: weights of another element."""
    module, a, compiled, by_torch = scene(*case, channels=channels)
    weights = list(module.weights)
    ours = derivatives(compiled, (a, *weights))
    theirs = derivatives(by_torch, (a, *weights))
    for mine, expected in zip(ours, theirs, strict=True):
        for x, y in zip(mine, expected, strict=True):
            torch.testing.assert_close(x, y, atol=1e-12 * (1 + float(y.detach().abs().max())), rtol=1e-12)
    turned = compiled(a, *[w.flip(0) for w in weights])
    assert max(float((x - y).detach().abs().max()) for x, y in zip(turned, ours[0], strict=True)) > 1e-3


@pytest.mark.parametrize("case", [(2, 1, 3, False), (1, 1, 4, True), (1, 0, 2, False), (2, 2, 1, True)], ids=str)
def test_gradients_by_finite_differences(case):
    module, a, compiled, _ = scene(*case, channels=2)
    operator = lambda *inputs: tuple(compiled(*inputs))  # noqa: E731
    inputs = (a, *[w.detach().clone().requires_grad_() for w in module.weights])
    assert torch.autograd.gradcheck(operator, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(operator, inputs, fast_mode=True)


@pytest.mark.parametrize("channels", [5, 16, 32, 64, 128, 130])
def test_single_precision(channels):
    module, a, compiled, _ = scene(2, 1, 3, True, channels=channels)
    fine = compiled(a, *module.weights)
    rough = compiled(a.float(), *[w.float() for w in module.weights])
    for x, y in zip(rough, fine, strict=True):
        assert x.dtype == torch.float32
        assert 0 < float((x - y).detach().abs().max()) < 3e-6 * float(y.detach().abs().max())


def test_threads_give_the_same_bits_twice():
    """And the numbers of one, to rounding."""
    module, a, compiled, _ = scene(3, 1, 3, True, channels=16)
    before, found = torch.get_num_threads(), {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs = [derivatives(compiled, (a, *module.weights)) for _ in range(3)]
            for run in runs[1:]:
                for one, other in zip(run, runs[0], strict=True):
                    assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))
            found[threads] = runs[0]
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found[1], found[2], strict=True):
        for x, y in zip(one, other, strict=True):
            torch.testing.assert_close(x, y, atol=1e-11, rtol=1e-11)


def test_no_atoms():
    module, _, compiled, _ = scene(2, 1, 3, True)
    terms = sparse.terms(2, range(2), 3, True)
    k = sparse.coefficients(terms, list(module.weights), torch.tensor([0]))
    nothing = [torch.zeros(0, 2 * n + 1, 3, dtype=torch.float64) for n in range(3)]
    made = sparse.contracted(nothing, k, terms, torch.zeros(0, dtype=torch.int64))
    assert [b.shape for b in made] == [(0, 1, 3), (0, 3, 3)]


def test_what_the_kernels_do_not_serve():
    assert not sparse.available(torch.device("meta"), torch.float64, 2)
    assert not sparse.available(torch.device("cpu"), torch.float16, 2)
    assert sparse.available(torch.device("cpu"), torch.float32, 3)
    assert not sparse.available(torch.device("cpu"), torch.float32, 7)
