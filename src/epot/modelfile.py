"""``model.epot``: one safetensors file with the configuration and everything else as JSON in its header.

Nothing in a file is executed when it is loaded: there is no pickle, and the only code that a file can
name is a registered model (:mod:`epot.registry`), built through its checked configuration.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from .errors import ConfigError, ModelFileError
from .files import write_atomic
from .potential import Potential, make
from .typing import Tensor

FORMAT = 1
KEY = "epot"
UPGRADES: dict[int, Callable[[dict], dict]] = {}
"""``{1: v1_to_v2, ...}``: functions of the JSON header; a file of every released format stays in the tests."""


def save(path: str | os.PathLike, potential: Potential, about: Mapping[str, Any] | None = None) -> Path:
    """Write a potential; the previous file stays intact until the new one is complete.

    Args:
        path: ends in ``.epot`` by custom.
        potential: any.
        about: what travels with it (data hash, calibration, verdict, citations, ...); JSON only.

    Raises:
        ModelFileError: the file could not be written (full disk, no permission).
    """
    header = {
        "format": FORMAT,
        "config": potential.config(),
        "units": {"energy": "eV", "length": "Å"},
        "about": dict(about or {}),
    }
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in potential.state_dict().items()}
    payload = safetensors.torch.save(tensors, metadata={KEY: json.dumps(header, ensure_ascii=False)})
    return write_atomic(path, payload, error=ModelFileError)


def load(path: str | os.PathLike, device: str = "cpu") -> tuple[Potential, dict[str, Any]]:
    """Read a potential and what travels with it. Executes nothing from the file.

    Raises:
        ModelFileError: missing, truncated, not a model file, of a newer format, or its tensors do not
            fit its configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"There is no model file {path}.")
    header, tensors = _read(path)
    try:
        with torch.random.fork_rng(devices=[]):  # constructors draw initial weights: leave the caller's state alone
            potential = make(header["config"])
    except (ConfigError, TypeError, ValueError, RuntimeError, KeyError) as why:
        raise ModelFileError(f"{path}: its configuration does not build a potential: {why}") from why
    _restore(potential, tensors, path)
    return potential.to(device).eval(), header["about"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            raw = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as why:
        raise ModelFileError(f"{path} is not a complete model file ({why}): it is truncated or something else.") from why
    if raw is None:
        raise ModelFileError(f"{path} is a safetensors file, but not one that epot wrote: it has no {KEY!r} header.")
    try:
        header = json.loads(raw)
        version = header["format"]
        if not isinstance(version, int) or not isinstance(header["config"], dict):
            raise TypeError("format is not a number or config not a mapping")
        header.setdefault("about", {})
    except (ValueError, KeyError, TypeError, RecursionError) as why:
        raise ModelFileError(f"{path} has a header that epot cannot read: {why!r}.") from why
    if version > FORMAT or version < 1:
        raise ModelFileError(
            f"{path} has format {version}; this epot reads formats 1 to {FORMAT}. Upgrade epot: pip install -U epot."
        )
    for old in range(version, FORMAT):
        header = UPGRADES[old](header)
    return header, tensors


def _restore(potential: Potential, tensors: dict[str, Tensor], path: Path) -> None:
    """Put tensors in place. Parameters and buffers may have been given other sizes by a fit (sparse points)."""
    wanted = potential.state_dict()
    if missing := sorted(set(wanted) - set(tensors)):
        raise ModelFileError(f"{path} lacks the tensors {', '.join(missing[:5])}: it is not complete.")
    if extra := sorted(set(tensors) - set(wanted)):
        raise ModelFileError(f"{path} holds tensors that its configuration has no place for: {', '.join(extra[:5])}.")
    modules = dict(potential.named_modules())
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = modules[owner]
        if tensor.dim() != wanted[name].dim() and wanted[name].numel() > 0:
            raise ModelFileError(f"{path}: tensor {name} has shape {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}.")
        if leaf in module._parameters:
            module._parameters[leaf] = torch.nn.Parameter(tensor.clone())
        else:
            module._buffers[leaf] = tensor.clone()
