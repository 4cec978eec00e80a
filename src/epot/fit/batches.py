"""Labeled graphs, built once and cached within a budget of memory, and batches packed by atoms and pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..data.dataset import Dataset
from ..data.structure import Structure
from ..geometry.graph import Graph, build, collate
from ..progress import bar
from ..typing import Tensor
from .loss import Labels

Sample = tuple[Graph, Labels]


class Samples:
    """The structures of a dataset as graphs with labels.

    Graphs are kept while they fit into ``memory``; what does not fit is built again whenever it is needed, so
    a dataset that streams from disk trains in bounded memory.

    Args:
        data: labeled structures.
        cutoff: Å.
        targets: which labels are used, of ``energy forces stress``.
        elements: atomic numbers that the potential knows; None for all.
        memory: bytes that cached graphs may take.

    Attributes:
        atoms, pairs: of each structure, ``(len,)``.
    """

    def __init__(
        self,
        data: Dataset,
        cutoff: float,
        *,
        targets: Sequence[str] = ("energy", "forces", "stress"),
        elements: Sequence[int] | None = None,
        memory: int | float = 2e9,
        label: str = "Neighbors",
    ) -> None:
        self.data, self.cutoff, self.targets, self.elements = data, cutoff, tuple(targets), elements
        self.atoms, self.pairs = np.zeros(len(data), np.int64), np.zeros(len(data), np.int64)
        self._kept: dict[int, Sample] = {}
        self._views: set[str] = set()
        used = 0
        with bar(label, len(data)) as shown:
            for index, structure in enumerate(data):
                sample = self._build(structure)
                self.atoms[index], self.pairs[index] = sample[0].n_atoms, sample[0].n_pairs
                size = _bytes(sample)
                if used + size <= memory:
                    self._kept[index] = sample
                    used += size
                shown.advance()

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def n_cached(self) -> int:
        """How many structures are in memory."""
        return len(self._kept)

    def _build(self, structure: Structure) -> Sample:
        graph = build(structure, self.cutoff, elements=self.elements)
        return graph, labels_of(structure, self.targets)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Sample:
        """One graph and the labels of the chosen structures."""
        chosen = [self._kept[int(k)] if int(k) in self._kept else self._build(self.data[int(k)]) for k in indices]
        for graph, _ in chosen:
            for view in self._views - graph._made.keys():
                getattr(graph, view)()
        return collate([g for g, _ in chosen]), join([labels for _, labels in chosen])

    def learn_views(self, graph: Graph) -> None:
        """Remember which views of a graph (padded, reverse pairs) its potential asked for.

        From then on they are made once a structure, and joined, instead of once a batch.
        """
        self._views |= graph._made.keys() & {"row_pointers", "padded", "reverse_pairs"}


def labels_of(structure: Structure, targets: Sequence[str] = ("energy", "forces", "stress")) -> Labels:
    """The labels of one structure; stress only where all three axes are periodic: elsewhere it has no meaning."""
    n = len(structure)
    energy = "energy" in targets and structure.energy is not None
    forces = "forces" in targets and structure.forces is not None and n > 0
    stress = "stress" in targets and structure.stress is not None and bool(structure.pbc.all())
    made = lambda known, value, shape: torch.from_numpy(np.array(value if known else np.zeros(shape), np.float64))  # noqa: E731
    return Labels(
        energy=made(energy, [structure.energy], 1),
        forces=made(forces, structure.forces, (n, 3)),
        stress=made(stress, [structure.stress], (1, 3, 3)),
        has_energy=torch.tensor([energy]),
        has_forces=torch.full((n,), forces),
        has_stress=torch.tensor([stress]),
        any_energy=energy,
        any_forces=forces,
        any_stress=stress,
    )


def join(labels: Sequence[Labels]) -> Labels:
    """Labels of several structures, in the order of :func:`epot.geometry.graph.collate`."""
    if len(labels) == 1:
        return labels[0]
    joined: dict[str, Any] = {
        name: any(getattr(one, name) for one in labels)
        if name.startswith("any_")
        else torch.cat([getattr(one, name) for one in labels])
        for name in Labels._fields
    }
    return Labels(**joined)


def pack(
    order: Sequence[int] | np.ndarray,
    atoms: np.ndarray,
    pairs: np.ndarray,
    max_atoms: int,
    max_pairs: int | None = None,
) -> list[np.ndarray]:
    """Cut an order of structures into batches of at most so many atoms and pairs.

    A structure that is larger than the budget is a batch of its own: nothing is dropped.
    """
    batches: list[np.ndarray] = []
    current: list[int] = []
    used_atoms = used_pairs = 0
    for index in order:
        n, p = int(atoms[index]), int(pairs[index])
        full = used_atoms + n > max_atoms or (max_pairs is not None and used_pairs + p > max_pairs)
        if current and full:
            batches.append(np.array(current))
            current, used_atoms, used_pairs = [], 0, 0
        current.append(int(index))
        used_atoms, used_pairs = used_atoms + n, used_pairs + p
    if current:
        batches.append(np.array(current))
    return batches


def shuffled(samples: Samples, max_atoms: int, max_pairs: int | None, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of an epoch: a function of seed and epoch alone, so that a resumed epoch is the same one."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(len(samples), generator=generator).numpy()
    return pack(order, samples.atoms, samples.pairs, max_atoms, max_pairs)


def in_order(samples: Samples, max_atoms: int, max_pairs: int | None = None) -> Iterator[Sample]:
    """All structures once, in their order, for evaluation."""
    for indices in pack(np.arange(len(samples)), samples.atoms, samples.pairs, max_atoms, max_pairs):
        yield samples.batch(indices)


def _bytes(sample: Sample) -> int:
    graph, labels = sample
    tensors = [v for v in (*vars(graph).values(), *labels) if isinstance(v, Tensor)]
    views = 3 * graph.pairs[0].nbytes  # row pointers, padded, reverse pairs: made later
    return sum(t.nbytes for t in tensors) + views
