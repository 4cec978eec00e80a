"""Choose the sparse points of a sparse Gaussian process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from ...blocks.distance_kernels import DistanceKernel
from ...blocks.sparse_kernels import SoapKernel, SparseKernel
from ...elements import SYMBOLS, names
from ...errors import ConfigError, FitError
from ...geometry.graph import build
from ...models.gap import GAP
from ...potential import Potential
from ...progress import track
from ...typing import Tensor
from ..recipe import FitState, Stage, one_term
from ..selection import cur, different, farthest_points
from ..triangle import refuse_too_large

POOL = 2
"""Environments that are looked at for each that is chosen."""
KEPT = 20000
"""Pairs or triples of a group that are kept to choose from."""
METHODS = ("cur", "fps", "random", "kmeans", "uniform")


class SelectSparse(Stage):
    """Sparse points from the training structures, for each kernel and each of its groups of elements its own.

    On SOAP, ``n_sparse`` points are shared by the elements in proportion to the square root of how often they occur. Of
    each element a random pool, twice as large as its share and no less than 2000, is described and kept in
    memory; the rest of the data is never described, so memory does not grow with the data. Pairs have a uniform grid
    from the shortest distance in the data to the cutoff; of triples, those to choose from are drawn at random.

    Args:
        method: of kernels that say none themselves: ``"fps"`` (farthest points), ``"cur"`` (leverage scores),
            ``"kmeans"`` (the points nearest the centers of clusters), ``"random"``, or for pairs ``"uniform"`` (grid).
        n_sparse: of SOAP kernels, all elements together; None for what the potential's configuration says.
        per_element: numbers for single elements, by symbol, instead of their share.
        indices: the environments themselves, for SOAP kernels: for each element by symbol a list of numbers, or a text
            file with them; they count the atoms of that element through the training structures, from 0 (gap_fit's
            ``print_sparse_index`` counts from 1). Elements that it does not name are chosen from as usual.

    Raises:
        ConfigError: a number is below 1, a method or a file is unknown.
    """

    rank: ClassVar[int] = 1

    def __init__(
        self,
        method: Literal["cur", "fps", "random", "kmeans"] = "fps",
        n_sparse: int | None = None,
        per_element: Mapping[str, int] | None = None,
        indices: Mapping[str, str | Sequence[int]] | None = None,
    ) -> None:
        self.method, self.n_sparse = method, n_sparse
        self.per_element = None if per_element is None else dict(per_element)
        self.indices = None if indices is None else dict(indices)
        if method not in METHODS[:-1]:
            raise ConfigError(f"SelectSparse.method is {method!r}; expected {', '.join(METHODS[:-1])}.")
        if (n_sparse is not None and n_sparse < 1) or any(v < 1 for v in (per_element or {}).values()):
            raise ConfigError("SelectSparse needs at least one sparse point of each element.")
        self._given = {k: _numbers(k, v) for k, v in (self.indices or {}).items()}

    @classmethod
    def applies(cls, potential: Potential) -> bool:
        return any(isinstance(m, GAP) for m in potential.modules())

    def check(self, state: FitState) -> None:
        """Whether every element of the potential occurs, and whether what is chosen from fits into memory.

        Raises:
            FitError: the potential has no sparse points to choose, or an element has no environment.
            ConfigError: an element, a method or an index that there is not.
        """
        potential = sparse_term(state)
        elements = potential.elements
        known = [SYMBOLS[z] for z in elements]
        for what in ("per_element", "indices"):
            if extra := sorted(set(getattr(self, what) or ()) - set(known)):
                raise ConfigError(
                    f"SelectSparse.{what} names {', '.join(extra)}; the potential has {', '.join(known)}."
                )
        absent = sorted(set(elements) - set(state.train.elements))
        if absent:
            raise FitError(
                f"The training structures hold no {names(absent)}, so there is nothing to choose sparse points from: "
                f"add structures with {names(absent)}, or leave it out of the potential's elements."
            )
        counts = [len(o) for o in environments(state, elements)]
        for symbol, number in zip(known, counts, strict=True):
            if (given := self._given.get(symbol)) is not None and (bad := given[(given < 0) | (given >= number)]).size:
                raise ConfigError(
                    f"SelectSparse.indices[{symbol!r}] holds {bad[0]}; the training structures have {number} atoms of "
                    f"{symbol}, counted from 0."
                )
        for kernel in potential.kernel_list():
            self._check_kernel(kernel, counts)

    def _check_kernel(self, kernel: SparseKernel, counts: list[int]) -> None:
        allowed = METHODS if isinstance(kernel, DistanceKernel) and kernel.size == 1 else METHODS[:-1]
        if (kernel.method or self.method) not in allowed:
            raise ConfigError(
                f"The kernel {kernel.name} has the method {kernel.method!r} to choose sparse points; expected one of "
                f"{', '.join(allowed)}."
            )
        if isinstance(kernel, SoapKernel):
            size = kernel.points.shape[1]
            pool = sum(min(n, max(POOL * w, 2000)) for n, w in zip(counts, self._shares(kernel, counts), strict=True))
            refuse_too_large(
                8.0 * pool * size * 3, f"{pool} power spectra of {size} numbers each, to choose sparse points from,",
                "Take fewer sparse points (model.n_sparse), a smaller n_max or l_max, or fewer channels for elements.",
            )  # fmt: skip

    def run(self, state: FitState) -> None:
        """Fill the sparse points of the potential."""
        start = time.monotonic()
        potential = sparse_term(state)
        lines, found, asked = [], {}, 0
        for position, kernel in enumerate(potential.kernel_list()):
            if isinstance(kernel, SoapKernel):
                chosen, wanted, there = self._of_soap(state, potential, kernel)
            else:
                chosen, wanted, there = self._of_distances(state, potential, kernel)
            potential.set_sparse([c.float() for c in chosen], position)  # exact in single precision: smaller files
            counts = kernel.counts.tolist()
            short = [k for k, (c, w) in enumerate(zip(counts, wanted, strict=True)) if c < w]
            lines += [f"{kernel.labels[k]}: {counts[k]} (of {there[k]} {_noun(kernel)})" for k in short]
            asked += sum(wanted)
            label = kernel.name if kernel.name not in found else f"{kernel.name} {position}"
            found[label] = dict(zip(kernel.labels, counts, strict=True))
        total = sum(sum(f.values()) for f in found.values())
        if lines:
            state.note(
                f"{total} sparse points, fewer than asked for ({asked}): the training structures have no more that "
                f"differ. {', '.join(lines)}."
            )
        points = found["soap"] if list(found) == ["soap"] else found
        facts = {"method": self.method, "points": points, "seconds": round(time.monotonic() - start, 2)}
        state.about.setdefault("fit", {})["sparse"] = facts
        state.journal.write("sparse", **facts)

    def _of_soap(
        self, state: FitState, potential: GAP, kernel: SoapKernel
    ) -> tuple[list[Tensor], list[int], list[int]]:
        """Points, how many were asked for and how many environments there are, for each center."""
        occurs = environments(state, potential.elements)
        occurs = [occurs[k] for k in kernel.centers]
        there = [len(o) for o in occurs]
        wanted = self._shares(kernel, there)
        random = np.random.default_rng([state.seed, 1])
        given = [self._given.get(label) for label in kernel.labels]
        pools = [
            np.sort(random.choice(len(o), min(len(o), max(POOL * w, 2000)), replace=False)) if g is None else g
            for o, w, g in zip(occurs, wanted, given, strict=True)
        ]
        rows = spectra(state, potential, kernel, [o[p] for o, p in zip(occurs, pools, strict=True)])
        method = kernel.method or self.method
        chosen = [
            r[choose(r, w, state.seed, method)] if g is None else r[different(r, torch.arange(len(r)), len(r))]
            for r, w, g in zip(rows, wanted, given, strict=True)
        ]
        asked = self._asked(kernel, wanted, there)
        return chosen, [a if g is None else len(g) for a, g in zip(asked, given, strict=True)], there

    def _asked(self, kernel: SoapKernel, wanted: list[int], there: list[int]) -> list[int]:
        """What was asked for by the user: where all environments together are too few, the share without that limit."""
        own = [(self.per_element or {}).get(label, w) for label, w in zip(kernel.labels, wanted, strict=True)]
        missing = (self.n_sparse or kernel.n_sparse) - sum(own)
        if missing > 0 and self.per_element is None:
            own[int(np.argmax(there))] += missing
        return own

    def _of_distances(
        self, state: FitState, potential: GAP, kernel: SparseKernel
    ) -> tuple[list[Tensor], list[int], list[int]]:
        pools, counts, shortest = descriptors(state, potential, kernel)
        chosen = []
        for pool, nearest in zip(pools, shortest, strict=True):
            if not len(pool):
                chosen.append(pool)
            elif kernel.method == "uniform":
                grid = torch.linspace(nearest, kernel.cutoff, kernel.n_sparse + 1, dtype=torch.float64)[:-1]
                chosen.append(torch.stack([grid, torch.ones_like(grid)], 1))
            else:
                scaled = pool[:, :-1] / torch.tensor(kernel.theta, dtype=pool.dtype)  # type: ignore[arg-type]
                kept = choose(scaled, kernel.n_sparse, state.seed, kernel.method)
                chosen.append(torch.cat([pool[kept, :-1], torch.ones(len(kept), 1, dtype=pool.dtype)], 1))
        wanted = [kernel.n_sparse if c else 0 for c in counts]
        return chosen, wanted, counts

    def _shares(self, kernel: SoapKernel, counts: list[int]) -> list[int]:
        """Points of each element. What an element has too few environments for goes to the others."""
        numbers = [SYMBOLS.index(label) for label in kernel.labels]
        total = self.n_sparse or kernel.n_sparse
        given = {SYMBOLS.index(k): v for k, v in (self.per_element or {}).items()}
        share = np.array([given.get(z, 0) for z in numbers])
        limit = np.array(counts)
        weight = np.where(share > 0, 0.0, np.sqrt(limit))
        share = np.where(share > 0, np.minimum(share, limit), 1)
        for _ in range(total - int(share.sum())):  # one by one to whoever is farthest below its due
            room = np.where(share < limit, weight / (share + 0.5), 0.0)
            if not room.any():
                break
            share[room.argmax()] += 1
        return [int(s) for s in share]


def choose(rows: Tensor, count: int, seed: int, method: str) -> Tensor:
    """Indices of ``count`` rows, or of fewer where no more differ."""
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=random)
    if method == "fps":
        return farthest_points(rows, count, start=int(order[0]))
    if method == "kmeans" and count < len(rows):
        return nearest_to_centers(rows, count, order)
    if method == "cur" and count < len(rows):
        return cur(rows, count, seed)
    return different(rows, order, count)


def nearest_to_centers(rows: Tensor, count: int, order: Tensor, rounds: int = 20) -> Tensor:
    """k-means (Lloyd, IEEE Trans. Inf. Theory 28, 129 (1982)), then the row nearest to each center.

    Args:
        rows: any vectors.
        count: how many.
        order: a permutation; its first rows that differ are the first centers.
        rounds: at most; it ends where no row changes its cluster.
    """
    first = different(rows, order, count)
    centers, squares = rows[first].clone(), rows.square().sum(1)
    owner = None
    for _ in range(rounds):
        apart = squares[:, None] - 2 * (rows @ centers.T) + centers.square().sum(1)
        now = apart.argmin(1)
        if owner is not None and torch.equal(now, owner):
            break
        owner = now
        sums = torch.zeros_like(centers).index_add_(0, owner, rows)
        sizes = torch.bincount(owner, minlength=len(centers))
        filled = sizes > 0
        centers[filled] = sums[filled] / sizes[filled, None]
    apart = squares[:, None] - 2 * (rows @ centers.T) + centers.square().sum(1)
    return different(rows, torch.unique(apart.argmin(0)), count)


def _noun(kernel: SparseKernel) -> str:
    return "environments" if isinstance(kernel, SoapKernel) else "descriptors"


def _numbers(symbol: str, given: str | Sequence[int]) -> np.ndarray:
    """Indices that a file or a list holds.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        words = Path(given).read_text(encoding="utf-8").split() if isinstance(given, str) else list(given)
        found = np.array([int(w) for w in words], dtype=np.int64)
    except (OSError, ValueError, TypeError) as why:
        raise ConfigError(
            f"SelectSparse.indices[{symbol!r}] is a list of whole numbers, or a text file with them; {given!r}: {why}"
        ) from None
    if not len(found):
        raise ConfigError(f"SelectSparse.indices[{symbol!r}] is empty.")
    return found


