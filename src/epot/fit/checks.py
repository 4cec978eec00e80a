"""What is certainly wrong with the data of a fit is found before anything long starts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.structure import LABELS, Structure
from ..elements import names
from ..errors import ConfigError, DataError, LabelError, UnknownElementError
from ..progress import track
from ..registry import nearest

TARGETS = ("energy", "forces", "stress")
ABSURD = 100.0
"""eV/Å: forces beyond it are of colliding atoms or of another unit."""


def where(structure: Structure, index: int) -> str:
    """How a message calls a structure."""
    return structure.source or f"structure {index} ({structure.formula})"


def check_targets(targets: Sequence[str] | None) -> None:
    """Refuse words that are not labels of a fit.

    Raises:
        ConfigError: the nearest one is named.
    """
    for target in targets or ():
        if target not in TARGETS:
            raise ConfigError(f"{target!r} is not a target of a fit; {nearest(target, TARGETS)}")


def check_data(data: Dataset, what: str, targets: Sequence[str] | None = None) -> list[str]:
    """Refuse labels that cannot be fitted; returns what is merely suspicious.

    Args:
        data: labeled structures.
        what: ``"training"`` or ``"validation"``, for messages.
        targets: labels that each structure must have; None where partial labels are fine.

    Raises:
        DataError: there are no structures.
        LabelError: labels are missing or not finite; the frames are named.
    """
    if not len(data):
        raise DataError(f"There are no {what} structures.")
    missing: dict[str, list[str]] = {t: [] for t in targets or ()}
    unlabeled, broken, absurd = [], [], []
    for index, s in enumerate(track(data, f"Checking the {what} structures")):
        for target, found in missing.items():
            if not s.has(target):
                found.append(where(s, index))
        if not any(s.has(t) for t in TARGETS):
            unlabeled.append(where(s, index))
        broken += [f"{where(s, index)}: {problem}" for problem in s.problems()]
        if s.forces is not None and s.forces.size and np.isfinite(s.forces).all() and np.abs(s.forces).max() > ABSURD:
            absurd.append(f"{where(s, index)}, {np.abs(s.forces).max():.0f} eV/Å")
    if broken:
        more = f" (and {len(broken) - 5} more)" if len(broken) > 5 else ""
        raise LabelError(
            f"{what.capitalize()} labels are not finite: {'; '.join(broken[:5])}{more}. Drop these structures, or "
            "label them again."
        )
    for target, found in missing.items():
        if found:
            rest = tuple(t for t in targets or () if t != target)
            raise LabelError(
                f"{_of(found, data)} {what} structures have no `{target}` (first: {found[0]}). "
                f"Pass targets={rest!r} or drop them."
            )
    if unlabeled:
        raise LabelError(
            f"{_of(unlabeled, data)} {what} structures have no label to fit, none of {', '.join(TARGETS)} (first: "
            f"{unlabeled[0]}). "
            "Label them (`epot label`), drop them, or say under which keys the labels are."
        )
    if absurd:
        return [
            f"{_of(absurd, data)} {what} structures have forces beyond {ABSURD:.0f} eV/Å (first: {absurd[0]}): atoms "
            "that collide, or labels in another unit. `epot doctor data` says more."
        ]
    return []


def _of(found: list, data: Dataset) -> str:
    return f"{len(found)} of {len(data)}"


def check_elements(train: Dataset, valid: Dataset | None, known: Sequence[int] | None) -> None:
    """Refuse elements that a potential, or its training, does not know.

    Raises:
        UnknownElementError: names them and the first structure.
    """
    have = set(train.elements)
    if known is not None and have - set(known):
        raise UnknownElementError(
            f"The training structures hold {names(sorted(have - set(known)))}; the potential was made for "
            f"{names(sorted(known))}. Add them to its `elements`, or leave `elements` out: they are then taken from "
            "the data."
        )
    for index, s in enumerate(valid or ()):
        unknown = sorted(set(s.numbers.tolist()) - have)
        if unknown:
            raise UnknownElementError(
                f"The validation structure {where(s, index)} holds {names(unknown)}, which no training structure does "
                f"(they hold {names(sorted(have))}). Train on structures with it, or leave it out of the validation."
            )


def hold_out(data: Dataset, share: float, seed: int = 0) -> tuple[Dataset, Dataset | None]:
    """Training and validation structures: whole groups are held out, never a part of one.

    Structures without a group are groups of their own. Where no group is small enough (the data are one trajectory)
    groups are torn. Isolated atoms and structures that alone hold an element stay in the training set.

    Args:
        data: all.
        share: of the structures, for validation.
        seed: of the choice.
    """
    groups: dict[Any, list[int]] = {}
    for index, s in enumerate(data):
        groups.setdefault(("group", s.group) if s.group is not None else index, []).append(index)
    singles = [[k] for k in range(len(data))]
    held = _choose(data, list(groups.values()), share, seed) or _choose(data, singles, share, seed)
    if not held:
        return data, None
    chosen = set(held)
    train, valid = data[[i for i in range(len(data)) if i not in chosen]], data[sorted(chosen)]
    for part, name in ((train, "train"), (valid, "valid")):
        part.provenance |= {"split": {"by": "group", "part": name, "share": share, "seed": seed, "of": len(data)}}
    return train, valid


def _choose(data: Dataset, groups: list[list[int]], share: float, seed: int) -> list[int]:
    """Indices of groups that together are at most ``share`` of the data and take no element away from the rest."""
    held: list[int] = []
    left = Counter(z for s in data for z in set(s.numbers.tolist()))
    wanted = round(share * len(data))
    for k in np.random.default_rng(seed).permutation(len(groups)):
        structures = [data[i] for i in groups[int(k)]]
        used = Counter(z for s in structures for z in set(s.numbers.tolist()))
        fits = len(held) + len(structures) <= wanted and all(len(s) > 1 or s.pbc.any() for s in structures)
        if fits and all(left[z] > n for z, n in used.items()):
            held += groups[int(k)]
            left.subtract(used)
    return held


def fingerprint(data: Dataset) -> str:
    """SHA-256 of everything that a fit can see of a dataset."""
    digest = hashlib.sha256()
    for s in data:
        for name in ("numbers", "positions", "cell", "pbc"):
            digest.update(np.ascontiguousarray(getattr(s, name)).tobytes())
        digest.update(np.float64(s.charge).tobytes())
        for label in LABELS:
            value = getattr(s, label)
            digest.update(label.encode() if value is None else np.ascontiguousarray(value, np.float64).tobytes())
    return digest.hexdigest()


def summary(data: Dataset) -> dict[str, Any]:
    """What is recorded of a dataset: size, hash, labels and where it came from. JSON."""
    labels = {label: int(data.has(label).sum()) for label in LABELS}
    return {
        "n": len(data),
        "sha256": fingerprint(data),
        "labels": {k: v for k, v in labels.items() if v},
        "provenance": data.provenance,
    }
