"""Symmetry functions. Witnesses: dscribe (tests/oracles/acsf_dscribe.py), sums written out, autograd, symmetry."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import epot.features
from epot.data.structure import Structure
from epot.errors import ConfigError, UnknownElementError
from epot.features import triple_sums, triples
from epot.features.describe import describe
from epot.features.descriptor import make
from epot.features.descriptors.acsf import ACSF
from epot.geometry.graph import build, collate

REFERENCE = np.load(Path(__file__).parents[1] / "data_files" / "acsf_dscribe.npz")


def as_dscribe(name):
    """The descriptor, a structure, and the place of each of dscribe's columns among ours."""
    get = lambda key: REFERENCE[f"{name}/{key}"]  # noqa: E731
    elements = sorted(set(get("numbers").tolist()))
    radial = [{}, *REFERENCE["g2"].tolist(), *({"kappa": k} for k in REFERENCE["g3"].tolist())]
    open_ones = [dict(zip(("eta", "zeta", "lambda"), p, strict=True), closed=False) for p in REFERENCE["g5"].tolist()]
    made = ACSF(elements, float(get("cutoff")), radial, [*REFERENCE["g4"].tolist(), *open_ones], "cosine")
    n, angular = len(elements), len(made.angular_functions)
    start = n * len(radial)
    ours = {p: k for k, p in enumerate(itertools.combinations_with_replacement(range(n), 2))}
    theirs = [ours[b, a] for a in range(n) for b in range(a + 1)]
    order = [*range(start), *(start + k * angular + f for k in theirs for f in range(angular))]
    return made, Structure(get("numbers"), get("positions"), get("cell"), get("pbc")), order


@pytest.mark.parametrize("name", ["ethanol", "nacl", "si"])
def test_values_are_those_of_dscribe(name):
    made, structure, order = as_dscribe(name)
    expected = REFERENCE[f"{name}/values"]
    found = made(build(structure, made.cutoff))[:, order].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert (np.abs(expected).max(0) > 1e-3).mean() > 0.8
    assert np.abs(found[:, ::-1] - expected).max() > 0.1  # the control: another order of the columns


def test_gradients_are_those_of_dscribe():
    """Its derivatives are central differences, with a step of 1e-4 Å: not better than 1e-6."""
    made, structure, order = as_dscribe("ethanol")
    found = describe(made, structure, gradients=True)
    full = np.zeros((len(structure), len(structure), 3, made.size))
    for (i, j), g in zip(found.pairs.T, found.gradients, strict=True):
        full[i, j] += g
        full[i, i] -= g
    np.testing.assert_allclose(full[..., order], REFERENCE["ethanol/gradients"], atol=2e-6)


@pytest.fixture
def acsf():
    return ACSF((1, 8), 3.4, radial=3, angular=2)


EVERYTHING = {
    "radial": [[0.5, 0.0], {"kappa": 1.5}, {}, {"eta": 3.0, "center": 1.0, "neighbors": ["H"], "cutoff": 2.5}],
    "angular": [
        [0.05, 1, 1],
        [0.05, 3, -1],
        {"eta": 0.3, "zeta": 2.5, "lambda": -1, "center": 0.7},
        {"eta": 0.1, "closed": False, "zeta": 2},
        {"eta": 0.1, "center": 0.5, "closed": False, "neighbors": ["O", "H"]},
        {"eta": 0.2, "zeta": 4, "cutoff": 2.8, "neighbors": ["H", "H"]},
    ],
}
WINDOWS = {
    "radial": [{"shape": "poly2"}, {"shape": "poly3", "asymmetric": True, "left": 0.5, "cutoff": 3.0}],
    "angular": [
        {"shape": "poly2", "angles": [-90, 90]},
        {"shape": "poly2", "angles": [60, 180], "asymmetric": True, "closed": False},
        {"shape": "poly3", "angles": [30, 130], "left": 0.4, "cutoff": 3.0, "closed": False, "neighbors": ["H", "O"]},
    ],
}


def everything(**changes):
    return ACSF((1, 8), 3.4, **(EVERYTHING | changes))


