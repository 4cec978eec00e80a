"""What every check is given: a copy of the potential in float64, systems, and plain evaluations on them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .. import registry
from ..blocks.readout import LinearReadout
from ..data.structure import Structure
from ..errors import ConfigError
from ..features.descriptor import Descriptor
from ..geometry.graph import Graph, build
from ..potential import Committee, Potential, Sum, make, parts
from ..predict import Prediction, predict
from ..typing import Tensor
from .systems import bare, systems

CHUNK = 4000  # atoms that are evaluated at once


class Case:
    """A potential prepared for the checks; the one that was handed in is never changed.

    Args:
        potential: any. A readout whose weights are all zero (no fit yet) gets random ones in the copies.
        structures: on what to check it, by name; None for what its method ``examples()`` gives, or for
            :func:`epot.testing.systems.systems` of its elements, of these the open or the periodic ones only where it
            (or its descriptor) says ``axes = "open"`` or ``"periodic"``.
        seed: of every random choice.

    Attributes:
        potential: deep copy in float64, in evaluation mode.
        native: deep copy in the precision that it came in.
        systems: by name, without labels.
        elements: atomic numbers to build further systems of.
    """

    def __init__(
        self, potential: Potential, structures: Mapping[str, Structure] | None = None, *, seed: int = 0
    ) -> None:
        self.seed = seed
        self.native = _alive(copy.deepcopy(potential).eval(), seed)
        self.potential = copy.deepcopy(self.native).double()
        for parameter in self.potential.parameters():
            parameter.requires_grad_(parameter.dtype.is_floating_point)
        if structures is None:
            kinds: list[Any] = list(potential.modules())
            structures = next((m.examples() for m in kinds if hasattr(m, "examples")), None)
        given = {} if structures is None else {name: bare(s) for name, s in structures.items()}
        self.axes = next((str(m.axes) for m in potential.modules() if getattr(m, "axes", None)), "")
        self.elements = _elements(potential, given)
        self.systems = given or self._suitable(systems(self.elements[:6], seed))
        self.cutoff = float(potential.cutoff)

    def rng(self) -> np.random.Generator:
        """A fresh generator: every check gives the same result alone and among others."""
        return np.random.default_rng(self.seed)

    def molecule(self) -> Structure:
        """An open system of at least two atoms (any, for a potential of periodic systems)."""
        found = (s for s in self.systems.values() if not s.pbc.any() and 1 < len(s) <= 40)
        made = self._suitable(systems(self.elements[:6], self.seed))
        return next(found, next(iter(made.values())))

    def periodic(self, along: int = 1) -> dict[str, Structure]:
        """The systems that are periodic along at least so many axes."""
        found = {name: s for name, s in self.systems.items() if s.pbc.sum() >= along}
        made = self._suitable(systems(self.elements[:6], self.seed))
        return found or {name: s for name, s in made.items() if s.pbc.sum() >= along}

    def _suitable(self, made: dict[str, Structure]) -> dict[str, Structure]:
        """Without those that the potential refuses for their boundaries."""
        kept = {"open": lambda s: not s.pbc.any(), "periodic": lambda s: bool(s.pbc.all())}.get(self.axes)
        return made if kept is None else {name: s for name, s in made.items() if kept(s)}

    def graph(self, structures: Structure | Sequence[Structure]) -> Graph:
        return build(structures, self.cutoff)

    def predict(self, structures: Structure | Sequence[Structure], want: Iterable[str] = ("forces",)) -> Prediction:
        """Of one structure, or of several as one batch, in float64; what is not finite is for the checks to see."""
        return predict(self.potential, self.graph(structures), want, finite=False)

    def energy(self, structure: Structure) -> float:
        return float(self.predict(structure, ("energy",)).energy[0])

    def each(self, structures: Sequence[Structure], want: str) -> np.ndarray:
        """Forces or energies per atom of equally large structures, stacked, ``(structures, atoms[, 3])``."""
        step = max(1, CHUNK // max(1, len(structures[0])))
        parts = []
        for k in range(0, len(structures), step):
            found = self.predict(structures[k : k + step], ("energy",) if want == "energy" else ("forces",))
            values = found.atom_energies.double() if want == "energy" else found.forces
            assert values is not None  # it was asked for
            parts.append(values.reshape(-1, len(structures[0]), *values.shape[1:]).numpy())
        return np.concatenate(parts)

    def noise(self, structure: Structure) -> float:
        """eV: what rounding may do to an energy of this structure, with room to spare.

        A linear readout may add terms that are far larger than their sum (kernels that nearly cancel): their
        rounding stays.
        """
        made = self.predict(structure, ("energy",))
        noise = 1e-12 * (1.0 + float(made.atom_energies.double().abs().sum()))
        readouts = [m for m in self.potential.modules() if isinstance(m, LinearReadout)]
        if made.features is not None and len(readouts) == 1 and len(readouts[0].weight) == made.features.shape[1]:
            terms = made.features.double().abs() @ readouts[0].weight.detach().double().abs()
            noise += 5e-14 * float(terms.sum() * readouts[0].scale.abs())
        return noise

    def long_ranged(self) -> bool:
        """Whether the energy depends on positions other than through the pair vectors."""
        graph = self.graph(self.molecule())
        leaf = graph.positions.clone().requires_grad_()
        energy = self.potential(graph.replace(positions=leaf, _vectors=graph.vectors())).energy
        if not energy.requires_grad:
            return False
        (found,) = torch.autograd.grad(energy.double().sum(), leaf, allow_unused=True)
        return found is not None and bool((found != 0).any())

    def cutoffs(self) -> list[float]:
        """Å, of the potential and of all that it is the sum of; ascending, without zeros."""
        found = {float(m.cutoff) for m in self.potential.modules() if isinstance(m, Potential)}
        return sorted(c for c in found if c > 0)


def rebuilt(potential: Potential) -> Potential:
    """A new potential from the JSON of the configuration of another; also of a class that is not registered.

    Raises:
        ConfigError: a constructor's argument is not kept under its own name, or not JSON.
    """
    if isinstance(potential, Sum):
        return Sum(**{name: rebuilt(term) for name, term in potential.terms.items()})  # type: ignore[arg-type]
    if isinstance(potential, Committee):
        return Committee([rebuilt(member) for member in parts(potential)])
    config = arguments(potential)
    with torch.random.fork_rng(devices=[]):
        if registered(potential):
            return make(config | {"name": registry.name_of(type(potential))})
        return type(potential)(**registry.check(type(potential), config))


def arguments(potential: Potential) -> dict:
    """The constructor's arguments as JSON gives them back.

    Raises:
        ConfigError: one is not kept under its own name, or is not JSON.
    """
    kept = {}
    for name in registry.parameters(type(potential)):
        if not hasattr(potential, name):
            kind = type(potential).__name__
            raise ConfigError(f"{kind} takes {name!r} but does not keep it as self.{name}, so config() cannot say it.")
        value = getattr(potential, name)
        kept[name] = value.config() if isinstance(value, (Potential, Descriptor)) else value
    try:
        return json.loads(json.dumps(kept, allow_nan=False))
    except (TypeError, ValueError) as why:
        raise ConfigError(f"The arguments of {type(potential).__name__} are not JSON: {why}.") from None


def registered(potential: Potential) -> bool:
    """Whether a model file can name it, and all its parts."""
    if parts(potential):
        return all(registered(part) for part in parts(potential))
    try:
        return registry.get(registry.name_of(type(potential))) is type(potential)
    except ConfigError:
        return False


def _alive(potential: Potential, seed: int) -> Potential:
    """Random weights in readouts that hold only zeros, so that the checks have something to look at."""
    generator = torch.Generator().manual_seed(seed)
    for module in potential.modules():
        if isinstance(module, LinearReadout) and not bool(module.weight.detach().any()):
            with torch.no_grad():
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator, dtype=torch.float64))
    return potential


def _elements(potential: Potential, structures: Mapping[str, Structure]) -> tuple[int, ...]:
    present = sorted({int(z) for s in structures.values() for z in s.numbers})
    if potential.elements is not None:
        known = [int(z) for z in potential.elements]
        return tuple(z for z in present if z in known) or tuple(known)
    return tuple(present) or (1, 6, 8)


def as_array(tensor: Tensor | None) -> np.ndarray:
    """A tensor that must be there, as numpy."""
    assert tensor is not None  # callers ask for it in `want`
    return tensor.detach().double().numpy()
