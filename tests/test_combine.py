"""Several potentials as one: the numbers are those of each alone; what each knew is kept, or left out in the open."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import epot
from epot import modelfile
from epot.combine import combine
from epot.data.dataset import Dataset
from epot.errors import ConfigError
from epot.fitted import Fitted
from epot.geometry.graph import build
from epot.models.mace import MACE
from epot.models.painn import PaiNN
from epot.potential import Committee, Output, Potential, Sum, make
from epot.predict import predict
from epot.terms.offsets import Offsets
from epot.testing import checks
from epot.uncertainty.domain import Domain
from linear_toy import dataset, radial

pytestmark = pytest.mark.filterwarnings("ignore::epot.uncertainty.domain.DomainWarning")  # few structures are known
DATA = dataset(radial(1), 14)
WANT = ("energy", "forces", "virial", "members")


class Held(Potential):
    """Springs to the origin and a term of the cell: it looks at positions and cells, not at pairs."""

    cutoff = 3.0

    def forward(self, graph):
        return Output(graph.positions.square().sum(1) + torch.linalg.det(graph.cell).abs()[graph.owner])


def several():
    """PaiNN, MACE with another cutoff, and energies per element, all in float64."""
    torch.manual_seed(5)
    one, two = PaiNN.tiny().double(), MACE.tiny().double()
    return [fitted_like(one), two, radial(3)]


def fitted_like(body):
    return Sum(offset=Offsets((1, 6, 8), (-1.0, -3.0, -2.0)), body=body)


@pytest.fixture
def files(tmp_path):
    """Three fits of one kind to the same data, with a posterior each."""
    paths = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        one = fitted_like(PaiNN.tiny().double())
        readout = one.terms["body"].readout
        readout.member_weights = readout.weight.detach()[:, None] * torch.tensor([0.9, 1.1], dtype=torch.float64)
        about = {"domain": Domain.from_dataset(DATA[:seed], 4.0).to_json(), "training": {"n": 9}, "fit": {"seed": seed}}
        paths.append(Fitted(one, about).save(tmp_path / f"{seed}" / "model.epot"))
    return paths


@pytest.mark.parametrize("members", [several(), [*several(), Held()]], ids=["pairs", "positions, cells"])
def test_everything_is_that_of_the_members(members, water, silicon):
    """Witness: each alone. Control: without copies of the geometry all members would get the sum of the forces."""
    committee = Committee(members)
    assert not committee.pairwise
    structures = [water, water.replace(positions=water.positions * 1.01)]
    alone = [predict(m, build(structures, m.cutoff), WANT[:3]) for m in members]
    graph = build(structures, committee.cutoff)
    for want in (WANT, WANT[:3], (*WANT, "atom_virials")):
        made = predict(committee, graph, want)
        for name in WANT[:3]:
            each = torch.stack([getattr(one, name) for one in alone], -1)
            torch.testing.assert_close(getattr(made, name), each.mean(-1), rtol=1e-9, atol=1e-9)
            if "members" in want:
                torch.testing.assert_close(getattr(made.members, name), each, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(alone[0].forces, made.forces, atol=1e-3)
    assert predict(committee, graph, ("energy", "members")).members.forces is None


def test_one_backward_pass_serves_all_members(water):
    """Without copies each member's forces would take a pass through all of them."""
    passes = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            passes.append(1)
            return g

    class Springs(Potential):
        cutoff, pairwise = 3.0, True

        def forward(self, graph):
            pairs = Counted.apply(graph.vectors()).square().sum(1)
            return Output(pairs.new_zeros(graph.n_atoms).index_add(0, graph.pairs[0], pairs))

    predict(Committee([Springs() for _ in range(4)]), build(water, 3.0), WANT)
    assert len(passes) == 4


@pytest.mark.parametrize("check", checks(), ids=str)
def test_a_committee_is_a_potential(check):
    torch.manual_seed(0)
    check(Committee([PaiNN.tiny(), MACE.tiny()]))


