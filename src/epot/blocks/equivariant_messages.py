"""Messages that carry spherical tensors: neighbors' features times harmonics times radial weights, summed.

With features ``h_j`` (components (l1, m1), channels c), harmonics ``Y_ij`` (components (l2, m2)) and radial functions
``H_ij`` each path p = (l1, l2, l3) gives

    G_p[i, m2, m1, c] = sum_j Y_ij[l2 m2] R_ij[p c] h_j[l1 m1, c],        R_ij = H_ij W,

and a tensor of degree l3 from it by the coefficients of the path, ``sum_{m1 m2} C_p[m1 m2 m3] G_p``: on atoms, which
are fewer than pairs (:meth:`Paths.coupled`). G is made, for all paths, by matrix products over the neighbors of each
receiver; no message is ever stored for all pairs (:mod:`epot.blocks.equivariant_kernels`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ..features.engine import wanted as is_wanted
from ..typing import Float, Int, Tensor
from . import equivariant_kernels as kernels
from .element_order import Sites
from .equivariant import wigner_3j
from .spline_messages import Scheme


class Path(NamedTuple):
    """Degrees of a path: sender's feature, harmonic, result."""

    sender: int
    harmonic: int
    result: int


class Group(NamedTuple):
    """Paths with the same degrees l1 and l2, which follow each other."""

    sender: int
    harmonic: int
    paths: tuple[int, ...]


class Paths:
    """All paths from degrees up to ``l_sender`` through harmonics up to ``l_harmonic`` to degrees up to ``l_result``.

    Parities are those of harmonics, (-1)^l, so l1 + l2 + l3 is even. Paths are numbered by (l2, l1, l3), the order of
    G and R; :attr:`by_result` lists them for each l3 by (l1, l2).

    Args:
        l_sender, l_harmonic, l_result: highest degrees.
    """

    def __init__(self, l_sender: int, l_harmonic: int, l_result: int) -> None:
        self.l_sender, self.l_harmonic, self.l_result = l_sender, l_harmonic, l_result
        self.paths = [
            Path(l1, l2, l3)
            for l2 in range(l_harmonic + 1)
            for l1 in range(l_sender + 1)
            for l3 in range(abs(l1 - l2), min(l1 + l2, l_result) + 1)
            if (l1 + l2 + l3) % 2 == 0
        ]
        self.groups: list[Group] = []
        for n, path in enumerate(self.paths):
            if self.groups and self.groups[-1][:2] == path[:2]:
                self.groups[-1] = self.groups[-1]._replace(paths=(*self.groups[-1].paths, n))
            else:
                self.groups.append(Group(path.sender, path.harmonic, (n,)))
        self.by_result = [
            sorted((n for n, p in enumerate(self.paths) if p.result == l3), key=lambda n: self.paths[n][:2])
            for l3 in range(l_result + 1)
        ]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def n_sender(self) -> int:
        """Components of a sender's features."""
        return (self.l_sender + 1) ** 2

    def width(self, harmonic: int) -> int:
        """Sender's components over all paths of a harmonic's degree: columns of its block of G."""
        return sum((2 * p.sender + 1) for p in self.paths if p.harmonic == harmonic)

    def coefficients(self, n: int, like: Tensor) -> Float[Tensor, "result harmonic_sender"]:
        """``C_p`` with the factor sqrt(2 l3 + 1), rows m3, columns (m2, m1)."""
        l1, l2, l3 = self.paths[n]
        c = wigner_3j(l1, l2, l3).to(like) * math.sqrt(2 * l3 + 1)
        return c.permute(2, 1, 0).reshape(2 * l3 + 1, -1)

    @cached_property
    def scheme(self) -> Scheme:
        """For :func:`~epot.blocks.spline_messages.spline_messages`."""
        couplings = []
        for l3, own in enumerate(self.by_result):
            for place, n in enumerate(own):
                c = self.coefficients(n, torch.empty(0, dtype=torch.float64))
                for m3, pair in c.abs().gt(1e-12).nonzero().tolist():
                    couplings.append((n, pair, l3, m3 * len(own) + place, float(c[m3, pair])))
        paths = [(l1 * l1, 2 * l1 + 1, l2 * l2, 2 * l2 + 1) for l1, l2, _ in self.paths]
        return Scheme(paths, couplings, [(2 * l3 + 1, len(own)) for l3, own in enumerate(self.by_result)])

    @cached_property
    def order(self) -> Int[Tensor, " components"]:
        """Rows of G, which are (l2, m2, path, m1), in the order that :meth:`coupled` takes: (l3, path, m2, m1)."""
        rows: dict[int, Tensor] = {}
        first = 0
        for l2 in range(self.l_harmonic + 1):
            own = [n for n, p in enumerate(self.paths) if p.harmonic == l2]
            sizes = [2 * self.paths[n].sender + 1 for n in own]
            block = torch.arange((2 * l2 + 1) * sum(sizes)).view(2 * l2 + 1, -1) + first
            rows |= {n: part.flatten() for n, part in zip(own, block.split(sizes, 1), strict=True)}
            first += block.numel()
        return torch.cat([rows[n] for own in self.by_result for n in own])

    @cached_property
    def _couplings(self) -> dict[object, list[Tensor]]:
        """By dtype and device."""
        return {}

    def couplings(self, like: Tensor) -> list[Float[Tensor, "results components"]]:
        """What makes results of sums, for each l3: rows (m3, path), columns (path, m2, m1)."""
        key = like.dtype, like.device
        if key not in self._couplings:
            with torch.inference_mode(False):
                on = torch.empty(0, dtype=like.dtype, device=like.device)
                made = [torch.block_diag(*(self.coefficients(n, on) for n in own)) for own in self.by_result]
                turned = [
                    c.view(len(own), 2 * l3 + 1, c.shape[1]).transpose(0, 1).reshape(c.shape)
                    for l3, (own, c) in enumerate(zip(self.by_result, made, strict=True))
                ]
            self._couplings[key] = turned
        return self._couplings[key]

    def coupled(self, sums: Float[Tensor, "atoms components channels"]) -> list[Tensor]:
        """For each l3 the results of its paths, side by side, ``(atoms, 2 l3 + 1, paths * channels)``.

        Args:
            sums: G, components in :attr:`order`.
        """
        n_atoms, couplings = len(sums), self.couplings(sums)
        parts = sums.split([c.shape[1] for c in couplings], 1)
        made = [torch.bmm(c.expand(n_atoms, *c.shape), part) for c, part in zip(couplings, parts, strict=True)]
        return [b.view(n_atoms, 2 * l3 + 1, -1) for l3, b in enumerate(made)]

    def uncoupled(
        self, results: Sequence[Float[Tensor, "atoms _ _"]], n_channels: int
    ) -> Float[Tensor, "atoms components channels"]:
        """The transpose."""
        parts = []
        for c, result in zip(self.couplings(results[0]), results, strict=True):
            rows = result.view(len(result), len(c), n_channels)
            parts.append(torch.bmm(c.t().expand(len(result), -1, -1), rows))
        return torch.cat(parts, 1)


