"""Choosing a few rows of many: farthest points and CUR."""

from __future__ import annotations

import torch

from ..typing import Float, Int, Tensor

SAME = 1e-10
"""Rows of unit length whose squared distance is below this are duplicates."""


def farthest_points(rows: Float[Tensor, "points size"], count: int, start: int = 0) -> Int[Tensor, " chosen"]:
    """Farthest-point sampling: each new row is the one farthest from all chosen so far.

    Gonzalez, Theor. Comput. Sci. 38, 293 (1985). Stops early where only duplicates are left.

    Args:
        rows: any vectors.
        count: how many.
        start: the first.
    """
    squares = rows.square().sum(1)
    gram = rows @ rows.T if len(rows) <= 8192 else None
    nearest = torch.full_like(squares, float("inf"))
    chosen = [start]
    while len(chosen) < min(count, len(rows)):
        last = chosen[-1]
        dots = gram[last] if gram is not None else rows @ rows[last]
        nearest = torch.minimum(nearest, squares + squares[last] - 2 * dots)
        nearest[last] = -1
        following = int(nearest.argmax())
        if float(nearest[following]) < SAME * max(float(squares.max()), 1e-300):
            break
        chosen.append(following)
    return torch.tensor(chosen)


def cur(rows: Float[Tensor, "points size"], count: int, seed: int = 0) -> Int[Tensor, " chosen"]:
    """CUR: rows drawn, without repetition, with probabilities that are their leverage scores of rank ``count``.

    Mahoney and Drineas, Proc. Natl. Acad. Sci. 106, 697 (2009), Eq. 3. The leading left singular vectors come
    from a randomized range finder with one power iteration (Halko, Martinsson, Tropp, SIAM Rev. 53, 217 (2011)).

    Args:
        rows: any vectors.
        count: how many.
        seed: of the sketch and of the draw.
    """
    random = torch.Generator().manual_seed(seed)
    rank = min(count, *rows.shape)
    width = min(rank + 10, *rows.shape)
    sketch = rows @ torch.randn(rows.shape[1], width, generator=random, dtype=rows.dtype)
    basis = torch.linalg.qr(sketch).Q
    basis = torch.linalg.qr(rows @ (rows.T @ basis)).Q
    left = basis @ torch.linalg.svd(basis.T @ rows, full_matrices=False).U[:, :rank]
    leverage = left.square().sum(1).clamp(min=1e-30)
    noise = torch.rand(len(rows), generator=random, dtype=rows.dtype).clamp(min=1e-300)
    keys = leverage.log() - (-noise.log()).log()  # Gumbel's trick: the largest keys are draws without repetition
    return different(rows, keys.argsort(descending=True), count)


def different(rows: Tensor, order: Tensor, count: int) -> Int[Tensor, " chosen"]:
    """The first ``count`` rows in this order that are no duplicates of earlier ones."""
    chosen, position = order[:0], 0
    while len(chosen) < count and position < len(order):
        more = order[position : position + count - len(chosen)]
        position += len(more)
        chosen = torch.cat([chosen, more])
        picked = rows[chosen]
        squares = picked.square().sum(1)
        apart = squares[:, None] + squares - 2 * (picked @ picked.T)
        twins = torch.tril(apart < SAME * squares.max(), diagonal=-1).any(1)
        chosen = chosen[~twins]
    return chosen


def farthest_columns(rows: Float[Tensor, "points size"], count: int) -> Int[Tensor, " chosen"]:
    """Components of descriptors by farthest-point sampling: each the one least like all chosen before.

    Imbalzano, Anelli, Giofre, Klees, Behler, Ceriotti, J. Chem. Phys. 148, 241730 (2018), section II.C: columns are
    compared after their means are taken off. The first is the one that varies most; fewer come back where the rest
    only repeat others.

    Args:
        rows: descriptors of many environments, in units in which they may be compared.
        count: how many.
    """
    columns = (rows - rows.mean(0)).T
    return farthest_points(columns, count, start=int(columns.square().sum(1).argmax()))


def cur_columns(rows: Float[Tensor, "points size"], count: int) -> Int[Tensor, " chosen"]:
    """Components of descriptors by CUR: each the one with the most weight in what the chosen ones leave unexplained.

    Imbalzano et al. 2018, section II.B: the component largest in the leading right singular vector is taken and all
    others made orthogonal to it, again and again; nothing is random. Works on the Gram matrix of the columns, of which
    that step is a Schur complement. Fewer come back where nothing is left.

    Args:
        rows: descriptors of many environments, in units in which they may be compared.
        count: how many.
    """
    gram = rows.double().T @ rows.double()
    total = float(gram.diagonal().sum())
    chosen: list[int] = []
    vector = gram.sum(1)
    while len(chosen) < min(count, len(gram)) and float(gram.diagonal().sum()) > 1e-12 * total:
        for _ in range(24):  # power iteration, from the last one's result
            vector = gram @ (vector / vector.norm().clamp(min=1e-300))
        if not float(vector.norm()) > 0:
            vector = gram[:, int(gram.diagonal().argmax())]
        weights = vector.square()
        weights[chosen] = -1
        best = int(weights.argmax())
        if not float(gram[best, best]) > 0:
            break
        column = gram[:, best].clone()
        gram = gram - column[:, None] * (column / column[best])
        chosen.append(best)
        gram[chosen, :] = 0
        gram[:, chosen] = 0
        vector = gram.sum(1)
    return torch.tensor(chosen, dtype=torch.int64)
