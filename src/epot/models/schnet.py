"""SchNet: messages of scalars through continuous filters of the distance.

K. T. Schütt, H. E. Sauceda, P.-J. Kindermans, A. Tkatchenko, K.-R. Müller, J. Chem. Phys. 148, 241722 (2018),
doi:10.1063/1.5019779 (and NeurIPS 2017, arXiv:1706.08566). Atom i holds ``x_i`` of F channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import nn

from ..blocks import first_order, kept
from ..blocks.element_order import in_order
from ..blocks.embedding import ElementEmbedding
from ..blocks.filter_tables import Grid, Kept, Taps, continued, grid, intervals, solver
from ..blocks.filtered_splines import SplineFilters
from ..blocks.first_order import Layer
from ..blocks.mlp import MLP, dense, shifted_softplus
from ..blocks.readout import LinearReadout
from ..blocks.scalar_messages import Filters, element_messages, segments
from ..blocks.scalar_network import Readout, ScalarNetwork, available
from ..blocks.spline_messages import available as messages_available
from ..elements import to_number
from ..errors import ConfigError
from ..features.cutoff import cutoff_function
from ..features.radial import radial_basis
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..registry import Preset
from ..typing import Float, Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"shifted_softplus": shifted_softplus, "silu": nn.functional.silu}


class Interaction(nn.Module):
    """Continuous-filter convolution ``m_i = sum_j W(r_ij) * (W_in x_j)`` and atomwise layers: ``x_i + v(m_i)``.

    The filter-generating network ``W`` takes radial functions through two dense layers with a shifted softplus between.
    """

    def __init__(self, n_features: int, n_filters: int, n_radial: int) -> None:
        super().__init__()
        self.project = dense(n_features, n_filters, bias=False)
        self.filter = MLP([n_radial, n_filters, n_filters], shifted_softplus)
        self.update = MLP([n_filters, n_features, n_features], shifted_softplus)

    def forward(self, x: Tensor, table: Tensor, filters: Filters | SplineFilters) -> Tensor:
        """New x."""
        return x + self.update(filters.messages(self.project(x), table))

    def first(self, embedding: Tensor, kinds: Tensor, table: Tensor, filters: Filters | SplineFilters) -> Tensor:
        """The same where ``x_j`` is known from the element of j: its messages are curves, one for each element."""
        if isinstance(filters, SplineFilters):
            sent = self.project(embedding).index_select(0, kinds)
            return embedding.index_select(0, kinds) + self.update(filters.messages(sent, table))
        curves = self.project(embedding).unsqueeze(1) * table
        return embedding.index_select(0, kinds) + self.update(element_messages(curves, kinds, filters))


class SchNet(Potential):
    """Continuous-filter convolutional network: invariant messages of pairs.

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å.
        n_features: F, channels of x.
        n_layers: interactions.
        n_radial: radial basis functions; 50 up to 5 Å are the paper's spacing of 0.1 Å.
        radial: ``gaussian`` (the paper's) or ``bessel``.
        cutoff_function: ``cosine`` (once differentiable) or ``polynomial`` (twice); it multiplies the filters.
        n_filters: channels of the filters; as many as of x if not given.
        shared_interactions: all interactions have the same weights.
        readout_activation: of the one hidden layer of the output; ``silu`` is schnetpack's.

    Filters are splines of what the network gives at nodes (:mod:`epot.blocks.filter_tables`), in training too.

    Raises:
        ConfigError: a size that is not positive, or an unknown element.
    """

    recipe: ClassVar[str] = "descend"
    pairwise = True
    PRESETS: ClassVar = {
        "fast": Preset(
            "64 channels, 3 layers, smooth cutoff",
            {"n_features": 64, "n_layers": 3, "n_radial": 25, "cutoff_function": "polynomial"},
        ),
        "accurate": Preset(
            "the published sizes (128 channels, 6 layers), smooth cutoff", {"cutoff_function": "polynomial"}
        ),
    }
    CITATION = """@article{schutt2018schnet,
  title = {{SchNet} -- A deep learning architecture for molecules and materials},
  author = {Sch{\\"u}tt, K. T. and Sauceda, H. E. and Kindermans, P.-J. and Tkatchenko, A. and M{\\"u}ller, K.-R.},
  journal = {J. Chem. Phys.}, volume = {148}, number = {24}, pages = {241722}, year = {2018},
  doi = {10.1063/1.5019779}
}"""

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        cutoff: float = 5.0,
        n_features: int = 128,
        n_layers: int = 6,
        n_radial: int = 50,
        radial: Literal["gaussian", "bessel"] = "gaussian",
        cutoff_function: Literal["cosine", "polynomial"] = "cosine",
        n_filters: int | None = None,
        shared_interactions: bool = False,
        readout_activation: Literal["shifted_softplus", "silu"] = "shifted_softplus",
    ) -> None:
        super().__init__()
        sizes = {"cutoff": (cutoff, 1e-3), "n_features": (n_features, 2), "n_layers": (n_layers, 1)}
        sizes["n_radial"] = (n_radial, 2 if radial == "gaussian" else 1)
        sizes["n_filters"] = (n_features if n_filters is None else n_filters, 1)
        for name, (value, least) in sizes.items():
            if value < least:
                raise ConfigError(f"SchNet got {name}={value}; it needs at least {least}.")
        self.elements = tuple(to_number(z) for z in elements)
        self.cutoff, self.n_features, self.n_layers, self.n_radial = cutoff, n_features, n_layers, n_radial
        self.radial, self.cutoff_function = radial, cutoff_function
        self.n_filters, self.shared_interactions = n_filters, shared_interactions
        self.readout_activation = readout_activation

        self.embedding = ElementEmbedding(self.elements, n_features)
        distinct = 1 if shared_interactions else n_layers
        parts = [Interaction(n_features, n_filters or n_features, n_radial) for _ in range(distinct)]
        self.interactions = nn.ModuleList(parts)
        self.hidden = dense(n_features, n_features // 2)
        self.readout = LinearReadout(n_features // 2)
        self._packed = kept.Kept()
        self._kept, self._faded = Kept(), Kept()  # tables without and with the cutoff function

    @classmethod
    def tiny(cls) -> SchNet:
        return cls(n_features=8, n_layers=2, n_radial=8, cutoff=4.0)

    def forward(self, graph: Graph) -> Output:
        if _once(graph) and available(self.hidden.weight.device, self.hidden.weight.dtype):
            made = self._network().energies(graph)
            if made is not None:  # else an element is unknown, and refused by name below
                energy, members = self.readout(made[1]) if self.readout.n_members else (made[0], None)
                return Output(energy, members, made[1])
        hidden = ACTIVATIONS[self.readout_activation](self.hidden(self.atoms(graph)))
        energy, members = self.readout(hidden)
        return Output(energy, members, hidden)

    def atoms(self, graph: Graph) -> Float[Tensor, "atoms F"]:
        """Features x after the last interaction."""
        once = _once(graph)
        on, tables = self.tables(constant=once)
        distances = graph.vectors().square().sum(-1).sqrt()
        filters = self._geometry(graph, distances, on)
        embedding, kinds = self.embedding.present(graph.numbers)
        first, *others = self._layers(tables)
        if once and isinstance(filters, Filters):
            constant = [_constant(*layer) for layer in (first, *others)]
            curves = self._kept.product(first[0].project(embedding), first[1])
            return first_order.curve_interactions(embedding.index_select(0, kinds), curves, kinds, constant, filters)
        x = first[0].first(embedding, kinds, first[1], filters)
        for interaction, table in others:
            x = interaction(x, table, filters)
        return x

    def _network(self) -> ScalarNetwork:
        """All of it for the compiled call, made again when a weight has changed."""
        return self._packed.of(self, self._pack)

    def _pack(self) -> ScalarNetwork:
        on, tables = self.tables(constant=True)
        layers = [_constant(*layer) for layer in self._layers(tables)]
        hidden = (self.hidden.weight, self.hidden.bias)
        scale, bias = self.readout.scale, self.readout.bias
        shift = torch.zeros_like(scale) if bias is None else bias * scale
        readout = Readout(hidden, self.readout_activation, self.readout.weight * scale, shift)
        return ScalarNetwork(self.embedding.weight, self.embedding.species, layers, readout, on)

    @property
    def _compiled(self) -> bool:
        """Whether compiled kernels sum the messages; then the cutoff function is in the tables."""
        return messages_available(self.hidden.weight.device, self.hidden.weight.dtype, 0)

    def _geometry(self, graph: Graph, distances: Tensor, on: Grid) -> Filters | SplineFilters:
        if self._compiled:
            return SplineFilters(in_order(graph), distances.to(self.hidden.weight.dtype), on)
        taps = Taps(distances, on, self.cutoff, cutoff_function(self.cutoff_function))
        return Filters(segments(graph), taps, distances)

    def _layers(self, tables: Sequence[Tensor]) -> list[tuple[Interaction, Tensor]]:
        """Each interaction with its filters, in order."""
        distinct = self.distinct()
        which = [min(k, len(distinct) - 1) for k in range(self.n_layers)]
        return [(distinct[k], tables[k]) for k in which]

    def distinct(self) -> list[Interaction]:
        """One interaction if all are the same, else all."""
        return list(self.interactions)  # type: ignore[arg-type]

    def tables(self, constant: bool = False) -> tuple[Grid, list[Tensor]]:
        """The filters of each interaction as splines; ``constant`` without history, and kept while weights stay."""
        weight = self.hidden.weight
        if constant:
            parameters = [p for i in self.distinct() for p in i.filter.parameters()]
            double = lambda: partial(self.filters, interactions=[deepcopy(i).double() for i in self.distinct()])  # noqa: E731
            tables = self._faded if self._compiled else self._kept
            return tables.of(double, parameters, self.cutoff, self.radial, self.n_radial)
        on = grid(self.cutoff, intervals(self.radial, self.n_radial, weight.dtype), weight.dtype, weight.device)
        solve = solver(on.intervals, weight.dtype, weight.device)
        return on, [solve @ values for values in self.filters(on.points)]

    def filters(
        self, distances: Float[Tensor, " points"], interactions: Sequence[Interaction] | None = None
    ) -> list[Tensor]:
        """What the filter networks give, each ``(points, n_filters)``; compiled, with the cutoff function."""
        basis = radial_basis(self.radial, distances, self.cutoff, self.n_radial)
        found = [i.filter(basis) for i in interactions or self.distinct()]
        if not self._compiled:
            return found
        fade = continued(self.cutoff_function, distances, self.cutoff).unsqueeze(1)
        return [values * fade for values in found]


def _once(graph: Graph) -> bool:
    """Whether first derivatives by the geometry are all that can be asked for."""
    return graph.first_order or not torch.is_grad_enabled()


def _constant(interaction: Interaction, table: Tensor) -> Layer:
    update = [t.detach() for t in interaction.update.parameters()]
    return Layer(table, interaction.project.weight.detach(), update)
