"""Writes tests/data_files/schnet_schnetpack.npz: energies and forces of schnetpack's SchNet with random weights.

    PYTHON_OF_SCHNETPACK tests/oracles/schnet_schnetpack.py

Run it in an environment with schnetpack 2 (made with 2.1.1 and torch 2.13.0). Everything is float64: a small
molecule and a periodic cell smaller than the cutoff (structures of painn_schnetpack.py), for both bases, for shared
interactions and for filters of another width than the features; and beside it schnet_schnetpack.model, the first of
them as schnetpack saves its models.
"""

from pathlib import Path

import torch
from painn_schnetpack import evaluated, potential, structures
from written import write

OUT = Path(__file__).parents[1] / "data_files" / "schnet_schnetpack.npz"
CASES = {
    "gaussian": {},
    "bessel": {},
    "shared": {"shared_interactions": True},
    "narrow": {"n_filters": 6},
}


def main() -> None:
    kept = {}
    for case, options in CASES.items():
        made = potential("SchNet", case, 8, 0.4, **options)
        if case == "gaussian":
            torch.save(made, OUT.with_suffix(".model"))
        kept |= evaluated(case, made)[0]
    write(OUT, kept, structures())


if __name__ == "__main__":
    main()
