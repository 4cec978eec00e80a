"""What all tests share: small systems, the reference data, a known potential."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from epot.data.structure import Structure

ROOT = Path(__file__).resolve().parents[1]
os.environ["EPOT_PROGRESS"] = "0"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # systems are small: threads cost more than they bring


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the reference data: EPOT_DATA, or ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("EPOT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the reference data is not here; set EPOT_DATA to its folder")
    return folder


@pytest.fixture
def spawn():
    """``subprocess.Popen`` whose children do not outlive the test, however it ends."""
    children = []

    def start(*args, **options):
        children.append(subprocess.Popen(*args, **options))
        return children[-1]

    yield start
    for child in children:
        child.kill()  # nothing, where it has ended
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def ethanol() -> Structure:
    from ase.build import molecule

    return Structure.from_ase(molecule("CH3CH2OH"))


@pytest.fixture
def silicon() -> Structure:
    """Eight atoms of diamond silicon, displaced so that nothing is symmetric."""
    from ase.build import bulk

    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.08, seed=1)
    return Structure.from_ase(atoms)


@pytest.fixture
def water() -> Structure:
    """Two molecules in a cell of 4.6 x 3.4 x 3.9 Å: shorter than most cutoffs."""
    from ase.build import molecule

    atoms = molecule("H2O")
    other = atoms.copy()
    other.rotate(70, "x")
    other.translate([2.3, 1.5, 1.7])
    atoms += other
    atoms.cell, atoms.pbc = [4.6, 3.4, 3.9], True
    return Structure.from_ase(atoms)


@pytest.fixture
def slab() -> Structure:
    """Copper (111), three layers; the open axis has a vector of its own, as ASE makes it with vacuum."""
    from ase.build import fcc111

    atoms = fcc111("Cu", (1, 1, 3), vacuum=5.0)
    atoms.rattle(0.05, seed=2)
    return Structure.from_ase(atoms)


@pytest.fixture
def wire() -> Structure:
    """A carbon chain along y only, with no vectors along x and z."""
    positions = np.array([[0.1, 0.0, 0.0], [-0.1, 1.3, 0.1]])
    return Structure(np.array([6, 6]), positions, np.diag([0.0, 2.6, 0.0]), (False, True, False))
