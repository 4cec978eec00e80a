"""GemNet: sums over triplets and quadruplets written out, by the reference code's names; scales; images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from epot import testing
from epot.blocks import gemnet_quadruplets
from epot.blocks.gemnet_edges import Edges
from epot.blocks.gemnet_layers import he_orthogonal_, scaling_factors
from epot.blocks.gemnet_triplets import CircularBasis
from epot.data.structure import Structure
from epot.errors import ConfigError, ModelFileError
from epot.features.directional import zonal_harmonics
from epot.geometry.graph import build
from epot.interchange import find
from epot.interchange.gemnet import from_gemnet, load
from epot.models import gemnet
from epot.models.gemnet import GemNet
from epot.predict import predict

REFERENCE = Path(__file__).parents[1] / "data_files" / "gemnet_loops.npz"  # tests/oracles/gemnet_loops.py


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as file:
        return dict(file)


def state_of(reference, kind):
    """As the reference code's ``state_dict()`` has it: layers under two names."""
    state = {k.split("/state/")[1]: torch.from_numpy(v) for k, v in reference.items() if k.startswith(f"{kind}/state/")}
    twice = {k.replace(".linear.weight", ".weight"): v for k, v in state.items() if ".linear." in k}
    twice |= {k.replace(".layers.", ".seq_energy."): v for k, v in state.items() if k.startswith("out_blocks")}
    return state | twice


def model_of(reference, kind):
    return from_gemnet(
        state_of(reference, kind), cutoff=float(reference["cutoff"]), int_cutoff=float(reference["int_cutoff"])
    )


def structure_of(reference):
    return Structure(reference["numbers"], reference["positions"])


@pytest.mark.parametrize("kind", ["T", "Q"])
def test_same_as_the_sums_written_out(reference, kind):
    """Witness: loops over triplets and quadruplets with scipy's functions. Controls: two layers exchanged; a factor."""
    model = model_of(reference, kind)
    assert model.quadruplets == (kind == "Q")
    graph = build(structure_of(reference), model.cutoff)
    made = predict(model, graph)
    energy = float(reference[f"{kind}/energy"])
    assert abs(float(made.energy) - energy) < 1e-11
    assert abs(float(made.energy) - float(reference[f"{kind}/energy_rounded"])) < 1e-6  # roots in single precision
    assert np.abs(made.forces[1].numpy() + reference[f"{kind}/slope"]).max() < 1e-6
    part = model.interactions[-1].quadruplets if kind == "Q" else model.interactions[-1].triplets
    with torch.no_grad():
        part.up.same.weight, part.up.opposite.weight = part.up.opposite.weight, part.up.same.weight
        assert abs(float(predict(model, graph, ("energy",)).energy) - energy) > 1e-3
        part.up.same.weight, part.up.opposite.weight = part.up.opposite.weight, part.up.same.weight
        part.scale_sum.factor *= 1.01
        assert abs(float(predict(model, graph, ("energy",)).energy) - energy) > 1e-5


@pytest.mark.parametrize("kind", ["T", "Q"])
def test_atoms_on_a_line(reference, kind):
    """Propyne: a, b and d on a line leave no frame, and the angle is a right one, as in the loops. All stays finite."""
    model = model_of(reference, kind)
    graph = build(Structure(reference["linear/numbers"], reference["linear/positions"]), model.cutoff)
    made = predict(model, graph, create_graph=True)
    assert abs(made.energy.item() - float(reference[f"{kind}/linear"])) < 1e-9
    made.forces.square().sum().backward()
    assert torch.isfinite(made.forces).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def small_cell(n=2, seed=0):
    """A skewed cell that is smaller than the cutoffs."""
    rng = np.random.default_rng(seed)
    cell = np.array([[2.3, 0.0, 0.0], [0.5, 2.1, 0.0], [-0.3, 0.4, 2.6]])
    return Structure(np.array([6, 1, 8])[:n], rng.random((n, 3)) * 1.3, cell, True)


