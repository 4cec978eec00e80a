"""The bonded force field: closed forms, ASE's and its own parameters recovered, files, other molecules refused."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from scipy.special import erfc

from epot import modelfile
from epot.blocks.bonded import shifted_coulomb
from epot.data.structure import Structure
from epot.errors import ConfigError, DataError, FitError, ModelError
from epot.fit.run import fit
from epot.geometry.graph import build
from epot.models.force_field import ForceField
from epot.predict import predict
from epot.testing import CheckFailure, checks
from epot.testing.systems import supercell, systems


def ethanol():
    return Structure.from_ase(molecule("CH3CH2OH"))


def energy(model, positions, numbers):
    return float(
        predict(model, build(Structure(np.array(numbers), np.array(positions)), model.cutoff), ("energy",)).energy
    )


def put(parameter, value):
    with torch.no_grad():
        parameter.fill_(value)


def test_closed_forms():
    """Water: two bonds and an angle; hydrogen peroxide: its torsion."""
    water = ForceField({"numbers": [8, 1, 1], "bonds": [[0, 1], [0, 2]]}, cutoff=0.0)
    put(water.lengths.logarithm, np.log(1.0))
    put(water.bends.logarithm, np.log(np.pi / 2))
    put(water.bond_constants.logarithm, np.log(40.0))
    put(water.angle_constants.logarithm, np.log(3.0))
    theta = 1.9
    positions = [[0, 0, 0], [1.1, 0, 0], [0.9 * np.cos(theta), 0.9 * np.sin(theta), 0]]
    expected = 0.5 * 40 * (0.1**2 + 0.1**2) + 0.5 * 3 * (theta - np.pi / 2) ** 2
    assert energy(water, positions, [8, 1, 1]) == pytest.approx(expected, rel=1e-12)
    peroxide = ForceField({"numbers": [1, 8, 8, 1], "bonds": [[0, 1], [1, 2], [2, 3]]}, cutoff=0.0)
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
    model = ForceField(charges=False)
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
        found = predict(model, build(s, model.cutoff))
        made.append(s.replace(energy=float(found.energy) + shift, forces=found.forces.numpy()))
    return made


def test_a_fit_finds_the_topology_and_the_constants(tmp_path):
    model, plain = truth(), {"name": "force_field", "charges": False}
    data, others = labeled(model, 16), labeled(model, 5, seed=7)
    state = fit(plain, data, holdout=0.1, folder=tmp_path, options={"descend": {"epochs": 80}})
    assert state.about["fit"]["topology"]["bonds"] == 8
    found = predict(state.potential, build(others, model.cutoff))
    forces = np.concatenate([s.forces for s in others])
    assert np.abs(found.forces.numpy() - forces).max() < 0.02 * np.abs(forces).max()
    np.testing.assert_allclose(found.energy.numpy(), [s.energy for s in others], atol=0.01)
    parameters = state.about["fit"]["parameters"]["terms.body"]
    label = "C(C,H,H,O)-O(C,H)"
    assert parameters["length (Å)"][label] == pytest.approx(model.lengths.report()[label], rel=5e-3)
    again, _ = modelfile.load(tmp_path / "model.epot")
    assert torch.equal(predict(again, build(others, model.cutoff)).energy, found.energy)
    assert again.terms["body"].topology["numbers"] == ethanol().numbers.tolist()
    resumed = fit(plain, data, holdout=0.1, folder=tmp_path, options={"descend": {"epochs": 80}})
    assert torch.equal(predict(resumed.potential, build(others, model.cutoff)).energy, found.energy)


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
    with pytest.raises(ConfigError, match="width"):
        ForceField(cutoff=1.0, width=2.0)
    crystal = Structure.from_ase(bulk("Si", cubic=True)).replace(energy=1.0)
    with pytest.raises(DataError, match="stillinger_weber"):
        fit("force_field", [crystal, crystal], holdout=0.0)


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
    made = predict(model, build(hcn, model.cutoff), ("forces", "hessian"))
    assert torch.isfinite(made.hessian).all()
    assert float(made.forces.abs().max()) < 1e-5


def liquid(n=2, edge=5.2, seed=0):
    """``n^3`` molecules of water, turned at random, each on a point of a grid; atoms wrapped one by one."""
    rng, cell = np.random.default_rng(seed), edge * np.array([[1.0, 0.1, 0.0], [0.0, 1.0, 0.05], [-0.1, 0.0, 1.0]])
    water, parts = molecule("H2O"), []
    for place in np.ndindex(n, n, n):
        water.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        parts.append(water.positions - water.positions[0] + (np.array(place) / n) @ cell)
    whole = np.concatenate(parts) + 0.03 * rng.normal(size=(3 * n**3, 3))
    wrapped = np.linalg.solve(cell.T, whole.T).T % 1.0 @ cell
    return whole, Structure(np.tile([8, 1, 1], n**3), wrapped, cell, True)


def of(structure, **arguments):
    model = ForceField(**arguments)
    model.set_topology(structure)
    return model


def values(model, structure, want=("forces", "virial")):
    return predict(model, build(structure, model.cutoff), want)


def test_a_liquid_is_what_its_molecules_are():
    """Witness: the same molecules, whole, in the open, with pairs that do not see their images written out."""
    whole, box = liquid()
    model = of(box, cutoff=2.4, width=0.6)
    assert sorted(model.lengths.labels) == ["H(O)-O(H,H)"]  # all share one
    assert model.topology["bonds"] == [[3 * k, 3 * k + h] for k in range(8) for h in (1, 2)]
    open_ = values(model, Structure(box.numbers, whole))
    apart = values(model, box)
    count = lambda s: build(s, model.cutoff).n_pairs  # noqa: E731
    assert count(box) > count(Structure(box.numbers, whole))
    far = of(box, cutoff=0.0)
    for table in ("lengths", "bends", "bond_constants", "angle_constants"):
        getattr(far, table).load_state_dict(getattr(model, table).state_dict())
    bonded = values(far, box)
    torch.testing.assert_close(bonded.energy, values(far, Structure(box.numbers, whole)).energy, rtol=1e-12, atol=1e-12)
    pairs = float(apart.energy - bonded.energy)
    assert pairs == pytest.approx(written_out(model, whole, np.asarray(box.cell)), abs=1e-12)
    assert abs(pairs - float(open_.energy - bonded.energy)) > 1e-3  # control: images count
    assert float(apart.charges[:3].sum()) == pytest.approx(0, abs=1e-15)
    assert float(apart.charges[0]) < -0.3


def written_out(model, whole, cell):
    """Energy of all pairs of atoms of different molecules (or images), by loops."""
    depths, sizes = model.depths().tolist(), model.sizes().tolist()
    charges = model.charge_of_each().tolist()
    total = 0.0
    for steps in np.ndindex(3, 3, 3):
        move = (np.array(steps) - 1) @ cell
        for i, a in enumerate(whole):
            for j, b in enumerate(whole + move):
                r = np.linalg.norm(b - a)
                if r >= model.cutoff or (i // 3 == j // 3 and not move.any()):
                    continue
                p, q = int(i % 3 == 0), int(j % 3 == 0)
                sixth = ((sizes[p] + sizes[q]) / 2 / r) ** 6
                energy = 4 * np.sqrt(depths[p] * depths[q]) * (sixth**2 - sixth)
                alpha, end = 0.2, model.cutoff
                slope = erfc(alpha * end) / end**2 + 2 * alpha / np.sqrt(np.pi) * np.exp(-((alpha * end) ** 2)) / end
                shifted = erfc(alpha * r) / r - erfc(alpha * end) / end + slope * (r - end)
                energy += 14.3996454784255 * charges[i] * charges[j] * shifted
                x = max(0.0, (r - end + model.width) / model.width)
                total += 0.5 * energy * (1 - 10 * x**3 + 15 * x**4 - 6 * x**5)
    return total


def test_images_of_a_molecule_are_far_from_it():
    """In a cell smaller than the cutoff; witness: the supercell, of which every molecule is an atom's own."""
    _, box = liquid(1, edge=3.4)
    larger = supercell(box, (2, 2, 2))
    small, large = of(box, cutoff=6.0), of(larger, cutoff=6.0)
    for name, parameter in large.named_parameters():
        parameter.data = small.get_parameter(name).data.clone()
    one, eight = values(small, box), values(large, larger)
    assert float(eight.energy) == pytest.approx(8 * float(one.energy), rel=1e-12)
    torch.testing.assert_close(eight.forces[:3], one.forces, rtol=0, atol=1e-11)
    torch.testing.assert_close(eight.virial, 8 * one.virial, rtol=0, atol=1e-10)


