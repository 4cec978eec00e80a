"""Couplings of several equivariant features to one: MACE's U tensors, and as polynomials.

The features are those of degree 0 .. l_max with parity ``(-1)^l``, one after another. A path couples them one at a
time, ``(((l1 l2) L12 l3) L123 ...)``, each coupling ``sqrt(2 L + 1)`` times a 3j symbol (Batatia et al.,
arXiv:2206.07697, Eqs. 10 and 11); the order of the paths is mace-torch's, since its weights are per path. What acts on
the product of a feature with itself is only the symmetric part of a tensor, a polynomial: coefficients of the
monomials ``A_i A_j A_k``, ``i <= j <= k``, of which there are far fewer than entries. Polynomials are made without
the tensors, path by path, from those of one degree less.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from ..errors import ConfigError
from ..typing import Float, Int, Tensor
from .equivariant import wigner_3j
from .monomials import monomials, multiplicities
from .reduced_coupling import reduced_polynomials

Path = tuple[tuple[int, int, int], ...]
"""Steps ``(l, L, parity)``: which degree joins and what it makes with those before."""


@lru_cache(maxsize=64)
def symmetric_couplings(l_max: int, l_out: int, order: int, reduced: bool = False) -> Float[Tensor, ...]:
    """MACE's U tensor, ``(2 l_out + 1, d, ..., d, paths)`` with ``d = (l_max + 1)^2`` once per factor; float64.

    mace-torch leaves out the first axis where ``l_out = 0``. Where nothing couples there is one path of zeros.
    Memory: ``8 (2 l_out + 1) d^order paths`` bytes (0.75 MB for l_max 3, l_out 0, order 3; 100 MB and more for
    order 4: :func:`coupling_polynomials` has the same content in a hundredth).

    Args:
        l_max: highest degree of the features.
        l_out: degree of the result, of parity ``(-1)^l_out``.
        order: how many features are multiplied.
        reduced: as few paths as there are symmetric couplings instead of one for each way to couple
            (:mod:`epot.blocks.reduced_coupling`).
    """
    width = (l_max + 1) ** 2
    if reduced:
        return _tensors_of(coupling_polynomials(l_max, l_out, order, True), width, order)
    found = [_tensor(path, l_max) for path in coupling_paths(l_max, l_out, order)]
    if not found:
        return torch.zeros(2 * l_out + 1, *[width] * order, 1, dtype=torch.float64)
    return torch.stack(found, -1)


@lru_cache(maxsize=64)
def coupling_polynomials(
    l_max: int, l_out: int, order: int, reduced: bool = False
) -> Float[Tensor, "components monomials paths"]:
    """Coefficients of the monomials of one degree (:func:`monomials`) in the result of each path; float64.

    Arguments as for :func:`symmetric_couplings`, of whose entries these are the sums over permutations.
    """
    if reduced:
        return reduced_polynomials(l_max, l_out, order)
    found = [_polynomial(path, l_max) for path in coupling_paths(l_max, l_out, order)]
    if not found:
        return torch.zeros(2 * l_out + 1, monomials((l_max + 1) ** 2, order).exponents.shape[0], 1, dtype=torch.float64)
    return torch.stack(found, -1)


def path_transfer(
    stored: Float[Tensor, ...], l_max: int, l_out: int, order: int, reduced: bool = False
) -> Float[Tensor, "paths stored_paths"]:
    """``T`` with which weights of other paths become weights of these: ``W = T W_stored`` gives the same result.

    Paths may be combined, ordered, normalized or redundant in any way: only what they span counts.

    Args:
        stored: U tensor of the weights, as mace-torch keeps it (for ``l_out = 0`` with or without the first axis).
        l_max, l_out, order, reduced: the paths that are wanted, as for :func:`symmetric_couplings`.

    Raises:
        ConfigError: it is no coupling of these degrees, or one that is not in the span of the paths.
    """
    width = (l_max + 1) ** 2
    shape = (2 * l_out + 1, *[width] * order)
    if tuple(stored.shape[:-1]) not in ((shape, shape[1:]) if l_out == 0 else (shape,)):
        raise ConfigError(
            f"couplings of shape {tuple(stored.shape)}: expected {(*shape, 'paths')} for l_max {l_max}, "
            f"l_out {l_out}, order {order}"
        )
    theirs = _polynomials_of(stored.to(torch.float64).reshape(*shape, -1), width, order).flatten(0, 1)
    ours = coupling_polynomials(l_max, l_out, order, reduced).flatten(0, 1)
    if ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5):
        return torch.eye(ours.shape[1], dtype=torch.float64)  # exactly, also if stored in single precision
    found = torch.linalg.pinv(ours, rtol=1e-10) @ theirs
    error = (ours @ found - theirs).abs().max()
    if not error <= 1e-4 * theirs.abs().max():
        raise ConfigError(
            f"couplings of order {order} to l = {l_out} differ by {error:.1e} from all there are for l_max {l_max}: "
            "expected e3nn's basis, features of parity (-1)^l in ascending order"
        )
    return found


@lru_cache(maxsize=64)
def coupling_paths(l_max: int, l_out: int, order: int) -> tuple[Path, ...]:
    """All ways to couple, in mace-torch's order: by what comes out, then by the path before, then by the last degree.

    Intermediate results may have either parity, except at order 4, where they have parity ``(-1)^L``.

    Raises:
        ConfigError: a negative degree, or an order outside 1 .. 4.
    """
    if min(l_max, l_out) < 0 or not 1 <= order <= 4:
        raise ConfigError(
            f"couplings of order {order}, degrees {l_max} to {l_out}: expected order 1 .. 4, degrees >= 0"
        )
    paths: list[Path] = [((degree, degree, (-1) ** degree),) for degree in range(l_max + 1)]
    for step in range(1, order):
        reach = l_out + (order - 1 - step) * l_max  # what is beyond cannot come back to l_out
        paths = [
            (*path, (degree, made, path[-1][2] * (-1) ** degree))
            for path in paths
            for degree in range(l_max + 1)
            for made in range(abs(path[-1][1] - degree), min(path[-1][1] + degree, reach) + 1)
            if order < 4 or path[-1][2] * (-1) ** degree == (-1) ** made
        ]
        paths.sort(key=lambda path: path[-1][1:])
    return tuple(path for path in paths if path[-1][1:] == (l_out, (-1) ** l_out))


@lru_cache(maxsize=4096)
def _tensor(path: Path, l_max: int) -> Tensor:
    """``(2 L + 1, d, ..., d)`` of one path."""
    *before, (degree, made, _) = path
    width, part = (l_max + 1) ** 2, slice(degree**2, (degree + 1) ** 2)
    if not before:
        return torch.eye(width, dtype=torch.float64)[part]
    left = _tensor(tuple(before), l_max)
    out = torch.zeros(2 * made + 1, *left.shape[1:], width, dtype=torch.float64)
    out[..., part] = torch.tensordot(_coupling(made, before[-1][1], degree), left, ([1], [0])).movedim(1, -1)
    return out


@lru_cache(maxsize=4096)
def _polynomial(path: Path, l_max: int) -> Float[Tensor, "components monomials"]:
    """The polynomial of one path: that of the path before, times the components of the degree that joins."""
    *before, (degree, made, _) = path
    width, part = (l_max + 1) ** 2, slice(degree**2, (degree + 1) ** 2)
    if not before:
        return torch.eye(width, dtype=torch.float64)[part]
    left, times = _polynomial(tuple(before), l_max), monomials(width, len(before)).times
    products = torch.einsum("kim,in->knm", _coupling(made, before[-1][1], degree), left).flatten(1)
    out = products.new_zeros(2 * made + 1, monomials(width, len(path)).exponents.shape[0])
    return out.index_add_(1, times[:, part].flatten(), products)


def _coupling(made: int, left: int, right: int) -> Tensor:
    return wigner_3j(made, left, right) * (2 * made + 1) ** 0.5


def _tensors_of(polynomials: Float[Tensor, "components monomials paths"], width: int, order: int) -> Tensor:
    """The symmetric tensors with these polynomials."""
    each = polynomials / multiplicities(width, order)[:, None]
    made = each.index_select(1, _monomial_of_entry(width, order))
    return made.view(polynomials.shape[0], *[width] * order, -1)


def _polynomials_of(tensors: Tensor, width: int, order: int) -> Float[Tensor, "components monomials paths"]:
    """Sums of a tensor's entries over permutations."""
    out = tensors.new_zeros(tensors.shape[0], monomials(width, order).parts.shape[0], tensors.shape[-1])
    return out.index_add_(1, _monomial_of_entry(width, order), tensors.flatten(1, -2))


def _monomial_of_entry(width: int, order: int) -> Int[Tensor, " entries"]:
    index = torch.zeros(1, dtype=torch.long)
    for n in range(order):
        index = monomials(width, n).times[index].flatten()
    return index
