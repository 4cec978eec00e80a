"""The shipped checks pass a potential known in closed form; each finds the potentials that are broken its way."""

import sys
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.calculators.lj import LennardJones as AseLennardJones

from epot import registry, testing
from epot.errors import ConfigError
from epot.geometry.graph import build
from epot.potential import Sum
from epot.predict import predict
from epot.terms.offsets import Offsets

sys.path.insert(0, str(Path(__file__).parent))
import broken_potentials as zoo  # noqa: E402


class Entry:
    """An entry point, as an outside package declares one."""

    def __init__(self, name: str, kind: type) -> None:
        self.name, self.kind = name, kind

    def load(self) -> type:
        return self.kind


@pytest.fixture(autouse=True)
def outside_package(monkeypatch):
    """All potentials of the zoo as models of an outside package."""
    kinds = [zoo.LennardJones, *{k for kinds in zoo.CONTROLS.values() for k in kinds}]
    entries = [Entry(kind.__name__.lower(), kind) for kind in kinds]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)


def tried(potential, name):
    return testing.examine_potential(potential, only=[name])[0]


@pytest.mark.parametrize("check", testing.checks(), ids=str)
def test_lennard_jones_passes(check):
    assert check(zoo.LennardJones()).applies


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, kinds in zoo.CONTROLS.items() for k in kinds])
def test_each_check_finds_what_is_broken(name, kind):
    state = torch.random.get_rng_state()
    result = tried(kind(), name)
    torch.random.set_rng_state(state)
    assert not result.passed, result
    assert "TypeCheckError" not in result.text  # a check that stumbles over itself finds nothing


def test_every_check_has_a_control():
    assert sorted(zoo.CONTROLS) == sorted(c.name for c in testing.checks())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("rotation", zoo.Chiral), ("forces", zoo.StressWithoutCells), ("forces", zoo.WrongSecondDerivative),
     ("batch", zoo.OrderOfPairs), ("translation", zoo.Pools)],
)  # fmt: skip
def test_a_check_finds_nothing_else(name, kind):
    """The controls are broken in one way: these checks look elsewhere and must pass."""
    assert tried(kind(), name).passed


def test_lennard_jones_agrees_with_ase(silicon, slab, ethanol):
    """Witness: ASE's LennardJones with its smooth cutoff, in energies and forces."""
    ours = zoo.LennardJones(0.2, 1.1, 2.4, 3.5).double()
    for structure in (silicon, slab, ethanol):
        atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
        atoms.calc = AseLennardJones(epsilon=0.2, sigma=1.1, ro=2.4, rc=3.5, smooth=True)
        made = predict(ours, build(structure, 3.5))
        np.testing.assert_allclose(float(made.energy[0]), atoms.get_potential_energy(), rtol=1e-7)
        np.testing.assert_allclose(made.forces.numpy(), atoms.get_forces(), rtol=1e-7, atol=1e-9)


def test_a_sum_passes_every_check():
    together = Sum(offset=Offsets((1, 8), values=(-13.6, -2041.3)), body=zoo.LennardJones())
    assert all(r.passed for r in testing.check_potential(together))


def test_the_report_names_what_failed():
    with pytest.raises(
        testing.CheckFailure, match=r"Detached fails \d of 2 checks:(?s:.*)forces(?s:.*)minus the gradient"
    ):
        testing.check_potential(zoo.Detached(), only=["forces", "permutation"])


def test_a_single_check_raises():
    (check,) = testing.checks(only=["rotation"])
    with pytest.raises(testing.CheckFailure, match="LooksAlongZ fails the check 'rotation'"):
        check(zoo.LooksAlongZ())


def test_own_systems(silicon, water):
    results = testing.check_potential(zoo.LennardJones(sigma=1.0), systems={"Si": silicon, "ice": water})
    assert all(r.passed for r in results)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'rotation'"):
        testing.checks(only=["rotatoin"])
    with pytest.raises(ConfigError, match="no check"):
        testing.checks(skip=["nonsense"])


def test_the_potential_is_not_changed():
    potential = zoo.LennardJones().train()
    before = {k: v.clone() for k, v in potential.state_dict().items()}
    testing.check_potential(potential, only=["forces", "double_backward"])
    assert potential.training
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in potential.state_dict().items())


def test_unregistered_classes_are_checked_too(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    results = {r.check: r for r in testing.check_potential(zoo.LennardJones(), only=["configuration", "save_load"])}
    assert results["configuration"].applies
    assert not results["save_load"].applies
