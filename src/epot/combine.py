"""Several fitted potentials as one: their mean is nearer to the truth than each, and their spread says how near.

Deep ensembles: B. Lakshminarayanan, A. Pritzel, C. Blundell, Adv. Neural Inf. Process. Syst. 30 (2017),
arXiv:1612.01474. Fits that differ in their seed alone differ most where the data say least.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch

from .blocks.readout import LinearReadout
from .data.dataset import Dataset
from .data.structure import Structure
from .elements import SYMBOLS, names
from .errors import ConfigError
from .fit.recipe import FitState
from .fit.run import citations, versions
from .fit.stages.calibrate import Calibrate
from .fitted import Fitted
from .potential import Committee, Potential, parts
from .terms.offsets import Offsets
from .uncertainty.domain import Domain

REFERENCES = 20.0
"""eV: energies of an element that differ by more are of different references; drawing the data again does less."""


def combine(
    models: Sequence[Fitted | str | os.PathLike],
    held_out: Dataset | Sequence[Structure] | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Fitted:
    """One potential of several: energies, forces and stress are their means, the spread is its uncertainty.

    Args:
        models: fitted potentials or model files, two or more, of any families and settings. They are not changed.
            Ensembles that they have of their own are left out.
        held_out: labeled structures that none of them was fitted to. The spread becomes standard deviations by their
            errors; without them there are no standard deviations.
        seed: of the choice among very many held-out structures.
        device: where the potential goes.

    Returns:
        A :class:`~epot.potential.Committee` and what travels with it. What it knows of its training data is what the
        models know together: nothing where one of them knows nothing.

    Raises:
        ConfigError: fewer than two models, no element that all of them know, the same potential twice, or energies
            per element that differ by more than 20 eV.
        ModelFileError: a file cannot be read.
    """
    if isinstance(models, (str, os.PathLike)) or len(models) < 2:
        raise ConfigError("combine needs two or more potentials or model files, in a list.")
    each = [copy.deepcopy(m) if isinstance(m, Fitted) else Fitted.load(m, device) for m in models]
    for module in (module for one in each for module in one.potential.modules()):
        if isinstance(module, LinearReadout):
            module.forget_members()
    for (k, one), (m, other) in combinations(enumerate(each), 2):
        if _same(one.potential, other.potential):
            raise ConfigError(
                f"Potentials {k + 1} and {m + 1} are the same, and their spread would say nothing: give fits that "
                "differ, if only in their seed."
            )
    potential = Committee([one.potential for one in each])
    if potential.elements == ():
        known = "; ".join(names(one.elements) for one in each)
        raise ConfigError(f"These potentials know no element together: {known}.")
    _same_reference([one.potential for one in each])
    made = Fitted(potential, _about(each, potential), device=device)
    if held_out is not None:
        data = held_out if isinstance(held_out, Dataset) else Dataset(held_out)
        Calibrate().run(FitState(potential, data, data, seed=seed, device=device, about=made.about))
    return made


def _same(one: Potential, other: Potential) -> bool:
    if one.config() != other.config():
        return False
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def _alone(potential: Potential) -> dict[int, float]:
    """Energies of atoms before they meet another, eV, by element."""
    if isinstance(potential, Offsets):
        return {z: float(potential.energies[z]) for z in potential.elements or ()}
    each = [_alone(part) for part in parts(potential)]
    share = 1.0 / max(len(each), 1) if potential.committee else 1.0
    return {z: share * sum(one.get(z, 0.0) for one in each) for z in {z for one in each for z in one}}


def _same_reference(each: Sequence[Potential]) -> None:
    """Raises ConfigError where the energies of an element alone have nothing to do with each other."""
    alone = [_alone(one) for one in each]
    for (k, one), (m, other) in combinations(enumerate(alone), 2):
        gaps = {z: abs(one[z] - other[z]) for z in sorted(one.keys() & other.keys())}
        z = max(gaps, key=gaps.__getitem__, default=0)
        if gaps.get(z, 0.0) > REFERENCES:
            raise ConfigError(
                f"{SYMBOLS[z]} alone has {one[z]:.1f} eV in potential {k + 1} and {other[z]:.1f} eV in "
                f"potential {m + 1}: they were fitted to different references, or to molecules that do not tell their "
                "elements apart, and the mean of their energies is wrong. Combine fits of the same data."
            )


def _about(each: Sequence[Fitted], potential: Committee) -> dict[str, Any]:
    """What the models know of themselves, together."""
    domains = [one.domain for one in each]
    known = [domain for domain in domains if domain is not None]
    elements = potential.elements or tuple(sorted(set.intersection(*(set(one.elements) for one in each))))
    about: dict[str, Any] = {
        "elements": [SYMBOLS[z] for z in elements],
        "combined": [{k: one.about[k] for k in ("training", "fit", "versions") if k in one.about} for one in each],
        "versions": versions(),
        "citations": citations(potential),
    }
    same = [one.about.get("training") for one in each]
    if same[0] is not None and all(training == same[0] for training in same):
        about["training"] = same[0]
    if len(known) == len(domains):
        about["domain"] = Domain.joined(known).to_json()
    return about
