"""Descriptors of structures, by themselves: rows with labeled columns, and their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
import torch

from ..data.structure import Structure
from ..errors import ConfigError, DataError
from ..geometry.graph import Graph, build
from ..geometry.neighbors import neighbor_pairs
from ..progress import track
from .descriptor import Descriptor, make

LIMIT = 4 * 2**30
"""Bytes that a result may take, unless told otherwise."""
BATCH = 512
"""Atoms that are described at a time."""


@dataclass(frozen=True, eq=False)
class Description:
    """Rows of a descriptor. Arrays are numpy's or torch's, as asked for.

    Attributes:
        values: ``(rows, size)``: a row for each atom (each structure, for descriptors of whole structures).
        columns: what each component is, ``size`` texts.
        structure: which of the structures a row belongs to, ``(rows,)``.
        atom: the atom in it; -1 for rows of whole structures, ``(rows,)``.
        gradients: on request. Of an atom's row: by the vector to each of its neighbors, ``dG_i/dr_ij``,
            ``(pairs, 3, size)``, 1/Å; the derivative by the position of j is that, and by that of i minus the sum over
            its pairs. Of a structure's row: by the position of each atom, ``(atoms, 3, size)``.
        pairs: with gradients, rows ``i`` (an index into ``values``) and ``j`` of each pair, ``(2, pairs)``.
        shifts: with gradients, which periodic image of j, ``(pairs, 3)``.
    """

    values: Any
    columns: list[str]
    structure: Any
    atom: Any
    gradients: Any = None
    pairs: Any = None
    shifts: Any = None

    def __repr__(self) -> str:
        extra = "" if self.gradients is None else f", gradients {tuple(self.gradients.shape)}"
        return f"Description({tuple(self.values.shape)}{extra})"


def describe(
    descriptor: str | Mapping[str, Any] | Descriptor,
    structures: Structure | ase.Atoms | Sequence[Structure | ase.Atoms],
    *,
    gradients: bool = False,
    output: str = "numpy",
    memory: int = LIMIT,
    **settings: Any,
) -> Description:
    """Describe every atom (or structure).

    Args:
        descriptor: a name, a configuration, or one made before.
        structures: one or many.
        gradients: also the derivatives.
        output: kind of the arrays, ``"numpy"`` or ``"torch"``. For tensors that remember the positions
            use a :class:`Descriptor` on a graph.
        memory: bytes that the result may take.
        **settings: of the descriptor; elements are those of the structures unless given.

    Raises:
        ConfigError: an unknown descriptor or setting.
        DataError: no structure, or a result larger than ``memory``.
        UnknownElementError: an element that the descriptor was not made for.
    """
    given = [structures] if isinstance(structures, (Structure, ase.Atoms)) else list(structures)
    found = [Structure.from_ase(s) if isinstance(s, ase.Atoms) else s for s in given]
    if not found:
        raise DataError("There is nothing to describe: no structure was given.")
    if output not in ("numpy", "torch"):
        raise ConfigError(f"output is {output!r}; expected 'numpy' or 'torch'.")
    if not isinstance(descriptor, Descriptor):
        config = {"name": descriptor} if isinstance(descriptor, str) else dict(descriptor)
        descriptor = make(config | settings, sorted({int(z) for s in found for z in s.numbers}))
    elif settings:
        raise ConfigError(f"The descriptor is made already; settings do not change it: {', '.join(settings)}.")
    rows = len(found) if descriptor.whole else sum(len(s) for s in found)
    _fits(rows * descriptor.size * 8, memory, f"{rows} rows of {descriptor.size} components")
    parts, used = [], 0
    for batch in track(_batches(found), "describing"):
        if gradients:  # of this batch, before it is made
            used += 24 * descriptor.size * _sources(descriptor, batch)
            _fits(used, memory, f"Gradients of {rows} rows of {descriptor.size} components")
        parts.append(_part(descriptor, batch, gradients))
    return _joined(descriptor, found, parts, gradients, output)


def _fits(size: int, memory: int, what: str) -> None:
    """Refuse what is larger than memory.

    Raises:
        DataError: says how large, and what to reduce.
    """
    if size > memory:
        raise DataError(
            f"{what} take {size / 2**30:.2g} GiB and {memory / 2**30:.2g} GiB are allowed: describe fewer structures "
            "at a time, choose a smaller basis or a shorter cutoff, leave the gradients out, or raise `memory`."
        )


def _batches(structures: list[Structure]) -> list[list[Structure]]:
    made: list[list[Structure]] = [[]]
    for s in structures:
        if made[-1] and sum(len(x) for x in made[-1]) + len(s) > BATCH:
            made.append([])
        made[-1].append(s)
    return made


def _sources(descriptor: Descriptor, batch: list[Structure]) -> int:
    if descriptor.whole:
        return sum(len(s) for s in batch)
    return sum(len(neighbor_pairs(s, descriptor.cutoff)[0]) for s in batch)


def _part(descriptor: Descriptor, batch: list[Structure], gradients: bool) -> tuple[Any, Any, Graph]:
    graph = build(batch, descriptor.cutoff, elements=descriptor.elements)
    with torch.no_grad():
        values = descriptor(graph)
    return values, descriptor.jacobian(graph).detach() if gradients else None, graph


def _joined(
    descriptor: Descriptor, structures: list[Structure], parts: list[Any], gradients: bool, output: str
) -> Description:
    sizes = [len(s) for s in structures]
    if descriptor.whole:
        owner, atom = np.arange(len(sizes)), np.full(len(sizes), -1)
    else:
        owner, atom = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(n) for n in sizes])
    kind = (lambda t: t.numpy()) if output == "numpy" else (lambda t: t)
    made: dict[str, Any] = {"values": kind(torch.cat([p[0] for p in parts]))}
    if gradients:
        made["gradients"] = kind(torch.cat([p[1] for p in parts]))
    if gradients and not descriptor.whole:
        starts = np.cumsum([0] + [p[2].n_atoms for p in parts]).tolist()
        made["pairs"] = kind(torch.cat([p[2].pairs + n for p, n in zip(parts, starts, strict=False)], 1))
        made["shifts"] = kind(torch.cat([p[2].shifts for p in parts]))
    indices = {"structure": kind(torch.from_numpy(owner)), "atom": kind(torch.from_numpy(atom))}
    return Description(columns=descriptor.columns(), **made, **indices)
