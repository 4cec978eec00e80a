"""Revised MD17: small molecules at 500 K, first official split.

Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020), doi:10.1088/2632-2153/abba6f.
"""

from functools import partial
from typing import Any

from ..bench import Suite, published

MOLECULES = ("aspirin", "ethanol", "malonaldehyde", "toluene")
FEW = 50


def _rows(name: str) -> dict[str, Any]:
    return published("rmd17")["suites"][name]["rows"]


def _suite(molecule: str, n_train: int | None) -> Suite:
    name = molecule if n_train is None else f"{molecule}/{n_train}"
    original = ("The rows of PaiNN, DimeNet and NewtonNet are of the original MD17, whose labels are noisier.",)
    return Suite(
        name=f"rmd17/{name}",
        title=f"rMD17 {molecule}, split 01: {n_train or 950} structures to fit, 50 to validate, 1000 to test",
        train=f"rmd17/{molecule}_train.xyz.gz",
        tests={"test": f"rmd17/{molecule}_test.xyz.gz"},
        metric="mae",
        n_valid=50,
        n_train=n_train,
        rows=partial(_rows, name),
        notes=original if n_train is None else (),
    )


SUITES = [_suite(molecule, n_train) for n_train in (None, FEW) for molecule in MOLECULES]
