"""Tensors by name, as ``torch.save(model.state_dict(), path)`` writes them; nothing of a file is run."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import ModelFileError
from .module_pickle import members


def peek(path: str | os.PathLike) -> Mapping[str, Any] | None:
    """What a file holds by name; None where it is not such a file.

    Raises:
        ModelFileError: it is a damaged archive.
    """
    if not os.path.isfile(path):
        return None
    try:
        return _by_name(_loaded(path))
    except ModelFileError:
        raise
    except Exception:  # whatever it is, it is not this
        return None


def read(path: str | os.PathLike, what: str) -> Mapping[str, Any]:
    """What a file holds by name.

    Args:
        path: of the file.
        what: is expected (``"the state_dict of a GemNet"``); for messages.

    Raises:
        ModelFileError: the file is damaged or cannot be read without running code from it, or holds something else.
    """
    expected = f"expected {what}, as torch.save(model.state_dict(), path) writes it."
    try:
        state = _loaded(path)
    except ModelFileError:
        raise
    except Exception as why:  # another file may throw anything
        if isinstance(why, pickle.UnpicklingError) and _is_saved(path):
            raise ModelFileError(f"{path} holds more than tensors, and nothing of it was run; {expected}") from None
        raise ModelFileError(f"{path} is not a file of tensors; {expected}") from None
    found = _by_name(state)
    if found is None:
        raise ModelFileError(f"{path} holds a {type(state).__name__}, not tensors by name; {expected}")
    return found


def _loaded(path: str | os.PathLike) -> Any:
    members(path)  # says what is wrong with a damaged archive
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on pickles that it then refuses
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_saved(path: str | os.PathLike) -> bool:
    """Whether a file begins as ``torch.save`` begins it: an archive, or a bare pickle of old."""
    with open(path, "rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def _by_name(state: Any) -> Mapping[str, Any] | None:
    return state if isinstance(state, Mapping) and all(isinstance(name, str) for name in state) else None
