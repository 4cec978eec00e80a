"""Couplings of features. Witnesses: mace-torch 0.3.16 (original and reduced), brute-force permutations, rotations."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from epot.blocks.coupling import coupling_paths, coupling_polynomials, path_transfer, symmetric_couplings
from epot.blocks.equivariant import wigner_d
from epot.blocks.monomials import monomials
from epot.errors import ConfigError

KEPT = np.load(Path(__file__).parents[1] / "data_files" / "mace_algebra.npz")
CASES = sorted(name for name in KEPT.files if name.startswith("U/"))


def summed(table):
    while table.ndim > 1:
        table = np.tensordot(np.cos(np.arange(1, len(table) + 1) * (table.ndim + 0.3)), table, 1)
    return table


@pytest.mark.parametrize("name", CASES)
def test_couplings_are_those_of_mace_path_by_path(name):
    l_max, l_out, order, reduced = map(int, name.split("/")[1:])
    made = summed(symmetric_couplings(l_max, l_out, order, bool(reduced)).numpy())
    assert made.shape == KEPT[name].shape
    np.testing.assert_allclose(made, KEPT[name], atol=1e-11)


@pytest.mark.parametrize(("l_max", "l_out", "order"), [(3, 0, 3), (3, 1, 3), (2, 2, 4), (2, 1, 2)])
def test_reduced_couplings_span_what_all_paths_span(l_max, l_out, order):
    whole = coupling_polynomials(l_max, l_out, order).flatten(0, 1)
    reduced = coupling_polynomials(l_max, l_out, order, True).flatten(0, 1)
    rank = torch.linalg.matrix_rank(whole)
    assert reduced.shape[1] == rank == torch.linalg.matrix_rank(torch.cat([whole, reduced], 1))
    assert whole.shape[1] > reduced.shape[1] or order < 3


@pytest.mark.parametrize(("l_max", "l_out", "order"), [(2, 1, 3), (1, 2, 4), (3, 0, 3), (2, 0, 2), (1, 3, 2)])
def test_polynomials_are_sums_over_permutations(l_max, l_out, order):
    tensor, made = symmetric_couplings(l_max, l_out, order), coupling_polynomials(l_max, l_out, order)
    for i, parts in enumerate(monomials((l_max + 1) ** 2, order).parts.tolist()):
        expected = sum(tensor[(slice(None), *p)] for p in set(permutations(parts)))
        torch.testing.assert_close(made[:, i], expected, atol=1e-12, rtol=0)


def test_couplings_turn_with_their_features():
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)))[0]
    turn = torch.block_diag(*(wigner_d(n, rotation) for n in range(3)))
    for l_out in (0, 1, 2):
        tensor = symmetric_couplings(2, l_out, 3)
        turned = torch.einsum("oabcp,ai,bj,ck->oijkp", tensor, turn, turn, turn)
        expected = torch.einsum("oi,iabcp->oabcp", wigner_d(l_out, rotation), tensor)
        torch.testing.assert_close(turned, expected, atol=1e-10, rtol=0)
        assert l_out == 0 or not torch.allclose(turned, tensor, atol=1e-2)


def test_order_four_is_made_without_its_tensor():
    made, reduced = coupling_polynomials(3, 1, 4), coupling_polynomials(3, 1, 4, True)
    assert (made.shape, reduced.shape) == ((3, 3876, 284), (3, 3876, 31))
    assert torch.linalg.matrix_rank(made.flatten(0, 1)) == 31


def test_what_does_not_couple_is_one_path_of_zeros():
    assert not symmetric_couplings(1, 2, 1).any()
    assert symmetric_couplings(1, 2, 1).shape == (5, 4, 1)


def test_orders_outside_the_range():
    with pytest.raises(ConfigError, match="order 5"):
        coupling_paths(2, 0, 5)


@pytest.mark.parametrize(("l_out", "reduced"), [(0, False), (0, True), (1, False), (1, True)])
def test_weights_of_other_paths_are_translated(l_out, reduced):
    generator = torch.Generator().manual_seed(0)
    for stored_reduced in (False, True):
        stored = symmetric_couplings(2, l_out, 3, stored_reduced)
        stored = stored @ torch.randn(stored.shape[-1], stored.shape[-1], dtype=torch.float64, generator=generator)
        weights = torch.randn(stored.shape[-1], 2, dtype=torch.float64, generator=generator)
        found = path_transfer(stored[0] if l_out == 0 else stored, 2, l_out, 3, reduced) @ weights
        a = torch.randn(9, dtype=torch.float64, generator=generator)
        values = [torch.einsum("oijkp,i,j,k,pc->oc", u, a, a, a, w)
                  for u, w in ((stored, weights), (symmetric_couplings(2, l_out, 3, reduced), found))]  # fmt: skip
        torch.testing.assert_close(values[1], values[0], atol=1e-9, rtol=1e-9)
    same = path_transfer(symmetric_couplings(2, l_out, 3, reduced).float(), 2, l_out, 3, reduced)
    assert torch.equal(same, torch.eye(len(same), dtype=torch.float64))


def test_what_is_no_coupling_is_refused():
    with pytest.raises(ConfigError, match="differ by"):
        path_transfer(torch.ones(3, 4, 4, 1), 1, 1, 2)
    with pytest.raises(ConfigError, match="shape"):
        path_transfer(torch.ones(4, 4, 4, 1), 1, 1, 2)
    with pytest.raises(ConfigError, match="differ by"):
        path_transfer(symmetric_couplings(1, 1, 2).flip(0), 1, 1, 2)
