"""A fitted potential: the same numbers by every road."""

import json
import warnings

import ase
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from epot.data.dataset import Dataset
from epot.data.readers import read
from epot.data.structure import Structure
from epot.errors import ConfigError, DataError, ModelError, UnknownElementError
from epot.evaluate.doctor_report import Report
from epot.fitted import Fitted
from epot.models.painn import PaiNN
from epot.potential import Sum
from epot.terms.offsets import Offsets
from epot.uncertainty.domain import Domain, DomainWarning
from linear_toy import dataset, radial

DATA = dataset(radial(1), 14)
ALL = ("energy", "forces", "stress", "virial", "members")


@pytest.fixture
def fitted():
    potential = radial()
    readout = potential.terms["body"].readout
    noise = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    readout.member_weights = readout.weight.detach()[:, None] + 0.1 * noise
    calibration = {"kind": "ensemble", "energy": 3.0, "forces": 2.0, "stress": 0.5}
    return Fitted(potential, {"calibration": calibration, "domain": Domain.from_dataset(DATA, 4.0).to_json()})


@pytest.fixture
def file(tmp_path):
    """A model file: PaiNN with an ensemble, and what travels with it."""
    body = PaiNN.tiny()
    body.readout.member_weights = body.readout.weight.detach()[:, None] + 0.01 * torch.randn(
        len(body.readout.weight), 4, generator=torch.Generator().manual_seed(0)
    ).to(body.readout.weight)
    made = Fitted(Sum(offset=Offsets((1, 6, 8), (-1.0, -3.0, -2.0)), body=body), {"calibration": {"energy": 1.0}})
    return made.save(tmp_path / "model.epot")


def test_batched_is_single(fitted):
    together = fitted.predict(DATA, ALL)
    small = fitted.predict(DATA, ALL, max_atoms=10)
    words = lambda s: ALL if s.pbc.all() else [w for w in ALL if w != "stress"]  # noqa: E731
    single = [fitted.predict(s, words(s)) for s in DATA]
    for one, two, three in zip(together, small, single, strict=True):
        for other in (two, three):
            assert other.energy == pytest.approx(one.energy, abs=1e-12)
            assert other.energy_std == pytest.approx(one.energy_std, abs=1e-12)
            np.testing.assert_allclose(other.forces, one.forces, atol=1e-12)
            np.testing.assert_allclose(other.forces_std, one.forces_std, atol=1e-12)
            np.testing.assert_allclose(other.virial, one.virial, atol=1e-12)
            np.testing.assert_allclose(other.members.forces, one.members.forces, atol=1e-12)
            assert (other.stress is None) == (one.stress is None)
            if one.stress is not None:
                np.testing.assert_allclose(other.stress, one.stress, atol=1e-12)
                np.testing.assert_allclose(other.stress_std, one.stress_std, atol=1e-12)


def test_std_is_the_calibrated_spread_of_the_members(fitted):
    for s, e in zip(DATA, fitted.predict(DATA, ALL), strict=True):
        assert e.energy_std == pytest.approx(3.0 * e.members.energy.std(ddof=1))
        np.testing.assert_allclose(e.forces_std, 2.0 * e.members.forces.std(-1, ddof=1), atol=1e-12)
        assert (e.stress is not None) == bool(s.pbc.all())
        if e.stress is not None:
            np.testing.assert_allclose(e.stress_std, 0.5 * e.members.stress.std(-1, ddof=1), atol=1e-12)
            np.testing.assert_allclose(e.stress, -e.virial / s.volume, atol=1e-14)
        assert e.atom_energies.sum() == pytest.approx(e.energy)


def test_only_what_is_asked_for(fitted):
    plain = fitted.predict(DATA[0], ("energy",))
    assert plain.forces is None
    assert plain.forces_std is None
    assert plain.members is None
    assert plain.energy_std > 0
    assert fitted.predict(DATA[0], uncertainty=False).energy_std is None
    raw = Fitted(fitted.potential).predict(DATA[0])
    assert raw.energy_std is None  # a spread that was never calibrated is not a standard deviation


def test_structures_and_atoms_and_datasets_are_the_same(fitted):
    atoms = [s.to_ase() for s in DATA[:3]]
    expected = [e.energy for e in fitted.predict(DATA[:3])]
    assert [e.energy for e in fitted.predict(atoms)] == expected
    assert [e.energy for e in fitted.predict(Dataset(DATA[:3]), max_atoms=1)] == pytest.approx(expected, abs=1e-12)
    assert fitted.predict(atoms[0]).energy == pytest.approx(expected[0], abs=1e-12)
    assert fitted.predict([]) == []
    assert fitted.evaluate(Dataset(DATA)).n_structures == 14
    assert fitted.evaluate(DATA).all["forces"]["rmse"] > 0


def test_outside_the_domain_warns_once(fitted):
    close = ase.Atoms("HO", [[0, 0, 0], [0.5, 0, 0]])
    with pytest.warns(DomainWarning, match="1 of 2 structures are outside"):
        found = fitted.predict([DATA[0], close])
    assert found[0].violations == ()
    assert any("H-O 0.500 Å" in text for text in found[1].violations)
    with warnings.catch_warnings():  # control
        warnings.simplefilter("error")
        fitted.predict(DATA)


def test_a_constant_where_there_is_no_ensemble():
    made = Fitted(radial(), {"calibration": {"kind": "constant", "constant": {"energy": 0.01, "forces": 0.2}}})
    found = made.predict(DATA[1])
    assert found.energy_std == pytest.approx(0.01 * len(DATA[1]))
    assert found.forces_std == pytest.approx(np.full((len(DATA[1]), 3), 0.2))