def sparse_term(state: FitState) -> GAP:
    """The term that sparse points are chosen for."""
    return one_term(state, GAP, "SelectSparse chooses the sparse points of")


def environments(state: FitState, elements: tuple[int, ...]) -> list[np.ndarray]:
    """For each element, which (structure, atom) it occurs at, ``(environments, 2)``."""
    found: list[list[np.ndarray]] = [[] for _ in elements]
    for index, structure in enumerate(state.train):
        for k, z in enumerate(elements):
            atoms = np.flatnonzero(structure.numbers == z)
            found[k].append(np.stack([np.full(len(atoms), index), atoms], 1))
    return [np.concatenate(f) if f else np.zeros((0, 2), int) for f in found]


@torch.no_grad()
def spectra(state: FitState, potential: GAP, kernel: SoapKernel, wanted: list[np.ndarray]) -> list[Tensor]:
    """Power spectra of the atoms asked for, for each center."""
    everything = np.concatenate(wanted)
    order = np.argsort(everything[:, 0], kind="stable")
    indices, first = np.unique(everything[order, 0], return_index=True)
    rows = torch.empty(len(everything), kernel.points.shape[1], dtype=torch.float64)
    for index, places in track(list(zip(indices, np.split(order, first[1:]), strict=True)), "describing environments"):
        graph = build(state.train[int(index)], kernel.cutoff, elements=potential.elements, device=state.device)
        rows[places] = kernel.soap(graph)[everything[places, 1]].double().cpu()
    return list(rows.split([len(w) for w in wanted]))


