"""Products of variables: which there are, and which two make which."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch

from ..typing import Float, Int, Tensor


class Monomials(NamedTuple):
    """All products of one degree of some variables, sorted.

    Attributes:
        exponents: of each variable.
        times: which monomial of the next degree each becomes by one more factor of each variable.
        parts: the factors, sorted.
    """

    exponents: Int[Tensor, "monomials variables"]
    times: Int[Tensor, "monomials variables"]
    parts: Int[Tensor, "monomials degree"]


@lru_cache(maxsize=64)
def monomials(n_variables: int, degree: int) -> Monomials:
    """Products of ``degree`` variables in lexical order: 16 variables give 1, 16, 136, 816, 3876."""
    listed = list(combinations_with_replacement(range(n_variables), degree))
    index = {parts: i for i, parts in enumerate(combinations_with_replacement(range(n_variables), degree + 1))}
    times = [[index[tuple(sorted((*parts, v)))] for v in range(n_variables)] for parts in listed]
    parts = torch.tensor(listed, dtype=torch.long).view(len(listed), degree)
    exponents = torch.zeros(len(listed), n_variables, dtype=torch.long)
    exponents.scatter_add_(1, parts, torch.ones_like(parts))
    return Monomials(exponents, torch.tensor(times), parts)


@lru_cache(maxsize=64)
def multiplicities(n_variables: int, degree: int) -> Float[Tensor, " monomials"]:
    """In how many orders the factors of each can be written: entries of a symmetric tensor per monomial."""
    exponents = monomials(n_variables, degree).exponents.to(torch.float64)
    whole = torch.lgamma(torch.tensor(degree + 1.0, dtype=torch.float64))
    return (whole - torch.lgamma(exponents + 1).sum(1)).exp().round()


def products(
    n_variables: int, n_left: int, left: Int[Tensor, " left"], n_right: int, right: Int[Tensor, " right"]
) -> Int[Tensor, "left right"]:
    """Which monomials of degree ``n_left + n_right`` the products of some of each degree are."""
    index = left[:, None].expand(-1, len(right))
    for k, factor in enumerate(monomials(n_variables, n_right).parts[right].unbind(1)):
        index = monomials(n_variables, n_left + k).times[index, factor]
    return index
