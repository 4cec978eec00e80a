"""NeuralIL's parameters of 2022 (https://github.com/Madsen-s-research-group/neuralil-public-releases, branch main).

The file is a pickle. It is read by a restricted unpickler (:mod:`epot.interchange.module_pickle`) that knows numpy
arrays, a time and the one dataclass; any other name is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..blocks.neuralil_core import DenseCore
from ..errors import ConfigError, ModelFileError
from ..models.neuralil import NeuralIL
from ..potential import Potential
from ..typing import Tensor
from .module_pickle import NUMPY, NumpyArray, Restricted

MODEL = "NeuralILModelInfo"
LIMIT = 2**28
"""Bytes that a file may have; the published ones have 54 thousand."""
NEEDED = ("r_cut", "n_max", "sorted_elements", "embed_d", "core_widths", "params")


class _Info:
    """In the place of ``neuralil.model.NeuralILModelInfo``: attributes as in the file."""


class _Time:
    """In the place of ``datetime.datetime``: nothing of it is needed."""

    def __init__(self, *_: Any) -> None:
        pass


ALLOWED = {**NUMPY, ("neuralil.model", MODEL): _Info, ("datetime", "datetime"): _Time}


def matches(path: str | os.PathLike) -> bool:
    """Whether it looks like the pickle of a NeuralIL model: by its first bytes, without reading it."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(512)
    return head[:1] == b"\x80" and MODEL.encode() in head


def load(path: str | os.PathLike, **options: Any) -> Potential:
    """A potential with the parameters of a file.

    The energies of the published parameters have an arbitrary offset, as they were fitted to forces alone.

    Args:
        path: the pickle.
        options: none.

    Returns:
        A :class:`~epot.models.neuralil.NeuralIL` with the core of 2022, and the Morse baseline where the file has one.

    Raises:
        ModelFileError: the file cannot be read, holds something else, or wants to run code.
        ConfigError: there are options.
    """
    if options:
        raise ConfigError(f"Reading NeuralIL's parameters has no options; given: {', '.join(options)}.")
    info = _read(Path(path))
    lacking = [name for name in NEEDED if not hasattr(info, name)]
    if lacking:
        raise ModelFileError(f"{path} is not the parameters of a NeuralIL model: it lacks {', '.join(lacking)}.")
    flat = dict(_flatten(info.params))
    try:
        model = NeuralIL(
            info.sorted_elements,
            cutoff=info.r_cut,
            n_max=info.n_max,
            embedding=info.embed_d,
            core="dense",
            widths=info.core_widths,
            morse="repulsive" if any(k.startswith("morse/") for k in flat) else "none",
            outlet="swish",
        )
        _fill(model, flat, path)
    except (TypeError, ValueError) as why:
        raise ModelFileError(f"{path} does not describe a NeuralIL model of 2022: {why}") from why
    return model


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ModelFileError(f"There is no file {path}.")
    if path.stat().st_size > LIMIT:
        raise ModelFileError(
            f"{path} has {path.stat().st_size / 2**20:.0f} MiB; parameters of NeuralIL are far smaller."
        )
    try:
        found = Restricted.read(path.read_bytes(), ALLOWED, "a file of parameters of a NeuralIL model")
    except ModelFileError as why:
        raise ModelFileError(f"{path}: {why}") from None
    if not isinstance(found, _Info):
        raise ModelFileError(f"{path} holds a {type(found).__name__}; expected a {MODEL}.")
    return found


def _flatten(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """``core_model/Inlet/kernel`` and so on, in float64."""
    if isinstance(tree, NumpyArray):
        yield path.removeprefix("params/"), torch.from_numpy(tree.values)
    elif isinstance(tree, Mapping):
        for name, inner in tree.items():
            yield from _flatten(inner, f"{path}/{name}" if path else str(name))
    else:
        raise ModelFileError(f"The parameters of this file hold a {type(tree).__name__} at {path or 'the top'}.")


@torch.no_grad()
def _fill(model: NeuralIL, flat: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Copy arrays; each is used once, and flax's kernels are ``(n_in, n_out)``."""
    names = ["Inlet", *(f"Stage_{k}" for k in range(1, len(model.widths)))]
    assert isinstance(model.layers, DenseCore)
    wanted: dict[str, Any] = {"embed/embedding": model.embed}
    for name, layer in zip([*names, "Outlet"], [*model.layers.dense, model.last], strict=True):
        wanted |= {f"core_model/{name}/kernel": layer.weight, f"core_model/{name}/bias": layer.bias}
    for k, norm in enumerate(model.layers.norms):
        wanted |= {f"core_model/LayerNorm_{k}/scale": norm.weight, f"core_model/LayerNorm_{k}/bias": norm.bias}
    wanted |= {"denormalizer/kernel": model.readout.weight, "denormalizer/bias": model.readout.bias}
    if model.pair is not None:
        wanted |= {"morse/embed/embedding": model.pair.embed, "morse/switch_param": model.pair.switch}
    if flat.keys() != wanted.keys():
        odd = sorted(flat.keys() ^ wanted.keys())
        raise ModelFileError(
            f"{path} is not the 2022 model that it says: {', '.join(odd)} should not be, or is lacking."
        )
    for name, target in wanted.items():
        value = flat[name].T if name.endswith("kernel") else flat[name]
        if value.numel() != target.numel() or (target.dim() == 2 and value.shape != target.shape):
            raise ModelFileError(f"{path}: {name} is {tuple(flat[name].shape)}, which does not fit the rest.")
        target.copy_(value.reshape(target.shape))
