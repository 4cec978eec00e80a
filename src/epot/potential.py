"""What a potential is, what it returns, and that a sum of potentials is one, and a committee of them."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from . import registry
from .data.structure import Structure
from .errors import ConfigError
from .features.descriptor import Descriptor
from .geometry.graph import Graph
from .typing import Float, Tensor


class Shared(NamedTuple):
    """How the members of a committee depend on the geometry, so that all are differentiated in one pass.

    Without it each member's forces take a backward pass through all members. With it one pass goes through the members
    as far as their own copies of what they share, and only from there one goes on for each member.

    Attributes:
        sources: what the members make their energies of (descriptors), functions of the geometry.
        copies: the same once for each member, as ``source.expand(members, *source.shape)``: member m sees the geometry
            through ``copies[k][m]`` alone.
        common: eV, ``(atoms,)``, energies that are part of every member besides; None where there are none.
    """

    sources: tuple[Tensor, ...]
    copies: tuple[Tensor, ...]
    common: Float[Tensor, " atoms"] | None = None


class Output(NamedTuple):
    """What a potential returns, all per atom.

    Attributes:
        energy: eV, ``(atoms,)``.
        members: eV, ``(atoms, members)``, energies of the members of an ensemble; None without one.
        features: what the readout is linear in, ``(atoms, features)``; None without a linear readout.
        charges: e, ``(atoms,)``.
        variance: what the potential itself expects its errors to be, ``(atoms, 2)`` or, one for each member,
            ``(atoms, 2, members)``: first the atom's share of the variance of the energy, eV^2 (variances of atoms add
            up), then the variance of each component of its force, (eV/Å)^2.
        shared: of a committee, what speeds its derivatives up.
    """

    energy: Float[Tensor, " atoms"]
    members: Float[Tensor, "atoms members"] | None = None
    features: Float[Tensor, "atoms features"] | None = None
    charges: Float[Tensor, " atoms"] | None = None
    variance: Float[Tensor, "atoms 2 *members"] | None = None
    shared: Shared | None = None


class Potential(nn.Module, ABC):
    """A function of a graph that returns energies per atom. It knows only energies.

    A subclass stores its constructor's arguments under their own names and does no work on them that
    a configuration could not repeat: ``config()`` reads them back. Learned tensors are parameters or buffers.

    Attributes:
        cutoff: Å, the longest pair that it looks at.
        elements: atomic numbers that it knows; None for all.
        exempt: checks of :mod:`epot.testing` that it cannot pass by design, with the reason: ``{"locality": "..."}``.
        pairwise: it sees the geometry through ``graph.vectors()`` alone, not through positions and cells.
        committee: its ensemble consists of potentials of their own, ``Output.members``, of which none shares a
            parameter with another, and its energy is their mean. A descent then fits each member by itself.
        PRESETS: sets of arguments by name, from the smallest to the largest, ``"fast"`` for ``painn:fast``.
        SETTINGS: of stages, by section, where a fit leaves them open: ``{"descend": {"energy_growth": 10.0}}``.
        CITATION: BibTeX of the paper.
    """

    cutoff: float
    elements: tuple[int, ...] | None = None
    pairwise: bool = False
    committee: bool = False
    exempt: Mapping[str, str] = {}
    PRESETS: ClassVar[Mapping[str, registry.Preset]] = {}
    SETTINGS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    CITATION: ClassVar[str] = ""

    @abstractmethod
    def forward(self, graph: Graph) -> Output:
        """Energies per atom."""

    @classmethod
    def tiny(cls) -> Potential:
        """The smallest instance that does everything: the test suite and the docs use it."""
        return cls()

    @classmethod
    def for_data(cls, config: Mapping[str, Any], data: Sequence[Sequence[Structure]]) -> dict[str, Any]:
        """A configuration with what it leaves open taken from the structures of a fit; as it is, unless overridden.

        Args:
            config: arguments of the constructor, some of them.
            data: the sets of structures that the potential will see, to be iterated over only where it must be.
        """
        return dict(config)

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
        self.elements = _common_elements(list(terms.values()))

    def forward(self, graph: Graph) -> Output:
        terms: list[Potential] = list(self.terms.values())  # type: ignore[arg-type]
        outputs: list[Output] = [term(graph.within(term.cutoff)) for term in terms]
        energy = torch.stack([out.energy.double() for out in outputs]).sum(0)
        return Output(
            energy=energy,
            members=self._members(outputs),
            features=next((out.features for out in outputs if out.features is not None), None),
            charges=next((out.charges for out in outputs if out.charges is not None), None),
            variance=next((out.variance for out in outputs if out.variance is not None), None),
            shared=self._shared(outputs),
        )

    @staticmethod
    def _shared(outputs: list[Output]) -> Shared | None:
        """Of the one term that has members; the others are common to all of them."""
        ensembles = [out for out in outputs if out.members is not None]
        if len(ensembles) != 1 or ensembles[0].shared is None:
            return None
        shared = ensembles[0].shared
        common = [out.energy.double() for out in outputs if out.members is None and out.energy.requires_grad]
        if shared.common is not None:
            common.append(shared.common.double())
        return shared._replace(common=torch.stack(common).sum(0) if common else None)

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


class Committee(Potential):
    """Several fitted potentials as one: its energy is their mean, each is a member (:func:`epot.combine.combine`).

    Args:
        members: two or more, of any families; each sees the pairs within its own cutoff. The elements are those that
            all know.

    Raises:
        ConfigError: fewer than two.
    """

    committee = True

    def __init__(self, members: Sequence[Potential]) -> None:
        super().__init__()
        if len(members) < 2:
            raise ConfigError(f"A Committee needs two potentials or more; got {len(members)}.")
        self.members = nn.ModuleList(members)
        self.n_members = len(members)
        self.cutoff = max(member.cutoff for member in members)
        self.pairwise = all(member.pairwise for member in members)
        self.elements = _common_elements(members)

    def forward(self, graph: Graph) -> Output:
        graphs, shared = self._apart(graph)
        each: list[Output] = [m(g.within(m.cutoff)) for m, g in zip(parts(self), graphs, strict=True)]
        energies = torch.stack([out.energy.double() for out in each], 1)
        charges = [out.charges for out in each if out.charges is not None]
        variances = [out.variance for out in each if out.variance is not None and out.variance.dim() == 2]
        return Output(
            energy=energies.mean(1),
            members=energies,
            charges=torch.stack(charges).mean(0) if len(charges) == len(each) else None,
            variance=torch.stack(variances, -1) if len(variances) == len(each) else None,
            shared=shared,
        )

    def _apart(self, graph: Graph) -> tuple[list[Graph], Shared | None]:
        """The graph once for each member, with a geometry of its own where it will be differentiated."""
        vectors = graph.vectors()
        if not vectors.requires_grad:
            return [graph] * self.n_members, None
        sources = (vectors,) if self.pairwise else (vectors, graph.positions, graph.cell)
        copies = tuple(source.expand(self.n_members, *source.shape) for source in sources)
        names = ("_vectors", "positions", "cell")
        each = zip(*(copy.unbind() for copy in copies), strict=True)
        return [graph.replace(**dict(zip(names, own, strict=False))) for own in each], Shared(sources, copies)

    def config(self) -> dict[str, Any]:
        return {"name": "committee", "members": [member.config() for member in parts(self)]}

    def extra_repr(self) -> str:
        return ""


def _common_elements(potentials: Sequence[Potential]) -> tuple[int, ...] | None:
    known = [set(potential.elements) for potential in potentials if potential.elements is not None]
    return tuple(sorted(set.intersection(*known))) if known else None


def parts(potential: nn.Module) -> list[Potential]:
    """The terms of a sum, the members of a committee; nothing of any other potential."""
    if isinstance(potential, Sum):
        return list(potential.terms.values())  # type: ignore[arg-type]
    return list(potential.members) if isinstance(potential, Committee) else []  # type: ignore[arg-type]


def is_committee(potential: nn.Module) -> bool:
    """Whether it, or a term of it, is an ensemble of potentials that are fitted each by itself."""
    return any(getattr(module, "committee", False) for module in potential.modules())


def has_members(potential: nn.Module) -> bool:
    """Whether it gives ``Output.members``, by the attribute ``n_members``: of a committee, or samples of a readout."""
    least = lambda module: 2 if isinstance(module, Potential) else 1  # noqa: E731  (one potential is no ensemble)
    return any(getattr(module, "n_members", 0) >= least(module) for module in potential.modules())


def has_variance(potential: nn.Module) -> bool:
    """Whether it gives ``Output.variance``: it learns how large its errors are (``variance_heads``)."""
    return any(getattr(module, "variance_heads", False) for module in potential.modules())


def make(config: str | Mapping[str, Any]) -> Potential:
    """Build a potential from its configuration: sums, committees, and arguments that are potentials, included.

    Raises:
        ConfigError: an unknown name or key, or a value of the wrong type.
    """
    if not isinstance(config, str) and config.get("name") == "sum":
        terms = config.get("terms")
        if set(config) != {"name", "terms"} or not isinstance(terms, Mapping) or not terms:
            raise ConfigError("A sum's configuration is {'name': 'sum', 'terms': {term: configuration, ...}}.")
        return Sum(**{name: make(term) for name, term in terms.items()})
    if not isinstance(config, str) and config.get("name") == "committee":
        members = config.get("members")
        if set(config) != {"name", "members"} or not isinstance(members, (list, tuple)):
            raise ConfigError("A committee's configuration is {'name': 'committee', 'members': [configuration, ...]}.")
        return Committee([make(member) for member in members])
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
    return value["name"] in ("sum", "committee") or issubclass(registry.get(value["name"]), Potential)
