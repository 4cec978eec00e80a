"""From the spread of an ensemble to a standard deviation that held-out errors agree with.

One scale for energies, one for force components, one for stress components:

    sigma = alpha * spread,    alpha^2 = mean(delta^2 / spread^2)

over held-out structures, delta the error (Bigi, Chong, Ceriotti, Grasselli, Mach. Learn.: Sci. Technol. 5,
045018, 2024, Eq. 24). A potential without an ensemble gets the root mean square of its held-out errors, which is
constant, and says so. Split-conformal factors widen sigma to an interval of stated coverage; that coverage holds for
structures drawn like the held-out ones, not along a trajectory and not for structures chosen on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr
from scipy.stats import spearmanr

from ..errors import DataError, ModelFileError
from ..predict import Prediction
from ..typing import Tensor

TARGETS = ("energy", "forces", "stress")
LEVELS = (0.68, 0.9, 0.95)
FLOOR = 1e-12  # eV, eV/Å, eV/Å^3: a smaller spread is none
SILENT = 1e-4
"""A spread below this share of their root mean square is rounding, and is left out: where symmetry makes a value zero
for every member (forces in a perfect crystal), error over spread may be anything."""


@dataclass(frozen=True)
class Calibration:
    """How the spread of an ensemble becomes a standard deviation; kept in a model file as ``about["calibration"]``.

    Attributes:
        kind: ``"ensemble"`` where the potential has members or learned variances, or ``"constant"`` where it has
            neither: then sigma is the same everywhere.
        energy, forces, stress: what the spread is multiplied by.
        constant: held-out root mean square errors: ``energy`` eV per atom, ``forces`` eV/Å, ``stress`` eV/Å^3.
        conformal: target to coverage ("0.9") to the factor q of the interval ``y ± q sigma``.
        statistics: target to :func:`statistics` after calibration.
        forces_limit: eV/Å, a standard deviation of a force component that hardly any held-out one exceeds.
        notes: what limits the trust in it.
        data: which structures it comes from.
    """

    kind: str = "ensemble"
    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0
    constant: Mapping[str, float] = field(default_factory=dict)
    conformal: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    statistics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    forces_limit: float | None = None
    notes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def std(self, prediction: Prediction, sizes: Tensor) -> dict[str, Tensor]:
        """Standard deviations of what was predicted; a target that nothing is known of is left out.

        Args:
            prediction: with ``members`` where ``kind`` is ``"ensemble"``.
            sizes: atoms of each structure.

        Returns:
            ``energy`` eV ``(structures,)``, of the whole structure; ``forces`` eV/Å ``(atoms, 3)``;
            ``stress`` eV/Å^3 ``(structures, 3, 3)``.
        """
        spreads = spread(prediction)
        if spreads:
            return {t: getattr(self, t) * v for t, v in spreads.items()}
        made = {}
        if "energy" in self.constant:
            made["energy"] = self.constant["energy"] * sizes.double()
        for target, value in (("forces", prediction.forces), ("stress", prediction.stress)):
            if target in self.constant and value is not None:
                made[target] = torch.full_like(value.double(), self.constant[target])
        return made

    def interval(self, target: str, std: Any, coverage: float = 0.9) -> Any:
        """Half the width of the split-conformal interval, in the units of ``std``.

        Raises:
            DataError: this target or coverage was not calibrated.
        """
        known = self.conformal.get(target, {})
        if f"{coverage:g}" not in known:
            raise DataError(
                f"No interval of coverage {coverage:g} was calibrated for {target!r}; "
                f"there are: {', '.join(f'{t} {c}' for t, row in self.conformal.items() for c in row) or 'none'}."
            )
        return known[f"{coverage:g}"] * std

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"notes": list(self.notes)}

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> Calibration:
        """The inverse of :meth:`to_json`; keys of a later version are left out.

        Raises:
            ModelFileError: a value is not a number or mapping where it should be.
        """
        known = {f.name for f in fields(cls)}
        try:
            kept = {k: v for k, v in made.items() if k in known}
            scales = {t: float(kept.get(t, 1.0)) for t in TARGETS}
            constant = {k: float(v) for k, v in kept.get("constant", {}).items()}
            return cls(**(kept | scales | {"constant": constant, "notes": tuple(kept.get("notes", ()))}))
        except (TypeError, ValueError, AttributeError) as why:
            raise ModelFileError(f"The calibration in this model file cannot be read: {why!r}.") from why

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Calibration | None:
        """The calibration that travels with a potential, or None."""
        return cls.from_json(about["calibration"]) if about.get("calibration") else None


def spread(prediction: Prediction) -> dict[str, Tensor]:
    """What a prediction says of its own width, before calibration: of members, of learned variances, or of both.

    Both together are the mean of the members' variances (noise) plus the variance of their means (what was not
    learned): Carrete et al., J. Chem. Phys. 158, 204801 (2023). Empty where it says nothing.

    Returns:
        As :meth:`Calibration.std`.
    """
    made, members, learned = {}, prediction.members, prediction.variance
    if members is not None:
        each = zip(TARGETS, (members.energy, members.forces, members.stress), strict=True)
        made = {t: v.double().std(-1) for t, v in each if v is not None}
    if learned is None:
        return made
    energy, forces = (v.detach().double() if v.dim() == 1 else v.detach().double().mean(1) for v in learned)
    made["energy"] = (made["energy"].square() + energy if "energy" in made else energy).sqrt()
    if prediction.forces is not None:
        noise = forces[:, None].expand(-1, 3)
        made["forces"] = (made["forces"].square() + noise if "forces" in made else noise).sqrt()
    return made


def scale(delta: np.ndarray, spread: np.ndarray) -> float:
    """``alpha = sqrt(mean(delta^2 / spread^2))``: the maximum of the Gaussian likelihood.

    Spreads that are rounding (:data:`SILENT`) are left out.

    Raises:
        DataError: nothing was given, or there is no spread at all.
    """
    delta, spread = _clean(delta, spread)
    if len(delta) == 0 or spread.max() <= FLOOR:
        raise DataError("A scale needs errors and spreads above zero; the members of this ensemble agree everywhere.")
    return float(np.sqrt(np.mean((delta / np.maximum(spread, FLOOR)) ** 2)))


def crps(delta: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of a Gaussian, in the units of ``delta``.

    ``sigma [z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi)]``, z = delta/sigma (Gneiting and Raftery,
    J. Am. Stat. Assoc. 102, 359, 2007, Eq. 21).
    """
    z = delta / std
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return std * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


