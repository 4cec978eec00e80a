"""Energies per element, from isolated atoms, by regression or given; and the scale of what is left."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from ...data.dataset import Dataset
from ...data.structure import Structure
from ...elements import SYMBOLS, names, to_number
from ...errors import ConfigError, FitError, LabelError
from ...geometry.graph import build
from ...potential import Potential
from ...predict import predict
from ..recipe import FitState, Stage, fixed_terms, member_readout_of, offsets_of, readout_of

OUTLIER = 6.0
"""Energies per atom farther from the median residual than so many robust standard deviations are left out."""
RIDGE = 1e-8
CORRECTED = 1000
"""Structures, at most, on which a potential that was fitted before is evaluated to correct its energies per element."""


class FitOffsets(Stage):
    """Sets the energy of each element, and the scale of a learned term that has a readout.

    Args:
        method: ``"isolated"``: from structures of one atom without neighbors; ``"regression"``: least squares of the
            energies per atom on the composition; ``"given"``: from ``values``; ``"auto"``: given where ``values``
            are, from isolated atoms where the data hold one of each element, by regression otherwise; ``"correct"``:
            by regression of what the potential as it is leaves of the labels, added to the energies that it has, of a
            potential that was fitted before, to labels of another level of theory.
        values: eV, by element symbol.

    Raises:
        ConfigError: ``values`` without ``method="given"`` or the other way round.
    """

    rank: ClassVar[int] = 0

    def __init__(
        self,
        method: Literal["auto", "isolated", "regression", "given", "correct"] = "auto",
        values: Mapping[str, float] | None = None,
    ) -> None:
        self.method = method
        self.values = None if values is None else {str(k): float(v) for k, v in values.items()}
        if (method == "given") != (values is not None) and method != "auto":
            raise ConfigError("FitOffsets takes `values` (eV by element) together with method='given', and only then.")

    @classmethod
    def applies(cls, potential: Potential) -> bool:
        return offsets_of(potential) is not None

    def check(self, state: FitState) -> None:
        """Whether there is what the method needs.

        Raises:
            FitError: the potential has no :class:`~epot.terms.offsets.Offsets`.
            LabelError: isolated atoms are asked for and an element has none.
            ConfigError: ``values`` lack an element.
        """
        offsets = offsets_of(state.potential)
        if offsets is None:
            raise FitError("FitOffsets needs a term Offsets(elements) in the sum; add it, or leave this stage out.")
        wanted = set(offsets.elements or ())
        if self.values is not None:
            lacking = wanted - {to_number(z) for z in self.values}
            if lacking:
                raise ConfigError(f"FitOffsets.values has no energy for {names(sorted(lacking))}.")
        if self.method == "isolated":
            lacking = wanted - isolated_atoms(state.train).keys()
            if lacking:
                raise LabelError(
                    f"No isolated atom with an energy for {names(sorted(lacking))} among the training structures; "
                    "add one each (one atom, no periodic axes), or use method='regression'."
                )

    def run(self, state: FitState) -> None:
        """Fill ``Offsets.energies`` and ``readout.scale`` (and ``readout.bias``, where offsets are of free atoms)."""
        offsets = offsets_of(state.potential)
        assert offsets is not None
        if self.method == "correct":
            correct(state)
            return
        base = baseline(state.potential, state.train, state.device)
        method, facts = self._fill(state, offsets.elements or (), base.energy)
        for number, value in facts["energies"].items():
            offsets.energies[number] = value
        left = spreads(state.train, offsets.energies.cpu().numpy(), base)
        readout = readout_of(state.potential) or member_readout_of(state.potential)
        solved = any(getattr(m, "recipe", None) == "solve" for m in state.potential.modules())
        if readout is not None and not solved:  # what is solved for has the scale of its prior
            readout.scale.fill_(left.get("forces") or left.get("energy") or 1.0)
            if getattr(readout, "bias", None) is not None:
                center(state)
        shown = {SYMBOLS[z]: v for z, v in facts["energies"].items()}
        state.about.setdefault("fit", {})["offsets"] = {"method": method, "energies": shown, "spread": left}
        state.journal.write("offsets", method=method, energies=shown, spread=left, outliers=facts["outliers"])

    def _fill(self, state: FitState, elements: tuple[int, ...], base: np.ndarray) -> tuple[str, dict[str, Any]]:
        if self.values is not None:
            return "given", {"energies": {to_number(k): v for k, v in self.values.items()}, "outliers": []}
        free = isolated_atoms(state.train)
        if self.method == "isolated" or (self.method == "auto" and set(elements) <= free.keys()):
            return "isolated", {"energies": {z: free[z] for z in elements}, "outliers": []}
        made = regress(state.train, elements, base)
        if made.rank == 0:
            state.note("No structure has an energy: the energies per element stay 0 and total energies mean nothing.")
        elif made.rank < len(elements):
            state.note(collinear(elements, made))
        if made.outliers:
            first = ", ".join(f"{o['source']} ({o['residual']:+.2f} eV/atom)" for o in made.outliers[:3])
            state.note(
                f"{len(made.outliers)} energies do not go with the others of their composition and were left out of "
                f"the fit of the energies per element: {first}. They are still trained on: look at them with "
                "`epot doctor data`."
            )
        energies = dict(zip(elements, made.energies.tolist(), strict=True))
        return "regression", {"energies": energies, "outliers": made.outliers}


def correct(state: FitState) -> None:
    """Change energies per element by regression of what the potential leaves of the labels; nothing else changes."""
    offsets = offsets_of(state.potential)
    assert offsets is not None
    order = np.random.default_rng(state.seed).permutation(len(state.train))[:CORRECTED]
    chosen = state.train[np.sort(order)]
    potential, device = state.potential, state.device
    made = [predict(potential, build(s, potential.cutoff, device=device), ("energy",)).energy for s in chosen]
    found = regress(chosen, offsets.elements or (), np.array([float(e) for e in made]))
    changes = dict(zip(offsets.elements or (), found.energies.tolist(), strict=True))
    for number, value in changes.items():
        offsets.energies[number] += value
    left = spreads(state.train, offsets.energies.cpu().numpy(), baseline(potential, state.train, device))
    energies = {SYMBOLS[z]: float(offsets.energies[z]) for z in changes}
    facts = {"method": "correct", "energies": energies, "spread": left}
    state.about.setdefault("fit", {})["offsets"] = facts
    state.journal.write("offsets", **facts, outliers=found.outliers)


def center(state: FitState, at_most: int = 200) -> None:
    """Set the bias of the readout so that the untrained potential has no error of the energy per atom on average.

    What it corrects: the mean of the initial random output and, with reference energies, the energy of binding. Each
    member of a committee is corrected by itself.
    """
    readout, members = readout_of(state.potential), member_readout_of(state.potential)
    labeled = (s for s in state.train if s.energy is not None and len(s) > 1)
    chosen = list(islice(labeled, at_most))
    potential = state.potential
    graphs = (build(s, potential.cutoff, device=state.device) for s in chosen)
    if members is not None and chosen:
        each = [predict(potential, graph, ("energy", "members")).members for graph in graphs]
        lack = [((s.energy or 0.0) - m.energy[0]) / len(s) for s, m in zip(chosen, each, strict=True) if m is not None]
        with torch.no_grad():
            members.bias.add_((torch.stack(lack).median(0).values / members.scale.double()).to(members.bias))
    if readout is None or readout.bias is None or not chosen:
        return
    made = [float(predict(potential, graph, ("energy",)).energy) for graph in graphs]
    left = np.median([((s.energy or 0.0) - e) / len(s) for s, e in zip(chosen, made, strict=True)])
    with torch.no_grad():
        readout.bias.add_(float(left) / readout.scale)


class Regression(NamedTuple):
    """Energies per element by least squares.

    Attributes:
        energies: eV, in the order of the elements.
        rank: of the compositions; smaller than the number of elements where they are collinear.
        free: combinations of elements that the data say nothing about, ``(elements, free)``.
        outliers: structures that were left out: index, source, residual in eV per atom.
    """

    energies: np.ndarray
    rank: int
    free: np.ndarray
    outliers: list[dict[str, Any]]


def regress(data: Dataset, elements: tuple[int, ...], base: np.ndarray | None = None) -> Regression:
    """Least squares of energies per atom on fractions of elements, without gross outliers.

    In float64 by a singular value decomposition with a relative ridge of 1e-8: where compositions are collinear it
    gives the solution of smallest norm.

    Args:
        data: structures; those without an energy, and isolated atoms beside others, are left out.
        elements: atomic numbers.
        base: eV, energies that are subtracted first, ``(len(data),)``.
    """
    used = [(k, s) for k, s in enumerate(data) if s.energy is not None and len(s) > 0 and np.isfinite(s.energy)]
    bound = [(k, s) for k, s in used if len(s) > 1 or s.pbc.any()]
    used = bound or used
    column = {z: k for k, z in enumerate(elements)}
    fractions, targets = np.zeros((len(used), len(elements))), np.zeros(len(used))
    for row, (index, s) in enumerate(used):
        for z, n in zip(*np.unique(s.numbers, return_counts=True), strict=True):
            fractions[row, column[int(z)]] = n / len(s)
        targets[row] = ((s.energy or 0.0) - (0.0 if base is None else base[index])) / len(s)
    keep = np.ones(len(used), bool)
    energies, rank, free = np.zeros(len(elements)), 0, np.eye(len(elements))
    for _ in range(10):
        if not len(used):
            break
        energies, rank, free = _solve(fractions[keep], targets[keep])
        left = targets - fractions @ energies
        middle = np.median(left[keep])
        width = 1.4826 * np.median(np.abs(left[keep] - middle))
        again = np.abs(left - middle) <= max(OUTLIER * width, 1e-6)
        if (again == keep).all() or again.sum() < max(3, 0.5 * len(keep)):
            break
        keep = again
    outliers = [
        {"index": used[k][0], "source": used[k][1].source or f"structure {used[k][0]}", "residual": float(left[k])}
        for k in np.nonzero(~keep)[0]
    ]
    return Regression(energies, rank, free, sorted(outliers, key=lambda o: -abs(o["residual"])))


def _solve(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    u, s, vt = np.linalg.svd(x, full_matrices=True)
    full = np.zeros(vt.shape[0])
    full[: len(s)] = s
    real = full > 1e-6 * full.max()
    rank = int(real.sum())
    weights = s[:rank] / (s[:rank] ** 2 + (RIDGE * s[0]) ** 2)
    return vt[:rank].T @ (weights * (u[:, :rank].T @ y)), rank, vt[rank:].T


def collinear(elements: tuple[int, ...], made: Regression) -> str:
    """Why energies per element are not unique, and what to do."""
    loose = [z for z, row in zip(elements, made.free, strict=True) if np.abs(row).max() > 1e-6]
    return (
        f"The compositions of the training structures fix only {made.rank} of {len(elements)} energies per element: "
        f"{names(loose)} occur in proportions that leave some energy free to be moved from one to another without any "
        "change of the totals. The smallest ones that fit were taken. Within these compositions nothing is lost; "
        "energies of other compositions, and of reactions between them, will be wrong. If you need those, add isolated "
        "atoms to the training structures or give their energies: offsets.values={H: -13.6, ...} (eV)."
    )


def isolated_atoms(data: Dataset) -> dict[int, float]:
    """Energies (eV) of structures that are one atom with no neighbor (no periodic axis, or images 6 Å away)."""
    found: dict[int, float] = {}
    for s in data:
        if len(s) == 1 and s.energy is not None and np.isfinite(s.energy) and _alone(s):
            found.setdefault(int(s.numbers[0]), s.energy)
    return found


def _alone(s: Structure) -> bool:
    lengths = np.linalg.norm(np.asarray(s.cell), axis=1)
    return bool((lengths[s.pbc] > 6.0).all())


class Baseline(NamedTuple):
    """What fixed terms say of each structure: energies ``(structures,)`` eV, forces eV/Å, virials eV."""

    energy: np.ndarray
    forces: list[np.ndarray] | None
    virial: list[np.ndarray] | None


def baseline(potential: Potential, data: Dataset, device: str = "cpu") -> Baseline:
    """Predictions of the terms that are not fitted; zeros where there are none."""
    terms = fixed_terms(potential)
    if terms is None:
        return Baseline(np.zeros(len(data)), None, None)
    made = [predict(terms, build(s, terms.cutoff, device=device), ("energy", "forces", "virial")) for s in data]
    forces = [m.forces.cpu().numpy() for m in made if m.forces is not None]
    virial = [m.virial[0].cpu().numpy() for m in made if m.virial is not None]
    return Baseline(np.array([float(m.energy) for m in made]), forces, virial)


def spreads(data: Dataset, energies: np.ndarray, base: Baseline | None = None) -> dict[str, float]:
    """How far labels spread once offsets and fixed terms are subtracted: what errors are compared with.

    Returns:
        ``energy``: standard deviation per atom, eV; ``forces``: root mean square component, eV/Å; ``virial``: root
        mean square component of stress times volume per atom, eV. Only what is labeled.
    """
    base = base or Baseline(np.zeros(len(data)), None, None)
    left, squares, virials = [], [0.0, 0], []
    for k, s in enumerate(data):
        if s.energy is not None and (len(s) > 1 or s.pbc.any()):  # an isolated atom has nothing left
            left.append((s.energy - base.energy[k] - energies[s.numbers].sum()) / len(s))
        if s.forces is not None and len(s) > 1:
            f = s.forces - (0.0 if base.forces is None else base.forces[k])
            squares = [squares[0] + float((f**2).sum()), squares[1] + f.size]
        if s.stress is not None and s.pbc.all() and len(s) > 0:
            virials.append((s.stress * s.volume + (0.0 if base.virial is None else base.virial[k])) / len(s))
    found = {}
    if len(left) > 1:
        found["energy"] = float(np.std(left))
    if squares[1]:
        found["forces"] = math.sqrt(squares[0] / squares[1])
    if virials:
        found["virial"] = float(np.sqrt(np.mean(np.square(virials))))
    return {k: v for k, v in found.items() if v > 0}
