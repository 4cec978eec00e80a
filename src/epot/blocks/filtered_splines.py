"""Filtered messages by compiled kernels, filters from splines.

What :mod:`epot.blocks.filtered_messages` and :mod:`epot.blocks.scalar_messages` do, sooner. The cutoff function is
in the splines. Filters of the former are linear in radial functions times the cutoff function, ``W_ij = B(r_ij) w``, so
their splines are those of ``B`` (made once, :func:`~epot.blocks.filter_tables.radial_splines`) times ``w``, and nothing
of them is made for pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

from ..geometry.graph import Graph
from ..typing import Float, Tensor
from .element_order import Sites, in_order
from .filter_tables import Grid, grid, intervals, radial_splines
from .spline_messages import Knots, Scheme, spline_messages

_VECTORS = [(0, place, 1, place, 1.0) for place in range(3)]
RESULTS = [(1, 1), (3, 1)]
FIRST = Scheme([(0, 1, 1, 3), (1, 1, 0, 1)], [*_VECTORS, (1, 0, 0, 0, 1.0)], RESULTS)
"""Senders ``[R | q]``: a vector along the direction, and a scalar."""
ALL = Scheme(
    [(0, 1, 1, 3), (1, 1, 0, 1), (2, 3, 0, 1)],
    [*_VECTORS, (1, 0, 0, 0, 1.0), *[(2, place, 1, place, 1.0) for place in range(3)]],
    RESULTS,
)
"""Senders ``[R | q | x | y | z]``: the vector of the sender besides."""
SCALAR = Scheme([(0, 1, 0, 1)], [(0, 0, 0, 0, 1.0)], [(1, 1)])
"""Senders and results of scalars."""


class SplinePairs(NamedTuple):
    """The geometry of the messages, the same for every layer.

    Attributes:
        sites: where the pairs lie.
        distances: Å, of each slot.
        harmonics: 1 and the unit vector from receiver to sender.
        knots: of the splines.
        radial: coefficients of the radial functions.
    """

    sites: Sites
    distances: Float[Tensor, " slots"]
    harmonics: Float[Tensor, "slots 4"]
    knots: Knots
    radial: Float[Tensor, "rows functions"]

    def messages(
        self, table: Float[Tensor, "atoms components_F"], filters: Float[Tensor, "functions three_F"]
    ) -> tuple[Float[Tensor, "atoms F"], Float[Tensor, "atoms 3 F"]]:
        """Q and mu of each receiver.

        Args:
            table: ``[R | q | x | y | z]`` of each sender, or ``[R | q]`` where it has no vector.
            filters: ``[R | q | mu]``.
        """
        n_features = filters.shape[1] // 3
        scheme, splines = ALL, self.radial @ filters
        if table.shape[1] == 2 * n_features:
            scheme, splines = FIRST, self.radial @ filters.split([2 * n_features, n_features], 1)[0]
        geometry = self.distances, self.harmonics, self.sites, scheme, self.knots
        q, mu = spline_messages(table, splines, *geometry)
        return q.squeeze(1), mu


def spline_pairs(graph: Graph, dtype: torch.dtype, cutoff: float, radial: str, n_radial: int, fade: str) -> SplinePairs:
    """Those of a graph; differentiable through ``graph.vectors()``."""
    vectors = graph.vectors().to(dtype)
    n = intervals(radial, n_radial, dtype)
    table = radial_splines(radial, n_radial, fade, cutoff, n, dtype, vectors.device)
    knots = Knots(grid(cutoff, n, dtype, vectors.device))
    r = vectors.square().sum(-1).sqrt()
    return SplinePairs(in_order(graph), r, pad(vectors / r.unsqueeze(-1), (1, 0), value=1.0), knots, table)


class SplineFilters(NamedTuple):
    """The geometry of messages of scalars, the same for every layer.

    Attributes:
        sites: where the pairs lie.
        distances: Å, of each pair.
        grid: of the splines.
    """

    sites: Sites
    distances: Float[Tensor, " pairs"]
    grid: Grid

    def messages(self, y: Float[Tensor, "atoms F"], table: Float[Tensor, "rows F"]) -> Float[Tensor, "atoms F"]:
        """``sum_j W(r_ij) * y_j``.

        Args:
            y: of each sender.
            table: coefficients of the splines, cutoff function included.
        """
        ones = self.distances.new_ones(len(self.distances), 1)
        made = spline_messages(y, table, self.distances, ones, self.sites, SCALAR, Knots(self.grid))
        return made[0].squeeze(1)
