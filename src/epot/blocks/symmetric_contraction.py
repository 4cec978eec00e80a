"""MACE's symmetric contraction: polynomials of an atom's features that turn with them (arXiv:2206.07697, Eqs. 10, 11).

    B_c = sum_orders sum_paths W[z, path, c] U[path] A_c ... A_c

in each channel c of its own. The tensors U are never contracted as tensors: see
:mod:`epot.blocks.contraction_kernels`. For l_max 3, outputs 0 and 1 and order 3, an atom's channel takes 152 products
and 2800 floating-point operations for B and all its derivatives; a loss on forces takes another three products of the
same size (:class:`_Gradient`). It is done in chunks of channels and atoms that stay in the processor's cache, which
keep dB/dA for the first derivative. On a CPU with a compiler :mod:`epot.blocks.sparse_contraction` takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..errors import ConfigError, DataError
from ..features.engine import wanted
from ..typing import Float, Tensor
from . import contraction_kernels as kernels
from .kept import Kept

CHUNK = 3500  # atoms times channels: about 8 MB in float32
ATOMS = 512
MANY = 500  # compositions whose atoms are kept in order

Chunk = tuple[slice, slice, list[kernels.Part]]
"""Channels, atoms, and which of these atoms are which element."""


class SymmetricContraction(nn.Module):
    """``B`` of given degrees from features of degrees 0 .. l_max with parity ``(-1)^l``.

    Weights are in ``weights``, one ``(n_elements, n_paths, n_channels)`` for each output degree and, within it, each
    order 1 .. correlation; paths in mace-torch's order (:func:`epot.blocks.coupling.symmetric_couplings`).

    Args:
        n_elements: each has weights of its own.
        n_channels: of the features.
        l_max: highest degree of the features.
        l_out: degrees of the results.
        correlation: highest order, 1 .. 4.
        reduced: fewer paths, which couple the same (:func:`epot.blocks.reduced_coupling.reduced_polynomials`).
    """

    channelwise = True

    def __init__(
        self,
        n_elements: int,
        n_channels: int,
        l_max: int,
        l_out: Sequence[int],
        correlation: int,
        reduced: bool = False,
    ) -> None:
        super().__init__()
        if min(n_elements, n_channels) < 1 or not l_out or not 1 <= correlation <= 4:
            raise ConfigError(
                f"symmetric contraction of order {correlation} to degrees {tuple(l_out)} for {n_elements} elements and "
                f"{n_channels} channels: expected order 1 .. 4 and at least one of each"
            )
        self.n_elements, self.n_channels, self.l_out = n_elements, n_channels, tuple(l_out)
        self.choice = l_max, self.l_out, correlation, reduced
        self.weights = nn.ParameterList(
            torch.randn(n_elements, paths, n_channels) / paths for counts in self.tables.n_paths for paths in counts
        )
        self._kept = Kept()
        self._on: tuple[object, kernels.Tables] | None = None
        self._fills: dict[object, tuple[Tensor, Tensor, list[int]]] = {}

    def forward(
        self, features: Float[Tensor, "components channels atoms"], counts: Sequence[int], once: bool = False
    ) -> list[Float[Tensor, "outputs channels atoms"]]:
        """B of each output degree.

        Args:
            features: A of atoms sorted by element.
            counts: how many atoms each element has.
            once: weights are constants, and B is differentiated at most once: coefficients are kept between calls.

        Raises:
            DataError: sizes do not agree.
        """
        expected = (self.choice[0] + 1) ** 2, self.n_channels, sum(counts)
        if features.shape != expected or len(counts) != self.n_elements or min(counts) < 0:
            raise DataError(
                f"features of shape {tuple(features.shape)} with {list(counts)} atoms of each element: expected "
                f"{expected} and {self.n_elements} counts"
            )
        t = self._tables(features)
        weights = self._constant(t) if once else self._coefficients(t)
        made = _Contract.apply(features, weights, tuple(counts), t, once)
        return list(made.split([2 * n + 1 for n in self.l_out]))

    def of_atoms(
        self, features: Float[Tensor, "atoms components channels"], counts: Sequence[int], once: bool = False
    ) -> list[Float[Tensor, "atoms outputs channels"]]:
        """The same with atoms first.

        With ``once`` the elements of a few atoms are contracted together, as if they were channels, each with as many
        atoms as the most frequent has: products of four elements take four times as many calls, which is longer.
        """
        fill = self._fill(tuple(counts), features.device) if once else None
        if fill is None:
            made = self(features.permute(1, 2, 0).contiguous(), counts, once)
            return [b.permute(2, 0, 1) for b in made]
        pad, places, present = fill
        t = self._tables(features)
        make = lambda: self._coefficients(t)[present].flatten(0, 1).unsqueeze(0)  # noqa: E731
        weights = self._kept.by(self.weights, make, tuple(present))
        n, c = len(present), features.shape[2]
        each = features.index_select(0, pad).view(n, -1, *features.shape[1:])  # element, atom, component, channel
        made = _Contract.apply(each.permute(2, 0, 3, 1).flatten(1, 2), weights, (each.shape[1],), t, True)
        back = made.view(len(made), n, c, -1).permute(1, 3, 0, 2).flatten(0, 1).index_select(0, places)
        return list(back.split([2 * n + 1 for n in self.l_out], 1))

    def _fill(self, counts: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, list[int]] | None:
        """Atoms of each element, the first of it once more where it has fewer; where each atom is then; elements."""
        present = [z for z, n in enumerate(counts) if n]
        if len(present) < 2 or len(present) * max(counts) * self.n_channels > CHUNK:
            return None
        key = counts, device
        if key not in self._fills:
            if len(self._fills) > MANY:
                self._fills.clear()
            first = [0, *accumulate(counts)]
            with torch.inference_mode(False):
                rows = torch.arange(max(counts), device=device)
                pad = torch.cat([torch.where(rows < counts[z], rows, 0) + first[z] for z in present])
                places = torch.cat([rows[: counts[z]] + k * len(rows) for k, z in enumerate(present)])
                self._fills[key] = pad, places, present
        return self._fills[key]

    @property
    def tables(self) -> kernels.Tables:
        """Which monomials make what, shared by all contractions of these sizes."""
        with torch.device("cpu"):  # they are kept for all, whatever device (or none, "meta") is set for this one
            return kernels.tables(*self.choice)

    def _coefficients(self, t: kernels.Tables) -> Float[Tensor, "elements channels entries"]:
        flat = torch.cat(list(self.weights), 1).transpose(1, 2).reshape(-1, t.entries.shape[1])
        return flat.mm(t.entries.t()).view(self.n_elements, self.n_channels, -1)

    def _constant(self, t: kernels.Tables) -> Tensor:
        """The coefficients, kept until a weight changes."""
        return self._kept.by(self.weights, lambda: self._coefficients(t))

    def _tables(self, like: Tensor) -> kernels.Tables:
        key = (like.dtype, like.device)
        if self._on is None or self._on[0] != key:
            t = self.tables
            with torch.inference_mode(False):
                moved = t._replace(
                    factors=[(a.to(like.device), b.to(like.device)) for a, b in t.factors],
                    rows=t.rows.to(like.device),
                    back=t.back.to(like.device),
                    entries=t.entries.to(like.device, like.dtype),
                    made={},
                )
            self._on = (key, moved)
        return self._on[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_on": None, "_fills": {}}


def _chunks(counts: tuple[int, ...], channels: int, device: torch.device) -> Iterator[Chunk]:
    """Blocks of channels and atoms; all at once where there is no cache to stay in."""
    ends = list(accumulate(counts))
    n_atoms = ends[-1]
    most, room = (ATOMS, CHUNK) if device.type == "cpu" else (n_atoms, n_atoms * channels)
    for first in range(0, n_atoms, max(most, 1)):
        last = min(first + most, n_atoms)
        step = max(1, room // (last - first))
        spans = [(max(end - n, first), min(end, last)) for n, end in zip(counts, ends, strict=True)]
        parts = [(z, start - first, stop - first) for z, (start, stop) in enumerate(spans) if start < stop]
        for c in range(0, channels, step):
            yield slice(c, min(c + step, channels)), slice(first, last), parts


class _Contract(torch.autograd.Function):
    """B; keeps dB/dx of each chunk, so that the first derivative in A is a multiplication."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weights: Tensor, counts: tuple[int, ...], t: kernels.Tables, once: bool
    ) -> Tensor:
        keep = any(ctx.needs_input_grad)
        out, ctx.slopes = _values(features.detach(), weights.detach(), counts, t, keep)
        ctx.save_for_backward(features, weights)
        ctx.counts, ctx.t, ctx.once = counts, t, once
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, weights = ctx.saved_tensors
        which = (wanted(features), not ctx.once and wanted(weights))
        arguments = (grad, features, weights, ctx.counts, ctx.t, ctx.slopes, which)
        if torch.is_grad_enabled() and not ctx.once:
            return *_Gradient.apply(*arguments), None, None, None
        return *_first(*arguments), None, None, None


