"""The SOAP power spectrum: a smooth, rotation-invariant fingerprint of an atom's surroundings.

Bartok, Kondor, Csanyi, Phys. Rev. B 87, 184115 (2013), doi:10.1103/PhysRevB.87.184115.

    rho_i^a(r) = sum_(j in a) w(r_ij) fc(r_ij) exp(-|r - r_ij|^2 / 2 sigma^2)
    c^a_nlm    = <R_n Y_lm | rho_i^a>
    p^ab_nn'l  = f_l sum_m c^a_nlm c^b_n'lm,      k(i, i') = (p . p' / |p| |p'|)^zeta

The conventions of three codes are dialects (:mod:`epot.features.soap_dialects`, :mod:`epot.features.soap_layout`);
sums over neighbors are batched matrix products (:mod:`epot.features.soap_density`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch

from ...elements import names
from ...errors import ConfigError
from ...geometry.graph import Graph
from ...registry import nearest
from ...typing import Float, Int, Tensor
from ..angular import harmonics_with_gradients, n_harmonics
from ..descriptor import Descriptor
from ..soap_contract import Contraction
from ..soap_density import Density
from ..soap_dialects import BASES, DIALECTS, Basis
from ..soap_fade import Fade
from ..soap_jacobian import soap_jacobian
from ..soap_layout import columns, layout, mixing_matrix


class PairDerivatives(NamedTuple):
    """Derivatives of the unnormalized power spectrum, pair by pair, before the contraction with a kernel.

    ``d/dr_ij sum_l <P_l, Q_l> = 2 sum_l halves[l] . Q_l[rows of species(j)]`` for ``Q_l`` from :meth:`Soap.unfold`.

    Attributes:
        spectrum: what ``forward`` gives, ``(atoms, size)``.
        norms: of the power spectrum, ``(atoms,)``.
        halves: for each l, ``(pairs, 3, n_max, channels)``.
        along: the same with the normalized spectrum of atom i for ``Q``: half the
            derivative of the norm, ``(pairs, 3)``.
    """

    spectrum: Tensor
    norms: Tensor
    halves: list[Tensor]
    along: Tensor


class Soap(Descriptor):
    """Power spectra of every atom of a graph.

    Args:
        elements: symbols or atomic numbers; the species channels, in this order.
        cutoff: Å, which the radial functions are made for.
        n_max: radial functions.
        l_max: highest degree of the spherical harmonics.
        sigma: Å, width of the Gaussians.
        cutoff_width: Å, over which a neighbor fades in; None for 1 Å (the whole cutoff where that is shorter), and in
            the dialect ``dscribe`` for a step.
        center_weight: of the Gaussian on the atom itself; with 0, a lone atom has a spectrum of zeros.
        normalize: divide by the length of the vector, as the kernel does; None for what the dialect's code does.
        dialect: whose conventions: ``"quip"``, ``"dscribe"`` or ``"featomic"``. DScribe's counts neighbors up to
            ``cutoff + 3.72 sigma``: the attribute ``cutoff`` is then that, and the argument is ``basis_cutoff``.
        basis: of the dialect ``dscribe``: ``"gto"`` or ``"polynomial"``; None for the dialect's own.
        weighting: of neighbors by distance: :class:`epot.features.soap_fade.Fade`.
        compression: which products of species are kept: ``"off"`` (all), ``"mu1nu1"`` (each with their sum) or
            ``"crossover"`` (each with itself): :mod:`epot.features.soap_layout`.
        mixing: how many sums over species replace the species (Darby 2022's Z_mix), or the matrix ``(sums, elements)``
            of their weights, which the configuration then holds. ``[[1, 1, ..]]`` is DScribe's ``mu2``.

    Raises:
        ConfigError: a size is not positive, or a name is unknown.
    """

    CITATION: ClassVar[str] = """@article{Bartok2013,
  author = {Bart{\\'o}k, Albert P. and Kondor, Risi and Cs{\\'a}nyi, G{\\'a}bor},
  title = {On representing chemical environments},
  journal = {Phys. Rev. B}, volume = {87}, pages = {184115}, year = {2013}, doi = {10.1103/PhysRevB.87.184115}
}"""

    def __init__(
        self, elements: Sequence[int | str], cutoff: float = 5.0, n_max: int = 8, l_max: int = 6, sigma: float = 0.5, *,
        cutoff_width: float | None = None, center_weight: float = 1.0, normalize: bool | None = None,
        dialect: str = "quip", basis: str | None = None, weighting: Mapping[str, Any] | None = None,
        compression: str = "off", mixing: int | Sequence[Sequence[float]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(elements)
        _check(cutoff=cutoff, n_max=n_max, sigma=sigma)
        if dialect not in DIALECTS:
            raise ConfigError(f"There is no SOAP dialect {dialect!r}; {nearest(dialect, DIALECTS)}")
        if basis is not None and basis not in BASES[dialect]:
            raise ConfigError(f"SOAP's dialect {dialect!r} has no basis {basis!r}; {nearest(basis, BASES[dialect])}")
        made = DIALECTS[dialect](Basis(cutoff, n_max, l_max, sigma, basis or BASES[dialect][0]))
        if l_max < 0 or not 0 < (cutoff_width or 1.0) <= made.reach + 1e-12:
            raise ConfigError(
                f"SOAP needs l_max of at least 0 (given: {l_max}) and a cutoff_width (given: {cutoff_width}) above 0 "
                f"and not wider than the cutoff ({made.reach:.6g})."
            )
        self.basis_cutoff, self.cutoff = cutoff, float(made.reach)
        self.n_max, self.l_max, self.cutoff_width = n_max, l_max, cutoff_width
        self.sigma, self.center_weight, self.dialect, self.basis = sigma, center_weight, dialect, basis
        self.normalize, self.weighting, self.compression = normalize, weighting, compression
        width = min(1.0, cutoff) if cutoff_width is None and made.smooth else cutoff_width
        fade = Fade(self.cutoff, width, weighting)
        own = made.center * center_weight
        if dialect == "dscribe":  # the atom is its own neighbor, weighted like others
            own = own * float(fade.weight(torch.zeros(1, dtype=torch.float64)))
        self.density = Density(self.elements, made.radial, self.cutoff, n_max, l_max, fade, own)
        matrix = None if mixing is None else mixing_matrix(self.elements, mixing)
        self.mixing = None if matrix is None else matrix.tolist()
        n_mixed = self.n_species if matrix is None else len(matrix)
        self._layout = layout(dialect, compression, n_mixed, n_max, l_max)
        whole = made.normalize if normalize is None else normalize
        self.contract = Contraction(self._layout, made.factors, n_max, n_mixed, compression, matrix, whole)

    @property
    def n_channels(self) -> int:
        """Species (or sums of species) times radial functions."""
        return self.contract.n_channels

    @property
    def size(self) -> int:
        """Length of the vector: ``(l_max + 1) channels (channels + 1) / 2`` for QUIP without compression."""
        return len(self._layout.degree)

    def columns(self) -> list[str]:
        """``l (element, n) (element, n')``."""
        species = [names([z]) for z in self.elements]
        if self.mixing is not None:
            species = [f"mix{k}:" for k in range(len(self.mixing))]
        return columns(self._layout, self.compression, species, self.n_max)

    def config(self) -> dict[str, Any]:
        """As for any descriptor; the cutoff is the argument."""
        return super().config() | {"cutoff": self.basis_cutoff}

    @classmethod
    def tiny(cls) -> Soap:
        return cls((1, 6, 8), 4.0, n_max=3, l_max=3)

    def coefficients(self, graph: Graph) -> Float[Tensor, "atoms channels components"]:
        """``c^a_nlm``, the atom's own included; channels (element, n), components ``l*l + l + m``. Differentiable."""
        return self.density(graph, self.species(graph))

    def forward(self, graph: Graph) -> Float[Tensor, "atoms size"]:
        """Power spectra, components in the order of the dialect: :meth:`columns`."""
        return self.contract(self.coefficients(graph), once=graph.first_order)

    @torch.no_grad()
    def jacobian(self, graph: Graph) -> Float[Tensor, "pairs 3 size"]:
        """All derivatives ``dp_i/dr_ij``, in closed form."""
        return soap_jacobian(self.density, self.contract, graph, self.species(graph))

    def unfold(self, spectra: Float[Tensor, "points size"]) -> Float[Tensor, "points degrees rows channels"]:
        """Matrices ``Q_l`` with ``p . q = sum_l <P_l, Q_l>`` from vectors q; symmetric where species are not mixed.

        Rows are (element, n), columns the channels: where species are mixed, ``P_l = f_l c (mixed c)^T``.
        """
        return self.contract.unfold(spectra)

    @torch.no_grad()
    def pair_derivatives(self, graph: Graph, order: Int[Tensor, " pairs"]) -> PairDerivatives:
        """What a closed-form fit needs of the derivatives, for pairs in the given order: see :class:`PairDerivatives`.

        With ``V = Y X^T`` and ``W_a = dY/dr_a X^T`` for the coefficients X of atom i, which have a row for each m,
        ``halves_ank = R'_n u_a V_k + R_n W_ak``: the sums over m are done once for all radial functions.
        """
        coefficients = self.coefficients(graph)
        spectrum, norms = self.contract.with_norms(coefficients)
        vectors = graph.vectors().to(coefficients.dtype).index_select(0, order)
        at = graph.pairs[0].index_select(0, order)
        to = self.species(graph)[graph.pairs[1].index_select(0, order)]
        r = vectors.square().sum(1).sqrt()
        units = vectors / r[:, None]
        angular = harmonics_with_gradients(units, r, self.l_max)
        value, slope = self._radial_with_slope(r)
        matrices = self.unfold(spectrum if self.contract.normalize else spectrum / norms[:, None])
        mixed = self.contract.mix(coefficients)
        halves, along = [], torch.zeros_like(vectors)
        for n, f in enumerate(self.contract.factors):
            part = slice(n * n, n_harmonics(n))
            c = mixed[:, :, part]
            basis = torch.cat([angular.values[None, part], angular.gradients[:, part]]).permute(2, 0, 1) * f
            pulled = torch.bmm(matrices[:, n], c).view(graph.n_atoms, self.n_species, self.n_max, -1)
            both = torch.cat([c.index_select(0, at), pulled[at, to]], 1)
            found = torch.bmm(basis.contiguous(), both.transpose(1, 2))
            radial = units[:, :, None] * found[:, :1]
            steep, flat = slope[n].T[:, None, :], value[n].T[:, None, :]
            k = self.n_channels
            along += (steep * radial[:, :, k:] + flat * found[:, 1:, k:]).sum(2)
            half = steep[..., None] * radial[:, :, None, :k]
            halves.append(half.addcmul_(flat[..., None], found[:, 1:, None, :k]))
        return PairDerivatives(spectrum, norms, halves, along)

    def _radial_with_slope(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Radial functions with the cutoff function, and d/dr, ``(l_max + 1, n_max, points)``."""
        value, slope = self.density.series.with_derivative(r)
        fade, fade_slope = self.density.fade.with_slope(r)
        shape = (self.l_max + 1, self.n_max, -1)
        return (value * fade).view(shape), (slope * fade + value * fade_slope).view(shape)


def _check(**sizes: float | int) -> None:
    for name, value in sizes.items():
        if not value > 0:
            raise ConfigError(f"SOAP's {name} is {value}; it must be positive.")
