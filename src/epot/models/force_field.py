"""A bonded force field: harmonic bonds and angles, cosine series of torsions, Lennard-Jones between what is farther.

The functional form of the molecular-mechanics force fields, here with the constants of Jorgensen, Maxwell,
Tirado-Rives, J. Am. Chem. Soc. 118, 11225 (1996), doi:10.1021/ja9621760 (Eqs. 1 to 4), factors 1/2 in the harmonic
terms, and no charges:

    E = sum_bonds k/2 (r - r0)^2 + sum_angles k/2 (theta - theta0)^2
      + sum_torsions 1/2 [ V1 (1 + cos phi) + V2 (1 - cos 2 phi) + V3 (1 + cos 3 phi) ]
      + sum_far pairs 4 eps [ (sigma/r)^12 - (sigma/r)^6 ]

Which atoms are bonded is perceived from a structure (:mod:`epot.geometry.topology`) and stays: it is of one molecule
with its atoms in one order. Parameters belong to kinds of atoms, told apart by element and neighbors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn

from ..blocks.pair_parameters import Positive, contact
from ..data.structure import Structure
from ..elements import SYMBOLS
from ..errors import ConfigError, ModelError
from ..geometry.graph import Graph
from ..geometry.topology import Topology, angles_of, from_bonds, perceive
from ..potential import Output, Potential
from ..typing import Float, Tensor

START = {"bond": 30.0, "angle": 4.0}  # eV/Å^2, eV/rad^2
TINY = 1e-24  # Å^4: keeps derivatives of angles finite where three atoms are in line


class Terms(NamedTuple):
    """What a topology consists of, as tensors: atoms of each term, and its kind."""

    bonds: Tensor
    bond_kinds: Tensor
    angles: Tensor
    angle_kinds: Tensor
    torsions: Tensor
    torsion_kinds: Tensor
    far: Tensor
    weights: Tensor
    species: Tensor


class ForceField(Potential):
    """Bonds, angles and torsions of one molecule, with constants of kinds of atoms: fitted to a few structures.

    Args:
        topology: ``{"numbers": [...], "bonds": [[0, 1], ...], "straight": []}``; None for a fit to perceive it from
            its first structure (:class:`epot.fit.stages.topology.FindTopology`).
        depth: how far atoms are told apart by their neighbors: 0 by element, 1 by neighbors, 2 by theirs too.
        far: Lennard-Jones between atoms three bonds apart (half of it) and farther.

    Raises:
        ConfigError: the topology is not one, or the depth is negative.
    """

    recipe: ClassVar[str] = "descend"
    optimizer: ClassVar[str] = "lbfgs"
    axes: ClassVar[str] = "open"
    exempt = {  # noqa: RUF012
        check: "it is of one molecule with its atoms in one order; others are refused"
        for check in ("permutation", "few_atoms", "dimers", "additivity", "supercells", "wrapping", "cell_choice")
    }
    CITATION: ClassVar[str] = """@article{Jorgensen1996,
  author = {Jorgensen, William L. and Maxwell, David S. and Tirado-Rives, Julian},
  title = {Development and Testing of the {OPLS} All-Atom Force Field on Conformational Energetics and Properties of
    Organic Liquids},
  journal = {J. Am. Chem. Soc.}, volume = {118}, pages = {11225--11236}, year = {1996}, doi = {10.1021/ja9621760}
}"""

    numbers: Tensor
    bonds: Tensor
    straight: Tensor

    def __init__(self, topology: Mapping[str, Any] | None = None, depth: int = 1, far: bool = True) -> None:
        super().__init__()
        if depth < 0:
            raise ConfigError(f"ForceField.depth is {depth}; it must not be negative.")
        self.depth, self.far, self.cutoff = depth, far, 0.0
        given = {"numbers": [], "bonds": [], "straight": []} | dict(topology or {})
        if set(given) != {"numbers", "bonds", "straight"}:
            raise ConfigError(f"A topology has numbers, bonds and straight; this one has {', '.join(given)}.")
        bonds = np.array(given["bonds"], np.int64).reshape(-1, 2)
        inside = (bonds >= 0) & (bonds < len(given["numbers"]))
        if not inside.all() or (bonds[:, 0] == bonds[:, 1]).any():
            raise ConfigError(f"A bond of the topology is not between two of its {len(given['numbers'])} atoms.")
        self.register_buffer("numbers", torch.tensor(given["numbers"], dtype=torch.int64))
        self.register_buffer("bonds", torch.from_numpy(bonds))
        self.register_buffer("straight", torch.tensor(given["straight"], dtype=torch.int64))
        self._made: tuple[Tensor, Terms] | None = None
        self._reset({}, {})

    @classmethod
    def tiny(cls) -> ForceField:
        """Hydrogen peroxide, bent and turned."""
        made = cls()
        made.set_topology(_peroxide())
        with torch.no_grad():
            made.torsions.add_(torch.tensor([0.2, -0.1, 0.05], dtype=torch.float64))
        return made

    def examples(self) -> dict[str, Structure]:
        """Structures that it is for: its checks look at these."""
        if not len(self.numbers) or self.numbers.tolist() != [1, 8, 8, 1]:
            raise ModelError("Give the checks structures of this molecule: check_potential(..., systems={...}).")
        rng, base = np.random.default_rng(0), _peroxide()
        moved = lambda: base.positions + 0.1 * rng.normal(size=(4, 3))  # noqa: E731
        return {name: base.replace(positions=moved()) for name in ("first", "second")}

    @property
    def elements(self) -> tuple[int, ...] | None:  # type: ignore[override]
        """Atomic numbers of its molecule; None before it has one."""
        return tuple(sorted(set(self.numbers.tolist()))) or None

    @property
    def topology(self) -> dict[str, Any] | None:
        """As the constructor takes it."""
        if not len(self.numbers):
            return None
        return {name: getattr(self, name).tolist() for name in ("numbers", "bonds", "straight")}

    def molecule(self) -> Topology:
        """With angles and torsions."""
        straight = frozenset(self.straight.tolist())
        return from_bonds(self.numbers.cpu().numpy(), self.bonds.cpu().numpy(), straight)

    def set_topology(self, structure: Structure, others: tuple[Structure, ...] = ()) -> None:
        """Perceive the bonds of a molecule; lengths and angles start from the means of it and of others like it.

        Raises:
            DataError: it is periodic, or a single atom.
        """
        found, device = perceive(structure), self.numbers.device
        bent = np.degrees(angles_of(structure.positions, found.angles))
        centers = sorted(set(found.angles[bent > 170.0, 1].tolist()))
        self.numbers = torch.from_numpy(structure.numbers.copy()).to(device)
        self.bonds = torch.from_numpy(found.bonds).to(device)
        self.straight = torch.tensor(centers, dtype=torch.int64, device=device)
        places = np.stack([s.positions for s in (structure, *others)])
        r = np.linalg.norm(places[:, found.bonds[:, 0]] - places[:, found.bonds[:, 1]], axis=2).mean(0)
        theta = np.mean([angles_of(p, found.angles) for p in places], axis=0)
        self._reset(_means(self._labels()[0], r), _means(self._labels()[1], theta))

    def _labels(self) -> tuple[list[str], list[str], list[str]]:
        """Kinds of all bonds, angles and torsions."""
        made = self.molecule()
        kinds = made.kinds(self.depth)
        forward = lambda row: "-".join(kinds[k] for k in row)  # noqa: E731
        label = lambda row: min(forward(row), forward(row[::-1]))  # noqa: E731
        bonds, angles, torsions = (
            [label(row) for row in rows.tolist()] for rows in (made.bonds, made.angles, made.torsions)
        )
        return bonds, angles, torsions

    def _reset(self, lengths: Mapping[str, float], angles: Mapping[str, float]) -> None:
        """Parameters to start from, one for each kind."""
        bonds, bends, turns = (sorted(set(labels)) for labels in self._labels())
        device = self.numbers.device
        self.lengths = Positive(bonds, [lengths.get(k, 1.2) for k in bonds]).to(device)
        self.bond_constants = Positive(bonds, [START["bond"]] * len(bonds)).to(device)
        self.bends = Positive(bends, [angles.get(k, 1.91) for k in bends]).to(device)
        self.angle_constants = Positive(bends, [START["angle"]] * len(bends)).to(device)
        self.torsions = nn.Parameter(torch.zeros(len(turns), 3, dtype=torch.float64, device=device))
        present = sorted(set(self.numbers.tolist())) if self.far else []
        symbols = [SYMBOLS[z] for z in present]
        self.depths = Positive(symbols, [0.003] * len(symbols)).to(device)
        self.sizes = Positive(symbols, [0.85 * contact(z, z) / 2 ** (1 / 6) for z in present]).to(device)

    def terms(self) -> Terms:
        """Atoms and kinds of all terms, made once."""
        if self._made is None or self._made[0] is not self.bonds:
            made, device = self.molecule(), self.bonds.device
            kinds = []
            for labels in self._labels():
                order = {label: k for k, label in enumerate(sorted(set(labels)))}
                kinds.append(torch.tensor([order[label] for label in labels], dtype=torch.int64, device=device))
            far, three = made.far_pairs()
            present = self.numbers.unique(sorted=True)
            self._made = self.bonds, Terms(
                self.bonds, kinds[0], torch.from_numpy(made.angles).to(device), kinds[1],
                torch.from_numpy(made.torsions).to(device), kinds[2], torch.from_numpy(far).to(device),
                torch.from_numpy(np.where(three, 0.5, 1.0)).to(device), torch.searchsorted(present, self.numbers),
            )  # fmt: skip
        return self._made[1]

    def forward(self, graph: Graph) -> Output:
        """Energies per atom: of a term, equal parts to its atoms.

        Raises:
            ModelError: it has no topology yet, or a structure is not of its molecule.
        """
        self._refuse_others(graph)
        n, t = len(self.numbers), self.terms()
        x = graph.positions.to(self.torsions).view(-1, n, 3)
        energy = x.new_zeros(len(x), n)
        r = (x[:, t.bonds[:, 0]] - x[:, t.bonds[:, 1]]).square().sum(2).sqrt()
        stretch = (r - self.lengths()[t.bond_kinds]).square() * (0.5 * self.bond_constants()[t.bond_kinds])
        energy = _share(energy, t.bonds, stretch)
        bend = (_angles(x, t.angles) - self.bends()[t.angle_kinds]).square()
        energy = _share(energy, t.angles, bend * (0.5 * self.angle_constants()[t.angle_kinds]))
        c = _cosines(x, t.torsions)
        waves = torch.stack([1 + c, 2 - 2 * c.square(), 1 + (4 * c.square() - 3) * c], 2)
        energy = _share(energy, t.torsions, 0.5 * (waves * self.torsions[t.torsion_kinds]).sum(2))
        if self.far and len(t.far):
            energy = _share(energy, t.far, self._far(x, t))
        return Output(energy.flatten())

    def _far(self, x: Tensor, t: Terms) -> Tensor:
        a, b = t.species[t.far[:, 0]], t.species[t.far[:, 1]]
        depth, size = (self.depths()[a] * self.depths()[b]).sqrt(), (self.sizes()[a] + self.sizes()[b]) / 2
        square = (x[:, t.far[:, 0]] - x[:, t.far[:, 1]]).square().sum(2)
        sixth = (size.square() / square) ** 3
        return 4 * depth * t.weights * (sixth.square() - sixth)

    def _refuse_others(self, graph: Graph) -> None:
        if not len(self.numbers):
            raise ModelError("This ForceField has no topology yet: fit it, with the stages FindTopology and Descend.")
        n = len(self.numbers)
        fits = bool((graph.sizes == n).all()) and not bool(graph.pbc.any())
        if fits and bool((graph.numbers.view(-1, n) == self.numbers).all()):
            return
        wanted = " ".join(SYMBOLS[z] for z in self.numbers.tolist())
        given = "a periodic structure" if bool(graph.pbc.any()) else "a structure of other atoms, or in another order"
        raise ModelError(f"This ForceField is of one molecule with the atoms {wanted}, in this order; given: {given}.")

    def fitted_parameters(self) -> dict[str, Any]:
        """What a fit found, with units."""
        bonds, bends, turns = (sorted(set(labels)) for labels in self._labels())
        present = [SYMBOLS[z] for z in sorted(set(self.numbers.tolist()))] if self.far else []
        shown = {
            "length (Å)": (bonds, self.lengths()),
            "bond constant (eV/Å^2)": (bonds, self.bond_constants()),
            "angle (degrees)": (bends, self.bends().rad2deg()),
            "angle constant (eV/rad^2)": (bends, self.angle_constants()),
            "V1 V2 V3 (eV)": (turns, self.torsions),
            "epsilon (eV)": (present, self.depths()),
            "sigma (Å)": (present, self.sizes()),
        }
        return {k: dict(zip(labels, values.tolist(), strict=True)) for k, (labels, values) in shown.items()}

    def extra_repr(self) -> str:
        """Without the lists of the topology."""
        return f"{len(self.numbers)} atoms, {len(self.bonds)} bonds, depth={self.depth}, far={self.far}"


def _share(energy: Tensor, atoms: Tensor, values: Float[Tensor, "structures terms"]) -> Tensor:
    """Add each term's energy to its atoms in equal parts."""
    for column in atoms.T:
        energy = energy.index_add(1, column, values / atoms.shape[1])
    return energy


