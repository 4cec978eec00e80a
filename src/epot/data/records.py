"""One structure as bytes and back, without pickle: a JSON header and raw arrays."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import DataError
from .structure import LABELS, Structure

_LENGTH = struct.Struct("<I")
_KINDS = "biufc"
_ARRAY = "__array__"


def encode_mapping(values: Mapping[str, Any]) -> bytes:
    """A mapping of numbers, texts, lists, mappings and arrays; other objects are kept as their text."""
    buffers: list[bytes] = []
    text = json.dumps(_plain(values, buffers)).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *buffers])


def decode_mapping(payload: bytes, what: str = "a record") -> dict[str, Any]:
    """The inverse of :func:`encode_mapping`. Executes nothing.

    Raises:
        DataError: the bytes are not what was written.
    """
    try:
        (length,) = _LENGTH.unpack_from(payload)
        made = _restore(json.loads(payload[4 : 4 + length].decode()), payload, 4 + length)
        if not isinstance(made, dict):
            raise TypeError("not a mapping")
    except (ValueError, TypeError, KeyError, IndexError, struct.error, RecursionError, OverflowError) as why:
        raise DataError(f"{what} is damaged ({type(why).__name__}: {why}).") from None
    return made


def _plain(value: Any, buffers: list[bytes]) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v, buffers) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, buffers) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _KINDS:
            return _plain(value.tolist(), buffers)
        data = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False)).tobytes()
        start = sum(map(len, buffers))
        buffers.append(data)
        return {_ARRAY: [value.dtype.newbyteorder("<").str, list(value.shape), start]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _restore(value: Any, payload: bytes, base: int) -> Any:
    if isinstance(value, list):
        return [_restore(v, payload, base) for v in value]
    if not isinstance(value, dict):
        return value
    if _ARRAY not in value:
        return {k: _restore(v, payload, base) for k, v in value.items()}
    name, shape, start = value[_ARRAY]
    kind = np.dtype(str(name))
    if kind.kind not in _KINDS or any(not isinstance(k, int) or k < 0 for k in shape) or start < 0:
        raise ValueError(f"an array of {name!r} with shape {shape}")
    count = int(np.prod([int(k) for k in shape], dtype=object)) if shape else 1
    if start + count * kind.itemsize > len(payload) - base:
        raise ValueError("an array is longer than the record")
    return np.frombuffer(payload, kind, count, base + start).reshape(shape).copy()


def encode(structure: Structure) -> bytes:
    """Everything of a structure."""
    values: dict[str, Any] = {"numbers": structure.numbers, "positions": structure.positions, "cell": structure.cell}
    values["pbc"] = structure.pbc
    values |= {label: getattr(structure, label) for label in LABELS if structure.has(label)}
    return encode_mapping(values | {"charge": structure.charge} | extras(structure))


def extras(structure: Structure) -> dict[str, Any]:
    """What is neither atoms, cell nor label."""
    found: dict[str, Any] = {"spin": structure.spin, "config_type": structure.config_type, "group": structure.group}
    found |= {"source": structure.source, "info": structure.info, "arrays": structure.arrays}
    return {k: v for k, v in found.items() if v not in (None, "") and (not isinstance(v, Mapping) or v)}


def decode(payload: bytes, what: str = "a record") -> Structure:
    """The inverse of :func:`encode`.

    Raises:
        DataError: the bytes are not what was written.
    """
    values = decode_mapping(payload, what)
    try:
        return Structure(**values)
    except TypeError as why:
        raise DataError(f"{what} is damaged ({why}).") from None
