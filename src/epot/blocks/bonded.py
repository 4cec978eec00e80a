"""Terms of molecular mechanics: angles, torsions, charges, and their energies shared among atoms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..geometry.topology import Topology
from ..typing import Bool, Float, Int, Tensor
from ..units import BOHR, HARTREE

TINY = 1e-24
"""Å^4: keeps derivatives of angles finite where three atoms are in line."""
DAMPING = 0.2
"""1/Å, alpha of the damped interaction of charges."""
AFFINITY = {
    "H": 2.20, "Li": 0.98, "B": 2.04, "C": 2.55, "N": 3.04, "O": 3.44, "F": 3.98, "Na": 0.93, "Mg": 1.31, "Al": 1.61,
    "Si": 1.90, "P": 2.19, "S": 2.58, "Cl": 3.16, "K": 0.82, "Ca": 1.00, "Zn": 1.65, "Se": 2.55, "Br": 2.96, "I": 2.66,
}  # fmt: skip
"""Electronegativities of Pauling (CRC Handbook): fitted charges start from their differences."""


SCALE = 0.5
"""Of interactions of atoms three bonds apart."""


class Terms(NamedTuple):
    """What a topology consists of, as tensors: atoms of each term, and its kind.

    Attributes:
        bonds, angles, torsions: atoms of each.
        bond_kinds, angle_kinds, torsion_kinds: place of the kind of each among the sorted ones.
        flows: the giver and the taker of each bond that carries charge over.
        flow_kinds: place of its kind among the polar ones.
        close: ``n a + b`` of the atoms of pairs at most three bonds apart, ascending.
        scales: by which the interactions of those pairs are multiplied.
        species: place of each atom's element among the sorted ones.
        tree: of :meth:`~epot.geometry.topology.Topology.tree`.
    """

    bonds: Tensor
    angles: Tensor
    torsions: Tensor
    bond_kinds: Tensor
    angle_kinds: Tensor
    torsion_kinds: Tensor
    flows: Tensor
    flow_kinds: Tensor
    close: Tensor
    scales: Tensor
    species: Tensor
    tree: list[tuple[Tensor, Tensor]]

    def weights(self, keys: Int[Tensor, " pairs"], whole: Bool[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """By which interactions of pairs are multiplied.

        Args:
            keys: ``n a + b`` of their atoms.
            whole: whether they are of the images of their atoms that make molecules whole.
        """
        if not len(self.close):
            return self.scales.new_ones(len(keys))
        at = torch.searchsorted(self.close, keys).clamp(max=len(self.close) - 1)
        return torch.where(whole & (self.close[at] == keys), self.scales[at], 1.0)


def polar_kinds(bonds: Sequence[str]) -> list[str]:
    """Kinds of bonds between atoms of different kinds, sorted."""
    return sorted(k for k in set(bonds) if len(set(k.split("-"))) == 2)


def terms_of(topology: Topology, depth: int, charged: bool, device: str | torch.device = "cpu") -> Terms:
    """All terms, kinds told apart to a depth; with or without what carries charge."""
    to = lambda rows: torch.as_tensor(rows, dtype=torch.int64, device=device)  # noqa: E731
    rows = topology.bonds, topology.angles, topology.torsions
    labels = [topology.labels(each, depth) for each in rows]
    rank = lambda values: to(np.unique(values, return_inverse=True)[1])  # noqa: E731
    kinds, n = topology.kinds(depth), len(topology.numbers)
    polar = polar_kinds(labels[0]) if charged else []
    carry = [(label, bond) for label, bond in zip(labels[0], topology.bonds.tolist(), strict=True) if label in polar]
    flows = [bond if kinds[bond[0]] == label.split("-")[0] else bond[::-1] for label, bond in carry]
    pairs, apart = topology.close_pairs()
    close, order = to(np.concatenate([pairs @ [n, 1], pairs @ [1, n]])).sort()
    scales = torch.from_numpy(np.where(apart == 3, SCALE, 0.0)).to(device).repeat(2)[order]
    return Terms(
        bonds=to(rows[0]), angles=to(rows[1]), torsions=to(rows[2]),
        bond_kinds=rank(labels[0]), angle_kinds=rank(labels[1]), torsion_kinds=rank(labels[2]),
        flows=to(np.array(flows, np.int64).reshape(-1, 2)), flow_kinds=to([polar.index(label) for label, _ in carry]),
        close=close, scales=scales, species=rank(topology.numbers),
        tree=[(to(a), to(b)) for a, b in topology.tree()],
    )  # fmt: skip


def share(
    energy: Float[Tensor, "structures n"], atoms: Int[Tensor, "terms order"], values: Float[Tensor, "structures terms"]
) -> Float[Tensor, "structures n"]:
    """Add each term's energy to its atoms in equal parts."""
    for column in atoms.T:
        energy = energy.index_add(1, column, values / atoms.shape[1])
    return energy


def angles(x: Float[Tensor, "structures n 3"], atoms: Int[Tensor, "terms 3"]) -> Float[Tensor, "structures terms"]:
    """theta, by its tangent: finite derivatives everywhere."""
    u, v = x[:, atoms[:, 0]] - x[:, atoms[:, 1]], x[:, atoms[:, 2]] - x[:, atoms[:, 1]]
    return torch.atan2((torch.linalg.cross(u, v).square().sum(2) + TINY).sqrt(), (u * v).sum(2))


def cosines(x: Float[Tensor, "structures n 3"], atoms: Int[Tensor, "terms 4"]) -> Float[Tensor, "structures terms"]:
    """Cos phi of the planes of the first and the last three atoms (phi = 0 is cis)."""
    a, b, c = (x[:, atoms[:, k + 1]] - x[:, atoms[:, k]] for k in range(3))
    m, n = torch.linalg.cross(a, b), torch.linalg.cross(b, c)
    return (m * n).sum(2) / ((m.square().sum(2) + TINY) * (n.square().sum(2) + TINY)).sqrt()


def start_charge(bond: str) -> float:
    """e: what the first of two bonded atoms has given to the second, roughly; positive if that attracts more."""
    first, second = (AFFINITY.get(end.partition("(")[0], 2.0) for end in bond.split("-"))
    return 0.15 * (second - first)


def shifted_coulomb(r: Float[Tensor, " pairs"], cutoff: float) -> Float[Tensor, " pairs"]:
    """eV/e^2, of two unit charges: damped, and shifted so that energy and force vanish at the cutoff.

    Fennell and Gezelter, J. Chem. Phys. 124, 234104 (2006), doi:10.1063/1.2206581, Eq. 18.

    Args:
        r: Å, below the cutoff.
        cutoff: Å.
    """
    end = math.erfc(DAMPING * cutoff) / cutoff
    slope = end / cutoff + 2 * DAMPING / math.sqrt(math.pi) * math.exp(-((DAMPING * cutoff) ** 2)) / cutoff
    return HARTREE * BOHR * (torch.erfc(DAMPING * r) / r - end + slope * (r - cutoff))