def _angles(x: Tensor, atoms: Tensor) -> Tensor:
    """theta, by its tangent: finite derivatives everywhere."""
    u, v = x[:, atoms[:, 0]] - x[:, atoms[:, 1]], x[:, atoms[:, 2]] - x[:, atoms[:, 1]]
    return torch.atan2((torch.linalg.cross(u, v).square().sum(2) + TINY).sqrt(), (u * v).sum(2))


def _cosines(x: Tensor, atoms: Tensor) -> Tensor:
    """Cos phi of the planes of the first and the last three atoms (phi = 0 is cis)."""
    a, b, c = (x[:, atoms[:, k + 1]] - x[:, atoms[:, k]] for k in range(3))
    m, n = torch.linalg.cross(a, b), torch.linalg.cross(b, c)
    return (m * n).sum(2) / ((m.square().sum(2) + TINY) * (n.square().sum(2) + TINY)).sqrt()


def _means(labels: list[str], values: np.ndarray) -> dict[str, float]:
    return {k: float(np.mean([v for label, v in zip(labels, values, strict=True) if label == k])) for k in set(labels)}


def _peroxide() -> Structure:
    positions = np.array([[0.8, 0.7, 0.3], [0.0, 0.73, 0.0], [0.0, -0.73, 0.0], [-0.5, -0.9, 0.7]])
    return Structure(np.array([1, 8, 8, 1]), positions)
