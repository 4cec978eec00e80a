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
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ..features.engine import wanted as is_wanted
from ..typing import Float, Tensor
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

    def coupled(self, sums: list[Tensor], n_channels: int) -> list[Tensor]:
        """For each l3 the results of its paths, side by side, ``(atoms, 2 l3 + 1, paths * channels)``.

        Args:
            sums: G, one tensor for each l2: ``(atoms, 2 l2 + 1, width(l2) * channels)``.
            n_channels: channels.
        """
        parts: dict[int, Tensor] = {}
        for l2, block in enumerate(sums):
            own = [n for n, p in enumerate(self.paths) if p.harmonic == l2]
            sizes = [(2 * self.paths[n].sender + 1) * n_channels for n in own]
            for n, g in zip(own, block.split(sizes, -1), strict=True):
                atoms = g.shape[0]
                g = g.reshape(atoms, -1, n_channels)  # (m2, m1) in rows
                c = self.coefficients(n, g)
                if self.paths[n].sender == 0:  # the coefficients are a unit matrix times one number
                    parts[n] = g * c[0, 0]
                else:
                    parts[n] = torch.matmul(c, g)
        return [torch.cat([parts[n] for n in own], -1) for own in self.by_result]


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
    return paths.coupled(list(sums), weight.shape[1] // len(paths))


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
