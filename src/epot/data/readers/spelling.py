"""How labels are spelled in the files of the field: the only detection there is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .frame import Frame

ENTRIES = ("energy", "forces", "stress", "virial", "charges", "dipole", "charge", "spin", "config_type", "group")
_WORD = r"(?:ref|reference|dft|qm|target|true|label|scf|ab_initio|abinitio)"
_PATTERNS = {
    name: re.compile(rf"(?:{_WORD}[_-]?)?(?:{core})(?:[_-]?{_WORD})?", re.IGNORECASE)
    for name, core in {
        "energy": r"(?:total_|potential_|tot_)?energy|etot|e_tot|toten",
        "forces": r"forces?",
        "gradient": r"gradients?|energy_gradients?",
        "stress": r"stress|stresses|stress_tensor",
        "virial": r"virials?",
        "charges": r"charges|atomic_charges|partial_charges",
        "dipole": r"dipole|dipoles|dipole_moment|total_dipole",
        "charge": r"charge|total_charge|tot_charge|net_charge",
        "spin": r"spin|multiplicity|spin_multiplicity|total_spin",
        "config_type": r"config_type|configtype",
        "group": r"group|group_id",
    }.items()
}
_PER_ATOM = ("forces", "gradient", "charges")


class Candidate:
    """One place in a frame where a label may be: a key of ``info``, ``arrays`` or ``results``."""

    __slots__ = ("counted", "key", "kind", "place", "shown")

    def __init__(self, place: str, key: str, kind: str) -> None:
        self.place, self.key, self.kind = place, key, kind
        self.shown = f"calc.{key}" if place == "results" else key
        self.counted = f"{self.shown}|{kind}"


def plan(frame: Frame, keys: Mapping[str, str | None]) -> dict[str, list[Candidate]]:
    """For every label the places of a frame where it may be, the plain spelling first.

    Args:
        frame: any.
        keys: what the user declared; a declared label has one candidate, or none where it is None.
    """
    places: dict[str, Mapping[str, Any]] = {"results": frame.results, "arrays": frame.arrays, "info": frame.info}
    found: dict[str, list[Candidate]] = {}
    for label in ENTRIES:
        if label in keys:
            if keys[label] is not None:
                found["stress" if label == "virial" else label] = _named(str(keys[label]), label, places)
        elif label != "virial" and not (label == "stress" and "virial" in keys):
            found[label] = _detected(label, places)
    return {label: candidates for label, candidates in found.items() if candidates}


def _detected(label: str, places: Mapping[str, Mapping[str, Any]]) -> list[Candidate]:
    kinds = {"forces": ("forces", "gradient"), "stress": ("stress", "virial")}.get(label, (label,))
    found = [
        Candidate(place, key, kind)
        for kind in kinds
        for place, values in places.items()
        for key in values
        if _matches(place, key, kind)
    ]
    if label == "energy" and not found:  # files that know the free energy only
        found = [
            Candidate(place, "free_energy", label) for place in ("results", "info") if "free_energy" in places[place]
        ]
    return sorted(found, key=lambda c: (c.kind != label, c.key != label))


def _matches(place: str, key: str, kind: str) -> bool:
    if place == "results":
        return key == kind
    if place == "arrays" and kind == "charges" and key == "charge":
        return True
    return (place == "arrays") == (kind in _PER_ATOM) and _PATTERNS[kind].fullmatch(key) is not None


def _named(key: str, label: str, places: Mapping[str, Mapping[str, Any]]) -> list[Candidate]:
    if key.startswith("calc."):
        key = key.removeprefix("calc.")
        return [Candidate("results", key, label)] if key in places["results"] else []
    order = ("arrays", "info", "results") if label in _PER_ATOM else ("info", "results", "arrays")
    return next(([Candidate(place, key, label)] for place in order if key in places[place]), [])


def is_label(key: str, place: str) -> bool:
    """Whether a reader would take a key of ``"info"`` or ``"arrays"`` for a label."""
    return any(_matches(place, key, kind) for kind in _PATTERNS)
