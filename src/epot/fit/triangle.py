"""Least squares of any number of rows in the memory of one triangle, and the evidence of what it was made of."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import torch
from scipy.linalg import lapack

from ..errors import FitError
from ..typing import Tensor

FREE = 1e-6
"""Root of the precision of a bias: nearly free."""


class Triangle:
    """The triangular factor of ``[rows | targets]``, to which more rows can be added.

    LAPACK's ``tpqrt`` folds a block of rows into the factor in place: no stacked copy, no work on the zeros; 2 n M^2
    operations for n rows and M columns. Memory: the factor, ``8 M^2`` bytes, and blocks of M/2 rows on top of it.

    Args:
        prior: ``(size, size)``, upper triangular: the first rows, with targets of zero.
    """

    def __init__(self, prior: Tensor) -> None:
        self.size = len(prior)
        self.rows = 0
        self.log_weights = 0.0
        self._factor = np.asfortranarray(np.pad(prior.numpy(), (0, 1)))
        self._waiting: list[Tensor] = []
        self._waits = 0

    def add(self, rows: Tensor, targets: Tensor, log_weights: float = 0.0) -> None:
        """Rows ``(n, size)`` and targets ``(n,)``, already divided by their sigmas.

        ``log_weights`` is the sum of ``-log sigma`` over the rows: :meth:`log_likelihood` wants it.
        """
        if not bool(torch.isfinite(rows).all() and torch.isfinite(targets).all()):
            raise FitError("Rows of the linear system are not finite: look at the structures with `epot doctor data`.")
        self._waiting.append(torch.cat([rows, targets[:, None]], 1))
        self._waits += len(rows)
        self.rows += len(rows)
        self.log_weights += log_weights
        if self._waits >= max(self.size // 2, 1024):
            self._fold()

    def _fold(self) -> None:
        if not self._waits:
            return
        block = np.empty((self._waits, self.size + 1), order="F")
        np.concatenate([w.numpy() for w in self._waiting], out=block)
        self._waiting, self._waits = [], 0
        self._reduce(block, 0)

    def _reduce(self, block: np.ndarray, trapezoid: int) -> None:
        width = min(64, self.size + 1)
        self._factor, *_, info = lapack.dtpqrt(trapezoid, width, self._factor, block, overwrite_a=1, overwrite_b=1)
        if info != 0:
            raise FitError(f"LAPACK's tpqrt failed with code {info}.")

    def merge(self, other: Triangle, weight: float) -> None:
        """Add the rows of another system, times a weight: a third of the work of as many other rows."""
        self._fold()
        other._fold()
        self._reduce(np.asfortranarray(np.triu(other._factor) * weight), self.size + 1)
        self.rows += other.rows
        self.log_weights += other.log_weights + other.rows * math.log(weight)

    def factor(self) -> Tensor:
        """``R`` with ``R^T R = rows^T rows + prior``, ``(size, size)``."""
        self._fold()
        return torch.from_numpy(self._factor[: self.size, : self.size])

    def solve(self) -> Tensor:
        """The weights, ``(size,)``."""
        self._fold()
        right = torch.from_numpy(self._factor[: self.size, self.size :])
        return torch.linalg.solve_triangular(self.factor(), right, upper=True)[:, 0]

    def condition(self) -> float:
        """Ratio of the largest and smallest diagonal element of the factor: a lower bound of the condition number."""
        diagonal = self.factor().diagonal().abs()
        return float(diagonal.max() / diagonal.min().clamp(min=1e-300))

    def residual(self) -> float:
        """Root mean square of residuals over their sigmas, with the prior's: about 1 where sigmas are the errors."""
        return self._corner() / max(self.rows, 1) ** 0.5

    def _corner(self) -> float:
        self._fold()
        return abs(float(self._factor[self.size, self.size]))

    def log_likelihood(self, prior: Tensor) -> float:
        """Log of the probability of the targets, the weights integrated out (the evidence), with this prior.

        With ``Q = K P^-1 K^T`` the targets have the covariance ``Sigma + Q``, and from the same factor ``R``:
        ``y^T (Sigma + Q)^-1 y`` is the square of the corner, ``log det = 2 sum log|R_ii| - log det P + log det Sigma``
        (Quiñonero-Candela and Rasmussen, J. Mach. Learn. Res. 6, 1939 (2005), Eq. 30, by the determinant lemma).
        """
        spread = self.factor().diagonal().abs().log().sum() - prior.diagonal().abs().log().sum()
        constant = 0.5 * self.rows * math.log(2 * math.pi)
        return self.log_weights - float(spread) - 0.5 * self._corner() ** 2 - constant

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything, for a checkpoint."""
        waiting = torch.cat(self._waiting) if self._waiting else torch.zeros(0, self.size + 1, dtype=torch.float64)
        return (
            {"factor": torch.from_numpy(np.ascontiguousarray(self._factor)), "waiting": waiting},
            {"rows": self.rows, "log_weights": self.log_weights},
        )

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """The inverse of :meth:`state`.

        Raises:
            FitError: it is of a system of another size.
        """
        factor, waiting = tensors["factor"].numpy(), tensors["waiting"]
        if factor.shape != self._factor.shape:
            raise FitError(f"The checkpoint is of {len(factor) - 1} weights; this fit has {self.size}.")
        self._factor = np.asfortranarray(factor)
        self._waiting, self._waits = [waiting] if len(waiting) else [], len(waiting)
        self.rows, self.log_weights = facts["rows"], facts["log_weights"]


def prior_rows(precision: Tensor, size: int, *, bias: bool, jitter: float, ridge: float) -> Tensor:
    """``L^T`` of the prior precision ``L L^T``, with a column for the bias (nearly free) in front where there is one.

    Args:
        precision: ``(size, size)``, ``(size,)`` (diagonal) or empty.
        size: weights.
        bias: whether there is one.
        jitter: added to the diagonal, relative to its mean.
        ridge: the diagonal where there is no precision.

    Raises:
        FitError: the precision is not positive definite, even with the jitter.
    """
    precision = precision.detach().double().cpu()
    if precision.dim() == 2:
        lift = jitter * float(precision.diagonal().mean())
        lower, info = torch.linalg.cholesky_ex(precision + lift * torch.eye(size, dtype=torch.float64))
        if int(info) != 0:
            raise FitError(
                f"The kernel matrix of the {size} sparse points is singular (at point {int(info)}): some are the same, "
                f"or nearly. Raise Solve.jitter (now {jitter}; 1e-8 is common) or choose fewer sparse points."
            )
        upper = lower.T.contiguous()
    else:
        diagonal = precision if len(precision) else torch.full((size,), ridge, dtype=torch.float64)
        upper = torch.diag(diagonal.sqrt())
    if not bias:
        return upper
    return torch.block_diag(torch.full((1, 1), FREE, dtype=torch.float64), upper)


def bytes_of_memory() -> int | None:
    """Memory that is free on this machine; None where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":") for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return None


def refuse_too_large(need: float, what: str, advice: str) -> None:
    """Refuse work that cannot fit into memory, before it starts.

    Raises:
        FitError: says how much is needed, how much there is, and what to reduce.
    """
    there = bytes_of_memory()
    if there is not None and need > 0.95 * there:
        raise FitError(f"{what} need {need / 1e9:.1f} GB of memory; {there / 1e9:.1f} GB are free. {advice}")
