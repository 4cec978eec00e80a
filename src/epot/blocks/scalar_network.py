"""All interactions of SchNet and its readout in one compiled call, and the way back to the pairs in another.

For inference: weights are constant, and only first derivatives by the pairs' vectors can be had. What a few
atoms need is then a hundred small products, sums and activations, of which each takes less time than an operation of
torch takes to start (``native/schnet.cpp``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from .. import native
from ..geometry.graph import Graph
from ..typing import Float, Int, Tensor
from .filter_tables import TERMS, Grid
from .first_order import Layer
from .spline_messages import NAMES

PANEL = 128  # bytes that a row of a matrix has in the kernels
ENOUGH = 128  # pairs for another thread: they take as long as a dozen meetings of threads


class Readout(NamedTuple):
    """Of the energies: ``scale * (w . activation(hidden x + bias) + b)``.

    Attributes:
        hidden: weight ``(H, F)`` and bias ``(H,)``.
        activation: of the hidden layer.
        weight: ``(H,)``, scale included.
        bias: ``()``, scale included.
    """

    hidden: Sequence[Tensor]
    activation: Literal["shifted_softplus", "silu"]
    weight: Float[Tensor, " H"]
    bias: Float[Tensor, ""]


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("table", "project", "project_back", "inner", "inner_bias", "inner_back",
                     "outer", "outer_bias", "outer_back")
    ]  # fmt: skip


class _Network(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("n_layers", "n_rows", "features", "filters", "hidden")],
        *[(name, ctypes.c_int64) for name in ("given_hidden", "n_species", "n_elements", "silu")],
        ("step", ctypes.c_double),
        *[(name, ctypes.c_void_p) for name in ("species", "terms", "embedding", "sent", "last", "last_bias")],
        *[(name, ctypes.c_void_p) for name in ("last_back", "weight", "bias", "layers")],
    ]


class _Pairs(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("n_atoms", "n_pairs", "threads")],
        *[(name, ctypes.c_void_p) for name in ("numbers", "starts", "senders", "vectors")],
    ]


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels serve such tensors."""
    return device.type == "cpu" and dtype in NAMES and native.library("schnet") is not None


class ScalarNetwork:
    """The weights as the kernels want them: padded with zeros, and each matrix both ways round.

    Args:
        embedding: x that each element starts with.
        species: from atomic number to row; one past the last where the element is unknown.
        layers: the interactions, in order.
        readout: of the energies.
        grid: of the splines.
    """

    def __init__(
        self,
        embedding: Float[Tensor, "elements F"],
        species: Int[Tensor, " numbers"],
        layers: Sequence[Layer],
        readout: Readout,
        grid: Grid,
    ) -> None:
        self.dtype, self._tensors = embedding.dtype, [species]
        self.n_hidden = len(readout.weight)
        sent = embedding @ layers[0].project.t()
        made = (_Layer * len(layers))(*(_Layer(*map(self._hold, _layer(layer))) for layer in layers))
        self._layers, (last, last_bias) = made, readout.hidden
        matrices = embedding, sent, *_both(last, last_bias), readout.weight, readout.bias
        widths = (_wide(t).shape[-1] for t in (embedding, sent, last_bias))
        sizes = len(layers), len(layers[0].table), *widths, self.n_hidden, len(species), len(embedding)
        addresses = [self._hold(_terms(grid)), *(self._hold(_wide(t)) for t in matrices)]
        self.address = ctypes.addressof(made)
        self._network = _Network(
            *sizes, readout.activation == "silu", grid.step, species.data_ptr(), *addresses, self.address
        )
        self.address = ctypes.addressof(self._network)
        library = native.library("schnet")
        self.room, self.forward, self.backward = (
            getattr(library, f"{name}_{NAMES[self.dtype]}") for name in ("room", "forward", "backward")
        )
        self.room.argtypes, self.room.restype = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64], ctypes.c_int64
        self.forward.argtypes, self.forward.restype = [ctypes.c_void_p] * 5, ctypes.c_int64
        self.backward.argtypes, self.backward.restype = [ctypes.c_void_p] * 6, None

    def _hold(self, tensor: Tensor) -> int:
        self._tensors.append(tensor.detach().to(self.dtype).contiguous().clone())
        return self._tensors[-1].data_ptr()

    def energies(self, graph: Graph) -> tuple[Tensor, Tensor] | None:
        """Energies ``(atoms,)`` and hidden layer ``(atoms, H)``; None where an element is unknown.

        A function of ``graph.vectors()`` that can be differentiated once.
        """
        try:
            return _Energies.apply(graph.vectors(), graph, self)
        except LookupError:
            return None


def _layer(layer: Layer) -> list[Tensor]:
    w1, b1, w2, b2 = layer.update
    project, _, back = _both(layer.project, layer.project[:, 0])
    return [_wide(layer.table), project, back, *_both(w1, b1), *_both(w2, b2)]


def _both(weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"]) -> list[Tensor]:
    """For ``x W^T + b``: the matrix that x is multiplied by, the bias, and the matrix of the way back."""
    wide = _wide(_wide(weight).t()).t()
    return [_panels(wide.t()), _wide(bias), _panels(wide)]


def _width(tensor: Tensor) -> int:
    return PANEL // tensor.element_size()


def _wide(tensor: Tensor) -> Tensor:
    """Zeros after each row, up to a whole number of panels."""
    return pad(tensor, (0, -tensor.shape[-1] % _width(tensor))) if tensor.dim() else tensor


def _panels(matrix: Float[Tensor, "K N"]) -> Tensor:
    """Columns of a panel side by side, then the next panel."""
    return matrix.reshape(len(matrix), -1, _width(matrix)).transpose(0, 1).contiguous()


def _terms(grid: Grid) -> Tensor:
    """``(6, 16)``: of the six functions, and from the eighth on of their slopes."""
    value, slope, _ = grid.terms.split(TERMS, 1)
    return torch.cat([pad(value, (0, 2)), pad(slope / grid.step, (0, 2))], 1)


class _Energies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, graph: Graph, network: ScalarNetwork) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        n_atoms, n_pairs = graph.n_atoms, graph.n_pairs
        held = graph.numbers, graph.row_pointers(), graph.pairs[1].contiguous(), vectors.double().contiguous()
        threads = min(torch.get_num_threads(), 1 + n_pairs // ENOUGH)
        pairs = _Pairs(n_atoms, n_pairs, threads, *(t.data_ptr() for t in held))
        room = torch.empty(network.room(network.address, n_atoms, n_pairs), dtype=torch.uint8)
        energy = torch.empty(n_atoms, dtype=network.dtype)
        hidden = torch.empty(n_atoms, network.n_hidden, dtype=network.dtype)
        address, memory = ctypes.addressof(pairs), room.data_ptr()
        if network.forward(network.address, address, memory, energy.data_ptr(), hidden.data_ptr()):
            raise LookupError("an element")
        ctx.made = pairs, held, room, network
        return energy, hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_energy: Tensor | None, d_hidden: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs, held, room, network = ctx.made
        out = torch.empty_like(held[3])
        given = [None if t is None else t.contiguous() for t in (d_energy, d_hidden)]
        addresses = (None if t is None else t.data_ptr() for t in given)
        network.backward(network.address, ctypes.addressof(pairs), room.data_ptr(), *addresses, out.data_ptr())
        return out, None, None
