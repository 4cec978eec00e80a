"""Messages by compiled kernels beside those by torch with the same radial weights, and gradients of both.

Witnesses: a plain sum over pairs, finite differences, torch's own derivatives.
"""

import math

import numpy as np
import pytest
import torch

from epot import native
from epot.blocks import equivariant_splines
from epot.blocks.element_order import by_element
from epot.blocks.equivariant import spherical_harmonics, wigner_3j
from epot.blocks.equivariant_messages import Paths, equivariant_messages
from epot.blocks.equivariant_splines import Terms, spline_sums
from epot.blocks.filter_tables import TERMS, Taps, grid, solver
from epot.blocks.neighborhood import neighborhood
from epot.blocks.spline_messages import Knots, available, spline_messages
from epot.data.structure import Structure
from epot.geometry.graph import build

CUTOFF, K = 3.0, 5
CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(native.library("messages") is None, reason="there is no C++ compiler")
SIZES = [
    (0, 2, 2, 3),
    (1, 2, 2, 16),
    (1, 3, 3, 5),
    (2, 2, 1, 4),
    (2, 3, 3, 32),
    (3, 3, 2, 2),
    (0, 0, 0, 1),
    (1, 1, 1, 17),
]
"""Highest degrees of senders, harmonics and results, and channels, for some the kernels have a loop of their own."""


def random_structure(n, seed, periodic=False, box=3.2):
    rng = np.random.default_rng(seed)
    cell = np.diag([2.9, 3.3, 4.1]) + 0.2 if periodic else np.zeros((3, 3))
    numbers = rng.choice([1, 6, 8], n)
    positions = rng.uniform(0, box, (n, 3)) + np.arange(n)[:, None] * np.array([0.5, 0.3, 0.1])
    return Structure(numbers, positions, cell, (periodic,) * 3)


ALONE = Structure(np.array([6]), np.zeros((1, 3)))
FAR = Structure(np.array([1, 6, 8]), np.array([[0.0, 0.0, 0.0], [1.2, 0.3, 0.0], [90.0, 0.0, 0.0]]))
SYSTEMS = {
    "molecule": [random_structure(6, 0)],
    "cell": [random_structure(3, 1, periodic=True)],
    "no neighbors": [FAR],
    "one atom": [ALONE],
    "batch": [random_structure(4, 2), ALONE, random_structure(2, 3, periodic=True), FAR],
}


