"""How much a neighbor counts at its distance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..errors import ConfigError
from ..registry import nearest
from ..typing import Tensor
from .cutoff import shifted_cosine_cutoff


class Fade:
    """What the radial functions are multiplied by: a cutoff function and a weight.

    Args:
        reach: Å, where it ends.
        width: Å, of the shifted cosine before it; None for none: a step.
        weighting: ``{"function": .., ..}`` with r0 in Å and, of ``x = r / r0``, ``"poly"``:
            ``c (1 + 2 x^3 - 3 x^2)^m`` up to r0; ``"pow"``: ``c / (d + x^m)``; ``"exp"``: ``c / (d + exp(-x))``. These
            are DScribe's; ``"pow"`` with c = d is featomic's (Willatt 2018), with c = 1 + d QUIP's.

    Raises:
        ConfigError: an unknown function, or a number that is missing or out of range.
    """

    NEEDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "poly": ("c", "m", "r0"), "pow": ("c", "d", "m", "r0"), "exp": ("c", "d", "r0")
    }  # fmt: skip

    def __init__(self, reach: float, width: float | None, weighting: Mapping[str, Any] | None) -> None:
        self.reach, self.width = reach, width
        self.weighting = dict(weighting) if weighting else None
        if self.weighting:
            self._check(self.weighting)

    def _check(self, given: dict[str, Any]) -> None:
        name = given.get("function")
        if name not in self.NEEDS:
            raise ConfigError(f"There is no SOAP weighting {name!r}; {nearest(str(name), self.NEEDS)}")
        needs = self.NEEDS[name]
        good = set(given) == {"function", *needs} and all(
            isinstance(given[k], (int, float)) and given[k] >= 0 for k in needs
        )
        if not good or not given["r0"] > 0 or (name == "pow" and not given["d"] > 0):
            raise ConfigError(f"SOAP's weighting {name!r} needs {', '.join(needs)}, positive numbers; given: {given}.")

    @property
    def plain(self) -> bool:
        """Whether it is one up to its end."""
        return self.width is None and not self.weighting

    def weight(self, r: Tensor) -> Tensor:
        """The weight alone."""
        if not self.weighting:
            return torch.ones_like(r)
        w = self.weighting
        x = r / w["r0"]
        if w["function"] == "poly":
            x = x.clamp(max=1)
            return w["c"] * (1 + x * x * (2 * x - 3)) ** w["m"]
        return w["c"] / (w["d"] + (x ** w["m"] if w["function"] == "pow" else torch.exp(-x)))

    def __call__(self, r: Tensor) -> Tensor:
        cut = (r < self.reach).to(r) if self.width is None else shifted_cosine_cutoff(r, self.reach, self.width)
        return cut * self.weight(r) if self.weighting else cut

    def with_slope(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Values and d/dr."""
        if self.width is not None and not self.weighting:
            x = ((r - (self.reach - self.width)) * (math.pi / self.width)).clamp_(0, math.pi)
            return torch.cos(x).add_(1).mul_(0.5), torch.sin(x).mul_(-0.5 * math.pi / self.width)
        with torch.enable_grad():
            leaf = r.detach().requires_grad_()
            value = self(leaf)
            if not value.requires_grad:
                return value, torch.zeros_like(r)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), slope
