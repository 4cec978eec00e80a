"""Potentials of gap_fit. Witness: quippy with the same file (tests/oracles/gap_kernels.py)."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from epot import modelfile
from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.errors import ModelFileError
from epot.fit.recipe import FitState
from epot.fit.stages.solve import Solve
from epot.geometry.graph import build
from epot.interchange.gap_xml import load, matches, settings
from epot.predict import predict

DATA = Path(__file__).parents[1] / "data_files"
XML = DATA / "gap_xml" / "gap.xml"
REFERENCE = np.load(DATA / "gap_kernels.npz")


def structure(k):
    get = lambda key: REFERENCE[f"{k}/{key}"]  # noqa: E731
    volume = abs(np.linalg.det(get("cell")))
    return Structure(
        get("numbers"), get("positions"), get("cell"), True,
        energy=float(get("energy")), forces=get("forces"), stress=-get("virial") / volume,
    )  # fmt: skip


def largest_errors(potential):
    errors = np.zeros(3)
    for k in range(8):
        found = predict(potential, build(structure(k), potential.cutoff), ("energy", "forces", "virial"))
        for n, name in enumerate(("energy", "forces", "virial")):
            left = getattr(found, name).numpy().squeeze() - REFERENCE[f"{k}/gap_{name}"]
            errors[n] = max(errors[n], np.abs(left).max())
    return errors


@pytest.fixture(scope="module")
def loaded():
    return load(XML)


@pytest.fixture
def copied(tmp_path):
    return Path(shutil.copytree(XML.parent, tmp_path / "gap")) / "gap.xml"


def test_predicts_what_quippy_predicts(loaded):
    energy, forces, virial = largest_errors(loaded)
    assert energy < 1e-6
    assert forces < 1e-5
    assert virial < 1e-5


def test_every_kernel_counts(loaded):
    """Control: without the weights of any one kernel, the energies are others."""
    body = loaded.terms["body"]
    assert [k.name for k in body.terms] == ["distance_2b"] * 2 + ["angle_3b"] * 5 + ["soap"]
    kept, start = body.readout.weight.detach().clone(), 0
    for kernel in body.terms:
        stop = start + len(kernel.points)
        with torch.no_grad():
            body.readout.weight[start:stop] = 0
        assert largest_errors(loaded)[1] > 1e-4, kernel.name
        with torch.no_grad():
            body.readout.weight.copy_(kept)
        start = stop


def test_fitted_with_the_same_points_and_sigmas_it_is_that_of_gap_fit(monkeypatch):
    """Same sparse points, same sigmas, weights of our own: pairs, triples and SOAP at once."""
    monkeypatch.setenv("EPOT_PROGRESS", "0")
    potential = load(XML)
    train = Dataset([structure(k) for k in range(int(REFERENCE["n_train"]))])
    before = potential.terms["body"].readout.weight.detach().clone()
    jitter = 1e-9 / float(potential.terms["body"].precision().diagonal().mean())  # gap_fit's is in eV^2
    Solve(*REFERENCE["sigmas"].tolist(), jitter=jitter).run(FitState(potential, train))
    assert not torch.equal(potential.terms["body"].readout.weight, before)
    energy, forces, virial = largest_errors(potential)
    assert energy < 1e-6
    assert forces < 1e-5
    assert virial < 1e-5
    sigmas = REFERENCE["sigmas"] * [1, 1.1, 1]
    Solve(*sigmas.tolist(), jitter=jitter).run(FitState(potential, train))
    assert (largest_errors(potential) > [1e-4, 1e-4, 1e-4]).all()


def test_saved_as_a_model_file(loaded, tmp_path):
    again = modelfile.load(modelfile.save(tmp_path / "model.epot", loaded))[0]
    graph = build(structure(6), loaded.cutoff)
    assert torch.equal(predict(again, graph).forces, predict(loaded, graph).forces)
    assert again.config() == loaded.config()


def test_recognized(tmp_path):
    assert matches(XML)
    assert not matches(DATA / "gap_kernels.npz")
    (tmp_path / "other.xml").write_text("<a/>")
    assert not matches(tmp_path / "other.xml")
    assert not matches(tmp_path / "none.xml")


def test_a_missing_file_of_sparse_points_is_named(copied):
    (copied.parent / "gap.xml.sparseX.GAP13").unlink()
    with pytest.raises(ModelFileError, match=r"needs its file of sparse points .*gap\.xml\.sparseX\.GAP13"):
        load(copied)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('do_core="F"', 'do_core="T"', "core potential"),
        ('init_args="IP GAP', 'init_args="Sum init_args_pot1={IP Glue} init_args_pot2={IP GAP}', r"core pot.*Glue"),
        ("soap cutoff", "soap radial_scaling=-0.5 cutoff", "radial_scaling=-0.5"),
        ("soap cutoff", "soap Z_mix=T cutoff", "Z_mix"),
        ("angle_3b cutoff", "water_dimer cutoff", "'water_dimer'; those known"),
        ("order=2", "order=3", "order 3"),
        ('covariance_type="2"', 'covariance_type="4"', "covariance type '4'"),
        ('zeta="4.0', 'zeta="2.5', "whole numbers"),
        ('signal_mean=".0', 'signal_mean=".1', "f0=.1"),
        ('n_sparseX="10"', 'n_sparseX="9"', "not complete"),
        ('dimensions="145"', 'dimensions="77"', "not the 145"),
        ("<GAP_data", "<GAP_date", "not a complete|not an XML"),
        ("species_Z={14 6 }", "species_Z={14 8 }", "sees neighbors of Si, O only"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused(old, new, message, copied):
    text = copied.read_text()
    assert old in text
    copied.write_text(text.replace(old, new))
    with pytest.raises(ModelFileError, match=message):
        load(copied)


def test_entities_are_refused(copied):
    text = copied.read_text()
    copied.write_text('<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z SYSTEM "file:///etc/passwd">]>\n' + text)
    with pytest.raises(ModelFileError, match="document type"):
        load(copied)


@pytest.mark.parametrize("text", ["", "<a>", "no xml", "<GAP_params/>", "<e0 Z='x' value='1'/>", "<sparseX i='1'/>"])
def test_damaged_files(text, tmp_path):
    path = tmp_path / "gap.xml"
    path.write_text(text)
    with pytest.raises(ModelFileError):
        load(path)


def test_settings_of_a_descriptor():
    name, found = settings(" distance_Nb order=2 Z={{14 6 }} f0=0.0  compact_clusters=T")
    assert (name, found) == ("distance_Nb", {"order": "2", "Z": "14 6", "f0": "0.0", "compact_clusters": "T"})
