"""Elements of the mlearn benchmark: crystals, strained cells, surfaces, vacancies, molecular dynamics.

Zuo et al., J. Phys. Chem. A 124, 731 (2020), doi:10.1021/acs.jpca.9b08723.
"""

from functools import partial
from typing import Any

from ...data.dataset import Dataset
from ...potential import Potential
from ..bench import Suite, published
from ..elastic import cubic_crystal, table

ELEMENTS = ("Ge", "Li", "Mo", "Si")
STRAINED = ("Ge", "Si")
"""Those whose strained cells are of the ideal crystal: lattice and elastic constants can be compared."""


def _rows(element: str) -> dict[str, Any]:
    table = published("mlearn")
    rows = table["suites"][element]
    return {name: {"source": table["source"], "values": {"test": values}} for name, values in rows.items()}


def _crystal(potential: Potential, data: Dataset) -> dict[str, Any]:
    found = cubic_crystal(potential, data)
    return {"crystal": found, "text": table(found)}


SUITES = [
    Suite(
        name=f"mlearn/{element}",
        title=f"mlearn {element}: published training and test structures (20 of the training ones to validate)",
        train=f"mlearn/{element}_train.xyz.gz",
        tests={"test": f"mlearn/{element}_test.xyz.gz"},
        metric="mae",
        n_valid=20,
        energy="energy_per_atom",
        rows=partial(_rows, element),
        properties=_crystal if element in STRAINED else None,
        notes=("Published forces are rounded to 10 meV/Å.",),
    )
    for element in ELEMENTS
]