@torch.no_grad()
def descriptors(state: FitState, potential: GAP, kernel: SparseKernel) -> tuple[list[Tensor], list[int], list[float]]:
    """Pairs or triples of all structures: some of each group, how many there are, and the smallest first component.

    Every descriptor has a random key and those with the smallest are kept: a sample of all, in bounded memory.
    """
    random = torch.Generator().manual_seed(state.seed + 2)
    width = kernel.points.shape[1]
    pools = [torch.zeros(0, width, dtype=torch.float64) for _ in kernel.labels]
    keys = [torch.zeros(0, dtype=torch.float64) for _ in kernel.labels]
    counts, smallest = [0] * len(pools), [float("inf")] * len(pools)
    for structure in track(state.train, f"looking at {kernel.name}"):
        graph = build(structure, kernel.cutoff, elements=potential.elements, device=state.device)
        for k, rows in enumerate(kernel.candidates(graph)):
            rows = rows[rows[:, -1] > 1e-6].double().cpu()  # at the cutoff nothing is left of the kernel
            if not len(rows):
                continue
            counts[k] += len(rows)
            smallest[k] = min(smallest[k], float(rows[:, 0].min()))
            drawn = torch.cat([keys[k], torch.rand(len(rows), generator=random, dtype=torch.float64)])
            kept = drawn.argsort()[:KEPT]
            pools[k], keys[k] = torch.cat([pools[k], rows])[kept], drawn[kept]
    return pools, counts, smallest
