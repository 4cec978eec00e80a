"""What gradient descent minimizes: errors of energies per atom, forces and stress, each over its labels only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from ..geometry.graph import Graph
from ..predict import Prediction
from ..typing import Bool, Float, Tensor

Kind = Literal["mse", "huber", "conditional_huber", "norm", "logcosh", "logcosh_norm", "nll"]
STEPS = ((100.0, 1.0), (200.0, 0.7), (300.0, 0.4), (math.inf, 0.1))
"""Of a conditional Huber loss: up to which labeled force, eV/Å, delta is multiplied by what (MACE-MP-0,
https://arxiv.org/abs/2401.00096)."""
LEAST = 1e-8
"""Of a variance in units of the errors' square: a smaller one would make the likelihood of an exact fit infinite."""

SECANT = 4.417577293966566
"""The least mean of ``ln cosh(pi |dF| / (2 s)) + ln s`` over forces whose components are Gaussian of variance 1 is at
this ``s^2``: the root of ``s = pi/2 <r tanh(pi r / (2 s))>``, r = |dF|."""


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
        forces_label: eV/Å, norms of the labeled forces, ``(labeled_atoms,)``.
        energy_variance, forces_variance: what the potential expects the squares of the first two to be, of each energy
            and of each component of a force, ``(labeled_structures,)`` and ``(labeled_atoms,)``; None where it does
            not say.
    """

    energy: Float[Tensor, " labeled_structures"] | None
    forces: Float[Tensor, "labeled_atoms 3"] | None
    virial: Float[Tensor, "stressed_structures 3 3"] | None
    energy_variance: Float[Tensor, " labeled_structures"] | None = None
    forces_variance: Float[Tensor, " labeled_atoms"] | None = None
    forces_label: Float[Tensor, " labeled_atoms"] | None = None


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
    found = Residuals(energy, forces, virial)
    if forces is not None:
        found = found._replace(forces_label=torch.linalg.vector_norm(labels.forces, dim=1)[labels.has_forces])
    if made.variance is None or made.variance.energy.dim() > 1:
        return found
    return _expected(
        found, made.variance.energy / n.square(), made.variance.forces, labels.has_energy, labels.has_forces
    )


def centered(found: Residuals, bound: Bool[Tensor, " labeled_structures"], share: float = 0.0) -> Residuals:
    """Energies less their mean over the batch, or most of it: a constant of all energies is free, or light.

    The mean square of what is left is the variance plus ``share`` times the square of the mean. Batches with fewer
    than two structures that are bound are left as they are.

    Args:
        found: residuals.
        bound: which of the structures with an energy have pairs of atoms; free atoms have no constant.
        share: of the constant's square that stays, 0 to 1.
    """
    if found.energy is None or int(bound.sum()) < 2:
        return found
    mean = found.energy[bound].mean()
    return found._replace(energy=found.energy - (1.0 - math.sqrt(share)) * mean * bound)


def member_residuals(
    made: Prediction, labels: Labels, graph: Graph, bags: Bool[Tensor, "structures members"] | None = None
) -> Residuals:
    """Errors of every member of a committee, one after the other on the first axis.

    A mean over them is the mean of the members' own losses: as no member shares a parameter with another, a descent on
    it is a descent of each by itself.

    Args:
        made: with members.
        labels: of the same structures.
        graph: of the same structures.
        bags: which structures each member is fitted to; None for all to all.
    """
    members = made.members
    assert members is not None  # it was asked for them
    n = graph.sizes.clamp(min=1).double()[:, None]
    m = members.energy.shape[1]
    each = torch.ones_like(members.energy, dtype=torch.bool) if bags is None else bags
    has_energy, has_stress = labels.has_energy[:, None] & each, labels.has_stress[:, None] & each
    has_forces = labels.has_forces[:, None] & (each if bags is None and len(each) == 1 else each[graph.owner])
    energy = forces = virial = None
    if labels.any_energy:
        energy = ((members.energy - labels.energy[:, None]) / n)[has_energy]
    if labels.any_forces and members.forces is not None:
        forces = (members.forces.double().movedim(-1, 1) - labels.forces[:, None])[has_forces]
    if labels.any_stress and members.virial is not None:
        pull = labels.stress * torch.linalg.det(graph.cell).abs()[:, None, None]
        virial = ((-members.virial.double().movedim(-1, 1) - pull[:, None]) / n[..., None, None])[has_stress]
    found = Residuals(energy, forces, virial)
    if forces is not None:
        norms = torch.linalg.vector_norm(labels.forces, dim=1)
        found = found._replace(forces_label=norms[:, None].expand_as(has_forces)[has_forces])
    if made.variance is None:
        return found
    expected = made.variance.energy.expand(-1, m) if made.variance.energy.dim() == 2 else made.variance.energy[:, None]
    of_forces = made.variance.forces if made.variance.forces.dim() == 2 else made.variance.forces[:, None]
    return _expected(
        found, expected.expand_as(has_energy) / n.square(), of_forces.expand_as(has_forces), has_energy, has_forces
    )


def _expected(found: Residuals, energy: Tensor, forces: Tensor, has_energy: Tensor, has_forces: Tensor) -> Residuals:
    return found._replace(
        energy_variance=None if found.energy is None else energy[has_energy],
        forces_variance=None if found.forces is None else forces[has_forces],
    )


@dataclass(frozen=True)
class Loss:
    """``w_E <f(dE / N)> + w_F <f(dF)> + w_S <f(dS V / N)>``, each mean over what is labeled in the batch.

    All three have one unit of energy (for forces, per Å) and are divided by ``unit``, so that a loss is about 1 at the
    start for any material; the weights are plain ratios between the three.

    Args:
        energy, forces, stress: weights; 0 switches a term off.
        kind: ``"mse"``: squares; ``"huber"``: squares up to ``delta``, straight beyond; ``"conditional_huber"``: the
            same, with a smaller delta where a labeled force is above 100 eV/Å (:data:`STEPS`); ``"norm"``: absolute
            values of energies and Euclidean norms of each atom's force vector and each virial (over 3), which do not
            depend on the orientation (GemNet, https://arxiv.org/abs/2106.08903, section 5); ``"logcosh"``:
            ``d ln cosh(x / d)``, d = ``delta``, a smooth Huber loss (NeuralIL, doi:10.1021/acs.jcim.1c01380: forces
            alone, d = 0.1 eV/Å); ``"logcosh_norm"``: the same of norms; ``"nll"``: see :meth:`likelihood`.
        delta: of the Huber loss and of the logarithms, in units of ``unit``.
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
        if self.kind == "nll":
            parts = {k: weights[k] * v for k, v in self.likelihood(found).items() if weights[k] > 0}
        else:
            parts = {
                name: weights[name] * self.penalty(error / self.unit, found.forces_label if name == "forces" else None)
                for name, error in zip(weights, found[:3], strict=True)
                if error is not None and weights[name] > 0
            }
        if not parts:
            return torch.zeros((), dtype=torch.float64), {}
        total = torch.stack(list(parts.values())).sum()
        return total, {name: part.detach() for name, part in parts.items()}

    def penalty(self, error: Tensor, label: Float[Tensor, " atoms"] | None = None) -> Tensor:
        """``<f(error)>``: the mean over components, or for ``"norm"`` over vectors and matrices.

        Args:
            error: in units of ``unit``.
            label: of forces, the norms that they should have, eV/Å; ``"conditional_huber"`` looks at them.
        """
        if self.kind == "mse":
            return error.square().mean()
        if self.kind == "conditional_huber" and label is not None:
            delta = (self.delta * conditional(label)).unsqueeze(-1)
            size = error.abs()
            return torch.where(size < delta, 0.5 * error.square(), delta * (size - 0.5 * delta)).mean()
        if self.kind in ("huber", "conditional_huber"):
            return torch.nn.functional.huber_loss(error, torch.zeros_like(error), delta=self.delta)
        if self.kind == "logcosh":
            return self.delta * log_cosh(error / self.delta).mean()
        if error.dim() == 1:
            return self._round(error.abs()).mean()
        flat = error.flatten(1)
        norms = self._round(torch.linalg.vector_norm(flat, dim=1))
        return norms.mean() if error.dim() == 2 else norms.mean() / 3.0

    def _round(self, norms: Tensor) -> Tensor:
        return self.delta * log_cosh(norms / self.delta) if self.kind == "logcosh_norm" else norms

    def likelihood(self, found: Residuals) -> dict[str, Tensor]:
        """Negative logarithms of the likelihood of errors whose variances the potential gives, without constants.

        Gaussian energies and the forces' norms by a hyperbolic secant, each as a mean (Carrete et al., J. Chem. Phys.
        158, 204801 (2023), doi:10.1063/5.0146905):

            1/2 (dE^2 / s_E^2 + ln s_E^2),     ln cosh(pi |dF| / (2 s_F)) + ln s_F,     s_F^2 = 4.418 forces_variance

        with the factor (:data:`SECANT`) that makes the variance that of a component where errors are Gaussian.

        The paper multiplies ``s_F`` in the first term by 0.1, so that what it learns is tenfold the error; here it is
        the error. Virials have no variance: they are penalized as by ``"norm"``.
        """
        parts = {}
        square = self.unit**2
        if found.energy is not None and found.energy_variance is not None:
            v = (found.energy_variance / square).clamp(min=LEAST)
            parts["energy"] = 0.5 * ((found.energy / self.unit).square() / v + v.log()).mean()
        if found.forces is not None and found.forces_variance is not None:
            s = (SECANT * found.forces_variance / square).clamp(min=LEAST).sqrt()
            norms = torch.linalg.vector_norm(found.forces / self.unit, dim=1)
            parts["forces"] = (log_cosh(norms * (0.5 * torch.pi) / s) + s.log()).mean()
        if found.virial is not None:
            parts["virial"] = torch.linalg.vector_norm(found.virial.flatten(1) / self.unit, dim=1).mean() / 3.0
        return parts


def conditional(norms: Float[Tensor, " atoms"]) -> Float[Tensor, " atoms"]:
    """Factors of delta for forces of these norms (eV/Å): :data:`STEPS`."""
    table = torch.tensor(STEPS, dtype=norms.dtype, device=norms.device)
    step = torch.bucketize(norms, table[:, 0].contiguous(), right=True).clamp(max=len(STEPS) - 1)
    return table[:, 1].index_select(0, step)


def log_cosh(x: Tensor) -> Tensor:
    """``ln cosh x`` without overflow: ``softplus(2 x) - x - ln 2``."""
    return torch.nn.functional.softplus(2 * x) - x - math.log(2)
