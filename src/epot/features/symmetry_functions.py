"""Behler's symmetry functions: what their parameters are, sensible ones, and the functions of triples.

Behler, J. Chem. Phys. 134, 074106 (2011), doi:10.1063/1.3553717 (equation numbers below);
Imbalzano et al., J. Chem. Phys. 148, 241730 (2018), doi:10.1063/1.5024611 (grids of parameters).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..elements import names, to_number
from ..errors import ConfigError
from ..registry import nearest
from ..typing import Float, Tensor
from .cutoff import CutoffFunction
from .triple_sums import Family, Opened


@dataclass(frozen=True)
class RadialFunction:
    """``G1`` to ``G3``: ``sum_j exp(-eta (r - center)^2) cos(kappa r) fc(r)``.

    With eta = kappa = 0 it is G1 (Eq. 5), with kappa = 0 G2 (Eq. 6), with eta = 0 G3 (Eq. 7).

    Attributes:
        eta: 1/Å^2.
        center: Å.
        kappa: 1/Å.
        cutoff: Å.
        neighbors: atomic numbers of the neighbors that are counted; empty for each element by itself.
    """

    eta: float
    center: float
    kappa: float
    cutoff: float
    neighbors: tuple[int, ...] = ()

    KEYS: ClassVar[tuple[str, ...]] = ("eta", "center", "kappa", "cutoff", "neighbors")
    SHORT: ClassVar[tuple[str, ...]] = ("eta", "center")

    def __str__(self) -> str:
        if self.kappa:
            return f"G3 kappa={self.kappa:g}"
        return f"G2 eta={self.eta:g} center={self.center:g}" if self.eta else "G1"

    @classmethod
    def of(cls, given: Any, cutoff: float) -> RadialFunction:
        """From ``(eta, center)`` or a mapping of some of the attributes.

        Raises:
            ConfigError: an unknown key or an impossible value.
        """
        found = _settings(cls, given, cutoff)
        if found["eta"] < 0 or found["kappa"] < 0 or not found["cutoff"] > 0:
            raise ConfigError(
                f"A radial function needs eta and kappa of at least 0 and a cutoff above 0; given: {given}."
            )
        if found["eta"] and found["kappa"]:
            raise ConfigError(f"A radial function has eta (G2) or kappa (G3), not both; given: {given}.")
        return cls(**found)


@dataclass(frozen=True)
class AngularFunction:
    """``G4`` (Eq. 8) and, if not ``closed``, ``G5`` (Eq. 9), over unordered pairs of neighbors.

    Attributes:
        eta: 1/Å^2.
        zeta: at least 1.
        lambda_: +1 or -1 (anything between is possible).
        center: Å; distances r in the exponent become ``r - center``.
        closed: whether the distance of the two neighbors is in the exponent and the cutoff functions.
        cutoff: Å.
        neighbors: atomic numbers of the two neighbors; empty for each pair of elements by itself.
    """

    eta: float
    zeta: float
    lambda_: float
    center: float
    closed: bool
    cutoff: float
    neighbors: tuple[int, ...] = ()

    KEYS: ClassVar[tuple[str, ...]] = ("eta", "zeta", "lambda", "center", "closed", "cutoff", "neighbors")
    SHORT: ClassVar[tuple[str, ...]] = ("eta", "zeta", "lambda")

    def __str__(self) -> str:
        center = f" center={self.center:g}" if self.center else ""
        return f"{'G4' if self.closed else 'G5'} eta={self.eta:g} zeta={self.zeta:g} lambda={self.lambda_:+g}{center}"

    @classmethod
    def of(cls, given: Any, cutoff: float) -> AngularFunction:
        """From ``(eta, zeta, lambda)`` or a mapping of some of the attributes (``lambda`` without the underscore).

        Raises:
            ConfigError: an unknown key or an impossible value.
        """
        found = _settings(cls, given, cutoff)
        found["lambda_"] = found.pop("lambda")
        if found["eta"] < 0 or found["zeta"] < 1 or abs(found["lambda_"]) > 1 or not found["cutoff"] > 0:
            raise ConfigError(
                f"An angular function needs eta >= 0, zeta >= 1, lambda in [-1, 1] and cutoff > 0; given: {given}."
            )
        return cls(**found)


DEFAULTS: dict[str, Any] = {"eta": 0.0, "center": 0.0, "kappa": 0.0, "zeta": 1.0, "lambda": 1.0, "closed": True}


def _settings(kind: Any, given: Any, cutoff: float) -> dict[str, Any]:
    if isinstance(given, Mapping):
        for key in set(given) - set(kind.KEYS):
            raise ConfigError(f"{key!r} is no parameter of a symmetry function; {nearest(key, kind.KEYS)}")
        found = dict(given)
    elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) == len(kind.SHORT):
        found = dict(zip(kind.SHORT, given, strict=True))
    else:
        raise ConfigError(
            f"A symmetry function is ({', '.join(kind.SHORT)}) or a mapping of {', '.join(kind.KEYS)}; given: {given}."
        )
    neighbors = neighbors_of(found, 1 if kind is RadialFunction else 2)
    made: dict[str, Any] = {
        k: found.get(k, cutoff if k == "cutoff" else DEFAULTS.get(k)) for k in kind.KEYS if k != "neighbors"
    }
    try:
        made = {k: bool(v) if k == "closed" else float(v) for k, v in made.items()}
    except (TypeError, ValueError):
        raise ConfigError(f"Parameters of a symmetry function are numbers; given: {given!r}.") from None
    if not all(math.isfinite(v) for v in made.values()):
        raise ConfigError(f"Parameters of a symmetry function are finite; given: {given!r}.")
    return made | {"neighbors": neighbors}


def neighbors_of(given: Mapping[str, Any], n: int) -> tuple[int, ...]:
    """Atomic numbers of the neighbors that a function is meant for; empty for all.

    Raises:
        ConfigError: not n of them.
    """
    found = tuple(sorted(to_number(z) for z in given.get("neighbors", ())))
    if len(found) not in (0, n):
        raise ConfigError(f"neighbors are one element of a radial, two of an angular function; given: {names(found)}.")
    return found


def radial_grid(cutoff: float, n: int) -> list[RadialFunction]:
    """Functions that resolve near neighbors better than far ones: n + 1 wide ones and n shifted ones.

    ``eta_m = (n^(m/n) / cutoff)^2`` around 0, and around ``r_m = cutoff / n^(m/n)`` with ``eta = 1 / (r_(n-m) -
    r_(n-m-1))^2`` (Imbalzano et al., Eqs. 7 to 9), as narrow as the centers are apart.
    """
    if n < 2:
        raise ConfigError(f"A grid of radial functions needs n of at least 2; given: {n}.")
    centers = [cutoff / n ** (m / n) for m in range(n + 1)]
    wide = [RadialFunction(1 / r**2, 0.0, 0.0, cutoff) for r in centers]
    gaps = [a - b for a, b in zip(centers, centers[1:], strict=False)]
    return wide + [RadialFunction(1 / g**2, r, 0.0, cutoff) for r, g in zip(centers[1:], gaps, strict=True)]


def angular_grid(cutoff: float, n: int) -> list[AngularFunction]:
    """G4 of n radial extents, ``eta_m = (n^(m/n) / cutoff)^2``, with zeta 1, 4 and 16 and lambda +1 and -1."""
    if n < 1:
        raise ConfigError(f"A grid of angular functions needs n of at least 1; given: {n}.")
    etas = [(n ** (m / n) / cutoff) ** 2 for m in range(n)]
    return [AngularFunction(e, z, s, 0.0, True, cutoff) for e in etas for z in (1.0, 4.0, 16.0) for s in (1.0, -1.0)]


def radial_values(
    r: Tensor, functions: Sequence[RadialFunction], fade: CutoffFunction, slopes: bool = False
) -> Float[Tensor, "functions pairs"]:
    """Values, or with ``slopes`` d/dr, of radial functions times their cutoff functions; differentiable."""
    column = lambda name: r.new_tensor([getattr(f, name) for f in functions])[:, None]  # noqa: E731
    eta, kappa, away = column("eta"), column("kappa"), r - column("center")
    value = torch.exp(-eta * away.square())
    if waves := bool(any(f.kappa for f in functions)):
        value = value * torch.cos(kappa * r)
    cutoffs = list(dict.fromkeys(f.cutoff for f in functions))
    faded, steep = (torch.stack(t) for t in zip(*(fade(r, c) for c in cutoffs), strict=True))
    if len(cutoffs) > 1:
        which = torch.tensor([cutoffs.index(f.cutoff) for f in functions], device=r.device)
        faded, steep = faded.index_select(0, which), steep.index_select(0, which)
    if not slopes:
        return value * faded
    change = -2 * eta * away * value
    if waves:  # a function has eta or kappa, never both
        change = change - kappa * torch.sin(kappa * r)
    return change * faded + value * steep


class AngularFamily(Family):
    """G4 or G5 of one cutoff: exponentials times powers of ``(1 + lambda cos theta) / 2``.

    ``2^(1-zeta) (1 + lambda cos theta)^zeta exp(-eta sum (r - center)^2) fc fc fc = 2 x^zeta exp(...) fc fc fc``.

    Args:
        exponents: ``(eta, center)`` of each exponential.
        signs, zetas: every lambda with every zeta, zeta by zeta.
        closed: G4 rather than G5.
        cutoff: Å.
        fade: the cutoff function.
    """

    def __init__(
        self,
        exponents: Sequence[tuple[float, float]],
        signs: Sequence[float],
        zetas: Sequence[float],
        closed: bool,
        cutoff: float,
        fade: CutoffFunction,
    ) -> None:
        self.n_left, self.n_right = len(exponents), len(signs) * len(zetas)
        self.closed, self.cutoff, self.fade = closed, cutoff, fade
        self.reach = cutoff if closed else math.inf
        self.signs, self.zetas = list(signs), list(zetas)
        sides = 3 if closed else 2
        self.shifted = any(center for _, center in exponents)
        # the exponent, linear in the sums of squares and of distances; and what it is differentiated to
        self.mix = [[-e, 2 * e * c, -sides * e * c**2] for e, c in exponents]

    def _mix(self, like: Tensor) -> Float[Tensor, "e 3"]:
        return torch.tensor(self.mix, dtype=like.dtype, device=like.device)

    def table(self, squares: Tensor, weights: Tensor) -> list[Tensor]:
        """``r^2, 1/r, fc, dfc/d(r^2)``, the last two weighted."""
        r = squares.sqrt()
        value, slope = self.fade(r, self.cutoff)
        return [squares, 1 / r, value * weights, slope / (2 * r) * weights]

    def open(self, first: list[Tensor], second: list[Tensor], dots: Tensor) -> Opened:
        (q1, inverse1, fade1, _), (q2, inverse2, fade2, _) = first, second
        fade, total = fade1 * fade2, q1 + q2
        r3, fade3, slope3 = None, None, None
        lengths = q1 * inverse1 + q2 * inverse2 if self.shifted else None
        if self.closed:
            q3 = torch.add(total, dots, alpha=-2)
            r3 = q3.sqrt()
            fade3, slope3 = self.fade(r3, self.cutoff)
            fade, total = fade * fade3, total + q3
            lengths = None if lengths is None else lengths + r3
        mix = self._mix(q1)
        exponents = mix[:, :1] * total
        if lengths is not None:
            exponents = exponents + (mix[:, 1:2] * lengths + mix[:, 2:])
        exponentials = torch.exp(exponents)
        cosine = dots * inverse1 * inverse2
        values, lower = self._powers(cosine)
        return Opened(
            exponentials * fade, values, (exponentials, lower, fade, first, second, r3, fade3, slope3, cosine)
        )

    def _changes(self, opened: Opened) -> tuple[Tensor, Tensor, Tensor | None]:
        """Derivatives of the product of cutoff functions by the squares of the two or three distances."""
        _, _, _, (_, _, fade1, slope1), (_, _, fade2, slope2), r3, fade3, slope3, _ = opened.kept
        if r3 is None:
            return slope1 * fade2, fade1 * slope2, None
        return slope1 * fade2 * fade3, fade1 * slope2 * fade3, fade1 * fade2 * (slope3 / (2 * r3))

    def _powers(self, cosine: Tensor) -> tuple[Tensor, Tensor]:
        """``2 x^zeta`` and ``x^(zeta - 1)``, zeta by zeta."""
        bases = torch.stack([0.5 + (0.5 * s) * cosine for s in self.signs])
        twice, squares, lower = 2 * bases, [bases], []
        for zeta in self.zetas:
            if zeta == int(zeta):
                lower.append(integer_power(squares, int(zeta) - 1))
            else:  # the base is not negative but for rounding
                lower.append(bases.clamp(min=torch.finfo(cosine.dtype).tiny) ** (zeta - 1))
        values = torch.cat([twice if zeta == 1 else twice * low for zeta, low in zip(self.zetas, lower, strict=True)])
        return values, torch.cat(lower)

    def pull(self, opened: Opened, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        exponentials, lower, fade, (_, inverse1, *_), (_, inverse2, *_), r3, _, _, cosine = opened.kept
        by1, by2, by3 = self._changes(opened)
        mix = self._mix(left)
        rows = torch.stack([torch.ones_like(mix[:, 0]), mix[:, 0], mix[:, 1]][: 3 if self.shifted else 2])
        sums = rows @ (exponentials * left)
        fading, squares = sums[0], fade * sums[1]
        angle = (self._steepness(left) @ (lower * right))[0]
        turned = 0.5 * angle * cosine
        first = fading * by1 + squares - turned * inverse1.square()
        second = fading * by2 + squares - turned * inverse2.square()
        dots = angle * inverse1 * inverse2
        if self.shifted:
            lengths = 0.5 * fade * sums[2]
            first, second = first + lengths * inverse1, second + lengths * inverse2
        if by3 is not None:
            third = fading * by3 + squares
            third = third + lengths / r3 if self.shifted else third
            first, second, dots = first + third, second + third, dots - 2 * third
        return first, second, dots

    def push(self, opened: Opened, first: Tensor, second: Tensor, dots: Tensor) -> tuple[Tensor, Tensor]:
        exponentials, lower, fade, (_, inverse1, *_), (_, inverse2, *_), r3, _, _, cosine = opened.kept
        by1, by2, by3 = self._changes(opened)
        fading, squares = by1 * first + by2 * second, first + second
        lengths = 0.5 * (first * inverse1 + second * inverse2)
        if by3 is not None:
            third = squares - 2 * dots
            fading, squares, lengths = fading + by3 * third, squares + third, lengths + 0.5 * third / r3
        mix = self._mix(first)
        change = mix[:, :1] * (fade * squares) + fading
        if self.shifted:
            change = change + mix[:, 1:2] * (fade * lengths)
        angle = dots * inverse1 * inverse2 - 0.5 * cosine * (first * inverse1.square() + second * inverse2.square())
        return exponentials * change, lower * (self._steepness(first).T * angle)

    def _steepness(self, like: Tensor) -> Float[Tensor, "1 z"]:
        """What ``x^(zeta - 1)`` is multiplied by in the derivative by cos theta."""
        return like.new_tensor([[sign * zeta for zeta in self.zetas for sign in self.signs]])


def integer_power(squares: list[Tensor], exponent: int) -> Tensor:
    """``x^exponent`` from ``squares``: x and its repeated squares, to which more are added as needed."""
    result, k = None, 0
    while exponent >> k:
        if len(squares) <= k:
            squares.append(squares[-1].square())
        if exponent >> k & 1:
            result = squares[k] if result is None else result * squares[k]
        k += 1
    return torch.ones_like(squares[0]) if result is None else result
