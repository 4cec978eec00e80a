"""MACE: messages of many bodies from symmetric powers of equivariant features.

I. Batatia, D. P. Kovács, G. N. C. Simm, C. Ortner, G. Csányi, Adv. Neural Inf. Process. Syst. 35 (2022);
arXiv:2206.07697. Equation numbers are theirs. Atom i holds features ``h_i`` of degrees 0 .. max_l with C channels each.
A layer sums over neighbors first (A, Eqs. 8 and 9), then raises the sums to powers (B, Eqs. 10 and 11), so that a
message of correlation nu couples nu + 1 atoms at the cost of one sum over neighbors, and updates the features (Eq. 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from ..blocks import sparse_contraction
from ..blocks.channels import FeatureNorm, joined, mixed
from ..blocks.element_order import Sites, by_element
from ..blocks.embedding import ElementEmbedding
from ..blocks.equivariant import spherical_harmonics
from ..blocks.kept import Kept
from ..blocks.mace_geometry import Surroundings
from ..blocks.mace_interaction import Interaction, Kind
from ..blocks.mace_nonlinear import NonlinearInteraction
from ..blocks.mlp import dense
from ..blocks.neighborhood import neighborhood
from ..blocks.radial_network import Radial, RadialBasis, Transform, scaled_silu, unit_normal
from ..blocks.readout import LinearReadout
from ..blocks.symmetric_contraction import SymmetricContraction
from ..elements import to_number
from ..errors import ConfigError
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..registry import Preset
from ..typing import Float, Tensor


class Product(nn.Module):
    """Eqs. 10 and 11: powers of A up to ``correlation``, each element its own weights; then a linear map.

    Args:
        n_elements: sets of weights; 1 for one that all elements share.
        n_channels: C.
        max_ell: highest degree of A.
        l_out: highest degree of the result.
        correlation: highest power.
        reduced: orthonormal couplings (see :class:`SymmetricContraction`).
    """

    def __init__(
        self, n_elements: int, n_channels: int, max_ell: int, l_out: int, correlation: int, reduced: bool
    ) -> None:
        super().__init__()
        self.agnostic = n_elements == 1
        degrees = range(l_out + 1)
        self.powers = SymmetricContraction(n_elements, n_channels, max_ell, degrees, correlation, reduced)
        self.mix = unit_normal(l_out + 1, n_channels, n_channels)
        self._terms = sparse_contraction.terms(max_ell, degrees, correlation, reduced)
        self._kept = Kept()

    def forward(self, a: list[Tensor], sites: Sites, once: bool) -> list[Tensor]:
        """The message, ``(atoms, 2 l + 1, channels)`` for each degree, from A of the same kind."""
        if sparse_contraction.available(a[0].device, a[0].dtype, len(a) - 1):
            kinds, species = sites.kinds, sites.species
            if self.agnostic:
                kinds, species = kinds.new_zeros(1), torch.zeros_like(species)
            weights = list(self.powers.weights)
            make = lambda: sparse_contraction.coefficients(self._terms, weights, kinds)  # noqa: E731
            k = self._kept.by(weights, make, tuple(kinds.tolist())) if once else make()
            return mixed(sparse_contraction.contracted(a, k, self._terms, species), self.mix.unbind(), once)
        counts = (len(a[0]),) if self.agnostic else sites.counts
        return mixed(self.powers.of_atoms(joined(a), counts, once), self.mix.unbind(), once)


class MACE(Potential):
    """Equivariant message passing with many-body messages.

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å.
        n_channels: C, of every degree.
        max_l: highest degree of the features that atoms send (L of the paper's tables: 0, 1 or 2).
        max_ell: highest degree of the harmonics.
        correlation: highest power, one number or one for each layer.
        n_layers: rounds of messages.
        n_radial: radial functions.
        radial: which: ``bessel``, ``gaussian`` or ``chebyshev``.
        cutoff_power: p of the polynomial cutoff function.
        radial_mlp: widths of the radial network's hidden layers.
        distance_transform: ``agnesi``, ``soft`` or none.
        interaction: kind of the blocks (:mod:`epot.blocks.mace_interaction`).
        interaction_first: that of the first.
        n_readout: width of the last readout's hidden layer.
        n_edge_channels: channels that are sent; None for C.
        reduced_couplings: orthonormal symmetric couplings in place of e3nn's iterated ones.
        agnostic_product: all elements have the same weights of powers.
        cutoff_on_radial: the cutoff function multiplies what goes into the radial network, else what comes out.
        last_readout_only: energies are read from the last layer alone.
        deep_readout: the last readout has a second hidden layer, with biases.
        trainable_bessel: the frequencies of the Bessel functions are learned, too.
        feature_norm: features are brought to root mean squares of 1 before every layer but the first.

    Raises:
        ConfigError: a size that is not positive, an unknown element, correlations that do not match the layers.
    """

    recipe: ClassVar[str] = "descend"
    pairwise = True
    unturned = ("hidden",)  # a part of the readout
    rates_by_width = True  # of what Muon leaves: rates in the paper are of weights that e3nn divides
    PRESETS: ClassVar = {
        "small": Preset("64 channels, scalar messages: fast", {"n_channels": 64, "max_l": 0}),
        "medium": Preset("96 channels, scalar and vector messages", {"n_channels": 96, "max_l": 1}),
        "large": Preset("128 channels, messages up to l = 2", {"n_channels": 128, "max_l": 2}),
    }
    SETTINGS: ClassVar = {  # the paper's loss, rate and second stage (without the jump); benchmarks/ablation.py
        "descend": {
            "loss": "mse", "learning_rate": 0.01, "weight_decay": 0.0, "energy_weight": 10.0, "energy_growth": 10.0,
            "batch_atoms": 144,
        }
    }  # fmt: skip
    CITATION = """@inproceedings{batatia2022mace,
  title = {{MACE}: Higher Order Equivariant Message Passing Neural Networks for Fast and Accurate Force Fields},
  author = {Batatia, Ilyes and Kov{\\'a}cs, D{\\'a}vid P{\\'e}ter and Simm, Gregor N. C. and Ortner, Christoph and
    Cs{\\'a}nyi, G{\\'a}bor},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {35}, year = {2022}, eprint = {2206.07697}
}"""

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        cutoff: float = 5.0,
        n_channels: int = 64,
        max_l: int = 1,
        max_ell: int = 3,
        correlation: int | Sequence[int] = 3,
        n_layers: int = 2,
        n_radial: int = 8,
        radial: Radial = "bessel",
        cutoff_power: int = 5,
        radial_mlp: Sequence[int] = (64, 64),
        distance_transform: Transform | None = None,
        interaction: Kind = "residual",
        interaction_first: Kind = "residual",
        n_readout: int = 16,
        n_edge_channels: int | None = None,
        reduced_couplings: bool = True,
        agnostic_product: bool = False,
        cutoff_on_radial: bool = True,
        last_readout_only: bool = False,
        deep_readout: bool = False,
        trainable_bessel: bool = False,
        feature_norm: bool = False,
    ) -> None:
        super().__init__()
        self.elements = tuple(sorted(to_number(z) for z in elements))
        self.cutoff, self.n_channels, self.max_l, self.max_ell = cutoff, n_channels, max_l, max_ell
        self.correlation, self.n_layers, self.n_radial, self.radial = correlation, n_layers, n_radial, radial
        self.cutoff_power, self.radial_mlp, self.distance_transform = cutoff_power, radial_mlp, distance_transform
        self.interaction, self.interaction_first, self.n_readout = interaction, interaction_first, n_readout
        self.n_edge_channels, self.reduced_couplings = n_edge_channels, reduced_couplings
        self.agnostic_product, self.cutoff_on_radial = agnostic_product, cutoff_on_radial
        self.last_readout_only, self.deep_readout = last_readout_only, deep_readout
        self.trainable_bessel, self.feature_norm = trainable_bessel, feature_norm
        powers = self._check()

        self.embedding = ElementEmbedding(self.elements, n_channels)
        with torch.no_grad():
            self.embedding.weight.mul_(len(self.elements) ** -0.5)
        self.basis = RadialBasis(cutoff, n_radial, radial, cutoff_power, distance_transform, trainable_bessel)
        widths = [n_radial, *radial_mlp]
        self.interactions, self.products = nn.ModuleList(), nn.ModuleList()
        for layer, power in enumerate(powers):
            l_in, l_out = 0 if layer == 0 else max_l, 0 if layer == n_layers - 1 else max_l
            kind = interaction_first if layer == 0 else interaction
            sizes = len(self.elements), n_channels, n_edge_channels or n_channels, l_in, max_ell, l_out
            first = layer == 0
            self.interactions.append(
                NonlinearInteraction(*sizes, widths, first)
                if kind == "nonlinear"
                else Interaction(*sizes, widths, kind, first)
            )
            kinds = 1 if agnostic_product else len(self.elements)
            self.products.append(Product(kinds, n_channels, max_ell, l_out, power, reduced_couplings))
        norms = [FeatureNorm(max_l + 1, n_channels) for _ in range(n_layers - 1)] if feature_norm else []
        self.norms = nn.ModuleList(norms)
        self.hidden = unit_normal(n_channels, n_readout) if n_layers > 1 else None
        self.second = dense(n_readout, n_readout) if n_layers > 1 and deep_readout else None
        read = n_channels * (0 if last_readout_only else max(n_layers - 1, 1)) + (n_readout if n_layers > 1 else 0)
        self.readout = LinearReadout(read, bias=False)
        with torch.no_grad():
            self.readout.weight.normal_(std=n_channels**-0.5)
            if self.hidden is not None:
                self.readout.weight[-n_readout:].normal_(std=n_readout**-0.5)

    def _check(self) -> list[int]:
        """The correlation of each layer."""
        sizes = ("n_channels", "n_layers", "n_radial", "n_readout", "cutoff", "cutoff_power", "n_edge_channels")
        for name in sizes:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"MACE got {name}={value}; it must be above 0.")
        if "nonlinear" in (self.interaction, self.interaction_first) and self.cutoff_on_radial:
            raise ConfigError(
                "MACE's nonlinear interaction has biases in its radial network: it needs cutoff_on_radial=False, or "
                "messages would not vanish at the cutoff."
            )
        if self.trainable_bessel and self.radial != "bessel":
            raise ConfigError(f"MACE got trainable_bessel=True with radial={self.radial!r}; it needs 'bessel'.")
        if self.max_l < 0 or self.max_ell < self.max_l:
            raise ConfigError(f"MACE got max_l={self.max_l}, max_ell={self.max_ell}; 0 <= max_l <= max_ell is needed.")
        if not self.radial_mlp or min(self.radial_mlp) < 1:
            raise ConfigError(f"MACE got radial_mlp={self.radial_mlp}; it needs one width above 0 or more.")
        powers = [self.correlation] * self.n_layers if isinstance(self.correlation, int) else list(self.correlation)
        if len(powers) != self.n_layers or not all(1 <= p <= 4 for p in powers):
            raise ConfigError(
                f"MACE got correlation={self.correlation} with {self.n_layers} layers; it needs a number from 1 to 4, "
                "or one for each layer."
            )
        return powers

    @classmethod
    def tiny(cls) -> MACE:
        return cls(n_channels=4, max_ell=2, n_radial=4, radial_mlp=(8,), n_readout=4, cutoff=4.0)

    def forward(self, graph: Graph) -> Output:
        scalars, sites = self.atoms(graph)
        parts = list(scalars[-1:] if self.last_readout_only else scalars)
        if self.hidden is not None:
            parts[-1] = scaled_silu(parts[-1] @ self.hidden)
        if self.second is not None:
            parts[-1] = scaled_silu(self.second(parts[-1]))
        features = torch.cat(parts, -1).index_select(0, sites.place)
        energy, members = self.readout(features)
        return Output(energy, members, features)

    def atoms(self, graph: Graph) -> tuple[list[Float[Tensor, "atoms channels"]], Sites]:
        """Scalars of each layer, atoms sorted by element, and that order."""
        around, embedded = self._surroundings(graph)
        h = [embedded.index_select(0, around.sites.species).unsqueeze(1)]
        scalars = []
        for layer, (interaction, product) in enumerate(zip(self.interactions, self.products, strict=True)):
            if self.feature_norm and layer:
                h = self.norms[layer - 1](h)
            a, kept = interaction(h, around)
            h = product(a, around.sites, graph.first_order)
            h = [new + old for new, old in zip(h, kept, strict=False)] + h[len(kept) :]  # Eq. 12
            scalars.append(h[0].squeeze(1))
        return scalars, around.sites

    def _surroundings(self, graph: Graph) -> tuple[Surroundings, Tensor]:
        """The geometry, and the features of the elements that are there."""
        assert self.elements is not None
        near = neighborhood(graph, self.cutoff, self.embedding.weight.dtype)
        embedded, _ = self.embedding.present(graph.numbers)
        sites = by_element(graph, near.layout, self.embedding.rows(graph.numbers), self.elements)
        harmonics = spherical_harmonics(-near.directions, self.max_ell)  # of r_i - r_j, receiver less sender
        by_elements = "nonlinear" in (self.interaction, self.interaction_first)
        radial = self.basis, self.embedding.weight, self.elements, self.cutoff_on_radial, by_elements
        return Surroundings(sites, near.distances, harmonics, *radial, graph.first_order), embedded
