"""One arrangement of atoms with whatever labels it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..elements import N_ELEMENTS, SYMBOLS
from ..errors import DataError, LabelError

if TYPE_CHECKING:
    import ase

LABELS = ("energy", "forces", "stress", "charges", "dipole")
_EMPTY: Mapping[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Structure:
    """One arrangement of atoms, on the CPU, in float64, with the labels that exist for it.

    Attributes:
        numbers: atomic numbers, ``(atoms,)``.
        positions: Å, ``(atoms, 3)``.
        cell: Å, rows are the lattice vectors, ``(3, 3)``; zero rows where there is no vector.
        pbc: which axes are periodic, ``(3,)``.
        energy: eV, of the whole structure.
        forces: eV/Å, ``(atoms, 3)``.
        stress: eV/Å^3, ``(3, 3)``, (1/V) dE/d(strain): positive under tension.
        charges: e, ``(atoms,)``.
        dipole: e Å, ``(3,)``.
        charge: total charge, e.
        spin: spin multiplicity 2S+1, where known.
        config_type: the group by which errors are listed ("liquid", "slab").
        group: what must not be torn apart by a split (one trajectory, one molecule).
        source: where it came from ("train.xyz, frame 17"), for messages.
        info: anything else about the whole structure.
        arrays: anything else per atom.

    Raises:
        DataError: a shape is wrong, a position is not finite, an atomic number is not an element or
            a periodic axis has no length.
        LabelError: a label has the wrong shape. (Labels that are not finite are kept, so that the
            doctor can list them all; a fit refuses them.)
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: Any = None
    pbc: Any = False
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    charges: np.ndarray | None = None
    dipole: np.ndarray | None = None
    charge: float = 0.0
    spin: int | None = None
    config_type: str | None = None
    group: str | None = None
    source: str = ""
    info: Mapping[str, Any] = field(default_factory=lambda: _EMPTY, repr=False)
    arrays: Mapping[str, np.ndarray] = field(default_factory=lambda: _EMPTY, repr=False)

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        where = f" ({self.source})" if self.source else ""
        numbers = _array("numbers", self.numbers, (-1,), where, DataError, dtype=np.int64)
        n = len(numbers)
        if n and (numbers.min() < 1 or numbers.max() >= N_ELEMENTS):
            bad = numbers[(numbers < 1) | (numbers >= N_ELEMENTS)][0]
            raise DataError(f"Atomic number {bad} is not an element{where}.")
        put("numbers", numbers)
        put("positions", _array("positions", self.positions, (n, 3), where, DataError))
        cell = np.zeros((3, 3)) if self.cell is None else self.cell
        put("cell", _array("cell", cell, (3, 3), where, DataError))
        put("pbc", np.broadcast_to(np.asarray(self.pbc, dtype=bool), (3,)).copy())
        for name in ("positions", "cell"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f"`{name}` holds values that are not finite{where}.")
        lengths = np.abs(self.cell).max(axis=1)
        for axis in range(3):
            if self.pbc[axis] and lengths[axis] < 1e-6:
                raise DataError(
                    f"Axis {'abc'[axis]} is periodic but its cell vector has no length{where}: "
                    "give the cell, or set pbc to False along it."
                )
        if self.energy is not None:
            put("energy", float(self.energy))
        for name, shape in (("forces", (n, 3)), ("stress", (3, 3)), ("charges", (n,)), ("dipole", (3,))):
            if getattr(self, name) is not None:
                put(name, _array(name, getattr(self, name), shape, where, LabelError))

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        labels = [name for name in LABELS if getattr(self, name) is not None]
        periodic = "".join("abc"[k] for k in range(3) if self.pbc[k]) or "none"
        return f"Structure({self.formula}, periodic={periodic}, labels={'+'.join(labels) or 'none'})"

    @property
    def formula(self) -> str:
        """``"C2H6O"``, elements in the order of the alphabet."""
        numbers, counts = np.unique(self.numbers, return_counts=True)
        parts = sorted((SYMBOLS[z], int(c)) for z, c in zip(numbers, counts, strict=True))
        return "".join(s + (str(c) if c > 1 else "") for s, c in parts) or "empty"

    @property
    def volume(self) -> float:
        """Å^3, of the cell; zero where a cell vector is missing."""
        return float(abs(np.linalg.det(self.cell)))

    def has(self, label: str) -> bool:
        """Whether the label (``"forces"``) is there."""
        return getattr(self, label) is not None

    def problems(self) -> list[str]:
        """What is wrong with the labels: those that are not finite. Empty where all is well."""
        found = []
        for name in LABELS:
            value = getattr(self, name)
            if value is not None and not np.isfinite(value).all():
                count = int((~np.isfinite(np.atleast_1d(value))).sum())
                found.append(f"`{name}` holds {count} value{'s' * (count > 1)} that are not finite")
        return found

    def replace(self, **changes: Any) -> Structure:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def unchecked(cls, **attributes: Any) -> Structure:
        """With attributes that the caller has checked already and shares with nobody, for readers of large files.

        Arrays must have the shapes, types (float64, int64, bool) and finite values that the constructor asks for;
        ``numbers``, ``positions``, ``cell`` and ``pbc`` must be given.
        """
        made = object.__new__(cls)
        made.__dict__.update(_DEFAULTS | attributes)
        return made

    @classmethod
    def from_ase(cls, atoms: ase.Atoms, **labels: Any) -> Structure:
        """From :class:`ase.Atoms`, without its calculator: labels are given by the caller.

        The readers decide which keys hold labels (:mod:`epot.data.readers`); this conversion never guesses.
        ``charge``, ``spin``, ``config_type`` and ``group`` are taken from ``atoms.info`` unless given.
        """
        own = {"numbers", "positions"} | set(LABELS)
        info = {k: v for k, v in atoms.info.items() if k not in labels}
        for key in ("charge", "spin", "config_type", "group"):
            if key in info and key not in labels:
                labels[key] = info.pop(key)
        arrays = {k: np.asarray(v) for k, v in atoms.arrays.items() if k not in own}
        labels.setdefault("info", info)
        labels.setdefault("arrays", arrays)
        for key in ("config_type", "group"):
            if labels.get(key) is not None:
                labels[key] = str(labels[key])
        return cls(atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc, **labels)

    def to_ase(self) -> ase.Atoms:
        """As :class:`ase.Atoms`, with the labels in a single-point calculator, as ASE's own readers do."""
        import ase
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms = ase.Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)
        atoms.info.update(self.info)
        for key, value in (("config_type", self.config_type), ("group", self.group), ("spin", self.spin)):
            if value is not None:
                atoms.info[key] = value
        if self.charge:
            atoms.info["charge"] = self.charge
        for key, values in self.arrays.items():
            atoms.arrays[key] = np.array(values)
        results = {name: getattr(self, name) for name in LABELS if self.has(name)}
        if results:
            if "stress" in results:  # Voigt order of ASE: xx yy zz yz xz xy
                results["stress"] = results["stress"].ravel()[[0, 4, 8, 5, 2, 1]]
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms


_DEFAULTS: dict[str, Any] = {
    f.name: None if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(Structure)
} | {"info": _EMPTY, "arrays": _EMPTY}


def _array(
    name: str, value: Any, shape: tuple[int, ...], where: str, error: type[Exception], dtype: Any = np.float64
) -> np.ndarray:
    try:
        array = np.array(value, dtype=dtype, order="C")
    except (TypeError, ValueError) as why:
        raise error(f"`{name}` is not an array of numbers{where}: {why}") from None
    if array.ndim != len(shape) or any(want not in (-1, got) for want, got in zip(shape, array.shape, strict=True)):
        raise error(f"`{name}` has shape {array.shape}, expected {shape}{where}.")
    return array
