"""Named checks of the physics and of the contract of a potential, and the report that they make together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..data.structure import Structure
from ..errors import ConfigError
from ..features.descriptor import Descriptor
from ..potential import Potential
from ..registry import nearest
from .case import Case


class Found(NamedTuple):
    """What a check measured; it passes where ``worst <= bound``.

    Attributes:
        worst: the largest violation; infinity for what is simply wrong.
        bound: what rounding excuses.
        text: where, and what was compared.
        applies: False where the potential has nothing that this check could look at.
    """

    worst: float
    bound: float
    text: str
    applies: bool = True


class CheckFailure(AssertionError):
    """A potential is not what it says it is."""


@dataclass(frozen=True)
class Result:
    """One check's verdict on one potential.

    Attributes:
        check: its name.
        passed: also True where the check does not apply.
        applies: whether there was something to look at.
        worst, bound: as measured, and allowed; in the check's own unit.
        text: where, and what it means.
        seconds: what it took.
    """

    check: str
    passed: bool
    applies: bool
    worst: float
    bound: float
    text: str
    seconds: float

    def __str__(self) -> str:
        mark = "ok  " if self.passed and self.applies else "-   " if self.passed else "FAIL"
        return f"{mark} {self.check:18s} {self.worst:9.2e} (allowed {self.bound:.0e})  {self.text}"


@dataclass(frozen=True)
class Check:
    """A named check; call it with a potential: ``check(MyModel.tiny())`` raises where it fails."""

    name: str
    doc: str
    function: Callable[[Case], Found]

    def __call__(
        self, potential: Potential, systems: Mapping[str, Structure] | None = None, *, seed: int = 0
    ) -> Result:
        """Check a potential.

        Raises:
            CheckFailure: with what was measured, and where.
        """
        result = self.examine(Case(potential, systems, seed=seed))
        if not result.passed:
            raise CheckFailure(f"{type(potential).__name__} fails the check '{self.name}'.\n{self.doc}\n{result}")
        return result

    def examine(self, case: Case) -> Result:
        """The verdict; never raises: what a potential throws is a failure of the check."""
        start = time.perf_counter()
        reason = _exemption(case.potential, self.name)
        try:
            found = self.function(case) if reason is None else absent(f"by design: {reason}")
        except Exception as why:  # a potential may throw anything, and that is what is reported
            found = Found(math.inf, 0.0, f"{type(why).__name__}: {str(why) or 'without a message'}")
        passed = not found.applies or bool(found.worst <= found.bound)
        seconds = time.perf_counter() - start
        return Result(self.name, passed, found.applies, float(found.worst), float(found.bound), found.text, seconds)

    def __str__(self) -> str:
        return self.name

    @property
    def __name__(self) -> str:  # what pytest shows
        return self.name


def _exemption(potential: Potential, check: str) -> str | None:
    """Why a potential cannot pass this check by design; None where it must."""
    declared = [m.exempt for m in potential.modules() if isinstance(m, (Potential, Descriptor))]
    return next((reasons[check] for reasons in declared if check in reasons), None)


_CHECKS: dict[str, Check] = {}


def check(function: Callable[[Case], Found]) -> Callable[[Case], Found]:
    """Add a function to the checks, under its own name."""
    doc = " ".join((function.__doc__ or "").split())
    _CHECKS[function.__name__] = Check(function.__name__, doc, function)
    return function


def absent(text: str) -> Found:
    """The verdict of a check that has nothing to look at."""
    return Found(0.0, 0.0, text, applies=False)


def checks(*, only: Collection[str] | None = None, skip: Collection[str] = ()) -> list[Check]:
    """The checks, for ``pytest.mark.parametrize("check", epot.testing.checks(), ids=str)``.

    Args:
        only: names of those that are wanted; None for all.
        skip: names of those that are not.

    Raises:
        ConfigError: there is no check of that name.
    """
    for name in [*(only or ()), *skip]:
        if name not in _CHECKS:
            raise ConfigError(f"There is no check called {name!r}; {nearest(name, _CHECKS)}")
    return [c for name, c in _CHECKS.items() if name not in skip and (only is None or name in only)]


def examine_potential(
    potential: Potential,
    *,
    systems: Mapping[str, Structure] | None = None,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    seed: int = 0,
) -> list[Result]:
    """The verdicts of all checks, whatever they are. Arguments as in :func:`check_potential`."""
    case = Case(potential, systems, seed=seed)
    return [c.examine(case) for c in checks(only=only, skip=skip)]


def check_potential(
    potential: Potential,
    *,
    systems: Mapping[str, Structure] | None = None,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    seed: int = 0,
) -> list[Result]:
    """Run every check on a copy of ``potential`` in float64.

    Args:
        potential: any; it is not changed.
        systems: structures by name to check it on; None for small ones made of its elements.
        only: names of the checks that are wanted; None for all.
        skip: names of those that are not.
        seed: of every random choice.

    Returns:
        The verdicts, all passed.

    Raises:
        CheckFailure: one or more checks failed; the message lists them all with what was measured.
        ConfigError: ``only`` or ``skip`` holds an unknown name.
    """
    results = examine_potential(potential, systems=systems, only=only, skip=skip, seed=seed)
    failed = [r for r in results if not r.passed]
    if failed:
        lines = "\n".join(f"{r}\n     {_CHECKS[r.check].doc}" for r in failed)
        raise CheckFailure(f"{type(potential).__name__} fails {len(failed)} of {len(results)} checks:\n{lines}")
    return results
