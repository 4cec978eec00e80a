"""Read structures with their labels from whatever they are in.

One function, :func:`read`. What differs between formats is how frames are found (:mod:`.xyz`, :mod:`.arrays`,
:mod:`.ase_formats`, :mod:`.lmdb`); what is a label, in which unit and with which sign, is decided in one place for
all of them (:mod:`.keys`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import ConfigError
from ..dataset import Dataset
from ..structure import Structure
from .keys import Rules
from .sources import Reading

__all__ = ["Rules", "read"]
_LOG = logging.getLogger("epot.data")


def read(
    source: Any,
    *,
    keys: Mapping[str, str | None] | None = None,
    units: Mapping[str, str] | None = None,
    stress_sign: str | None = None,
    virial_sign: str | None = None,
    stress_order: str | None = None,
    index: int | slice | str | None = None,
    format: str | None = None,
    theory: str | None = None,
) -> Dataset:
    """Structures with whatever labels they have, in eV and Å.

    Args:
        source: a file, a glob (``"runs/*/OUTCAR"``), a list of those; one or many :class:`ase.Atoms` or
            :class:`Structure`. Extended XYZ (plain, gz, bz2, xz, zst), packed HDF5 of epot, ASE databases (``.db``,
            ``.aselmdb``), npz as in rMD17, and every output that ASE reads.
        keys: which key of the file holds a label, where the usual spellings do not say it:
            ``{"energy": "REF_energy", "stress": None}``; None leaves a label out; a ``"virial"`` becomes the stress.
        units: where they are not those of the format: ``{"energy": "kcal/mol", "length": "Å", "forces": "kcal/mol/Å",
            "stress": "GPa", "virial": "eV", "dipole": "Debye"}``. The unit of forces follows from energy and length.
        stress_sign: ``"tension"`` (positive under tension: ASE's, the default) or ``"compression"`` (VASP's).
        virial_sign: ``"compression"`` (-dE/d(strain): QUIP's and GAP's, the default) or ``"tension"``.
        stress_order: of six numbers: ``"voigt"`` (xx yy zz yz xz xy: ASE's, the default) or ``"vasp"``.
        index: which structures, over all files: ``0``, ``slice(0, 100)``, ``"::10"``.
        format: the format where the name does not say it: ``"extxyz"``, or any of ASE's (``"vasp-out"``).
        theory: level of theory, kept in the provenance.

    Returns:
        A dataset; ``provenance`` holds the files with their sha256, ``keys`` (which key, unit and sign was taken, and
        on whose word) and ``notes``, which are also logged by ``epot.data``.

    Raises:
        DataError: no such file; truncated or malformed (says which frame); two keys hold different values of a label;
            units that must be declared.
        LabelError: a label of the wrong shape.
        ConfigError: an option that does not exist.
    """
    rules = Rules(dict(keys or {}), dict(units or {}), stress_sign, virial_sign, stress_order)
    reading = Reading(source, rules, format)
    if reading.packed is not None:
        dataset = reading.packed
        dataset = dataset if index is None else _chosen(dataset, _as_slice(index))
    else:
        chosen = _as_slice(index)
        forward = chosen.step is None or chosen.step > 0
        ends = (chosen.start or 0) >= 0 and (chosen.stop is None or chosen.stop >= 0)
        early = forward and ends and chosen.stop is not None
        structures = list(reading.structures(limit=chosen.stop if early else None))
        if not early:
            reading.check()
        dataset = _chosen(Dataset(structures, reading.provenance()), chosen)
        for note in dataset.provenance["notes"]:
            _LOG.warning(note)
    if theory is not None:
        dataset.provenance["theory"] = theory
    return dataset


def _as_slice(index: int | slice | str | None) -> slice:
    if index is None or isinstance(index, slice):
        return index or slice(None)
    try:
        if isinstance(index, str) and ":" in index:
            return slice(*(int(part) if part else None for part in index.split(":")))
        first = int(index)
    except (TypeError, ValueError):
        raise ConfigError(f"index is {index!r}; expected a number, a slice or a text like '0:100' or '::10'.") from None
    return slice(first, first + 1 or None)


def _chosen(dataset: Dataset, index: slice) -> Dataset:
    if index == slice(None):
        return dataset
    return dataset[index]


def structures_of(source: Iterable[Any]) -> list[Structure]:
    """The structures of anything that :func:`read` takes."""
    return list(read(source))
