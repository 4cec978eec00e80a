"""Classical forms with fitted parameters: closed forms, published silicon, parameters recovered, L-BFGS."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from epot.data.structure import Structure
from epot.errors import ConfigError, UnknownElementError
from epot.fit.run import fit
from epot.geometry.graph import build
from epot.models.lennard_jones import LennardJones
from epot.models.morse import Morse
from epot.models.stillinger_weber import StillingerWeber
from epot.predict import predict

GPA = 160.21766339999997


def energy(model, structure):
    return float(predict(model, build(structure, model.cutoff), ("energy",)).energy)


def dimer(a, b, r):
    return Structure(np.array([a, b]), np.array([[0.0, 0, 0], [r, 0, 0]]))


def test_lennard_jones_in_closed_form():
    model = LennardJones((10, 18), epsilon={"Ne-Ar": 0.02}, sigma={"Ar-Ne": 3.1, "Ar-Ar": 3.4})
    assert energy(model, dimer(10, 18, 3.1)) == pytest.approx(0.0, abs=1e-15)
    assert energy(model, dimer(10, 18, 3.1 * 2 ** (1 / 6))) == pytest.approx(-0.02, rel=1e-12)
    assert energy(model, dimer(18, 18, 3.4 * 2 ** (1 / 6))) == pytest.approx(-0.01, rel=1e-12)
    assert abs(energy(model, dimer(18, 18, 7.999))) < 1e-9
    mixed = {k: LennardJones((10, 18), epsilon={"Ne": 0.01, "Ar": 0.04}, sigma={"Ne": 2.5, "Ar": 3.5}, mixing=k)
             for k in ("lorentz_berthelot", "geometric")}  # fmt: skip
    for kind, size in (("lorentz_berthelot", 3.0), ("geometric", (2.5 * 3.5) ** 0.5)):
        assert energy(mixed[kind], dimer(10, 18, size * 2 ** (1 / 6))) == pytest.approx(-0.02, rel=1e-12)


def test_morse_in_closed_form():
    model = Morse((29,), depth=0.34, steepness=1.36, length=2.87, cutoff=8.0)
    assert energy(model, dimer(29, 29, 2.87)) == pytest.approx(-0.34, rel=1e-12)
    x = np.exp(-1.36 * 0.3)
    assert energy(model, dimer(29, 29, 3.17)) == pytest.approx(0.34 * (x**2 - 2 * x), rel=1e-12)


def stillinger_weber_by_loops(structure, model):
    """Eqs. 1, 2.3, 2.4 written out over pairs and triples; one element."""
    eps, sigma, rc = 2.1683, 2.0951, model.cutoff
    graph = build(structure, rc)
    vectors, (i, _) = graph.vectors().numpy(), graph.pairs.numpy()
    total = 0.0
    for atom in range(len(structure)):
        mine = vectors[i == atom]
        r = np.linalg.norm(mine, axis=1)
        total += 0.5 * np.sum(
            eps * 7.049556277 * (0.6022245584 * (sigma / r) ** 4 - 1) * np.exp(sigma / (r - rc))
        )  # fmt: skip
        for j in range(len(mine)):
            for k in range(j):
                cos = mine[j] @ mine[k] / (r[j] * r[k])
                fade = np.exp(1.2 * sigma / (r[j] - rc) + 1.2 * sigma / (r[k] - rc))
                total += eps * 21.0 * (cos + 1 / 3) ** 2 * fade
    return total


def test_stillinger_weber_is_its_sums(silicon):
    model = StillingerWeber()
    assert energy(model, silicon) == pytest.approx(stillinger_weber_by_loops(silicon, model), rel=1e-12)


def test_stillinger_weber_silicon():
    """Witness: Balamane et al., Phys. Rev. B 46, 2250 (1992), -4.3363 eV, 5.431 Å, 151.4, 76.4, 56.4."""
    model = StillingerWeber()
    cube = lambda a: Structure.from_ase(bulk("Si", cubic=True, a=a))  # noqa: E731
    assert energy(model, cube(5.431)) / 8 == pytest.approx(-4.3363, abs=4e-4)
    assert energy(model, cube(5.43095)) / 8 == pytest.approx(-2 * 2.1683, rel=1e-7)  # two eps in closed form
    at = lambda a: predict(model, build(cube(a), model.cutoff), ("stress",)).stress  # noqa: E731
    pressure = [float(at(a)[0, 0, 0]) for a in (5.430, 5.432)]
    assert pressure[0] < 0 < pressure[1]

    def stress(strain):
        s = cube(5.43095)
        graph = build(s, model.cutoff)
        base = Structure(s.numbers, s.positions @ (np.eye(3) + strain), s.cell @ (np.eye(3) + strain), True)
        for _ in range(60):  # inner displacements: atoms go to where no force is left
            made = predict(model, build(base, model.cutoff), ("forces", "stress"))
            if float(made.forces.abs().max()) < 1e-9:
                break
            base = base.replace(positions=base.positions + 0.05 * made.forces.numpy())
        assert graph.n_atoms == 8
        return predict(model, build(base, model.cutoff), ("stress",)).stress[0].numpy() * GPA

    e = 1e-4
    pull = np.diag([e, 0, 0])
    shear = np.array([[0, 0, 0], [0, 0, e / 2], [0, e / 2, 0]])
    c11 = (stress(pull)[0, 0] - stress(-pull)[0, 0]) / (2 * e)
    c12 = (stress(pull)[1, 1] - stress(-pull)[1, 1]) / (2 * e)
    c44 = (stress(shear)[1, 2] - stress(-shear)[1, 2]) / (2 * e)
    np.testing.assert_allclose([c11, c12, c44], [151.4, 76.4, 56.4], atol=0.15)


def test_two_elements_that_are_the_same_one():
    """Germanium with silicon's numbers in silicon: energies are those of pure silicon, triples of unlike pairs too."""
    pure = Structure.from_ase(bulk("Si", cubic=True))
    rng = np.random.default_rng(0)
    pure = pure.replace(positions=pure.positions + 0.1 * rng.normal(size=(8, 3)))
    numbers = np.where(np.arange(8) % 3 == 0, 32, 14)
    model = StillingerWeber((14, 32), sigma=2.0951)
    assert energy(model, pure.replace(numbers=numbers)) == pytest.approx(energy(StillingerWeber(), pure), rel=1e-12)
    other = StillingerWeber((14, 32), sigma={"Si-Ge": 2.2})
    assert abs(energy(other, pure.replace(numbers=numbers)) - energy(StillingerWeber(), pure)) > 1e-2


