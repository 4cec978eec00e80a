"""The SOAP power spectrum: a smooth, rotation-invariant fingerprint of an atom's surroundings.

Bartok, Kondor, Csanyi, Phys. Rev. B 87, 184115 (2013), doi:10.1103/PhysRevB.87.184115.

    rho_i^a(r) = sum_(j in a) exp(-|r - r_ij|^2 / 2 sigma^2) fc(r_ij)
    c^a_nlm    = <R_n Y_lm | rho_i^a>
    p^ab_nn'l  = f_l sum_m c^a_nlm c^b_n'lm,      k(i, i') = (p . p' / |p| |p'|)^zeta

Neighbors are laid out on a dense axis, one row for each atom and species, so both sums are batched matrix
products; the radial integrals are Chebyshev series and the angular functions polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ...elements import names
from ...errors import ConfigError
from ...geometry.graph import Graph
from ...registry import nearest
from ...typing import Float, Int, Tensor
from ..angular import harmonics_with_gradients, n_harmonics, spherical_harmonics
from ..cutoff import shifted_cosine_cutoff
from ..descriptor import Descriptor
from ..series import ChebyshevSeries
from ..soap_dialects import DIALECTS


class PairDerivatives(NamedTuple):
    """Derivatives of the unnormalized power spectrum, pair by pair, before the contraction with a kernel.

    ``d/dr_ij sum_l <P_l, Q_l> = 2 sum_l halves[l] . Q_l[rows of species(j)]`` for symmetric ``Q_l``.

    Attributes:
        spectrum: normalized, ``(atoms, size)``.
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
        cutoff: Å.
        n_max: radial functions.
        l_max: highest degree of the spherical harmonics.
        sigma: Å, width of the Gaussians.
        cutoff_width: Å, over which a neighbor fades in.
        center_weight: of the Gaussian on the atom itself; with 0, a lone atom has a spectrum of zeros.
        normalize: divide by the length of the vector, as the kernel does.
        dialect: whose conventions: ``"quip"``.

    Raises:
        ConfigError: a size is not positive or the dialect is unknown.
    """

    def __init__(
        self, elements: Sequence[int | str], cutoff: float = 5.0, n_max: int = 8, l_max: int = 6, sigma: float = 0.5, *,
        cutoff_width: float = 1.0, center_weight: float = 1.0, normalize: bool = True, dialect: str = "quip",
    ) -> None:  # fmt: skip
        super().__init__(elements)
        _check(cutoff=cutoff, n_max=n_max, sigma=sigma, cutoff_width=cutoff_width)
        if l_max < 0 or cutoff_width > cutoff:
            raise ConfigError(
                f"SOAP needs l_max of at least 0 (given: {l_max}) and a cutoff_width (given: {cutoff_width}) not wider "
                f"than the cutoff ({cutoff})."
            )
        if dialect not in DIALECTS:
            raise ConfigError(f"There is no SOAP dialect {dialect!r}; {nearest(dialect, DIALECTS)}")
        self.cutoff, self.n_max, self.l_max, self.cutoff_width = cutoff, n_max, l_max, cutoff_width
        self.sigma, self.center_weight, self.normalize, self.dialect = sigma, center_weight, normalize, dialect
        made = DIALECTS[dialect](cutoff, n_max, l_max, sigma, center_weight)
        self.factors = [float(f) for f in made.factors]
        self.radial = ChebyshevSeries(lambda r: made.radial(r).reshape(-1, len(r)), cutoff)
        self.register_buffer("center", self._center(made.center), persistent=False)
        rows, columns = np.tril_indices(self.n_channels)
        flat = torch.from_numpy(rows * self.n_channels + columns)
        self.register_buffer("triangle", flat, persistent=False)
        weights = torch.from_numpy(np.where(rows == columns, 1.0, math.sqrt(2.0)))
        self.register_buffer("weights", weights, persistent=False)

    center: Tensor
    triangle: Tensor
    weights: Tensor

    @property
    def n_channels(self) -> int:
        """Species times radial functions."""
        return self.n_species * self.n_max

    @property
    def size(self) -> int:
        """Length of the vector: ``(l_max + 1) channels (channels + 1) / 2``; index l first, then pairs of channels."""
        return (self.l_max + 1) * len(self.triangle)

    def columns(self) -> list[str]:
        """``l (element, n) (element, n')``."""
        channels = [f"{names([z])}{n}" for z in self.elements for n in range(self.n_max)]
        pairs = [f"{channels[a]} {channels[b]}" for a, b in zip(*np.tril_indices(self.n_channels), strict=True)]
        return [f"l{order} {pair}" for order in range(self.l_max + 1) for pair in pairs]

    @classmethod
    def tiny(cls) -> Soap:
        return cls((1, 6, 8), 4.0, n_max=3, l_max=3)

    def _center(self, own: np.ndarray) -> Tensor:
        """``(species, channels, 1)``: what an atom of each species adds to its own density at l = 0."""
        out = torch.zeros(self.n_species, self.n_species, self.n_max, dtype=torch.float64)
        for k in range(self.n_species):
            out[k, k] = torch.from_numpy(own)
        return out.reshape(self.n_species, self.n_channels, 1)

    def coefficients(self, graph: Graph) -> list[Tensor]:
        """``c^a_nlm`` with the atom's own density, for each l ``(atoms, channels, 2l+1)``. Differentiable."""
        species = self.species(graph)
        slots = neighbor_slots(graph, species, self.elements)
        vectors = graph.vectors().to(self.center.dtype)
        empty = vectors.new_tensor([[self.cutoff, 0.0, 0.0]])
        vectors = torch.cat([vectors, empty]).index_select(0, slots.flatten())
        r = vectors.square().sum(1).sqrt()
        angular = spherical_harmonics(vectors / r[:, None], self.l_max)
        radial = self.radial(r) * shifted_cosine_cutoff(r, self.cutoff, self.cutoff_width)
        rows, width = slots.shape
        found = []
        for of_l, y in zip(
            radial.split(self.n_max), angular.split([2 * n + 1 for n in range(self.l_max + 1)]), strict=True
        ):
            c = torch.bmm(of_l.view(-1, rows, width).transpose(0, 1), y.view(-1, rows, width).permute(1, 2, 0))
            found.append(c.view(graph.n_atoms, self.n_channels, -1))
        found[0] = found[0] + self.center[species]
        return found

    def forward(self, graph: Graph) -> Float[Tensor, "atoms size"]:
        """Power spectra, l outermost, then the lower triangle of channel pairs, unlike pairs times sqrt(2)."""
        return self._spectrum(self.coefficients(graph))[0]

    def _spectrum(self, coefficients: list[Tensor]) -> tuple[Tensor, Tensor]:
        atoms = coefficients[0].shape[0]
        products = [
            torch.bmm(c * f, c.transpose(1, 2)).view(atoms, -1) for c, f in zip(coefficients, self.factors, strict=True)
        ]
        spectrum = torch.stack(products, 1).index_select(2, self.triangle) * self.weights
        spectrum = spectrum.view(atoms, self.size)
        norms = spectrum.square().sum(1).clamp(min=1e-60).sqrt()
        return (spectrum / norms[:, None] if self.normalize else spectrum), norms

    def unfold(self, spectra: Float[Tensor, "points size"]) -> Float[Tensor, "points degrees channels channels"]:
        """Symmetric matrices ``Q_l`` with ``p . q = sum_l <P_l, Q_l>`` from vectors."""
        k = self.n_channels
        out = spectra.new_zeros(len(spectra), self.l_max + 1, k * k)
        out[:, :, self.triangle] = spectra.view(len(spectra), self.l_max + 1, -1) / self.weights
        out = out.view(len(spectra), self.l_max + 1, k, k)
        return out + out.transpose(2, 3) - torch.diag_embed(out.diagonal(dim1=2, dim2=3))

    @torch.no_grad()
    def pair_derivatives(self, graph: Graph, order: Int[Tensor, " pairs"]) -> PairDerivatives:
        """What a closed-form fit needs of the derivatives, for pairs in the given order: see :class:`PairDerivatives`.

        With ``V = Y X^T`` and ``W_a = dY/dr_a X^T`` for the coefficients X of atom i, which have a row for each m,
        ``halves_ank = R'_n u_a V_k + R_n W_ak``: the sums over m are done once for all radial functions.
        """
        coefficients = self.coefficients(graph)
        spectrum, norms = self._spectrum(coefficients)
        vectors = graph.vectors().to(self.center.dtype).index_select(0, order)
        at = graph.pairs[0].index_select(0, order)
        to = self.species(graph)[graph.pairs[1].index_select(0, order)]
        r = vectors.square().sum(1).sqrt()
        units = vectors / r[:, None]
        angular = harmonics_with_gradients(units, r, self.l_max)
        value, slope = self._radial_with_slope(r)
        unit = spectrum if self.normalize else spectrum / norms[:, None]
        matrices = self.unfold(unit)
        halves, along = [], torch.zeros_like(vectors)
        for n, (c, f) in enumerate(zip(coefficients, self.factors, strict=True)):
            part = slice(n * n, n_harmonics(n))
            basis = torch.cat([angular.values[None, part], angular.gradients[:, part]]).permute(2, 0, 1) * f
            pulled = torch.bmm(matrices[:, n], c).view(graph.n_atoms, self.n_species, self.n_max, -1)
            channels = torch.cat([c.index_select(0, at), pulled[at, to]], 1)
            found = torch.bmm(basis.contiguous(), channels.transpose(1, 2))
            radial = units[:, :, None] * found[:, :1]
            steep, flat = slope[n].T[:, None, :], value[n].T[:, None, :]
            k = self.n_channels
            along += (steep * radial[:, :, k:] + flat * found[:, 1:, k:]).sum(2)
            half = steep[..., None] * radial[:, :, None, :k]
            halves.append(half.addcmul_(flat[..., None], found[:, 1:, None, :k]))
        return PairDerivatives(spectrum, norms, halves, along)

    def _radial_with_slope(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Radial functions with the cutoff function, and d/dr, ``(l_max + 1, n_max, points)``."""
        value, slope = self.radial.with_derivative(r)
        fade, fade_slope = _cutoff_with_slope(r, self.cutoff, self.cutoff_width)
        shape = (self.l_max + 1, self.n_max, -1)
        return (value * fade).view(shape), (slope * fade + value * fade_slope).view(shape)


def _cutoff_with_slope(r: Tensor, cutoff: float, width: float) -> tuple[Tensor, Tensor]:
    x = ((r - (cutoff - width)) / width).clamp(0, 1)
    return shifted_cosine_cutoff(r, cutoff, width), -0.5 * math.pi / width * torch.sin(math.pi * x)


def neighbor_slots(graph: Graph, species: Tensor, elements: tuple[int, ...]) -> Int[Tensor, "rows neighbors"]:
    """Index of the pair in each slot of a dense neighbor axis, a row for each atom and species of neighbor.

    Rows are ordered by atom, then species; ``n_pairs`` where a slot is empty. Kept with the graph.
    """
    if len(elements) == 1:
        return graph.padded()
    return graph._once(f"slots{elements}", lambda: _slots(graph, species, len(elements)))


def _slots(graph: Graph, species: Tensor, n_species: int) -> Tensor:
    row = graph.pairs[0] * n_species + species[graph.pairs[1]]
    order = torch.argsort(row, stable=True)
    counts = torch.bincount(row, minlength=graph.n_atoms * n_species)
    start = counts.cumsum(0) - counts
    width = max(int(counts.max()) if counts.numel() else 0, 1)
    slot = torch.arange(width, device=row.device)
    index = (start[:, None] + slot).clamp(max=max(graph.n_pairs - 1, 0))
    if not graph.n_pairs:
        return index.new_zeros(index.shape)
    return torch.where(slot < counts[:, None], order[index], graph.n_pairs)


def _check(**sizes: float | int) -> None:
    for name, value in sizes.items():
        if not value > 0:
            raise ConfigError(f"SOAP's {name} is {value}; it must be positive.")
