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