def labeled(truth, structures, shift=0.0):
    made = []
    for s in structures:
        found = predict(truth, build(s, truth.cutoff), ("energy", "forces", *(("stress",) if s.pbc.all() else ())))
        stress = found.stress[0].numpy() if s.pbc.all() else None
        value = float(found.energy) + shift * len(s)
        made.append(s.replace(energy=value, forces=found.forces.numpy(), stress=stress))
    return made


def solids(symbol, a, n=6):
    made = []
    for k in range(n):
        atoms = bulk(symbol, "fcc", a=a * (1 + 0.02 * (k - 2)), cubic=True)
        atoms.rattle(0.1, seed=k)
        made.append(Structure.from_ase(atoms))
    return made


@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_a_fit_recovers_lennard_jones(shift):
    """Epsilon and sigma of argon to 1e-6, from a start that is far off, with an unknown energy per atom."""
    truth = LennardJones((18,), cutoff=6.0, epsilon=0.0104, sigma=3.4)
    data = labeled(truth, solids("Ar", 5.3), shift)
    model = {"name": "lennard_jones", "cutoff": 6.0, "epsilon": 0.03, "sigma": 3.1}
    state = fit(model, data, holdout=0.2)
    found = state.about["fit"]["parameters"]["terms.body"]
    assert found["epsilon (eV)"]["Ar-Ar"] == pytest.approx(0.0104, rel=1e-6)
    assert found["sigma (Å)"]["Ar-Ar"] == pytest.approx(3.4, rel=1e-6)
    assert float(state.potential.terms["offset"].energies[18]) == pytest.approx(shift, abs=1e-6)
    assert state.about["fit"]["offsets"]["energies"]["Ar"] == pytest.approx(shift, abs=1e-6)
    assert state.about["calibration"]["constant"]  # no ensemble: held-out errors as constants
    assert any(line["event"] == "parameters" for line in state.journal.lines)
    muon = fit(model, data, holdout=0.2, options={"descend": {"optimizer": "muon", "epochs": 3}})
    other = muon.about["fit"]["parameters"]["terms.body"]["sigma (Å)"]["Ar-Ar"]
    assert other != pytest.approx(3.4, rel=1e-4)  # control: a few steps of another optimizer do not find it


