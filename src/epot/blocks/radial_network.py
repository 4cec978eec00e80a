"""From a distance to the weights of a message: radial functions through a small network.

The network's last layer is linear, ``R(r) = H(r) W``, and every sum over neighbors is linear in R: what is computed
for each pair is H alone, a few dozen functions, and W is applied where it is cheapest. H depends on the distance
alone (and on the pair's elements where a distance transform or embeddings say so), so that for inference it is a
table (:mod:`epot.blocks.radial_table`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from ase.data import covalent_radii
from torch import nn

from ..features.radial import radial_basis
from ..typing import Float, Int, Tensor

SILU_GAIN = 1.679176792398942
"""``E[silu(z)^2]^(-1/2)`` of a unit normal z as e3nn has it, from random numbers (exact: 1.6765); with any other value
the weights of MACE mean something else."""
SIGMOID_GAIN = 1.8467055342154763
"""The same of the logistic function."""
Radial = Literal["bessel", "gaussian", "chebyshev"]
Transform = Literal["agnesi", "soft"]
AGNESI = {"q": 0.9183, "p": 4.5791, "a": 1.0805}


def scaled_silu(x: Tensor) -> Tensor:
    """Silu times :data:`SILU_GAIN`: the mean square stays 1."""
    return nn.functional.silu(x) * SILU_GAIN


class RadialBasis(nn.Module):
    """Radial functions of a (transformed) distance, and the cutoff function of the distance itself.

    Args:
        cutoff: Å.
        n: functions.
        kind: ``bessel`` is ``sqrt(2/cutoff) sin(k pi x / cutoff) / x``.
        power: p of the polynomial cutoff function.
        transform: of the distance, by the covalent radii of both atoms: ``agnesi`` (Witt et al., J. Chem. Phys. 159,
            164101 (2023)) maps onto (0, 1], ``soft`` stops at 3/4 of their sum; None for the distance as it is.
        trainable: the frequencies ``k pi / cutoff`` of ``bessel`` are only where they begin.
    """

    radii: Tensor
    constants: Tensor

    def __init__(
        self,
        cutoff: float,
        n: int,
        kind: Radial = "bessel",
        power: int = 5,
        transform: Transform | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        start = torch.arange(1, n + 1, dtype=torch.float32) * (math.pi / cutoff)
        self.frequencies = nn.Parameter(start) if trainable else None
        self.cutoff, self.n, self.kind, self.power, self.transform = cutoff, n, kind, power, transform
        if transform is not None:
            self.register_buffer("radii", torch.tensor(covalent_radii, dtype=torch.float64), persistent=False)
            values = list(AGNESI.values()) if transform == "agnesi" else [4.0]
            self.register_buffer("constants", torch.tensor(values, dtype=torch.float64))

    def forward(self, distances: Float[Tensor, " pairs"], numbers: Int[Tensor, "2 pairs"] | None) -> tuple[Any, Any]:
        """Functions ``(pairs, n)`` and the cutoff function ``(pairs, 1)``.

        Args:
            distances: Å.
            numbers: atomic numbers of both atoms, where there is a transform.
        """
        x = distances
        if self.transform is not None and numbers is not None:
            a, b = self.radii.to(x).index_select(0, numbers[0]), self.radii.to(x).index_select(0, numbers[1])
            x = self._agnesi(x, (a + b) / 2) if self.transform == "agnesi" else self._soft(x, a + b)
        fade = self._fade(distances).unsqueeze(-1)
        if self.frequencies is not None:  # written so that it has a value and a slope at 0, where splines have a node
            values = self.frequencies * torch.sinc(x.unsqueeze(-1) * self.frequencies / math.pi)
        else:
            values = radial_basis(self.kind, x, self.cutoff, self.n)
        return values * math.sqrt(2 / self.cutoff) if self.kind == "bessel" else values, fade

    def _fade(self, r: Tensor) -> Tensor:
        """The polynomial cutoff function (:func:`epot.features.cutoff.polynomial_cutoff`), not stopped at the cutoff.

        No pair is farther; nodes of splines are, and there the polynomial that goes on is smooth.
        """
        p, x = self.power, r / self.cutoff
        return 1 + x**p * (-(p + 1) * (p + 2) / 2 + x * (p * (p + 2) - x * (p * (p + 1) / 2)))

    def _agnesi(self, r: Tensor, r0: Tensor) -> Tensor:
        """``1 / (1 + a x^q / (1 + x^(q - p)))``, x = r / r0."""
        q, p, a = self.constants.to(r).unbind()
        x = r / r0
        return 1 / (1 + a * x**q / (1 + x ** (q - p)))

    def _soft(self, r: Tensor, r0: Tensor) -> Tensor:
        """From 3/4 of r0 to r, by a hyperbolic tangent between 3/4 and 4/3 of r0."""
        low, high = 0.75 * r0, r0 * (4 / 3)
        step = 0.5 * (1 + torch.tanh(self.constants.to(r)[0] / (high - low) * (r - 0.5 * (low + high))))
        return low + (r - low) * step


class RadialNetwork(nn.Module):
    """The hidden layers of e3nn's ``FullyConnectedNet``: ``h <- 1.679 silu(h W)``, no bias, unit mean squares.

    Args:
        sizes: widths, from the number of radial functions to the last hidden layer.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.size = sizes[-1]
        self.layers = nn.ParameterList(unit_normal(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))

    def forward(self, x: Float[Tensor, "pairs functions"]) -> Float[Tensor, "pairs hidden"]:
        """H."""
        for weight in self.layers:
            x = scaled_silu(x @ weight)
        return x


class NormedRadialNetwork(nn.Module):
    """Hidden layers with biases and layer norms, ``h <- silu(norm(h W + b))`` (eSEN, and MACE's non-linear block).

    Args:
        sizes: widths, from the number of inputs to the last hidden layer.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.size = sizes[-1]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, dtype=torch.float32) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(b, dtype=torch.float32) for b in sizes[1:])

    def forward(self, x: Float[Tensor, "pairs inputs"]) -> Float[Tensor, "pairs hidden"]:
        """H."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nn.functional.silu(norm(layer(x)))
        return x


def unit_normal(*shape: int, fan_in: int | None = None) -> nn.Parameter:
    """Weights of variance 1 / fan_in (default: the next to last axis): e3nn's initial maps, its factors included."""
    made = torch.randn(*shape, dtype=torch.float32)
    return nn.Parameter(made / math.sqrt(fan_in or shape[-2]))
