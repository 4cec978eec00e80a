"""QM7: atomization energies (PBE0) of 7101 small organic molecules at their equilibrium geometries.

Rupp et al., Phys. Rev. Lett. 108, 058301 (2012), doi:10.1103/PhysRevLett.108.058301. ``qm7/delta`` learns the
difference from a cheaper method, as Ramakrishnan et al., J. Chem. Theory Comput. 11, 2087 (2015),
doi:10.1021/acs.jctc.5b00099, proposed.
"""

from typing import Any

from ..bench import Suite, published


def _rows() -> dict[str, Any]:
    table = published("qm7")
    return {name: {"source": row["source"], "values": row["values"]} for name, row in table["rows"].items()}


SUITES = [
    Suite(
        name=name,
        title=f"QM7: {title}; 5681 molecules to fit, 1420 to test",
        train="qm7/qm7.xyz.gz",
        tests={"test": "qm7/qm7.xyz.gz"},
        metric="mae",
        n_valid=0,
        rows=_rows,
        notes=("Energies of whole molecules; the split is numpy.random.default_rng(0).permutation(7101).", note),
        cut=5681,
        baseline=baseline,
        unit="kcal/mol",
    )
    for name, title, baseline, note in (
        ("qm7", "PBE0 atomization energies", None, "The rows say how many molecules they were trained on."),
        (
            "qm7/delta",
            "the difference of PBE0 and a cheaper method",
            "energy_baseline",
            "Learned is the difference from `energy_baseline`; the rows learn the whole energy.",
        ),
    )
]
