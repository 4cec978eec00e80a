"""Energies of a sparse Gaussian process in one pass. Witness: autograd through kernels that are made in full."""

import pytest
import torch

from epot.blocks import sparse_energy as module
from epot.blocks.sparse_energy import Group, sparse_energy


@pytest.mark.parametrize("zeta", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("numbers", [2**18, 200], ids=["one block", "many blocks"])
def test_energies_and_slopes(zeta, numbers, monkeypatch):
    monkeypatch.setattr(module, "NUMBERS", numbers)
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=random)  # noqa: E731
    spectra, species = draw(40, 6) / 3, torch.randint(4, (40,), generator=random)
    groups = [Group(k, draw(n, 6) / 3, draw(n)) for k, n in ((0, 50), (2, 30), (3, 1), (9, 5))]  # of 1 there is none
    found, expected = [], torch.zeros(40, dtype=torch.float64)
    leaf = spectra.clone().requires_grad_()
    for group in groups:
        same = (species == group.species).double()
        expected = expected + same * (1.7 * (leaf @ group.points.T) ** zeta @ group.weights)
    found.append((expected.detach(), *torch.autograd.grad((expected * species).sum(), leaf)))
    energy = sparse_energy(leaf, species, groups, zeta, 1.7)
    found.append((energy.detach(), *torch.autograd.grad((energy * species).sum(), leaf)))
    for ours, witness in zip(*reversed(found), strict=True):
        torch.testing.assert_close(ours, witness, rtol=1e-12, atol=1e-13)
    assert found[0][0].abs().max() > 1e-3
    assert (found[1][0][species == 1] == 0).all()
    alone = sparse_energy(leaf, None, groups[:1], zeta, 1.7)
    torch.testing.assert_close(alone, 1.7 * (leaf @ groups[0].points.T) ** zeta @ groups[0].weights)
