"""3BPA: a flexible drug-like molecule, trained at 300 K, tested at 300, 600 and 1200 K.

Kovács et al., J. Chem. Theory Comput. 17, 7696 (2021), doi:10.1021/acs.jctc.1c00647.
"""

from ..bench import Suite, published

SUITES = [
    Suite(
        name="3bpa",
        title="3BPA, trained on 500 structures at 300 K (450 to fit, 50 to validate)",
        train="3bpa/train_300K.xyz.gz",
        tests={f"{t}K": f"3bpa/derived_test_{t}K.xyz.gz" for t in (300, 600, 1200)},
        metric="rmse",
        n_valid=50,
        isolated="3bpa/isolated_atoms.xyz.gz",
        rows=lambda: published("3bpa")["rows"],
        notes=(
            "The tests are derived, not the published files: the structures of the mixed-temperature training file "
            "that are not in the 300 K training file (136, 167 and 166), from the same kind of dynamics and DFT.",
        ),
    )
]
