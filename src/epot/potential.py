"""What a potential is, what it returns, and that a sum of potentials is one."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from . import registry
from .errors import ConfigError
from .features.descriptor import Descriptor
from .geometry.graph import Graph
from .typing import Float, Tensor


class Output(NamedTuple):
    """What a potential returns, all per atom.

    Attributes:
        energy: eV, ``(atoms,)``.
        members: eV, ``(atoms, members)``, energies of the members of an ensemble; None without one.
        features: what the readout is linear in, ``(atoms, features)``; None without a linear readout.
        charges: e, ``(atoms,)``.
    """

    energy: Float[Tensor, " atoms"]
    members: Float[Tensor, "atoms members"] | None = None
    features: Float[Tensor, "atoms features"] | None = None
    charges: Float[Tensor, " atoms"] | None = None


class Potential(nn.Module, ABC):
    """A function of a graph that returns energies per atom. It knows only energies.

    A subclass stores its constructor's arguments under their own names and does no work on them that
    a configuration could not repeat: ``config()`` reads them back. Learned tensors are parameters or buffers.

    Attributes:
        cutoff: Å, the longest pair that it looks at.
        elements: atomic numbers that it knows; None for all.
        exempt: checks of :mod:`epot.testing` that it cannot pass by design, with the reason: ``{"locality": "..."}``.
        pairwise: it sees the geometry through ``graph.vectors()`` alone, not through positions and cells.
        CITATION: BibTeX of the paper.
    """

    cutoff: float
    elements: tuple[int, ...] | None = None
    pairwise: bool = False
    exempt: Mapping[str, str] = {}
    CITATION: ClassVar[str] = ""

    @abstractmethod
    def forward(self, graph: Graph) -> Output:
        """Energies per atom."""

    @classmethod
    def tiny(cls) -> Potential:
        """The smallest instance that does everything: the test suite and the docs use it."""
        return cls()

    def config(self) -> dict[str, Any]:
        """Name and constructor's arguments: what :func:`epot.registry.make` builds an equal potential from."""
        kept = {name: getattr(self, name) for name in registry.parameters(type(self))}
        kept = {k: v.config() if isinstance(v, (Potential, Descriptor)) else v for k, v in kept.items()}
        kept = {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}
        return {"name": registry.name_of(type(self))} | kept

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        defaults = {k: p.default for k, p in inspect.signature(type(self).__init__).parameters.items()}
        given = {k: getattr(self, k, None) for k in registry.parameters(type(self))}
        return ", ".join(f"{k}={v!r}" for k, v in given.items() if v != defaults.get(k))


class Sum(Potential):
    """A potential that is the sum of its terms: ``Sum(offset=Offsets(...), body=PaiNN(...))``.

    Each term sees the pairs within its own cutoff. Energies are added in float64. Members of a term's
    ensemble survive: a term without members adds its energy to each. One term at most is learned
    through a linear readout, and its features are the sum's.
    """

    def __init__(self, **terms: Potential) -> None:
        super().__init__()
        if not terms:
            raise ConfigError("A Sum needs at least one term.")
        self.terms = nn.ModuleDict(terms)
        self.cutoff = max(term.cutoff for term in terms.values())
        self.pairwise = all(term.pairwise for term in terms.values())
        known = [set(t.elements) for t in terms.values() if t.elements is not None]
        self.elements = tuple(sorted(set.intersection(*known))) if known else None

    def forward(self, graph: Graph) -> Output:
        terms: list[Potential] = list(self.terms.values())  # type: ignore[arg-type]
        outputs: list[Output] = [term(graph.within(term.cutoff)) for term in terms]
        energy = torch.stack([out.energy.double() for out in outputs]).sum(0)
        return Output(
            energy=energy,
            members=self._members(outputs),
            features=next((out.features for out in outputs if out.features is not None), None),
            charges=next((out.charges for out in outputs if out.charges is not None), None),
        )

    @staticmethod
    def _members(outputs: list[Output]) -> Tensor | None:
        if all(out.members is None for out in outputs):
            return None
        each = [out.energy[:, None] if out.members is None else out.members for out in outputs]
        return torch.stack(torch.broadcast_tensors(*[e.double() for e in each])).sum(0)

    def config(self) -> dict[str, Any]:
        terms: dict[str, Potential] = dict(self.terms.items())  # type: ignore[arg-type]
        return {"name": "sum", "terms": {name: term.config() for name, term in terms.items()}}

    def extra_repr(self) -> str:
        return ""


def make(config: str | Mapping[str, Any]) -> Potential:
    """Build a potential from its configuration: sums, and potentials that are arguments of another, included.

    Raises:
        ConfigError: an unknown name or key, or a value of the wrong type.
    """
    if not isinstance(config, str) and config.get("name") == "sum":
        terms = config.get("terms")
        if set(config) != {"name", "terms"} or not isinstance(terms, Mapping) or not terms:
            raise ConfigError("A sum's configuration is {'name': 'sum', 'terms': {term: configuration, ...}}.")
        return Sum(**{name: make(term) for name, term in terms.items()})
    if not isinstance(config, str):
        config = {k: make(v) if _is_potential(v) else v for k, v in config.items()}
    made = registry.make(config)
    if not isinstance(made, Potential):
        raise ConfigError(f"{config!r} does not make a Potential.")
    return made


def _is_potential(value: Any) -> bool:
    """Whether a value of a configuration is that of a potential: descriptors are built by the model that has them."""
    if not isinstance(value, Mapping) or "name" not in value:
        return False
    return value["name"] == "sum" or issubclass(registry.get(value["name"]), Potential)
