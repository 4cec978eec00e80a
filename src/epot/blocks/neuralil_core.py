"""What NeuralIL makes of a descriptor: the cores of 2022 and of 2023, and its pair baseline.

Montes-Campos et al., J. Chem. Inf. Model. 62, 88 (2022), doi:10.1021/acs.jcim.1c01380; Carrete et al., J. Chem. Phys.
158, 204801 (2023), doi:10.1063/5.0146905. With ``members`` above 0 everything has a first axis of members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import silu, softplus

from ..typing import Float, Int, Tensor
from .member_layers import MemberDense, MemberNorm


class DenseCore(nn.Module):
    """2022: a dense layer, then dense layers with layer norms, each with a swish after it.

    Args:
        n_in: length of the input.
        widths: of the layers.
        members: of a committee.
    """

    def __init__(self, n_in: int, widths: Sequence[int], members: int = 0) -> None:
        super().__init__()
        pairs = zip((n_in, *widths), widths, strict=False)
        self.dense = nn.ModuleList(MemberDense(a, b, members) for a, b in pairs)
        self.norms = nn.ModuleList(MemberNorm(w, members) for w in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.dense
        x = silu(first(x))
        for dense, norm in zip(others, self.norms, strict=True):
            x = silu(norm(dense(x)))
        return x


class ResidualBlock(nn.Module):
    """2023: three dense layers with a way around them (Chen, Hu, Nian, Yang, Entropy 22, 193 (2020)).

    ``h = swish(LN(W1 x))``, ``h = swish(LN(W2 h))``, ``h = W3 h``. Where the width stays, ``swish(LN(h) + x)``;
    elsewhere ``swish(LN(h) + LN(W4 x))``, and without these two norms where the output is a single number, which they
    would destroy.

    Args:
        n_in: length of the input.
        hidden: width inside.
        n_out: length of the output.
        keep: the way around is the input itself.
        members: of a committee.
    """

    def __init__(self, n_in: int, hidden: int, n_out: int, keep: bool, members: int = 0) -> None:
        super().__init__()
        self.dense = nn.ModuleList(
            MemberDense(a, b, members) for a, b in ((n_in, hidden), (hidden, hidden), (hidden, n_out))
        )
        widths = (hidden, hidden, n_out) if n_out > 1 else (hidden, hidden)
        self.norms = nn.ModuleList(MemberNorm(w, members) for w in widths)
        self.around = None if keep else MemberDense(n_in, n_out, members)
        self.around_norm = None if keep or n_out == 1 else MemberNorm(n_out, members)

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.dense
        h = silu(self.norms[0](first(x)))
        h = last(silu(self.norms[1](second(h))))
        if len(self.norms) > 2:
            h = self.norms[2](h)
        short = x if self.around is None else self.around(x)
        return silu(h + (short if self.around_norm is None else self.around_norm(short)))


class ResNetCore(nn.Module):
    """2023: a residual block for each two consecutive widths; the first width is that inside the first block.

    Args:
        n_in: length of the input.
        widths: at least two.
        members: of a committee.
    """

    def __init__(self, n_in: int, widths: Sequence[int], members: int = 0) -> None:
        super().__init__()
        blocks = []
        for hidden, n_out in zip(widths, widths[1:], strict=False):
            blocks.append(ResidualBlock(n_in, hidden, n_out, keep=hidden == n_out == n_in, members=members))
            n_in = n_out
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


CORES: dict[str, type[DenseCore] | type[ResNetCore]] = {"dense": DenseCore, "resnet": ResNetCore}


class VarianceHead(nn.Module):
    """A positive number for each atom: residual block to one number, a weight without bias, softplus (2023).

    Args:
        n_in: length of the input, and width inside.
        members: of a committee.
    """

    def __init__(self, n_in: int, members: int = 0) -> None:
        super().__init__()
        self.block = ResidualBlock(n_in, n_in, 1, keep=False, members=members)
        self.last = MemberDense(1, 1, members, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(atoms,)`` or ``(members, atoms)``."""
        return softplus(self.last(self.block(x))).squeeze(-1)


class MorseBaseline(nn.Module):
    """Morse potentials of the elements, mixed, as a baseline between near atoms.

    For an atom 1 and its neighbor 2 at distance r, with ``(a, b, d)`` of their elements, the repulsive parts of both
    have one slope at the mixed radius

        r1 = (a2 r + ln(a1 d1 / (a2 d2)) / 4 + (a1 b1 - a2 b2) / 2) / (a1 + a2),

    and atom 1 gets ``d1 exp(-2 a1 (2 r1 - b1)) s(r) / 2`` (``"repulsive"``, 2022) or, with ``x = exp(-a1 (r1 - b1))``,
    ``d1 x (x - 2) s(r) / 2`` (``"full"``, 2023). ``s`` falls from 1 to 0, with all its derivatives, between a trained
    radius above half the cutoff and the cutoff.

    Args:
        n_elements: how many.
        cutoff: Å.
        kind: which form.
        members: of a committee.

    Attributes:
        embed: ``v`` of ``(a, b, d) = 0.01 + v^2`` (2022) or ``softplus(v)`` (2023), ``([members,] elements, 3)``.
        switch: where s begins: ``(1 + sigmoid(switch)) / 2`` of the cutoff.
    """

    def __init__(self, n_elements: int, cutoff: float, kind: Literal["repulsive", "full"], members: int = 0) -> None:
        super().__init__()
        self.cutoff, self.kind = cutoff, kind
        shape = (members,) if members else ()
        self.embed = nn.Parameter(torch.randn(*shape, n_elements, 3, dtype=torch.float32) * 0.5 + 1.0)
        self.switch = nn.Parameter(torch.zeros(*shape, 1, dtype=torch.float32))

    def forward(
        self,
        r: Float[Tensor, "*members pairs"],
        kinds: tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]],
        receivers: Int[Tensor, " pairs"],
        n_atoms: int,
    ) -> Float[Tensor, "*members atoms"]:
        """Energies, eV: of each pair its first atom's share.

        Args:
            r: Å.
            kinds: rows of the elements of both atoms of each pair.
            receivers: first atom of each pair.
            n_atoms: how many there are.
        """
        abd = 0.01 + self.embed.square() if self.kind == "repulsive" else softplus(self.embed)
        (a1, b1, d1), (a2, b2, d2) = (abd.index_select(-2, kind).unbind(-1) for kind in kinds)
        near = (a2 * r + 0.25 * torch.log(a1 * d1 / (a2 * d2)) + 0.5 * (a1 * b1 - a2 * b2)) / (a1 + a2)
        if self.kind == "repulsive":
            pair = d1 * torch.exp(-2 * a1 * (2 * near - b1))
        else:
            x = torch.exp(-a1 * (near - b1))
            pair = d1 * x * (x - 2)
        energy = 0.5 * pair * self.fade(r)
        return energy.new_zeros(*energy.shape[:-1], n_atoms).index_add(-1, receivers, energy)

    def fade(self, r: Tensor) -> Tensor:
        """``s = 1 - f(t) / (f(t) + f(1 - t))``, ``f(t) = exp(-1/t)``, ``t = (r^2 - rs^2) / (cutoff^2 - rs^2)``."""
        start = (0.5 * (1 + torch.sigmoid(self.switch)) * self.cutoff).square()
        t = (r.square() - start) / (self.cutoff**2 - start)
        inside = t.clamp(0.01, 0.99)  # exp(-100) from the ends, where s is 1 or 0 to rounding
        return torch.where(t < 1, torch.sigmoid(1 / inside - 1 / (1 - inside)), 0.0)
