"""Disjoint parts of a dataset: at random, by group, stratified, or by farthest points; always recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..registry import nearest
from .dataset import Dataset
from .structure import Structure

WAYS = ("random", "group", "config_type", "farthest")


def split(
    data: Dataset, fractions: Sequence[float | int], *, seed: int = 0, by: str | Callable[[Structure], Any] = "random"
) -> list[Dataset]:
    """See :meth:`Dataset.split`."""
    if not callable(by) and by not in WAYS:
        raise ConfigError(f"Cannot split by {by!r}; {nearest(str(by), WAYS)}")
    sizes = part_sizes(len(data), fractions)
    rng = np.random.default_rng(seed)
    facts: dict[str, Any] = {}
    if callable(by) or by == "group":
        parts, facts = _by_group(data, sizes, rng, by)
    elif by == "config_type":
        parts = _stratified(data.column("config_type"), sizes, rng)
    elif by == "farthest":
        parts = _farthest(data, sizes, rng)
    else:
        order = rng.permutation(len(data))
        ends = np.cumsum(sizes)
        parts = [order[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    made = []
    for number, chosen in enumerate(parts):
        chosen = np.sort(np.asarray(chosen, dtype=np.int64))
        part = data[chosen]
        record = {
            "by": by if isinstance(by, str) else getattr(by, "__name__", "function"),
            "seed": seed,
            "fractions": [float(f) if isinstance(f, float) else int(f) for f in fractions],
            "part": number,
            "structures": len(chosen),
            "of": len(data),
            "indices_sha256": hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest(),
        }
        part.provenance["split"] = [*data.provenance.get("split", []), record | facts]
        made.append(part)
    return made


def part_sizes(n: int, fractions: Sequence[float | int]) -> list[int]:
    """Numbers of structures from fractions or from numbers; fractions are met as closely as whole numbers can.

    Raises:
        ConfigError: none given, negative, a sum above one, or a mixture.
        DataError: fewer structures than the parts need.
    """
    if not fractions or any(f <= 0 for f in fractions):
        raise ConfigError(f"split needs fractions above zero (0.8, 0.1, 0.1), got {tuple(fractions)}.")
    if all(isinstance(f, (int, np.integer)) and not isinstance(f, bool) for f in fractions) and tuple(fractions) != (
        1,
    ):
        sizes = [int(f) for f in fractions]
        if sum(sizes) > n:
            raise DataError(f"The parts need {sum(sizes)} structures together, but there are {n}.")
        return sizes
    total = float(sum(fractions))
    if any(f > 1 for f in fractions) or total > 1 + 1e-9:
        raise ConfigError(
            f"The fractions {tuple(fractions)} add up to {total:g}; expected at most 1, or whole numbers."
        )
    exact = np.array(fractions, dtype=float) * n
    if abs(total - 1) < 1e-9:
        whole = n
    else:
        whole = int(np.floor(exact.sum() + 0.5))
    found = _apportion(exact, whole)
    if (found == 0).any():
        raise DataError(
            f"{n} structures are too few for parts of {tuple(fractions)}: part {int(np.argmin(found))} would be empty."
        )
    return found.tolist()


def _apportion(exact: np.ndarray, whole: int) -> np.ndarray:
    """Whole numbers next to ``exact`` that add up to ``whole``: largest remainders."""
    found = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - found), kind="stable")
    for k in range(whole - int(found.sum())):
        found[order[k % len(order)]] += 1
    return found


def _by_group(
    data: Dataset, sizes: list[int], rng: np.random.Generator, by: str | Callable[[Structure], Any]
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Whole groups, largest first, each to the part that lacks most; one without a group is a group by itself."""
    names = [by(s) for s in data] if callable(by) else data.column("group")
    members: dict[Any, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(("alone", index) if name is None else ("group", str(name)), []).append(index)
    alone = sum(key[0] == "alone" for key in members)
    if alone == len(data):
        raise DataError(
            "No structure has a `group`, so a split by group is a split at random. Name the key that holds it when "
            "reading (keys={'group': 'trajectory'}), pass a function, or split by='random'."
        )
    if len(members) < len(sizes):
        raise DataError(f"There are {len(members)} groups, too few for {len(sizes)} parts of which none is empty.")
    groups = list(members.values())
    groups = [groups[k] for k in rng.permutation(len(groups))]
    rest = len(data) - sum(sizes)
    wanted = np.array([*sizes, *([rest] if rest else [])], dtype=float)
    lack = wanted.copy()
    parts: list[list[int]] = [[] for _ in lack]
    for group in sorted(groups, key=len, reverse=True):
        target = int(np.argmax(lack))
        parts[target].extend(group)
        lack[target] -= len(group)
    for number in range(len(sizes)):  # a group larger than its share may have left nothing for a small part
        if not parts[number]:
            raise DataError(
                f"Part {number} would be empty: the largest group holds {max(map(len, groups))} of {len(data)} "
                "structures. Choose other fractions or fewer parts."
            )
    facts = {"groups": len(members) - alone, "without_group": alone}
    return [np.array(p) for p in parts[: len(sizes)]], facts


def _stratified(types: list[Any], sizes: list[int], rng: np.random.Generator) -> list[np.ndarray]:
    """Every type in the same proportions; what rounding leaves over in one type is made good in the next."""
    n = len(types)
    shares = np.array([*sizes, n - sum(sizes)], dtype=float) / n
    members: dict[Any, list[int]] = {}
    for index, name in enumerate(types):
        members.setdefault(name, []).append(index)
    parts: list[list[int]] = [[] for _ in shares]
    given, seen = np.zeros(len(shares), dtype=np.int64), 0
    for name in sorted(members, key=lambda t: (len(members[t]), str(t))):
        order = rng.permutation(members[name])
        seen += len(order)
        counts = _bounded(shares * seen - given, shares * len(order), len(order))
        given += counts
        for part, piece in zip(parts, np.split(order, np.cumsum(counts)[:-1]), strict=True):
            part.extend(piece.tolist())
    return [np.array(p, dtype=np.int64) for p in parts[: len(sizes)]]


def _bounded(owed: np.ndarray, fair: np.ndarray, whole: int) -> np.ndarray:
    """Whole numbers that add up to ``whole``, each the floor or ceiling of its fair share, following what is owed."""
    low = np.floor(fair + 1e-9).astype(np.int64)
    room = np.ceil(fair - 1e-9).astype(np.int64) - low
    order = np.argsort(-(owed - low), kind="stable")
    left = whole - int(low.sum())
    for k in order:
        if left and room[k]:
            low[k] += 1
            left -= 1
    return low


def _farthest(data: Dataset, sizes: list[int], rng: np.random.Generator) -> list[np.ndarray]:
    from .descriptor import descriptors, farthest_points

    first = farthest_points(descriptors(data), sizes[0])
    rest = rng.permutation(np.setdiff1d(np.arange(len(data)), first))
    ends = np.cumsum(sizes[1:])
    return [first, *(rest[end - size : end] for size, end in zip(sizes[1:], ends, strict=True))]
