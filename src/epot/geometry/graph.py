"""A batch of structures as flat tensors with their neighbor pairs: what every potential eats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..data.structure import Structure
from ..elements import names
from ..errors import DataError, UnknownElementError
from ..typing import Bool, Float, Int, Tensor
from .neighbors import neighbor_pairs
from .triplets import pairs_of_pairs


@dataclass(frozen=True, eq=False)
class Graph:
    """Structures with their neighbor pairs, always a batch. Frozen: a potential never changes it.

    Pairs are complete (both directions) and sorted by receiver ``i``;
    ``r_ij = r_j - r_i + S @ cell``. Geometry is float64; a potential casts to its own precision.

    Attributes:
        numbers: atomic numbers, ``(atoms,)``.
        positions: Å, ``(atoms, 3)``.
        owner: which structure an atom belongs to, ascending, ``(atoms,)``.
        cell: Å, rows, ``(structures, 3, 3)``.
        pbc: ``(structures, 3)``.
        charge: total charges, e, ``(structures,)``.
        pairs: receiver ``i`` and sender ``j`` of every pair, ``(2, pairs)``.
        shifts: ``S``, whole numbers, ``(pairs, 3)``.
        cutoff: Å; every pair nearer than this is there.
        first_order: only first derivatives by the geometry will be asked for, none by a potential's parameters: it
            may then compute in ways that have no others.
    """

    numbers: Int[Tensor, " atoms"]
    positions: Float[Tensor, "atoms 3"]
    owner: Int[Tensor, " atoms"]
    cell: Float[Tensor, "structures 3 3"]
    pbc: Bool[Tensor, "structures 3"]
    charge: Float[Tensor, " structures"]
    pairs: Int[Tensor, "2 pairs"]
    shifts: Float[Tensor, "pairs 3"]
    cutoff: float
    first_order: bool = False
    _vectors: Tensor | None = field(default=None, repr=False)
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def n_atoms(self) -> int:
        return self.numbers.shape[0]

    @property
    def n_pairs(self) -> int:
        return self.pairs.shape[1]

    @property
    def n_structures(self) -> int:
        return self.cell.shape[0]

    @property
    def sizes(self) -> Int[Tensor, " structures"]:
        """Atoms per structure."""
        return self._once("sizes", lambda: torch.bincount(self.owner, minlength=self.n_structures))

    @property
    def bound(self) -> Bool[Tensor, " structures"]:
        """Which structures have a pair; the others are free atoms."""

        def made() -> Tensor:
            found = torch.zeros(self.n_structures, dtype=torch.bool, device=self.owner.device)
            found[self.owner.index_select(0, self.pairs[0])] = True
            return found

        return self._once("bound", made)

    def vectors(self) -> Float[Tensor, "pairs 3"]:
        """``r_ij``, Å, from receiver ``i`` to sender ``j``. Differentiable (see :func:`epot.predict.predict`)."""
        if self._vectors is not None:
            return self._vectors
        i, j = self.pairs.unbind(0)
        apart = self.positions.index_select(0, j) - self.positions.index_select(0, i)
        if self.n_structures == 1:  # a third of the time
            return torch.addmm(apart, self.shifts, self.cell.squeeze(0))
        return apart + torch.einsum("pa,pab->pb", self.shifts, self.cell[self.owner[i]])

    def replace(self, **changes: Any) -> Graph:
        """A copy with some tensors changed. What was made on demand is kept where the pairs are."""
        if changes.keys() & {"pairs", "shifts", "numbers", "owner"}:
            changes.setdefault("_made", {})
        if changes.keys() & {"positions", "cell", "pairs", "shifts"}:
            changes.setdefault("_vectors", None)  # those of the old geometry would be wrong in silence
        return dataclasses.replace(self, **changes)

    def within(self, cutoff: float) -> Graph:
        """The same structures with the pairs nearer than ``cutoff`` only: each term sees its own."""
        if cutoff >= self.cutoff:
            return self
        vectors = self.vectors()
        keep = (vectors.detach().square().sum(1) < cutoff**2).nonzero()[:, 0]
        return self.replace(
            pairs=self.pairs.index_select(1, keep),
            shifts=self.shifts.index_select(0, keep),
            cutoff=cutoff,
            _vectors=vectors.index_select(0, keep),
        )

    def to(self, device: str | torch.device) -> Graph:
        """On another device."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **moved, _made={})

    def row_pointers(self) -> Int[Tensor, " atoms_plus_one"]:
        """Pairs ``row_pointers[i]`` up to ``row_pointers[i+1]`` have receiver ``i``."""
        return self._once("row_pointers", self._row_pointers)

    def _row_pointers(self) -> Tensor:
        counts = torch.bincount(self.pairs[0], minlength=self.n_atoms)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def padded(self) -> Int[Tensor, "atoms neighbors"]:
        """Index of the pair in each slot of a dense neighbor axis; ``n_pairs`` where a slot is empty."""
        return self._once("padded", self._padded)

    def _padded(self) -> Tensor:
        pointers = self.row_pointers()
        counts = pointers[1:] - pointers[:-1]
        width = int(counts.max()) if self.n_atoms else 0
        slots = torch.arange(max(width, 1), device=counts.device)
        index = pointers[:-1, None] + slots
        return torch.where(slots < counts[:, None], index, self.n_pairs)

    def reverse_pairs(self) -> Int[Tensor, " pairs"]:
        """Index of the pair (j, i, -S) of each pair (i, j, S): an involution."""
        return self._once("reverse_pairs", self._reverse_pairs)

    def _reverse_pairs(self) -> Tensor:
        i, j = (x.cpu().numpy() for x in self.pairs)
        s = self.shifts.cpu().numpy().astype(np.int64)
        forward = np.lexsort((s[:, 2], s[:, 1], s[:, 0], j, i))
        backward = np.lexsort((-s[:, 2], -s[:, 1], -s[:, 0], i, j))
        reverse = np.empty(len(i), np.int64)
        reverse[forward] = backward
        return torch.from_numpy(reverse).to(self.pairs.device)

    def triplets(self) -> tuple[Int[Tensor, " triplets"], Int[Tensor, " triplets"]]:
        """Pairs ``k -> j`` and ``j -> i`` of every ``k -> j -> i`` that does not lead back to the same image of i.

        Indices into the pairs, whose receivers are j and i; the second ascend, so what is summed over k is a segment.
        """
        return self._once("triplets", lambda: pairs_of_pairs(self.pairs, self.row_pointers(), self.reverse_pairs()))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


