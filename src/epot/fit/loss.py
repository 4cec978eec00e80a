"""What gradient descent minimizes: errors of energies per atom, forces and stress, each over its labels only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from ..geometry.graph import Graph
from ..predict import Prediction
from ..typing import Bool, Float, Tensor

Kind = Literal["mse", "huber", "norm"]


class Labels(NamedTuple):
    """What is known of the structures of a graph; zeros where a mask says that nothing is.

    Attributes:
        energy: eV, ``(structures,)``.
        forces: eV/Å, ``(atoms, 3)``.
        stress: eV/Å^3, ``(structures, 3, 3)``.
        has_energy, has_stress: ``(structures,)``.
        has_forces: ``(atoms,)``.
        any_energy, any_forces, any_stress: whether the batch has at least one, without a look at the tensors.
    """

    energy: Float[Tensor, " structures"]
    forces: Float[Tensor, "atoms 3"]
    stress: Float[Tensor, "structures 3 3"]
    has_energy: Bool[Tensor, " structures"]
    has_forces: Bool[Tensor, " atoms"]
    has_stress: Bool[Tensor, " structures"]
    any_energy: bool
    any_forces: bool
    any_stress: bool

    def to(self, device: str | torch.device) -> Labels:
        """On another device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved)

    def want(self) -> tuple[str, ...]:
        """What a potential must be asked for."""
        asked = ("energy", "forces" if self.any_forces else "", "virial" if self.any_stress else "")
        return tuple(word for word in asked if word)


class Residuals(NamedTuple):
    """Predicted minus labeled, of what is labeled only; None where nothing is.

    Attributes:
        energy: eV per atom, ``(labeled_structures,)``.
        forces: eV/Å, ``(labeled_atoms, 3)``.
        virial: eV per atom, stress times volume over number of atoms, ``(stressed_structures, 3, 3)``. It has the
            unit of the energy and, unlike the stress, does not depend on how much vacuum a cell holds.
    """

    energy: Float[Tensor, " labeled_structures"] | None
    forces: Float[Tensor, "labeled_atoms 3"] | None
    virial: Float[Tensor, "stressed_structures 3 3"] | None


def residuals(made: Prediction, labels: Labels, graph: Graph) -> Residuals:
    """Errors of a prediction, in float64, differentiable."""
    n = graph.sizes.clamp(min=1).double()
    energy = forces = virial = None
    if labels.any_energy:
        energy = ((made.energy - labels.energy) / n)[labels.has_energy]
    if labels.any_forces and made.forces is not None:
        forces = (made.forces.double() - labels.forces)[labels.has_forces]
    if labels.any_stress and made.virial is not None:
        volume = torch.linalg.det(graph.cell).abs()[:, None, None]
        virial = ((-made.virial.double() - labels.stress * volume) / n[:, None, None])[labels.has_stress]
    return Residuals(energy, forces, virial)


@dataclass(frozen=True)
class Loss:
    """``w_E <f(dE / N)> + w_F <f(dF)> + w_S <f(dS V / N)>``, each mean over what is labeled in the batch.

    All three have one unit of energy (for forces, per Å) and are divided by ``unit``, so that a loss is about 1 at the
    start for any material; the weights are plain ratios between the three.

    Args:
        energy, forces, stress: weights; 0 switches a term off.
        kind: ``"mse"``: squares; ``"huber"``: squares up to ``delta``, straight beyond; ``"norm"``: absolute values
            of energies and Euclidean norms of each atom's force vector and each virial (over 3), which do not depend
            on the orientation (GemNet, https://arxiv.org/abs/2106.08903, section 5).
        delta: of the Huber loss, in units of ``unit``.
        unit: eV (and eV/Å).
    """

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0
    kind: Kind = "norm"
    delta: float = 0.01
    unit: float = 1.0

    def __call__(self, found: Residuals, energy_factor: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss ``()`` and its weighted parts, without history.

        Args:
            found: of one batch.
            energy_factor: multiplies the weight of the energies (see :func:`epot.fit.schedule.ramp`).
        """
        weights = {"energy": self.energy * energy_factor, "forces": self.forces, "virial": self.stress}
        parts = {
            name: weights[name] * self.penalty(error / self.unit)
            for name, error in found._asdict().items()
            if error is not None and weights[name] > 0
        }
        if not parts:
            return torch.zeros((), dtype=torch.float64), {}
        total = torch.stack(list(parts.values())).sum()
        return total, {name: part.detach() for name, part in parts.items()}

    def penalty(self, error: Tensor) -> Tensor:
        """``<f(error)>``: the mean over components, or for ``"norm"`` over vectors and matrices."""
        if self.kind == "mse":
            return error.square().mean()
        if self.kind == "huber":
            return torch.nn.functional.huber_loss(error, torch.zeros_like(error), delta=self.delta)
        if error.dim() == 1:
            return error.abs().mean()
        flat = error.flatten(1)
        norms = torch.linalg.vector_norm(flat, dim=1)
        return norms.mean() if error.dim() == 2 else norms.mean() / 3.0
