"""The symmetric contraction by compiled kernels: sparse polynomials, evaluated as they are.

Of the 816 monomials of order 3 in 16 features 77 occur in the invariants and 278 in the three components of a vector;
with those of orders 1 and 2 there are 94 and 316 terms, each a coefficient for every element and channel. What
:mod:`epot.blocks.symmetric_contraction` does by matrix products, in any precision and on any device, the kernels do on
these terms, for one atom at a time (``native/polynomials.cpp``): values, first derivatives, and the gradient of a
derivative along any direction, which a loss on forces asks for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from .. import native
from ..features.engine import wanted as is_wanted
from ..typing import Float, Int, Tensor
from .coupling import coupling_polynomials
from .monomials import monomials
from .spline_messages import NAMES, pointers

MOST = 64  # components of features that the kernels have room for, one more than those


class _Group(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in ("p", "q", "s", "end")]


class _Term(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in ("r", "out")]


class _Shape(ctypes.Structure):
    _fields_ = [
        *[(n, ctypes.c_int64) for n in ("n_atoms", "n_in", "n_out", "n_groups", "n_terms", "channels", "threads")],
        *[(n, ctypes.c_int64) for n in ("degrees_in", "degrees_out")],
        ("groups", ctypes.POINTER(_Group)),
        ("terms", ctypes.POINTER(_Term)),
        ("species", ctypes.c_void_p),
    ]


class Terms(NamedTuple):
    """The terms of all polynomials, sorted by their factors.

    Attributes:
        groups, terms: for the kernels.
        order: where each term was, those of each output degree and order following each other.
        paths: for each output degree and order, what each path gives to each of its terms, ``(terms, paths)``.
        l_max: highest degree of the features.
        l_out: degrees of the results, ascending from 0.
    """

    groups: Any
    terms: Any
    order: Int[Tensor, " terms"]
    paths: list[Tensor]
    l_max: int
    l_out: tuple[int, ...]


def terms(l_max: int, l_out: Sequence[int], correlation: int, reduced: bool) -> Terms:
    """Of features of degree 0 .. l_max; arguments as for :class:`~.symmetric_contraction.SymmetricContraction`."""
    with torch.device("cpu"):  # whatever device (or none, "meta") is set for the potential that has them
        return _terms(l_max, tuple(l_out), correlation, reduced)


@lru_cache(maxsize=16)
def _terms(l_max: int, l_out: tuple[int, ...], correlation: int, reduced: bool) -> Terms:
    listed: list[tuple[tuple[int, ...], int, int]] = []  # factors in common, the last factor, component of the result
    paths, first, one = [], 0, (l_max + 1) ** 2
    for degree in l_out:
        for order in range(1, correlation + 1):
            found = coupling_polynomials(l_max, degree, order, reduced)
            parts = monomials((l_max + 1) ** 2, order).parts
            used = (found.abs() > 1e-12 * found.abs().max().clamp(min=1e-30)).any(2).nonzero()
            for component, monomial in used.tolist():
                *factors, last = parts[monomial].tolist()
                listed.append(((*factors, one, one, one)[:3], last, first + component))
            paths.append(found[used[:, 0], used[:, 1]])
        first += 2 * degree + 1
    order_of = sorted(range(len(listed)), key=lambda n: listed[n])
    groups: list[_Group] = []
    for n, (common, _, _) in enumerate(listed[k] for k in order_of):
        if not groups or (groups[-1].p, groups[-1].q, groups[-1].s) != common:
            groups.append(_Group(*common, n))
        groups[-1].end = n + 1
    made = [_Term(*listed[k][1:]) for k in order_of]
    tables = (_Group * len(groups))(*groups), (_Term * len(made))(*made)
    return Terms(*tables, torch.tensor(order_of), paths, l_max, tuple(l_out))


def coefficients(
    of: Terms, weights: Sequence[Tensor], kinds: Int[Tensor, " present"]
) -> Float[Tensor, "present terms channels"]:
    """Of each term, for the elements that are there, from weights ``(elements, paths, channels)`` as ``of.paths``."""
    parts = []
    for table, weight in zip(of.paths, weights, strict=True):
        parts.append(torch.matmul(table.to(weight), weight.index_select(0, kinds)))
    return torch.cat(parts, 1).index_select(1, of.order)


def available(device: torch.device, dtype: torch.dtype, l_max: int) -> bool:
    """Whether the kernels serve such tensors."""
    fits = device.type == "cpu" and dtype in NAMES and (l_max + 1) ** 2 < MOST
    return fits and native.library("polynomials") is not None


def contracted(
    features: Sequence[Tensor],
    coefficient: Float[Tensor, "present terms channels"],
    of: Terms,
    species: Int[Tensor, " atoms"],
) -> list[Tensor]:
    """B of each output degree, ``(atoms, 2 l + 1, channels)``.

    Args:
        features: A of each degree, ``(atoms, 2 l + 1, channels)``.
        coefficient: of the terms.
        of: the terms.
        species: which of the sets of coefficients each atom has.

    Differentiable twice in features and coefficients.
    """
    call = _Call(of, species, features[0])
    return list(_Contract.apply(coefficient, call, *features))


class _Call:
    """What the kernels need besides tensors that are differentiated."""

    def __init__(self, of: Terms, species: Tensor, like: Tensor) -> None:
        self.lib, self.name, self.of, self.species = native.library("polynomials"), NAMES[like.dtype], of, species
        self.threads = torch.get_num_threads()
        n_in, n_out = (of.l_max + 1) ** 2, sum(2 * n + 1 for n in of.l_out)
        sizes = like.shape[0], n_in, n_out, len(of.groups), len(of.terms), like.shape[2], self.threads
        self._shape = _Shape(*sizes, of.l_max + 1, len(of.l_out), of.groups, of.terms, species.data_ptr())

    def like(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Room of the shapes of these."""
        return [torch.empty_like(t) for t in tensors]

    def results(self, like: Tensor) -> list[Tensor]:
        """Room for B."""
        return [like.new_empty(like.shape[0], 2 * n + 1, like.shape[2]) for n in self.of.l_out]

    def run(self, kernel: str, *arguments: Tensor | Sequence[Tensor] | None) -> None:
        """Call a kernel with pointers to contiguous tensors."""
        getattr(self.lib, f"{kernel}_{self.name}")(ctypes.byref(self._shape), *pointers(arguments))

    def each(self, coefficient: Tensor, asked: bool) -> list[Tensor] | None:
        """Room for the gradient by the coefficients, for each thread its own."""
        return [torch.zeros_like(coefficient) for _ in range(self.threads)] if asked else None