def build(
    structures: Sequence[Structure] | Structure,
    cutoff: float,
    *,
    elements: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
) -> Graph:
    """Find the neighbors of every structure and put them into one graph.

    Args:
        structures: one or several.
        cutoff: Å.
        elements: atomic numbers that are allowed; None for all.
        device: where the tensors go.

    Raises:
        UnknownElementError: a structure holds another element.
        DataError: two atoms are at one place, or there is no structure.
    """
    structures = [structures] if isinstance(structures, Structure) else list(structures)
    if not structures:
        raise DataError("A graph needs at least one structure; it was given none.")
    if elements is not None:
        check_elements(structures, elements)
    graphs = [_build_one(s, cutoff) for s in structures]
    return collate(graphs).to(device) if str(device) != "cpu" else collate(graphs)


def _build_one(structure: Structure, cutoff: float) -> Graph:
    i, j, shifts = neighbor_pairs(structure, cutoff)
    return Graph(
        numbers=torch.from_numpy(structure.numbers),
        positions=torch.from_numpy(structure.positions),
        owner=torch.zeros(len(structure), dtype=torch.int64),
        cell=torch.from_numpy(structure.cell)[None],
        pbc=torch.from_numpy(structure.pbc)[None],
        charge=torch.tensor([structure.charge], dtype=torch.float64),
        pairs=torch.from_numpy(np.stack([i, j])),
        shifts=torch.from_numpy(shifts.astype(np.float64)),
        cutoff=float(cutoff),
    )


def collate(graphs: Sequence[Graph]) -> Graph:
    """One graph of several: structures are renumbered, nothing is recomputed."""
    if len(graphs) == 1:
        return graphs[0]
    if len({g.cutoff for g in graphs}) > 1:
        raise ValueError(f"Graphs of different cutoffs cannot be joined: {sorted({g.cutoff for g in graphs})} Å.")
    atoms = np.cumsum([0] + [g.n_atoms for g in graphs])
    owners = np.cumsum([0] + [g.n_structures for g in graphs])
    join = lambda name: torch.cat([getattr(g, name) for g in graphs])  # noqa: E731
    return Graph(
        numbers=join("numbers"),
        positions=join("positions"),
        owner=torch.cat([g.owner + int(k) for g, k in zip(graphs, owners, strict=False)]),
        cell=join("cell"),
        pbc=join("pbc"),
        charge=join("charge"),
        pairs=torch.cat([g.pairs + int(k) for g, k in zip(graphs, atoms, strict=False)], 1),
        shifts=join("shifts"),
        cutoff=graphs[0].cutoff,
        _made=_join_views(graphs),
    )


def _join_views(graphs: Sequence[Graph]) -> dict[str, Any]:
    """Views that every graph already has, joined: cheaper than making them of the joined graph."""
    have = set.intersection(*(set(g._made) for g in graphs))
    starts = np.cumsum([0] + [g.n_pairs for g in graphs])
    begin, total = starts[:-1].tolist(), int(starts[-1])
    joined: dict[str, Any] = {}
    if "row_pointers" in have:
        rows = [g.row_pointers()[:-1] + k for g, k in zip(graphs, begin, strict=True)]
        joined["row_pointers"] = torch.cat([*rows, rows[0].new_full((1,), total)])
    if "reverse_pairs" in have:
        joined["reverse_pairs"] = torch.cat([g.reverse_pairs() + k for g, k in zip(graphs, begin, strict=True)])
    if "triplets" in have:
        both = zip(*([t + k for t in g.triplets()] for g, k in zip(graphs, begin, strict=True)), strict=True)
        joined["triplets"] = tuple(torch.cat(t) for t in both)
    if "padded" in have:
        width = max(g.padded().shape[1] for g in graphs)
        slots = graphs[0].padded().new_full((sum(g.n_atoms for g in graphs), width), total)
        row = 0
        for g, k in zip(graphs, begin, strict=True):
            own = g.padded()
            slots[row : row + g.n_atoms, : own.shape[1]] = torch.where(own < g.n_pairs, own + k, total)
            row += g.n_atoms
        joined["padded"] = slots
    return joined


def check_elements(structures: Sequence[Structure], elements: Sequence[int]) -> None:
    """Refuse elements that a potential does not know.

    Raises:
        UnknownElementError: names the element, the structure and what is known.
    """
    known = set(int(z) for z in elements)
    for index, structure in enumerate(structures):
        unknown = sorted(set(structure.numbers.tolist()) - known)
        if unknown:
            raise UnknownElementError(
                f"{structure.source or f'structure {index} ({structure.formula})'} holds {names(unknown)}; "
                f"this potential knows {names(sorted(known))}. Fit one on data that holds these elements."
            )
