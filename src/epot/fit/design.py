"""Rows of the linear problem for any potential with a linear readout.

A potential that knows its rows in closed form has a method ``design(graph, forces=, virial=)``; for any other (and
where it returns None) they are gradients of the summed features, many at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..blocks.design import Design
from ..blocks.readout import LinearReadout
from ..errors import FitError
from ..geometry.graph import Graph
from ..potential import Potential
from ..predict import _assemble, _trace
from ..typing import Tensor

__all__ = ["Design", "design", "design_by_autograd", "learned_readout", "learned_term"]


def learned_term(potential: Potential) -> Potential:
    """The one potential in a sum (or the potential itself) that holds a :class:`LinearReadout` as ``readout``.

    Raises:
        FitError: there is none, or there are several.
    """
    found = [m for m in potential.modules() if isinstance(getattr(m, "readout", None), LinearReadout)]
    if len(found) != 1 or not isinstance(found[0], Potential):
        raise FitError(
            f"A closed-form fit needs one term with a linear readout; this potential has {len(found)}"
            + (f" ({', '.join(type(m).__name__ for m in found)})." if found else ": fit it by descent instead.")
        )
    return found[0]


def learned_readout(potential: Potential) -> LinearReadout:
    """The readout of :func:`learned_term`.

    Raises:
        FitError: there is none, or there are several.
    """
    readout = learned_term(potential).readout
    assert isinstance(readout, LinearReadout)
    return readout


def design(potential: Potential, graph: Graph, *, forces: bool = True, virial: bool = True) -> Design:
    """Rows of energies, forces and virials, in closed form where the learned term knows them.

    Args:
        potential: with one linear readout; its weights do not matter.
        graph: any batch.
        forces, virial: whether those rows are wanted.

    Raises:
        FitError: there is no linear readout, or more than one.
    """
    term = learned_term(potential)
    closed_form: Callable[..., Design | None] | None = getattr(term, "design", None)
    if closed_form is not None:
        made = closed_form(graph.within(term.cutoff), forces=forces, virial=virial)
        if made is not None:
            return made
    return design_by_autograd(potential, graph, forces=forces, virial=virial)


def design_by_autograd(
    potential: Potential, graph: Graph, *, forces: bool = True, virial: bool = True, chunk: int = 64
) -> Design:
    """The same for any potential, by batched gradients of ``chunk`` features at a time.

    Args:
        potential: one whose ``Output.features`` are what its readout is linear in.
        graph: any batch.
        forces, virial: whether those rows are wanted.
        chunk: features differentiated together: memory grows with it.

    Raises:
        FitError: the output has no features.
    """
    with torch.set_grad_enabled(forces or virial):
        traced, leaves = _trace(graph, second=False)
        features = potential(traced).features
        if features is None:
            raise FitError(f"{type(potential).__name__} gives no features: it has no linear readout to solve for.")
        features = features.double()
        sums = features.new_zeros(graph.n_structures, features.shape[1]).index_add(0, graph.owner, features)
    if not (forces or virial):
        return Design(sums)
    total, size = sums.sum(0), features.shape[1]
    rows = features.new_zeros(3 * graph.n_atoms, size)
    strain = features.new_zeros(graph.n_structures, 9, size)
    for start in range(0, size if total.requires_grad else 0, chunk):
        stop = min(start + chunk, size)
        unit = torch.eye(size, dtype=total.dtype, device=total.device)[start:stop]
        slopes = _slopes(total, (leaves.vectors, leaves.positions, leaves.strain), unit)
        for k in range(stop - start):
            g, dx, ds = (None if s is None else s[k] for s in slopes)
            force, box, _ = _assemble(graph, leaves.vectors.detach(), g, dx, ds)
            rows[:, start + k] = force.flatten()
            strain[:, :, start + k] = box.view(-1, 9)
    return Design(sums.detach(), rows, strain if virial else None)


def _slopes(total: Tensor, leaves: tuple[Tensor, ...], units: Tensor) -> list[Tensor | None]:
    """Gradients of ``units @ total``, one on a first axis for each unit; derivatives by hand may not take batches."""
    try:
        found = torch.autograd.grad(
            total, leaves, units, is_grads_batched=True, retain_graph=True, allow_unused=True
        )  # fmt: skip
        return list(found)
    except RuntimeError as why:
        if "atching rule" not in str(why) and "vmap" not in str(why):
            raise
    each = [torch.autograd.grad(total, leaves, unit, retain_graph=True, allow_unused=True) for unit in units]
    return [None if column[0] is None else torch.stack(column) for column in zip(*each, strict=True)]
