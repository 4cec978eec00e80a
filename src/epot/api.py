"""The public functions: what ``epot.fit``, ``epot.load`` and ``epot.label`` are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import ase

from .data.dataset import Dataset
from .data.labels import label as label_structures
from .data.readers import read
from .data.structure import Structure
from .fit.run import fit as run_fit
from .fitted import Fitted
from .potential import Potential


def fit(
    model: str | os.PathLike | Mapping[str, Any] | Potential,
    train: Dataset | Sequence[Structure] | Sequence[ase.Atoms] | str | os.PathLike,
    *,
    valid: Dataset | Sequence[Structure] | Sequence[ase.Atoms] | str | os.PathLike | None = None,
    **options: Any,
) -> Fitted:
    """Fit a potential.

    Args:
        model: a name (``"painn"``), a configuration (``{"name": "painn", "cutoff": 6.0}``), a potential, or a model
            file to start from.
        train: labelled structures, or where they lie.
        valid: held-out ones; a tenth of ``train`` where not given.
        **options: of :func:`epot.fit.run.fit` (``folder``, ``seed``, ``stages``, ``device``, ...).

    Raises:
        ConfigError: an unknown model or key, an impossible value.
        LabelError: labels are missing or not finite.
        FitError: the fit cannot start or go on.
    """
    state = run_fit(model, _dataset(train), valid=None if valid is None else _dataset(valid), **options)
    return Fitted(state.potential, state.about)


def load(path: str | os.PathLike, device: str = "cpu") -> Fitted:
    """Read a model file. Nothing in it is executed.

    Raises:
        ModelFileError: missing, corrupt, hostile or of a newer format.
    """
    return Fitted.load(path, device=device)


def label(structures: Dataset | Sequence[Any] | str | os.PathLike, engine: str = "gfn2", **options: Any) -> Dataset:
    """Compute labels with a quantum-mechanical engine.

    Args:
        structures: what to label, or where it lies.
        engine: ``gfn1``, ``gfn2``, ``pyscf``, ``gpaw`` or the import path of an ASE calculator.
        **options: of :func:`epot.data.labels.label` (``out``, ``workers``, ``settings``, ...).

    Raises:
        EngineError: the engine is not installed or failed.
    """
    return label_structures(_dataset(structures), engine, **options)


def _dataset(source: Any) -> Dataset:
    if isinstance(source, Dataset):
        return source
    if isinstance(source, Sequence) and not isinstance(source, str) and all(isinstance(s, Structure) for s in source):
        return Dataset(source)
    return read(source)
