"""The symmetric contraction by a compiled kernel (``native/contraction.cpp``): the same numbers, nothing kept between.

One channel of sixteen atoms of an element at a time (eight in double precision), all of it in the nearest cache:
monomials and gradients are made again for each derivative, which is cheaper than to read them from memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate

import torch

from .. import native
from ..typing import Float, Tensor
from .contraction_kernels import Tables

NAMES = {torch.float32: "f32", torch.float64: "f64"}


def available(like: Tensor) -> bool:
    """Whether the kernel serves such tensors."""
    return like.device.type == "cpu" and like.dtype in NAMES and native.library("contraction") is not None


class _Tables(ctypes.Structure):
    _fields_ = [
        *[(n, ctypes.c_int64) for n in ("degree", "variables", "outputs", "blocks", "steps", "columns", "entries")],
        *[(n, ctypes.c_void_p) for n in ("rows", "widths", "back", "sizes", "left", "right")],
    ]


class _Atoms(ctypes.Structure):
    _fields_ = [*[(n, ctypes.c_int64) for n in ("atoms", "channels", "elements", "threads")], ("ends", ctypes.c_void_p)]


class _Sizes:
    """What does not depend on atoms, in the kernel's terms."""

    def __init__(self, t: Tables) -> None:
        rows, columns = (torch.tensor(part) for part in zip(*t.blocks, strict=True))
        steps = t.factors or [(t.back[:0], t.back[:0])]
        left, right = (torch.cat(part) for part in zip(*steps, strict=True))
        self._held = rows, columns, t.back, torch.tensor([len(a) for a, _ in t.factors]), left, right
        self.outputs, entries = t.back.shape[0] // t.n_variables, t.entries.shape[0]
        numbers = t.degree, t.n_variables, self.outputs, len(rows), len(t.factors), int(columns.sum()), entries
        self.tables = _Tables(*numbers, *[part.data_ptr() for part in self._held])


class Call:
    """One contraction.

    Args:
        t: its tables.
        counts: atoms of each element.
        features: ``(components, channels, atoms)``.
    """

    def __init__(self, t: Tables, counts: Sequence[int], features: Tensor) -> None:
        self.lib, self.name = native.library("contraction"), NAMES[features.dtype]
        if "sizes" not in t.made:
            t.made["sizes"] = _Sizes(t)
        self._sizes = t.made["sizes"]
        self._ends = (ctypes.c_int64 * len(counts))(*accumulate(counts))
        numbers = features.shape[2], features.shape[1], len(counts), torch.get_num_threads()
        self._atoms = _Atoms(*numbers, ctypes.addressof(self._ends))
        self._shape = self._sizes.outputs, *features.shape[1:]

    def values(self, features: Tensor, weights: Tensor) -> Float[Tensor, "outputs channels atoms"]:
        """B."""
        out = features.new_empty(self._shape)
        self._run("values", features, weights, out)
        return out

    def first(
        self, grad: Tensor, features: Tensor, weights: Tensor, which: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients in A and in the coefficients; those wanted."""
        found = _room((features, weights), which)
        self._run("first", grad, features, weights, *found)
        return found[0], found[1]

    def second(
        self, along: Tensor, grad: Tensor, features: Tensor, weights: Tensor, which: tuple[bool, bool, bool]
    ) -> list[Tensor | None]:
        """Gradients of ``sum along * dB/dA`` in the gradient of B, in A and in the coefficients; those wanted."""
        found = _room((grad, features, weights), which)
        self._run("second", along, grad, features, weights, *found)
        return found

    def _run(self, kernel: str, *arguments: Tensor | None) -> None:
        held = [a if a is None else a.contiguous() for a in arguments]  # results are contiguous already
        pointers = [ctypes.c_void_p(None if a is None else a.data_ptr()) for a in held]
        getattr(self.lib, f"{kernel}_{self.name}")(
            ctypes.byref(self._sizes.tables), ctypes.byref(self._atoms), *pointers
        )


def _room(like: Sequence[Tensor], which: Sequence[bool]) -> list[Tensor | None]:
    return [a.new_empty(a.shape) if wanted else None for a, wanted in zip(like, which, strict=True)]
