"""One Gaussian posterior of the weights of a linear readout: of a kernel model and of a network's last layer.

With weighted rows X of the training set (energies; forces and virials too), noise Sigma and prior precision Lambda,

    w ~ N(w_fit, A^-1),    A = X^T Sigma^-1 X + Lambda = R^T R,

which for a sparse Gaussian process (Lambda = K_MM) is the subset-of-regressors posterior, and for a network the
last-layer prediction rigidity (Bigi, Chong, Ceriotti, Grasselli, Mach. Learn.: Sci. Technol. 5, 045018, 2024, Eq. 15).
Members of an ensemble are samples ``w_fit + R^-1 z`` (Sec. 2.4 there), so their spread can be had of whatever
can be computed from a member. The width is right up to one factor, which held-out errors set
(:mod:`epot.uncertainty.calibration`).

What the spread leaves out: the bias and all that the features do not see. For a kernel model it shrinks to
zero far from the data, where the kernels vanish; what is missing there is the part of the prior that the sparse
points cannot express, :func:`unexplained` (the extra term of the deterministic training conditional,
Quiñonero-Candela and Rasmussen, J. Mach. Learn. Res. 6, 1939, 2005, Eq. 20b).
"""

from __future__ import annotations

import math

import torch

from ..blocks.readout import prior_precision
from ..errors import FitError
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..predict import predict
from ..typing import Float, Tensor

SINGLE = 1e-11
"""Smallest eigenvalue of A over its trace where features are float32: below, a member shows their rounding."""


def sample(factor: Tensor, members: int, generator: torch.Generator) -> Float[Tensor, "features members"]:
    """Deviations ``R^-1 z`` of ensemble members, of mean zero; their sample covariance is unbiased.

    Args:
        factor: upper triangular R, ``(features, features)``, float64.
        members: at least two.
        generator: of the random numbers, on the CPU.

    Raises:
        FitError: the factor is singular.
    """
    z = torch.randn(len(factor), members, generator=generator, dtype=torch.float64)
    z = z - z.mean(1, keepdim=True)
    drawn = torch.linalg.solve_triangular(factor.double().cpu(), z, upper=True)
    if not bool(torch.isfinite(drawn).all()):
        raise FitError("The posterior of the weights is singular: raise the prior (Posterior.prior, Solve.jitter).")
    return drawn


def variance(factor: Tensor, rows: Float[Tensor, "rows features"]) -> Float[Tensor, " rows"]:
    """``x^T A^-1 x = |R^-T x|^2`` of each row: what the spread of infinitely many members would give."""
    found = torch.linalg.solve_triangular(factor.double().T, rows.double().T, upper=False)
    return found.square().sum(0)


def combine(parts: list[Tensor]) -> Tensor:
    """The triangular factor of stacked rows (or factors): their ``R^T R`` is the sum of the parts'."""
    return torch.linalg.qr(torch.cat(parts), mode="r").R


def evidence(factor: Tensor, weights: Tensor, *, single: bool = False) -> float:
    """Precision of a Gaussian prior on the weights that makes the data most likely.

    ``lambda = gamma / |w|^2`` with ``gamma = sum s^2/(s^2 + lambda)`` over the singular values s of R, the number of
    weights that the data determine, to self-consistency (MacKay, Neural Comput. 4, 415, 1992, Eq. 4.9). Never
    below what makes A safely positive definite (the rule of Bigi et al. 2024, Sec. 3.1).

    Args:
        factor: R of the data alone, rows over their sigmas.
        weights: the fitted ones, in whose units the rows are.
        single: whether features are computed in float32.
    """
    squares = torch.linalg.svdvals(factor.double()).square()
    floor = float(squares.sum()) * (SINGLE if single else 1e-15)
    norm = float(weights.double().square().sum())
    found = max(floor, 1e-300)
    for _ in range(100):
        gamma = float((squares / (squares + found)).sum())
        new = max(gamma / max(norm, 1e-300), floor)
        if abs(math.log(new / found)) < 1e-6:
            break
        found = new
    return found


