"""Energies and forces that are not finite numbers are refused, everywhere and by every potential, never passed on."""

import ase
import numpy as np
import pytest
import torch

from epot import modelfile, registry
from epot.data.structure import Structure
from epot.errors import DataError, EpotError, ModelFileError, NotFiniteError, SimulationError
from epot.geometry.graph import build
from epot.models.painn import PaiNN
from epot.potential import Output, Potential, Sum
from epot.predict import predict
from epot.simulate.calculator import Calculator
from epot.simulate.md import run_md
from epot.terms.offsets import Offsets
from epot.testing.case import Case

MODELS = registry.names()
LEARNED = [name for name in MODELS if any(p.is_floating_point() for p in registry.get(name).tiny().parameters())]
BAD = [float("nan"), float("inf")]


def of(name):
    torch.manual_seed(0)
    return registry.get(name).tiny()


def cluster(potential, positions):
    known = potential.elements or (1, 6, 8)
    numbers = [known[k % len(known)] for k in range(len(positions))]
    return Structure(np.array(numbers), np.array(positions, dtype=float))


def three(potential):
    return cluster(potential, [[0.0, 0.0, 0.0], [1.1, 0.2, 0.0], [-0.4, 1.3, 0.3]])


def graph_of(potential, structure):
    return build(structure, potential.cutoff)


def in_a_cell(structure):
    cell = 9.0 * np.eye(3)
    return Structure(structure.numbers, structure.positions, cell, (True, True, True))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", LEARNED)
def test_a_broken_tensor_is_named(name, value):
    """Each in turn; the sound potential is not refused, nor need be what this structure does not use."""
    potential = of(name)
    graph = graph_of(potential, next(iter(Case(potential).systems.values())))
    predict(potential, graph)
    named = 0
    for tensor, parameter in potential.named_parameters():
        if not parameter.numel():
            continue
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.fill_(value)
        try:
            found = predict(potential, graph)
        except NotFiniteError as why:
            assert f"its tensor {tensor} are not finite" in str(why)  # noqa: PT017
            named += 1
        else:
            assert torch.isfinite(found.forces).all()
            assert torch.isfinite(found.energy).all()
        with torch.no_grad():
            parameter.copy_(before)
    assert named >= 1
    predict(potential, graph)


def broken(value=float("nan")):
    potential = Sum(offset=Offsets((1, 6, 8), values=[-13.0, -1000.0, -2000.0]), body=of("painn"))
    with torch.no_grad():
        potential.terms["body"].readout.weight[1] = value
    return potential


def test_calculator_and_dynamics_name_it_too(tmp_path):
    atoms = three(broken()).to_ase()
    atoms.calc = Calculator(broken())
    for ask in (atoms.get_potential_energy, atoms.get_forces, atoms.get_forces):
        with pytest.raises(NotFiniteError, match=r"1 of \d+ numbers of its tensor terms.body.readout.weight"):
            ask()
        assert atoms.calc.results == {}
    for guard in ("warn", "off"):
        with pytest.raises(SimulationError, match=r"tensor terms.body.readout.weight"):
            run_md(atoms, broken(), steps=2, guard=guard, folder=tmp_path / guard)


def test_results_of_before_do_not_stay():
    """A calculator that failed has nothing to say; what it said before is of another structure."""
    potential = Sum(offset=Offsets((1, 6, 8), values=[0.0, 0.0, 0.0]), body=of("painn"))
    calculator = Calculator(potential)
    atoms = three(potential).to_ase()
    calculator.calculate(atoms)
    with torch.no_grad():
        potential.terms["body"].readout.weight[1] = float("nan")
    with pytest.raises(NotFiniteError):
        calculator.calculate(atoms)
    assert calculator.results == {}


@pytest.mark.parametrize("value", BAD)
def test_a_model_file_with_such_a_tensor_is_refused(tmp_path, value):
    path = modelfile.save(tmp_path / "model.epot", broken(value))
    with pytest.raises(ModelFileError, match=r"tensor terms.body.readout.weight holds (NaN|infinite)"):
        modelfile.load(path)
    modelfile.load(modelfile.save(tmp_path / "sound.epot", broken(0.1)))


