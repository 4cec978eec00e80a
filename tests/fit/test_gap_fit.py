"""The same sparse points and sigmas as gap_fit give the same potential (tests/oracles/gap_fit.py)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.fit.recipe import FitState
from epot.fit.stages.solve import Solve
from epot.geometry.graph import build
from epot.models.gap import GAP
from epot.potential import Sum
from epot.predict import predict
from epot.terms.offsets import Offsets

REFERENCE = np.load(Path(__file__).parents[1] / "data_files" / "gap_fit.npz")


def structure(k):
    get = lambda key: REFERENCE[f"{k}/{key}"]  # noqa: E731
    volume = abs(np.linalg.det(get("cell")))
    return Structure(
        get("numbers"), get("positions"), get("cell"), True,
        energy=float(get("energy")), forces=get("forces"), stress=-get("virial") / volume,
    )  # fmt: skip


def fitted(energy, forces, virial):
    species = tuple(REFERENCE["species"].tolist())
    body = GAP(species, 3.5, 4, 3, sigma=0.5, cutoff_width=1.0)
    points = []
    for z in species:
        vectors = torch.from_numpy(REFERENCE[f"sparse/{z}"][:, :-1])  # QUIP: l innermost, and a last element of 0
        points.append(vectors.view(len(vectors), -1, 4).transpose(1, 2).reshape(len(vectors), -1))
    body.set_sparse(points)
    potential = Sum(offset=Offsets(species, [{6: -1.5, 14: -0.7}[z] for z in species]), body=body)
    train = Dataset([structure(k) for k in range(int(REFERENCE["n_train"]))])
    Solve(energy, forces, virial, jitter=1e-8).run(FitState(potential, train))
    return potential


def largest_errors(potential):
    errors = np.zeros(3)
    for k in range(8):
        found = predict(potential, build(structure(k), 3.5), ("energy", "forces", "virial"))
        for n, name in enumerate(("energy", "forces", "virial")):
            left = getattr(found, name).numpy().squeeze() - REFERENCE[f"{k}/gap_{name}"]
            errors[n] = max(errors[n], np.abs(left).max())
    return errors


def test_energies_forces_and_virials_are_those_of_gap_fit(monkeypatch):
    monkeypatch.setenv("EPOT_PROGRESS", "0")
    sigmas = REFERENCE["sigmas"].tolist()
    energy, forces, virial = largest_errors(fitted(*sigmas))
    assert energy < 1e-6
    assert forces < 1e-5
    assert virial < 1e-5
    other = largest_errors(fitted(sigmas[0], sigmas[1] * 1.1, sigmas[2]))
    assert (other > [1e-4, 1e-3, 1e-3]).all()


@pytest.mark.parametrize("k", [0, 3])
def test_the_reference_is_periodic_with_a_virial(k):
    assert np.abs(REFERENCE[f"{k}/virial"]).max() > 0.1
