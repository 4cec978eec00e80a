"""A fit is a list of stages that share one state."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from .. import registry
from ..blocks.member_readout import MemberReadout
from ..blocks.readout import LinearReadout
from ..data.dataset import Dataset
from ..errors import ConfigError, FitError
from ..potential import Potential, Sum
from ..terms.offsets import Offsets
from .journal import Journal

Kind = TypeVar("Kind", bound=Potential)


@dataclass
class FitState:
    """What the stages of one fit share.

    Attributes:
        potential: the one that is fitted, changed in place; as a rule ``Sum(offset=Offsets, body=...)``.
        train, valid: labelled structures; ``valid`` may be None.
        seed: every random choice of every stage derives from it.
        device: where tensors go.
        folder: the run's folder, for checkpoints; None keeps nothing on disk.
        journal: what happened.
        about: JSON that travels in the model file (calibration, domain, training facts).
        stage: position in the list of stages of the one that runs; it names its checkpoints.
        factor: upper triangular R of the last closed-form solve, ``(weights, weights)``: the posterior covariance of
            the readout's weights is ``R^-1 R^-T``; None before.
    """

    potential: Potential
    train: Dataset
    valid: Dataset | None = None
    seed: int = 0
    device: str = "cpu"
    folder: Path | None = None
    journal: Journal = field(default_factory=Journal)
    about: dict[str, Any] = field(default_factory=dict)
    stage: int = 0
    factor: Any = None

    def note(self, text: str) -> None:
        """Tell the user something worth knowing: in the journal, and on standard error unless it is silenced."""
        self.journal.write("note", text=text)
        if os.environ.get("EPOT_PROGRESS") != "0":
            print(f"note: {text}", file=sys.stderr)

    @property
    def checkpoint(self) -> Path | None:
        """Where the running stage keeps its checkpoint."""
        return None if self.folder is None else self.folder / "checkpoints" / f"stage{self.stage}.safetensors"


def offsets_of(potential: Potential) -> Offsets | None:
    """The first term of energies per element; None without one."""
    return next((m for m in potential.modules() if isinstance(m, Offsets)), None)


def readout_of(potential: Potential) -> LinearReadout | None:
    """The readout of the learned term; None without one."""
    return next((m for m in potential.modules() if isinstance(m, LinearReadout)), None)


def member_readout_of(potential: Potential) -> MemberReadout | None:
    """The readouts of a committee; None without one."""
    return next((m for m in potential.modules() if isinstance(m, MemberReadout)), None)


def one_term(state: FitState, kind: type[Kind], task: str) -> Kind:
    """The one term of a kind that a stage is for.

    Args:
        state: of the fit.
        kind: class of the term.
        task: what the stage does with it, for the message: ``"SelectSparse chooses the sparse points of"``.

    Raises:
        FitError: there is none, or there are several.
    """
    found = [m for m in state.potential.modules() if isinstance(m, kind)]
    if len(found) != 1:
        raise FitError(f"{task} one {kind.__name__}; this potential has {len(found)}.")
    return found[0]


def fixed_terms(potential: Potential) -> Sum | None:
    """The terms of a sum that are neither offsets nor have anything to be learned: the baseline; None without any."""
    if not isinstance(potential, Sum):
        return None
    learned = lambda t: readout_of(t) is not None or any(p.requires_grad for p in t.parameters())  # noqa: E731
    terms: dict[str, Any] = dict(potential.terms.items())
    fixed = {name: term for name, term in terms.items() if not isinstance(term, Offsets) and not learned(term)}
    return Sum(**fixed) if fixed else None


class Stage(ABC):
    """One step of a fit. Its configuration is its constructor's signature, like a potential's.

    Attributes:
        rank: stages run in ascending rank: offsets 0, sparse points and statistics of features 1, solve and descend 2,
            posterior 3, calibration 4.
    """

    rank: ClassVar[int]

    @abstractmethod
    def run(self, state: FitState) -> None:
        """Change ``state.potential`` (and ``state.about``); write to ``state.journal``."""

    def check(self, state: FitState) -> None:  # noqa: B027  most stages have nothing to check
        """Raise FitError or LabelError for what is certainly wrong, before any stage starts."""

    @classmethod
    def applies(cls, potential: Potential) -> bool:
        """Whether a recipe that names this stage should run it on such a potential."""
        return True

    def config(self) -> dict[str, Any]:
        return {"stage": type(self).__name__} | {k: getattr(self, k) for k in registry.parameters(type(self))}


def check_order(stages: Sequence[Stage]) -> None:
    """Refuse an order that would undo what a stage did.

    Raises:
        ConfigError: names the two stages.
    """
    for before, after in zip(stages, stages[1:], strict=False):
        if after.rank < before.rank:
            raise ConfigError(
                f"{type(after).__name__} cannot run after {type(before).__name__}, whose result it would make void; "
                "the order is FitOffsets; SelectSparse, FitStatistics, FitKernel or FindTopology; Solve or Descend; "
                "Posterior; Calibrate."
            )
