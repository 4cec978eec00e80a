"""From density coefficients to power spectra, and back: which products are taken is a :class:`Layout`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from ..typing import Float, Tensor
from . import soap_native
from .angular import n_harmonics
from .arrays import arrays
from .scratch import Scratch
from .soap_layout import Layout

Made = TypeVar("Made")


class Contraction(nn.Module):
    """``p = weight f_l sum_m a_nlm b_n'lm``.

    Args:
        made: the components.
        factors: ``f_l``.
        n_max: radial functions of a species.
        n_mixed: species, or sums of species.
        compression: of the layout.
        mixing: ``(n_mixed, species)``, or None.
        normalize: divide by the length.
    """

    weights: Tensor
    scales: Tensor
    index: Tensor
    place: Tensor
    doubled: Tensor
    mixing: Tensor | None

    def __init__(
        self, made: Layout, factors: np.ndarray, n_max: int, n_mixed: int, compression: str,
        mixing: np.ndarray | None, normalize: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_max, self.n_mixed, self.n_channels = n_max, n_mixed, n_mixed * n_max
        self.compression, self.normalize, self.layout = compression, normalize, made
        self.factors = [float(f) for f in factors]
        self.wide = self.n_channels if compression == "off" else n_max  # columns that a row is multiplied with
        index = (made.degree * self.n_channels + made.first) * self.wide + made.second % self.wide
        self.register_buffer("index", torch.from_numpy(index), persistent=False)
        place = np.full(len(factors) * self.n_channels * self.wide, len(index))
        place[index] = np.arange(len(index))
        blocks = place.reshape(-1, self.wide, self.wide)
        mirrored = blocks.transpose(0, 2, 1)
        twice = (blocks < len(index)) & (mirrored < len(index)) & ~np.eye(self.wide, dtype=bool)
        self.triangular = compression != "mu1nu1" and not twice.any()  # one of each pair (a, b), (b, a)
        if self.triangular:
            place = np.minimum(blocks, mirrored).ravel()
        self.register_buffer("place", torch.from_numpy(place), persistent=False)
        doubled = np.where((made.first == made.second) & self.triangular, 2.0, 1.0) * made.weight
        self.register_buffer("doubled", torch.from_numpy(doubled), persistent=False)
        self.scratch = Scratch()
        self.made: dict[tuple[str, torch.dtype, torch.device], Any] = {}
        scales = np.repeat(self.factors, 2 * np.arange(len(factors)) + 1)
        self.register_buffer("scales", torch.from_numpy(scales), persistent=False)
        self.plain = bool((made.weight == 1).all())
        self.register_buffer("weights", torch.from_numpy(np.asarray(made.weight)), persistent=False)
        matrix = None if mixing is None else torch.from_numpy(mixing)
        self.register_buffer("mixing", matrix, persistent=False)

    def forward(self, coefficients: Tensor, once: bool = False) -> Float[Tensor, "atoms size"]:
        """Spectra; with ``once`` only first derivatives will be asked for."""
        if once and coefficients.requires_grad:
            return _Spectrum.apply(coefficients, self)
        return self.with_norms(coefficients)[0] if self.normalize else self.products(self.mix(coefficients))

    def with_norms(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Spectra and their lengths before normalization."""
        spectrum = self.products(self.mix(coefficients))
        if not (torch.is_grad_enabled() and spectrum.requires_grad):
            norms = torch.linalg.vector_norm(spectrum, dim=1).clamp_(min=1e-30)
            return (spectrum.div_(norms[:, None]) if self.normalize else spectrum), norms
        norms = spectrum.square().sum(1).clamp(min=1e-60).sqrt()
        return (spectrum / norms[:, None] if self.normalize else spectrum), norms

    def mix(self, coefficients: Tensor) -> Float[Tensor, "atoms channels components"]:
        """Sums over species."""
        if self.mixing is None:
            return coefficients
        atoms = len(coefficients)
        by_species = coefficients.reshape(atoms, self.mixing.shape[1], -1)
        return (self.mixing @ by_species).view(atoms, self.n_channels, coefficients.shape[2])

    def products(self, mixed: Tensor) -> Float[Tensor, "atoms size"]:
        """Components before normalization."""
        atoms = len(mixed)
        if torch.is_grad_enabled() and mixed.requires_grad:
            found = []
            for degree, f in enumerate(self.factors):
                left, right = self._sides(mixed[:, :, degree * degree : n_harmonics(degree)])
                found.append(torch.bmm(left * f, right.transpose(1, 2)).view(atoms, -1))
            return torch.cat(found, 1).index_select(1, self.index) * self.weights
        if soap_native.available(mixed):
            made = self.once("blocks", mixed, self._blocks)
            return soap_native.spectrum(mixed.detach().transpose(1, 2), made, self.n_max, self.compression == "mu1nu1")
        everything = self.scratch.take("products", atoms, len(self.factors), self.n_channels, self.wide, like=mixed)
        xp, (coefficients, scales, to) = arrays(mixed, self.scales.to(mixed.dtype), everything)
        scaled = coefficients * scales
        for degree in range(len(self.factors)):
            part = slice(degree * degree, n_harmonics(degree))
            left, right = self._sides(scaled[:, :, part])[0], self._sides(coefficients[:, :, part])[1]
            groups = (atoms, self.n_channels // left.shape[1])  # only with crossover several
            left, right = (x.reshape(*groups, *x.shape[1:]) for x in (left, right))
            xp.matmul(left, right.swapaxes(2, 3), out=to[:, degree].reshape(*groups, -1, self.wide))
        # gather is several times faster than index_select along rows
        spectra = everything.view(atoms, -1).gather(1, self.index.expand(atoms, -1))
        return spectra if self.plain else spectra.mul_(self.weights)

    def _blocks(self, like: Tensor) -> soap_native.Blocks:
        return soap_native.blocks_of(self.layout, self.factors, self.weights.to(like))

    def _sides(self, c: Any) -> tuple[Any, Any]:
        """The factors of one degree, of a tensor or an array."""
        if self.compression == "crossover":
            c = c.reshape(-1, self.n_max, c.shape[2])
            return c, c
        if self.compression == "mu1nu1":
            return c, c.reshape(len(c), self.n_mixed, self.n_max, -1).sum(1)
        return c, c

    def _symmetric(self, values: Tensor) -> Float[Tensor, "points degrees channels wide"]:
        """``Q + Q^T`` for the matrices Q of components times weights; of ``mu1nu1`` Q alone."""
        padded = self.scratch.take("padded", len(values), values.shape[1] + 1, like=values)
        torch.mul(values, self.doubled, out=padded[:, :-1])
        padded[:, -1] = 0
        shape = (len(values), len(self.factors), self.n_channels // self.wide, self.wide, self.wide)
        found = self.scratch.take("symmetric", len(values), len(self.place), like=values)
        torch.gather(padded, 1, self.place.expand(len(values), -1), out=found)
        if not self.triangular and self.compression != "mu1nu1":
            found = found.view(shape) + found.view(shape).transpose(3, 4)
        return found.view(len(values), shape[1], self.n_channels, self.wide)

    def pull(self, mixed: Tensor, grads: Tensor) -> Tensor:
        """Gradient by the mixed coefficients from that by the products, in the scratch: to be used at once."""
        atoms, spread = len(mixed), self._symmetric(grads)
        out = self.scratch.take("pulled", *mixed.shape, like=mixed)
        groups = (atoms, self.n_channels // self.wide)
        xp, (coefficients, matrices, to) = arrays(mixed, spread, out)
        for degree, f in enumerate(self.factors):
            part = slice(degree * degree, n_harmonics(degree))
            c, q, here = coefficients[:, :, part] * f, matrices[:, degree], to[:, :, part]
            if self.compression == "mu1nu1":
                xp.matmul(q, self._sides(c)[1], out=here)
                by_species = here.reshape(atoms, self.n_mixed, self.n_max, -1)
                by_species += (q.swapaxes(1, 2) @ c)[:, None]
            else:
                q, c = q.reshape(*groups, self.wide, self.wide), c.reshape(*groups, self.wide, -1)
                xp.matmul(q, c, out=here.reshape(*groups, self.wide, -1))
        return out

    def derivative(self, species: int) -> tuple[np.ndarray, np.ndarray]:
        """How the products of one degree change with the coefficients of one species.

        Returns:
            Numbers of those that change at all, counted within a degree, ``(some,)``; and the table
            ``dp_q = f_l sum_knm table[k, n, q] (mixed c)_km dc_nm``, ``(channels, n_max, some)``.
        """
        made, n_max, k = self.layout, self.n_max, self.n_channels
        one = made.degree == 0
        first, second, weight = made.first[one], made.second[one], made.weight[one]
        mixing = np.eye(self.n_mixed) if self.mixing is None else self.mixing.numpy(force=True)
        share, table = mixing[:, species], np.zeros((k, n_max, len(first)))
        q = np.arange(len(first))
        if self.compression == "mu1nu1":
            for s in range(self.n_mixed):
                np.add.at(table, (s * n_max + second, first % n_max, q), weight * share[first // n_max])
                np.add.at(table, (first, second, q), weight * share[s])
        else:
            np.add.at(table, (second, first % n_max, q), weight * share[first // n_max])
            np.add.at(table, (first, second % n_max, q), weight * share[second // n_max])
        some = np.flatnonzero(np.abs(table).max((0, 1)) > 0)
        return some, table[:, :, some]

    def once(self, name: str, like: Tensor, make: Callable[[Tensor], Made]) -> Made:
        """What depends on the configuration alone, of the type of ``like``: made at the first call."""
        key = (name, like.dtype, like.device)
        if key not in self.made:
            self.made[key] = make(like)
        return self.made[key]

    def unfold(self, spectra: Tensor) -> Float[Tensor, "points degrees rows channels"]:
        """``Q_l`` of ``p . q = sum_l <P_l, Q_l>``, ``P_l = f_l c (mixed c)^T``; rows are unmixed channels."""
        points, degrees, k = len(spectra), len(self.factors), self.n_channels
        q = self._symmetric(spectra.to(self.weights)) / 2
        if self.compression == "mu1nu1":
            q = q.repeat(1, 1, 1, self.n_mixed)
            q = q + q.transpose(2, 3)
        elif self.compression == "crossover":
            blocks = q.view(points, degrees, self.n_mixed, self.n_max, self.n_max)
            q = q.new_zeros(points, degrees, self.n_mixed, self.n_max, self.n_mixed, self.n_max)
            for s in range(self.n_mixed):
                q[:, :, s, :, s, :] = blocks[:, :, s]
            q = q.view(points, degrees, k, k)
        if self.mixing is None:
            return q
        by_mixed = q.view(points, degrees, self.n_mixed, -1)
        return (self.mixing.T @ by_mixed).view(points, degrees, -1, k)


class _Spectrum(torch.autograd.Function):
    """Spectra with a backward pass written out."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, contract: Contraction) -> Tensor:
        mixed = contract.mix(coefficients)
        spectrum = contract.products(mixed)
        if not contract.normalize:
            ctx.contract, ctx.mixed = contract, mixed
            return spectrum
        norms = torch.linalg.vector_norm(spectrum, dim=1, keepdim=True).clamp_(min=1e-30)
        spectrum /= norms
        ctx.contract, ctx.mixed, ctx.norms = contract, mixed, norms
        ctx.save_for_backward(spectrum)
        return spectrum

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        contract, g = ctx.contract, grads[0]
        if contract.normalize:
            (spectrum,) = ctx.saved_tensors
            along = torch.linalg.vecdot(g, spectrum)[:, None]
            g = torch.addcmul(g, spectrum, along, value=-1, out=contract.scratch.take("unlike", *g.shape, like=g)).div_(
                ctx.norms
            )
        found = contract.pull(ctx.mixed, g)
        if contract.mixing is not None:
            by_mixed = found.view(len(found), contract.n_mixed, -1)
            found = (contract.mixing.T @ by_mixed).view(len(found), -1, found.shape[2])
        return found, None