def by_loops(made, structure):
    """The definition, term by term."""
    graph = build(structure, made.cutoff)
    fade = lambda r, c: float(made.fade(torch.tensor([r], dtype=torch.float64), c)[0]) if r < c else 0.0  # noqa: E731
    inside = lambda w, x: float(w.value(torch.tensor([x], dtype=torch.float64))[0])  # noqa: E731
    out = np.zeros((len(structure), made.size))
    vectors, numbers = graph.vectors().numpy(), structure.numbers

    def radial(f, r):
        if hasattr(f, "window"):
            return inside(f.window, r)
        return math.exp(-f.eta * (r - f.center) ** 2) * math.cos(f.kappa * r) * fade(r, f.cutoff)

    def angular(f, sides, cosine):
        sides = sides if f.closed else sides[:2]
        if hasattr(f, "window"):
            angle = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
            return inside(f.angles, angle) * math.prod(inside(f.window, d) for d in sides)
        term = 2 ** (1 - f.zeta) * (1 + f.lambda_ * cosine) ** f.zeta
        term *= math.exp(-f.eta * sum((d - f.center) ** 2 for d in sides))
        return term * math.prod(fade(d, f.cutoff) for d in sides)

    for p, (i, j) in enumerate(graph.pairs.T.tolist()):
        r = float(np.linalg.norm(vectors[p]))
        for k, (elements, f) in enumerate(made.functions):
            if len(elements) == 1 and elements[0] == numbers[j]:
                out[i, k] += radial(f, r)
        for q in range(p + 1, graph.n_pairs):
            if graph.pairs[0, q] != i:
                break
            s, kinds = float(np.linalg.norm(vectors[q])), sorted((numbers[j], numbers[int(graph.pairs[1, q])]))
            sides = [r, s, float(np.linalg.norm(vectors[q] - vectors[p]))]
            for k, (elements, f) in enumerate(made.functions):
                if len(elements) == 2 and sorted(elements) == kinds:
                    out[i, k] += angular(f, sides, float(vectors[p] @ vectors[q]) / (r * s))
    return out


def test_values_are_the_sums_that_they_say(water):
    made = everything(**{k: [*EVERYTHING[k], *WINDOWS[k]] for k in WINDOWS})
    assert made.size == 5 * 2 + 1 + 6 * 3 + 3
    np.testing.assert_allclose(made(build(water, 3.4)).numpy(), by_loops(made, water), atol=1e-12)


def test_weights_are_atomic_numbers(water):
    """Witness: the sums by element, with their weights (Gastegger et al., Eqs. 6 and 7)."""
    settings = {"radial": [[0.5, 0.0], [3.0, 1.0]], "angular": [[0.05, 1, 1], [0.05, 4, -1]]}
    graph = build(water, 3.4)
    apart = everything(**settings)(graph)
    made = everything(weighted=True, **settings)
    h, o, hh, ho, oo = apart.split(2, 1)
    torch.testing.assert_close(made(graph), torch.cat([h + 8 * o, hh + 8 * ho + 64 * oo], 1))
    assert made.columns()[0] == "Z: G2 eta=0.5 center=0"
    assert ACSF(range(1, 40), weighted=True).size == ACSF((1,), weighted=True).size


@pytest.mark.parametrize("weighted", [False, True])
def test_jacobian_is_the_derivative(water, weighted):
    """Witness: autograd, column by column; itself checked against differences below."""
    radial = [[0.5, 0.0]] if weighted else [[0.5, 0.0], {"kappa": 1.0, "cutoff": 2.5}]
    made = ACSF((1, 8), 3.0, radial, EVERYTHING["angular"][: 4 if weighted else 5], weighted=weighted)
    graph = build(water, 3.0)
    leaf = graph.vectors().requires_grad_()
    total = made(graph.replace(_vectors=leaf)).sum(0)
    expected = torch.stack([torch.autograd.grad(t, leaf, retain_graph=True)[0] for t in total], -1)
    torch.testing.assert_close(made.jacobian(graph), expected, atol=1e-12, rtol=1e-12)
    assert expected.abs().max() > 0.1


def test_jacobian_of_windows(water):
    made, graph = everything(**WINDOWS), build(water, 3.4)
    leaf = graph.vectors().requires_grad_()
    total = made(graph.replace(_vectors=leaf)).sum(0)
    expected = torch.stack([torch.autograd.grad(t, leaf, retain_graph=True)[0] for t in total], -1)
    torch.testing.assert_close(made.jacobian(graph), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ["weighted", "gaussians", "windows"])