def equivariant_messages(
    features: Float[Tensor, "atoms components_channels"],
    radial: Float[Tensor, "slots K"],
    weight: Float[Tensor, "K paths_channels"],
    harmonics: Float[Tensor, "slots harmonics"],
    sites: Sites,
    paths: Paths,
) -> list[Tensor]:
    """Messages summed over the neighbors of each receiver, for each degree l3 ``(atoms, 2 l3 + 1, paths * channels)``.

    Args:
        features: of senders, components (l1, m1) before channels.
        radial: H; zero in empty slots.
        weight: W, paths before channels.
        harmonics: Y of each slot.
        sites: where the pairs lie.
        paths: which degrees are coupled.

    Differentiable twice in everything.
    """
    sums = _Messages.apply(features, radial, weight, harmonics, sites, paths)
    n_atoms, channels = len(features), weight.shape[1] // len(paths)
    rows = torch.cat([g.view(n_atoms, -1, channels) for g in sums], 1)
    return paths.coupled(rows.index_select(1, paths.order.to(rows.device)))


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, radial: Tensor, weight: Tensor, harmonics: Tensor, sites: Sites, paths: Paths
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, radial, weight, harmonics)
        ctx.at = sites, paths
        return kernels.forward(features, radial, weight, harmonics, sites, paths)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = tuple(is_wanted(t) for t in ctx.saved_tensors)
        if not torch.is_grad_enabled():
            found = kernels.backward(grads, *ctx.saved_tensors, *ctx.at, wanted)  # type: ignore[call-arg]
            return *found, None, None
        return *_Gradient.apply(*ctx.saved_tensors, *ctx.at, wanted, *grads), None, None


class _Gradient(torch.autograd.Function):
    """The gradient as a function of its own, whose gradient a loss on forces asks for."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        radial: Tensor,
        weight: Tensor,
        harmonics: Tensor,
        sites: Sites,
        paths: Paths,
        wanted: tuple[bool, ...],
        *grads: Tensor,
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(features, radial, weight, harmonics, *grads)
        ctx.at = sites, paths
        return kernels.backward(grads, features, radial, weight, harmonics, sites, paths, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        features, radial, weight, harmonics, *grads = ctx.saved_tensors
        inputs = features, radial, weight, harmonics
        to_inputs, to_grads = kernels.second_backward(cotangents, tuple(grads), inputs, *ctx.at)
        return *to_inputs, None, None, None, *to_grads
