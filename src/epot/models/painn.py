"""PaiNN: equivariant message passing with a scalar and a vector on every atom.

K. T. Schütt, O. T. Unke, M. Gastegger, Proc. 38th ICML (2021), PMLR 139, 9377; arXiv:2102.03150. Equation numbers
are theirs. Atom i holds a scalar ``q_i`` (their s_i) of F channels and a vector ``mu_i`` (their v_i) of 3 x F.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn.functional import silu

from ..blocks import first_order
from ..blocks.embedding import ElementEmbedding
from ..blocks.filtered_messages import Pairs, element_sums
from ..blocks.filtered_splines import SplinePairs, spline_pairs
from ..blocks.mlp import MLP, dense
from ..blocks.neighborhood import filtered, neighborhood
from ..blocks.readout import LinearReadout
from ..blocks.spline_messages import available
from ..elements import to_number
from ..errors import ConfigError
from ..features.cutoff import cosine_cutoff, polynomial_cutoff
from ..features.radial import radial_basis
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..registry import Preset
from ..typing import Float, Tensor

CUTOFFS = {"cosine": cosine_cutoff, "polynomial": polynomial_cutoff}
EPSILON = 1e-8  # inside the norm of Eq. 9, whose derivative at zero would not exist without it


class Message(nn.Module):
    """Eqs. 7 and 8: what the neighbors say, ``phi(q_j)`` times a filter ``W_ij``, in three parts of F channels.

    One (q) goes to the scalar, one (R) along the direction ``u_ij`` and one (mu) along the sender's vector.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.phi = MLP([n_features, n_features, 3 * n_features])

    def forward(
        self, q: Tensor, mu: Tensor, pairs: Pairs | SplinePairs, filters: Tensor, once: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Changes of q and mu; ``once`` if they will be differentiated once, by geometry."""
        n_features = q.shape[1]
        if once:
            table, filters = first_order.message_table(q, mu, list(self.phi.parameters())), filters.detach()
        else:
            phi_r, phi_q, phi_mu = self.phi(q).split(n_features, -1)
            table = torch.cat([phi_r, phi_q, (phi_mu.unsqueeze(1) * mu).flatten(1)], -1)
        return pairs.messages(table, filters)

    def first(
        self, embedding: Tensor, rows: Tensor, pairs: Pairs | SplinePairs, filters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same where mu is zero and ``q_j`` is known from the element of j: sums over neighbors come first."""
        n_elements, n_features = embedding.shape
        if isinstance(pairs, SplinePairs):
            sent, _ = self.phi(embedding).split([2 * n_features, n_features], -1)
            return pairs.messages(sent.index_select(0, rows), filters)
        phi_r, phi_q, _ = self.phi(embedding).unsqueeze(1).split(n_features, -1)
        w_r, w_q, _ = filters.split(n_features, -1)
        scalars, vectors = element_sums(pairs, rows, n_elements).split([1, 3], 1)
        dq = scalars.squeeze(1) @ (phi_q * w_q).flatten(0, 1)
        dmu = vectors.flatten(0, 1) @ (phi_r * w_r).flatten(0, 1)
        return dq, dmu.view(-1, 3, n_features)


class Update(nn.Module):
    """Eqs. 9 and 10: what an atom makes of it. ``V, U = mu W`` without bias; ``a`` from q and the norm of V."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.mix = dense(n_features, 2 * n_features, bias=False)
        self.hidden = dense(2 * n_features, n_features)
        self.a = dense(n_features, 2 * n_features)
        self.a_mu = dense(n_features, n_features)

    def forward(self, q: Tensor, mu: Tensor, vectors: bool, once: bool = False) -> tuple[Tensor, Tensor]:
        """New q and, if ``vectors``, mu; ``once`` if they will be differentiated once, by geometry."""
        if once:
            return first_order.update(q, mu, list(self.parameters()), EPSILON, vectors)
        n_features = q.shape[1]
        v, u = self.mix(mu.flatten(0, 1)).view(-1, 3, 2 * n_features).split(n_features, -1)
        norm = (v.square().sum(1) + EPSILON).sqrt()
        hidden = silu(self.hidden(torch.cat([q, norm], -1)))
        a_q, a_qmu = self.a(hidden).split(n_features, -1)
        if vectors:
            mu = mu + self.a_mu(hidden).unsqueeze(1) * u
        return q + a_q + a_qmu * (v * u).sum(1), mu


class PaiNN(Potential):
    """Polarizable atom interaction neural network.

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å.
        n_features: F, channels of q and mu.
        n_layers: interactions, each a message and an update.
        n_radial: radial basis functions.
        radial: ``bessel`` (the paper's) or ``gaussian`` (schnetpack's default).
        cutoff_function: ``cosine`` (the paper's; once differentiable) or ``polynomial`` (twice differentiable).
        shared_interactions: all interactions have the same phi, U, V and a.
        shared_filters: all interactions have the same filters W.

    Raises:
        ConfigError: a size that is not positive, or an unknown element.
    """

    recipe: ClassVar[str] = "descend"
    pairwise = True
    PRESETS: ClassVar = {
        "fast": Preset(
            "64 channels, 8 smooth radial functions", {"n_features": 64, "n_radial": 8, "cutoff_function": "polynomial"}
        ),
        "accurate": Preset(
            "128 channels, 4 layers, 8 smooth radial functions",
            {"n_features": 128, "n_layers": 4, "n_radial": 8, "cutoff_function": "polynomial"},
        ),
    }
    SETTINGS: ClassVar = {"descend": {"energy_growth": 10.0, "batch_atoms": 128}}
    CITATION = """@inproceedings{schutt2021equivariant,
  title = {Equivariant message passing for the prediction of tensorial properties and molecular spectra},
  author = {Sch{\\"u}tt, Kristof T. and Unke, Oliver T. and Gastegger, Michael},
  booktitle = {Proceedings of the 38th International Conference on Machine Learning},
  series = {PMLR}, volume = {139}, pages = {9377--9388}, year = {2021}, eprint = {2102.03150}
}"""

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        cutoff: float = 5.0,
        n_features: int = 128,
        n_layers: int = 3,
        n_radial: int = 20,
        radial: Literal["bessel", "gaussian"] = "bessel",
        cutoff_function: Literal["cosine", "polynomial"] = "cosine",
        shared_interactions: bool = False,
        shared_filters: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"cutoff": (cutoff, 1e-3), "n_features": (n_features, 2), "n_layers": (n_layers, 1)}
        sizes["n_radial"] = (n_radial, 2 if radial == "gaussian" else 1)
        for name, (value, least) in sizes.items():
            if value < least:
                raise ConfigError(f"PaiNN got {name}={value}; it needs at least {least}.")
        self.elements = tuple(to_number(z) for z in elements)
        self.cutoff, self.n_features, self.n_layers, self.n_radial = cutoff, n_features, n_layers, n_radial
        self.radial, self.cutoff_function = radial, cutoff_function
        self.shared_interactions, self.shared_filters = shared_interactions, shared_filters

        self.embedding = ElementEmbedding(self.elements, n_features)
        distinct = 1 if shared_interactions else n_layers
        self.messages = nn.ModuleList(Message(n_features) for _ in range(distinct))
        self.updates = nn.ModuleList(Update(n_features) for _ in range(distinct))
        self.filters = nn.ParameterList(self._new_filters() for _ in range(1 if shared_filters else n_layers))
        self.hidden = dense(n_features, n_features // 2)
        self.readout = LinearReadout(n_features // 2)

    def _new_filters(self) -> nn.Parameter:
        """W as ``(n_radial + 1, 3 F)``, bias last: it is linear in the radial functions times the cutoff function."""
        width = 3 * self.n_features * (1 if self.shared_filters else self.n_layers)
        weight = torch.zeros(self.n_radial + 1, 3 * self.n_features, dtype=torch.float32)
        bound = (6 / (self.n_radial + width)) ** 0.5
        nn.init.uniform_(weight[:-1], -bound, bound)
        return nn.Parameter(weight)

    @classmethod
    def tiny(cls) -> PaiNN:
        return cls(n_features=8, n_layers=2, n_radial=5, cutoff=4.0)

    def forward(self, graph: Graph) -> Output:
        q, _ = self.atoms(graph, vectors=False)
        hidden = silu(self.hidden(q))
        energy, members = self.readout(hidden)
        return Output(energy, members, hidden)

    def atoms(self, graph: Graph, vectors: bool = True) -> tuple[Float[Tensor, "atoms F"], Tensor]:
        """q, and mu ``(atoms, 3, F)``, after the last interaction; the energy needs no vectors of the last update."""
        pairs = self._pairs(graph)
        embedding, rows = self.embedding.present(graph.numbers)
        q = embedding.index_select(0, rows)
        for layer in range(self.n_layers):
            message, update, filters = self.interaction(layer)
            if layer == 0:
                dq, mu = message.first(embedding, rows, pairs, filters)
            else:
                dq, dmu = message(q, mu, pairs, filters, graph.first_order)
                mu = mu + dmu
            q, mu = update(q + dq, mu, vectors or layer < self.n_layers - 1, graph.first_order)
        return q, mu

    def interaction(self, layer: int) -> tuple[Message, Update, Tensor]:
        """Message, update and filters of a layer; what is shared is the same in all."""
        pick = lambda parts: parts[min(layer, len(parts) - 1)]  # noqa: E731
        return pick(self.messages), pick(self.updates), pick(self.filters)

    def _pairs(self, graph: Graph) -> Pairs | SplinePairs:
        dtype = self.hidden.weight.dtype
        if available(graph.pairs.device, dtype, 1):
            return spline_pairs(graph, dtype, self.cutoff, self.radial, self.n_radial, self.cutoff_function)
        near = neighborhood(graph, self.cutoff, dtype)
        return Pairs(near.layout, self._basis(near.distances), near.directions)

    def _basis(self, distances: Tensor) -> Tensor:
        kernel = partial(radial_basis, self.radial, cutoff=self.cutoff, n=self.n_radial)
        return filtered(kernel, partial(CUTOFFS[self.cutoff_function], cutoff=self.cutoff), distances)
