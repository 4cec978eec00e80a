"""Small systems to begin with: a molecule and a crystal, as structures."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .structure import Structure


def molecule(name: str) -> Structure:
    """A molecule of the G2 set by its formula or name: ``"CH3CH2OH"``, ``"H2O"``, ``"C6H6"``.

    Raises:
        ConfigError: it is not in the set.
    """
    import ase.build

    try:
        atoms = ase.build.molecule(name)
    except KeyError:
        raise ConfigError(f"{name!r} is not in the G2 set of molecules; see ase.collections.g2.names.") from None
    return Structure(atoms.numbers, atoms.positions)


def crystal(name: str, lattice: str = "diamond", constant: float | None = None, repeat: int = 1) -> Structure:
    """A cubic crystal in its conventional cell, repeated along each axis.

    Args:
        name: "Si", "NaCl".
        lattice: ``fcc``, ``bcc``, ``diamond``, ``rocksalt``, ``zincblende``, ...
        constant: of the lattice, Å; None for the experimental one, where ASE knows it.
        repeat: cells along each axis.

    Raises:
        ConfigError: ASE cannot build it.
    """
    import ase.build

    try:
        atoms = ase.build.bulk(name, lattice, a=constant, cubic=True).repeat(repeat)
    except (ValueError, KeyError, RuntimeError) as why:
        raise ConfigError(f"Cannot build {lattice} {name}: {why}.") from None
    return Structure(atoms.numbers, atoms.positions, np.asarray(atoms.cell), True)


def water(molecules: int, density: float = 1.0, seed: int = 0) -> Structure:
    """Water molecules on a grid in a cubic periodic cell, turned at random: a start for molecular dynamics.

    Args:
        molecules: how many.
        density: g/cm^3.
        seed: of the orientations.

    Raises:
        ConfigError: an impossible argument.
    """
    from scipy.spatial.transform import Rotation

    if molecules < 1 or density <= 0:
        raise ConfigError(f"{molecules} molecules at {density} g/cm^3: expected at least one and a positive density.")
    one = molecule("H2O")
    edge = (molecules * 18.01528 / (0.602214076 * density)) ** (1 / 3)
    side = int(np.ceil(molecules ** (1 / 3) - 1e-9))
    rng = np.random.default_rng(seed)
    grid = np.array(list(np.ndindex(side, side, side)))
    places = grid[np.sort(rng.permutation(len(grid))[:molecules])] * edge / side
    turns = Rotation.random(molecules, rng=rng).as_matrix()
    centred = one.positions - one.positions.mean(0)
    positions = np.concatenate([place + centred @ turn for place, turn in zip(places, turns, strict=True)])
    return Structure(np.tile(one.numbers, molecules), positions, np.eye(3) * edge, True)