def test_twice_differentiable(water, kind):
    """Values, forces and Hessians, and the way of a loss on forces back to the weights."""
    settings = {"weighted": {"radial": 2, "angular": 1}, "gaussians": {"cutoff_function": "poly3"}, "windows": WINDOWS}
    made = everything(weighted=kind == "weighted", **settings[kind])
    graph = build(Structure(water.numbers[:3], water.positions[:3]), 3.4)

    def rows(positions):
        return made(graph.replace(positions=positions))

    positions = graph.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(rows, positions)
    assert torch.autograd.gradgradcheck(rows, positions, atol=1e-6, fast_mode=True)


def test_chunks_and_what_is_kept_change_nothing(water, silicon, monkeypatch):
    structures = [water, silicon.replace(numbers=np.full(8, 8)), water.replace(pbc=False)]
    graph = collate([build(s, 3.4) for s in structures])
    made = everything()

    def results():
        leaf = graph.vectors().requires_grad_()
        values = made(graph.replace(_vectors=leaf))
        weights = torch.linspace(0, 1, values.numel(), dtype=torch.float64).view_as(values).requires_grad_()
        (slope,) = torch.autograd.grad((values * weights).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), weights)
        return values.detach(), slope.detach(), second, made.jacobian(graph)

    expected = results()
    monkeypatch.setattr(triples, "CHUNK", 40)
    for keep in (triple_sums.KEEP, 500, 0):
        monkeypatch.setattr(triple_sums, "KEEP", keep)
        for ours, theirs in zip(results(), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_invariant_under_rotation_reflection_and_permutation(acsf, water):
    before = acsf(build(water, 3.4))
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    order = np.array([5, 3, 1, 0, 2, 4])
    for matrix in (q, q @ np.diag([1, 1, -1])):
        positions = (water.positions @ matrix)[order] + 0.7
        moved = Structure(water.numbers[order], positions, water.cell @ matrix, True)
        torch.testing.assert_close(acsf(build(moved, 3.4)), before[order], atol=1e-12, rtol=0)
    sheared = water.replace(positions=water.positions @ (np.eye(3) + 0.02 * np.diag([1, 0, -1])))
    assert (acsf(build(sheared, 3.4)) - before).abs().max() > 1e-3


def test_supercell_batch_and_wrapping_change_nothing(acsf, water):
    one = build(water, 3.4)
    double = Structure(
        np.tile(water.numbers, 2),
        np.concatenate([water.positions, water.positions + water.cell[0]]),
        water.cell * [[2], [1], [1]],
        True,
    )
    torch.testing.assert_close(acsf(build(double, 3.4)), acsf(one).repeat(2, 1), atol=1e-12, rtol=0)
    moved = water.replace(positions=water.positions + np.arange(6)[:, None] * water.cell[1])
    torch.testing.assert_close(acsf(build(moved, 3.4)), acsf(one), atol=1e-12, rtol=0)
    lone = build(Structure(np.array([8]), np.zeros((1, 3))), 3.4)
    torch.testing.assert_close(acsf(collate([lone, one, lone]))[1:-1], acsf(one), atol=1e-12, rtol=0)


def test_lone_atom_is_finite(acsf):
    for positions in ([[0.0, 0, 0]], [[0.0, 0, 0], [0, 0, 3.39999]], [[0.0, 0, 0], [0, 0, 20.0]]):
        graph = build(Structure(np.full(len(positions), 8), np.array(positions)), 3.4)
        leaf = graph.positions.clone().requires_grad_()
        values = acsf(graph.replace(positions=leaf))
        assert values.detach().abs().max() < 1e-6
        (slope,) = torch.autograd.grad(values.sum(), leaf, create_graph=True)
        assert torch.isfinite(slope).all()
        assert torch.isfinite(acsf.jacobian(graph)).all()


@pytest.mark.parametrize(("name", "smooth"), [("poly2", True), ("exponential", True), ("cosine", False)])
def test_second_derivative_at_the_cutoff(name, smooth):
    """An atom slides through the cutoff of another, and of the distance of two neighbors; cosine's Hessian jumps."""
    made = ACSF((14,), 3.0, [[0.1, 0.0]], [[0.01, 1, 1]], cutoff_function=name)

    def second(start, along, x):
        """Of the first atom's functions, along the way of the third: it starts there and went x."""
        along = torch.tensor(along, dtype=torch.float64)
        moving = torch.tensor(start, dtype=torch.float64) + x * along
        leaf = torch.stack([torch.zeros(3), torch.tensor([1.5, 0, 0]), moving]).double()
        graph = build(Structure(np.full(3, 14), leaf.numpy()), 3.5)
        leaf.requires_grad_()
        (slope,) = torch.autograd.grad(made(graph.replace(positions=leaf))[0].sum(), leaf, create_graph=True)
        (curve,) = torch.autograd.grad(slope[2] @ along, leaf)
        return curve[2] @ along

    for start, along in (([0, 0, 0], [0, 1, 0]), ([1.5, 0, 0], [-0.6, 0.8, 0])):  # r_ik = x; r_jk = x and r_ik = 2.4
        jump = abs(float(second(start, along, 3 - 1e-6) - second(start, along, 3 + 1e-6)))
        assert (jump < 1e-4) if smooth else (jump > 1e-2), jump


def test_cannot_tell_the_degenerate_pair_apart():
    """Pozdnyakov et al., Phys. Rev. Lett. 125, 166001 (2020): two rings that differ, with the same pairs and triples
    around their center. Of the atoms on the ring the functions do differ: the control."""

    def ring(places):
        angles = 2 * np.pi * np.array(places) / 8
        around = 1.2 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
        return build(Structure(np.full(5, 6), np.concatenate([np.zeros((1, 3)), around])), 3.0)

    made = ACSF((6,), 3.0)
    one, other = made(ring([0, 1, 3, 4])), made(ring([0, 1, 2, 5]))
    assert one[0].abs().max() > 0.1
    assert (one[0] - other[0]).abs().max() < 2e-14 * 10
    assert (one[1:].sort(0)[0] - other[1:].sort(0)[0]).abs().max() > 1e-2


def test_columns_and_configuration():
    made = everything()
    assert len(made.columns()) == len(set(made.columns())) == made.size
    assert "H O: G5 eta=0.1 zeta=1 lambda=+1 center=0.5" in made.columns()
    assert "H H: G4 eta=0.2 zeta=4 lambda=+1 cutoff=2.8" in made.columns()
    config = json.loads(json.dumps(made.config()))
    assert make(config, (1,)).config() == made.config()
    assert make(config, (1,)).columns() == made.columns()


def test_default_works_for_all_kinds_of_matter(ethanol, water, silicon, slab, wire):
    """Every column of an element that is there varies or is at least not zero."""
    structures = [ethanol, water, silicon, slab, wire]
    found = epot.features.acsf(structures)
    assert np.isfinite(found.values).all()
    of_silicon = np.array([c.replace(" ", "").startswith(("Si:", "SiSi:")) for c in found.columns])
    assert (np.abs(found.values[found.structure == 2][:, of_silicon]).max(0) > 1e-6).mean() > 0.8


def test_single_precision(water):
    graph = build(water, 3.4)
    expected, found = everything()(graph), everything().float()(graph)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": 0.0}, "cutoff"),
        ({"radial": [[1.0]]}, r"\(eta, center\)"),
        ({"radial": [{"etta": 1.0}]}, "did you mean 'eta'"),
        ({"radial": [{"eta": 1.0, "kappa": 1.0}]}, "not both"),
        ({"radial": [[-1.0, 0.0]]}, "eta"),
        ({"radial": [["a", 0.0]]}, "numbers"),
        ({"radial": [[float("nan"), 0.0]]}, "finite"),
        ({"radial": 1}, "at least 2"),
        ({"radial": 0, "angular": 0}, "at least one"),
        ({"angular": [[0.1, 0.5, 1]]}, "zeta"),
        ({"angular": [[0.1, 1, 2]]}, "lambda"),
        ({"angular": [{"neighbors": ["H"]}]}, "two of an angular"),
        ({"angular": [{"cutoff": 9.0}]}, "beyond"),
        ({"angular": [{"shape": "poly9"}]}, "poly1, poly2"),
        ({"angular": [{"shape": "poly2", "angles": [-20, 90]}]}, "around 0 or 180"),
        ({"radial": [{"shape": "poly2", "left": 9.0}]}, "left end below"),
        ({"radial": [{"shape": "poly2", "eta": 9.0}]}, "'eta' is no parameter"),
        ({"cutoff_function": "poly9"}, "did you mean"),
        ({"inner": 1.5}, "below 1"),
    ],
)
def test_impossible_arguments(change, message):
    with pytest.raises(ConfigError, match=message):
        ACSF(**({"elements": (1, 8), "cutoff": 3.4} | change))


def test_unknown_element(acsf, ethanol):
    with pytest.raises(UnknownElementError, match="holds C"):
        acsf(build(ethanol, 3.4))
