"""Checkpoints: one safetensors file with tensors and JSON, written beside and renamed. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from .. import tensorfile
from ..errors import EpotError, FitError
from ..files import write_atomic
from ..typing import Tensor

KEY = "epot-checkpoint"


def save(path: str | os.PathLike, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint; the previous one stays intact until the new one is complete.

    Raises:
        FitError: the file could not be written (full disk); the previous checkpoint is untouched.
    """
    kept = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    payload = safetensors.torch.save(kept, metadata={KEY: json.dumps(dict(facts))})
    try:
        write_atomic(path, payload)
    except EpotError as why:
        raise FitError(
            f"The checkpoint could not be written: {why} Free some space and run the same command again: "
            "it continues from the previous checkpoint."
        ) from why


def load(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of a checkpoint; None where there is none.

    Raises:
        FitError: the file is not a checkpoint that epot wrote, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        tensors, metadata = tensorfile.read(path)
        facts = json.loads(metadata[KEY])
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as why:
        raise FitError(f"{path} is not a complete checkpoint ({why!r}). Delete it to start this stage again.") from why
    return tensors, facts


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors ``"<parameter>.<name>"`` and JSON (numbers and the groups' settings)."""
    raw = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, state in raw["state"].items():
        numbers[str(index)] = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers[str(index)][name] = value
    return tensors, {"numbers": numbers, "groups": raw["param_groups"]}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """The inverse of :func:`pack_optimizer`, into an optimizer that was made alike.

    Raises:
        FitError: it was made otherwise, by another version.
    """
    there, here = facts["groups"], optimizer.param_groups
    shape = lambda groups: [(len(g["params"]), g.get("share")) for g in groups]  # noqa: E731
    if shape(there) != shape(here):
        raise FitError(
            f"The checkpoint has an optimizer of {len(there)} groups of parameters, {[n for n, _ in shape(there)]} in "
            f"each; this version of epot makes {[n for n, _ in shape(here)]}, or gives them other settings. Go on with "
            "the version that wrote it (config.yaml names it), or delete the checkpoint to start this stage again."
        )
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in facts["numbers"].items()}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = [dict(group) for group in facts["groups"]]
    for group in groups:  # JSON has no tuples
        if "betas" in group:
            group["betas"] = tuple(group["betas"])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With ``prefix/`` before each name."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose name starts with ``prefix/``, without it."""
    return {k.removeprefix(prefix + "/"): v for k, v in tensors.items() if k.startswith(prefix + "/")}


@torch.no_grad()
def restore(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors into a module, also those to which a stage has given another size (sparse points).

    Raises:
        FitError: names do not agree.
    """
    wanted = module.state_dict()
    if wanted.keys() != tensors.keys():
        odd = sorted(wanted.keys() ^ tensors.keys())
        raise FitError(f"The checkpoint is of another potential: {', '.join(odd[:5])} are in one of the two only.")
    modules = dict(module.named_modules())
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        holder = modules[owner]
        if tensor.shape == wanted[name].shape:
            wanted[name].copy_(tensor)
        elif leaf in holder._parameters:
            kept = holder._parameters[leaf]
            holder._parameters[leaf] = torch.nn.Parameter(
                tensor.clone(), requires_grad=kept is not None and kept.requires_grad
            )
        else:
            holder._buffers[leaf] = tensor.clone()
