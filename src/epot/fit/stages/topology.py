"""Find the bonds of the molecules that a force field is of."""

from __future__ import annotations

from typing import ClassVar

from ...errors import FitError
from ...geometry.topology import difference, perceive
from ...models.force_field import ForceField
from ...potential import Potential
from ..checks import where
from ..recipe import FitState, Stage, one_term

AVERAGED = 100
"""Training structures whose mean lengths and angles a fit starts from."""


class FindTopology(Stage):
    """Bonds of the first training structure, for a force field that has none yet.

    All structures must be of the same molecules, with their atoms in the same order and no bond broken.
    """

    rank: ClassVar[int] = 1

    @classmethod
    def applies(cls, potential: Potential) -> bool:
        return any(isinstance(m, ForceField) for m in potential.modules())

    def check(self, state: FitState) -> None:
        """Whether all structures have the topology of the first (or the one that was given).

        Raises:
            FitError: there is no force field, or a structure has another topology: it is named.
            DataError: the first structure has no bonds, or is a crystal or a metal.
        """
        term = force_field(state)
        given = term.topology is not None
        topology = term.molecule() if given else perceive(state.train[0])
        for data, what in ((state.train, "training"), (state.valid, "validation")):
            for index, structure in enumerate(data if data is not None else ()):
                found = difference(structure, topology)
                if found is not None:
                    raise FitError(
                        f"A force field is of certain molecules, {'as given' if given else 'those of the first'}; "
                        f"of {where(structure, index)} ({what}) {found}. Fit it to structures of one topology, with "
                        "atoms in one order, or use a model that does not refer to bonds."
                    )

    def run(self, state: FitState) -> None:
        """Set the topology, and lengths and angles to start from."""
        term = force_field(state)
        if term.topology is None:
            first = state.train[0]
            term.set_topology(first, tuple(state.train[k] for k in range(1, min(AVERAGED, len(state.train)))))
        made = term.molecule()
        reached = sum(len(children) for _, children in made.tree())
        facts = {"atoms": len(made.numbers), "molecules": len(made.numbers) - reached, "bonds": len(made.bonds)}
        facts |= {"angles": len(made.angles)}
        facts |= {"torsions": len(made.torsions), "parameters": sum(p.numel() for p in term.parameters())}
        state.about.setdefault("fit", {})["topology"] = facts | {"kinds": sorted(set(made.kinds(term.depth)))}
        state.journal.write("topology", **facts)


def force_field(state: FitState) -> ForceField:
    """The term that has a topology."""
    return one_term(state, ForceField, "FindTopology finds the bonds of")
