"""One label: what is asked of an engine and what comes back, JSON-able."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...errors import EpotError
from ..structure import Structure
from .engines import Engine


def pack(structure: Structure) -> dict[str, Any]:
    """What an engine needs to know of a structure, JSON-able without loss."""
    return {
        "numbers": structure.numbers.tolist(),
        "positions": structure.positions.tolist(),
        "cell": np.asarray(structure.cell).tolist(),
        "pbc": structure.pbc.tolist(),
        "charge": structure.charge,
        "spin": structure.spin,
        "source": structure.source,
    }


def unpack(message: dict[str, Any]) -> Structure:
    """The inverse of :func:`pack`."""
    arrays = {name: np.array(message[name]) for name in ("numbers", "positions", "cell", "pbc")}
    return Structure(**(message | arrays))


def attempt(engine: Engine, structure: Structure, properties: tuple[str, ...]) -> dict[str, Any]:
    """The labels, or the reason why there are none, JSON-able; with the seconds it took."""
    start = time.perf_counter()
    try:
        labels = engine(structure, properties)
        answer: dict[str, Any] = {
            "labels": {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in labels.items()}
        }
        missing = {"energy"} & set(properties) - set(labels)
        if missing:
            answer = {"reason": f"the engine returned no {', '.join(missing)}"}
    except EpotError as why:
        answer = {"reason": str(why)}
    except Exception as why:  # anything an engine raises is a reason to record, never the end of a campaign
        answer = {"reason": f"{type(why).__name__}: {why}"}
    return answer | {"seconds": time.perf_counter() - start}


def bare(structure: Structure) -> Structure:
    """Without labels."""
    return structure.replace(energy=None, forces=None, stress=None, charges=None, dipole=None)
