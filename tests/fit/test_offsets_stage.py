import numpy as np
import pytest
import torch

from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.errors import ConfigError, FitError, LabelError
from epot.fit.recipe import FitState
from epot.fit.stages.offsets import FitOffsets, baseline, regress, spreads
from epot.geometry.graph import build
from epot.potential import Output, Potential, Sum
from epot.predict import predict
from epot.terms.offsets import Offsets

TRUE = {1: -13.6, 6: -1030.0, 8: -2041.0}


def structure(counts, energy=None, seed=0, **kwargs):
    numbers = np.repeat(list(counts), list(counts.values()))
    positions = np.random.default_rng(seed).uniform(0, 9, (len(numbers), 3))
    if energy is None:
        energy = float(sum(TRUE[z] * n for z, n in counts.items()))
    return Structure(numbers, positions, energy=energy, **kwargs)


MIXED = [{1: 4, 6: 1}, {1: 2, 8: 1}, {1: 4, 6: 1, 8: 1}, {6: 1, 8: 2}, {1: 6, 6: 2, 8: 1}, {1: 6, 6: 2}]


def state(data, elements=(1, 6, 8), **terms):
    return FitState(Sum(offset=Offsets(elements), **terms), Dataset(data))


def energies(state, elements=(1, 6, 8)):
    return state.potential.terms["offset"].energies[list(elements)].tolist()


def test_regression_recovers_what_made_the_energies():
    st = state([structure(c) for c in MIXED])
    FitOffsets().run(st)
    assert energies(st) == pytest.approx(list(TRUE.values()), rel=1e-9)
    assert st.journal.lines[-1]["method"] == "regression"
    assert not any(line["event"] == "note" for line in st.journal.lines)


def test_collinear_compositions_are_explained_and_sums_still_right():
    """Water and its cluster: the energy of H2O is known, those of H and O are not."""
    st = state([structure({1: 2 * k, 8: k}) for k in (1, 2, 5)], (1, 8))
    FitOffsets().run(st)
    h, o = energies(st, (1, 8))
    assert 2 * h + o == pytest.approx(2 * TRUE[1] + TRUE[8], rel=1e-9)
    assert (h, o) == pytest.approx(np.array([2, 1]) * (2 * TRUE[1] + TRUE[8]) / 5, rel=1e-6)  # smallest norm
    note = next(line["text"] for line in st.journal.lines if line["event"] == "note")
    assert "1 of 2" in note
    assert "H, O" in note
    assert "isolated" in note


def test_only_the_loose_elements_are_named():
    counts = [{1: 2, 8: 1}, {1: 4, 8: 2}, {6: 3, 1: 2, 8: 1}]
    made = regress(Dataset([structure(c) for c in counts]), (1, 6, 8))
    assert made.rank == 2
    loose = np.abs(made.free).max(1) > 1e-6
    assert loose.tolist() == [True, False, True]
    assert made.energies[1] == pytest.approx(TRUE[6], rel=1e-6)


def test_outliers_are_left_out_and_reported():
    rng = np.random.default_rng(1)
    data = [structure(c, seed=k, source=f"a.xyz, frame {k}") for k, c in enumerate(MIXED * 6)]
    data = [s.replace(energy=s.energy + rng.normal(0, 0.01)) for s in data]
    data[7] = data[7].replace(energy=data[7].energy + 300.0)
    st = state(data)
    FitOffsets().run(st)
    assert energies(st) == pytest.approx(list(TRUE.values()), abs=0.05)
    note = next(line["text"] for line in st.journal.lines if line["event"] == "note")
    assert "frame 7" in note
    assert [o["index"] for o in st.journal.lines[-1]["outliers"]] == [7]
    x = np.array([[s.numbers.tolist().count(z) for z in TRUE] for s in data], float)
    control = np.linalg.lstsq(x, [s.energy for s in data], rcond=None)[0]  # control: plain least squares is pulled away
    assert np.abs(control - list(TRUE.values())).max() > 1.0


def test_isolated_atoms_are_taken_and_the_binding_energy_starts_in_the_bias(toynet):
    atoms = [structure({z: 1}) for z in TRUE]
    bound = [structure(c, sum(TRUE[z] * n for z, n in c.items()) - 2.5 * sum(c.values())) for c in MIXED]
    torch.manual_seed(0)
    st = state(bound + atoms, body=toynet((1, 6, 8)))
    FitOffsets().run(st)
    assert energies(st) == pytest.approx(list(TRUE.values()), rel=1e-14)
    left = []
    for s in st.train[:6]:
        made = predict(st.potential, build(s, 4.0), ("energy",))
        left.append(float(made.energy) / len(s) - s.energy / len(s))
    assert np.median(left) == pytest.approx(0.0, abs=1e-9)
    bare = Sum(body=st.potential.terms["body"])
    assert float(predict(bare, build(bound[0], 4.0), ("energy",)).energy) / 5 == pytest.approx(-2.5, abs=0.3)
    forced = state(bound + atoms)
    FitOffsets("regression").run(forced)
    assert energies(forced) == pytest.approx([e - 2.5 for e in TRUE.values()], rel=1e-9)


