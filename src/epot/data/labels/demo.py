"""What the quickstart collects: ethanol and crystalline silicon from GFN2-xTB."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..dataset import Dataset
from ..readers import read
from ..structure import Structure
from ..systems import crystal, molecule
from . import samplers, vibrations
from .engines import make
from .run import label, write

LATTICE = 5.50  # Å, where the pressure of silicon vanishes in GFN2-xTB sampled at Gamma with 8 atoms


def collect(folder: str | os.PathLike[str], seed: int = 0, workers: int = 2) -> Dataset:
    """Sample and label a small molecule and a small crystal; started again after a kill it goes on where it was.

    Ethanol: normal modes at 300 and 600 K, and molecular dynamics at 300 and 500 K. Silicon, 8 atoms: strained cells,
    rattled lightly and strongly, and a scan of the volume. Energies and forces of all; stress of the crystal.

    Args:
        folder: gets what was sampled (``structures-SEED.xyz``), its labels (``labels.xyz``) and their store
            (``labels.xyz.campaign``).
        seed: of the random numbers.
        workers: processes.

    Raises:
        EngineError: tblite is missing, or nothing could be labelled.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sampled = folder / f"structures-{seed}.xyz"
    if not sampled.exists():
        write([*ethanol(seed, workers), *silicon(seed)], sampled)
    return label(read(sampled), "gfn2", out=folder / "labels.xyz", workers=workers, timeout=120)


def ethanol(seed: int = 0, workers: int = 2) -> list[Structure]:
    """Structures of the molecule, by normal modes and by molecular dynamics."""
    engine = make("gfn2")
    rng = np.random.default_rng([seed, 1])
    relaxed = vibrations.relax(molecule("CH3CH2OH"), engine).replace(config_type="ethanol")
    known = vibrations.modes(relaxed, engine, workers=workers)
    frames = []
    for kelvin in (300.0, 600.0):
        frames += vibrations.normal_modes(relaxed, engine, 100, temperature=kelvin, seed=rng, known=known)
    kelvins = (300.0, 500.0)
    return frames + vibrations.md(
        relaxed, engine, 75, temperature=kelvins, every=12, warm_up=100, seed=rng, workers=workers
    )


def silicon(seed: int = 0) -> list[Structure]:
    """Structures of the crystal: strained, rattled, and along the volume.

    Stronger displacements close the gap of silicon in this small cell, and the charges do not converge.
    """
    rng = np.random.default_rng([seed, 2])
    perfect = crystal("Si", constant=LATTICE).replace(config_type="silicon")
    frames = samplers.volumes(perfect, 10, lowest=0.92, highest=1.1)
    for n, maximum, stdev in ((70, 0.02, 0.04), (70, 0.03, 0.065)):
        frames += samplers.strain(perfect, n, maximum=maximum, stdev=stdev, seed=rng)
    return frames