def _total(parts: list[Tensor] | None) -> Tensor | None:
    return None if parts is None else parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


class _Contract(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coefficient: Tensor, call: _Call, *features: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(coefficient, *features)
        ctx.call = call
        out = call.results(features[0])
        call.run("forward", coefficient.contiguous(), [x.contiguous() for x in features], out)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        coefficient, *features = ctx.saved_tensors
        asked = is_wanted(coefficient)
        if not torch.is_grad_enabled():
            d_k, *d_x = _first(ctx.call, asked, coefficient, features, grads)
        else:
            d_k, *d_x = _Gradient.apply(ctx.call, asked, coefficient, len(features), *features, *grads)
        return d_k, None, *d_x


def _first(
    call: _Call, asked: bool, coefficient: Tensor, features: Sequence[Tensor], grads: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    features, grads = [x.contiguous() for x in features], [g.contiguous() for g in grads]
    d_x, each = call.like(features), call.each(coefficient, asked)
    call.run("backward", coefficient.contiguous(), features, grads, d_x, each)
    return _total(each), *d_x


class _Gradient(torch.autograd.Function):
    """The gradient as a function of its own."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, asked: bool, coefficient: Tensor, n: int, *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(coefficient, *tensors)
        ctx.call, ctx.n = call, n
        return _first(call, asked, coefficient, tensors[:n], tensors[n:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along_k: Tensor | None, *along: Tensor | None) -> tuple[Tensor | None, ...]:
        coefficient, *tensors = (t.contiguous() for t in ctx.saved_tensors)
        features, grads = tensors[: ctx.n], tensors[ctx.n :]
        call = ctx.call
        along = tuple(
            torch.zeros_like(x) if a is None else a.contiguous() for a, x in zip(along, features, strict=True)
        )
        along_k = None if along_k is None else along_k.contiguous()
        d_g, d_x = call.like(grads), call.like(features)
        each = call.each(coefficient, is_wanted(ctx.saved_tensors[0]))
        call.run("second", coefficient, features, along_k, list(along), grads, d_g, d_x, each)
        return None, None, _total(each), None, *d_x, *d_g
