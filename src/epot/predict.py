"""Energies, forces, stress, virials and Hessian of any potential: the only place that differentiates.

A potential sees the geometry through the pair vectors ``r_ij`` and, for terms of long range, through
positions and cells. With ``g_ij = dE/dr_ij`` the forces, the virial and its share per atom are sums
over pairs of one backward pass:

    F_i   = sum_j (g_ij - g_ji),      dE/d(strain) = sum_ij  r_ij (x) g_ij,

and what depends on positions and cells directly adds its own gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from .elements import SYMBOLS
from .errors import ConfigError, ModelError, NotFiniteError
from .geometry.graph import Graph
from .potential import Output, Potential, Shared, is_committee
from .registry import nearest
from .typing import Float, Tensor

WANTS = ("energy", "forces", "stress", "virial", "atom_virials", "hessian", "members")


class Members(NamedTuple):
    """The same quantities for every member of an ensemble, on a last axis."""

    energy: Float[Tensor, "structures members"]
    forces: Float[Tensor, "atoms 3 members"] | None = None
    stress: Float[Tensor, "structures 3 3 members"] | None = None
    virial: Float[Tensor, "structures 3 3 members"] | None = None


class Variance(NamedTuple):
    """What a potential expects its squared errors to be (``Output.variance``), for each member of an ensemble.

    Attributes:
        energy: eV^2, of whole structures.
        forces: (eV/Å)^2, of each component.
    """

    energy: Float[Tensor, "structures ..."]
    forces: Float[Tensor, "atoms ..."]


class Prediction(NamedTuple):
    """What a potential says of a graph.

    Attributes:
        energy: eV, ``(structures,)``, float64.
        atom_energies: eV, ``(atoms,)``.
        forces: eV/Å, ``(atoms, 3)``.
        stress: eV/Å^3, ``(structures, 3, 3)``, positive under tension.
        virial: eV, ``(structures, 3, 3)``, -dE/d(strain).
        atom_virials: eV, ``(atoms, 3, 3)``; they sum to ``virial``.
        hessian: eV/Å^2, ``(3 atoms, 3 atoms)``, of a graph with one structure.
        charges: e, ``(atoms,)``, of potentials that have them.
        features: what the readout is linear in, ``(atoms, features)``.
        members: the ensemble, of potentials that have one.
        variance: of potentials that say how large they expect their errors to be.
    """

    energy: Float[Tensor, " structures"]
    atom_energies: Float[Tensor, " atoms"]
    forces: Float[Tensor, "atoms 3"] | None = None
    stress: Float[Tensor, "structures 3 3"] | None = None
    virial: Float[Tensor, "structures 3 3"] | None = None
    atom_virials: Float[Tensor, "atoms 3 3"] | None = None
    hessian: Float[Tensor, "three_atoms three_atoms"] | None = None
    charges: Float[Tensor, " atoms"] | None = None
    features: Float[Tensor, "atoms features"] | None = None
    members: Members | None = None
    variance: Variance | None = None

    def detach(self) -> Prediction:
        """Without the autograd history."""
        return _cut(self)


def _cut(value: Any) -> Any:
    """Tensors without history, also those in tuples."""
    if isinstance(value, Tensor):
        return value.detach()
    return type(value)(*map(_cut, value)) if isinstance(value, tuple) else value


class _Leaves(NamedTuple):
    """What the energy is differentiated with respect to: three tensors of which none depends on another."""

    vectors: Tensor
    positions: Tensor
    strain: Tensor
    root: Tensor  # the positions that vectors (for a Hessian) and positions are made from


def predict(
    potential: Potential,
    graph: Graph,
    want: Iterable[str] = ("energy", "forces"),
    *,
    create_graph: bool = False,
    finite: bool = True,
) -> Prediction:
    """Energies and what derives from them.

    Args:
        potential: any.
        graph: one or many structures.
        want: any of ``energy forces stress virial atom_virials hessian members``.
        create_graph: keep the history, so that a loss on forces can be differentiated. Nothing is refused then.
        finite: refuse what is not a finite number; False passes it on.

    Raises:
        ConfigError: ``want`` holds an unknown word.
        NotFiniteError: an energy, a force or a virial is not a finite number; names the tensor of the potential
            that is not either, or else the atom.
        ModelError: stress of a structure that is not periodic along all three axes; a Hessian of
            several structures; ``members`` of a potential that has none; a graph that lacks pairs
            within the potential's cutoff.
    """
    want = set(want)
    for word in want - set(WANTS):
        raise ConfigError(f"{word!r} cannot be predicted; {nearest(word, WANTS)}")
    if "stress" in want:
        refuse_open_stress(graph)
    graph = _with_pairs_of(potential, graph)
    if not want & {"forces", "stress", "virial", "atom_virials", "hessian"}:
        with torch.set_grad_enabled(create_graph):
            out = potential(graph)
        made = _finish(graph, out, want, None, None)
        return _refuse_infinite(potential, graph, made, want) if finite and not create_graph else made
    shares = "atom_virials" in want
    with torch.enable_grad():
        history = create_graph or "hessian" in want
        traced, leaves = _trace(graph, second="hessian" in want, pairwise=potential.pairwise)
        out = potential(traced if history else traced.replace(first_order=True))
        members = _members(graph, leaves, out, want, create_graph) if "members" in want else None
        if members is None or "hessian" in want or shares or not is_committee(potential):
            found = _gradients(graph, leaves, out.energy, history=history, again=False, shares=shares)
        else:  # the mean of all
            found = _mean(graph, members)
        hessian = _hessian(leaves, found[0]) if "hessian" in want else None
    made = _finish(graph, out, want, found, members)._replace(hessian=hessian)
    if create_graph:
        return made
    made = made.detach()
    return _refuse_infinite(potential, graph, made, want) if finite else made


def _refuse_infinite(potential: Potential, graph: Graph, made: Prediction, want: set[str]) -> Prediction:
    """What was predicted, if all that was asked for is finite: one sum tells in a few microseconds."""
    virial = made.virial if want & {"stress", "virial", "atom_virials"} else None
    members = made.members or (None, None)
    parts = [t for t in (made.energy, made.forces, virial, made.hessian, *members[:2]) if t is not None]
    total = parts[0].sum()
    for part in parts[1:]:
        total = total + part.sum()
    if math.isfinite(float(total)) or all(bool(t.isfinite().all()) for t in parts):
        return made
    _refuse_broken(potential)
    raise NotFiniteError(
        f"The energy or a force is not a finite number, at {_first_wrong(graph, made)}: the structure is far outside "
        "what the potential was fitted to, or the potential is broken (`epot doctor model` tells)."
    )


def _refuse_broken(potential: Potential) -> None:
    parameters = dict(potential.named_parameters())
    for name, tensor in potential.state_dict().items():
        wrong = int((~tensor.isfinite()).sum())
        if wrong and (name in parameters or bool(tensor.isnan().any())):
            raise NotFiniteError(
                f"The energy or a force is not a finite number, because the potential is broken: {wrong} of "
                f"{tensor.numel()} numbers of its tensor {name} are not finite. Fit it again, or load an intact file."
            )


def _first_wrong(graph: Graph, made: Prediction) -> str:
    """Which atom it is at, for a message."""
    wrong = ~made.atom_energies.isfinite()
    if made.forces is not None:
        wrong = wrong | ~made.forces.isfinite().all(1)
    if not wrong.any():
        return "no single atom"
    k, n = int(wrong.nonzero()[0]), int(wrong.sum())
    owner = int(graph.owner[k])
    others = f" and {n - 1} more" if n > 1 else ""
    which = f" of structure {owner}" if graph.n_structures > 1 else ""
    atom, symbol = k - int((graph.owner < owner).sum()), SYMBOLS[int(graph.numbers[k])]
    return f"atom {atom} ({symbol}{others}){which} at {[round(x, 3) for x in graph.positions[k].tolist()]} Å"


def _with_pairs_of(potential: Potential, graph: Graph) -> Graph:
    """The graph with the pairs that the potential looks at: a graph with a skin holds more."""
    if graph.cutoff < potential.cutoff:
        raise ModelError(
            f"The potential looks {potential.cutoff} Å far but the graph has pairs up to {graph.cutoff} Å only: "
            "build the graph with the potential's cutoff, or a longer one."
        )
    return graph.within(potential.cutoff)


def refuse_open_stress(graph: Graph) -> None:
    """Stress needs the volume of a cell that is periodic along all three axes.

    Raises:
        ModelError: a structure of the graph has an open axis.
    """
    open_axes = (~graph.pbc.all(1)).nonzero()[:, 0].tolist()
    if open_axes:
        raise ModelError(
            f"Stress is energy per volume and {len(open_axes)} of {graph.n_structures} structures (first: "
            f"number {open_axes[0]}) are not periodic along all three axes, so they have no volume. "
            "Ask for 'virial' (-dE/d(strain), eV) instead."
        )


def _trace(graph: Graph, second: bool, pairwise: bool = False) -> tuple[Graph, _Leaves]:
    """A copy of the graph whose pair vectors, positions and cell remember where they came from.

    With ``second`` the pair vectors are functions of the positions, which the Hessian needs; without,
    they are leaves of their own, which saves their way back. A potential that is
    ``pairwise`` does not look at positions and cell: they need no memory.
    """
    root = graph.positions.detach().requires_grad_()
    strain = torch.zeros_like(graph.cell).requires_grad_()
    if second:
        vectors = graph.replace(positions=root, _vectors=None).vectors()
    else:
        vectors = graph.vectors().detach().requires_grad_()
    if pairwise and not second:  # with it the way through the positions would be counted twice
        return graph.replace(_vectors=vectors), _Leaves(vectors, root, strain, root)
    positions = root + torch.einsum("ia,iab->ib", root, strain[graph.owner])
    cell = graph.cell + graph.cell @ strain
    traced = graph.replace(_vectors=vectors, positions=positions, cell=cell)
    return traced, _Leaves(vectors, positions, strain, root)


def _gradients(
    graph: Graph, leaves: _Leaves, energy: Tensor, history: bool, again: bool, shares: bool
) -> tuple[Tensor, ...]:
    """Forces (atoms, 3), virial (structures, 3, 3), atom virials (atoms, 3, 3) of a sum of atom energies."""
    if not energy.requires_grad:
        zero = leaves.positions.new_zeros
        return zero(graph.n_atoms, 3), zero(graph.n_structures, 3, 3), zero(graph.n_atoms, 3, 3)
    total = energy.dot(torch.ones_like(energy))  # for ones that are given to grad, torch imports sympy: 0.5 s, 33 MB
    g, dx, ds = torch.autograd.grad(
        total, leaves[:3], create_graph=history, retain_graph=history or again, allow_unused=True
    )
    return _assemble(graph, leaves.vectors, g, dx, ds, shares)


def _assemble(
    graph: Graph, vectors: Tensor, g: Tensor | None, dx: Tensor | None, ds: Tensor | None, shares: bool = True
) -> tuple[Tensor, ...]:
    """Forces, virial and atom virials, the latter only with ``shares`` or where the virial is made from them."""
    i, j = graph.pairs.unbind(0)
    g = torch.zeros_like(vectors) if g is None else g
    forces = torch.zeros_like(graph.positions).index_add(0, i, g).index_add(0, j, -g)
    if graph.n_structures == 1 and not shares:
        virial, atom_virials = -(vectors.t() @ g)[None], forces.new_zeros(graph.n_atoms, 3, 3)
    else:
        share = -vectors[:, :, None] * g[:, None, :]
        atom_virials = graph.positions.new_zeros(graph.n_atoms, 3, 3).index_add(0, i, share)
        virial = graph.cell.new_zeros(graph.n_structures, 3, 3).index_add(0, graph.owner, atom_virials)
    if dx is not None:
        forces = forces - dx
    if ds is not None:  # of long-range terms, which have no share per pair: spread evenly over the atoms
        virial = virial - ds
        atom_virials = atom_virials - (ds / graph.sizes.clamp(min=1)[:, None, None])[graph.owner]
    return forces, virial, atom_virials


def _hessian(leaves: _Leaves, forces: Tensor) -> Tensor:
    n = forces.numel()
    if leaves.strain.shape[0] != 1:
        raise ModelError(f"A Hessian is of one structure; this graph has {leaves.strain.shape[0]}. Loop over them.")
    if not forces.requires_grad:
        return forces.new_zeros(n, n)
    rows = [
        torch.autograd.grad(f, leaves.root, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        for f in forces.flatten()
    ]
    return -torch.stack([row.flatten() for row in rows]).detach()


def _members(graph: Graph, leaves: _Leaves, out: Output, want: set[str], history: bool) -> Members:
    if out.members is None:
        raise ModelError("This potential has no ensemble: fit it with a Posterior stage, or as a committee.")
    energy = _per_structure(graph, out.members)
    if not want & {"forces", "stress", "virial", "atom_virials", "hessian"}:
        return Members(energy)
    if out.shared is not None:
        columns = _through_shared(graph, leaves, out.members, out.shared, history)
    else:
        columns = [
            _gradients(graph, leaves, column, history=history, again=True, shares=False)[:2]
            for column in out.members.double().unbind(1)
        ]
    forces = torch.stack([f for f, _ in columns], -1)
    virial = torch.stack([v for _, v in columns], -1)
    stress = -virial / _volume(graph)[..., None] if "stress" in want else None
    return Members(energy, forces, stress, virial)


def _through_shared(
    graph: Graph, leaves: _Leaves, energies: Tensor, shared: Shared, history: bool
) -> list[tuple[Tensor, ...]]:
    """Forces and virial of each member: dE_m/d(copy m) of all in one pass, then on from the source for each."""
    inner = torch.autograd.grad(
        energies.double().sum(), shared.copies, create_graph=history, retain_graph=True, allow_unused=True
    )
    used = [(s, a) for s, a in zip(shared.sources, inner, strict=True) if a is not None and s.requires_grad]
    forces = virial = None
    if shared.common is not None and shared.common.requires_grad:
        forces, virial = _gradients(graph, leaves, shared.common, history=history, again=True, shares=False)[:2]
    made: list[tuple[Tensor, ...]] = []
    for m in range(energies.shape[1]):
        found: tuple[Tensor | None, ...] = (None, None, None)
        if used:
            found = torch.autograd.grad(
                [s for s, _ in used], leaves[:3], [a[m] for _, a in used],
                create_graph=history, retain_graph=True, allow_unused=True,
            )  # fmt: skip
        g, dx, ds = found
        f, v, _ = _assemble(graph, leaves.vectors, g, dx, ds, shares=False)
        made.append((f if forces is None else f + forces, v if virial is None else v + virial))
    return made


def _mean(graph: Graph, members: Members) -> tuple[Tensor, ...]:
    """Forces and virial of a committee; it was asked for them."""
    assert members.forces is not None and members.virial is not None  # noqa: PT018
    forces = members.forces.mean(-1)
    return forces, members.virial.mean(-1), forces.new_zeros(graph.n_atoms, 3, 3)


def _per_structure(graph: Graph, values: Tensor) -> Tensor:
    """Sums over the atoms of each structure, in float64."""
    values = values.double()
    return values.new_zeros(graph.n_structures, *values.shape[1:]).index_add(0, graph.owner, values)


def _variance(graph: Graph, each: Tensor) -> Variance:
    energy, forces = each.unbind(1)
    return Variance(_per_structure(graph, energy), forces.double())


def _volume(graph: Graph) -> Tensor:
    return torch.linalg.det(graph.cell).abs()[:, None, None]


def _finish(
    graph: Graph, out: Output, want: set[str], found: tuple[Tensor, ...] | None, members: Members | None
) -> Prediction:
    if "members" in want and members is None:
        if out.members is None:
            raise ModelError("This potential has no ensemble: fit it with a Posterior stage, or as a committee.")
        members = Members(_per_structure(graph, out.members))
    made = Prediction(
        energy=_per_structure(graph, out.energy),
        atom_energies=out.energy,
        charges=out.charges,
        features=out.features,
        members=members,
        variance=None if out.variance is None else _variance(graph, out.variance),
    )
    if found is None:
        return made
    forces, virial, atom_virials = found
    return made._replace(
        forces=forces,
        virial=virial,
        stress=-virial / _volume(graph) if "stress" in want else None,
        atom_virials=atom_virials if "atom_virials" in want else None,
    )
