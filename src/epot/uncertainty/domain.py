"""Where a potential was fitted: the cheapest guard against being asked about something else.

What is compared with the training set: elements, the closest approach of every pair of elements, the
number of neighbors of each element, and, where the potential has an ensemble, the predicted standard
deviation of its forces. Distances and counts cost a few reductions over the pairs that a potential has
made anyway, and catch most of what kills a simulation (science: every extrapolation grade agrees that a
pair nearer than any in the training set is out).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..data.structure import Structure
from ..elements import SYMBOLS, names, to_number
from ..errors import ModelFileError
from ..geometry.graph import Graph, build
from ..typing import Int, Tensor

UNKNOWN = "this model holds no record of its training data (imported ones do not), so nothing can tell"
"""What is said where a potential has no domain."""


class DomainWarning(UserWarning):
    """A structure lies outside the data that a potential was fitted to."""


@dataclass(frozen=True)
class Domain:
    """The ranges that a training set covers.

    Attributes:
        elements: atomic numbers, ascending.
        cutoff: Å, within which neighbors were counted.
        closest: Å, shortest distance of each pair of elements ``(lower, higher)``; pairs that never came
            within the cutoff are not there.
        neighbors: fewest and most neighbors of each element within the cutoff.
        forces_std: eV/Å, above which a predicted standard deviation of a force component is out; None
            where no ensemble was calibrated.
        distance_slack: Å by which a pair may be nearer than the closest of the training set: the shortest
            distance of a finite sample is not the shortest that its distribution has.
        neighbor_slack: fraction by which a number of neighbors may be out of range, at least one.
        n_structures: how many structures it was made from.
    """

    elements: tuple[int, ...]
    cutoff: float
    closest: Mapping[tuple[int, int], float]
    neighbors: Mapping[int, tuple[int, int]]
    forces_std: float | None = None
    distance_slack: float = 0.05
    neighbor_slack: float = 0.1
    n_structures: int = 0

    @classmethod
    def from_dataset(cls, dataset: Iterable[Structure], cutoff: float) -> Domain:
        """Read the ranges off a dataset, one structure at a time.

        Args:
            dataset: the training set.
            cutoff: Å, of the potential.

        Raises:
            DataError: two atoms of a structure are at one place.
        """
        closest: dict[tuple[int, int], float] = {}
        neighbors: dict[int, tuple[int, int]] = {}
        count = 0
        for structure in dataset:
            count += 1
            graph = build(structure, cutoff)
            zs, shortest, counts = _measure(graph, cutoff)
            z = zs.tolist()
            for a, row in enumerate(shortest.tolist()):
                for b in range(a, len(z)):
                    near = min(row[b], float(shortest[b, a]))
                    if near < float("inf"):
                        key = (z[a], z[b])
                        closest[key] = min(near, closest.get(key, near))
            for element in z:
                own = counts[graph.numbers == element]
                low, high = int(own.min()), int(own.max())
                was = neighbors.get(element, (low, high))
                neighbors[element] = (min(low, was[0]), max(high, was[1]))
        return cls(tuple(sorted(neighbors)), float(cutoff), closest, neighbors, n_structures=count)

    @classmethod
    def joined(cls, domains: Sequence[Domain]) -> Domain:
        """The ranges that several training sets cover together, without a limit on standard deviations.

        Numbers of neighbors are comparable within one cutoff only: those of the longest are kept.
        """
        cutoff = max(domain.cutoff for domain in domains)
        closest: dict[tuple[int, int], float] = {}
        neighbors: dict[int, tuple[int, int]] = {}
        for domain in domains:
            for pair, near in domain.closest.items():
                closest[pair] = min(near, closest.get(pair, near))
            for element, (low, high) in domain.neighbors.items() if domain.cutoff == cutoff else ():
                few, most = neighbors.get(element, (low, high))
                neighbors[element] = (min(low, few), max(high, most))
        elements = tuple(sorted(set.intersection(*(set(domain.elements) for domain in domains))))
        count = max(domain.n_structures for domain in domains)
        return cls(elements, cutoff, closest, neighbors, n_structures=count)

    def with_limit(self, forces_std: float | None) -> Domain:
        """The same domain with another limit on the standard deviation of force components (eV/Å)."""
        return replace(self, forces_std=forces_std)

    def violations(self, graph: Graph, forces_std: Any = None) -> list[str]:
        """What lies outside, in words; empty where all is within.

        Args:
            graph: one or more structures; its cutoff is at least the domain's.
            forces_std: eV/Å, calibrated, ``(atoms, 3)`` or ``(atoms,)``.
        """
        many = graph.n_structures > 1
        return [f"structure {k}: {text}" if many else text for k, text in self.by_structure(graph, forces_std)]

    def by_structure(self, graph: Graph, forces_std: Any = None) -> list[tuple[int, str]]:
        """As :meth:`violations`: pairs of structure number and text, one for each kind of violation and structure."""
        found = self._unknown(graph) + self._close(graph) + self._crowded(graph)
        if forces_std is not None and self.forces_std is not None:
            found += self._uncertain(graph, torch.as_tensor(forces_std))
        return sorted(found)

    def _unknown(self, graph: Graph) -> list[tuple[int, str]]:
        known = torch.zeros(len(SYMBOLS), dtype=torch.bool, device=graph.numbers.device)
        known[list(self.elements)] = True
        out = (~known[graph.numbers]).nonzero()[:, 0]
        found: dict[int, set[int]] = {}
        for owner, z in zip(graph.owner[out].tolist(), graph.numbers[out].tolist(), strict=True):
            found.setdefault(owner, set()).add(z)
        return [(k, f"{names(sorted(zs))}: not in the training set") for k, zs in found.items()]

    def _close(self, graph: Graph) -> list[tuple[int, str]]:
        i, j = graph.pairs
        distance = graph.vectors().detach().square().sum(1).sqrt()
        limits = torch.zeros(len(SYMBOLS), len(SYMBOLS), dtype=torch.float64)
        limits[:] = self.cutoff  # a pair of elements that never met may not meet
        for (a, b), value in self.closest.items():
            limits[a, b] = limits[b, a] = value - self.distance_slack
        allowed = limits.to(distance.device)[graph.numbers[i], graph.numbers[j]]
        gap = allowed - distance
        out = ((gap > 0) & (i <= j)).nonzero()[:, 0]
        worst: dict[tuple[int, int, int], int] = {}
        for pair in out[gap[out].argsort()].tolist():  # the worst of each pair of elements comes last and stays
            a, b = sorted((int(graph.numbers[i[pair]]), int(graph.numbers[j[pair]])))
            worst[int(graph.owner[i[pair]]), a, b] = pair
        first = _first_atoms(graph)
        return [
            (k, self._close_text(a, b, int(i[p]) - first[k], int(j[p]) - first[k], float(distance[p])))
            for (k, a, b), p in worst.items()
        ]

    def _close_text(self, a: int, b: int, i: int, j: int, distance: float) -> str:
        pair = f"{SYMBOLS[a]}-{SYMBOLS[b]}"
        seen = self.closest.get((a, b))
        if seen is None:
            return (
                f"{pair} {distance:.3f} Å (atoms {i}, {j}): no such pair within {self.cutoff:g} Å in the training set"
            )
        return f"{pair} {distance:.3f} Å (atoms {i}, {j}): closest in the training set {seen:.3f} Å"

    def _crowded(self, graph: Graph) -> list[tuple[int, str]]:
        counts = _counts(graph, self.cutoff)
        low = torch.zeros(len(SYMBOLS), dtype=torch.int64)
        high = torch.full_like(low, torch.iinfo(torch.int64).max)
        for element, (few, most) in self.neighbors.items():
            low[element] = few - max(1, int(few * self.neighbor_slack))
            high[element] = most + max(1, int(most * self.neighbor_slack))
        z = graph.numbers
        out = ((counts < low.to(z.device)[z]) | (counts > high.to(z.device)[z])).nonzero()[:, 0]
        found: dict[tuple[int, int], list[int]] = {}
        for atom in out.tolist():
            found.setdefault((int(graph.owner[atom]), int(z[atom])), []).append(atom)
        first = _first_atoms(graph)
        return [
            (k, self._crowded_text(element, [(a - first[k], int(counts[a])) for a in atoms]))
            for (k, element), atoms in found.items()
        ]

    def _crowded_text(self, element: int, atoms: list[tuple[int, int]]) -> str:
        few, most = self.neighbors[element]
        atom, count = atoms[0]
        others = f" and {len(atoms) - 1} more" if len(atoms) > 1 else ""
        return (
            f"{SYMBOLS[element]} with {count} neighbors within {self.cutoff:g} Å (atom {atom}{others}): "
            f"{few} to {most} in the training set"
        )

    def _uncertain(self, graph: Graph, std: Tensor) -> list[tuple[int, str]]:
        assert self.forces_std is not None  # noqa: S101
        std = std.to(graph.positions.device).reshape(graph.n_atoms, -1).amax(1)
        found: dict[int, int] = {}
        out = (~(std <= self.forces_std)).nonzero()[:, 0]
        for atom in out[std[out].argsort()].tolist():
            found[int(graph.owner[atom])] = atom
        first = _first_atoms(graph)
        return [
            (k, f"forces_std {float(std[a]):.3g} eV/Å (atom {a - first[k]}): limit {self.forces_std:.3g} eV/Å")
            for k, a in found.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """For the model file: ``about["domain"]``."""
        return {
            "elements": names(self.elements).split(", ") if self.elements else [],
            "cutoff": self.cutoff,
            "closest": {f"{SYMBOLS[a]}-{SYMBOLS[b]}": round(d, 6) for (a, b), d in sorted(self.closest.items())},
            "neighbors": {SYMBOLS[z]: list(pair) for z, pair in sorted(self.neighbors.items())},
            "forces_std": self.forces_std,
            "distance_slack": self.distance_slack,
            "neighbor_slack": self.neighbor_slack,
            "n_structures": self.n_structures,
        }

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> Domain:
        """The inverse of :meth:`to_json`.

        Raises:
            ModelFileError: a key is missing or holds something else.
        """
        try:
            pairs = {tuple(sorted(map(to_number, key.split("-")))): float(d) for key, d in made["closest"].items()}
            return cls(
                elements=tuple(sorted(to_number(s) for s in made["elements"])),
                cutoff=float(made["cutoff"]),
                closest=pairs,  # type: ignore[arg-type]
                neighbors={to_number(s): (int(low), int(high)) for s, (low, high) in made["neighbors"].items()},
                forces_std=None if made.get("forces_std") is None else float(made["forces_std"]),
                distance_slack=float(made.get("distance_slack", 0.05)),
                neighbor_slack=float(made.get("neighbor_slack", 0.1)),
                n_structures=int(made.get("n_structures", 0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as why:
            raise ModelFileError(f"The domain in this model file cannot be read: {why!r}.") from why

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Domain | None:
        """The domain that travels with a potential; None where the ranges of its training set were not recorded."""
        made = about.get("domain") or {}
        return cls.from_json(made) if set(made) - {"forces_std"} else None


def warn(found: list[list[str]], what: str = "structure") -> None:
    """One warning for all violations of a call.

    Args:
        found: violations of each structure.
        what: the noun, for the message.
    """
    bad = [k for k, texts in enumerate(found) if texts]
    if bad:
        share = f"{len(bad)} of {len(found)} {what}s are" if len(found) > 1 else f"This {what} is"
        first = f" (first: number {bad[0]})" if len(found) > 1 else ""
        warnings.warn(
            f"{share} outside the data that this potential was fitted to{first}: {'; '.join(found[bad[0]][:3])}. "
            "Its predictions there are extrapolations: label such structures and add them to the training set.",
            DomainWarning,
            stacklevel=3,
        )


def _measure(graph: Graph, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Elements, closest approach of each ordered pair of them, and neighbors of each atom."""
    zs, index = graph.numbers.unique(return_inverse=True)
    i, j = graph.pairs
    distance = graph.vectors().square().sum(1).sqrt()
    shortest = torch.full((len(zs) ** 2,), float("inf"), dtype=torch.float64)
    shortest.scatter_reduce_(0, index[i] * len(zs) + index[j], distance, "amin")
    return zs, shortest.view(len(zs), len(zs)), _counts(graph, cutoff)


def _counts(graph: Graph, cutoff: float) -> Int[Tensor, " atoms"]:
    near = graph.pairs[0]
    if graph.cutoff > cutoff:
        near = near[graph.vectors().detach().square().sum(1) < cutoff**2]
    return torch.bincount(near, minlength=graph.n_atoms)


def _first_atoms(graph: Graph) -> list[int]:
    sizes = graph.sizes
    return (sizes.cumsum(0) - sizes).tolist()
