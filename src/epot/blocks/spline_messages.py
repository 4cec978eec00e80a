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
from .equivariant_messages import Paths
from .filter_tables import Grid

NAMES = {torch.float32: "f32", torch.float64: "f64"}
MOST = 8  # highest degree of harmonics that the kernels have room for


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
    paths: Paths,
    knots: Knots,
) -> list[Tensor]:
    """Messages summed over the neighbors of each receiver, for each degree l3 ``(atoms, 2 l3 + 1, paths * channels)``.

    Args:
        features: of senders, components (l1, m1) before channels.
        table: coefficients of the splines, those of a kind of pair after those of another; paths before channels.
        distances: Å.
        harmonics: Y of each slot.
        sites: where the pairs lie.
        paths: which degrees are coupled.
        knots: of the splines.

    Differentiable twice in everything.
    """
    return list(_Messages.apply(features, table, distances, harmonics, _Call(table, sites, paths, knots)))


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


class _Degrees(NamedTuple):
    """How paths lie in memory, for the kernels.

    Attributes:
        paths, couplings: tables of theirs.
        sizes: of an atom's part of each result, in units of channels.
        n_g: products of harmonics and sender's components, over all paths.
    """

    paths: Any
    couplings: Any
    sizes: Any
    n_g: int


def _degrees(paths: Paths) -> _Degrees:
    made, starts, g = [], [], 0
    for l1, l2, _ in paths.paths:
        made.append(_Path(l1 * l1, 2 * l1 + 1, l2 * l2, 2 * l2 + 1, g))
        starts.append(g)
        g += (2 * l1 + 1) * (2 * l2 + 1)
    couplings = []
    for l3, own in enumerate(paths.by_result):
        for place, n in enumerate(own):
            c = paths.coefficients(n, torch.empty(0, dtype=torch.float64))
            for m3, pair in c.abs().gt(1e-12).nonzero().tolist():
                couplings.append(_Coupling(starts[n] + pair, l3, m3 * len(own) + place, float(c[m3, pair])))
    couplings.sort(key=lambda one: (one.degree, one.to))
    sizes = [(2 * l3 + 1) * len(own) for l3, own in enumerate(paths.by_result)]
    return _Degrees(
        (_Path * len(made))(*made), (_Coupling * len(couplings))(*couplings), (ctypes.c_int64 * len(sizes))(*sizes), g
    )


class _Call:
    """What the kernels need besides tensors that are differentiated; keeps alive what it points to."""

    def __init__(self, table: Tensor, sites: Sites, paths: Paths, knots: Knots) -> None:
        self.lib, self.name, self.paths = native.library("messages"), NAMES[table.dtype], paths
        self.channels, self.sites, self.threads = table.shape[1] // len(paths), sites, torch.get_num_threads()
        if "degrees" not in paths.made:
            paths.made["degrees"] = _degrees(paths)
        d = self._degrees = paths.made["degrees"]
        n_y, n_results = (paths.l_harmonic + 1) ** 2, len(paths.by_result)
        sizes = len(paths), paths.n_sender, n_y, d.n_g, n_results, self.channels, len(d.couplings)
        self._shape = _Shape(*sizes, d.paths, d.sizes, d.couplings)
        starts, widths = _rows(sites)
        self._terms = knots.grid.terms.double().contiguous()
        self._held = [sites.layout.rows, starts, sites.neighbors.contiguous(), widths, sites.layout.senders]
        self._rows = _Rows(len(starts), *[t.data_ptr() for t in self._held], self.threads)
        kinds = None if knots.kinds is None else knots.kinds.data_ptr()
        self._knots = knots
        self._spline = _Spline(knots.grid.step, self._terms.data_ptr(), kinds, table.shape[0] // knots.n_kinds)

    def sums(self, like: Tensor) -> list[Tensor]:
        """Room for results."""
        atoms, by_result = self.sites.order.shape[0], self.paths.by_result
        return [like.new_empty(atoms, 2 * n + 1, len(own) * self.channels) for n, own in enumerate(by_result)]

    def run(self, kernel: str, *arguments: Tensor | Sequence[Tensor] | None) -> None:
        """Call a kernel with pointers to contiguous tensors."""
        head = ctypes.byref(self._shape), ctypes.byref(self._rows), ctypes.byref(self._spline)
        getattr(self.lib, f"{kernel}_{self.name}")(*head, *pointers(arguments))

    def gathered(self, slots: Tensor) -> Tensor:
        """Sums over the slots of which an atom is the sender."""
        out = slots.new_empty(self.sites.order.shape[0], slots.shape[1])
        columns = ctypes.c_int64(slots.shape[1])
        arguments = _pointer(self.sites.back), columns, _pointer(slots), _pointer(out)
        getattr(self.lib, f"gather_{self.name}")(ctypes.byref(self._rows), *arguments)
        return out

    def backward(self, inputs: Sequence[Tensor], grads: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Any, ...]:
        """dE/dh, dE/dtable, dE/dr and dE/dY; those wanted."""
        features, table, r, y = (t.contiguous() for t in inputs)
        grads = [g.contiguous() for g in grads]
        slots, dr, dy = features.new_empty(r.shape[0], features.shape[1]), torch.empty_like(r), torch.empty_like(y)
        tables = [torch.zeros_like(table) for _ in range(self.threads)] if wanted[1] else None
        self.run("backward", features, table, r, y, grads, slots, tables, dr, dy)
        d_features = self.gathered(slots) if wanted[0] else None
        d_table = torch.stack(tables).sum(0) if tables else None
        return d_features, d_table, dr if wanted[2] else None, dy if wanted[3] else None

    def second_backward(
        self, cotangents: Sequence[Tensor | None], inputs: Sequence[Tensor], grads: Sequence[Tensor], to_table: bool
    ) -> tuple[tuple[Any, ...], list[Tensor]]:
        """Gradients of the derivative of E along the cotangents: by h, table, r and Y; and by D."""
        features, table, r, y = (t.contiguous() for t in inputs)
        along = [None if k is None else k.contiguous() for k in cotangents]
        along[0] = torch.zeros_like(features) if along[0] is None else along[0]
        along[3] = torch.zeros_like(y) if along[3] is None else along[3]
        grads = [g.contiguous() for g in grads]
        out = self.sums(features)
        slots, dr, dy = features.new_empty(r.shape[0], features.shape[1]), torch.empty_like(r), torch.empty_like(y)
        tables = [torch.zeros_like(table) for _ in range(self.threads)] if to_table else None
        self.run("second", features, table, r, y, *along, grads, out, slots, tables, dr, dy)
        d_table = torch.stack(tables).sum(0) if tables else None
        return (self.gathered(slots), d_table, dr, dy), out


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
        found, to_grads = ctx.call.second_backward(cotangents, inputs, grads, is_wanted(inputs[1]))
        return *found, None, None, *to_grads