@pytest.mark.parametrize("check", ["forces", "stress", "wrapping", "cell_choice", "translation"])
def test_checks_of_a_liquid(check):
    box = liquid(1, edge=3.4)[1]
    checks(only=[check])[0](of(box, cutoff=3.2), {"liquid": box})


def test_three_bonds_apart_counts_half():
    """Peroxide: its hydrogen atoms; witness: their interaction written out."""
    model = ForceField.tiny()
    base = model.examples()["first"]
    alone = values(model, base).energy
    for table in (model.depths, model.sizes):
        assert table.report().keys() == {"H", "O"}
    put(model.depths.logarithm, -80.0)
    model.carried.data.zero_()
    bonded = values(model, base).energy
    fresh = ForceField.tiny()
    r = float(np.linalg.norm(base.positions[3] - base.positions[0]))
    sixth = (fresh.sizes.report()["H"] / r) ** 6
    energy = 4 * 0.003 * (sixth**2 - sixth)
    energy += float(fresh.carried.detach()) ** 2 * float(
        shifted_coulomb(torch.tensor(r, dtype=torch.float64)[None], 3.5)
    )
    fade = float(fresh.fade(torch.tensor([r], dtype=torch.float64), 3.5)[0])
    assert float(alone - bonded) == pytest.approx(0.5 * energy * fade, rel=1e-9)


def test_a_fit_of_a_liquid(tmp_path):
    """Its own forces are found again, through the faces of the cell, and charges with them."""
    model = of(liquid()[1], cutoff=3.5)
    put(model.carried, 0.35)
    put(model.bond_constants.logarithm, np.log(40.0))
    data = []
    for seed in range(5):
        box = liquid(seed=seed)[1]
        found = values(model, box)
        data.append(box.replace(energy=float(found.energy) - 3.0, forces=found.forces.numpy()))
    name = {"name": "force_field", "cutoff": 3.5}
    state = fit(name, data[:4], holdout=0.0, folder=tmp_path, options={"descend": {"epochs": 60}})
    assert state.about["fit"]["topology"]["molecules"] == 8
    again, _ = modelfile.load(tmp_path / "model.epot")
    error = values(again, data[4]).forces.numpy() - data[4].forces
    assert np.abs(error).max() < 0.02 * np.abs(data[4].forces).max()
    carried = state.about["fit"]["parameters"]["terms.body"]["charge carried over (e)"]
    assert carried["H(O)-O(H,H)"] == pytest.approx(0.35, rel=0.02)
