"""``model.epot``: one safetensors file with the configuration and everything else as JSON in its header.

Nothing in a file is executed when it is loaded: there is no pickle, and the only code that a file can
name is a registered model (:mod:`epot.registry`), built through its checked configuration.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch.overrides import TorchFunctionMode

from . import tensorfile
from .errors import ModelFileError
from .files import write_atomic
from .potential import Potential, make
from .typing import Tensor

FORMAT = 3
KEY = "epot"
LARGEST = 10_000_000  # no whole number in a configuration is larger


def _v1_to_v2(header: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A GAP has several kernels, each with its sparse points, and its kernel matrix is made when it is needed."""
    for name in [n for n in tensors if n.endswith("sparse") and f"{n[:-6]}counts" in tensors]:
        start = name[:-6]
        tensors[f"{start}terms.0.points"] = tensors.pop(name)
        tensors[f"{start}terms.0.counts"] = tensors.pop(f"{start}counts")
        tensors[f"{start}readout.precision"] = torch.zeros(0, dtype=torch.float64)
    return header


def _v2_to_v3(header: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Quadruplets of GemNet had all harmonics, and no word for it."""
    parts = [header["config"]]
    while parts:
        part = parts.pop()
        parts += [p for p in (part.values() if isinstance(part, dict) else part) if isinstance(p, (dict, list))]
        if isinstance(part, dict) and part.get("name") == "gemnet" and part.get("quadruplets"):
            part.setdefault("dihedral", "published")
    return header


UPGRADES: dict[int, Callable[[dict, dict], dict]] = {1: _v1_to_v2, 2: _v2_to_v3}
"""``{1: v1_to_v2, ...}``: functions of the JSON header and the tensors, which they may change; a file of every
released format stays in the tests."""


def save(path: str | os.PathLike, potential: Potential, about: Mapping[str, Any] | None = None) -> Path:
    """Write a potential; the previous file stays intact until the new one is complete.

    Args:
        path: ends in ``.epot`` by custom.
        potential: any.
        about: what travels with it (data hash, calibration, verdict, citations, ...); JSON, numpy numbers and
            arrays; numbers that are not finite become null.

    Raises:
        ModelFileError: the file could not be written (full disk, no permission), or ``about`` is not JSON.
        ConfigError: a model file cannot name the potential's class.
    """
    header = {
        "format": FORMAT,
        "config": potential.config(),
        "units": {"energy": "eV", "length": "Å"},
        "about": _plain(dict(about or {}), "about"),
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
    _refuse_huge(header["config"], path)
    allowance = _Allowance(sum(t.numel() for t in tensors.values()))
    try:
        # constructors draw initial weights: leave the caller's state alone
        with torch.random.fork_rng(devices=[]), allowance:
            potential = make(header["config"])
    except _TooMuch as why:
        raise ModelFileError(f"{path}: {why}") from None
    except Exception as why:  # what constructors make of a hostile configuration can be anything
        raise ModelFileError(f"{path}: its configuration does not build a potential: {why}") from why
    _restore(potential, tensors, path)
    return potential.to(device).eval(), header["about"]


class _Allowance(TorchFunctionMode):
    """Stops a constructor that asks torch for far more numbers than the file has, before they are allocated."""

    def __init__(self, held: int) -> None:
        super().__init__()
        self.held = held
        self.asked = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in MADE:
            size = kwargs.get("size", args[:1] if func is torch.full else args)
            sides = size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size
            self.asked += math.prod(sides) ** (2 if func is torch.eye and len(sides) == 1 else 1)
            if self.asked > 10 * self.held + LARGEST:
                raise _TooMuch(f"its configuration asks for {self.asked:.1e} numbers but it holds {self.held:.1e}.")
        return func(*args, **kwargs)


class _TooMuch(Exception):
    """More numbers than a file allows."""


MADE = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye}
"""What parameters and buffers begin as."""


def _refuse_huge(config: Any, path: Path) -> None:
    """Refuse a configuration with a number that cannot be the size of anything."""
    values = [config]
    while values:
        value = values.pop()
        values += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ModelFileError(f"{path}: its configuration holds {value}, which cannot be the size of anything.")


def _plain(value: Any, where: str) -> Any:
    """``value`` as strict JSON."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if hasattr(value, "tolist"):  # numpy and torch
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(v, where) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise ModelFileError(f"{where} is of type {type(value).__name__}, which a model file cannot hold; give JSON.")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        tensors, metadata = tensorfile.read(path)
        raw = metadata.get(KEY)
    except Exception as why:  # safetensors raises its own, and whatever torch makes of odd shapes and types
        raise ModelFileError(f"{path} is not a model file, or not a complete one: {why}") from why
    if raw is None:
        raise ModelFileError(f"{path} is a safetensors file, but not one that epot wrote: it has no {KEY!r} header.")
    try:
        header = json.loads(raw)
        version = header["format"]
        if not isinstance(version, int) or not isinstance(header["config"], dict):
            raise TypeError("format is not a number or config not a mapping")
        if not isinstance(header.setdefault("about", {}), dict):
            raise TypeError("about is not a mapping")
    except (ValueError, KeyError, TypeError, RecursionError) as why:
        raise ModelFileError(f"{path} has a header that epot cannot read: {why!r}.") from why
    if version > FORMAT or version < 1:
        raise ModelFileError(
            f"{path} has format {version}; this epot reads formats 1 to {FORMAT}. Upgrade epot: pip install -U epot."
        )
    for old in range(version, FORMAT):
        header = UPGRADES[old](header, tensors)
    return header, tensors


def _refuse_misfit(tensor: Tensor, wanted: Tensor, label: str, exact: bool) -> None:
    """Sizes may have been changed by a fit, but not of torch's own layers, whose sizes the configuration says."""
    dimensions = tensor.dim() != wanted.dim() and wanted.numel() > 0
    if dimensions or (exact and tensor.shape != wanted.shape):
        raise ModelFileError(f"{label} has shape {tuple(tensor.shape)}, not {tuple(wanted.shape)}.")
    if tensor.is_floating_point() != wanted.is_floating_point() or tensor.is_complex() != wanted.is_complex():
        raise ModelFileError(f"{label} has the type {tensor.dtype}, not {wanted.dtype}.")
    if tensor.is_floating_point() and bool(tensor.isnan().any()):
        raise ModelFileError(f"{label} holds NaN: the fit that made it went wrong.")


def _restore(potential: Potential, tensors: dict[str, Tensor], path: Path) -> None:
    """Put tensors in place. Parameters and buffers may have been given other sizes by a fit (sparse points)."""
    wanted = potential.state_dict()
    if missing := sorted(set(wanted) - set(tensors)):
        raise ModelFileError(f"{path} lacks the tensors {', '.join(missing[:5])}: it is not complete.")
    if extra := sorted(set(tensors) - set(wanted)):
        raise ModelFileError(f"{path} holds tensors that its configuration has no place for: {', '.join(extra[:5])}.")
    _take_precision(potential, tensors)
    modules = dict(potential.named_modules())
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = modules[owner]
        own = type(module).__module__.startswith("torch.")
        _refuse_misfit(tensor, wanted[name], f"{path}: tensor {name}", exact=own)
        if leaf in module._parameters:
            if bool(tensor.isinf().any()):
                raise ModelFileError(f"{path}: tensor {name} holds infinite numbers: the fit that made it went wrong.")
            module._parameters[leaf] = torch.nn.Parameter(tensor.clone())
        else:
            module._buffers[leaf] = tensor.clone()


def _take_precision(potential: Potential, tensors: dict[str, Tensor]) -> None:
    """Terms that were converted as a whole before they were saved are again: constants are in no file."""
    for name, term in potential.named_modules():
        own = dict(term.named_parameters(prefix=name)) if isinstance(term, Potential) else {}
        saved, made = ({t[n].dtype for n in own} for t in (tensors, own))
        if len(saved) == len(made) == 1 and saved != made:
            term.to(saved.pop())