class Rows:
    """Rows of energies, forces and virials of any potential with a linear readout, few of the many forces.

    All 3N force rows of a structure are too many to make by gradients of each feature. A random direction u in the
    space of its atoms' displacements gives one row ``u^T J`` by differentiating twice, and ``k`` of them, over
    ``sqrt(k)``, have the ``J^T J`` of all rows as their mean: what a posterior needs (a sketch; Halko, Martinsson,
    Tropp, SIAM Rev. 53, 217, 2011). With at least 3N directions all rows are made, exactly.

    Args:
        potential: with one linear readout, whose features its output holds.
        n_features: of the readout.
        directions: random directions a structure, for forces; a quarter as many for virials.
        generator: of the random numbers, on the CPU.
    """

    def __init__(self, potential: Potential, n_features: int, directions: int, generator: torch.Generator) -> None:
        self.probe = _Probe(potential)
        self.n_features, self.directions, self.generator = n_features, directions, generator

    def make(
        self, graph: Graph, *, forces: Tensor | None = None, virial: Tensor | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Rows, and the sums of labels (or errors) that belong to them.

        Args:
            graph: a batch.
            forces: ``(atoms, 3)``, what force rows are paired with; not a number where there is none. None for no
                force rows.
            virial: ``(structures, 3, 3)``, the same for virials.

        Returns:
            ``"energy"``: rows ``(structures, features)`` with an empty tensor; ``"forces"``: rows ``(directions *
            structures, features)`` and values; ``"virial"`` likewise, over the root of the number of atoms.
        """
        self.probe.weights = torch.zeros(graph.n_structures, self.n_features, dtype=torch.float64, requires_grad=True)
        self.probe.weights = self.probe.weights.to(graph.positions.device).detach().requires_grad_()
        if forces is None and virial is None:
            rows = predict(self.probe, graph, ("energy",)).features
            assert rows is not None  # noqa: S101
            return {"energy": (_sums(graph, rows), rows.new_zeros(0))}
        found = predict(self.probe, graph, ("forces", "virial"), create_graph=True)
        assert found.features is not None  # noqa: S101
        made = {"energy": (_sums(graph, found.features.detach()), graph.positions.new_zeros(0))}
        for name, derived, labels in (("forces", found.forces, forces), ("virial", found.virial, virial)):
            if derived is not None and labels is not None:
                made[name] = self._sketch(graph, derived, labels.to(derived), per_atom=name == "forces")
        return made

    def _sketch(self, graph: Graph, derived: Tensor, labels: Tensor, per_atom: bool) -> tuple[Tensor, Tensor]:
        known = torch.isfinite(labels)
        values = torch.where(known, labels, 0.0)
        owner = graph.owner if per_atom else torch.arange(graph.n_structures, device=graph.owner.device)
        rows, sums = [], []
        for u in self._directions(graph, labels, per_atom):
            u = torch.where(known, u, 0.0)
            u = u if per_atom else u / graph.sizes.double().clamp(min=1).sqrt()[:, None, None]
            if derived.requires_grad:
                row = torch.autograd.grad((derived * u).sum(), self.probe.weights, retain_graph=True)[0]
            else:
                row = torch.zeros_like(self.probe.weights)
            each = (values * u).flatten(1).sum(1)
            rows.append(row.detach())
            sums.append(each.new_zeros(graph.n_structures).index_add(0, owner, each))
        keep = torch.stack([r.abs().sum(1) + s.abs() for r, s in zip(rows, sums, strict=True)]).flatten() > 0
        return torch.cat(rows)[keep], torch.cat(sums)[keep]

    def _directions(self, graph: Graph, labels: Tensor, per_atom: bool) -> list[Tensor]:
        """Random ones over the root of their number; or all unit vectors, of all structures at once."""
        components = 3 * int(graph.sizes.max()) if per_atom else 9
        count = self.directions if per_atom else max(1, self.directions // 4)
        if count < components:
            drawn = torch.randn(count, *labels.shape, generator=self.generator, dtype=torch.float64)
            return list((drawn / count**0.5).to(labels))
        units = []
        first = (graph.sizes.cumsum(0) - graph.sizes)[graph.owner]
        place = torch.arange(graph.n_atoms, device=graph.owner.device) - first
        for k in range(components):
            unit = torch.zeros_like(labels)
            if per_atom:
                unit[place == k // 3, k % 3] = 1.0
            else:
                unit[:, k // 3, k % 3] = 1.0
            units.append(unit)
        return units


class _Probe(Potential):
    """``E_s = sum_i x_i . v_s``: a potential whose energy is linear in weights of its own for each structure."""

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.inner, self.cutoff, self.elements = inner, inner.cutoff, inner.elements
        self.weights = torch.zeros(0, 0)

    def forward(self, graph: Graph) -> Output:
        """Energies linear in the weights, with the features that they multiply.

        Raises:
            FitError: the potential has no linear readout.
        """
        features = self.inner(graph).features
        if features is None:
            raise FitError(
                f"{type(self.inner).__name__} gives no features: it has no linear readout to have a posterior of."
            )
        features = features.double()
        return Output((features * self.weights[graph.owner]).sum(1), features=features)


def _sums(graph: Graph, features: Tensor) -> Tensor:
    return features.new_zeros(graph.n_structures, features.shape[1]).index_add(0, graph.owner, features)


def unexplained(features: Tensor, precision: Tensor, prior: Tensor | float, jitter: float = 1e-10) -> Tensor:
    """``k(x, x) - k^T K_MM^-1 k``: the prior variance that sparse points cannot express (QUIP's ``gap_variance``).

    Zero at a sparse point, the whole prior far from all of them; the spread of an ensemble does not hold it.

    Args:
        features: kernels with the sparse points: of atoms ``(atoms, points)``, or summed over those of a
            structure, with ``prior`` summed over all pairs of its atoms.
        precision: ``K_MM``.
        prior: ``k(x, x)``, eV^2: ``delta^2`` for an atom of a GAP.
        jitter: added to the diagonal of ``K_MM``, relative to its mean.

    Raises:
        FitError: ``K_MM`` is not positive definite even so.
    """
    lift = jitter * float(precision.diagonal().mean())
    lower, info = torch.linalg.cholesky_ex(
        precision.double() + lift * torch.eye(len(precision), dtype=torch.float64, device=precision.device)
    )
    if int(info) != 0:
        raise FitError(
            f"The kernel matrix of {len(precision)} sparse points is singular: raise the jitter (now {jitter})."
        )
    explained = torch.linalg.solve_triangular(lower, features.double().T, upper=False).square().sum(0)
    return (prior - explained).clamp(min=0.0)


def novelty(potential: Potential, graph: Graph) -> Float[Tensor, " atoms"] | None:
    """Share of the prior variance of each atom that no sparse point explains: 0 at a sparse point, 1 far from all.

    Of potentials whose readout has a kernel matrix as the precision of its prior and kernels as features (a GAP); the
    prior variance of an atom is the largest diagonal element of that matrix. None for all others.
    """
    precision = prior_precision(potential)
    if precision.dim() != 2 or not len(precision):
        return None
    with torch.no_grad():
        features = potential(graph).features
    if features is None:
        return None
    prior = float(precision.diagonal().max())
    return unexplained(features, precision, prior) / prior
