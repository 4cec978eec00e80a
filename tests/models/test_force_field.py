"""The bonded force field: closed forms, ASE's and its own parameters recovered, files, other molecules refused."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from epot import modelfile
from epot.data.structure import Structure
from epot.errors import ConfigError, FitError, ModelError
from epot.fit.run import fit
from epot.geometry.graph import build
from epot.models.force_field import ForceField
from epot.predict import predict
from epot.testing import CheckFailure, checks
from epot.testing.systems import systems


def ethanol():
    return Structure.from_ase(molecule("CH3CH2OH"))


def energy(model, positions, numbers):
    return float(predict(model, build(Structure(np.array(numbers), np.array(positions)), 0.0), ("energy",)).energy)


def put(parameter, value):
    with torch.no_grad():
        parameter.fill_(value)


def test_closed_forms():
    """Water: two bonds and an angle; hydrogen peroxide: its torsion."""
    water = ForceField({"numbers": [8, 1, 1], "bonds": [[0, 1], [0, 2]]}, far=False)
    put(water.lengths.logarithm, np.log(1.0))
    put(water.bends.logarithm, np.log(np.pi / 2))
    put(water.bond_constants.logarithm, np.log(40.0))
    put(water.angle_constants.logarithm, np.log(3.0))
    theta = 1.9
    positions = [[0, 0, 0], [1.1, 0, 0], [0.9 * np.cos(theta), 0.9 * np.sin(theta), 0]]
    expected = 0.5 * 40 * (0.1**2 + 0.1**2) + 0.5 * 3 * (theta - np.pi / 2) ** 2
    assert energy(water, positions, [8, 1, 1]) == pytest.approx(expected, rel=1e-12)
    peroxide = ForceField({"numbers": [1, 8, 8, 1], "bonds": [[0, 1], [1, 2], [2, 3]]}, far=False)
    for table in (peroxide.bond_constants, peroxide.angle_constants):
        put(table.logarithm, -80.0)
    with torch.no_grad():
        peroxide.torsions.copy_(torch.tensor([[0.3, 0.2, 0.1]], dtype=torch.float64))
    for phi in (0.0, 0.7, 2.0, np.pi):
        positions = [[1, 0.2, 0], [0, 0, 0], [0, 0, 1.4], [np.cos(phi), np.sin(phi), 1.7]]
        positions[0] = [1, 0, 0]
        expected = 0.5 * (
            0.3 * (1 + np.cos(phi)) + 0.2 * (1 - np.cos(2 * phi)) + 0.1 * (1 + np.cos(3 * phi))
        )  # fmt: skip
        assert energy(peroxide, positions, [1, 8, 8, 1]) == pytest.approx(expected, abs=1e-12)


def truth(seed=0):
    model = ForceField()
    model.set_topology(ethanol())
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in (model.lengths, model.bond_constants, model.bends, model.angle_constants):
            p.logarithm += 0.08 * torch.randn(p.logarithm.shape, generator=random, dtype=torch.float64)
        model.torsions += 0.1 * torch.randn(model.torsions.shape, generator=random, dtype=torch.float64)
    return model


def labeled(model, n, seed=1, shift=-5.0):
    rng, base, made = np.random.default_rng(seed), ethanol(), []
    for _ in range(n):
        s = base.replace(positions=base.positions + 0.08 * rng.normal(size=(9, 3)))
        found = predict(model, build(s, 0.0))
        made.append(s.replace(energy=float(found.energy) + shift, forces=found.forces.numpy()))
    return made


def test_a_fit_finds_the_topology_and_the_constants(tmp_path):
    model = truth()
    data, others = labeled(model, 16), labeled(model, 5, seed=7)
    state = fit("force_field", data, holdout=0.1, folder=tmp_path, options={"descend": {"epochs": 80}})
    assert state.about["fit"]["topology"]["bonds"] == 8
    found = predict(state.potential, build(others, 0.0))
    forces = np.concatenate([s.forces for s in others])
    assert np.abs(found.forces.numpy() - forces).max() < 0.02 * np.abs(forces).max()
    np.testing.assert_allclose(found.energy.numpy(), [s.energy for s in others], atol=0.01)
    parameters = state.about["fit"]["parameters"]["terms.body"]
    label = "C(C,H,H,O)-O(C,H)"
    assert parameters["length (Å)"][label] == pytest.approx(model.lengths.report()[label], rel=5e-3)
    again, _ = modelfile.load(tmp_path / "model.epot")
    assert torch.equal(predict(again, build(others, 0.0)).energy, found.energy)
    assert again.terms["body"].topology["numbers"] == ethanol().numbers.tolist()
    resumed = fit("force_field", data, holdout=0.1, folder=tmp_path, options={"descend": {"epochs": 80}})
    assert torch.equal(predict(resumed.potential, build(others, 0.0)).energy, found.energy)


def test_other_molecules_are_refused():
    model = truth()
    methane = Structure.from_ase(molecule("CH4"))
    with pytest.raises(ModelError, match="in this order"):
        energy(model, methane.positions, methane.numbers)
    order = np.roll(np.arange(9), 2)
    with pytest.raises(ModelError, match="another order"):
        energy(model, ethanol().positions[order], ethanol().numbers[order])
    with pytest.raises(ModelError, match="FindTopology"):
        energy(ForceField(), ethanol().positions, ethanol().numbers)
    data = labeled(model, 3)
    broken = data[2].positions.copy()
    broken[8] += 4.0
    with pytest.raises(FitError, match="structure 2.*broken"):
        fit("force_field", [*data[:2], data[2].replace(positions=broken)], holdout=0.0)
    with pytest.raises(FitError, match="not"):
        fit("force_field", [*data, methane.replace(energy=1.0)], holdout=0.0)
    with pytest.raises(ConfigError, match="bond"):
        ForceField({"numbers": [1, 1], "bonds": [[0, 2]]})
    with pytest.raises(ConfigError, match="numbers"):
        ForceField({"atoms": [1, 1]})


@pytest.mark.parametrize("check", sorted(ForceField.exempt))
def test_declared_exemptions_are_needed(check):
    """Control: without the declaration these checks fail, on the usual systems."""
    model = ForceField.tiny()
    model.exempt = {}
    with pytest.raises(CheckFailure):
        checks(only=[check])[0](model, systems((1, 8)))


def test_straight_molecules():
    """HCN: the angle of 180 degrees is finite in value and derivatives."""
    hcn = Structure.from_ase(molecule("HCN"))
    model = ForceField()
    model.set_topology(hcn)
    assert model.topology["straight"]
    made = predict(model, build(hcn, 0.0), ("forces", "hessian"))
    assert torch.isfinite(made.hessian).all()
    assert float(made.forces.abs().max()) < 1e-5
