"""DimeNet++: messages between pairs of atoms that know the angles between them.

J. Gasteiger, S. Giri, J. T. Margraf, S. Günnemann, Fast and uncertainty-aware directional message passing for
non-equilibrium molecules, arXiv:2011.14115 (2020), and the model that it makes faster: J. Gasteiger, J. Groß,
S. Günnemann, Directional message passing for molecular graphs, ICLR (2020), arXiv:2003.03123 (DimeNet; equation
numbers are of the latter). Every pair of neighbors holds a message ``m_ji`` from j to i of F channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from ..blocks.activation import silu
from ..blocks.bessel_splines import bessel_splines
from ..blocks.dense_chain import GIVEN, Step, dense_chain
from ..blocks.directional_native import filtered
from ..blocks.directional_sums import Around, around, directional_sums
from ..blocks.embedding import ElementEmbedding
from ..blocks.mlp import dense
from ..blocks.neighborhood import neighborhood
from ..blocks.readout import LinearReadout
from ..elements import to_number
from ..errors import ConfigError
from ..features.directional import bessel_functions, envelope, sine_basis
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..registry import Preset
from ..typing import Tensor


def orthogonal(n_in: int, n_out: int, *, bias: bool = True) -> nn.Linear:
    """A dense layer with an orthogonal weight of variance ``2 / (n_in + n_out)``, as the authors start theirs."""
    layer = dense(n_in, n_out, bias=bias)
    nn.init.orthogonal_(layer.weight)
    with torch.no_grad():
        layer.weight *= (2 / ((n_in + n_out) * layer.weight.var())).sqrt()
    return layer


class Residual(nn.Module):
    """``h + silu(W_2 silu(W_1 h))``."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.first, self.second = orthogonal(n_features, n_features), orthogonal(n_features, n_features)


def layers(*parts: nn.Module, done: int = 0) -> list[Step]:
    """Steps of a chain of dense layers with SiLU and residual layers, after those that are done."""
    steps: list[Step] = []
    for part in parts:
        if isinstance(part, Residual):
            h = done + len(steps)
            steps += [Step(part.first.weight, part.first.bias), Step(part.second.weight, part.second.bias, plus=h)]
        elif isinstance(part, nn.Linear):
            steps.append(Step(part.weight, part.bias))
    return steps


class Embedding(nn.Module):
    """``m_ji = silu(W [E_j, E_i, silu(W_rbf rbf_ji)])`` (Eq. 12) with a product of each part of W."""

    def __init__(self, n_features: int, n_radial: int) -> None:
        super().__init__()
        self.rbf = orthogonal(n_radial, n_features)
        self.mix = orthogonal(3 * n_features, n_features)

    def forward(self, elements: Tensor, rows: Tensor, pairs: Tensor, rbf: Tensor) -> Tensor:
        """``elements``: a vector each; ``rows``: which one each atom is."""
        n_features = elements.shape[1]
        of_receiver, of_sender, of_rbf = self.mix.weight.split(n_features, 1)
        receiver = torch.addmm(self.mix.bias, elements, of_receiver.t())
        both = (receiver.unsqueeze(1) + elements.mm(of_sender.t())).flatten(0, 1)
        kinds = rows.index_select(0, pairs[0]) * len(elements) + rows.index_select(0, pairs[1])
        return silu(both.index_select(0, kinds) + silu(self.rbf(rbf)).mm(of_rbf.t()))