def test_requests_that_cannot_be_met(fitted):
    molecule = Structure(np.array([1, 8]), np.array([[0.0, 0, 0], [1.6, 0, 0]]))
    with pytest.raises(ModelError, match="'virial'"):
        fitted.predict(molecule, ("energy", "stress"))
    with pytest.raises(ConfigError, match="did you mean 'forces'"):
        fitted.predict(molecule, ("force",))
    with pytest.raises(ModelError, match="no ensemble"):
        Fitted(radial()).predict(molecule, ("energy", "members"))
    with pytest.raises(UnknownElementError, match="F"):
        fitted.predict(molecule.replace(numbers=np.array([1, 9])))
    with pytest.raises(DataError, match="Item 1 is a str"):
        fitted.predict([molecule, "water"])
    with pytest.raises(DataError, match="not int"):
        fitted.predict(3)


def test_a_file_gives_the_same_numbers(file, ethanol):
    made = Fitted.load(file)
    found = made.predict(ethanol)
    again = Fitted.load(made.save(file.with_name("again.epot"))).predict(ethanol)
    assert again.energy == found.energy
    assert again.energy_std == found.energy_std > 0
    np.testing.assert_array_equal(again.forces, found.forces)
    assert made.elements == (1, 6, 8)
    assert "@" in made.cite()
    assert "body=PaiNN" in repr(made)


def test_the_doctor_leaves_its_verdict(fitted, monkeypatch):
    """The examination itself has tests of its own."""
    seen = []

    def examine(potential, structures, **options):
        seen.append((potential, len(structures), options))
        return Report("toy")

    monkeypatch.setattr("epot.fitted.examine", examine)
    fitted.doctor([DATA[0].to_ase()], seed=3)
    assert seen == [(fitted.potential, 1, {"seed": 3})]
    assert fitted.about["doctor"] == Report("toy").to_json()


def test_the_calculator_agrees(fitted):
    found = fitted.predict(DATA[0])
    atoms = DATA[0].to_ase()
    atoms.calc = fitted.calculator(uncertainty=True)
    assert atoms.get_potential_energy() == pytest.approx(found.energy, abs=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), found.forces, atol=1e-10)
    np.testing.assert_allclose(atoms.calc.results["forces_std"], found.forces_std, atol=1e-10)


def test_written_predictions_read_back(fitted, tmp_path):
    close = Structure(np.array([1, 8]), np.array([[0.0, 0, 0], [0.5, 0, 0]]), info={"note": "close"}, energy=77.0)
    facts = fitted.write([*DATA, close], tmp_path / "out.xyz.gz")
    assert facts == {"n_structures": 15, "outside": 1}
    back = read(tmp_path / "out.xyz.gz")
    for s, e in zip(back, [*fitted.predict(DATA, ALL)], strict=False):
        assert s.energy == pytest.approx(e.energy, abs=1e-10)
        np.testing.assert_allclose(s.forces, e.forces, atol=1e-10)
        np.testing.assert_allclose(s.arrays["forces_std"], e.forces_std, atol=1e-10)
        assert float(s.info["energy_std"]) == pytest.approx(e.energy_std)
        if e.stress is not None:
            np.testing.assert_allclose(s.stress, e.stress, atol=1e-10)
    assert back[14].energy != 77.0
    assert "H-O 0.500 Å" in back[14].info["outside"]
    with pytest.raises(DataError, match="extended XYZ"):
        fitted.write(DATA, tmp_path / "out.csv")
    with pytest.raises(UnknownElementError):
        fitted.write([close.replace(numbers=np.array([1, 9]))], tmp_path / "out.xyz.gz")
    assert len(read(tmp_path / "out.xyz.gz")) == 15  # the previous file is intact


def test_command_lines(file, ethanol, tmp_path):
    from epot.cli.main import _register, app

    _register()
    labelled = ethanol.replace(energy=-10.0, forces=np.zeros((9, 3)))
    Dataset([labelled]).write(tmp_path / "in.xyz")
    run = CliRunner().invoke
    found = run(app, ["eval", str(file), str(tmp_path / "in.xyz"), "--json"])
    assert found.exit_code == 0, found.output
    expected = Fitted.load(file).evaluate([labelled])
    assert json.loads(found.output)["all"]["forces"]["rmse"] == pytest.approx(expected.all["forces"]["rmse"])
    assert "meV/atom" in run(app, ["eval", str(file), str(tmp_path / "in.xyz")]).output
    out = tmp_path / "out.xyz"
    found = run(app, ["predict", str(file), str(tmp_path / "in.xyz"), str(out), "--json"])
    assert json.loads(found.output) == {"n_structures": 1, "outside": None}  # of this file the domain is not known
    words = run(app, ["predict", str(file), str(tmp_path / "in.xyz"), str(out)]).output
    assert "nothing can tell" in " ".join(words.split())
    assert read(out)[0].energy == pytest.approx(Fitted.load(file).predict(ethanol).energy)
    assert "rmd17/ethanol" in json.loads(run(app, ["bench", "--list", "--json"]).output)


def test_public_functions_survive_the_import_of_modules_of_their_names():
    """``import epot.fit.run`` binds ``epot.fit`` to a module, unless the package says otherwise."""
    import importlib

    import epot

    for name in ("epot.fit.run", "epot.predict"):
        importlib.import_module(name)
    assert callable(epot.fit)
    assert callable(epot.predict)
    assert epot.fit.__module__ == "epot.api"
