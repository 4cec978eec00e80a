"""Predictive variance of a sparse Gaussian process, of energies and forces of whole structures.

With k the kernels of a structure's energy with the sparse points (sums over its atoms) and k** its prior variance (sums
over all pairs of its atoms), the deterministic training conditional (Quiñonero-Candela and Rasmussen, J. Mach. Learn.
Res. 6, 1939 (2005), Eq. 20b) is

    var = k** - k^T K_MM^-1 k + k^T (K_MM + K_MN Sigma^-1 K_NM)^-1 k

Its last term, ``|R^-T k|^2`` with the factor R of the solve, is all that the spread of an ensemble knows; the first
two are what no sparse point explains, and grow to the whole prior far from the data. For forces, k is its derivative
and k** the mixed second derivative. QUIP's ``gap_variance`` is the first two terms for the energy of one atom.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from ..errors import FitError, ModelError
from ..geometry.graph import Graph
from ..models.gap import GAP
from ..potential import Potential
from ..typing import Float, Tensor
from .posterior import unexplained, variance


class GapVariance(NamedTuple):
    """Variances of a batch.

    Attributes:
        energy: eV^2, ``(structures,)``.
        forces: (eV/Å)^2 of each component, ``(atoms, 3)``; None where not asked for.
    """

    energy: Float[Tensor, " structures"]
    forces: Float[Tensor, "atoms 3"] | None = None


def gap_term(potential: Potential) -> GAP:
    """The GAP in a potential.

    Raises:
        ModelError: there is none, or more than one.
    """
    found = [m for m in potential.modules() if isinstance(m, GAP)]
    if len(found) != 1:
        raise ModelError(f"The variance of a Gaussian process is that of one GAP; this potential has {len(found)}.")
    return found[0]


def atomic_variance(potential: Potential, graph: Graph, jitter: float = 1e-10) -> Float[Tensor, " atoms"]:
    """``k(x, x) - k^T K_MM^-1 k`` of the energy of each atom, eV^2: QUIP's ``gap_variance``.

    It knows the sparse points, not the data: a distance from them.

    Args:
        potential: with one GAP, fitted.
        graph: any batch.
        jitter: added to the diagonal of ``K_MM``, relative to its mean (QUIP: the square of its regularization).

    Raises:
        ModelError: there is no GAP, or it has no sparse points.
        FitError: ``K_MM`` is singular.
    """
    gap = gap_term(potential)
    own = graph.within(gap.cutoff)
    with torch.no_grad():
        features = gap(own).features
        assert features is not None  # noqa: S101
        prior = torch.cat([_own(gap, own, k).diagonal() for k in range(own.n_structures)])
        return unexplained(features, gap.precision(), prior, jitter)


def posterior_variance(
    potential: Potential,
    graph: Graph,
    factor: Tensor,
    *,
    forces: bool = False,
    kind: Literal["dtc", "sor"] = "dtc",
    jitter: float = 1e-10,
) -> GapVariance:
    """Variance of the energies of structures, and of the forces on their atoms, given the training data.

    Args:
        potential: with one GAP, fitted.
        graph: any batch.
        factor: R of the solve (``FitState.factor``), ``(points, points)``.
        forces: those too: a second derivative for each component, so for tens of atoms rather than thousands.
        kind: ``"dtc"``, or ``"sor"`` for the last term alone (subset of regressors), as the ensembles have it: it
            vanishes far from the data.
        jitter: that of the solve.

    Raises:
        ModelError: there is no GAP, or it has no sparse points.
        FitError: the factor is of another fit, or ``K_MM`` is singular.
    """
    gap = gap_term(potential)
    own = graph.within(gap.cutoff)
    if factor.shape != (len(gap.readout.weight),) * 2:
        raise FitError(
            f"The factor is of {len(factor)} weights, the GAP has {len(gap.readout.weight)} sparse points: it is the "
            "`factor` of the state of another fit."
        )
    made = gap.design(own, forces=forces, virial=False)
    energy = variance(factor, made.energy)
    slopes = None if made.forces is None else variance(factor, made.forces)
    if kind == "dtc":
        precision = gap.precision()
        with torch.no_grad():
            prior = torch.stack([_own(gap, own, k).sum() for k in range(own.n_structures)])
        energy = energy + unexplained(made.energy, precision, prior, jitter)
        if slopes is not None and made.forces is not None:
            parts = [_prior_of_forces(gap, _only(own, k)) for k in range(own.n_structures)]
            slopes = slopes + unexplained(made.forces, precision, torch.cat(parts), jitter)
    return GapVariance(energy, None if slopes is None else slopes.view(-1, 3))


def _only(graph: Graph, index: int) -> Graph:
    """One structure of a batch."""
    atoms = (graph.owner == index).nonzero()[:, 0]
    pairs = (graph.owner[graph.pairs[0]] == index).nonzero()[:, 0]
    first = int(atoms[0]) if len(atoms) else 0
    return graph.replace(
        numbers=graph.numbers[atoms], positions=graph.positions[atoms], owner=torch.zeros_like(atoms),
        cell=graph.cell[index : index + 1], pbc=graph.pbc[index : index + 1], charge=graph.charge[index : index + 1],
        pairs=graph.pairs[:, pairs] - first, shifts=graph.shifts[pairs], _vectors=None, _made={},
    )  # fmt: skip


def _own(gap: GAP, graph: Graph, index: int) -> Tensor:
    one = _only(graph, index)
    return gap.prior_covariance(one, one)


def _prior_of_forces(gap: GAP, graph: Graph) -> Tensor:
    """``d^2 k(x, x') / dr dr'`` at x = x', its diagonal: the prior variance of each force, ``(3 atoms,)``."""
    with torch.enable_grad():
        here, there = (graph.positions.detach().clone().requires_grad_() for _ in range(2))
        total = gap.prior_covariance(graph.replace(positions=here), graph.replace(positions=there)).sum()
        if not total.requires_grad:
            return total.new_zeros(3 * graph.n_atoms)
        (slope,) = torch.autograd.grad(total, here, create_graph=True)
        found = []
        for k, one in enumerate(slope.flatten().unbind()):
            (mixed,) = torch.autograd.grad(one, there, retain_graph=True)
            found.append(mixed.flatten()[k])
    return torch.stack(found)
