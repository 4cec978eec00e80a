"""Set the width of the standard deviations by held-out errors."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from ...blocks.readout import LinearReadout
from ...data.structure import Structure
from ...errors import ConfigError
from ...potential import Potential
from ...uncertainty.calibration import Calibration, calibrate
from ...uncertainty.estimate import estimates
from ..recipe import FitState, Stage

TARGETS = ("energy", "forces", "stress")


class Calibrate(Stage):
    """One scale each for energies, forces and stress, from held-out errors (:mod:`epot.uncertainty.calibration`).

    The members of the ensemble are moved apart (or together) until the spread of their forces (their energies, without
    forces) is calibrated; what energies and stress need beyond that is kept in ``about["calibration"]``. A potential
    without an ensemble gets its held-out error as a constant. Also sets the standard deviation of force
    components above which a simulation counts as outside the domain.

    Args:
        max_structures: held-out structures that are used, chosen at random.
        quantile: of the held-out standard deviations of force components, from which the limit is made.
        factor: the limit is this times the quantile.

    Raises:
        ConfigError: a number is out of range.
    """

    rank: ClassVar[int] = 4

    def __init__(self, max_structures: int = 500, quantile: float = 0.999, factor: float = 2.0) -> None:
        self.max_structures, self.quantile, self.factor = max_structures, quantile, factor
        if max_structures < 1 or not 0 < quantile <= 1 or not factor > 0:
            raise ConfigError(
                "Calibrate needs max_structures >= 1, a quantile in (0, 1] and a factor above 0; "
                f"given: {max_structures}, {quantile}, {factor}."
            )

    def run(self, state: FitState) -> None:
        """Fill ``state.about["calibration"]`` and the limit in ``state.about["domain"]``; rescale the members."""
        start = time.monotonic()
        held_out = state.valid is not None and len(state.valid) > 0
        data = state.valid if held_out and state.valid is not None else state.train
        order = np.random.default_rng(state.seed).permutation(len(data))[: self.max_structures]
        chosen = [data[int(k)] for k in np.sort(order)]
        errors, spreads, sizes = residuals(state.potential, chosen, state.device)
        found = calibrate(errors, spreads, sizes)
        notes = [*found.notes, *self._doubts(state, held_out, len(chosen))]
        found = replace(found, notes=tuple(notes), data={"set": "valid" if held_out else "train", "n": len(chosen)})
        if spreads is not None:
            found = self._rescale(state.potential, found)
            found = self._limit(state, found, spreads)
        state.about["calibration"] = found.to_json()
        for note in notes:
            state.journal.write("note", text=f"calibration: {note}")
        scales = {t: getattr(found, t) for t in TARGETS}
        state.journal.write(
            "calibrate", kind=found.kind, **scales, constant=dict(found.constant), n=len(chosen),
            seconds=round(time.monotonic() - start, 2),
        )  # fmt: skip

    @staticmethod
    def _doubts(state: FitState, held_out: bool, count: int) -> list[str]:
        notes = []
        if not held_out:
            notes.append("No held-out structures: calibrated on the training set, so the widths are too small.")
        elif any(line["event"] == "epoch" for line in state.journal.lines):
            notes.append(
                "The validation structures also chose the weights of this fit (best epoch), so the widths are a little "
                "small: check them with `epot eval` on structures that the fit never saw."
            )
        if count < 30:
            notes.append(
                f"Only {count} structures: the scales are uncertain by about {100 / (2 * count) ** 0.5:.0f} percent."
            )
        return notes

    @staticmethod
    def _rescale(potential: Potential, found: Calibration) -> Calibration:
        """Put the scale of the forces into the members themselves."""
        for module in potential.modules():
            if isinstance(module, LinearReadout) and module.n_members:
                mean = module.weight.detach().double()[:, None]
                with torch.no_grad():
                    wide = mean + found.forces * (module.member_weights.double() - mean)
                    module.member_weights = wide.to(module.weight)
                return replace(
                    found, energy=found.energy / found.forces, stress=found.stress / found.forces, forces=1.0
                )
        return found

    def _limit(self, state: FitState, found: Calibration, spreads: dict[str, np.ndarray]) -> Calibration:
        if not len(spreads.get("forces", ())) or "forces" not in found.statistics:
            return found
        raw = np.quantile(spreads["forces"], self.quantile)
        mean_square = found.statistics["forces"]["rmv"] / max(float(np.sqrt(np.mean(spreads["forces"] ** 2))), 1e-300)
        limit = float(self.factor * raw * mean_square)
        state.about["domain"] = dict(state.about.get("domain") or {}) | {"forces_std": limit}
        return replace(found, forces_limit=limit)


def residuals(
    potential: Potential, structures: Iterable[Structure], device: str = "cpu"
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None, list[int]]:
    """Errors and raw spreads of the members on labelled structures.

    Returns:
        Errors by target (eV, eV/Å, eV/Å^3), flat; spreads of the same values, None without an ensemble; atoms of each
        structure that has an energy.
    """
    structures = list(structures)
    want = ["energy"]
    want += ["forces"] * any(s.forces is not None for s in structures)
    want += ["stress"] * any(s.stress is not None for s in structures)
    found = estimates(potential, structures, want, calibration=Calibration(), device=device, label="calibration")
    errors: dict[str, list[np.ndarray]] = {t: [] for t in want}
    spreads: dict[str, list[np.ndarray]] = {t: [] for t in want}
    sizes = []
    for structure, estimate in zip(structures, found, strict=True):
        for target in want:
            label: Any = getattr(structure, target)
            value: Any = getattr(estimate, target)
            if label is None or value is None:
                continue
            errors[target].append(np.ravel(np.asarray(value) - label))
            std = getattr(estimate, f"{target}_std")
            if std is not None:
                spreads[target].append(np.ravel(std))
            if target == "energy":
                sizes.append(len(structure))
    join = lambda d: {t: np.concatenate(v) for t, v in d.items() if v}  # noqa: E731
    return join(errors), join(spreads) or None, sizes