class Interaction(nn.Module):
    """New messages from those that come before, and their angles (Figure 1 of the paper on DimeNet++).

    Hadamard products with bases of few dimensions take the place of DimeNet's bilinear layer (Eq. 11).
    """

    def __init__(
        self, n_features: int, n_triplet: int, n_basis: int, l_max: int, n_radial: int, n_before: int, n_after: int
    ) -> None:
        super().__init__()
        self.l_max, self.n_radial = l_max, n_radial
        self.ji, self.kj = orthogonal(n_features, n_features), orthogonal(n_features, n_features)
        self.rbf_in = orthogonal(n_radial, n_basis, bias=False)
        self.rbf_out = orthogonal(n_basis, n_features, bias=False)
        self.sbf_in = orthogonal((l_max + 1) * n_radial, n_basis, bias=False)
        self.sbf_out = orthogonal(n_basis, n_triplet, bias=False)
        self.down = orthogonal(n_features, n_triplet, bias=False)
        self.up = orthogonal(n_triplet, n_features, bias=False)
        self.before = nn.ModuleList(Residual(n_features) for _ in range(n_before))
        self.skip = orthogonal(n_features, n_features)
        self.after = nn.ModuleList(Residual(n_features) for _ in range(n_after))

    def forward(self, m: Tensor, rbf: Tensor, around: Around, once: bool = False) -> Tensor:
        """``once``: it will be differentiated once, and by geometry only."""
        chain = partial(dense_chain, constant=once)
        pairs, triplets = self.rbf_filter(), self.sbf_filters()
        if once:
            pairs, triplets = pairs.detach(), triplets.detach()
        x = filtered(chain(m, layers(self.kj)), rbf, pairs)
        t = directional_sums(chain(x, layers(self.down)), triplets, around)
        steps = [*layers(self.up, *self.before), *layers(self.skip)]
        steps[0] = steps[0]._replace(plus=GIVEN)  # x_ji
        steps[-1] = steps[-1]._replace(plus=GIVEN - 1)  # m
        steps += layers(*self.after, done=len(steps))
        return chain(t, steps, chain(m, layers(self.ji)), m)

    def rbf_filter(self) -> Tensor:
        """``(n_radial, F)``: two layers without anything between them are one matrix."""
        return self.rbf_in.weight.t().mm(self.rbf_out.weight.t())

    def sbf_filters(self) -> Tensor:
        """``W_ln``, ``(degrees, n_radial, n_triplet)``."""
        return self.sbf_in.weight.t().mm(self.sbf_out.weight.t()).view(self.l_max + 1, self.n_radial, -1)


class AtomOutput(nn.Module):
    """What an atom makes of the messages that reach it: ``sum_j (W rbf_ji) * m_ji`` and dense layers."""

    def __init__(self, n_features: int, n_output: int, n_radial: int, n_layers: int) -> None:
        super().__init__()
        self.rbf = orthogonal(n_radial, n_features, bias=False)
        self.up = orthogonal(n_features, n_output, bias=False)
        self.layers = nn.ModuleList(orthogonal(n_output, n_output) for _ in range(n_layers))

    def forward(self, m: Tensor, rbf: Tensor, graph: Graph) -> Tensor:
        once, weights = graph.first_order, (self.rbf.weight, self.up.weight)
        pairs, up = (w.detach() for w in weights) if once else weights
        x = filtered(m, rbf, pairs.t(), graph).mm(up.t())
        return dense_chain(x, layers(*self.layers), constant=once) if len(self.layers) else x