class Wild(Potential):
    """Not a number for one atom, in its energy or in its force alone."""

    cutoff = 3.0
    pairwise = False

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def forward(self, graph):
        x = (graph.positions - graph.positions.detach()).sum(1)
        mine = torch.arange(graph.n_atoms) == 4
        if self.where == "energy":
            return Output(x + torch.where(mine, float("inf"), 0.0))
        if self.where == "members":
            return Output(x, members=torch.stack([x, torch.where(mine, float("nan"), x)], 1))
        return Output(x.index_add(0, torch.tensor([4]), x[4:5].square().sqrt()))  # a slope of 0/0


@pytest.mark.parametrize(("where", "want"), [("energy", ["energy"]), ("energy", ["forces"]), ("force", ["forces"])])
def test_the_atom_is_named(where, want):
    pair = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.25, 0.0]]
    potential = Wild(where)
    graph = build([cluster(potential, pair)] * 2, 3.0)
    with pytest.raises(NotFiniteError, match=r"at atom 1 \(C\) of structure 1 at \[1\.0, 0\.0, 0\.0\] Å"):
        predict(potential, graph, want)
    made = predict(potential, graph, want, finite=False)
    assert not torch.isfinite(made.energy if where == "energy" else made.forces).all()
    predict(potential, graph, want, create_graph=True)  # a loss says for itself
    if where == "force":
        assert torch.isfinite(predict(potential, graph, ["energy"]).energy).all()


def test_members_are_looked_at():
    graph = build([cluster(Wild("members"), [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.25, 0.0]])] * 2, 3.0)
    predict(Wild("members"), graph)
    with pytest.raises(NotFiniteError, match="not a finite number"):
        predict(Wild("members"), graph, ("energy", "members"))


def test_large_numbers_are_finite():
    """Their sum is not: each is looked at then."""

    class Large(Potential):
        cutoff = 3.0

        def forward(self, graph):
            return Output(torch.full((graph.n_atoms,), 1.6e308, dtype=torch.float64))

    graph = build([cluster(Large(), [[0.0, 0.0, 0.0]])] * 2, 3.0)
    assert float(predict(Large(), graph, ("energy",)).energy[0]) == 1.6e308


WILD = {
    "0.01 Å": [[0.0, 0.0, 0.0], [0.01, 0.0, 0.0], [-0.4, 1.3, 0.3]],
    "1e-7 Å": [[0.0, 0.0, 0.0], [1e-7, 0.0, 0.0], [-0.4, 1.3, 0.3]],
    "all at 0.05 Å": [[0.05 * i, 0.05 * j, 0.05 * k] for i in range(3) for j in range(3) for k in range(2)],
    "far away": [[1e9, 0.0, -1e9], [1e9 + 1.1, 0.2, -1e9], [1e9 - 0.4, 1.3, -1e9]],
    "1e200 Å": [[1e200, 0.0, 0.0], [0.0, 1e200, 0.0], [0.0, 0.0, 1.0]],
}


@pytest.mark.parametrize("case", WILD)
@pytest.mark.parametrize("name", MODELS)
def test_a_wild_geometry_gives_finite_numbers_or_an_error(name, case):
    """In single precision, alone and in a cell, through predict and through the calculator."""
    potential = of(name).float()
    for structure in (cluster(potential, WILD[case]), in_a_cell(cluster(potential, WILD[case]))):
        try:
            made = predict(potential, graph_of(potential, structure))
            assert torch.isfinite(made.energy).all()
            assert torch.isfinite(made.forces).all()
        except EpotError as why:
            assert len(str(why)) > 30  # noqa: PT017
        atoms = structure.to_ase()
        atoms.calc = Calculator(potential)
        try:
            forces = atoms.get_forces()
        except EpotError:
            assert atoms.calc.results == {}
        else:
            assert np.isfinite(forces).all()


def test_positions_without_number_are_refused():
    atoms = ase.Atoms("H2", [[0.0, 0.0, 0.0], [0.0, 0.0, np.nan]])
    atoms.calc = Calculator(PaiNN.tiny())
    with pytest.raises(DataError, match="positions"):
        atoms.get_forces()
