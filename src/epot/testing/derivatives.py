"""Checks of every derivative against fourth-order central differences in float64, and of conservation laws."""

from __future__ import annotations

import numpy as np
import torch

from ..data.structure import Structure
from ..predict import predict
from ..typing import Tensor
from .case import Case, as_array
from .check import Found, absent, check
from .differences import PLACES, WEIGHTS, agree, along, displacements, strains

ALLOWED = 1e-6  # of the largest value
MANY = 24  # coordinates of a system that are displaced, at most


FLOOR = 1e-2  # eV/Å or eV: where symmetry makes all values vanish, errors are relative to this


def _scale(case: Case, structure: Structure, values: np.ndarray) -> float:
    return max(float(np.abs(values).max(initial=0)), 1e7 * case.noise(structure), FLOOR)


@check
def forces(case: Case) -> Found:
    """Forces are minus the gradient of the energy."""
    worst, where = 0.0, "relative to the largest force"
    for name, s in case.systems.items():
        analytic = as_array(case.predict(s).forces).ravel()
        chosen = case.rng().permutation(analytic.size)[:MANY]
        moves = displacements(s, chosen)
        witness = lambda step, moves=moves: -along(case, moves, step)  # noqa: E731
        error, k = agree(analytic[chosen], witness, _scale(case, s, analytic))
        if not error <= worst:
            worst, where = (
                error,
                f"'{name}', atom {chosen[k] // 3}, {'xyz'[chosen[k] % 3]}; relative to the largest force",
            )
    return Found(worst, ALLOWED, where)


@check
def stress(case: Case) -> Found:
    """The virial is minus the derivative by strain, in all nine components and for every boundary; its parts add up."""
    worst, where = 0.0, "relative to the largest component"
    for name, s in case.systems.items():
        made = case.predict(s, ("virial", "atom_virials"))
        analytic = as_array(made.virial)[0].ravel()
        scale = _scale(case, s, analytic)
        pulls = strains(s)
        witness = lambda step, pulls=pulls: -along(case, pulls, step)  # noqa: E731
        error, k = agree(analytic, witness, scale)
        if not error <= worst:
            worst, where = error, f"'{name}', component {'xyz'[k // 3]}{'xyz'[k % 3]}; relative to the largest"
        parts = float(np.abs(as_array(made.atom_virials).sum(0).ravel() - analytic).max()) / scale
        if not parts <= worst:
            worst, where = parts, f"'{name}': the virials of the atoms do not add up"
    return Found(worst, ALLOWED, where)


@check
def hessian(case: Case) -> Found:
    """The Hessian is minus the gradient of the forces, and symmetric."""
    worst, where = 0.0, "relative to the largest component"
    smallest = min((s for s in case.systems.values() if s.pbc.any()), key=len, default=None)
    for s in [case.molecule()] + ([smallest] if smallest is not None and len(smallest) <= 16 else []):
        analytic = as_array(case.predict(s, ("hessian",)).hessian)
        chosen = case.rng().permutation(len(analytic))[:MANY]
        moves = displacements(s, chosen)
        shape = (len(chosen), -1)
        witness = lambda step, moves=moves, shape=shape: -along(case, moves, step, "forces").reshape(shape)  # noqa: E731
        scale = _scale(case, s, analytic)
        error, _ = agree(analytic[chosen], witness, scale)
        skew = float(np.abs(analytic - analytic.T).max()) / scale
        for value, what in ((error, "against finite differences of forces"), (skew, "not symmetric")):
            if not value <= worst:
                worst, where = value, f"{s.formula}: {what}; relative to the largest"
    return Found(worst, ALLOWED, where)


@check
def momentum(case: Case) -> Found:
    """Nothing pushes or turns itself: forces add up to zero, torques too in open systems, and stress is symmetric."""
    worst, where = 0.0, "relative"
    for name, s in case.systems.items():
        made = case.predict(s, ("forces", "virial"))
        force, virial = as_array(made.forces), as_array(made.virial)[0]
        size = max(float(np.abs(force).sum()), 1e3 * case.noise(s))
        found = {"net force": np.abs(force.sum(0)).max() / size}
        found["asymmetry of the virial"] = np.abs(virial - virial.T).max() / max(np.abs(virial).max(), size)
        if not s.pbc.any():
            arms = s.positions - s.positions.mean(0)
            torque = np.abs(np.cross(arms, force).sum(0)).max()
            found["net torque"] = torque / (size * max(1.0, float(np.abs(arms).max())))
        for what, value in found.items():
            if not value <= worst:
                worst, where = float(value), f"{what} of '{name}' (relative)"
    return Found(worst, 1e-9, where)


@check
def double_backward(case: Case) -> Found:
    """The gradient of a loss on energies, forces and virials by the parameters: what training follows."""
    parameters = [p for p in case.potential.parameters() if p.requires_grad]
    if not parameters:
        return absent("it has no parameters")
    rng = case.rng()
    graph = case.graph([case.molecule(), *list(case.periodic(3).values())[:1]])
    weights = [
        torch.from_numpy(rng.normal(size=n))
        for n in ((graph.n_structures,), (graph.n_atoms, 3), (graph.n_structures, 3, 3))
    ]
    directions = [torch.from_numpy(rng.normal(size=p.shape)) * _size(p) for p in parameters]
    reference = predict(case.potential, graph, ("energy",)).energy.detach()

    def loss(create_graph: bool) -> Tensor:
        made = predict(case.potential, graph, ("forces", "virial"), create_graph=create_graph)
        assert made.forces is not None  # it was asked for
        assert made.virial is not None
        values = (made.energy - reference, made.forces, made.virial)
        return torch.stack([(w * v + (w * v) ** 2).sum() for w, v in zip(weights, values, strict=True)]).sum()

    value = loss(True)
    slope = 0.0
    if value.requires_grad:
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        slope = sum(float((g * d).sum()) for g, d in zip(found, directions, strict=True) if g is not None)
    before = [p.detach().clone() for p in parameters]

    def witness(step: float) -> np.ndarray:
        values = []
        for place in PLACES:
            for p, b, d in zip(parameters, before, directions, strict=True):
                p.data = b + float(place) * step * d
            values.append(float(loss(False).detach()))
        for p, b in zip(parameters, before, strict=True):
            p.data = b.clone()
        return np.array([WEIGHTS @ values / step])

    scale = max(abs(slope), abs(float(witness(1e-4)[0])), 1e-6 * abs(float(value.detach())), 1e-9)
    error, _ = agree(np.array([slope]), lambda step: witness(step / 10), scale)
    return Found(error, 1e-5, "along a random direction in the space of parameters (relative)")


def _size(parameter: Tensor) -> float:
    """A typical size of a parameter's entries, so that all are changed alike."""
    size = float(parameter.detach().square().mean().sqrt()) if parameter.numel() else 0.0
    return size if size > 0 else 0.1
