"""Choosing components of descriptors. Witnesses: columns built so that the answer is known; least squares."""

import numpy as np
import torch

from epot.data.structure import Structure
from epot.features.descriptors.selected import Selected
from epot.features.descriptors.soap import Soap
from epot.fit.selection import cur_columns, farthest_columns
from epot.geometry.graph import build


def unexplained(rows, chosen):
    """Share of the squares of all columns that combinations of the chosen ones leave."""
    kept = rows[:, chosen]
    rest = rows - kept @ torch.linalg.lstsq(kept, rows, driver="gelsd").solution
    return float(rest.square().sum() / rows.square().sum())


def repeated():
    """Three independent columns, each several times, and a column of zeros."""
    base = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([3, 2, 1])
    return base[:, [0, 1, 0, 2, 1, 2, 0]].clone(), torch.zeros(50, 1, dtype=torch.float64)


def test_farthest_columns_take_each_kind_once_and_stop():
    rows = torch.cat(repeated(), 1)
    chosen = farthest_columns(rows, 8).tolist()
    kinds = [[0, 1, 0, 2, 1, 2, 0, 3][k] for k in chosen]
    assert kinds[0] == 0
    assert sorted(kinds) == [0, 1, 2, 3]


def test_cur_columns_take_what_is_left_unexplained_and_stop():
    rows = torch.cat(repeated(), 1)
    chosen = cur_columns(rows, 8)
    assert len(chosen) == 3
    assert unexplained(rows, chosen) < 1e-20
    assert unexplained(rows, chosen[:2]) > 1e-3  # control


def test_columns_of_soap():
    """A tenth of the components explain the rest far better than as many drawn at random."""
    rng = np.random.default_rng(0)
    soap = Soap((14,), 4.0, n_max=5, l_max=4)
    boxes = [Structure(np.full(8, 14), rng.uniform(0, 5.2, (8, 3)), np.eye(3) * 5.2, True) for _ in range(20)]
    rows = soap(build(boxes, soap.cutoff))
    count = soap.size // 10
    by_cur, by_distance = cur_columns(rows, count), farthest_columns(rows, count)
    assert len(set(by_cur.tolist())) == len(set(by_distance.tolist())) == count
    drawn = [unexplained(rows, torch.from_numpy(rng.permutation(soap.size)[:count])) for _ in range(5)]
    assert unexplained(rows, by_cur) < 0.5 * min(drawn)
    assert unexplained(rows, by_distance) < np.median(drawn)
    kept = Selected((14,), soap.config(), by_cur.tolist())
    torch.testing.assert_close(kept(build(boxes[0], soap.cutoff)), rows[:8, by_cur])
