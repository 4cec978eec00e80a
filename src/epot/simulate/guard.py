"""The guard of a simulation: is it still where its potential can be trusted?

Two kinds of findings. *Outside*: the structure has left the domain of the training data
(:class:`epot.uncertainty.domain.Domain`): pairs nearer than any seen, other numbers of neighbors, uncertain
forces. *Broken*: absurd forces, colliding atoms, a temperature or a conserved energy that runs away: nothing
that follows means anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import ase
import numpy as np

from ..elements import SYMBOLS
from ..errors import ConfigError
from ..registry import check, nearest
from ..uncertainty.domain import Domain
from .calculator import Calculator

Policy = Literal["warn", "stop", "off"]
KINDS = ("outside", "broken")


class Finding(NamedTuple):
    """What is wrong: ``kind`` is ``"outside"`` or ``"broken"``."""

    kind: str
    text: str


@dataclass
class Guard:
    """What to look at, and what to do about it.

    Attributes:
        policy: ``"warn"`` saves and counts what is outside and goes on; ``"stop"`` ends the run at the first
            frame outside; both end it when it is broken. ``"off"`` looks at nothing (energies and forces that
            are not finite end a run in any case).
        every: steps between looks.
        max_force: eV/Å.
        max_temperature: K; None: five times the target and 1000 K more.
        max_drift: eV per atom, of the conserved quantity since the start.
        closest: Å, below which two atoms collide, whatever the training set held.
        keep: frames outside that are saved; more are counted only.
        counts: how often each kind was found.
    """

    policy: Policy = "warn"
    every: int = 10
    max_force: float = 100.0
    max_temperature: float | None = None
    max_drift: float = 0.1
    closest: float = 0.4
    keep: int = 200
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ConfigError(f"guard is {self.policy!r}; {nearest(str(self.policy), get_args(Policy))}")
        if self.every < 1:
            raise ConfigError(f"guard.every is {self.every}; expected steps, 1 or more.")

    @classmethod
    def of(cls, given: Guard | str | Mapping[str, Any]) -> Guard:
        """A guard of its own, with nothing counted, from a policy's name, a mapping of attributes, or a guard."""
        if isinstance(given, Guard):
            return replace(given, counts=Counter())
        wanted = {"policy": given} if isinstance(given, str) else dict(given)
        if "counts" in wanted:
            raise ConfigError("counts is what a guard finds, not what it is told.")
        return cls(**check(cls, wanted))

    def settings(self) -> dict[str, Any]:
        """Attributes, JSON."""
        return {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "counts"}

    def look(
        self, atoms: ase.Atoms, domain: Domain | None, *, temperature: float, target: float | None, drift: float
    ) -> list[Finding]:
        """What is wrong now; empty where nothing is. Counts it.

        Args:
            atoms: with a calculator that has just evaluated them.
            domain: of the potential; None where it is not known.
            temperature: K, now.
            target: K, of the thermostat; None without one.
            drift: eV per atom of the conserved quantity since the start.
        """
        found = self._broken(atoms, temperature, target, drift)
        if domain is not None and isinstance(atoms.calc, Calculator) and atoms.calc.graph is not None:
            found += [
                Finding("outside", text) for text in domain.violations(atoms.calc.graph, self._spread(atoms, domain))
            ]
        self.counts.update({finding.kind for finding in found})
        return found

    @staticmethod
    def _spread(atoms: ase.Atoms, domain: Domain) -> np.ndarray | None:
        """Standard deviations of the forces, where the domain has a limit for them and they can be had."""
        calc = atoms.calc
        if domain.forces_std is None or not isinstance(calc, Calculator) or not calc.has_ensemble:
            return None
        return calc.get_property("forces_std", atoms) if calc.has_uncertainty else None

    def _broken(self, atoms: ase.Atoms, temperature: float, target: float | None, drift: float) -> list[Finding]:
        found = []
        forces = np.linalg.norm(atoms.get_forces(), axis=1)
        k = int(forces.argmax())
        if not forces[k] <= self.max_force:  # not a number counts
            found.append(f"force of {forces[k]:.3g} eV/Å on {_named(atoms, k)}: limit {self.max_force:g}")
        limit = self.max_temperature if self.max_temperature is not None else 5 * (target or 0.0) + 1000
        if (target is not None or self.max_temperature is not None) and not temperature <= limit:
            found.append(f"temperature of {temperature:.0f} K: limit {limit:.0f}")
        if not abs(drift) <= self.max_drift:
            found.append(f"the conserved energy drifted by {drift:.3g} eV per atom: limit {self.max_drift:g}")
        if isinstance(atoms.calc, Calculator) and atoms.calc.graph is not None and atoms.calc.graph.n_pairs:
            graph = atoms.calc.graph
            squares = graph.vectors().square().sum(1)
            pair = int(squares.argmin())
            if float(squares[pair]) < self.closest**2:
                i, j = (int(x) for x in graph.pairs[:, pair])
                distance = float(squares[pair]) ** 0.5
                found.append(
                    f"{_named(atoms, i)} and {_named(atoms, j)} collide: {distance:.3f} Å, limit {self.closest:g}"
                )
        return [Finding("broken", text) for text in found]

    def ends(self, found: list[Finding]) -> bool:
        """Whether the run must end."""
        return any(f.kind == "broken" or self.policy == "stop" for f in found)


def _named(atoms: ase.Atoms, k: int) -> str:
    return f"atom {k} ({SYMBOLS[atoms.numbers[k]]})"