def test_a_fit_recovers_morse_and_stillinger_weber(silicon):
    morse = Morse((29,), cutoff=5.0, depth=0.34, steepness=1.36, length=2.87)
    data = labeled(morse, solids("Cu", 3.6))
    state = fit({"name": "morse", "cutoff": 5.0}, data, holdout=0.0)
    found = state.about["fit"]["parameters"]["terms.body"]
    assert found["depth (eV)"]["Cu-Cu"] == pytest.approx(0.34, rel=1e-5)
    assert found["steepness (1/Å)"]["Cu-Cu"] == pytest.approx(1.36, rel=1e-5)
    rng = np.random.default_rng(1)
    moved = [silicon.replace(positions=silicon.positions + 0.15 * rng.normal(size=(8, 3))) for _ in range(5)]
    data = labeled(StillingerWeber(), moved)
    start = {"name": "stillinger_weber", "strength": 15.0, "cos_angle": -0.2, "epsilon": 1.8}
    state = fit(start, data, holdout=0.0, options={"descend": {"epochs": 300}})
    found = state.about["fit"]["parameters"]["terms.body"]
    assert found["cos theta_0"]["Si"] == pytest.approx(-1 / 3, abs=1e-3)
    assert found["eps lambda (eV)"]["Si(Si-Si)"] == pytest.approx(21 * 2.1683, rel=1e-2)


def test_a_fit_is_repeated_exactly(tmp_path):
    truth = LennardJones((18,), cutoff=6.0, epsilon=0.0104, sigma=3.4)
    data = labeled(truth, solids("Ar", 5.3, 3))
    model = {"name": "lennard_jones", "cutoff": 6.0}
    options = {"descend": {"epochs": 5}}
    first, second = (fit(model, data, holdout=0.0, options=options, folder=tmp_path / "run") for _ in range(2))
    a, b = (s.potential.terms["body"].sizes.logarithm for s in (first, second))
    assert torch.equal(a, b)


def test_bad_input():
    with pytest.raises(ConfigError, match="positive"):
        LennardJones((18,), epsilon=-0.1)
    with pytest.raises(ConfigError, match="pairs such as"):
        LennardJones((18,), epsilon={"Ar": 0.01})
    with pytest.raises(ConfigError, match="Xe"):
        LennardJones((18,), epsilon={"Xe": 0.01}, mixing="geometric")
    with pytest.raises(ConfigError, match="width"):
        Morse(cutoff=2.0, width=3.0)
    with pytest.raises(ConfigError, match="cosine"):
        StillingerWeber(cos_angle=2.0)
    with pytest.raises(UnknownElementError, match="knows Ar"):
        energy(LennardJones((18,)), Structure.from_ase(molecule("H2O")))


def test_a_minimization_that_runs_out_of_time_says_so():
    random = np.random.default_rng(4)
    model, data = Morse((29,), cutoff=5.0), []
    for _ in range(12):
        s = Structure(np.full(4, 29), 2.4 * np.eye(4, 3) + random.normal(0, 0.1, (4, 3)))
        found = predict(model, build(s, 5.0), ("energy", "forces"))
        data.append(s.replace(energy=float(found.energy), forces=found.forces.numpy()))
    state = fit({"name": "morse", "cutoff": 5.0, "depth": 0.1}, data, options={"descend": {"max_time": 1e-3}})
    ended = [line for line in state.journal.lines if line["event"] == "descended"]
    assert ended[0]["why"] == "its time is up"
    assert 1 <= ended[0]["steps"] < 10