def test_an_element_without_isolated_atom_is_named():
    with pytest.raises(LabelError, match=r"No isolated atom .* C, O"):
        FitOffsets("isolated").check(state([structure({1: 1}), structure({1: 4, 6: 1})]))


def test_an_atom_in_a_small_cell_is_a_crystal_not_an_isolated_atom():
    crystal = Structure(np.array([6]), np.zeros((1, 3)), cell=2.5 * np.eye(3), pbc=True, energy=-9.0)
    with pytest.raises(LabelError):
        FitOffsets("isolated").check(state([crystal], (6,)))
    FitOffsets("isolated").check(state([crystal.replace(cell=20.0 * np.eye(3))], (6,)))


def test_given_values():
    st = state([structure(c) for c in MIXED])
    FitOffsets("given", {"H": -1.0, "C": -2.0, "O": -3.0}).run(st)
    assert energies(st) == [-1.0, -2.0, -3.0]
    with pytest.raises(ConfigError, match="C, O"):
        FitOffsets("given", {"H": -1.0}).check(st)
    with pytest.raises(ConfigError, match="given"):
        FitOffsets("given")
    with pytest.raises(ConfigError, match="given"):
        FitOffsets("isolated", {"H": -1.0})


def test_data_without_energies_are_fine(toynet):
    data = [structure(c).replace(energy=None, forces=np.ones((sum(c.values()), 3)) * 3.0) for c in MIXED]
    st = state(data, body=toynet((1, 6, 8)))
    FitOffsets().run(st)
    assert energies(st) == [0.0, 0.0, 0.0]
    assert float(st.potential.terms["body"].readout.scale) == pytest.approx(3.0)
    assert "No structure has an energy" in st.journal.lines[0]["text"]


class Pair(Potential):
    """A fixed baseline: 0.5 k (r - 1)^2 for each bond, nothing to learn."""

    cutoff = 3.0

    def forward(self, graph):
        r = graph.vectors().norm(dim=1)
        share = torch.zeros(graph.n_atoms, dtype=r.dtype).index_add(0, graph.pairs[0], 0.25 * (r - 1) ** 2)
        return Output(share)


def test_a_baseline_is_subtracted_first(toynet):
    rng = np.random.default_rng(3)
    data = []
    for k in range(8):
        x = rng.normal(size=(3, 3))
        data.append(Structure(np.array([1, 1, 6])[: 2 + k % 2], x[: 2 + k % 2]))
    pair = Sum(pair=Pair())
    base = baseline(Sum(offset=Offsets((1, 6)), pair=Pair()), Dataset(data))
    labeled = [
        s.replace(energy=float(e) + sum(TRUE[int(z)] for z in s.numbers), forces=f)
        for s, e, f in zip(data, base.energy, base.forces, strict=True)
    ]
    st = state(labeled, (1, 6), pair=Pair(), body=toynet((1, 6)))
    FitOffsets().run(st)
    assert energies(st, (1, 6)) == pytest.approx([TRUE[1], TRUE[6]], rel=1e-9)
    assert np.abs(base.energy).max() > 0.1
    table = np.zeros(119)
    table[[1, 6]] = TRUE[1], TRUE[6]
    assert spreads(Dataset(labeled), table, base).get("forces", 0.0) < 1e-12
    assert spreads(Dataset(labeled), table)["forces"] > 0.1  # control: not subtracted
    assert pair.cutoff == 3.0


def test_spreads_by_hand():
    stress = np.diag([0.1, 0.2, 0.3])
    s = [
        structure({1: 2}, -27.0, forces=np.full((2, 3), 2.0)),
        structure({1: 2}, -29.0, forces=np.full((2, 3), -4.0), stress=stress, cell=np.eye(3) * 10.0, pbc=True),
    ]
    table = np.zeros(119)
    table[1] = -13.6
    atom = structure({1: 1}, -50.0)
    found = spreads(Dataset([*s, atom]), table)
    assert found["energy"] == pytest.approx(0.5)
    assert found["forces"] == pytest.approx(np.sqrt(10.0))
    assert found["virial"] == pytest.approx(np.sqrt(np.mean((stress * 1000.0 / 2) ** 2)))


def test_a_potential_without_offsets_is_refused(toynet):
    with pytest.raises(FitError, match="Offsets"):
        FitOffsets().check(FitState(toynet(), Dataset([structure({1: 2})])))
