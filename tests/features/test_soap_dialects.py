"""SOAP in the conventions of DScribe and featomic.

Witnesses: values of dscribe (tests/oracles/soap_dscribe.py), values and gradients of featomic
(tests/oracles/soap_featomic.py).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.features.descriptors.soap import Soap
from epot.features.descriptors.soap_average import SoapAverage
from epot.geometry.graph import build

DATA = Path(__file__).parents[1] / "data_files"
DSCRIBE, FEATOMIC = np.load(DATA / "soap_dscribe.npz"), np.load(DATA / "soap_featomic.npz")
DSCRIBE_CASES = sorted(key.removesuffix("/values") for key in DSCRIBE if key.endswith("/values"))
FEATOMIC_CASES = sorted(key.removesuffix("/values") for key in FEATOMIC if key.endswith("/values"))


def dscribe_arguments(settings, elements):
    """Ours from dscribe's."""
    ours = {"dialect": "dscribe", "cutoff": settings["r_cut"]} | {k: settings[k] for k in ("n_max", "l_max", "sigma")}
    if "rbf" in settings:
        ours["basis"] = settings["rbf"]
    weighting = dict(settings.get("weighting", {}))
    own = weighting.pop("w0", None)
    if weighting:
        ours["weighting"] = weighting
    if own is not None:
        ours["center_weight"] = own / (weighting["c"] / weighting["d"] if weighting else 1)
    compression = settings.get("compression", {"mode": "off"})
    weights = compression.get("species_weighting")
    weights = [1.0] * elements if weights is None else [weights[z] for z in ("H", "C", "O")]
    if compression["mode"] == "mu2":
        ours["mixing"] = [weights]
    elif weights != [1.0] * elements:
        ours["mixing"] = np.diag(weights).tolist()
    if compression["mode"] in ("mu1nu1", "crossover"):
        ours["compression"] = compression["mode"]
    return ours


@pytest.mark.parametrize("name", DSCRIBE_CASES)
def test_values_are_those_of_dscribe(name):
    system = name.split("/")[0]
    get = lambda key: DSCRIBE[f"{system}/{key}"]  # noqa: E731
    cell = get("cell") if system == "nacl" else None
    structure = Structure(get("numbers"), get("positions"), cell, system == "nacl")
    settings = json.loads(str(DSCRIBE[f"{name}/settings"]))
    elements = sorted(set(structure.numbers.tolist()))
    soap = Soap(elements, **dscribe_arguments(settings, len(elements)))
    if "average" in settings:
        config = {k: v for k, v in soap.config().items() if k not in ("name", "elements")}
        found = SoapAverage(elements, settings["average"], config)(build(structure, soap.cutoff))[0].numpy()
    else:
        found = soap(build(structure, soap.cutoff)).numpy()
    expected = DSCRIBE[f"{name}/values"]
    found = found[: len(expected)]
    tolerance = 1e-6 if "polynomial" in name else 1e-9
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert len(soap.columns()) == soap.size == expected.shape[-1]


def test_dscribe_counts_neighbors_beyond_its_cutoff():
    soap = Soap((14,), cutoff=4.0, sigma=0.5, dialect="dscribe", n_max=3, l_max=2)
    assert abs(soap.cutoff - (4.0 + 0.5 * np.sqrt(-2 * np.log(0.001)))) < 1e-12
    again = Soap(**{k: v for k, v in soap.config().items() if k != "name"})
    assert again.cutoff == soap.cutoff
    assert again.config() == soap.config()

    def spectrum(distance, **change):
        made = Soap((14,), cutoff=4.0, sigma=0.5, dialect="dscribe", n_max=3, l_max=2, **change)
        return made(build(Structure(np.array([14, 14]), np.array([[0.0, 0, 0], [distance, 0, 0]])), 6.5))

    jump = spectrum(soap.cutoff - 1e-9) - spectrum(soap.cutoff + 1e-9)
    assert jump.abs().max() > 1e-6  # its cutoff is a step
    smooth = {"cutoff_width": 1.0}
    jump = spectrum(soap.cutoff - 1e-9, **smooth) - spectrum(soap.cutoff + 1e-9, **smooth)
    assert jump.abs().max() < 1e-14


def featomic_case(name):
    get = lambda key: FEATOMIC[f"{name}/{key}"]  # noqa: E731
    cutoff, n_max, l_max, sigma, width, weight = get("settings")
    scaling = get("scaling")
    weighting = None
    if len(scaling):
        weighting = dict(zip(("function", "c", "d", "r0", "m"), ("pow", scaling[0], *scaling), strict=True))
    soap = Soap(
        get("species").tolist(), float(cutoff), int(n_max), int(l_max), float(sigma), dialect="featomic",
        cutoff_width=float(width), center_weight=float(weight), weighting=weighting,
    )  # fmt: skip
    return soap, Structure(get("numbers"), get("positions"), get("cell"), get("pbc"))


@pytest.mark.parametrize("name", FEATOMIC_CASES)
def test_values_are_those_of_featomic(name):
    soap, structure = featomic_case(name)
    expected = FEATOMIC[f"{name}/values"]
    found = soap(build(structure, soap.cutoff)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(np.abs(expected).max(), 1))


@pytest.mark.parametrize("name", [c for c in FEATOMIC_CASES if f"{c}/by_cell" in FEATOMIC])
def test_gradients_are_those_of_featomic(name):
    soap, structure = featomic_case(name)
    graph = build(structure, soap.cutoff)

    def spectra(positions, cell):
        return soap(graph.replace(positions=positions, cell=cell))

    by_position, by_cell = torch.autograd.functional.jacobian(spectra, (graph.positions, graph.cell))
    expected = FEATOMIC[f"{name}/by_position"]
    np.testing.assert_allclose(by_position.permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=1e-10)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(
        by_cell[:, :, 0].permute(0, 2, 3, 1).numpy(), FEATOMIC[f"{name}/by_cell"], rtol=0, atol=1e-10
    )