@pytest.mark.parametrize("native", ["0", "1"])
def test_sums_over_triplets_without_triplets(native, monkeypatch):
    """Against triplets one by one, images told apart. Control: with b = c it is another sum."""
    monkeypatch.setenv("EPOT_NATIVE", native)
    graph = build(small_cell(), 3.0)
    edges, vectors = Edges.of(graph), graph.vectors()
    units = vectors / vectors.norm(dim=1, keepdim=True)
    ones, apart = torch.ones(7, graph.n_pairs, 1, dtype=torch.float64), torch.eye(7, dtype=torch.float64)
    basis = CircularBasis.of(units, ones, apart.unsqueeze(1), edges)  # a function of each degree alone
    x = torch.randn(graph.n_pairs, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ba, ac = graph.triplets()  # b -> a -> c, where GemNet has c -> a <- b
    ca = graph.reverse_pairs()[ac]
    zonal = zonal_harmonics((units[ba] * units[ca]).sum(1), 6)
    wanted = torch.zeros(graph.n_pairs, 7, 4, dtype=torch.float64)
    wanted.index_add_(0, ca, zonal.t()[:, :, None] * x[ba][:, None])
    found = basis.messages(x, torch.eye(28, dtype=torch.float64), edges).view(-1, 7, 4)
    assert (found - wanted).abs().max() < 1e-12
    own = zonal_harmonics(torch.ones(1, dtype=torch.float64), 6).view(1, 7, 1) * x[:, None]
    assert (found + own - wanted).abs().max() > 0.1
    assert torch.equal(edges.others, torch.bincount(ca, minlength=graph.n_pairs))


def test_quadruplets_of_images():
    """Against all sets of four images, one by one. Control: by atoms alone, most of them would be missing."""
    structure = small_cell()
    far, near = build(structure, 2.9), build(structure, 2.4)
    found = gemnet_quadruplets.Quadruplets.of(far, near, 9)
    made = set()
    for chunk in found.chunks:
        for k, row, end in chunk.used.nonzero().tolist():
            e, t = int(chunk.edges[row, k]), int(chunk.ends[row, end])
            p, f = int(found.middle[t]), int(found.outer[t])
            s_b = far.shifts[p]
            sites = [(int(near.pairs[1, e]), near.shifts[e]), (int(near.pairs[0, e]), 0 * s_b)]
            sites += [(int(far.pairs[1, p]), s_b), (int(near.pairs[1, f]), s_b + near.shifts[f])]
            made.add(tuple((z, *(int(v) for v in s)) for z, s in sites))
    table = lambda g: {  # noqa: E731
        i: [(int(j), tuple(int(v) for v in s)) for a, j, s in zip(*g.pairs, g.shifts, strict=True) if a == i]
        for i in range(2)
    }
    edges, middle, wanted = table(near), table(far), set()
    plus = lambda s, t: tuple(a + b for a, b in zip(s, t, strict=True))  # noqa: E731
    for a in range(2):
        for b in middle[a]:
            for d in ((j, plus(b[1], s)) for j, s in edges[b[0]]):
                for c in edges[a]:
                    if len({c, (a, (0, 0, 0)), b, d}) == 4:
                        wanted.add(((c[0], *c[1]), (a, 0, 0, 0), (b[0], *b[1]), (d[0], *d[1])))
    assert made == wanted
    assert int(found.repeats.sum()) == len(wanted)
    assert not [q for q in made if len({site[0] for site in q}) == 4]  # of two atoms, no four are different


@pytest.fixture(params=["smooth", "published"])
def quads(request):
    return quadruplet_model(request.param)


def quadruplet_model(dihedral):
    torch.manual_seed(1)
    config = GemNet.tiny().config() | {"quadruplets": True, "cutoff": 2.8, "edge_cutoff": 2.0, "n_layers": 1}
    config["dihedral"] = dihedral
    config["elements"] = ["C", "H"]
    config.pop("name")
    return GemNet(**config)


@pytest.mark.parametrize("check", testing.checks(), ids=str)
def test_checks_with_quadruplets(check, quads):
    check(quads)


def slopes(model, positions, atom, axis, heights):
    """Forces on an atom that is moved along an axis."""
    made = []
    for height in heights:
        moved = positions.copy()
        moved[atom, axis] += height
        graph = build(Structure(np.array([6, 6, 1, 1]), moved), model.cutoff)
        made.append(float(predict(model.double(), graph).forces[atom, axis]))
    return made


FLAT = np.array([[0.0, 0, 0], [1.2, 0, 0], [1.9, 1.0, 0], [-0.6, 0.9, 0]])


def test_kink_of_published_quadruplets():
    """Out of the plane, the energy of a planar molecule has a kink, with all harmonics. Controls: smooth ones, none."""
    published, smooth = quadruplet_model("published"), quadruplet_model("smooth")
    plain = GemNet(**{k: v for k, v in GemNet.tiny().config().items() if k != "name"})
    above, below = slopes(published, FLAT, 3, 2, [1e-7, -1e-7])
    assert abs(above) > 1e-5
    assert abs(above + below) < 1e-9
    for model in (plain, smooth):
        assert abs(slopes(model, FLAT, 3, 2, [1e-7])[0]) < 1e-6
    published.exempt = {}
    flat = FLAT.copy()
    flat[3, 2] = 1e-6
    nearly = {"nearly flat": Structure(np.array([6, 6, 1, 1]), flat)}
    [found] = testing.examine_potential(published, systems=nearly, only=["forces"])
    assert not found.passed
    [found] = testing.examine_potential(smooth, systems=nearly, only=["forces"])
    assert found.passed, found


def test_jump_of_published_quadruplets():
    """Where a, b and d come to lie on a line, d on either side of it. Control: smooth ones see the same from both."""
    line = np.array([[0.0, 0, 0], [1.3, 0, 0], [2.6, 0, 0], [-0.5, 0.8, 0.7]])

    def energies(model):
        graphs = []
        for side in (2e-6, -2e-6):
            moved = line.copy()
            moved[2, 1] = side
            graphs.append(build(Structure(np.array([6, 6, 1, 1]), moved), model.cutoff))
        return [float(predict(model.double(), g, ("energy",)).energy) for g in graphs]

    one, other = energies(quadruplet_model("published"))
    assert abs(one - other) > 1e-5
    one, other = energies(quadruplet_model("smooth"))
    assert abs(one - other) < 1e-7


@pytest.mark.parametrize("turn", [1.4, 2.0, 2.5])
def test_smooth_harmonics_are_the_even_ones(turn):
    """At right angles the published model without weights of odd harmonics. Control: at another angle it is not."""
    published, smooth = quadruplet_model("published").double(), quadruplet_model("smooth").double()
    wanted = smooth.state_dict()
    rows = [k * k + k + m for k in range(published.n_spherical) for m in range(k + 1)]
    all_of_them = torch.zeros_like(published.sbf_quadruplet)
    all_of_them[rows] = wanted["sbf_quadruplet"]
    published.load_state_dict(wanted | {"sbf_quadruplet": all_of_them})

    def difference(angle):
        d = [0.7 - 0.9 * np.cos(angle), *(0.9 * np.sin(angle) * np.array([np.cos(turn), np.sin(turn)]))]
        positions = np.array([[0.0, 0, 0], [0.7, 0, 0], [0, 0.9, 0], d])
        graph = build(Structure(np.array([6, 6, 1, 1]), positions), 2.8)
        models = [published, smooth]
        for model in models:
            model.cutoff, model.edge_cutoff = 1.1, 1.1
        return np.ptp([float(predict(model, graph, ("energy",)).energy) for model in models])

    assert difference(np.pi / 2) < 1e-12
    assert difference(1.9) > 1e-8


def test_quadruplets_in_little_memory(quads, monkeypatch):
    """Harmonics made again in each block and derivative give the same energies, forces and second derivatives."""
    graph = build([small_cell(), Structure(np.array([6, 1, 1]), np.eye(3) * 1.2)], 3.0)
    quads = quads.double()

    def gradients():
        quads.zero_grad()
        made = predict(quads, graph, create_graph=True)
        (made.energy.sum() + made.forces.square().sum()).backward()
        return [made.energy, made.forces, *(p.grad for p in quads.parameters())]

    before = gradients()
    first = predict(quads, graph).forces
    monkeypatch.setattr(gemnet_quadruplets, "KEPT", 0)
    monkeypatch.setattr(gemnet_quadruplets, "CHUNK", 2000)
    after = gradients()
    assert all((a - b).abs().max() < 1e-9 * (1 + a.abs().max()) for a, b in zip(before, after, strict=True))
    assert (predict(quads, graph).forces - first).abs().max() < 1e-11


def test_constant_weights_change_nothing(monkeypatch):
    """What is kept less for large systems: the same forces. Control: a loss still reaches the weights."""
    torch.manual_seed(0)
    model = GemNet.tiny().double()
    graph = build(small_cell(), model.cutoff)
    before = predict(model, graph).forces
    monkeypatch.setattr(gemnet, "LARGE", 0)
    assert torch.equal(predict(model, graph).forces, before)
    predict(model, graph, create_graph=True).forces.square().sum().backward()
    assert model.first_edges.weight.grad.abs().max() > 0


def test_he_orthogonal():
    """Rows with mean zero and variance 1 / fan-in, nearly orthogonal; two inputs count together."""
    torch.manual_seed(0)
    weight = he_orthogonal_(torch.empty(12, 30, dtype=torch.float64))
    assert weight.mean(1).abs().max() < 1e-12
    assert (weight.var(1) * 30 - 1).abs().max() < 1e-4
    overlap = weight @ weight.t() - torch.diag(weight.square().sum(1))
    assert overlap.abs().max() < 0.3
    double = he_orthogonal_(torch.empty(5, 4, 3, dtype=torch.float64))
    assert (double.var((0, 1)) * 20 - 1).abs().max() < 1e-4


def test_reads_a_file(reference, tmp_path):
    """As ``epot import`` does: the format is found, elements are chosen, nothing will be fitted again."""
    path = tmp_path / "weights.pth"
    torch.save(state_of(reference, "T"), path)
    assert find(path) == "gemnet"
    model = load(path, elements=("H", "C", "N", "O"), cutoff=float(reference["cutoff"]), energy_unit=2.0)
    graph = build(structure_of(reference), model.cutoff)
    assert abs(float(predict(model, graph, ("energy",)).energy) - 2 * float(reference["T/energy"])) < 1e-11
    assert all(bool(f.settled) for f in scaling_factors(model))
    (tmp_path / "other.pth").write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="not a file of tensors"):
        load(tmp_path / "other.pth")
    torch.save([1, 2], path)
    with pytest.raises(ModelFileError, match="list"):
        load(path)


