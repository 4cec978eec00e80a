"""GemNet: messages on directed edges, over triplets of atoms and, on request, over quadruplets.

J. Gasteiger, F. Becker, S. Günnemann, Adv. Neural Inf. Process. Syst. 34 (2021), arXiv:2106.08903 (figure 4 shows all
of it); reference code https://github.com/TUM-DAML/gemnet_pytorch. An edge c -> a is a pair of the graph, with a as its
receiver; it has an embedding m, an atom has an embedding h. Energies are sums over atoms and forces their derivatives:
the variants GemNet-T and GemNet-Q.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import nn
from torch.func import functional_call

from ..blocks.bessel_splines import bessel_splines
from ..blocks.dense_chain import dense_chain
from ..blocks.embedding import ElementEmbedding
from ..blocks.gemnet_edges import Edges
from ..blocks.gemnet_layers import HALF, Dense, he_orthogonal_, he_parameter, residuals, skipped, steps
from ..blocks.gemnet_quadruplets import QuadrupletInteraction, Quadruplets, SphericalBasis, components
from ..blocks.gemnet_triplets import CircularBasis, TripletInteraction, projected
from ..blocks.gemnet_updates import AtomUpdate, EdgeUpdate
from ..blocks.readout import LinearReadout
from ..elements import to_number
from ..errors import ConfigError
from ..features.cutoff import polynomial_cutoff
from ..features.directional import bessel_functions, sine_basis
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..registry import Preset
from ..typing import Float, Tensor

THIRD = 3**-0.5
LARGE = 2000
"""Pairs from which it pays to say that weights are constants, where nothing is derived by them: less is kept."""
KINKS = {"forces": "the published angle between half-planes has no sign: forces jump where four atoms are coplanar"}


class Sizes(NamedTuple):
    """Widths of embeddings and numbers of layers, as :class:`GemNet` takes them."""

    n_atom: int
    n_edge: int
    n_triplet: int
    n_quadruplet: int
    n_rbf: int
    n_cbf: int
    n_sbf: int
    n_bilinear: int
    n_bilinear_quadruplet: int
    n_before_skip: int
    n_after_skip: int
    n_concat: int
    n_atom_layers: int


class Geometry(NamedTuple):
    """What all blocks see of the structure: edges and bases, down-projected.

    Attributes:
        edges: where they are.
        rbf_triplet, rbf_atom, rbf_out, rbf_quadruplet: of distances, ``(edges, n_rbf)``.
        triplets: of distances and angles.
        quadruplets: of distances and two angles.
    """

    edges: Edges
    rbf_triplet: Tensor
    rbf_atom: Tensor
    rbf_out: Tensor
    triplets: CircularBasis
    rbf_quadruplet: Tensor | None = None
    quadruplets: SphericalBasis | None = None


class Interaction(nn.Module):
    """An interaction block (figure 4): the edges learn from triplets (and quadruplets), the atoms from the edges."""

    def __init__(self, sizes: Sizes, quadruplets: bool) -> None:
        super().__init__()
        s = sizes
        self.skip = Dense(s.n_edge, s.n_edge)
        self.triplets = TripletInteraction(s.n_edge, s.n_triplet, s.n_bilinear, s.n_rbf, s.n_cbf)
        self.quadruplets = None
        if quadruplets:
            widths = (s.n_quadruplet, s.n_bilinear_quadruplet, s.n_rbf, s.n_cbf, s.n_sbf)
            self.quadruplets = QuadrupletInteraction(s.n_edge, *widths)
        self.before_skip = residuals(s.n_edge, s.n_before_skip)
        self.after_skip = residuals(s.n_edge, s.n_after_skip)
        self.atom_update = AtomUpdate(s.n_atom, s.n_edge, s.n_rbf, s.n_atom_layers)
        self.concat = EdgeUpdate(s.n_atom, s.n_edge, s.n_edge)
        self.after_concat = residuals(s.n_edge, s.n_concat)

    def forward(
        self, h: Float[Tensor, "atoms n_atom"], m: Float[Tensor, "edges n_edge"], geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        edges = geometry.edges
        factor = HALF if self.quadruplets is None else THIRD
        (skip,) = steps(self.skip)
        x = dense_chain(m, [skip._replace(gain=factor * skip.gain)])
        x = self.triplets(m, geometry.rbf_triplet, geometry.triplets, edges, x, factor)
        if self.quadruplets is not None:
            x = self.quadruplets(m, geometry.rbf_quadruplet, geometry.quadruplets, edges, x, factor)
        m = skipped(x, self.before_skip, m, self.after_skip)
        h = (h + self.atom_update(m, geometry.rbf_atom, edges)).mul_(HALF)
        return h, skipped(self.concat(h, m, edges), self.after_concat, m)


class GemNet(Potential):
    """Geometric message passing over triplets of atoms, and over quadruplets as an option.

    Args:
        elements: symbols or atomic numbers.
        cutoff: Å, of edges; with ``quadruplets``, of the pairs (a, b) in the middle (10 in the paper).
        quadruplets: messages over c -> a - b <- d, too: GemNet-Q.
        dihedral: of quadruplets. ``"smooth"`` takes the half of the paper's harmonics that is smooth in the positions;
            with all of them (``"published"``, of imported models) forces jump where four atoms lie in a plane.
        edge_cutoff: Å, of edges, with ``quadruplets`` (5 in the paper); None for ``cutoff``.
        n_layers: interaction blocks.
        n_radial: radial basis functions.
        n_spherical: degrees of the angular bases.
        n_atom: channels of an atom's embedding.
        n_edge: channels of an edge's embedding.
        n_triplet: channels of messages over triplets.
        n_quadruplet: channels of messages over quadruplets.
        n_rbf: of the down-projected radial basis.
        n_cbf: of the down-projected circular basis (a distance and an angle).
        n_sbf: of the down-projected spherical basis (a distance and two angles).
        n_bilinear: channels behind the bilinear layer of triplets.
        n_bilinear_quadruplet: channels behind the bilinear layer of quadruplets.
        n_before_skip: residual layers on edges before the skip connection.
        n_after_skip: after it.
        n_concat: after edges were joined with atoms.
        n_atom_layers: residual layers on atoms.
        envelope: exponent of the polynomial that the bases vanish with at the cutoff.

    Raises:
        ConfigError: a size that is too small, or an unknown element.
    """

    recipe: ClassVar[str] = "descend"
    pairwise = True
    PRESETS: ClassVar = {
        "fast": Preset(
            "64 channels, 2 blocks, degrees up to 4",
            {"n_atom": 64, "n_edge": 64, "n_triplet": 32, "n_bilinear": 32, "n_layers": 2, "n_spherical": 5},
        ),
        "accurate": Preset("the published sizes of GemNet-T: 128 channels, 4 blocks, degrees up to 6", {}),
    }
    SETTINGS: ClassVar = {"descend": {"batch_atoms": 72}}  # steps are slow: more, smaller ones go farther
    CITATION = """@inproceedings{gasteiger2021gemnet,
  title = {{GemNet}: Universal directional graph neural networks for molecules},
  author = {Gasteiger, Johannes and Becker, Florian and G{\\"u}nnemann, Stephan},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {34}, year = {2021}, eprint = {2106.08903}
}"""

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        cutoff: float = 5.0,
        quadruplets: bool = False,
        dihedral: Literal["smooth", "published"] = "smooth",
        edge_cutoff: float | None = None,
        n_layers: int = 4,
        n_radial: int = 6,
        n_spherical: int = 7,
        n_atom: int = 128,
        n_edge: int = 128,
        n_triplet: int = 64,
        n_quadruplet: int = 32,
        n_rbf: int = 16,
        n_cbf: int = 16,
        n_sbf: int = 32,
        n_bilinear: int = 64,
        n_bilinear_quadruplet: int = 32,
        n_before_skip: int = 1,
        n_after_skip: int = 1,
        n_concat: int = 1,
        n_atom_layers: int = 2,
        envelope: int = 5,
    ) -> None:
        super().__init__()
        self.elements, self.cutoff = tuple(to_number(z) for z in elements), cutoff
        self.quadruplets, self.dihedral, self.edge_cutoff = quadruplets, dihedral, edge_cutoff
        self.exempt = KINKS if quadruplets and dihedral == "published" else {}
        self.n_layers, self.n_radial, self.n_spherical = n_layers, n_radial, n_spherical
        self.n_atom, self.n_edge, self.n_triplet, self.n_quadruplet = n_atom, n_edge, n_triplet, n_quadruplet
        self.n_rbf, self.n_cbf, self.n_sbf = n_rbf, n_cbf, n_sbf
        self.n_bilinear, self.n_bilinear_quadruplet = n_bilinear, n_bilinear_quadruplet
        self.n_before_skip, self.n_after_skip, self.n_concat = n_before_skip, n_after_skip, n_concat
        self.n_atom_layers, self.envelope = n_atom_layers, envelope
        self._refuse()
        sizes = Sizes(*(getattr(self, name) for name in Sizes._fields))
        self.embedding = ElementEmbedding(self.elements, n_atom)
        nn.init.uniform_(self.embedding.weight, -math.sqrt(3), math.sqrt(3))
        self.frequencies = nn.Parameter(math.pi * torch.arange(1, n_radial + 1, dtype=torch.float32))
        self.rbf_triplet, self.rbf_atom, self.rbf_out = (Dense(n_radial, n_rbf, activation=False) for _ in range(3))
        self.cbf_triplet = he_parameter(n_spherical, n_radial, n_cbf)
        if quadruplets:
            self.rbf_quadruplet = Dense(n_radial, n_rbf, activation=False)
            self.cbf_quadruplet = he_parameter(n_spherical, n_radial, n_cbf)
            self.sbf_quadruplet = he_parameter(len(components(n_spherical, self.smooth)), n_radial, n_sbf)
        self.first_edges = EdgeUpdate(n_atom, n_radial, n_edge)
        self.interactions = nn.ModuleList(Interaction(sizes, quadruplets) for _ in range(n_layers))
        self.outputs = nn.ModuleList(AtomUpdate(n_atom, n_edge, n_rbf, n_atom_layers) for _ in range(n_layers + 1))
        self.readout = LinearReadout((n_layers + 1) * n_atom, bias=False)
        for part in self.readout.weight.detach().view(-1, 1, n_atom):
            he_orthogonal_(part)

    @property
    def smooth(self) -> bool:
        return self.dihedral == "smooth"

    def _refuse(self) -> None:
        if not self.cutoff > 0:
            raise ConfigError(f"GemNet got cutoff={self.cutoff}; it must be above 0 Å.")
        if self.edge_cutoff is not None and not (self.quadruplets and 0 < self.edge_cutoff <= self.cutoff):
            raise ConfigError(
                f"GemNet got edge_cutoff={self.edge_cutoff}; it goes with quadruplets=True, and is at most the cutoff "
                f"({self.cutoff} Å), which is that of the pairs in their middle."
            )
        layers = ("n_before_skip", "n_after_skip", "n_concat", "n_atom_layers")
        for name in ("n_layers", "n_radial", "n_spherical", *Sizes._fields, "envelope"):
            least = 0 if name in layers else 1 if name in ("n_layers", "n_spherical") else 2
            if getattr(self, name) < least:
                raise ConfigError(f"GemNet got {name}={getattr(self, name)}; it needs at least {least}.")

    @classmethod
    def tiny(cls) -> GemNet:
        return cls(
            cutoff=4.0, n_layers=2, n_radial=4, n_spherical=3, n_atom=8, n_edge=8, n_triplet=6, n_quadruplet=4,
            n_rbf=4, n_cbf=4, n_sbf=4, n_bilinear=6, n_bilinear_quadruplet=4, n_atom_layers=1,
        )  # fmt: skip

    def forward(self, graph: Graph) -> Output:
        if graph.first_order and graph.n_pairs > LARGE:
            constants = {name: p.detach() for name, p in self.named_parameters()}
            return functional_call(self, constants, (graph.replace(first_order=False),))
        geometry, rbf = self._geometry(graph.within(self.cutoff))
        edges = geometry.edges
        h = self.embedding(graph.numbers)
        m = self.first_edges(h, rbf, edges)
        features = [self.outputs[0](m, geometry.rbf_out, edges)]
        for interaction, output in zip(self.interactions, self.outputs[1:], strict=True):
            h, m = interaction(h, m, geometry)
            features.append(output(m, geometry.rbf_out, edges))
        every = torch.cat(features, 1)
        energy, members = self.readout(every)
        return Output(energy, members, every)

    def _geometry(self, graph: Graph) -> tuple[Geometry, Float[Tensor, "edges n_radial"]]:
        """Edges with their bases, and the radial basis ``sqrt(2/c) u(d/c) sin(f_n d/c) / d``."""
        cutoff = self.edge_cutoff or self.cutoff
        near = graph.within(cutoff)
        edges = Edges.of(near)
        r, units = self._lengths(near)
        fade = polynomial_cutoff(r, cutoff, self.envelope)
        rbf = sine_basis(r, self.frequencies, cutoff) * (math.sqrt(2 / cutoff) * fade / r).unsqueeze(-1)
        spherical = self._spherical(r, cutoff, graph.first_order)
        triplets = CircularBasis.of(units, spherical, self.cbf_triplet, edges)
        made = Geometry(edges, self.rbf_triplet(rbf), self.rbf_atom(rbf), self.rbf_out(rbf), triplets)
        if not self.quadruplets:
            return made, rbf
        degree = components(self.n_spherical, self.smooth)
        quadruplets = Quadruplets.of(graph, near, len(degree))
        far, middle = self._lengths(graph)
        circular = projected(self._spherical(far, self.cutoff, graph.first_order), self.cbf_quadruplet)
        radial = projected(spherical[degree], self.sbf_quadruplet)
        basis = SphericalBasis.of(quadruplets, units, middle, circular, radial, self.smooth)
        return made._replace(rbf_quadruplet=self.rbf_quadruplet(rbf), quadruplets=basis), rbf

    def _lengths(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Lengths of pairs and unit vectors along them."""
        vectors = graph.vectors().to(self.frequencies.dtype)
        r = vectors.square().sum(-1).sqrt()
        return r, vectors / r.unsqueeze(-1)

    def _spherical(self, r: Tensor, cutoff: float, once: bool) -> Float[Tensor, "degrees pairs n_radial"]:
        """``c^-3/2 u(d/c) N_ln j_l(z_ln d/c)``."""
        fade = polynomial_cutoff(r, cutoff, self.envelope) * cutoff**-1.5
        bessel = bessel_splines if once else bessel_functions
        return (bessel(r, cutoff, self.n_spherical - 1, self.n_radial) * fade).transpose(1, 2)