class DimeNet(Potential):
    """Directional message passing, in its faster form DimeNet++.

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å.
        n_features: F, channels of a message.
        n_layers: interactions.
        n_triplet: channels of what goes from message to message.
        n_basis: dimensions that the bases are squeezed through.
        n_output: channels of an atom's output.
        l_max: highest degree of the angular functions; the authors count degrees (``num_spherical = l_max + 1``).
        n_radial: radial functions, of pairs and in each degree of triplets.
        n_before_skip: residual layers before the message before is added.
        n_after_skip: residual layers after it.
        n_output_layers: dense layers of an atom's output, before the linear one.
        p: exponent of the envelope; the authors' ``envelope_exponent`` is one less.

    Raises:
        ConfigError: a size that is not positive, or an unknown element.
    """

    pairwise = True
    PRESETS: ClassVar = {
        "fast": Preset(
            "64 channels, 2 interactions, degrees up to 4",
            {"n_features": 64, "n_layers": 2, "n_triplet": 32, "n_output": 128, "l_max": 4},
        ),
        "accurate": Preset("the published sizes: 128 channels, 4 interactions, degrees up to 6", {}),
    }
    SETTINGS: ClassVar = {"descend": {"batch_atoms": 72}}  # steps are slow: more, smaller ones go farther
    CITATION = """@misc{gasteiger2020fast,
  title = {Fast and Uncertainty-Aware Directional Message Passing for Non-Equilibrium Molecules},
  author = {Gasteiger, Johannes and Giri, Shankari and Margraf, Johannes T. and G{\\"u}nnemann, Stephan},
  year = {2020}, eprint = {2011.14115}, note = {Machine Learning for Molecules Workshop, NeurIPS 2020}
}"""

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        cutoff: float = 5.0,
        n_features: int = 128,
        n_layers: int = 4,
        n_triplet: int = 64,
        n_basis: int = 8,
        n_output: int = 256,
        l_max: int = 6,
        n_radial: int = 6,
        n_before_skip: int = 1,
        n_after_skip: int = 2,
        n_output_layers: int = 3,
        p: int = 6,
    ) -> None:
        super().__init__()
        least = {"cutoff": 1e-3, "p": 2} | dict.fromkeys(("n_layers", "l_max", "n_output_layers"), 0)
        least |= dict.fromkeys(("n_before_skip", "n_after_skip"), 0)
        given = {k: v for k, v in locals().items() if isinstance(v, (int, float)) and k != "self"}
        for name, value in given.items():
            if value < least.get(name, 1):
                raise ConfigError(f"DimeNet got {name}={value}; it needs at least {least.get(name, 1)}.")
        self.elements = tuple(to_number(z) for z in elements)
        self.cutoff, self.n_features, self.n_layers, self.n_triplet = cutoff, n_features, n_layers, n_triplet
        self.n_basis, self.n_output, self.l_max, self.n_radial, self.p = n_basis, n_output, l_max, n_radial, p
        self.n_before_skip, self.n_after_skip, self.n_output_layers = n_before_skip, n_after_skip, n_output_layers

        self.frequencies = nn.Parameter(torch.arange(1, n_radial + 1, dtype=torch.float32) * math.pi)
        self.species = ElementEmbedding(self.elements, n_features)
        nn.init.uniform_(self.species.weight, -math.sqrt(3), math.sqrt(3))
        self.embedding = Embedding(n_features, n_radial)
        self.interactions = nn.ModuleList(
            Interaction(n_features, n_triplet, n_basis, l_max, n_radial, n_before_skip, n_after_skip)
            for _ in range(n_layers)
        )
        self.outputs = nn.ModuleList(
            AtomOutput(n_features, n_output, n_radial, n_output_layers) for _ in range(n_layers + 1)
        )
        self.readout = LinearReadout((n_layers + 1) * n_output, bias=False)

    @classmethod
    def tiny(cls) -> DimeNet:
        return cls(
            cutoff=3.0, n_features=12, n_layers=2, n_triplet=8, n_basis=4, n_output=10, l_max=2, n_radial=3,
            n_output_layers=1,
        )  # fmt: skip

    def forward(self, graph: Graph) -> Output:
        features = self.atoms(graph)
        energy, members = self.readout(features)
        return Output(energy, members, features)

    def atoms(self, graph: Graph) -> Tensor:
        """Outputs of all blocks, ``(atoms, (n_layers + 1) n_output)``: the energy is linear in them."""
        near = neighborhood(graph, self.cutoff, self.frequencies.dtype)
        fade = envelope(near.distances, self.cutoff, self.p)
        bessel = bessel_splines if graph.first_order else bessel_functions
        radial = fade * bessel(near.distances, self.cutoff, self.l_max, self.n_radial)
        neighbors = around(graph, near, radial)
        sines = fade.unsqueeze(-1) * sine_basis(near.distances, self.frequencies, self.cutoff)
        rbf = sines.index_select(0, near.layout.place)

        m = self.embedding(*self.species.present(graph.numbers), graph.pairs, rbf)
        first, *others = self.outputs
        found = [first(m, rbf, graph)]
        for interaction, output in zip(self.interactions, others, strict=True):
            m = interaction(m, rbf, neighbors, graph.first_order)
            found.append(output(m, rbf, graph))
        return torch.cat(found, -1)
