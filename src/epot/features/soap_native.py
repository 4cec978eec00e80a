"""SOAP without derivatives by compiled kernels (``native/soap.cpp``): one call for densities, one for spectra.

The operators are those of :mod:`epot.features.soap_gaussians` with sums over neighbors, and of
:mod:`epot.features.soap_contract`. In a molecule, the calls of their many small operations take longer than arithmetic.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import native
from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor
from .angular import recursion_tables
from .soap_layout import Layout

NAMES = {torch.float32: "f32", torch.float64: "f64"}
LANES = 16  # of the longest vector
ROWS = 8  # of a block of components


def available(like: Tensor) -> bool:
    """Whether the kernels serve such tensors."""
    return like.device.type == "cpu" and like.dtype in NAMES and native.library("soap") is not None


class Gaussians(NamedTuple):
    """What the kernel knows of the radial functions.

    Attributes:
        n_max: radial functions.
        l_max: highest degree.
        rates: of powers of two, 1/Å^2, ``(degrees, n)`` with n rounded up to whole vectors.
        mix: ``(degrees, n_max, n)``, the second index that of ``rates``.
        factors: ``N_lm``, ``(components,)``.
        lower: ``b_lm`` of the recursion, one degree after the other.
        center: of :class:`epot.features.soap_density.Density`.
    """

    n_max: int
    l_max: int
    rates: Tensor
    mix: Tensor
    factors: Tensor
    lower: Tensor
    center: Tensor


def gaussians(rates: Tensor, mix: Tensor, center: Tensor) -> Gaussians:
    """Tables of the kernel from those of :class:`epot.features.soap_gaussians.GaussianSums`."""
    degrees, n_max = mix.shape[:2]
    lanes = 64 // mix.element_size()
    more = -n_max % lanes
    lower, factors = recursion_tables(degrees - 1, mix.dtype, mix.device)
    return Gaussians(
        n_max,
        degrees - 1,
        torch.nn.functional.pad(rates.view(degrees, n_max), (0, more)).contiguous(),
        torch.nn.functional.pad(mix.transpose(1, 2), (0, more)).contiguous(),
        factors.flatten(),
        torch.cat([b.flatten() for b in lower]) if lower else factors.new_zeros(1),
        center,
    )


def density(
    graph: Graph, vectors: Float[Tensor, "pairs 3"], weights: Float[Tensor, " pairs"] | None,
    species: Int[Tensor, " atoms"], reach: float, made: Gaussians,
) -> Float[Tensor, "atoms components channels"]:  # fmt: skip
    """Coefficients, the atom's own density included.

    Args:
        graph: whose pairs are summed over.
        vectors: Å, of the pairs.
        weights: of the pairs; None for ones.
        species: of the atoms.
        reach: Å, of the last neighbor that counts.
        made: radial functions.
    """
    pairs, vectors, species = graph.pairs.contiguous(), vectors.contiguous(), species.contiguous()
    n_atoms, n_pairs = len(species), pairs.shape[1]
    out = vectors.new_empty(n_atoms, len(made.factors), made.center.shape[1])
    begin, step = pairs.data_ptr(), 8 * n_pairs
    shape = _Density(
        n_atoms, n_pairs, len(made.center), made.n_max, made.l_max, torch.get_num_threads(), reach,
        begin, begin + step, species.data_ptr(),
    )  # fmt: skip
    weights = None if weights is None else weights.contiguous()
    _run("density", shape, vectors, weights, made.rates, made.mix, made.factors, made.lower, made.center, out)
    return out


class Blocks(NamedTuple):
    """The components of a layout as parts of products of matrices: see ``native/soap.cpp``.

    Attributes:
        blocks: ``(blocks, 5)``.
        runs: ``(rows, 2)``.
        weights: factors of the degrees times those of the layout, :data:`LANES` more than there are components.
    """

    blocks: Tensor
    runs: Tensor
    weights: Tensor


def blocks_of(made: Layout, factors: list[float], weights: Tensor) -> Blocks:
    """Components that follow each other in the first index, and in the second, are rows of one block."""
    degree, first, second = (np.asarray(x) for x in (made.degree, made.first, made.second))
    same = (np.diff(degree) == 0) & (np.diff(first) == 0) & (np.diff(second) == 1)
    starts = np.flatnonzero(np.r_[True, ~same])
    lengths = np.diff(np.r_[starts, len(degree)])
    found: list[list[int]] = []  # degree, first row, rows, first column, column behind the last
    members: list[list[tuple[int, int]]] = []
    for at, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        n, row, begin = int(degree[at]), int(first[at]), int(second[at])
        last = found[-1] if found else [-1, 0, 0, 0, 0]
        if not (last[0] == n and row == last[1] + last[2] and last[2] < ROWS):
            found.append([n, row, 0, begin, begin])
            members.append([])
            last = found[-1]
        last[2:] = [last[2] + 1, min(last[3], begin), max(last[4], begin + length)]
        members[-1].append((begin, length))
    runs = [(begin - b[3], length) for b, some in zip(found, members, strict=True) for begin, length in some]
    blocks = [[*b[:4], b[4] - b[3]] for b in found]
    scaled = torch.from_numpy(np.asarray(factors)[degree]).to(weights) * weights
    return Blocks(torch.tensor(blocks), torch.tensor(runs), torch.nn.functional.pad(scaled, (0, LANES)))


def spectrum(
    coefficients: Float[Tensor, "atoms components channels"], made: Blocks, n_max: int, summed: bool
) -> Float[Tensor, "atoms size"]:
    """Components before normalization.

    Args:
        coefficients: of species, or of sums of species.
        made: which components there are.
        n_max: radial functions.
        summed: whether the second factor is summed over species.
    """
    coefficients = coefficients.contiguous()
    atoms, components, channels = coefficients.shape
    size = len(made.weights) - LANES
    out = coefficients.new_empty(atoms, size)
    shape = _Spectrum(
        atoms, components, channels, n_max, summed, len(made.blocks), size, torch.get_num_threads(),
        made.blocks.data_ptr(), made.runs.data_ptr(),
    )  # fmt: skip
    _run("spectrum", shape, coefficients, made.weights, out)
    return out


class _Density(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("n_atoms", "n_pairs", "n_species", "n_max", "l_max", "threads")],
        ("reach", ctypes.c_double),
        *[(name, ctypes.c_void_p) for name in ("receivers", "senders", "species")],
    ]


class _Spectrum(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("n_atoms", "components", "channels", "n_max", "summed", "n_blocks")],
        *[(name, ctypes.c_int64) for name in ("size", "threads")],
        *[(name, ctypes.c_void_p) for name in ("blocks", "runs")],
    ]


@lru_cache(maxsize=8)
def _function(name: str, n_tensors: int) -> Any:
    function = getattr(native.library("soap"), name)
    function.argtypes, function.restype = [ctypes.c_void_p] * (1 + n_tensors), None
    return function


def _run(name: str, shape: ctypes.Structure, *tensors: Tensor | None) -> None:
    """Call a kernel with pointers to contiguous tensors, the last of which is the result."""
    like = tensors[-1]
    assert like is not None  # noqa: S101 (the result)
    function = _function(f"{name}_{NAMES[like.dtype]}", len(tensors))
    function(ctypes.addressof(shape), *[None if t is None else t.data_ptr() for t in tensors])
