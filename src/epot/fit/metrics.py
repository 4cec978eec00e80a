"""Errors of a potential on labeled structures: root mean squares and mean absolute values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from ..potential import Potential
from ..predict import predict
from ..typing import Tensor
from .batches import Sample
from .loss import residuals

NAMES = ("energy", "forces", "stress", "virial")


class Errors:
    """Sums of squared and absolute errors over batches.

    Energies are per atom (eV), forces per component (eV/Å), stress per component (eV/Å^3), virial per component and
    atom (eV). Each structure counts once for energies and stress, each component once for forces.
    """

    def __init__(self) -> None:
        self.count = dict.fromkeys(NAMES, 0)
        self.squares = dict.fromkeys(NAMES, 0.0)
        self.absolutes = dict.fromkeys(NAMES, 0.0)

    def add(self, name: str, error: Tensor | None) -> None:
        """Take in errors of one kind."""
        if error is None:
            return
        error = error.detach()
        self.count[name] += error.numel()
        self.squares[name] += float(error.square().sum())
        self.absolutes[name] += float(error.abs().sum())

    def result(self) -> dict[str, float]:
        """``{"energy_rmse": ..., "energy_mae": ..., ...}`` of what was labeled."""
        found = {}
        for name, n in self.count.items():
            if n:
                found[f"{name}_rmse"] = math.sqrt(self.squares[name] / n)
                found[f"{name}_mae"] = self.absolutes[name] / n
        return found


def evaluate(
    potential: Potential, batches: Iterable[Sample], device: str = "cpu", centered: bool = False
) -> dict[str, float]:
    """Errors of a potential: see :class:`Errors`.

    Args:
        potential: any.
        batches: of labeled graphs.
        device: where they go.
        centered: leave the mean error of the energies per atom out, and say what it was (``energy_mean``).
    """
    errors, energies = Errors(), []
    for graph, labels in batches:
        graph, labels = graph.to(device) if device != "cpu" else graph, labels.to(device)
        made = predict(potential, graph, labels.want(), finite=False)  # errors without number: a fit that diverges
        found = residuals(made, labels, graph)
        if found.energy is not None:
            energies.append(found.energy.detach())
        errors.add("forces", found.forces)
        errors.add("virial", found.virial)
        if found.virial is not None:
            density = graph.sizes.double() / torch.linalg.det(graph.cell).abs().clamp(min=1e-30)
            errors.add("stress", found.virial * density[labels.has_stress][:, None, None])
    if not energies:
        return errors.result()
    every = torch.cat(energies)
    mean = float(every.mean()) if centered and len(every) else 0.0
    errors.add("energy", every - mean)
    return errors.result() | ({"energy_mean": mean} if centered else {})


def score(errors: Mapping[str, float], scales: Mapping[str, float]) -> float:
    """One number to choose by: the mean over energy, forces and virial of RMSE over the spread of the labels.

    Args:
        errors: of :func:`evaluate`.
        scales: spread of the training labels (see :func:`epot.fit.stages.offsets.spreads`).
    """
    shares = [errors[f"{k}_rmse"] / v for k, v in scales.items() if f"{k}_rmse" in errors and v > 0]
    return sum(shares) / len(shares) if shares else math.inf