class _Gradient(torch.autograd.Function):
    """The gradient of B as a function of its own, whose gradient a loss on forces asks for."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        features: Tensor,
        weights: Tensor,
        counts: tuple[int, ...],
        t: kernels.Tables,
        slopes: list[Tensor],
        which: tuple[bool, bool],
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(grad, features, weights)
        ctx.counts, ctx.t, ctx.slopes = counts, t, slopes
        ctx.set_materialize_grads(False)
        return _first(grad, features, weights, counts, t, slopes, which)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor | None, change: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, features, weights = ctx.saved_tensors
        which = (wanted(grad), wanted(features), wanted(weights))
        found: list[Tensor | None] = [None, None, None]
        if along is not None:
            found = _second(along, grad, features, weights, ctx.counts, ctx.t, ctx.slopes, which)
        if change is not None:  # the gradient in the weights is linear in them: the same polynomials with others
            values, slopes = _values(features, change, ctx.counts, ctx.t, True)
            turned = _first(grad, features, change, ctx.counts, ctx.t, slopes, (which[1], False))[0]
            found = [_sum(found[0], values), _sum(found[1], turned), found[2]]
        return *found, None, None, None, None


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a + b


def _values(
    features: Tensor, weights: Tensor, counts: tuple[int, ...], t: kernels.Tables, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """B ``(outputs, channels, atoms)`` and, where they are needed again, the derivatives of each chunk."""
    x = kernels.homogeneous(features, 1.0)
    out = x.new_empty(x.shape[0], t.rows.shape[0] // t.n_variables, x.shape[2])
    blocks, slopes = kernels.blocks_of(weights, t), []
    for c, a, parts in _chunks(counts, x.shape[0], x.device):
        part = x[c, :, a]
        slope = kernels.gradient([w[:, c] for w in blocks], kernels.powers(part, t), parts, t)
        torch.sum(slope * part[:, None], 2, out=out[c, :, a])
        if keep:
            slopes.append(slope)
    return out.div_(t.degree).transpose(0, 1), slopes


def _first(
    grad: Tensor,
    features: Tensor,
    weights: Tensor,
    counts: tuple[int, ...],
    t: kernels.Tables,
    slopes: list[Tensor],
    which: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients in A and in the coefficients."""
    g = grad.transpose(0, 1)
    x = kernels.homogeneous(features, 1.0)
    d_x = torch.empty_like(x) if which[0] else None
    d_weights = torch.zeros_like(weights) if which[1] else None
    blocks = [] if d_weights is None else kernels.blocks_of(d_weights, t)
    for (c, a, parts), slope in zip(_chunks(counts, x.shape[0], x.device), slopes, strict=True):
        if d_x is not None:
            _weighted(slope, g[c, :, a], d_x[c, :, a])
        if d_weights is not None:
            part = x[c, :, a]
            mine = [w[:, c] for w in blocks]
            kernels.add_outer(mine, g[c, :, a] / t.degree, part, kernels.powers(part, t), parts, t)
    return None if d_x is None else d_x[:, 1:].transpose(0, 1), d_weights


