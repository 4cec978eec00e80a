"""Descriptors of whole structures in models: by name, by configuration, or as the data need them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .. import registry
from ..data.structure import Structure
from ..elements import SYMBOLS
from ..errors import ConfigError
from ..features.descriptor import Descriptor, make

Choice = str | Mapping[str, Any] | None


def whole_descriptor(what: Choice, elements: Sequence[int], instead: str) -> Descriptor:
    """The descriptor of a model of whole structures; Coulomb matrices unless another one is given.

    Args:
        what: name or configuration; None for ``coulomb_matrix``.
        elements: atomic numbers.
        instead: what serves with a descriptor of single atoms, for the message.

    Raises:
        ConfigError: there is none like it, or it is one of single atoms.
    """
    made = make(what or "coulomb_matrix", elements)
    if not made.whole:
        raise ConfigError(
            f"This model looks at whole structures and {type(made).__name__} describes single atoms: use {instead} "
            "with it, or give a descriptor such as coulomb_matrix, sine_matrix or distances."
        )
    return made


def suited_descriptor(what: Choice, data: Sequence[Sequence[Structure]]) -> dict[str, Any]:
    """The configuration of a descriptor with what it leaves open taken from the data.

    Coulomb matrices for molecules, sine matrices for crystals; room for as many atoms as the largest structure has
    (as many of each element, for lists by element).

    Args:
        what: name or configuration, given in full or in part; None for nothing.
        data: structures that it must describe.

    Raises:
        ConfigError: nothing is given, and they are molecules and crystals mixed, or periodic along some axes only.
    """
    config: dict[str, Any] = {"name": what} if isinstance(what, str) else dict(what or {})
    periodic: set[int] = set()
    most: Counter[int] = Counter()
    largest = 1
    for structures in data:
        for s in structures:
            periodic.add(int(s.pbc.sum()))
            most |= Counter(s.numbers.tolist())
            largest = max(largest, len(s))
    if "name" not in config:
        if periodic - {0} and periodic - {3}:
            which = "both molecules and periodic ones" if {0, 3} <= periodic else "periodic along some axes only"
            raise ConfigError(
                "No descriptor of whole structures fits all of these data: coulomb_matrix is of molecules, sine_matrix "
                f"of crystals, and the structures are {which}. Fit them apart, or use a model of atoms (gap, acsf_nn)."
            )
        config["name"] = "sine_matrix" if periodic == {3} else "coulomb_matrix"
    known = registry.parameters(registry.get(config["name"]))
    if "n_atoms_max" in known:
        config.setdefault("n_atoms_max", largest)
    if "counts" in known and "n_each" not in config:
        config.setdefault("counts", {SYMBOLS[z]: most[z] for z in sorted(most)})
    return config
