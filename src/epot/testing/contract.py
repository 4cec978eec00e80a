"""Checks of what a potential promises as a program: its configuration, its file, and that it touches nothing else."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from .. import modelfile
from ..geometry.graph import Graph
from ..potential import Output, parts
from ..predict import predict
from ..typing import Tensor
from .case import Case, arguments, rebuilt, registered
from .check import Found, absent, check


@check
def configuration(case: Case) -> Found:
    """The constructor's arguments are kept under their own names, survive JSON and build an equal potential."""
    made = rebuilt(case.native)
    for old, new in _leaves(case.native, made):
        if arguments(old) != arguments(new):
            return Found(math.inf, 0, f"{type(old).__name__}: {arguments(old)} became {arguments(new)}")
    if sorted(made.state_dict()) != sorted(case.native.state_dict()):
        return Found(math.inf, 0, "the rebuilt potential has other learned tensors than the original")
    if case.native.elements != made.elements or case.native.cutoff != made.cutoff:
        return Found(math.inf, 0, "the rebuilt potential has another cutoff, or other elements")
    if len(repr(case.native)) > 20_000:
        return Found(math.inf, 0, f"its repr has {len(repr(case.native))} characters; leave out tensors and lists")
    return Found(0, 0, "JSON of the configuration builds an equal potential")


@check
def save_load(case: Case) -> Found:
    """A potential that was saved and loaded predicts exactly the same: everything learned is in its state."""
    if not registered(case.native):
        return absent("not a registered model, so a model file cannot name it")
    graph = case.graph(list(case.systems.values()))
    with tempfile.TemporaryDirectory() as folder:
        path = modelfile.save(Path(folder) / "model.epot", case.native)
        again, _ = modelfile.load(path)
    before, after = predict(case.native, graph), predict(again, graph)
    worst = max(_largest(before.energy - after.energy), _largest(_forces(before.forces) - _forces(after.forces)))
    return Found(worst, 0, "eV or eV/Å between the potential and its file")


@check
def side_effects(case: Case) -> Found:
    """Building and predicting leave the default dtype and device, the grad mode and all random states alone."""
    graph = case.graph(list(case.systems.values()))
    before = _globals()
    try:
        rebuilt(case.potential)
        predict(case.potential, graph, ("forces", "virial"))
        changed = [name for name, value in _globals().items() if value != before[name]]
    finally:
        torch.set_default_dtype(before["default dtype"])
        torch.set_grad_enabled(before["grad mode"])
        torch.set_num_threads(before["threads"])
    return Found(math.inf if changed else 0, 0, f"changed: {', '.join(changed) or 'nothing'}")


@check
def graph_untouched(case: Case) -> Found:
    """A prediction changes neither the graph nor the potential."""
    graph = case.graph(list(case.systems.values()))
    tensors = {name: t for name, t in vars(graph).items() if isinstance(t, Tensor)}
    copies = {name: t.clone() for name, t in tensors.items()}
    state = {name: t.clone() for name, t in case.potential.state_dict().items()}
    predict(case.potential, graph, ("forces", "virial"))
    with torch.no_grad():
        case.potential(graph)
    changed = [f"graph.{name}" for name, t in tensors.items() if not torch.equal(t, copies[name])]
    after = case.potential.state_dict()
    changed += [name for name, t in state.items() if t.shape != after[name].shape or not _same(t, after[name])]
    return Found(math.inf if changed else 0, 0, f"changed in place: {', '.join(changed) or 'nothing'}")


@check
def repeatable(case: Case) -> Found:
    """The same question twice gives the same answer, also with another question in between."""
    graph = case.graph(list(case.systems.values()))
    first = predict(case.potential, graph)
    predict(case.potential, case.graph(case.molecule()))
    second = predict(case.potential, graph)
    worst = max(_largest(first.energy - second.energy), _largest(_forces(first.forces) - _forces(second.forces)))
    return Found(worst, 0, "eV or eV/Å between two equal calls")


@check
def shapes(case: Case) -> Found:
    """Everything is one row per atom and finite: energies, members, features, charges; forces too."""
    for name, structure in case.systems.items():
        graph = case.graph(structure)
        out, problem = case.potential(graph), ""
        if not isinstance(out, Output):
            return Found(math.inf, 0, f"forward returned {type(out).__name__}, not an epot.Output")
        for field, dimensions in (("energy", 1), ("members", 2), ("features", 2), ("charges", 1)):
            problem = problem or _shape_problem(graph, getattr(out, field), field, dimensions)
        forces = case.predict(structure).forces
        if not problem and (forces is None or not bool(torch.isfinite(forces).all())):
            problem = "the forces are not finite"
        if problem:
            return Found(math.inf, 0, f"{name}: {problem}")
    return Found(0, 0, "one finite row per atom in every system")


def _shape_problem(graph: Graph, value: Tensor | None, field: str, dimensions: int) -> str:
    if value is None:
        return ""
    if value.dim() != dimensions or value.shape[0] != graph.n_atoms:
        return f"`{field}` has shape {tuple(value.shape)} for {graph.n_atoms} atoms"
    if not value.dtype.is_floating_point or not bool(torch.isfinite(value).all()):
        return f"`{field}` holds values that are not finite floating-point numbers"
    return ""


def _leaves(old: torch.nn.Module, new: torch.nn.Module) -> list[tuple]:
    if parts(old):
        return [leaf for a, b in zip(parts(old), parts(new), strict=True) for leaf in _leaves(a, b)]
    return [(old, new)]


def _globals() -> dict:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002  (watching the global state, not using it)
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's random state": torch.random.get_rng_state().tolist(),
        "numpy's random state": repr(numpy_state),
    }


def _forces(forces: Tensor | None) -> Tensor:
    return torch.zeros(0) if forces is None else forces


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max()) if difference.numel() else 0.0


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))