def _second(
    along: Tensor,
    grad: Tensor,
    features: Tensor,
    weights: Tensor,
    counts: tuple[int, ...],
    t: kernels.Tables,
    slopes: list[Tensor],
    which: tuple[bool, bool, bool],
) -> list[Tensor | None]:
    """Gradients of ``sum along * dB/dA`` in the gradient of B, in A and in the coefficients."""
    g = grad.transpose(0, 1)
    x, h = kernels.homogeneous(features, 1.0), kernels.homogeneous(along, 0.0)
    d_g = x.new_empty(g.shape) if which[0] else None
    d_x = torch.empty_like(x) if which[1] else None
    d_weights = torch.zeros_like(weights) if which[2] else None
    blocks = kernels.blocks_of(weights, t)
    d_blocks = [] if d_weights is None else kernels.blocks_of(d_weights, t)
    for (c, a, parts), slope in zip(_chunks(counts, x.shape[0], x.device), slopes, strict=True):
        if d_g is not None:
            torch.sum(slope * h[c, None, :, a], 2, out=d_g[c, :, a])
        if d_x is None and d_weights is None:
            continue
        made, turned = kernels.directional(x[c, :, a], h[c, :, a], t)
        if d_x is not None:
            _weighted(kernels.gradient([w[:, c] for w in blocks], turned, parts, t), g[c, :, a], d_x[c, :, a])
        if d_weights is not None:
            kernels.add_outer([w[:, c] for w in d_blocks], g[c, :, a], h[c, :, a], made, parts, t)
    turned_x = None if d_x is None else d_x[:, 1:].transpose(0, 1)
    return [None if d_g is None else d_g.transpose(0, 1), turned_x, d_weights]


def _weighted(
    slope: Float[Tensor, "channels outputs variables atoms"],
    grad: Float[Tensor, "channels outputs atoms"],
    out: Float[Tensor, "channels variables atoms"],
) -> None:
    """``sum_o g_o dB_o/dx_i``."""
    torch.mul(slope[:, 0], grad[:, :1], out=out)
    for o in range(1, grad.shape[1]):
        out.addcmul_(slope[:, o], grad[:, o : o + 1])
