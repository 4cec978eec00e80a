"""Which keys of a file are labels, in which unit and with which sign: declared or said, never guessed silently.

What is detected is only the spelling (``REF_energy``, ``dft_forces``, ``virials``). Units and signs that are not
declared are those of the format, and :meth:`Interpreter.report` says for every label which key was used, which
unit and sign it was taken to have, and on whose word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ... import units as _units
from ...errors import ConfigError, DataError, LabelError
from ...registry import nearest
from ..structure import Structure
from .frame import Frame
from .spelling import ENTRIES, Candidate, plan

SIGNS = ("tension", "compression")
ORDERS = ("voigt", "vasp")
DIPOLE = {"eÅ": 1.0, "e*Å": 1.0, "eA": 1.0, "e*A": 1.0, "Debye": _units.DEBYE, "D": _units.DEBYE,
          "eBohr": _units.BOHR, "e*Bohr": _units.BOHR, "au": _units.BOHR}  # fmt: skip
NAMED_UNITS = ("energy", "length", "forces", "stress", "virial", "dipole")

_VOIGT = {"voigt": [0, 5, 4, 5, 1, 3, 4, 3, 2], "vasp": [0, 3, 5, 3, 1, 4, 5, 4, 2]}
"""Six numbers to nine: ``voigt`` is xx yy zz yz xz xy (ASE), ``vasp`` is xx yy zz xy yz zx."""


@dataclass(frozen=True)
class Rules:
    """How to read labels.

    Attributes:
        keys: label to the file's key; None leaves a label out. ``"calc.energy"`` is a calculator's result.
        units: of ``energy``, ``length``, ``forces``, ``stress``, ``virial``, ``dipole``, where declared.
        stress_sign: what a positive number means: ``"tension"`` (ASE, epot) or ``"compression"``.
        virial_sign: ``"compression"``: -dE/d(strain), QUIP's and GAP's; ``"tension"``: the opposite.
        stress_order: of six numbers: ``"voigt"`` (xx yy zz yz xz xy) or ``"vasp"`` (xx yy zz xy yz zx).

    Raises:
        ConfigError: a label, unit, sign or order that does not exist; the nearest is named.
    """

    keys: Mapping[str, str | None] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    stress_sign: str | None = None
    virial_sign: str | None = None
    stress_order: str | None = None

    def __post_init__(self) -> None:
        for name in self.keys:
            if name not in ENTRIES:
                raise ConfigError(f"`keys` names {name!r}, which is not a label; {nearest(name, ENTRIES)}")
        for name in self.units:
            if name not in NAMED_UNITS:
                raise ConfigError(f"`units` names {name!r}, which has no unit to declare; {nearest(name, NAMED_UNITS)}")
        for name, value, known in (
            ("stress_sign", self.stress_sign, SIGNS),
            ("virial_sign", self.virial_sign, SIGNS),
            ("stress_order", self.stress_order, ORDERS),
        ):
            if value is not None and value not in known:
                raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}.")
        if self.keys.get("stress") and self.keys.get("virial"):
            raise ConfigError("`keys` names both a stress and a virial; they are one label: name one.")


class Interpreter:
    """Turns frames into structures and remembers what it took for what.

    Args:
        rules: what the user declared.
        convention: who says what the units are where nothing is declared ("extended XYZ: ASE's convention").
        defaults: units of the format where they are not eV and Å.
    """

    def __init__(self, rules: Rules, convention: str, defaults: Mapping[str, str] | None = None) -> None:
        self.rules, self.convention = rules, convention
        self.defaults = {"energy": "eV", "length": "Å", **(defaults or {})}
        self.used: dict[str, dict[str, int]] = {}
        self.notes: dict[str, int] = {}
        self.structures = 0
        self._plans: dict[tuple, dict[str, list[Candidate]]] = {}
        self._seen: set[str] = set()
        self._length = _units.length(rules.units.get("length", self.defaults["length"]))
        self._factors = {name: self._factor(name) for name in ("energy", "forces", "dipole", "virial")}

    def _unit(self, name: str) -> str:
        """The unit of a label, declared, of the format, or following from those of energy and length."""
        declared, defaults = self.rules.units, self.defaults
        if name in declared:
            return declared[name]
        energy = declared.get("energy", defaults["energy"])
        if name in ("energy", "virial"):
            return energy
        if name == "forces":
            if "energy" in declared or "length" in declared or "forces" not in defaults:
                return f"{energy}/{declared.get('length', defaults['length'])}"
            return defaults["forces"]
        if name == "length":
            return defaults["length"]
        return defaults.get(name, {"stress": "eV/Å^3", "dipole": "e*Å"}.get(name, ""))

    def _factor(self, name: str) -> float:
        unit = self._unit(name)
        if name == "dipole":
            if unit not in DIPOLE:
                raise ConfigError(f"{unit!r} is not a unit of dipole that epot knows; use one of {', '.join(DIPOLE)}.")
            return DIPOLE[unit]
        if name == "forces":
            return _units.force(unit)
        return _units.stress(unit) if name == "stress" else _units.energy(unit)

    def structure(self, frame: Frame) -> Structure:
        """The structure of a frame, in eV and Å.

        Raises:
            DataError: two keys hold different values of one label, or atoms or cell are not what they should be.
            LabelError: a label has the wrong shape or is not a number.
        """
        found: dict[str, Any] = {}
        taken: dict[str, set[str]] = {"info": set(), "arrays": set(), "results": set()}
        positions = frame.positions if self._length == 1.0 else frame.positions * self._length
        cell = frame.cell if self._length == 1.0 else frame.cell * self._length
        for label, candidates in self._plan(frame).items():
            values = [(c, v) for c in candidates if (v := self._value(c, frame, cell)) is not None]
            if not values:
                continue
            if len(values) > 1:
                self._agree(label, values, frame)
            chosen, found[label] = values[0]
            counts = self.used.setdefault(label, {})
            counts[chosen.counted] = counts.get(chosen.counted, 0) + 1
            for candidate, _ in values:
                taken[candidate.place].add(candidate.key)
        self.structures += 1
        free = frame.results.get("free_energy")
        if free is not None and "energy" not in self.rules.keys and abs(found.get("energy", free) - free) > 1e-6:
            self._note(
                "`energy` is extrapolated to no smearing; the forces derive from `free_energy`, which is kept in info: "
                "choose it with keys={'energy': 'free_energy'}"
            )
        info = {k: v for k, v in frame.info.items() if k not in taken["info"]}
        arrays = {k: v for k, v in frame.arrays.items() if k not in taken["arrays"]}
        for key, value in frame.results.items():
            if key not in taken["results"] and value is not None:
                (arrays if np.shape(value)[:1] == (len(frame.numbers),) else info).setdefault(key, value)
        return _make(frame, positions, cell, found, info, arrays)

    def _plan(self, frame: Frame) -> dict[str, list[Candidate]]:
        signature = (tuple(frame.info), tuple(frame.arrays), tuple(frame.results))
        known = self._plans.get(signature)
        if known is None:
            if len(self._plans) > 1000:  # files whose keys differ from frame to frame
                self._seen |= {key for signature in self._plans for part in signature for key in part}
                self._plans.clear()
            known = self._plans[signature] = plan(frame, self.rules.keys)
        return known

    def _value(self, candidate: Candidate, frame: Frame, cell: np.ndarray) -> Any:
        place: Mapping[str, Any] = getattr(frame, candidate.place)
        raw, kind = place[candidate.key], candidate.kind
        if raw is None:
            return None
        if kind in ("config_type", "group"):
            return str(raw)
        if kind in ("energy", "charge", "spin"):
            number = float(raw) if type(raw) in (float, int) else _single(raw, candidate, frame)
            if kind == "spin":  # anything but a multiplicity stays among the other values
                return int(number) if number in range(1, 1000) else None
            return number * self._factors["energy"] if kind == "energy" else number
        array = _numeric(raw, candidate, frame)
        if kind in ("stress", "virial"):
            with np.errstate(all="ignore"):  # what overflows becomes infinite, and is listed as not finite
                return self._stress(kind, array, candidate, frame, cell)
        if kind in ("forces", "gradient"):
            factor = self._factors["forces"] * (-1.0 if kind == "gradient" else 1.0)
            return array if factor == 1.0 else array * factor
        return array * self._factors["dipole"] if kind == "dipole" else array

    def _stress(self, kind: str, array: np.ndarray, candidate: Candidate, frame: Frame, cell: np.ndarray) -> Any:
        if array.size == 6:
            matrix = array.reshape(6)[_VOIGT[self.rules.stress_order or "voigt"]].reshape(3, 3)
            if candidate.place != "results":
                vasp = self.rules.stress_order == "vasp"
                order = "xx yy zz xy yz zx" if vasp else "xx yy zz yz xz xy"
                hint = "" if self.rules.stress_order else " (ASE's; stress_order='vasp' means xx yy zz xy yz zx)"
                self._note(f"`{candidate.shown}` has six numbers, taken in the order {order}{hint}")
        elif array.size == 9:
            matrix = array.reshape(3, 3)
            scale = np.abs(matrix).max()
            if np.isfinite(scale) and np.abs(matrix - matrix.T).max() > 1e-3 * scale:
                self._note(f"`{candidate.shown}` is not symmetric to one part in a thousand")
        else:
            raise LabelError(f"`{candidate.shown}` has shape {array.shape}, expected 6 or 9 numbers ({frame.source}).")
        if kind == "stress":
            sign = -1.0 if self.rules.stress_sign == "compression" else 1.0
            return matrix * (sign * self._stress_factor())
        volume = abs(np.linalg.det(cell))
        if volume < 1e-9:
            self._note(f"`{candidate.shown}` of structures without a volume cannot become a stress and was left out")
            return None
        sign = 1.0 if self.rules.virial_sign == "tension" else -1.0
        return matrix * (sign * self._factors["virial"] / volume)

    def _stress_factor(self) -> float:
        if "stress" not in self._factors:
            energy, length = self._unit("energy"), self._unit("length")
            foreign = _units.energy(energy) != 1.0 or _units.length(length) != 1.0
            if foreign and "stress" not in {*self.rules.units, *self.defaults}:
                raise DataError(
                    f"The energy is declared in {energy} and lengths in {length}, but the unit of the stress is not: "
                    "declare it (units={'stress': 'GPa'}) or leave it out (keys={'stress': None})."
                )
            self._factors["stress"] = self._factor("stress")
        return self._factors["stress"]

    def _note(self, text: str) -> None:
        self.notes[text] = self.notes.get(text, 0) + 1

    def _agree(self, label: str, values: list[tuple[Candidate, Any]], frame: Frame) -> None:
        (first, a), *others = values
        for other, b in others:
            if isinstance(a, str) or isinstance(b, str) or a is None or b is None:
                same = a == b
            else:
                mixed = first.kind != other.kind
                x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
                scale = np.abs(x[np.isfinite(x)]).max(initial=0.0)
                limit = 1e-6 + 1e-3 * scale if mixed else 1e-12 + 1e-9 * scale
                same = x.shape == y.shape and np.allclose(x, y, rtol=0, atol=limit, equal_nan=True)
                opposite = mixed and x.shape == y.shape and np.allclose(x, -y, rtol=0, atol=limit)
            if not same:
                one, two = first.shown, other.shown
                why = ""
                if not isinstance(a, str) and mixed and opposite:
                    why = " They agree with the sign turned: declare the sign of one (stress_sign or virial_sign)."
                raise DataError(
                    f"Both `{one}` and `{two}` may be the {label}, and their values differ ({frame.source}).{why} "
                    f"Choose one: keys={{'{first.kind}': '{one}'}} or keys={{'{other.kind}': '{two}'}} "
                    f"(on the command line --key {first.kind}={one})."
                )

    def state(self) -> dict[str, Any]:
        """What was counted so far, JSON: a reading that is continued begins with it."""
        seen = sorted({key for signature in self._plans for part in signature for key in part} | self._seen)
        return {"used": self.used, "notes": self.notes, "structures": self.structures, "seen": seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.used = {label: dict(counts) for label, counts in state["used"].items()}
        self.notes, self.structures, self._seen = dict(state["notes"]), state["structures"], set(state["seen"])

    def report(self) -> dict[str, dict[str, Any]]:
        """For every label: the keys it was read from with counts, its unit and sign, and on whose word."""
        rules, made = self.rules, {}
        for label, counts in self.used.items():
            keys = {key.rpartition("|")[0]: count for key, count in counts.items()}
            kinds = {key.rpartition("|")[2] for key in counts}
            entry: dict[str, Any] = {"keys": keys, "structures": sum(keys.values())}
            for kind in sorted(kinds & {"energy", "forces", "gradient", "stress", "virial", "dipole"}):
                name = "forces" if kind == "gradient" else kind
                declared = name in rules.units or (
                    name in ("forces", "virial") and {"energy", "length"} & {*rules.units}
                )
                entry["unit"] = self._unit(name)
                entry["unit_from"] = "declared" if declared else self.convention
                if kind == "gradient":
                    entry["sign"] = "minus the gradient"
                if kind in ("stress", "virial"):
                    sign = rules.stress_sign if kind == "stress" else rules.virial_sign
                    entry["sign"] = f"positive under {sign or SIGNS[kind == 'virial']}"
                    entry["sign_from"] = "declared" if sign else self.convention
            made[label] = entry
        return made

    def messages(self) -> list[str]:
        """What a user should know of how the labels were read, one sentence each."""
        found = []
        for label, entry in self.report().items():
            keys = " and ".join(f"`{key}` ({count})" for key, count in entry["keys"].items())
            if len(entry["keys"]) > 1:
                found.append(f"{label}: different structures use different keys: {keys}.")
            undeclared = "declared" not in (entry.get("sign_from", "declared"), entry.get("unit_from"))
            if label == "stress" and undeclared and {*entry["keys"]} - {"stress", "calc.stress"}:
                found.append(
                    f"stress: read from {keys} in {entry['unit']}, {entry['sign']} ({entry['sign_from']}); if the "
                    "file means something else, declare units={...}, stress_sign or virial_sign."
                )
        return found + [f"{text} ({count} of {self.structures} structures)." for text, count in self.notes.items()]

    def check_named(self) -> None:
        """Every key that the user named must have been there at least once.

        Raises:
            DataError: names the key and the nearest one that exists.
        """
        known = set(self.state()["seen"])
        for label, key in self.rules.keys.items():
            if self.structures and key is not None and key.removeprefix("calc.") not in known:
                raise DataError(f"No structure has the key {key!r} that was named for {label}; {nearest(key, known)}")


def _numeric(raw: Any, candidate: Candidate, frame: Frame) -> np.ndarray:
    if isinstance(raw, bool | str | bytes):
        raise LabelError(f"`{candidate.shown}` is {raw!r}, expected numbers ({frame.source}).")
    try:
        array = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError):
        raise LabelError(f"`{candidate.shown}` does not hold numbers ({frame.source}).") from None
    return array


def _single(raw: Any, candidate: Candidate, frame: Frame) -> float:
    array = _numeric(raw, candidate, frame)
    if array.size != 1:
        raise LabelError(f"`{candidate.shown}` has shape {array.shape}, expected one number ({frame.source}).")
    return float(array.reshape(()))


def _make(
    frame: Frame, positions: np.ndarray, cell: np.ndarray, found: dict[str, Any], info: dict, arrays: dict
) -> Structure:
    """A structure; frames that their reader has checked skip most of what the constructor checks again."""
    n, pbc = len(frame.numbers), frame.pbc
    attributes = {"numbers": frame.numbers, "positions": positions, "cell": cell, "pbc": pbc, "source": frame.source,
                  "info": info, "arrays": arrays, **found}  # fmt: skip
    shapes = {"forces": (n, 3), "stress": (3, 3), "charges": (n,), "dipole": (3,)}
    for name in shapes.keys() & found.keys():
        value = found[name]
        if value.shape != shapes[name]:
            return Structure(**attributes)
        attributes[name] = np.array(value, dtype=np.float64)
    sound = frame.checked and np.isfinite(positions).all() and np.isfinite(cell).all()
    if sound and (np.abs(cell).max(axis=1) >= 1e-6)[pbc].all():
        return Structure.unchecked(**attributes)
    return Structure(**attributes)
