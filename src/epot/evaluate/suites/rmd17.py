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


SUITES = [
    Suite(
        name=f"rmd17/{molecule}",
        title=f"rMD17 {molecule}, split 01: 1000 structures (950 to fit, 50 to validate), 1000 to test",
        train=f"rmd17/{molecule}_train.xyz.gz",
        tests={"test": f"rmd17/{molecule}_test.xyz.gz"},
        metric="mae",
        n_valid=50,
        rows=partial(_rows, molecule),
        notes=("The rows of PaiNN, DimeNet and NewtonNet are of the original MD17, whose labels are noisier.",),
    )
    for molecule in MOLECULES
] + [
    Suite(
        name=f"rmd17/{molecule}/{FEW}",
        title=f"rMD17 {molecule}, {FEW} structures of split 01 to fit, 50 to validate, 1000 to test",
        train=f"rmd17/{molecule}_train.xyz.gz",
        tests={"test": f"rmd17/{molecule}_test.xyz.gz"},
        metric="mae",
        n_valid=50,
        n_train=FEW,
        rows=partial(_rows, f"{molecule}/{FEW}"),
    )
    for molecule in MOLECULES
]
