"""The linear readout: GAP's weights, a ridge model's and a network's last layer are one object."""

from __future__ import annotations

import torch
from torch import nn

from ..typing import Float, Tensor


class LinearReadout(nn.Module):
    """``E_i = scale * (x_i . w + b)``, with a Gaussian prior on ``w`` and, once sampled, an ensemble.

    Attributes:
        weight: ``(features,)``.
        bias: ``()``, or None.
        scale: eV per unit of the output, ``()``.
        precision: of the prior on the weights, ``(features, features)`` or ``(features,)`` (diagonal); empty where no
            prior was set, or where the potential makes it (:func:`prior_precision`).
        member_weights: ``(features, members)``, samples of the posterior; zero members where none was drawn.
    """

    weight: nn.Parameter
    scale: Tensor
    precision: Tensor
    member_weights: Tensor

    def __init__(self, n_features: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_features))
        nn.init.uniform_(self.weight, -(max(n_features, 1) ** -0.5), max(n_features, 1) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(())) if bias else None
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("precision", torch.zeros(0))
        self.register_buffer("member_weights", torch.zeros(n_features, 0))

    @property
    def n_members(self) -> int:
        return self.member_weights.shape[1]

    def forget_members(self) -> None:
        """Without the ensemble, whose spread is of the fit that drew it."""
        self.member_weights = self.member_weights[:, :0]

    def forward(self, features: Float[Tensor, "atoms features"]) -> tuple[Tensor, Tensor | None]:
        """Energies ``(atoms,)`` and, with an ensemble, those of its members ``(atoms, members)``."""
        energy = features @ self.weight
        members = features @ self.member_weights if self.n_members else None
        if self.bias is not None:
            energy = energy + self.bias
            members = None if members is None else members + self.bias
        return energy * self.scale, None if members is None else members * self.scale


def prior_precision(potential: nn.Module) -> Tensor:
    """Precision of the prior on the weights of a potential's linear readout; empty where none was set.

    What the term that holds the readout computes (``precision()``: a GAP's kernel matrix of its sparse points, which
    no file stores), else the buffer of the readout.
    """
    for module in potential.modules():
        readout = getattr(module, "readout", None)
        if isinstance(readout, LinearReadout):
            made = getattr(module, "precision", None)
            return readout.precision if made is None else made()
    return torch.zeros(0)
