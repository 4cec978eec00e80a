"""Engines against finite differences, closed forms and each other."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from epot.data.labels.engines import make, settings
from epot.data.structure import Structure
from epot.errors import ConfigError, EngineError
from epot.units import BOHR


def water(**more):
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    return Structure.from_ase(atoms, **more)


def silicon():
    atoms = bulk("Si", cubic=True, a=5.4)
    atoms.rattle(0.05, seed=1)
    return Structure.from_ase(atoms)


def slope(engine, structure, atom, axis, step=1e-3):
    """-dE/dx by central differences."""
    ends = []
    for sign in (1, -1):
        moved = structure.positions.copy()
        moved[atom, axis] += sign * step
        ends.append(engine(structure.replace(positions=moved), ("energy",))["energy"])
    return -(ends[0] - ends[1]) / (2 * step)


def strain_slope(engine, structure, a, b, step=1e-4):
    """(1/V) dE/d(strain_ab) by central differences of the symmetric strain."""
    ends = []
    for sign in (1, -1):
        deformation = np.eye(3)
        deformation[a, b] += sign * step / 2
        deformation[b, a] += sign * step / 2
        moved = structure.replace(positions=structure.positions @ deformation, cell=structure.cell @ deformation)
        ends.append(engine(moved, ("energy",))["energy"])
    return (ends[0] - ends[1]) / (2 * step) / structure.volume


@pytest.fixture
def tblite():
    return pytest.importorskip("tblite.interface")


@pytest.fixture
def pyscf():
    return pytest.importorskip("pyscf")


@pytest.mark.usefixtures("tblite")
class TestTblite:
    @pytest.mark.parametrize("name", ["gfn1", "gfn2"])
    def test_forces_of_a_molecule(self, name):
        # Witness: finite differences of the energy.
        engine, structure = make(name, {"accuracy": 0.01}), water()
        forces = engine(structure)["forces"]
        assert forces[1, 2] == pytest.approx(slope(engine, structure, 1, 2), abs=2e-5)
        assert abs(forces[1, 2] - slope(engine, structure, 2, 2)) > 1e-2  # control: another atom

    def test_stress_and_forces_of_a_crystal(self):
        engine, structure = make("gfn1", {"accuracy": 0.01}), silicon()
        labels = engine(structure)
        assert labels["forces"][3, 0] == pytest.approx(slope(engine, structure, 3, 0), abs=5e-5)
        for a, b in ((0, 0), (1, 2)):
            numerical = strain_slope(engine, structure, a, b)
            assert labels["stress"][a, b] == pytest.approx(numerical, abs=2e-6)
        assert "dipole" not in labels  # it depends on where the cell begins

    def test_a_compressed_crystal_has_negative_stress(self):
        structure = Structure.from_ase(bulk("Si", cubic=True, a=5.0))
        stress = make("gfn1")(structure, ("energy", "stress"))["stress"]
        assert np.trace(stress) / 3 < -0.1

    def test_published_values(self):
        # Witness: the docstring of tblite.ase for H2O of the G2 set with GFN2-xTB.
        labels = make("gfn2")(Structure.from_ase(molecule("H2O")))
        assert labels["energy"] == pytest.approx(-137.96777594361677, abs=5e-5)
        assert labels["forces"][0, 2] == pytest.approx(-0.749527168, abs=1e-4)
        assert labels["charges"].sum() == pytest.approx(0, abs=1e-8)

    def test_the_dipole_is_the_response_to_a_field(self, tblite):
        # Witness: mu = -dE/dF, from energies in a field. Shows unit (e Å, where tblite's own text says Debye) and sign.
        structure, field = water(), 1e-4
        ends = []
        for sign in (1, -1):
            calculator = tblite.Calculator("GFN2-xTB", structure.numbers, structure.positions / BOHR)
            calculator.set("verbosity", 0)
            calculator.set("accuracy", 0.001)
            calculator.add("electric-field", tblite.library.ffi.new("double[3]", [0.0, 0.0, sign * field]))
            ends.append(calculator.singlepoint()["energy"])
        numerical = -(ends[0] - ends[1]) / (2 * field) * BOHR
        dipole = make("gfn2", {"accuracy": 0.001})(structure)["dipole"]
        assert dipole[2] == pytest.approx(numerical, abs=1e-4)
        assert abs(dipole[2]) > 0.1

    def test_charge_and_spin(self):
        engine = make("gfn2")
        cation = engine(water(charge=1.0))
        assert cation["charges"].sum() == pytest.approx(1, abs=1e-8)
        assert cation["energy"] > engine(water())["energy"] + 5
        singlet, triplet = (engine(water(spin=s))["energy"] for s in (1, 3))
        assert triplet > singlet + 2
        with pytest.raises(EngineError, match="multiplicity 2 is impossible with 10 electrons"):
            engine(water(spin=2))
        with pytest.raises(EngineError, match="whole number of electrons"):
            engine(water(charge=0.5))

    def test_slabs_are_refused(self):
        # tblite gives a slab the energy of the three-dimensional crystal without a word.
        slab = silicon().replace(pbc=np.array([True, True, False]))
        with pytest.raises(EngineError, match="periodic along three axes or none, this structure along 2"):
            make("gfn1")(slab)

    def test_a_failed_scf_is_a_reason(self):
        with pytest.raises(EngineError, match="SCF not converged"):
            make("gfn2", {"max_iterations": 2})(water())

    def test_solvent(self):
        structure = water()
        wet = make("gfn2", {"solvent": "water"})
        assert wet(structure)["energy"] < make("gfn2")(structure)["energy"] - 0.1
        with pytest.raises(EngineError, match="periodic"):
            wet(silicon())


@pytest.mark.usefixtures("pyscf")
class TestPySCF:
    def test_hydrogen_atom(self):
        # Closed form: the STO-3G energy of H is -0.466581850 Hartree (Szabo & Ostlund, table 3.5).
        atom = Structure(np.array([1]), np.zeros((1, 3)))
        engine = make("pyscf", {"method": "hf", "basis": "sto-3g", "density_fit": False})
        assert engine(atom, ("energy",))["energy"] == pytest.approx(-0.466581850 * 27.211386245988, abs=1e-4)

    def test_hydrogen_molecule(self):
        # Szabo & Ostlund, section 3.5.2: STO-3G H2 at 1.4 Bohr: -1.1167 Hartree.
        pair = Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 1.4 * 0.529177210903]]))
        labels = make("pyscf", {"method": "hf", "basis": "sto-3g", "density_fit": False})(pair)
        assert labels["energy"] == pytest.approx(-1.1167 * 27.211386245988, abs=2e-3)
        np.testing.assert_allclose(labels["charges"], 0, atol=1e-10)
        np.testing.assert_allclose(labels["dipole"], 0, atol=1e-8)

    @pytest.mark.parametrize(
        ("options", "more"),
        [
            ({"method": "hf"}, {}),
            ({"method": "hf"}, {"charge": 1.0}),
            ({"method": "mp2"}, {}),
            ({"method": "dft", "functional": "lda,vwn", "grid": 2}, {}),
        ],
    )
    def test_forces(self, options, more):
        # Witness: finite differences. Unrestricted where electrons are unpaired.
        engine = make("pyscf", {"basis": "sto-3g"} | options)
        structure = water(**more)
        forces = engine(structure, ("energy", "forces"))["forces"]
        assert forces[0, 2] == pytest.approx(slope(engine, structure, 0, 2, step=2e-3), abs=2e-4)
        assert abs(forces[0, 2] - forces[1, 2]) > 1e-2  # control: another atom

    def test_dipole_of_an_ion_is_that_of_its_charge(self):
        # Closed form: the dipole of a closed-shell ion at x is its charge times x: e Å.
        ion = Structure(np.array([3]), np.array([[1.5, 0.0, 0.0]]), charge=1.0)
        labels = make("pyscf", {"method": "hf", "basis": "sto-3g"})(ion)
        np.testing.assert_allclose(labels["dipole"], [1.5, 0, 0], atol=1e-8)
        np.testing.assert_allclose(labels["charges"], [1.0], atol=1e-8)

    def test_mp2_dipole_is_the_response_to_a_field(self):
        # Witness: mu = -dE/dF from energies of plain MP2 in a field; the unrelaxed or Hartree-Fock density fails.
        from pyscf import gto, mp, scf

        structure, field = water(), 1e-3
        atoms = [(int(z), x) for z, x in zip(structure.numbers, structure.positions / BOHR, strict=True)]
        system = gto.M(atom=atoms, unit="Bohr", basis="6-31g", verbose=0)
        along = system.intor("int1e_r")[2]
        nuclei = system.atom_charges() @ system.atom_coords()[:, 2]
        ends = []
        for sign in (1, -1):
            mean = scf.RHF(system)
            core = mean.get_hcore() + sign * field * along
            mean.get_hcore = lambda *_, core=core: core
            mean.conv_tol = 1e-12
            ends.append(mp.MP2(mean.run()).run().e_tot - sign * field * nuclei)
        numerical = -(ends[0] - ends[1]) / (2 * field) * BOHR
        found = {m: make("pyscf", {"method": m, "basis": "6-31g"})(structure)["dipole"][2] for m in ("hf", "mp2")}
        assert found["mp2"] == pytest.approx(numerical, abs=3e-4)
        assert abs(found["hf"] - numerical) > 1e-2  # control

    def test_what_it_cannot_do(self):
        with pytest.raises(EngineError, match="for molecules"):
            make("pyscf")(silicon())
        with pytest.raises(EngineError, match="PySCF failed for H2O"):
            make("pyscf", {"basis": "no-such-basis"})(water())
        assert "forces" not in make("pyscf", {"method": "mp2", "density_fit": True}).provides


class TestExternal:
    def test_stress_sign(self):
        # Witness: a compressed crystal pushes outwards: negative stress in ASE's convention and ours.
        structure = Structure.from_ase(bulk("Cu", cubic=True, a=3.4))
        engine = make("ase.calculators.emt:EMT")
        labels = engine(structure)
        assert np.trace(labels["stress"]) < 0
        assert labels["stress"][0, 0] == pytest.approx(strain_slope(engine, structure, 0, 0), abs=1e-6)

    def test_a_charge_is_never_silently_dropped(self):
        ion = Structure.from_ase(bulk("Cu", cubic=True)).replace(charge=1.0)
        with pytest.raises(EngineError, match="has charge 1, which ase.calculators.emt:EMT was not told"):
            make("ase.calculators.emt:EMT")(ion)

    def test_a_slab_has_no_stress(self):
        slab = Structure.from_ase(bulk("Cu", cubic=True)).replace(pbc=np.array([True, True, False]))
        assert set(make("ase.calculators.emt:EMT")(slab)) == {"energy", "forces"}


def test_settings_are_complete_and_unknown_ones_refused():
    pytest.importorskip("tblite")
    assert settings(make("gfn2"))["electronic_temperature"] == 300.0
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        make("gfn2", {"acuracy": 0.1})
    with pytest.raises(ConfigError, match="expected one of 'dft', 'hf', 'mp2'"):
        make("pyscf", {"method": "ccsd"})


def test_a_missing_program_says_how_to_install_it(monkeypatch):
    from importlib import metadata

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    commands = {"gfn2": "pip install", "pyscf": "pip install", "gpaw": r"CC=g\+\+ pip install gpaw"}
    for name, command in commands.items():
        with pytest.raises(EngineError, match=command):
            make(name)