class Scene:
    """Everything that the operators take, at random; distances and harmonics are those of a geometry."""

    def __init__(self, system, l_sender, l_harmonic, l_result, channels, dtype=torch.float64, kinds=1, intervals=150):
        graph = build(SYSTEMS[system], CUTOFF)
        near = neighborhood(graph, CUTOFF, dtype)
        elements = (1, 6, 8)
        rows = torch.searchsorted(torch.tensor(elements), graph.numbers)
        self.sites = by_element(graph, near.layout, rows, elements)
        self.paths = Paths(l_sender, l_harmonic, l_result)
        random = torch.Generator().manual_seed(7)
        self.r, self.y = near.distances, spherical_harmonics(near.directions, l_harmonic).contiguous()
        self.h = torch.randn(graph.n_atoms, (l_sender + 1) ** 2 * channels, dtype=dtype, generator=random)
        self.weight = torch.randn(K, len(self.paths) * channels, dtype=dtype, generator=random)
        self.grid = grid(CUTOFF, intervals, dtype, CPU)
        self.channels, n_slots = channels, len(self.r)
        if kinds == 1:
            self.knots = Knots(self.grid)
        else:
            which = torch.randint(kinds, (n_slots,), generator=random)
            self.knots = Knots(self.grid, which, kinds)
        self.slots = torch.zeros(n_slots, dtype=torch.bool)
        self.slots[near.layout.place] = True

    def hidden(self, r, kind=None):
        """H: smooth, zero at the cutoff, another for each kind of pair."""
        shift = 0.0 if kind is None else 0.3 * kind.to(r)[:, None]
        waves = torch.cos(torch.arange(1, K + 1).to(r) * r[:, None] + shift)
        return waves * (1 - (r / CUTOFF) ** 2)[:, None] ** 3

    def table(self, weight):
        solve = solver(self.grid.intervals, weight.dtype, CPU)
        points, kinds = self.grid.points, range(self.knots.n_kinds)
        each = [self.hidden(points, torch.full((len(points),), k) if self.knots.n_kinds > 1 else None) for k in kinds]
        return torch.cat([solve @ hidden for hidden in each]) @ weight

    def compiled(self, h, weight, r, y, table=None):
        table = self.table(weight) if table is None else table
        return spline_messages(h, table, r, y, self.sites, self.paths.scheme, self.knots)

    def by_torch(self, h, weight, r, y):
        kind = self.knots.kinds
        hidden = self.hidden(r, kind) * self.slots[:, None].to(r)
        return equivariant_messages(h, hidden, weight, y, self.sites, self.paths)

    def by_hand(self):
        """One pair after another, with the whole 3j symbol."""
        c, layout = self.channels, self.sites.layout
        weights = (self.hidden(self.r, self.knots.kinds) @ self.weight).view(len(self.r), -1, c)
        h = self.h.view(len(self.h), -1, c)
        out = [torch.zeros(len(h), 2 * l3 + 1, len(own), c).to(h) for l3, own in enumerate(self.paths.by_result)]
        for e in self.slots.nonzero()[:, 0].tolist():
            i, j = int(layout.receivers[e]), int(layout.senders[e])
            for l3, own in enumerate(self.paths.by_result):
                for place, p in enumerate(own):
                    l1, l2, _ = self.paths.paths[p]
                    symbol = wigner_3j(l1, l2, l3).to(h) * math.sqrt(2 * l3 + 1)
                    y, x = self.y[e, l2 * l2 : (l2 + 1) ** 2], h[j, l1 * l1 : (l1 + 1) ** 2]
                    out[l3][i, :, place] += torch.einsum("abm,b,ac,c->mc", symbol, y, x, weights[e, p])
        return [x.flatten(2) for x in out]

    @property
    def inputs(self):
        return [t.clone().requires_grad_() for t in (self.h, self.weight, self.r, self.y)]


def largest(a, b):
    return max((float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True) if x.numel()), default=0.0)


def random_like(tensors, seed):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, dtype=t.dtype, generator=random) for t in tensors]


def derivatives(operator, scene):
    """Values, first derivatives, and second derivatives along random directions."""
    inputs = scene.inputs
    out = operator(*inputs)
    along = [g.requires_grad_() for g in random_like(out, 1)]
    first = torch.autograd.grad(out, inputs, along, create_graph=True)
    second = torch.autograd.grad(first, [*inputs, *along], random_like(first, 2))
    return out, first, second


@needs_kernels
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_same_as_torch(sizes, system):
    """Values and derivatives to the splines' accuracy. Control: a spline of fewer nodes is not as near."""
    scene = Scene(system, *sizes)
    ours, theirs = derivatives(scene.compiled, scene), derivatives(scene.by_torch, scene)
    scale = 1 + max(float(t.abs().max()) for t in theirs[2])
    for mine, expected, allowed in zip(ours, theirs, (1e-9, 1e-7, 1e-5), strict=True):
        for place, (a, b) in enumerate(zip(mine, expected, strict=True)):
            used = scene.slots if mine is not ours[0] and place in (2, 3) else slice(None)  # of empty slots nothing is
            assert largest([a[used]], [b[used]]) < allowed * scale
    if system in ("molecule", "batch"):
        rough = Scene(system, *sizes, intervals=12)
        assert largest(rough.compiled(*rough.inputs), theirs[0]) > 1e-7


