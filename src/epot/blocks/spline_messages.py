"""Equivariant messages with radial weights from splines, by compiled kernels.

The operator is that of :mod:`epot.blocks.equivariant_messages`; here the weights ``R_ij[p c]`` of a pair are read from
quintic splines of the distance (:mod:`epot.blocks.filter_tables`), one table for each kind of pair where that matters:

    G_p[i, m2, m1, c] = sum_j Y_ij[l2 m2] R_p,c(r_ij) h_j[l1 m1, c],       R(r) = sum_t N_t(r) table[first(r) + t].

A table is linear in what the radial network says at some hundred nodes, so the network is evaluated there and not at
every pair, in training too: its weights' gradients go through the nodes. Six rows of the table are read for each pair,
and everything after that is done for one receiver at a time, in the nearest cache (``native/messages.cpp``); no
message, filter or weight is ever stored for all pairs.

With ``E(D; h, table, r, Y) = sum_i D_i . G_i``, the first derivatives are a kernel, and so is the gradient of the
derivative of E along any change of (h, table, r, Y), which a loss on forces asks for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from .. import native
from ..features.engine import wanted as is_wanted
from ..typing import Float, Int, Tensor
from .element_order import Sites
from .filter_tables import Grid

NAMES = {torch.float32: "f32", torch.float64: "f64"}
MOST = 8  # highest degree of harmonics that the kernels have room for


class _Path(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("h", "n_h", "y", "n_y", "g")]


class _Coupling(ctypes.Structure):
    _fields_ = [*[(name, ctypes.c_int64) for name in ("g", "degree", "to")], ("value", ctypes.c_double)]


class _Shape(ctypes.Structure):
    _fields_ = [
        *[(n, ctypes.c_int64) for n in ("n_paths", "n_h", "n_y", "n_g", "n_degrees", "channels", "n_couplings")],
        ("paths", ctypes.POINTER(_Path)),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("couplings", ctypes.POINTER(_Coupling)),
    ]


class Scheme:
    """Which products are summed over neighbors, and what becomes of the sums.

    Args:
        paths: for each the first of the sender's components and how many it takes, the first of the harmonics and how
            many; those with the same harmonics follow each other, and take 2 l + 1.
        couplings: ``(path, place, result, to, value)``: ``value`` times what is at ``place`` of the path's G (harmonics
            before the sender's components) is added at ``to`` of a result, counted in its rows and columns.
        results: rows and columns of each result.
    """

    def __init__(
        self,
        paths: Sequence[tuple[int, int, int, int]],
        couplings: Sequence[tuple[int, int, int, int, float]],
        results: Sequence[tuple[int, int]],
    ) -> None:
        sizes = [n_h * n_y for _, n_h, _, n_y in paths]
        starts = [sum(sizes[:n]) for n in range(len(paths))]
        self.results, self.n_paths, self.n_g = tuple(results), len(paths), sum(sizes)
        self.n_sender, self.n_harmonics = (max(p[k] + p[k + 1] for p in paths) for k in (0, 2))
        self.paths = (_Path * len(paths))(*(_Path(*p, g) for p, g in zip(paths, starts, strict=True)))
        ordered = sorted(couplings, key=lambda one: (one[2], one[3]))
        made = (_Coupling(starts[n] + place, result, to, value) for n, place, result, to, value in ordered)
        self.couplings = (_Coupling * len(ordered))(*made)
        self.sizes = (ctypes.c_int64 * len(results))(*(m * n for m, n in results))

    def shape(self, channels: int) -> _Shape:
        """For the kernels."""
        sizes = self.n_paths, self.n_sender, self.n_harmonics, self.n_g, len(self.results), channels
        return _Shape(*sizes, len(self.couplings), self.paths, self.sizes, self.couplings)


class Knots(NamedTuple):
    """Where splines are asked for.

    Attributes:
        grid: equal intervals.
        kinds: which table each slot has; None where there is one.
        n_kinds: tables.
    """

    grid: Grid
    kinds: Int[Tensor, " slots"] | None = None
    n_kinds: int = 1


def available(device: torch.device, dtype: torch.dtype, l_harmonic: int) -> bool:
    """Whether the kernels serve such tensors."""
    return device.type == "cpu" and dtype in NAMES and l_harmonic < MOST and native.library("messages") is not None


def spline_messages(
    features: Float[Tensor, "atoms components_channels"],
    table: Float[Tensor, "rows paths_channels"],
    distances: Float[Tensor, " slots"],
    harmonics: Float[Tensor, "slots harmonics"],
    sites: Sites,
    scheme: Scheme,
    knots: Knots,
) -> list[Tensor]:
    """Messages summed over the neighbors of each receiver, for each result ``(atoms, rows, columns * channels)``.

    Args:
        features: of senders, components (l1, m1) before channels.
        table: coefficients of the splines, those of a kind of pair after those of another; paths before channels.
        distances: Å.
        harmonics: Y of each slot.
        sites: where the pairs lie.
        scheme: which products are summed.
        knots: of the splines.

    Differentiable twice in everything.
    """
    return list(_Messages.apply(features, table, distances, harmonics, _Call(table, sites, scheme, knots)))


class _Rows(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("atom", "slot", "used", "width", "senders")],
        ("threads", ctypes.c_int64),
    ]


class _Spline(ctypes.Structure):
    _fields_ = [
        ("step", ctypes.c_double),
        ("terms", ctypes.c_void_p),
        ("kinds", ctypes.c_void_p),
        ("n_rows", ctypes.c_int64),
    ]


def _rows(sites: Sites) -> tuple[Tensor, Tensor]:
    """First slot and slots of each row, made once."""
    if "rows" not in sites.made:
        starts: list[int] = []
        widths: list[int] = []
        for start, stop, slot, width in sites.layout.blocks:
            starts += range(slot, slot + (stop - start) * width, width)
            widths += [width] * (stop - start)
        sites.made["rows"] = torch.tensor(starts), torch.tensor(widths)
    return sites.made["rows"]


class _Call:
    """What the kernels need besides tensors that are differentiated; keeps alive what it points to."""

    def __init__(self, table: Tensor, sites: Sites, scheme: Scheme, knots: Knots) -> None:
        self.name, self.scheme, self.sites = NAMES[table.dtype], scheme, sites
        self.channels, self.threads = table.shape[1] // scheme.n_paths, torch.get_num_threads()
        n_rows = table.shape[0] // knots.n_kinds
        key = f"call {id(scheme)} {self.channels} {self.threads} {n_rows} {knots.grid.step} {id(knots.kinds)}"
        if key not in sites.made:
            sites.made[key] = self._made(n_rows, knots)
        self._head, self._held = sites.made[key]

    def _made(self, n_rows: int, knots: Knots) -> tuple[list[Any], list[Any]]:
        """What every kernel is given first, and what it points to."""
        starts, widths = _rows(self.sites)
        terms, layout = knots.grid.terms.double().contiguous(), self.sites.layout
        held = [layout.rows, starts, self.sites.neighbors.contiguous(), widths, layout.senders]
        rows = _Rows(len(starts), *[t.data_ptr() for t in held], self.threads)
        kinds = None if knots.kinds is None else knots.kinds.data_ptr()
        spline = _Spline(knots.grid.step, terms.data_ptr(), kinds, n_rows)
        head = [ctypes.byref(one) for one in (self.scheme.shape(self.channels), rows, spline)]
        return head, [*held, terms, knots, self.scheme]

    def sums(self, like: Tensor) -> list[Tensor]:
        """Room for results."""
        atoms = self.sites.order.shape[0]
        return [like.new_empty(atoms, rows, columns * self.channels) for rows, columns in self.scheme.results]

    def run(self, kernel: str, *arguments: Tensor | Sequence[Tensor] | None) -> None:
        """Call a kernel with pointers to contiguous tensors."""
        getattr(native.library("messages"), f"{kernel}_{self.name}")(*self._head, *pointers(arguments))

    def room(self, like: Tensor, wanted: bool) -> list[Tensor] | None:
        """Zeros for what each thread adds to."""
        return [torch.zeros_like(like) for _ in range(self.threads)] if wanted else None

    def backward(self, inputs: Sequence[Tensor], grads: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Any, ...]:
        """dE/dh, dE/dtable, dE/dr and dE/dY; those wanted."""
        features, table, r, y = (t.contiguous() for t in inputs)
        grads = [g.contiguous() for g in grads]
        dr, dy = torch.empty_like(r), torch.empty_like(y)
        senders, tables = self.room(features, wanted[0]), self.room(table, wanted[1])
        self.run("backward", features, table, r, y, grads, senders, tables, dr, dy)
        return _total(senders), _total(tables), dr if wanted[2] else None, dy if wanted[3] else None

    def second_backward(
        self,
        cotangents: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        grads: Sequence[Tensor],
        wanted: Sequence[bool],
    ) -> tuple[tuple[Any, ...], list[Tensor]]:
        """Gradients of the derivative of E along the cotangents: by h, table, r and Y; and by D."""
        features, table, r, y = (t.contiguous() for t in inputs)
        along = [None if k is None else k.contiguous() for k in cotangents]
        along[0] = torch.zeros_like(features) if along[0] is None else along[0]
        along[3] = torch.zeros_like(y) if along[3] is None else along[3]
        grads = [g.contiguous() for g in grads]
        out, geometry = self.sums(features), wanted[2] or wanted[3]
        dr, dy = (torch.empty_like(r), torch.empty_like(y)) if geometry else (None, None)
        senders, tables = self.room(features, wanted[0]), self.room(table, wanted[1])
        self.run("second", features, table, r, y, *along, grads, out, senders, tables, dr, dy)
        return (_total(senders), _total(tables), dr, dy), out


def _total(parts: list[Tensor] | None) -> Tensor | None:
    """The sum over threads."""
    if parts is None:
        return None
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def pointers(values: Iterable[Tensor | Sequence[Tensor] | None]) -> list[Any]:
    """To the memory of contiguous tensors; of several, to a table of such."""
    return [_pointer(value) for value in values]


def _pointer(value: Tensor | Sequence[Tensor] | None) -> Any:
    if value is None or isinstance(value, Tensor):
        return ctypes.c_void_p(None if value is None else value.data_ptr())
    return (ctypes.c_void_p * len(value))(*[t.data_ptr() for t in value])


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, table: Tensor, distances: Tensor, harmonics: Tensor, call: _Call
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, table, distances, harmonics)
        ctx.call = call
        out = call.sums(features)
        call.run("forward", *(t.contiguous() for t in (features, table, distances, harmonics)), out)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = tuple(is_wanted(t) for t in ctx.saved_tensors)
        if not torch.is_grad_enabled():
            return *ctx.call.backward(ctx.saved_tensors, grads, wanted), None
        return *_Gradient.apply(*ctx.saved_tensors, ctx.call, wanted, *grads), None


class _Gradient(torch.autograd.Function):
    """The gradient as a function of its own, whose gradient a loss on forces asks for."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        table: Tensor,
        distances: Tensor,
        harmonics: Tensor,
        call: _Call,
        wanted: tuple[bool, ...],
        *grads: Tensor,
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(features, table, distances, harmonics, *grads)
        ctx.call = call
        return call.backward((features, table, distances, harmonics), grads, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, grads = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        wanted = tuple(is_wanted(t) for t in inputs)
        found, to_grads = ctx.call.second_backward(cotangents, inputs, grads, wanted)
        return *found, None, None, *to_grads
