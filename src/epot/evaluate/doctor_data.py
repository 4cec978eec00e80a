"""``epot doctor data``: what is certainly or probably wrong with labels, before anything is fitted to them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..data.dataset import Dataset
from ..progress import bar
from . import doctor_geometry as geometry
from . import doctor_labels as labels
from . import doctor_units as consistency
from .doctor_report import Report

MOST = 20_000  # structures that are looked at


def examine(dataset: Dataset, *, name: str = "the data", others: Mapping[str, Dataset] | None = None) -> Report:
    """Examine the labels and structures of a dataset.

    What is missing or not finite; absurd, unbalanced or shuffled forces; units and signs of energies, forces and
    stresses by comparing them with each other; energies far from the others of their composition; duplicates, also
    between this set and others; distances, cells, compositions, levels of theory.

    Args:
        dataset: of any size; of more than 20 000 structures an even sample is looked at.
        name: what the report calls it.
        others: sets that must not share structures with it, by name (a test set).

    Returns:
        Findings with evidence, frame numbers and advice. ``report.verdict`` is ``errors`` only for what is
        certainly wrong.
    """
    report = Report(f"{name}: {len(dataset)} structures")
    if not len(dataset):
        report.add("error", "no structures", "the dataset is empty", "look at the path, or at the reader's options.")
        return report
    frames = _frames(dataset)
    if len(frames) < len(dataset):
        report.add("info", "a sample was examined", f"{len(frames)} of {len(dataset)} structures")
    sets = {name: frames} | {other: _frames(data) for other, data in (others or {}).items()}
    with bar(f"examine {name}", 4) as shown:
        labels.examine(frames, report)
        geometry.cells(frames, report)
        geometry.theory(dataset, frames, report)
        shown.advance()
        clash = geometry.closest(frames, report)
        geometry.composition(frames, report)
        shown.advance()
        apart = set(clash)
        consistency.examine([(k, s) for k, s in frames if k not in apart], report)
        shown.advance()
        geometry.duplicates(sets, report, skip=clash)
        shown.advance()
    return report


def _frames(dataset: Dataset) -> labels.Frames:
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MOST)).astype(int))
    return [(int(k), dataset[int(k)]) for k in chosen]
