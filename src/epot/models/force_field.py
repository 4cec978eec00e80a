"""A bonded force field: harmonic bonds and angles, cosine series of torsions, Lennard-Jones between what is farther.

The functional form of the molecular-mechanics force fields, here with the constants of Jorgensen, Maxwell,
Tirado-Rives, J. Am. Chem. Soc. 118, 11225 (1996), doi:10.1021/ja9621760 (Eqs. 1 to 4), and factors 1/2 in the harmonic
terms:

    E = sum_bonds k/2 (r - r0)^2 + sum_angles k/2 (theta - theta0)^2
      + sum_torsions 1/2 [ V1 (1 + cos phi) + V2 (1 - cos 2 phi) + V3 (1 + cos 3 phi) ]
      + sum_far pairs f { 4 eps [ (sigma/r)^12 - (sigma/r)^6 ] + q q' v(r) } s(r)

Far pairs are within the cutoff and at least three bonds apart (f = 1/2 at three, else 1), s is a switching function and
v the damped, shifted interaction of charges (:func:`epot.blocks.bonded.shifted_coulomb`). Charges are made of what
each bond carries over, so that every molecule is neutral (Bush, Bayly, Halgren, J. Comput. Chem. 20, 1495 (1999),
doi:10.1002/(SICI)1096-987X(19991115)20:14<1495::AID-JCC3>3.0.CO;2-3).

Which atoms are bonded is perceived from a structure (:mod:`epot.geometry.topology`) and stays: it is of one molecule,
or of the molecules of one liquid, with the atoms in one order; bonds may run through the faces of a cell. Parameters
belong to kinds of atoms, told apart by element and neighbors, so all molecules of a kind share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ..blocks.bonded import Terms, angles, cosines, polar_kinds, share, shifted_coulomb, start_charge, terms_of
from ..blocks.pair_parameters import Positive, contact, half_sums
from ..data.structure import Structure
from ..elements import SYMBOLS
from ..errors import ConfigError, ModelError
from ..features.cutoff import cutoff_function
from ..geometry.graph import Graph
from ..geometry.topology import STRAIGHT, Topology, angles_of, from_bonds, images, perceive, unwrapped
from ..potential import Output, Potential
from ..typing import Float, Tensor

START = {"bond": 30.0, "angle": 4.0}  # eV/Å^2, eV/rad^2


class ForceField(Potential):
    """Bonds, angles and torsions of molecules, with constants of kinds of atoms: fitted to a few structures.

    Args:
        topology: ``{"numbers": [...], "bonds": [[0, 1], ...], "straight": []}``; None for a fit to perceive it from
            its first structure (:class:`epot.fit.stages.topology.FindTopology`).
        depth: how far atoms are told apart by their neighbors: 0 by element, 1 by neighbors, 2 by theirs too.
        cutoff: Å, of the interactions of atoms three bonds apart and farther; 0 for none.
        width: Å, over which they are switched off before the cutoff.
        charges: whether atoms have charges, which are fitted.

    Raises:
        ConfigError: the topology is not one, or a number is out of range.
    """

    recipe: ClassVar[str] = "descend"
    optimizer: ClassVar[str] = "lbfgs"
    exempt = {  # noqa: RUF012
        check: "it is of certain molecules with their atoms in one order; others are refused"
        for check in ("permutation", "few_atoms", "dimers", "additivity", "supercells", "cutoff")
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

    def __init__(
        self,
        topology: Mapping[str, Any] | None = None,
        depth: int = 1,
        cutoff: float = 8.0,
        width: float = 1.5,
        charges: bool = True,
    ) -> None:
        super().__init__()
        if depth < 0:
            raise ConfigError(f"ForceField.depth is {depth}; it must not be negative.")
        if cutoff < 0 or not 0 < width <= (cutoff or width):
            raise ConfigError(
                f"ForceField needs a cutoff of 0 or above, and a width between 0 and it; given: {cutoff}, {width}."
            )
        self.depth, self.cutoff, self.width, self.charges = depth, float(cutoff), float(width), charges
        self.fade = cutoff_function("poly2", 1 - width / cutoff if cutoff else 0.0)
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
        made = cls(cutoff=3.5)
        made.set_topology(_peroxide())
        with torch.no_grad():
            made.torsions.add_(torch.tensor([0.2, -0.1, 0.05], dtype=torch.float64))
        return made

    def examples(self) -> dict[str, Structure]:
        """Structures that it is for: its checks look at these."""
        if not len(self.numbers) or self.numbers.tolist() != [1, 8, 8, 1]:
            raise ModelError("Give the checks structures of these molecules: check_potential(..., systems={...}).")
        rng, base = np.random.default_rng(0), _peroxide()
        moved = lambda: base.positions + 0.1 * rng.normal(size=(4, 3))  # noqa: E731
        cell = np.array([[3.8, 0, 0], [0.5, 4.1, 0], [0.2, -0.3, 3.9]])
        made = {name: base.replace(positions=moved()) for name in ("first", "second")}
        return made | {"crystal": Structure(base.numbers, moved(), cell, True)}

    @property
    def elements(self) -> tuple[int, ...] | None:  # type: ignore[override]
        """Atomic numbers of its molecules; None before it has any."""
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
        """Perceive the bonds of molecules; lengths and angles start from the means of these and of others like them.

        Raises:
            DataError: a single atom, nothing is bonded, or a crystal or metal.
        """
        found, device = perceive(structure), self.numbers.device
        places = np.stack([unwrapped(s, found) for s in (structure, *others)])
        bent = np.degrees(angles_of(places[0], found.angles))
        centers = sorted(set(found.angles[bent > STRAIGHT, 1].tolist()))
        self.numbers = torch.from_numpy(structure.numbers.copy()).to(device)
        self.bonds = torch.from_numpy(found.bonds).to(device)
        self.straight = torch.tensor(centers, dtype=torch.int64, device=device)
        r = np.linalg.norm(places[:, found.bonds[:, 0]] - places[:, found.bonds[:, 1]], axis=2).mean(0)
        theta = np.mean([angles_of(p, found.angles) for p in places], axis=0)
        self._reset(_means(self._labels()[0], r), _means(self._labels()[1], theta))

    def _labels(self) -> tuple[list[str], list[str], list[str]]:
        """Kinds of all bonds, angles and torsions."""
        made = self.molecule()
        bonds, bends, turns = (made.labels(rows, self.depth) for rows in (made.bonds, made.angles, made.torsions))
        return bonds, bends, turns

    def _reset(self, lengths: Mapping[str, float], angles: Mapping[str, float]) -> None:
        """Parameters to start from, one for each kind."""
        bonds, bends, turns = (sorted(set(labels)) for labels in self._labels())
        device = self.numbers.device
        self.lengths = Positive(bonds, [lengths.get(k, 1.2) for k in bonds]).to(device)
        self.bond_constants = Positive(bonds, [START["bond"]] * len(bonds)).to(device)
        self.bends = Positive(bends, [angles.get(k, 1.91) for k in bends]).to(device)
        self.angle_constants = Positive(bends, [START["angle"]] * len(bends)).to(device)
        self.torsions = nn.Parameter(torch.zeros(len(turns), 3, dtype=torch.float64, device=device))
        present = sorted(set(self.numbers.tolist())) if self.cutoff else []
        symbols = [SYMBOLS[z] for z in present]
        self.depths = Positive(symbols, [0.003] * len(symbols)).to(device)
        self.sizes = Positive(symbols, [0.85 * contact(z, z) / 2 ** (1 / 6) for z in present]).to(device)
        carried = [start_charge(label) for label in self._polar(bonds)]
        self.carried = nn.Parameter(torch.tensor(carried, dtype=torch.float64, device=device))

    def _polar(self, bonds: list[str]) -> list[str]:
        return polar_kinds(bonds) if self.charges and self.cutoff else []

    def terms(self) -> Terms:
        """Atoms and kinds of all terms, made once."""
        if self._made is None or self._made[0] is not self.bonds:
            charged = self.charges and self.cutoff > 0
            self._made = self.bonds, terms_of(self.molecule(), self.depth, charged, self.bonds.device)
        return self._made[1]

    def forward(self, graph: Graph) -> Output:
        """Energies per atom: of a term, equal parts to its atoms.

        Raises:
            ModelError: it has no topology yet, or a structure is not of its molecules.
        """
        self._refuse_others(graph)
        n, t = len(self.numbers), self.terms()
        positions = graph.positions.to(self.torsions).view(-1, n, 3)
        cell = graph.cell.to(positions)
        moves = images(positions.detach(), cell.detach(), graph.pbc, t.tree)
        x = positions + moves @ cell
        energy = x.new_zeros(len(x), n)
        r = (x[:, t.bonds[:, 0]] - x[:, t.bonds[:, 1]]).square().sum(2).sqrt()
        stretch = (r - self.lengths()[t.bond_kinds]).square() * (0.5 * self.bond_constants()[t.bond_kinds])
        energy = share(energy, t.bonds, stretch)
        bend = (angles(x, t.angles) - self.bends()[t.angle_kinds]).square()
        energy = share(energy, t.angles, bend * (0.5 * self.angle_constants()[t.angle_kinds]))
        c = cosines(x, t.torsions)
        waves = torch.stack([1 + c, 2 - 2 * c.square(), 1 + (4 * c.square() - 3) * c], 2)
        energy = share(energy, t.torsions, 0.5 * (waves * self.torsions[t.torsion_kinds]).sum(2)).flatten()
        charges = self.charge_of_each()
        if self.cutoff:
            energy = energy + self._far(graph, t, moves.view(-1, 3), charges)
        return Output(energy, charges=charges.repeat(len(x)) if self.charges else None)

    def charge_of_each(self) -> Float[Tensor, " n"]:
        """e, of the atoms of the topology: what their bonds carried over."""
        t = self.terms()
        charges = self.torsions.new_zeros(len(self.numbers))
        moved = self.carried[t.flow_kinds]
        return charges.index_add(0, t.flows[:, 0], moved).index_add(0, t.flows[:, 1], -moved)

    def _far(self, graph: Graph, t: Terms, moves: Tensor, charges: Tensor) -> Tensor:
        """Of pairs of the graph: bonded ones are told by the images of their atoms, too."""
        n, (i, j) = len(self.numbers), graph.pairs
        weights = t.weights(i % n * n + j % n, (graph.shifts == moves[j] - moves[i]).all(1))
        kept = weights.nonzero()[:, 0]
        graph = graph.replace(
            pairs=graph.pairs.index_select(1, kept),
            shifts=graph.shifts.index_select(0, kept),
            _vectors=graph.vectors().index_select(0, kept),
        )
        a, b = graph.pairs % n
        depths, sizes = self.depths(), self.sizes()
        kinds = t.species[a] * len(depths) + t.species[b]
        depth = (4 * (depths[:, None] * depths).sqrt()).flatten().index_select(0, kinds)
        square = ((sizes[:, None] + sizes) / 2).square().flatten().index_select(0, kinds)
        r2 = graph.vectors().to(depth).square().sum(1)
        r, third = r2.sqrt(), square / r2
        sixth = third * third * third
        pair = depth * sixth * (sixth - 1)
        if self.charges:
            pair = pair + charges.index_select(0, a) * charges.index_select(0, b) * shifted_coulomb(r, self.cutoff)
        return half_sums(graph, pair * weights.index_select(0, kept) * self.fade(r, self.cutoff)[0])

    def _refuse_others(self, graph: Graph) -> None:
        if not len(self.numbers):
            raise ModelError("This ForceField has no topology yet: fit it, with the stages FindTopology and Descend.")
        n = len(self.numbers)
        if bool((graph.sizes == n).all()) and bool((graph.numbers.view(-1, n) == self.numbers).all()):
            return
        wanted = " ".join(SYMBOLS[z] for z in self.numbers[:12].tolist()) + (" ..." if n > 12 else "")
        raise ModelError(
            f"This ForceField is of molecules with the {n} atoms {wanted}, in this order; given: a structure of other "
            "atoms, or in another order."
        )

    def fitted_parameters(self) -> dict[str, Any]:
        """What a fit found, with units."""
        bonds, bends, turns = (sorted(set(labels)) for labels in self._labels())
        present = [SYMBOLS[z] for z in sorted(set(self.numbers.tolist()))] if self.cutoff else []
        shown = {
            "length (Å)": (bonds, self.lengths()),
            "bond constant (eV/Å^2)": (bonds, self.bond_constants()),
            "angle (degrees)": (bends, self.bends().rad2deg()),
            "angle constant (eV/rad^2)": (bends, self.angle_constants()),
            "V1 V2 V3 (eV)": (turns, self.torsions),
            "epsilon (eV)": (present, self.depths()),
            "sigma (Å)": (present, self.sizes()),
            "charge carried over (e)": (self._polar(bonds), self.carried),
        }
        return {k: dict(zip(labels, values.tolist(), strict=True)) for k, (labels, values) in shown.items()}

    def extra_repr(self) -> str:
        """Without the lists of the topology."""
        return f"{len(self.numbers)} atoms, {len(self.bonds)} bonds, depth={self.depth}, cutoff={self.cutoff}"


def _means(labels: list[str], values: np.ndarray) -> dict[str, float]:
    return {k: float(np.mean([v for label, v in zip(labels, values, strict=True) if label == k])) for k in set(labels)}


def _peroxide() -> Structure:
    positions = np.array([[0.8, 0.7, 0.3], [0.0, 0.73, 0.0], [0.0, -0.73, 0.0], [-0.5, -0.9, 0.7]])
    return Structure(np.array([1, 8, 8, 1]), positions)