def test_a_file_of_it_gives_the_same_numbers(tmp_path, water):
    committee = Sum(all=Committee(several()[:2]), more=Offsets((1, 8), values=(0.5, 0.25)))
    config = json.loads(json.dumps(committee.config()))
    assert make(config).config() == committee.config()
    loaded, _ = modelfile.load(modelfile.save(tmp_path / "c.epot", committee))
    graph = build(water, committee.cutoff)
    for one, other in zip(predict(committee, graph, WANT).members, predict(loaded, graph, WANT).members, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    for wrong in ({"name": "committee"}, {"name": "committee", "members": 3}, {"name": "committee", "members": []}):
        with pytest.raises(ConfigError, match="committee's configuration|two potentials or more"):
            make(wrong)


def test_combined_files(files):
    each = [Fitted.load(path) for path in files]
    made = epot.combine(files)
    assert made.calibration is None
    assert made.predict(DATA[0]).energy_std is None
    for s in DATA:
        found = made.predict(s, ("energy", "forces", "members"))
        alone = [one.predict(s) for one in each]
        assert found.energy == pytest.approx(np.mean([one.energy for one in alone]), abs=1e-10)
        np.testing.assert_allclose(found.forces, np.mean([one.forces for one in alone], 0), atol=1e-10)
        np.testing.assert_allclose(found.members.energy, [one.energy for one in alone], atol=1e-10)  # no posteriors
    assert [fit["fit"]["seed"] for fit in made.about["combined"]] == [1, 2, 3]
    assert made.about["training"] == {"n": 9}
    assert made.about["domain"] == Domain.from_dataset(DATA[:3], 4.0).to_json()
    assert each[0].potential.terms["body"].readout.n_members == 2
    combine(each)
    assert each[0].potential.terms["body"].readout.n_members == 2  # what was given is not changed


def test_the_spread_is_calibrated_by_held_out_structures(files):
    """Control: labels twice as far away make standard deviations twice as large."""
    mean = combine(files)

    def labeled(scale):
        random, made = np.random.default_rng(0), []
        for s in DATA:
            found = mean.predict(s, ("energy", "forces", "members"))
            noise = found.members.forces.std(-1, ddof=1) * random.normal(size=found.forces.shape)
            made.append(s.replace(energy=found.energy + 0.01, forces=found.forces + scale * noise, stress=None))
        return made

    one, two = (combine(files, labeled(scale)) for scale in (1.0, 2.0))
    assert one.calibration.kind == "ensemble"
    assert one.calibration.forces == pytest.approx(1.0, rel=0.15)
    assert two.calibration.forces == pytest.approx(2 * one.calibration.forces, rel=1e-6)
    assert one.domain.forces_std is not None
    std = one.predict(DATA[0]).forces_std
    np.testing.assert_allclose(two.predict(DATA[0]).forces_std, 2 * std, rtol=1e-6)
    assert one.evaluate(labeled(1.0)).calibration["forces"]["coverage_1"] == pytest.approx(0.68, abs=0.1)


def test_dynamics_and_the_doctor(files, ethanol):
    made = combine(files, Dataset(DATA))
    atoms = DATA[0].to_ase()
    atoms.calc = made.calculator()
    assert atoms.get_potential_energy() == pytest.approx(made.predict(DATA[0]).energy, abs=1e-9)
    assert atoms.calc.get_property("forces_std", atoms).shape == (len(atoms), 3)
    assert made.doctor([DATA[0]]).to_json()


def test_ranges_of_several_training_sets():
    a, b = Domain.from_dataset(DATA[:2], 4.0), Domain.from_dataset(DATA[2:8], 4.0)
    assert Domain.joined([a, b]) == Domain.joined([b, a])
    joined = Domain.joined([a.with_limit(0.3), b])
    whole = Domain.from_dataset(DATA[:8], 4.0)
    assert (joined.closest, joined.neighbors, joined.forces_std) == (whole.closest, whole.neighbors, None)
    far = Domain.joined([a, Domain.from_dataset(DATA[2:8], 5.0)])
    assert far.cutoff == 5.0
    assert far.neighbors == Domain.from_dataset(DATA[2:8], 5.0).neighbors


def test_what_cannot_be_combined(files, tmp_path):
    with pytest.raises(ConfigError, match="two or more"):
        combine(files[:1])
    with pytest.raises(ConfigError, match="two or more"):
        combine(str(files[0]))
    with pytest.raises(ConfigError, match="1 and 3 are the same"):
        combine([files[0], files[1], files[0]])
    copper = Fitted(Offsets((29,), values=(-1.0,))).save(tmp_path / "cu.epot")
    with pytest.raises(ConfigError, match=r"no element together: H, C, O; Cu"):
        combine([files[0], copper])
    unknown = Fitted(PaiNN.tiny()).save(tmp_path / "imported.epot")  # no record of its training
    made = combine([files[0], unknown])
    assert made.domain is None
    assert "training" not in made.about


def test_fits_to_different_references_are_refused(tmp_path):
    def kept(name, carbon):
        torch.manual_seed(len(name))
        one = Sum(offset=Offsets((1, 6, 8), (-13.6, carbon, -2041.0)), body=PaiNN.tiny().double())
        return Fitted(one).save(tmp_path / f"{name}.epot")

    near = [kept("pbe", -1029.0), kept("wb97x", -1030.5)]  # all electrons by two functionals: not seen by this check
    assert combine(near).elements == (1, 6, 8)
    committee = combine(near).save(tmp_path / "near.epot")
    assert combine([committee, kept("another", -1028.0)]).elements == (1, 6, 8)
    with pytest.raises(ConfigError, match=r"C alone has -1029.0 eV in potential 1 and -147.2 eV in potential 3"):
        combine([*near, kept("pseudopotentials", -147.2)])


def test_a_committee_is_not_fitted_on(files, tmp_path):
    path = combine(files).save(tmp_path / "c.epot")
    with pytest.raises(ConfigError, match=r"3 potentials that were fitted apart.*epot combine"):
        epot.fit(path, DATA)


def test_command(files, tmp_path):
    from epot.cli import main as cli

    if not cli.app.registered_commands:
        cli._register()
    run = lambda *words: CliRunner().invoke(cli.app, ["combine", *map(str, words)])  # noqa: E731
    data, out = tmp_path / "held.xyz", tmp_path / "c.epot"
    Dataset(DATA).write(data)
    shown = run(*files, "--data", data, "--out", out)
    assert shown.exit_code == 0, shown.output
    assert "mean of 3 potentials; its spread was calibrated" in shown.output
    rows = [line.split() for line in shown.output.splitlines() if line.startswith((str(tmp_path), "mean "))]
    assert len(rows) == 4 + 1
    assert epot.load(out).calibration is not None
    told = json.loads(run(*files, "--data", data, "--out", out, "--json").output)
    assert set(told["rmse"]) == {*map(str, files), "mean"}
    errors = epot.load(out).evaluate(DATA)
    assert told["rmse"]["mean"]["forces"] == pytest.approx(errors.all["forces"]["rmse"], rel=1e-6)
    assert "give --data" in run(*files, "--out", out).output
    refused = run(*files, "--out", files[0])
    assert isinstance(refused.exception, ConfigError)
    assert "is one of the models" in str(refused.exception)
