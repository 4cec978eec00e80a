"""DimeNet++: torch_geometric's numbers with torch_geometric's weights, and files that are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from epot import interchange
from epot.data.structure import Structure
from epot.errors import ConfigError, ModelFileError
from epot.features import directional
from epot.geometry.graph import build
from epot.interchange.torch_geometric import dimenet_from_state
from epot.predict import predict

REFERENCE = Path(__file__).parents[1] / "data_files" / "dimenet_pyg.npz"  # tests/oracles/dimenet_pyg.py
OPTIONS = {"small": {"cutoff": 3.5}, "exponent": {"cutoff": 3.0, "envelope_exponent": 4}}
STRUCTURES = ["molecule", "crystal", "small_cell"]


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as file:
        return dict(file)


def state_of(reference, case):
    return {k.split("/state/")[1]: torch.from_numpy(v) for k, v in reference.items() if k.startswith(f"{case}/state/")}


def structure_of(reference, name):
    return Structure(*(reference[f"{name}/{k}"] for k in ("numbers", "positions", "cell", "pbc")))


def apart(reference, case, name, model):
    """Largest differences of the energy per atom and of a force, and the largest force."""
    structure = structure_of(reference, name)
    made = predict(model, build(structure, model.cutoff))
    energy = abs(float(made.energy) - float(reference[f"{case}/{name}/energy"])) / len(structure)
    forces = reference[f"{case}/{name}/forces"]
    return energy, np.abs(made.forces.numpy() - forces).max(), np.abs(forces).max()


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("case", OPTIONS)
def test_same_as_torch_geometric(reference, case, name):
    """Witness: torch_geometric 2.8.1 in float64, random weights, biases and frequencies. Control: angles turned over.

    A molecule, a cell larger than two cutoffs, and a cell smaller than one, where triplets lead to images.
    """
    model = dimenet_from_state(state_of(reference, case), **OPTIONS[case])
    energy, forces, largest = apart(reference, case, name, model)
    assert energy < 1e-6
    assert forces < 1e-6 * largest
    with torch.no_grad():  # the other convention: cos theta -> -cos theta flips odd degrees
        weight = model.interactions[0].sbf_in.weight.view(model.n_basis, model.l_max + 1, model.n_radial)
        weight[:, 1::2] *= -1
    assert apart(reference, case, name, model)[1] > 1e-4 * largest


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("case", OPTIONS)
def test_what_differs_is_rounding_of_its_constants(reference, monkeypatch, case, name):
    """With the roots of Bessel functions and the norms that torch_geometric has, in float32, to rounding in float64."""
    roots, norms = (torch.from_numpy(reference[f"{case}/{k}"].astype(float))[:, :, None] for k in ("roots", "norms"))
    degrees = torch.arange(len(roots), dtype=torch.float64)[:, None, None]
    monkeypatch.setattr(directional, "_constants", lambda *_: (roots, norms, degrees))
    energy, forces, largest = apart(
        reference, case, name, dimenet_from_state(state_of(reference, case), **OPTIONS[case])
    )
    assert energy < 1e-11
    assert forces < 1e-11 * largest


def test_file_units_and_elements(reference, tmp_path):
    state = {k: v.float() for k, v in state_of(reference, "small").items()}
    torch.save(state, tmp_path / "model.pt")
    assert interchange.find(tmp_path / "model.pt") == "torch_geometric"
    with pytest.raises(ConfigError, match="DimeNet.*no option 'std'"):
        interchange.load(tmp_path / "model.pt", std=2.0)
    model = interchange.load(tmp_path / "model.pt", cutoff=3.5, elements=("H", "C", "N", "O"), energy_unit=2.0)
    assert model.elements == (1, 6, 7, 8)
    assert model.frequencies.dtype == torch.float32
    made = predict(model, build(structure_of(reference, "molecule"), 3.5), ("energy",))
    assert abs(float(made.energy) / 2 - float(reference["small/molecule/energy"])) < 1e-4


def test_refuses_other_states(reference, tmp_path):
    state = state_of(reference, "small")
    with pytest.raises(ModelFileError, match="not the state"):
        dimenet_from_state({"weight": torch.zeros(2)})
    with pytest.raises(ModelFileError, match="2 outputs"):
        dimenet_from_state(state | {"output_blocks.0.lin.weight": torch.zeros(2, 10)})
    with pytest.raises(ModelFileError, match="ends at 14"):
        dimenet_from_state(state, elements=(1, 79))
    with pytest.raises(ModelFileError, match="whole DimeNetPlusPlus"):
        dimenet_from_state({k: v for k, v in state.items() if k != "interaction_blocks.1.lin_up.weight"})
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pt")
    with pytest.raises(ModelFileError, match="holds more than tensors"):
        interchange.load(tmp_path / "module.pt", "torch_geometric")
    assert interchange.formats()["torch_geometric"].matches(tmp_path / "module.pt") is False
