"""GemNet: sums over triplets and quadruplets written out, by the reference code's names; scales; images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.geometry.graph import build
from epot.interchange.gemnet import from_gemnet
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
