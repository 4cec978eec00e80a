"""What is planted in good data is found, and good data is left in peace.

The truth is a Lennard-Jones and Morse-like world computed by ASE's calculators, so that energies, forces and
stresses are derivatives of one function to machine precision.
"""

import json

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from typer.testing import CliRunner

from epot import units
from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.evaluate.doctor_data import examine
from epot.testing.systems import bare

N = 48


def labelled(atoms: ase.Atoms, calculator, stress: bool) -> Structure:
    atoms = atoms.copy()
    atoms.calc = calculator
    labels = {"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces()}
    if stress:
        labels["stress"] = atoms.get_stress(voigt=False)
    return Structure.from_ase(atoms, **labels)


@pytest.fixture(scope="module")
def crystal() -> list[Structure]:
    """Copper and gold, rattled and strained; witness: ASE's effective medium theory."""
    rng, made = np.random.default_rng(0), []
    for k in range(N):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.numbers[: k % 3] = 79
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + 0.012 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        made.append(labelled(atoms, EMT(), True))
    return made


@pytest.fixture(scope="module")
def molecules() -> list[Structure]:
    """Ethanol's atoms around a minimum of a Lennard-Jones world."""
    rng, made = np.random.default_rng(1), []
    start = molecule("CH3CH2OH")
    for _ in range(N):
        atoms = start.copy()
        atoms.positions += 0.04 * rng.normal(size=atoms.positions.shape)
        made.append(labelled(atoms, LennardJones(epsilon=0.4, sigma=0.85, rc=6.0, smooth=True), False))
    return made


def found(structures: list[Structure], **options) -> dict[str, str]:
    """Title to severity of what the doctor says."""
    report = examine(Dataset(structures), **options)
    json.dumps(report.to_json(), allow_nan=False)
    return {f.title: f.severity for f in report.findings}


def errors(structures: list[Structure], **options) -> str:
    return " | ".join(t for t, s in found(structures, **options).items() if s == "error")


def scaled(structures, **factors):
    return [s.replace(**{k: getattr(s, k) * f for k, f in factors.items() if s.has(k)}) for s in structures]


def test_good_data_is_left_in_peace(crystal, molecules):
    for structures in (crystal, molecules):
        assert set(found(structures).values()) <= {"info"}


def test_figures_of_good_data(crystal):
    figures = examine(Dataset(crystal)).figures
    assert figures["energy_vs_forces"]["slope"] == pytest.approx(1, abs=0.2)
    assert figures["energy_vs_stress"]["slope"] == pytest.approx(1, abs=0.3)
    assert figures["closest_A"].keys() == {"Cu-Cu", "Cu-Au", "Au-Au"} or "Cu-Cu" in figures["closest_A"]


@pytest.mark.parametrize("which", ["crystal", "molecules"])
@pytest.mark.parametrize(
    ("label", "factor", "words"),
    [
        ("forces", 1 / units.KCAL_MOL, "forces in kcal/mol/Å"),
        ("forces", units.BOHR / units.HARTREE, "forces in Hartree/Bohr"), ("forces", -1.0, "wrong sign"),
        ("energy", 1 / units.HARTREE, "energies in Hartree"),
        ("energy", 1 / units.KCAL_MOL, "energies in kcal/mol"),
    ],
)  # fmt: skip
def test_units_and_signs_of_forces(which, label, factor, words, request):
    assert words in errors(scaled(request.getfixturevalue(which), **{label: factor}))


@pytest.mark.parametrize(
    ("factor", "words"),
    [(-1.0, "stresses have the wrong sign"), (1 / units.GPA, "stresses in GPa"), (1 / units.KBAR, "stresses in kbar"),
     (-1 / units.KBAR, "wrong sign and are stresses in kbar")],
)  # fmt: skip
def test_units_and_signs_of_stress(crystal, factor, words):
    assert words in errors(scaled(crystal, stress=factor))


def test_virials_in_place_of_stresses(crystal):
    assert "virials (eV)" in errors([s.replace(stress=s.stress * s.volume) for s in crystal])


def test_everything_in_kcal_is_consistent_but_too_large(molecules):
    factor = 1 / units.KCAL_MOL
    hot = [s for s in molecules if np.linalg.norm(s.forces, axis=1).mean() > 0]
    scale = 3.0 / np.median([np.linalg.norm(s.forces, axis=1) for s in hot])
    real = scaled(hot, energy=scale, forces=scale)
    assert "forces too large for eV/Å" not in errors(real)
    assert "forces too large for eV/Å" in errors(scaled(real, energy=factor, forces=factor))


@pytest.mark.parametrize("which", ["crystal", "molecules"])
def test_shuffled_atoms(which, request):
    rng = np.random.default_rng(3)
    structures = request.getfixturevalue(which)
    shuffled = [s.replace(forces=s.forces[rng.permutation(len(s))]) for s in structures]
    assert "positions" in errors(shuffled) or "turn isolated molecules" in errors(shuffled)


def test_a_few_structures_in_another_unit(crystal):
    mixed = [s.replace(forces=s.forces / units.KCAL_MOL) if k in (7, 20) else s for k, s in enumerate(crystal)]
    report = examine(Dataset(mixed))
    finding = next(f for f in report.of("error") if "far larger" in f.title)
    assert finding.frames == (7, 20)


def test_a_few_structures_of_the_other_sign(crystal):
    mixed = [s.replace(forces=-s.forces) if k in (3, 30) else s for k, s in enumerate(crystal)]
    finding = next(f for f in examine(Dataset(mixed)).of("error") if "wrong sign" in f.title)
    assert finding.frames == (3, 30)


def test_not_a_number(crystal):
    bad = list(crystal)
    forces = bad[5].forces.copy()
    forces[2, 1] = np.nan
    bad[5] = bad[5].replace(forces=forces)
    bad[9] = bad[9].replace(energy=float("inf"))
    finding = next(f for f in examine(Dataset(bad)).of("error") if "not finite" in f.title)
    assert finding.frames == (5, 9)


def test_missing_labels(crystal):
    some = [s.replace(forces=None) if k % 10 == 0 else s for k, s in enumerate(crystal)]
    assert found(some)["some structures have no forces"] == "warning"
    none = [bare(s) for s in crystal]
    assert "no energies and no forces" in errors(none)
    assert found([s.replace(forces=None, stress=None) for s in crystal])["no forces"] == "info"


def test_placeholders(crystal):
    assert "all energies are equal" in errors([s.replace(energy=0.0) for s in crystal])
    zeros = [s.replace(forces=np.zeros_like(s.forces)) for s in crystal]
    assert found(zeros)["forces that are exactly zero"] == "warning"


def test_absurd_forces(crystal):
    bad = list(crystal)
    bad[4] = bad[4].replace(forces=bad[4].forces + np.array([[200.0, 0, 0], [-200.0, 0, 0], *[[0.0] * 3] * 6]))
    finding = next(f for f in examine(Dataset(bad)).findings if "above 30" in f.title)
    assert finding.frames == (4,)
    assert finding.severity == "warning"


def test_net_force(crystal):
    pushed = [s.replace(forces=s.forces + 0.02) if k == 11 else s for k, s in enumerate(crystal)]
    finding = next(f for f in examine(Dataset(pushed)).findings if "net forces" in f.title)
    assert finding.frames == (11,)


def test_rotated_positions_with_forces_left_behind(molecules):
    turn = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    assert "turn isolated molecules" in errors([s.replace(positions=s.positions @ turn) for s in molecules])


def test_energy_outliers(crystal):
    bad = list(crystal)
    bad[13] = bad[13].replace(energy=bad[13].energy + 12.0)
    finding = next(f for f in examine(Dataset(bad)).findings if "far from the others" in f.title)
    assert 13 in finding.frames
    assert len(finding.frames) < 4


def test_energies_per_atom(crystal):
    rng, made = np.random.default_rng(5), []
    for _ in range(40):
        n = int(rng.integers(1, 5))
        atoms = bulk("Cu", cubic=True) * (n, 1, 1)
        atoms.positions += 0.03 * rng.normal(size=atoms.positions.shape)
        made.append(labelled(atoms, EMT(), False))
    shifted = [s.replace(energy=s.energy - 100.0 * len(s)) for s in made]
    assert "energies are per atom" not in errors(shifted)
    assert "energies are per atom" in errors([s.replace(energy=s.energy / len(s)) for s in shifted])


def test_duplicates_in_a_file(crystal):
    report = examine(Dataset([*crystal, crystal[2], crystal[7]]))
    finding = next(f for f in report.findings if "more than once" in f.title)
    assert finding.frames == (N, N + 1)


def test_equal_structures_with_other_energies(crystal):
    other = crystal[2].replace(energy=crystal[2].energy + 1.0)
    assert "equal structures with different energies" in errors([*crystal, other])


def test_leaks_between_files(crystal):
    leaky = Dataset([crystal[4]])
    assert "structures that also are in the test set" in errors(crystal, others={"the test set": leaky})
    moved = crystal[4].positions + 0.001 * np.random.default_rng(0).normal(size=(8, 3))
    near = Dataset([crystal[4].replace(positions=moved + 1.7)])
    assert found(crystal, others={"the test set": near})["structures nearly equal to some in the test set"] == "warning"
    apart = bulk("Cu", cubic=True) * (2, 1, 1)
    apart.rattle(0.08, seed=77)
    clean = Dataset([labelled(apart, EMT(), True)])
    assert not [t for t in found(crystal, others={"the test set": clean}) if "the test set" in t]


def test_positions_in_bohr(crystal, molecules):
    for structures in (crystal, molecules):
        grown = [s.replace(positions=s.positions / units.BOHR, cell=s.cell / units.BOHR) for s in structures]
        assert "positions may not be in Å" in errors(grown)


def test_atoms_at_one_place(crystal):
    positions = crystal[0].positions.copy()
    positions[1] = positions[0]
    finding = examine(Dataset([*crystal, crystal[0].replace(positions=positions)])).of("error")
    assert any("one place" in f.title and f.frames == (N,) for f in finding)


def test_mixed_theory(crystal):
    mixed = [s.replace(info={"functional": "PBE" if k % 2 else "RPBE"}) for k, s in enumerate(crystal)]
    assert found(mixed)["more than one level of theory"] == "warning"


def test_skewed_stress(crystal):
    shifted = [s.replace(stress=np.roll(s.stress, 1)) for s in crystal]
    assert "not symmetric" in errors(shifted)


def test_charges(crystal):
    charged = [s.replace(charges=np.full(len(s), 0.1)) for s in crystal]
    assert found(charged)["atomic charges that do not add up to the total charge"] == "warning"


def test_nothing():
    assert errors([]) == "no structures"


def test_odd_inputs_do_not_crash(ethanol):
    single = Structure(np.array([1]), np.zeros((1, 3)), energy=-13.6)
    for structures in ([single], [single] * 3, [ethanol], [single, ethanol.replace(energy=1.0)]):
        examine(Dataset(structures))


def test_command(crystal, tmp_path):
    import ase.io

    from epot.cli.doctor import app

    paths = []
    for name, structures in (("good", crystal), ("bad", scaled(crystal, forces=-1.0))):
        paths.append(str(tmp_path / f"{name}.xyz"))
        ase.io.write(paths[-1], [s.to_ase() for s in structures])
    good = CliRunner().invoke(app, ["data", paths[0], "--json"])
    assert good.exit_code == 0, good.output
    assert json.loads(good.output)["verdict"] == "healthy"
    bad = CliRunner().invoke(app, ["data", paths[1]], env={"COLUMNS": "160"})
    assert bad.exit_code == 1
    assert "wrong sign" in " ".join(bad.output.split())


SMALL = [
    "charged_dimers/CA_train", "charged_dimers/PA_train", "mlearn/Ni_test", "mlearn/Si_test", "water_rpbe_d3/test",
    "si_gap18_tests/rss_relax_00099", "si_gap18_tests/force_test_set", "hdnnp4g_mini/carbon_chain",
    "ethanol_extra/test_dimers", "3bpa/derived_test_300K",
]  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_real_data_has_no_errors(name, shared_data):
    from epot.data.readers import read

    report = examine(read(shared_data / f"{name}.xyz.gz"))
    assert report.of("error") == []


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("ethanol_extra/methanol_test", {"forces": 1 / units.KCAL_MOL}, "kcal/mol"),
        ("hdnnp4g_mini/carbon_chain", {"forces": -1.0}, "wrong sign"),
        ("si_gap18_tests/rss_relax_00099", {"forces": -1.0}, "wrong sign"),
        ("water_rpbe_d3/test", {"forces": -1.0}, "wrong sign"),
        ("water_rpbe_d3/test", {"energy": 1 / units.HARTREE}, "Hartree"),
        ("mlearn/Ni_test", {"stress": -1.0}, "stresses have the wrong sign"),
        ("mlearn/Ni_test", {"stress": 1 / units.KBAR}, "kbar"),
    ],
)
def test_planted_in_real_data(name, change, words, shared_data):
    from epot.data.readers import read

    assert words in errors(scaled(list(read(shared_data / f"{name}.xyz.gz")), **change))


def test_shared_structures_of_3bpa(shared_data):
    """Witness: of the 167 structures at 300 K in train_mixedT, 136 are not in train_300K (its README): 31 are."""
    from epot.data.readers import read

    one, other = (read(shared_data / "3bpa" / f"{name}.xyz.gz") for name in ("train_300K", "train_mixedT"))
    finding = next(f for f in examine(one, others={"mixed": other}).of("error") if "also are in mixed" in f.title)
    assert len(finding.frames) == 31
