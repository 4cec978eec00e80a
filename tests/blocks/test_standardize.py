"""Standardization. Witness: numpy's mean and standard deviation."""

import torch

from epot.blocks.standardize import Standardize


def test_mean_zero_and_spread_one():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 4, dtype=torch.float64, generator=generator) * torch.tensor([1.0, 1e-3, 50.0, 2.0]) + 3.0
    species = torch.arange(500) % 2
    block = Standardize(2, 4)
    assert torch.equal(block(x, species), x)  # nothing before it was fitted
    rows = [x[species == k] for k in (0, 1)]
    block.set(torch.stack([r.mean(0) for r in rows]), torch.stack([r.std(0, correction=0) for r in rows]))
    for k in (0, 1):
        own = block(x, species)[species == k].numpy()
        assert abs(own.mean(0)).max() < 1e-12
        assert abs(own.std(0) - 1).max() < 1e-12
    assert abs(block(x, 1 - species)[species == 0].mean(0)).max() > 1e-3


def test_constant_components_are_left_alone():
    """Zero everywhere, constant but for rounding, and far below all others: no noise is blown up."""
    block = Standardize(1, 4)
    block.set(torch.tensor([[0.0, 7.0, 1.0, 1e-9]]).double(), torch.tensor([[0.0, 1e-13, 0.5, 1e-9]]).double())
    assert block.scale.tolist() == [[1.0, 1.0, 0.5, 1.0]]
    x = torch.tensor([[0.0, 7.0, 2.0, 0.0]]).double()
    torch.testing.assert_close(block(x, torch.zeros(1, dtype=torch.int64)), torch.tensor([[0.0, 0, 2, 0]]).double())


def test_statistics_are_kept_in_the_state():
    assert set(Standardize(2, 3).state_dict()) == {"mean", "scale"}
    assert (
        Standardize(2, 3).float()(torch.ones(1, 3).double(), torch.zeros(1, dtype=torch.int64)).dtype == torch.float32
    )


def test_least_scale():
    """Rare components stay small: no scale below a share of the largest; nothing is divided by zero."""
    deviation = torch.tensor([[2.0, 0.1, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]).double()
    block = Standardize(2, 4, least=0.25)
    block.set(torch.zeros(2, 4).double(), deviation)
    assert block.scale.tolist() == [[2.0, 0.5, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0]]


def test_rounding_is_no_spread():
    """All environments alike (a perfect crystal): nothing is blown up, with a least scale either."""
    for least in (0.0, 0.1):
        block = Standardize(1, 3, least=least)
        block.set(torch.tensor([[1.7, 0.0, -0.3]]), torch.full((1, 3), 5e-9))
        assert torch.equal(block.scale, torch.ones(1, 3, dtype=torch.float64))
