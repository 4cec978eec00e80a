"""Weights of e3nn's modules as plain matrices, from modules that were read and never run.

e3nn divides by the square root of the number of inputs when it evaluates; each module keeps its factors beside its
weights, and here they are multiplied in. Modules are :class:`~epot.interchange.module_pickle.Recorded`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..blocks.equivariant import Irrep, format_irreps, parse_irreps
from ..errors import ModelFileError
from ..typing import Float, Tensor
from .module_pickle import Recorded


class Linear(NamedTuple):
    """A linear map of tensors.

    Attributes:
        maps: weights ``(n_in, n_out)`` by positions of the irreps that they connect.
        biases: by position of the irreps that they are added to.
        irreps_in, irreps_out: what the positions mean.
    """

    maps: dict[tuple[int, int], Float[Tensor, "n_in n_out"]]
    biases: dict[int, Float[Tensor, " n_out"]]
    irreps_in: tuple[Irrep, ...]
    irreps_out: tuple[Irrep, ...]

    def dense(self, degree: int) -> Float[Tensor, "n_in n_out"]:
        """All weights between irreps of a degree, those in front of others first; zero where there are none."""
        ins, outs = ([k for k, i in enumerate(side) if i[1] == degree] for side in (self.irreps_in, self.irreps_out))
        like = next(iter(self.maps.values()))
        blocks = [
            torch.cat([self.maps.get((a, b), like.new_zeros(self.irreps_in[a][0], self.irreps_out[b][0])) for a in ins])
            for b in outs
            if ins
        ]
        width = sum(self.irreps_in[a][0] for a in ins)
        return torch.cat(blocks, 1) if blocks else like.new_zeros(width, sum(self.irreps_out[b][0] for b in outs))


def irreps(value: Any) -> tuple[Irrep, ...]:
    """Multiplicity, degree and parity of each part.

    Raises:
        ModelFileError: these are no irreps.
    """
    try:
        if isinstance(value, str):
            return parse_irreps(value)
        return tuple((int(n), int(d), int(p)) for n, (d, p) in map(_pair, value.args[0]))
    except (AttributeError, IndexError, TypeError, ValueError):
        raise ModelFileError(f"irreps were expected; this is {value!r}.") from None


def _pair(part: Any) -> tuple[Any, tuple[Any, Any]]:
    flat = part.args[0] if len(part.args) == 1 else part.args
    multiplicity, irrep = flat
    degree, parity = irrep.args[0] if len(irrep.args) == 1 else irrep.args
    return multiplicity, (degree, parity)


def natural(value: Any, what: str) -> list[int]:
    """Multiplicities of degrees 0, 1, ..., which must follow each other with the parity of harmonics.

    Raises:
        ModelFileError: there are others.
    """
    found = irreps(value)
    if any((degree, parity) != (k, (-1) ** k) for k, (_, degree, parity) in enumerate(found)):
        raise ModelFileError(
            f"{what}: {format_irreps(found)}; expected one part for each degree from 0, with the parity of "
            "harmonics, as in 128x0e+128x1o+128x2e."
        )
    return [n for n, _, _ in found]


def linear(module: Any, where: str) -> Linear:
    """Weights and biases of ``o3.Linear``, factors included.

    Raises:
        ModelFileError: it is something else.
    """
    _is(module, "Linear", where)
    weight, bias = module.get("weight"), module.get("bias")
    maps: dict[tuple[int, int], Tensor] = {}
    biases: dict[int, Tensor] = {}
    at = bias_at = 0
    for instruction in module.get("instructions"):
        i_in, i_out, shape, factor = instruction.args
        size = math.prod(shape)
        if i_in < 0:
            biases[i_out] = bias[bias_at : bias_at + size] * factor
            bias_at += size
        else:
            maps[i_in, i_out] = weight[at : at + size].view(tuple(shape)) * factor
            at += size
    if at != weight.numel():
        raise ModelFileError(f"{where} has {weight.numel()} weights; its instructions ask for {at}.")
    return Linear(maps, biases, irreps(module.get("irreps_in")), irreps(module.get("irreps_out")))


def by_element(module: Any, where: str) -> list[Float[Tensor, "elements n_in n_out"]]:
    """Maps of each degree of a ``FullyConnectedTensorProduct`` with one-hot elements, factors included.

    Raises:
        ModelFileError: it is something else.
    """
    _is(module, "FullyConnectedTensorProduct", where)
    weight, found, at = module.get("weight"), {}, 0
    ins = irreps(module.get("irreps_in1"))
    for instruction in module.get("instructions"):
        i_in, _, _, mode, _, factor, shape = instruction.args
        if mode != "uvw":
            raise ModelFileError(f"{where} connects by {mode!r}; expected 'uvw'.")
        degree, size = ins[i_in][1], math.prod(shape)
        product = weight[at : at + size].view(tuple(shape)) * (factor / math.sqrt(2 * degree + 1))
        found[degree] = product.transpose(0, 1)
        at += size
    return [found[degree] for degree in sorted(found)]


class Path(NamedTuple):
    """One of the paths of a tensor product with a weight for each channel.

    Attributes:
        degrees: of the features, the harmonics and the result.
        at: position of its first weight among all.
        channels: how many weights.
        slot: its position among the results.
        factor: of the 3j symbols (of unit norm).
    """

    degrees: tuple[int, int, int]
    at: int
    channels: int
    slot: int
    factor: float


def paths(module: Any, where: str) -> list[Path]:
    """Paths of ``o3.TensorProduct`` with one weight for each channel.

    Raises:
        ModelFileError: it is something else.
    """
    _is(module, "TensorProduct", where)
    ins, harmonics, outs = (irreps(module.get(k)) for k in ("irreps_in1", "irreps_in2", "irreps_out"))
    found, at = [], 0
    for instruction in module.get("instructions"):
        i_in, i_harmonic, i_out, mode, _, factor, shape = instruction.args
        if mode != "uvu":
            raise ModelFileError(f"{where} connects by {mode!r}; expected 'uvu'.")
        degrees = ins[i_in][1], harmonics[i_harmonic][1], outs[i_out][1]
        found.append(Path(degrees, at, math.prod(shape), i_out, float(factor)))
        at += math.prod(shape)
    return found


def network(module: Any, where: str, gain: float) -> list[Float[Tensor, "n_in n_out"]]:
    """Layers of ``FullyConnectedNet`` with silu, for an evaluation that multiplies each silu by ``gain``.

    Raises:
        ModelFileError: it is something else, or has another activation.
    """
    _is(module, "FullyConnectedNet", where)
    made, before = [], 1.0
    layers = module.children()
    for k, layer in enumerate(layers):
        factor = (layer.get("var_out") if k == len(layers) - 1 else 1) / (layer.get("h_in") * layer.get("var_in"))
        made.append(layer.get("weight") * (math.sqrt(factor) * before))
        if k < len(layers) - 1:
            before = activation(layer.get("act"), "silu", f"{where}.layer{k}") / gain
    return made


def activation(module: Any, name: str, where: str) -> float:
    """The factor with which e3nn's ``normalize2mom`` multiplies an activation.

    Raises:
        ModelFileError: it is another activation.
    """
    _is(module, "normalize2mom", f"{where}.act")
    function = module.get("f")
    found = getattr(function, "__name__", type(function).__name__)
    if found != name:
        raise ModelFileError(f"{where} has the activation {found}; only {name} is known here.")
    return 1.0 if module.get("_is_id") else float(module.get("cst"))


def _is(module: Any, kind: str, where: str) -> None:
    if not isinstance(module, Recorded) or module.kind != kind or not module.origin.startswith("e3nn."):
        what = f"{module.origin}.{module.kind}" if isinstance(module, Recorded) else f"{module!r}"
        raise ModelFileError(f"{where} is {what}; expected e3nn's {kind}.")


def padded(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """``x`` in a corner of zeros."""
    made = x.new_zeros(*sizes)
    made[tuple(slice(n) for n in x.shape)] = x
    return made
