"""Choose the sparse points of a sparse Gaussian process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch

from ...elements import SYMBOLS, names
from ...errors import ConfigError, FitError
from ...geometry.graph import build
from ...models.gap import GAP
from ...potential import Potential
from ...progress import track
from ...typing import Tensor
from ..recipe import FitState, Stage
from ..selection import cur, different, farthest_points

POOL = 2
"""Environments that are looked at for each that is chosen."""


class SelectSparse(Stage):
    """Sparse points from the environments of the training structures, for each element its own.

    ``n_sparse`` points are shared by the elements in proportion to the square root of how often they occur. Of
    each element a random pool, twice as large as its share and no less than 2000, is described and kept in
    memory; the rest of the data is never described, so memory does not grow with the data.

    Args:
        method: ``"cur"`` (leverage scores), ``"fps"`` (farthest points) or ``"random"``.
        n_sparse: of all elements together; None for what the potential's configuration says.
        per_element: numbers for single elements, by symbol, instead of their share.

    Raises:
        ConfigError: a number is below 1.
    """

    rank: ClassVar[int] = 1

    def __init__(
        self,
        method: Literal["cur", "fps", "random"] = "fps",
        n_sparse: int | None = None,
        per_element: Mapping[str, int] | None = None,
    ) -> None:
        self.method, self.n_sparse = method, n_sparse
        self.per_element = None if per_element is None else dict(per_element)
        if method not in ("cur", "fps", "random"):
            raise ConfigError(f"SelectSparse.method is {method!r}; expected 'cur', 'fps' or 'random'.")
        if (n_sparse is not None and n_sparse < 1) or any(v < 1 for v in (per_element or {}).values()):
            raise ConfigError("SelectSparse needs at least one sparse point of each element.")

    @classmethod
    def applies(cls, potential: Potential) -> bool:
        return any(isinstance(m, GAP) for m in potential.modules())

    def check(self, state: FitState) -> None:
        """Whether every element of the potential occurs.

        Raises:
            FitError: the potential has no sparse points to choose, or an element has no environment.
        """
        potential = sparse_term(state)
        known = [SYMBOLS[z] for z in potential.elements or ()]
        if self.per_element is not None and (extra := sorted(set(self.per_element) - set(known))):
            raise ConfigError(
                f"SelectSparse.per_element names {', '.join(extra)}; the potential has {', '.join(known)}."
            )
        absent = sorted(set(potential.elements or ()) - set(state.train.elements))
        if absent:
            raise FitError(
                f"The training structures hold no {names(absent)}, so there is nothing to choose sparse points from: "
                f"add structures with {names(absent)}, or leave it out of the potential's elements."
            )

    def run(self, state: FitState) -> None:
        """Fill the sparse points of the potential."""
        start = time.monotonic()
        potential = sparse_term(state)
        elements = potential.elements or ()
        occurs = environments(state, elements)
        wanted = self._shares(potential, [len(o) for o in occurs])
        random = np.random.default_rng([state.seed, 1])
        pools = [
            np.sort(random.choice(len(o), min(len(o), max(POOL * w, 2000)), replace=False))
            for o, w in zip(occurs, wanted, strict=True)
        ]
        rows = spectra(state, potential, [o[p] for o, p in zip(occurs, pools, strict=True)])
        chosen = [r[self._choose(r, w, state.seed)] for r, w in zip(rows, wanted, strict=True)]
        potential.set_sparse(chosen)
        self._report(state, potential, wanted, [len(o) for o in occurs], time.monotonic() - start)

    def _shares(self, potential: GAP, counts: list[int]) -> list[int]:
        """Points of each element. What an element has too few environments for goes to the others."""
        total = self.n_sparse or potential.n_sparse
        given = {SYMBOLS.index(k): v for k, v in (self.per_element or {}).items()}
        share = np.array([given.get(z, 0) for z in potential.elements or ()])
        limit = np.array(counts)
        weight = np.where(share > 0, 0.0, np.sqrt(limit))
        share = np.where(share > 0, np.minimum(share, limit), 1)
        for _ in range(total - int(share.sum())):  # one by one to whoever is farthest below its due
            room = np.where(share < limit, weight / (share + 0.5), 0.0)
            if not room.any():
                break
            share[room.argmax()] += 1
        return [int(s) for s in share]

    def _choose(self, rows: Tensor, count: int, seed: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(rows), generator=random)
        if self.method == "fps":
            return farthest_points(rows, count, start=int(order[0]))
        if self.method == "random" or count >= len(rows):
            return different(rows, order, count)
        return cur(rows, count, seed)

    def _report(self, state: FitState, potential: GAP, wanted: list[int], counts: list[int], seconds: float) -> None:
        symbols = [SYMBOLS[z] for z in potential.elements or ()]
        found = dict(zip(symbols, potential.counts.tolist(), strict=True))
        asked = {s: (self.per_element or {}).get(s, w) for s, w in zip(symbols, wanted, strict=True)}
        short = [s for s in symbols if found[s] < asked[s]]
        total = sum(found.values())
        if short or total < (self.n_sparse or potential.n_sparse) - len(symbols) * (self.per_element is not None):
            per = ", ".join(f"{s}: {found[s]} (of {n} environments)" for s, n in zip(symbols, counts, strict=True))
            state.note(
                f"{total} sparse points, fewer than asked for: the training structures have no more environments that "
                f"differ. {per}."
            )
        facts = {"method": self.method, "points": found, "seconds": round(seconds, 2)}
        state.about.setdefault("fit", {})["sparse"] = facts
        state.journal.write("sparse", **facts)


def sparse_term(state: FitState) -> GAP:
    """The term that sparse points are chosen for.

    Raises:
        FitError: there is none.
    """
    found = [m for m in state.potential.modules() if isinstance(m, GAP)]
    if len(found) != 1:
        raise FitError(f"SelectSparse chooses the sparse points of one GAP; this potential has {len(found)}.")
    return found[0]


def environments(state: FitState, elements: tuple[int, ...]) -> list[np.ndarray]:
    """For each element, which (structure, atom) it occurs at, ``(environments, 2)``."""
    found: list[list[np.ndarray]] = [[] for _ in elements]
    for index, structure in enumerate(state.train):
        for k, z in enumerate(elements):
            atoms = np.flatnonzero(structure.numbers == z)
            found[k].append(np.stack([np.full(len(atoms), index), atoms], 1))
    return [np.concatenate(f) if f else np.zeros((0, 2), int) for f in found]


@torch.no_grad()
def spectra(state: FitState, potential: GAP, wanted: list[np.ndarray]) -> list[Tensor]:
    """Power spectra of the atoms asked for, for each element."""
    everything = np.concatenate(wanted)
    order = np.argsort(everything[:, 0], kind="stable")
    indices, first = np.unique(everything[order, 0], return_index=True)
    rows = torch.empty(len(everything), potential.soap.size, dtype=potential.sparse.dtype)
    for index, places in track(list(zip(indices, np.split(order, first[1:]), strict=True)), "describing environments"):
        graph = build(state.train[int(index)], potential.cutoff, elements=potential.elements, device=state.device)
        rows[places] = potential.soap(graph)[everything[places, 1]].cpu()
    return list(rows.split([len(w) for w in wanted]))