def test_refuses_other_states(reference):
    state = state_of(reference, "T")
    with pytest.raises(ModelFileError, match="lacks"):
        from_gemnet({"mlp_cbf3.weight": torch.zeros(2, 2, 2)})
    with pytest.raises(ModelFileError, match="lacks int_blocks.1.dense_ca"):
        from_gemnet({k: v for k, v in state.items() if not k.startswith("int_blocks.1.dense_ca")})
    with pytest.raises(ModelFileError, match="forces directly"):
        from_gemnet(state | {"out_blocks.0.out_forces.linear.weight": torch.zeros(1, 5)})
    with pytest.raises(ModelFileError, match="no place for: extra"):
        from_gemnet(state | {"extra": torch.zeros(1)})
    with pytest.raises(ModelFileError, match="shape"):
        from_gemnet(state | {"mlp_rbf_h.linear.weight": torch.zeros(2, 2), "mlp_rbf_h.weight": torch.zeros(2, 2)})
    two = {k: torch.cat([v, v]) for k, v in state.items() if "out_energy" in k}
    with pytest.raises(ModelFileError, match="2 targets"):
        from_gemnet(state | two)


@pytest.mark.parametrize(
    "wrong",
    [{"cutoff": 0.0}, {"n_edge": 1}, {"n_layers": 0}, {"n_concat": -1}, {"edge_cutoff": 3.0},
     {"quadruplets": True, "edge_cutoff": 6.0}],
)  # fmt: skip
def test_refuses_impossible_settings(wrong):
    with pytest.raises(ConfigError, match=list(wrong)[-1]):
        GemNet(**wrong)