@pytest.mark.parametrize("system", ["molecule", "cell", "batch"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_torch_is_the_plain_sum(sizes, system):
    """Control: receiver and sender exchanged."""
    scene = Scene(system, *sizes)
    found = scene.by_torch(*scene.inputs)
    assert largest(found, scene.by_hand()) < 1e-12
    layout = scene.sites.layout
    turned = scene.sites._replace(layout=layout._replace(senders=layout.receivers))
    other = equivariant_messages(
        scene.h, scene.hidden(scene.r) * scene.slots[:, None], scene.weight, scene.y, turned, scene.paths
    )
    assert largest(other, scene.by_hand()) > 1e-3


@needs_kernels
@pytest.mark.parametrize("sizes", [(1, 2, 2, 3), (2, 2, 2, 16)], ids=str)
@pytest.mark.parametrize("kinds", [2, 9])
def test_kinds_of_pairs_have_tables_of_their_own(sizes, kinds):
    scene = Scene("batch", *sizes, kinds=kinds)
    ours, theirs = derivatives(scene.compiled, scene), derivatives(scene.by_torch, scene)
    scale = 1 + max(float(t.abs().max()) for t in theirs[2])
    for mine, expected, allowed in zip(ours, theirs, (1e-9, 1e-8, 1e-6), strict=True):
        for a, b in zip(mine, expected, strict=True):
            used = scene.slots if len(a) == len(scene.slots) else slice(None)
            assert largest([a[used]], [b[used]]) < allowed * scale
    one = Scene("batch", *sizes)
    assert largest(one.compiled(*one.inputs), scene.compiled(*scene.inputs)) > 1e-3


@needs_kernels
@pytest.mark.parametrize("kinds", [1, 3])
@pytest.mark.parametrize("sizes", [(0, 1, 1, 2), (1, 2, 1, 2), (2, 1, 2, 1), (1, 1, 1, 16)], ids=str)
def test_compiled_gradients(sizes, kinds):
    """By finite differences, in features, table, distances and harmonics together."""
    scene = Scene("no neighbors" if kinds == 1 else "batch", *sizes, kinds=kinds, intervals=8)
    h, weight, r, y = scene.inputs
    table = scene.table(weight.detach()).requires_grad_()
    r = torch.where(scene.slots, r.detach(), 1.0).requires_grad_()  # empty slots lie at the cutoff, on a knot

    def operator(h, table, r, y):
        return tuple(scene.compiled(h, None, r, y, table))

    assert torch.autograd.gradcheck(operator, (h, table, r, y), fast_mode=True)
    assert torch.autograd.gradgradcheck(operator, (h, table, r, y), fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("sizes", [(0, 2, 2, 2), (1, 2, 1, 2), (2, 1, 2, 1)], ids=str)
@pytest.mark.parametrize("system", ["no neighbors", "batch"])
def test_gradients_of_torch(sizes, system):
    scene = Scene(system, *sizes)
    hidden = scene.hidden(scene.r).detach().requires_grad_()
    h, weight, _, y = scene.inputs

    def operator(h, hidden, weight, y):
        hidden = hidden * scene.slots[:, None]  # what is in empty slots is zero, whatever changes
        return tuple(equivariant_messages(h, hidden, weight, y, scene.sites, scene.paths))

    assert torch.autograd.gradcheck(operator, (h, hidden, weight, y), fast_mode=True)
    assert torch.autograd.gradgradcheck(operator, (h, hidden, weight, y), fast_mode=True)


@needs_kernels
@pytest.mark.parametrize(
    "sizes", [(1, 3, 3, 64), (1, 2, 2, 96), (0, 2, 2, 128), (0, 1, 1, 256), (1, 2, 2, 13)], ids=str
)
def test_single_precision(sizes):
    fine = Scene("batch", *sizes)
    rough = Scene("batch", *sizes, dtype=torch.float32, intervals=60)
    rough.h, rough.weight = fine.h.float(), fine.weight.float()
    fine.y = rough.y.double()  # the same numbers
    found = []
    for scene in (rough, fine):
        inputs = scene.inputs
        out = scene.compiled(*inputs)
        slopes = torch.autograd.grad(sum(x.square().sum() for x in out), inputs)
        found.append((out, slopes))
        assert {x.dtype for x in (*out, *slopes)} == {scene.h.dtype}
    for ours, theirs, allowed in zip(*found, (3e-6, 3e-5), strict=True):
        for x, y in zip(ours, theirs, strict=True):
            error = largest([x.double()], [y]) / float(y.detach().abs().max())
            assert 0 < error < allowed


@needs_kernels
@pytest.mark.parametrize("system", ["molecule", "batch"])
def test_threads_give_the_same_bits_twice(system):
    """And one thread the numbers of two, to rounding (sums over threads are another order)."""
    scene, before, found = Scene(system, 1, 3, 3, 16), torch.get_num_threads(), {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs = [derivatives(scene.compiled, scene) for _ in range(3)]
            for run in runs[1:]:
                for a, b in zip(run, runs[0], strict=True):
                    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
            found[threads] = runs[0]
    finally:
        torch.set_num_threads(before)
    for a, b in zip(found[1], found[2], strict=True):
        assert largest(a, b) < 1e-10


@needs_kernels
def test_only_what_is_wanted_is_made():
    """Forces ask for no gradient by the table; a graph of constants for none at all."""
    scene = Scene("molecule", 1, 2, 2, 4)
    h, weight, r, y = scene.inputs
    out = scene.compiled(h.detach(), weight.detach(), r, y)
    total = sum(x.square().sum() for x in out)
    d_r, d_y = torch.autograd.grad(total, (r, y), retain_graph=True)
    full = torch.autograd.grad(sum(x.square().sum() for x in scene.compiled(h, weight, r, y)), (h, weight, r, y))
    assert largest((d_r, d_y), full[2:]) < 1e-12
    assert not any(x.requires_grad for x in scene.compiled(h.detach(), weight.detach(), r.detach(), y.detach()))


@needs_kernels
@pytest.mark.parametrize("sizes", [(0, 0, 0, 1), (0, 0, 0, 21), (1, 2, 2, 5)], ids=str)
def test_a_loss_on_forces(sizes):
    """Of first derivatives by geometry and senders, the gradient by senders, table and what came from above.

    Witness: the same by torch. Control: another direction.
    """
    scene = Scene("batch", *sizes)

    def found(operator, seed):
        inputs = scene.inputs
        out = operator(*inputs)
        along = [g.requires_grad_() for g in random_like(out, 1)]
        first = torch.autograd.grad(out, [inputs[0], *inputs[2:]], along, create_graph=True)
        slots = [t * scene.slots.view(-1, *[1] * (t.dim() - 1)) for t in first[1:]]
        return torch.autograd.grad([first[0], *slots], [*inputs[:2], *along], random_like(first, seed))

    ours, theirs = found(scene.compiled, 2), found(scene.by_torch, 2)
    scale = max(float(t.abs().max()) for t in theirs)
    assert largest(ours, theirs) < 1e-8 * scale
    assert largest(found(scene.compiled, 3), theirs) > 1e-2 * scale


@needs_kernels
def test_strides_do_not_matter():
    scene = Scene("batch", 1, 2, 2, 4)
    h, weight, r, y = (t.detach() for t in scene.inputs)
    table = scene.table(weight)
    expected = scene.compiled(h, None, r, y, table)
    turned = scene.compiled(h.t().contiguous().t(), None, r, y.t().contiguous().t(), table.t().contiguous().t())
    assert largest(expected, turned) == 0


def test_what_the_kernels_do_not_serve():
    assert not available(torch.device("meta"), torch.float64, 2)
    assert not available(CPU, torch.float16, 2)
    assert not available(CPU, torch.float64, 8)
    assert available(CPU, torch.float64, 7) == (native.library("messages") is not None)


def test_paths_are_those_of_parity_and_triangle():
    paths = Paths(1, 3, 3)
    brute = {
        (a, b, c)
        for a in range(2)
        for b in range(4)
        for c in range(4)
        if (a + b + c) % 2 == 0 and abs(a - b) <= c <= a + b
    }
    assert set(map(tuple, paths.paths)) == brute
    assert len(paths) == len(brute) == 10
    assert sorted(n for own in paths.by_result for n in own) == list(range(10))
    assert [tuple(paths.paths[n][:2]) for n in paths.by_result[1]] == [(0, 1), (1, 0), (1, 2)]
    assert [n for group in paths.groups for n in group.paths] == list(range(10))
    assert sum(paths.width(k) for k in range(4)) == sum(2 * p.sender + 1 for p in paths.paths)


def of_forces_alone(scene, h, table, r, y):
    """The path of molecular dynamics without compiled kernels."""
    taps = Taps(r, scene.grid, CUTOFF, lambda x, _: (torch.ones_like(x), torch.zeros_like(x)))
    rows, kinds = taps.index().view(-1, TERMS), scene.knots.kinds
    rows = rows if kinds is None else rows + (kinds * len(scene.grid.points))[:, None]
    full = scene.slots.to(r)
    factors = tuple((taps.weights(n).view(-1, TERMS) * full[:, None]).flatten() for n in (0, 1))
    terms = Terms(rows.flatten(), torch.arange(0, 2 * rows.numel(), TERMS), factors)
    widths = [len(own) * table.shape[1] // len(scene.paths) for own in scene.paths.by_result]
    mix = [torch.eye(n, dtype=table.dtype) for n in widths]
    return spline_sums(h, table, r, y, scene.sites, scene.paths, terms, mix)


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("sizes", SIZES[:6], ids=str)
def test_of_forces_alone(sizes, system, kinds, monkeypatch):
    """As the general operator on weights of the same network, values and derivatives by the geometry; twice, in the
    same memory, which is that of many slots in one of the cases. Control: slopes of other radial weights."""
    monkeypatch.setattr(equivariant_splines, "KEPT", 1024 if kinds == 1 else 0)
    scene = Scene(system, *sizes, kinds=kinds)
    table = scene.table(scene.weight)
    wanted = [0, 2, 3]
    for shift in (0.0, 0.1):
        ours, theirs = scene.inputs, scene.inputs
        made = of_forces_alone(scene, ours[0] + shift, table, *ours[2:])
        expected = scene.by_torch(theirs[0] + shift, scene.weight, *theirs[2:])
        assert largest(made, expected) < 1e-9 * (1 + float(scene.h.abs().max()))
        along = random_like(made, 1)
        mine = torch.autograd.grad(made, [ours[n] for n in wanted], along)
        right = torch.autograd.grad(expected, [theirs[n] for n in wanted], along)
        assert largest(mine, right) < 1e-7 * (1 + max(float(g.abs().max()) for g in right))
    if system == "molecule":
        other = of_forces_alone(scene, ours[0] + shift, 1.01 * table, *ours[2:])
        wrong = torch.autograd.grad(other, [ours[n] for n in wanted], along)
        assert largest(wrong, right) > 1e-4


@pytest.mark.parametrize("kept", [1024, 0])
def test_memory_of_forces_alone_is_not_shared_by_calls(kept, monkeypatch):
    """Gradients after another call, of the same sizes and of others, has used the memory, whether blocks have some of
    their own or not. Control: another's features."""
    monkeypatch.setattr(equivariant_splines, "KEPT", kept)
    scenes = [Scene(system, 1, 2, 2, 4, kinds=1) for system in ("molecule", "molecule", "cell")]
    shifts = [0.0, 0.3, 0.1]

    def made(n, inputs):
        return of_forces_alone(scenes[n], inputs[0] + shifts[n], scenes[n].table(scenes[n].weight), *inputs[2:])

    alone, later = [], []
    for n, scene in enumerate(scenes):
        inputs = scene.inputs
        found = made(n, inputs)
        alone.append(torch.autograd.grad(found, [inputs[k] for k in (0, 2, 3)], random_like(found, n)))
    inputs = [scene.inputs for scene in scenes]
    found = [made(n, own) for n, own in enumerate(inputs)]
    for n in (1, 0, 2):
        later.append(torch.autograd.grad(found[n], [inputs[n][k] for k in (0, 2, 3)], random_like(found[n], n)))
        assert all(torch.equal(a, b) for a, b in zip(later[-1], alone[n], strict=True))
    assert largest(later[0], alone[0]) > 1e-3
