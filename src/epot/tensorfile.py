"""Safetensors files, read from one opening: what a writer replaces meanwhile is read whole, as it was or as it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import load

from .typing import Tensor


def read(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    ``safetensors.safe_open`` opens a file by its name twice, for the header and for the numbers, and a file that a
    fit replaces in between is then read wrongly or not at all.

    Raises:
        OSError: it cannot be opened.
        SafetensorError, ValueError, KeyError, TypeError, RuntimeError: it is damaged, or holds what torch has no type
            for.
    """
    payload = Path(path).read_bytes()
    tensors = load(payload)  # of safetensors: it checks the header and runs nothing
    size = int.from_bytes(payload[:8], "little")
    return tensors, json.loads(payload[8 : 8 + size]).get("__metadata__") or {}
