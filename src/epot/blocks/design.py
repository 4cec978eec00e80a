"""Rows of the linear problem that a closed-form fit solves."""

from __future__ import annotations

from typing import NamedTuple

from ..typing import Float, Tensor


class Design(NamedTuple):
    """What energy, forces and virial of a graph are linear in: derivatives of the features summed over atoms.

    With the readout's weights ``w`` (and scale 1): ``energy @ w`` is eV per structure, ``forces @ w`` eV/Å and
    ``virial @ w`` eV, -dE/d(strain).

    Attributes:
        energy: ``(structures, features)``.
        forces: rows by atom, then x, y, z, ``(3 atoms, features)``; None where not asked for.
        virial: rows xx xy xz yx ..., ``(structures, 9, features)``; None where not asked for.
    """

    energy: Float[Tensor, "structures features"]
    forces: Float[Tensor, "components features"] | None = None
    virial: Float[Tensor, "structures 9 features"] | None = None