def nll(delta: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Negative logarithm of the Gaussian likelihood."""
    return 0.5 * (delta / std) ** 2 + np.log(std) + 0.5 * math.log(2 * math.pi)


def miscalibration_area(delta: np.ndarray, std: np.ndarray) -> float:
    """Area between the observed and the expected coverage of central intervals: 0 at best, 0.5 at worst.

    The share of ``|delta|/sigma`` below the quantile of coverage p, minus p, integrated over p (Kuleshov, Fenner,
    Ermon, ICML 2018); exact, as the observed coverage is a staircase in the expected one.
    """
    expected = np.sort(2 * ndtr(np.abs(delta / std)) - 1)
    n = len(expected)
    edges = np.concatenate([[0.0], expected, [1.0]])
    low, high, step = edges[:-1], edges[1:], np.arange(n + 1) / n
    middle = np.clip(step, low, high)  # where |step - p| folds
    return float(
        (
            ((middle - low) * np.abs(step - (low + middle) / 2)) + (high - middle) * np.abs(step - (middle + high) / 2)
        ).sum()
    )


def conformal(delta: np.ndarray, std: np.ndarray, coverage: float) -> float:
    """The factor q for which ``y ± q sigma`` covers a new value with at least the stated probability.

    The ``ceil((n+1) coverage)``-th smallest score ``|delta|/sigma`` (Angelopoulos and Bates, arXiv:2107.07511, Sec.
    1.1); infinite where there are too few scores to state the coverage.
    """
    scores = np.sort(np.abs(delta / std))
    rank = math.ceil((len(scores) + 1) * coverage)
    return float("inf") if rank > len(scores) else float(scores[rank - 1])


def bins(delta: np.ndarray, std: np.ndarray, n_bins: int = 10) -> list[dict[str, Any]]:
    """Root mean square error against root mean variance in bins of equal count, by rising sigma.

    Levi, Gispan, Giladi, Fetaya, Sensors 22, 5540 (2022): the two agree in every bin of a calibrated model.
    """
    order = np.argsort(std, kind="stable")
    parts = [p for p in np.array_split(order, min(n_bins, max(1, len(order) // 5))) if len(p)]
    rms = lambda x: float(np.sqrt(np.mean(np.square(x))))  # noqa: E731
    return [{"rmv": rms(std[p]), "rmse": rms(delta[p]), "n": len(p)} for p in parts]


def statistics(delta: np.ndarray, std: np.ndarray) -> dict[str, Any]:
    """How well standard deviations describe errors.

    Args:
        delta: errors, any shape.
        std: calibrated standard deviations, the same shape and unit; those that are rounding (:data:`SILENT`) are left
            out.

    Returns:
        ``n``, of values that count; ``calibration_factor`` sqrt(mean(delta^2/sigma^2)), 1 at best; ``coverage_1``,
        ``coverage_2`` within one and two sigma (0.683 and 0.954 of a Gaussian); ``spearman`` rank correlation of
        |delta| with sigma (None where sigma is constant); ``miscalibration_area``; ``crps``, ``nll``, ``rmse``, ``rmv``
        (root mean variance) as means; ``bins``.
    """
    delta, std = _clean(delta, std)
    if len(delta) == 0:
        return {"n": 0}
    std = np.maximum(std, FLOOR)
    z = np.abs(delta / std)
    varies = len(delta) > 2 and np.ptp(std) > 1e-9 * std.max() and np.ptp(np.abs(delta)) > 0
    return {
        "n": len(delta),
        "calibration_factor": float(np.sqrt(np.mean(z**2))),
        "coverage_1": float(np.mean(z <= 1)),
        "coverage_2": float(np.mean(z <= 2)),
        "spearman": float(spearmanr(np.abs(delta), std).statistic) if varies else None,
        "miscalibration_area": miscalibration_area(delta, std),
        "crps": float(crps(delta, std).mean()),
        "nll": float(nll(delta, std).mean()),
        "rmse": float(np.sqrt(np.mean(delta**2))),
        "rmv": float(np.sqrt(np.mean(std**2))),
        "bins": bins(delta, std),
    }


def calibrate(
    errors: Mapping[str, np.ndarray], spreads: Mapping[str, np.ndarray] | None, sizes: Sequence[int]
) -> Calibration:
    """One scale a target, from held-out errors.

    Args:
        errors: of ``energy`` (eV, whole structures), ``forces`` (eV/Å, components), ``stress`` (eV/Å^3, components); a
            target without labels is left out.
        spreads: of the members, the same shapes; None without an ensemble.
        sizes: atoms of each structure that has an energy.

    Returns:
        A calibration; a target that was not calibrated takes the scale of the forces, else of the energy, and a
        note says so.

    Raises:
        DataError: there are no errors at all, or the members agree everywhere.
    """
    errors = {t: np.asarray(errors[t]).ravel() for t in TARGETS if t in errors and np.size(errors[t])}
    if not errors:
        raise DataError("Calibration needs held-out structures with energies, forces or stresses; there are none.")
    n_atoms = np.asarray(sizes, dtype=float)
    per_atom = {"energy": errors["energy"] / n_atoms} if "energy" in errors else {}
    constant = {t: float(np.sqrt(np.mean(v**2))) for t, v in (errors | per_atom).items()}
    notes = []
    if spreads is None:
        std = {t: np.full(v.shape, constant[t]) for t, v in errors.items()}
        if "energy" in std:
            std["energy"] = constant["energy"] * n_atoms
        scales: dict[str, Any] = {}
        notes.append("No ensemble: sigma is the held-out error, the same for every structure.")
    else:
        spreads = {t: np.asarray(spreads[t]).ravel() for t in errors}
        flat = [t for t, v in spreads.items() if v.max(initial=0.0) <= FLOOR]
        if len(flat) < len(spreads):  # perfect crystals have no forces, and every member knows it
            errors = {t: v for t, v in errors.items() if t not in flat}
        notes += [
            f"The members agree on all held-out {t}: these structures do not say how far off it is." for t in flat
        ]
        scales = {t: scale(errors[t], spreads[t]) for t in errors}
        std = {t: scales[t] * spreads[t] for t in errors}
        stand_in = "forces" if "forces" in scales else next(iter(scales))
        for target in TARGETS:
            if target not in scales:
                scales[target] = scales[stand_in]
                notes.append(f"No held-out {target}: its scale is that of {stand_in}.")
    return Calibration(
        kind="constant" if spreads is None else "ensemble",
        constant=constant,
        conformal={t: _conformal(errors[t], std[t]) for t in errors},
        statistics={t: statistics(errors[t], std[t]) for t in errors},
        notes=tuple(notes),
        **scales,
    )


def _conformal(delta: np.ndarray, std: np.ndarray) -> dict[str, float]:
    delta, std = _clean(delta, std)
    found = {f"{level:g}": conformal(delta, np.maximum(std, FLOOR), level) for level in LEVELS}
    return {level: q for level, q in found.items() if math.isfinite(q)}


def _clean(delta: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    delta, std = np.asarray(delta, dtype=float).ravel(), np.asarray(std, dtype=float).ravel()
    if delta.shape != std.shape:
        raise DataError(f"{delta.size} errors but {std.size} standard deviations: they must be of the same values.")
    keep = np.isfinite(delta) & np.isfinite(std)
    delta, std = delta[keep], std[keep]
    told = std >= SILENT * np.sqrt(np.mean(std**2)) if len(std) else keep[keep]
    return delta[told], std[told]
