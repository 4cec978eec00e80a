"""Neighbor pairs that outlive a step: found once at cutoff + skin, filtered at every step.

The idea is Verlet's (Phys. Rev. 159, 98, 1967); the bound for cells that change follows. A pair that the
list has not seen was at least ``L = cutoff + skin`` apart when it was made. Since then the cell was deformed
by ``F`` (``h = h_0 F``) and atom ``i`` moved by ``u_i = x_i - x_i(0) F`` beside it, so now

    |r_ij| = |r_ij(0) F + u_j - u_i|  >=  s_min(F) L - 2 max_i |u_i - u_0|,

with ``s_min`` the smallest singular value and ``u_0`` any common translation. While that is at least the
cutoff nothing is missing. Without a deformation this is the usual rule: no atom moved by more than skin / 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..data.structure import Structure
from ..errors import ConfigError, SimulationError
from ..geometry.graph import Graph
from ..geometry.neighbors import CLOSEST, neighbor_pairs
from ..typing import Tensor

ROUNDING = 1e-9  # Å: rebuild a little before the bound is met
SMALL = 65536  # bytes that are copied in less time than it takes to compare them where they are


class SkinPairs:
    """The graph of one moving structure, of which the pairs are searched for only when they must be.

    The pairs of a graph are those within the cutoff, in the order (i, j, S), whatever the history: results
    do not depend on when the list was made, to the last bit. The tensors of the pairs, and what a potential
    made of them on demand, are reused while the set of pairs stays.

    Args:
        cutoff: Å.
        skin: Å; 0 searches at every step.
        device: where the tensors go.

    Attributes:
        searches: how often the neighbors were searched for.
        steps: how many graphs were asked for.
    """

    def __init__(self, cutoff: float, skin: float = 0.5, device: str | torch.device = "cpu") -> None:
        if not skin >= 0:
            raise ConfigError(f"skin is {skin!r}; expected a length in Å, 0 or more.")
        self.cutoff, self.skin, self.device = float(cutoff), float(skin), torch.device(device)
        self.searches = self.steps = 0
        self._found: tuple[np.ndarray, ...] | None = None  # of the last search, as the next four
        self._positions: np.ndarray | None = None
        self._numbers = np.zeros(0, np.int64)
        self._cell = np.zeros((3, 3))
        self._pbc = np.zeros(3, bool)
        self._graph: Graph | None = None
        self._offset_cell: Tensor | None = None
        self._charge: tuple[float, Tensor] | None = None

    def graph(
        self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, charge: float = 0.0
    ) -> Graph:
        """The graph of a structure.

        Args:
            numbers: ``(atoms,)``.
            positions: Å, ``(atoms, 3)``, wrapped into the cell or not.
            cell: Å, rows, ``(3, 3)``.
            pbc: ``(3,)``.
            charge: e.

        Raises:
            DataError: two atoms are at one place (found by the search), a cell is impossible.
            SimulationError: two atoms came to one place between searches.
        """
        self.steps += 1
        if not self._covers(numbers, positions, cell, pbc):
            self._search(numbers, positions, cell, pbc)
        return self._filter(positions, cell, charge)

    def _covers(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        """Whether every pair within the cutoff is in the list; the bound of this module's text."""
        start = self._positions
        if start is None or start.shape != positions.shape or not self.skin:
            return False
        if not (equal(numbers, self._numbers) and equal(pbc, self._pbc)):
            return False
        reach = self.cutoff + self.skin
        if not np.array_equal(cell[pbc], self._cell[pbc]):  # deformed along the periodic axes, as it was across them
            deformation = np.eye(3) + np.linalg.pinv(self._cell[pbc]) @ (cell[pbc] - self._cell[pbc])
            start = start @ deformation
            reach *= float(np.linalg.svd(deformation, compute_uv=False)[-1])
        moved = positions - start
        moved -= moved.mean(0)
        farthest = float(np.einsum("ia,ia->i", moved, moved).max(initial=0.0)) ** 0.5
        return bool(reach - 2 * farthest >= self.cutoff + ROUNDING)

    def _search(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
        self.searches += 1
        structure, same = self._structure(numbers, positions, cell, pbc)
        self._positions = None  # until a search has succeeded
        found = neighbor_pairs(structure, self.cutoff + self.skin)
        if not (same and self._found is not None and all(map(equal, found, self._found))):
            self._take(*found)
        if not same:
            self._fixed: dict[str, Any] = {
                "numbers": torch.from_numpy(structure.numbers).to(self.device),
                "owner": torch.zeros(len(structure), dtype=torch.int64, device=self.device),
                "pbc": torch.from_numpy(structure.pbc)[None].to(self.device),
            }
        self._found = found
        self._numbers, self._positions = structure.numbers, structure.positions
        self._cell, self._pbc = structure.cell, structure.pbc

    def _structure(
        self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
    ) -> tuple[Structure, bool]:
        """With its checks, and whether it is the last one but for the positions, of which little needs checking."""
        start, x = self._positions, np.array(positions, dtype=np.float64)
        same = start is not None and start.shape == x.shape and equal(numbers, self._numbers)
        if same and equal(pbc, self._pbc) and equal(cell, self._cell) and np.isfinite(x).all():
            known = {"numbers": self._numbers, "cell": self._cell, "pbc": self._pbc}
            return Structure.unchecked(positions=x, **known), True
        return Structure(numbers, x, cell, pbc), False

    def _take(self, i: np.ndarray, j: np.ndarray, shifts: np.ndarray) -> None:
        """New pairs: their tensors; what was made of the old ones is dropped."""
        order = _canonical(i, j, shifts)
        self._pairs = torch.from_numpy(np.stack([i[order], j[order]])).to(self.device)
        self._ends = self._pairs.unbind(0)
        self._shifts = torch.from_numpy(shifts[order].astype(np.float64)).to(self.device)
        self._shifted = bool(shifts.any())
        self._offsets: Tensor | None = None
        self._reverse: Tensor | None = None
        self._keep: Tensor | None = None
        self._graph = None

    def _filter(self, positions: np.ndarray, cell: np.ndarray, charge: float) -> Graph:
        x = torch.from_numpy(np.array(positions, dtype=np.float64)).to(self.device)
        h = torch.from_numpy(np.array(cell, dtype=np.float64)).to(self.device)
        i, j = self._ends
        vectors = x.index_select(0, j) - x.index_select(0, i)
        if self._shifted:
            vectors = vectors + self._offset(h)
        squares = vectors.square().sum(1)
        keep = squares < self.cutoff**2
        if self._graph is None or self._keep is None or not torch.equal(keep, self._keep):
            self._select(keep)
        if len(self._index) and float(squares.min()) < CLOSEST**2:
            self._refuse(int(squares.argmin()), positions)
        self._graph = Graph(
            positions=x, cell=h.unsqueeze(0), charge=self._charged(charge),
            _vectors=vectors if len(self._index) == len(vectors) else vectors.index_select(0, self._index),
            cutoff=self.cutoff, _made=self._views, **self._kept, **self._fixed,  # type: ignore[arg-type]
        )  # fmt: skip
        return self._graph

    def _charged(self, charge: float) -> Tensor:
        """``(1,)``, made again for another charge."""
        if self._charge is None or self._charge[0] != charge:
            self._charge = charge, torch.tensor([charge], dtype=torch.float64, device=self.device)
        return self._charge[1]

    def _offset(self, cell: Tensor) -> Tensor:
        """``S @ cell``, element by element: every pair gets the same bits in any list that holds it."""
        if self._offsets is None or self._offset_cell is None or not torch.equal(cell, self._offset_cell):
            s = self._shifts
            self._offsets = s[:, 0:1] * cell[0] + s[:, 1:2] * cell[1] + s[:, 2:3] * cell[2]
            self._offset_cell = cell
        return self._offsets

    def _select(self, keep: Tensor) -> None:
        """New pairs within the cutoff: their tensors, and the index of reverse pairs where a potential asks for it."""
        wanted = self._graph is not None and "reverse_pairs" in self._views
        self._keep, self._index = keep, keep.nonzero()[:, 0]
        self._kept = {
            "pairs": self._pairs.index_select(1, self._index),
            "shifts": self._shifts.index_select(0, self._index),
        }
        self._views: dict[str, Any] = {}
        if wanted:
            place = keep.cumsum(0) - 1  # in the filtered list, of each pair of the whole
            self._views["reverse_pairs"] = place[self._all_reverse()[self._index]]

    def _all_reverse(self) -> Tensor:
        if self._reverse is None:
            x = torch.zeros(len(self._numbers), 3, dtype=torch.float64, device=self.device)
            whole = Graph(
                positions=x, cell=x.new_zeros(1, 3, 3), charge=x.new_zeros(1), pairs=self._pairs, shifts=self._shifts,
                cutoff=self.cutoff + self.skin, **self._fixed,
            )  # fmt: skip
            self._reverse = whole.reverse_pairs()
        return self._reverse

    def _refuse(self, pair: int, positions: np.ndarray) -> None:
        i, j = (int(k) for k in self._pairs[:, pair])
        raise SimulationError(
            f"Atoms {i} and {j} came to one place, near {np.round(positions[i], 3)} Å: the simulation has left what "
            "its potential can describe. Look at the frames before; shorten the time step or label such structures."
        )


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """``np.array_equal``; whole numbers that are equal, looked at at every step, in a twentieth of its time."""
    whole = a.dtype == b.dtype and a.dtype.kind in "ib" and a.shape == b.shape and a.nbytes < SMALL
    return a.tobytes() == b.tobytes() if whole else np.array_equal(a, b)


def _canonical(i: np.ndarray, j: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The order (i, j, S) of pairs."""
    if len(i) == 0:
        return np.zeros(0, np.int64)
    s = shifts.astype(np.int64) - shifts.min(0)
    width = s.max(0) + 1
    key = ((i * (int(j.max()) + 1) + j) * width[0] + s[:, 0]) * width[1] + s[:, 1]
    return np.argsort(key * width[2] + s[:, 2], kind="stable")
