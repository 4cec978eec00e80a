"""What oracles share: how their numbers and structures are written."""

from pathlib import Path

import numpy as np
from ase import Atoms


def write(path: Path, kept: dict, structures: dict[str, Atoms]) -> None:
    """Everything that was found, and each structure under its name."""
    for name, atoms in structures.items():
        kept |= {f"{name}/{k}": v for k, v in (("numbers", atoms.numbers), ("positions", atoms.positions),
                                               ("cell", np.array(atoms.cell)), ("pbc", atoms.pbc))}  # fmt: skip
    np.savez_compressed(path, **kept)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
