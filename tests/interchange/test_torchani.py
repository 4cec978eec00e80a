"""Networks of torchani: its energies and forces with its weights, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.errors import ModelFileError
from epot.features.descriptors.aev import AEV
from epot.geometry.graph import build, collate
from epot.interchange import torchani
from epot.predict import predict
from epot.units import HARTREE

REFERENCE = Path(__file__).parents[1] / "data_files" / "torchani.npz"  # tests/oracles/torchani_networks.py
CASES, SYSTEMS = ["single", "ensemble"], ["molecule", "other", "box"]


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as file:
        return dict(file)


def state_of(reference, case):
    found = {k.split("/state/")[1]: torch.from_numpy(v) for k, v in reference.items() if k.startswith(f"{case}/state/")}
    return {k: v.double() if v.dtype == torch.float16 else v for k, v in found.items()}


def structure_of(reference, name):
    return Structure(*(reference[f"{name}/{k}"] for k in ("numbers", "positions", "cell", "pbc")))


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("case", CASES)
def test_same_as_torchani(reference, case, name):
    """Witness: torchani 2.9.0 in float64, random weights, a cell smaller than the cutoff among the systems.

    Control: forces change by far more with another cutoff.
    """
    potential = torchani.from_torchani(state_of(reference, case))
    graph = build(structure_of(reference, name), potential.cutoff)
    made = predict(potential, graph, ("forces",))
    assert abs(float(made.energy) / HARTREE - float(reference[f"{case}/{name}/energy"])) < 1e-9
    forces = made.forces.numpy() / HARTREE
    assert np.abs(forces - reference[f"{case}/{name}/forces"]).max() < 1e-9
    potential = torchani.from_torchani(state_of(reference, case), angular_cutoff=3.51)
    other = predict(potential, graph, ("forces",)).forces.numpy() / HARTREE
    assert np.abs(other - reference[f"{case}/{name}/forces"]).max() > 1e-4


def test_members_of_an_ensemble(reference):
    """The energy is the mean of the members', each of which is torchani's; in a batch as alone."""
    potential = torchani.from_torchani(state_of(reference, "ensemble"))
    graph = collate([build(structure_of(reference, name), potential.cutoff) for name in SYSTEMS])
    made = predict(potential, graph, ("forces", "members"))
    expected = np.stack([reference[f"ensemble/{name}/members"] for name in SYSTEMS])
    assert np.abs(made.members.energy.numpy() / HARTREE - expected).max() < 1e-9
    assert float((made.members.energy.mean(1) - made.energy).abs().max()) < 1e-9
    assert float(made.members.energy.std(1).min()) > 1e-3
    assert float((made.members.forces.mean(2) - made.forces).abs().max()) < 1e-9


def test_in_single_precision(reference):
    state = {k: v.float() if v.is_floating_point() else v for k, v in state_of(reference, "ensemble").items()}
    potential = torchani.from_torchani(state)
    assert potential.terms["body"].networks.weights[0][0].dtype == torch.float32
    for name in SYSTEMS:
        made = predict(potential, build(structure_of(reference, name), potential.cutoff))
        scale = np.abs(reference[f"ensemble/{name}/forces"]).max()
        apart = np.abs(made.forces.numpy() / HARTREE - reference[f"ensemble/{name}/forces"]).max()
        assert apart < 1e-5 * max(scale, 1)


def test_file_of_a_state(reference, tmp_path):
    """What torch.save writes is recognized and read, without running code from it; other files are not."""
    path = tmp_path / "model.pt"
    torch.save(state_of(reference, "single"), path)
    assert torchani.matches(path)
    structure = structure_of(reference, "molecule")
    potential = torchani.load(path)
    energy = predict(potential, build(structure, potential.cutoff), ("energy",)).energy
    assert abs(float(energy) / HARTREE - float(reference["single/molecule/energy"])) < 1e-9
    torch.save({"weight": torch.zeros(3)}, path)
    assert not torchani.matches(path)
    path.write_text("text")
    assert not torchani.matches(path)
    with pytest.raises(ModelFileError, match="not a file of tensors"):
        torchani.load(path)
    assert not torchani.matches(tmp_path / "missing.pt")


def test_names_of_version_1(reference):
    """Old states have other names and shapes for the same things."""
    state, old = state_of(reference, "ensemble"), {}
    constants = {v: k for k, v in torchani.OLD_CONSTANTS.items()}
    for key, value in state.items():
        name = key.replace("potentials.nnp.", "").replace("members.", "").replace("atomics.", "")
        for number in (2, 1, 0):
            name = name.replace(f"layers.{number}.", f"{2 * number}.")
        name = name.replace("final_layer", "6")
        if name.startswith("aev_computer.") and name.removeprefix("aev_computer.") in constants:
            name, value = "aev_computer." + constants[name.removeprefix("aev_computer.")], value.view(1, 1, -1, 1)
        if name != "atomic_numbers":
            old[name] = value
    assert "neural_networks.0.H.6.bias" in old
    assert "aev_computer.ShfZ" in old
    graph = build(structure_of(reference, "box"), 5.2)
    new = predict(torchani.from_torchani(state), graph)
    made = predict(torchani.from_torchani(old), graph)
    assert torch.equal(made.energy, new.energy)
    assert torch.equal(made.forces, new.forces)


def test_options(reference):
    """What the state does not tell is an option, and changes the result."""
    state = state_of(reference, "single")
    graph = build(structure_of(reference, "molecule"), 6.0)
    usual = predict(torchani.from_torchani(state), graph).energy
    for options in ({"activation": "celu"}, {"cutoff_function": "cosine"}, {"cutoff": 6.0}, {"angular_cutoff": 4.0}):
        assert abs(float(predict(torchani.from_torchani(state, **options), graph).energy - usual)) > 1e-5
    del state["energy_shifter.self_energies"]
    alone = torchani.from_torchani(state)
    assert type(alone).__name__ == "ANI"
    assert abs(float(predict(alone, graph).energy - usual)) > 1000


def test_what_is_refused(reference):
    state = state_of(reference, "single")
    with pytest.raises(ModelFileError, match="holds no potentials"):
        torchani.from_torchani({"weight": torch.zeros(3)})
    with pytest.raises(ModelFileError, match="repulsion"):
        torchani.from_torchani(state | {"potentials.repulsion_xtb.alpha": torch.zeros(4)})
    with pytest.raises(ModelFileError, match="lacks .*zeta"):
        torchani.from_torchani({k: v for k, v in state.items() if not k.endswith("zeta")})
    key = "potentials.nnp.aev_computer.radial.shifts"
    with pytest.raises(ModelFileError, match="another kind of descriptor"):
        torchani.from_torchani(state | {key: state[key][:-1]}, cutoff=5.1)
    with pytest.raises(ModelFileError, match="self energies"):
        torchani.from_torchani(state | {"energy_shifter.self_energies": torch.zeros(3)})
    with pytest.raises(ModelFileError, match="does not make an ANI"):
        torchani.from_torchani(state, activation="relu6")


@pytest.mark.parametrize(
    ("layout", "window", "name"),
    [("1x", "cosine", "molecule"), ("1x", "cosine", "box"), ("2x", "cosine", "halides"), ("2x", "smooth", "molecule")],
)
def test_symmetry_functions(reference, layout, window, name):
    """Witness: torchani's AEVComputer with constants in float64. Control: another order of the elements."""
    elements = ("H", "C", "N", "O", "S", "F", "Cl")[: 7 if name == "halides" else 4]
    made = AEV(elements, layout, "exponential" if window == "smooth" else window)
    assert made.size == {4: 384, 7: 1008}[len(elements)]
    graph = build(structure_of(reference, name), made.cutoff)
    rows = made(graph).numpy()
    expected = reference[f"aev/{layout}/{window}/{name}"]
    assert rows.shape == expected.shape
    assert np.abs(rows - expected).max() < 1e-12
    assert np.abs(AEV(elements[::-1], layout, made.cutoff_function)(graph).numpy() - expected).max() > 0.01
