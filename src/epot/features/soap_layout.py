"""Which products of density coefficients a SOAP vector holds, in which order and with which weight.

A component is ``weight f_l sum_m a_nlm b_n'lm``; the codes order them differently (channels are numbered species
first, then n):

* ``quip``: l outermost, then the lower triangle of channel pairs, unlike channels times sqrt(2), so that the dot
  product is that of the full tensors. QUIP itself has l innermost: :func:`quip_order`.
* ``dscribe``: pairs of species, l, n, n', with n' >= n where both species are one; no weights.
* ``featomic``: pairs of species, l, n, n', all of them, unlike species times sqrt(2).

Compressions (Darby, Kermode, Csanyi, npj Comput. Mater. 8, 166 (2022), doi:10.1038/s41524-022-00847-y) keep fewer:

* ``mu1nu1``: products of each species with the density of all species together, in number linear in the species;
* ``crossover``: products of each species with itself.

With a mixing matrix the species are replaced by fewer sums over species beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..elements import names
from ..errors import ConfigError
from ..registry import nearest

COMPRESSIONS = ("off", "mu1nu1", "crossover")


class Layout(NamedTuple):
    """Components of a vector, arrays ``(size,)``.

    Attributes:
        degree: l.
        first: channel of the first factor.
        second: channel of the second; with ``mu1nu1`` the radial function of the summed density.
        weight: of the product.
    """

    degree: np.ndarray
    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray


def layout(dialect: str, compression: str, n_species: int, n_max: int, l_max: int) -> Layout:
    """The components in the order of ``dialect``.

    Raises:
        ConfigError: an unknown compression.
    """
    if compression not in COMPRESSIONS:
        raise ConfigError(f"There is no SOAP compression {compression!r}; {nearest(compression, COMPRESSIONS)}")
    root = 1.0 if dialect == "dscribe" else np.sqrt(2.0)
    if dialect == "quip":
        blocks = _degrees_first(compression, n_species, n_max, l_max, root)
    else:
        blocks = _species_first(compression, n_species, n_max, l_max, root, half=dialect == "dscribe")
    columns = [np.concatenate([np.broadcast_to(b[k], b[1].shape) for b in blocks]) for k in range(4)]
    return Layout(*columns)


Blocks = list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]


def _degrees_first(compression: str, n_species: int, n_max: int, l_max: int, root: float) -> Blocks:
    channels = n_species * n_max
    if compression == "mu1nu1":
        first, second = (x.ravel() for x in np.indices((channels, n_max)))
        weight = np.ones(len(first))
    else:
        first, second = np.tril_indices(channels)
        if compression == "crossover":
            same = first // n_max == second // n_max
            first, second = first[same], second[same]
        weight = np.where(first == second, 1.0, root)
    return [(degree, first, second, weight) for degree in range(l_max + 1)]


def _species_first(compression: str, n_species: int, n_max: int, l_max: int, root: float, half: bool) -> Blocks:
    blocks: Blocks = []
    for a, b in _pairs(compression, n_species):
        first, second = (x.ravel() for x in np.indices((n_max, n_max)))
        if half and a == b and compression != "mu1nu1":
            first, second = np.triu_indices(n_max)
        weight = np.full(len(first), 1.0 if a == b else root)
        other = second if compression == "mu1nu1" else b * n_max + second
        blocks += [(degree, a * n_max + first, other, weight) for degree in range(l_max + 1)]
    return blocks


def _pairs(compression: str, n_species: int) -> Iterator[tuple[int, int]]:
    for a in range(n_species):
        for b in range(a, a + 1 if compression != "off" else n_species):
            yield a, b


def quip_order(n_channels: int, l_max: int) -> np.ndarray:
    """Where QUIP has our components: its vector, without its last element, is ``ours[:, order]``.

    That element, ``covariance_sigma0``, is zero unless one sets it, and ours has none.
    """
    pairs = n_channels * (n_channels + 1) // 2
    return np.arange((l_max + 1) * pairs).reshape(l_max + 1, pairs).T.ravel()


def columns(made: Layout, compression: str, species: Sequence[str], n_max: int) -> list[str]:
    """``l (species, n) (species, n')``, texts."""
    channels = [f"{z}{n}" for z in species for n in range(n_max)]
    others = [f"all{n}" for n in range(n_max)] if compression == "mu1nu1" else channels
    return [
        f"l{degree} {channels[a]} {others[b]}"
        for degree, a, b in zip(made.degree, made.first, made.second, strict=True)
    ]


def mixing_matrix(elements: Sequence[int], wanted: int | Sequence[Sequence[float]]) -> np.ndarray:
    """Weights ``(mixtures, elements)`` of sums over species.

    A number asks for the leading eigenvectors, each times the root of its eigenvalue, of the similarity
    ``exp(-(row - row')^2 / 2 - (group - group')^2 / 32)`` of elements in the periodic table, in the spirit of Willatt,
    Musil, Ceriotti, Phys. Chem. Chem. Phys. 20, 29661 (2018), doi:10.1039/C8CP05921G: near elements share channels.

    Raises:
        ConfigError: a matrix of another shape, or more mixtures than elements.
    """
    if isinstance(wanted, int):
        if not 0 < wanted <= len(elements):
            raise ConfigError(
                f"SOAP's mixing is {wanted}; expected between 1 and the number of elements, {len(elements)} "
                f"({names(elements)})."
            )
        row, group = np.array([_place(z) for z in elements]).T
        similar = np.exp(-((row[:, None] - row) ** 2) / 2 - (group[:, None] - group) ** 2 / 32)
        values, vectors = np.linalg.eigh(similar)
        kept = (vectors * np.sqrt(np.maximum(values, 0)))[:, ::-1][:, :wanted].T
        return kept * np.sign(kept[np.arange(wanted), np.abs(kept).argmax(1)])[:, None]
    try:
        matrix = np.array(wanted, dtype=float)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.ndim != 2 or matrix.shape[1] != len(elements) or not len(matrix) or not np.isfinite(matrix).all():
        raise ConfigError(
            f"SOAP's mixing has the shape {matrix.shape}; expected rows of {len(elements)} finite numbers, one an "
            f"element ({names(elements)}), or how many mixtures to make."
        )
    return matrix


NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)


def _place(z: int) -> tuple[int, int]:
    """Row and group of an element; lanthanides and actinides count as group 3."""
    row = next(k for k, last in enumerate(NOBLE) if z <= last)
    left, right = z - NOBLE[row - 1], NOBLE[row] - z  # steps from the alkali metal, to the noble gas
    if row == 1:
        return row, 1 if z == 1 else 18
    if left <= 2:
        return row, left
    return row, max(18 - right, 3)
