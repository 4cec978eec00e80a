"""What a fitted potential says of structures, in numpy, with calibrated standard deviations, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..data.structure import Structure
from ..errors import ConfigError, ModelError
from ..geometry.graph import Graph, build
from ..potential import Potential, has_members
from ..predict import Prediction, predict
from ..progress import bar
from ..registry import nearest
from ..typing import Tensor
from .calibration import Calibration
from .domain import Domain

WANTS = ("energy", "forces", "stress", "virial", "members")
MAX_ATOMS = 1024
"""Atoms in a batch, unless told otherwise: past this a batch gains no speed on a CPU and only costs memory."""


class Members(NamedTuple):
    """The members of an ensemble, of one structure: ``(members,)``, ``(atoms, 3, members)``, ``(3, 3, members)``."""

    energy: np.ndarray
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a fitted potential says of one structure. Standard deviations are calibrated, or None.

    Attributes:
        energy: eV, of the whole structure.
        atom_energies: eV, ``(atoms,)``.
        forces: eV/Å, ``(atoms, 3)``.
        stress: eV/Å^3, ``(3, 3)``; None where it is not defined (an axis that is not periodic).
        virial: eV, ``(3, 3)``, -dE/d(strain): defined always.
        charges: e, ``(atoms,)``, of potentials that have them.
        energy_std: eV, of the whole structure.
        forces_std: eV/Å, of each component, ``(atoms, 3)``.
        stress_std: eV/Å^3, of each component, ``(3, 3)``.
        members: of the ensemble, on request.
        violations: why it lies outside the domain of the potential; empty where it does not.
    """

    energy: float
    atom_energies: np.ndarray
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    virial: np.ndarray | None = None
    charges: np.ndarray | None = None
    energy_std: float | None = None
    forces_std: np.ndarray | None = None
    stress_std: np.ndarray | None = None
    members: Members | None = None
    violations: tuple[str, ...] = ()

    def __repr__(self) -> str:
        std = "" if self.energy_std is None else f" ± {self.energy_std:.4f}"
        kept = [k for k in ("forces", "stress", "virial", "charges", "members") if getattr(self, k) is not None]
        return f"Estimate(energy={self.energy:.6f}{std} eV, {len(self.atom_energies)} atoms; {', '.join(kept)})"


def estimates(
    potential: Potential,
    structures: Iterable[Structure],
    want: Iterable[str] = ("energy", "forces"),
    *,
    calibration: Calibration | None = None,
    domain: Domain | None = None,
    uncertainty: bool = True,
    max_atoms: int = MAX_ATOMS,
    device: str = "cpu",
    label: str = "predict",
) -> Iterator[Estimate]:
    """One :class:`Estimate` for each structure, in order; only one batch is in memory at a time.

    Args:
        potential: any.
        structures: any number; they may stream from disk.
        want: any of ``energy forces stress virial members``.
        calibration: makes the spread of an ensemble a standard deviation (or gives a constant one);
            without it there is none.
        domain: fills ``violations``.
        uncertainty: False saves the backward pass that each member of an ensemble costs.
        max_atoms: of a batch; one structure may be larger.
        device: where the potential is.
        label: of the progress bar.

    Raises:
        ConfigError: ``want`` holds an unknown word.
        ModelError: ``members`` of a potential without an ensemble.
        UnknownElementError: the potential does not know an element.
    """
    want = set(want)
    for word in want - set(WANTS):
        raise ConfigError(f"{word!r} cannot be predicted; {nearest(word, WANTS)}")
    if "members" in want and not has_members(potential):
        raise ModelError("This potential has no ensemble: fit it with a Posterior stage, or as a committee.")
    spread = uncertainty and calibration is not None
    asked = want | ({"members"} if spread and has_members(potential) else set())
    total = len(structures) if isinstance(structures, Sequence) else None
    with bar(label, total) if total is None or total > 1 else _quiet() as shown:
        for batch in batches(structures, max_atoms):
            yield from _batch(potential, batch, want, asked, calibration if spread else None, domain, device)
            shown.advance(len(batch))


def _quiet():  # noqa: ANN202
    from contextlib import nullcontext

    from ..progress import Bar

    return nullcontext(Bar())


def batches(structures: Iterable[Structure], max_atoms: int) -> Iterator[list[Structure]]:
    """Consecutive structures with at most ``max_atoms`` atoms together, at least one."""
    batch: list[Structure] = []
    atoms = 0
    for structure in structures:
        if batch and atoms + len(structure) > max_atoms:
            yield batch
            batch, atoms = [], 0
        batch.append(structure)
        atoms += len(structure)
    if batch:
        yield batch


def _batch(
    potential: Potential,
    batch: list[Structure],
    want: set[str],
    asked: set[str],
    calibration: Calibration | None,
    domain: Domain | None,
    device: str,
) -> list[Estimate]:
    made: list[Estimate | None] = [None] * len(batch)
    stressed = "stress" in want
    for periodic in (True, False):  # only structures that have a volume have a stress
        chosen = [k for k, s in enumerate(batch) if not stressed or bool(s.pbc.all()) == periodic]
        if not chosen or (not stressed and not periodic):
            continue
        words = asked if periodic else asked - {"stress"} | {"virial"}
        graph = build([batch[k] for k in chosen], potential.cutoff, elements=potential.elements, device=device)
        prediction = predict(potential, graph, words)
        for k, estimate in zip(chosen, _split(graph, prediction, want, calibration, domain), strict=True):
            made[k] = estimate
    return [e for e in made if e is not None]


def _split(
    graph: Graph, prediction: Prediction, want: set[str], calibration: Calibration | None, domain: Domain | None
) -> list[Estimate]:
    sizes = graph.sizes.tolist()
    std = {} if calibration is None else calibration.std(prediction, graph.sizes)
    violations: list[list[str]] = [[] for _ in sizes]
    if domain is not None:
        for k, text in domain.by_structure(graph, std.get("forces")):
            violations[k].append(text)
    atoms = {
        "atom_energies": prediction.atom_energies.double(),
        "forces": prediction.forces if "forces" in want else None,
        "charges": prediction.charges,
        "forces_std": std.get("forces") if "forces" in want else None,
    }
    each = {name: [None] * len(sizes) if t is None else _pieces(t, sizes) for name, t in atoms.items()}
    members = _members(prediction, sizes) if "members" in want else [None] * len(sizes)
    whole = lambda t, k: None if t is None else t[k].detach().cpu().double().numpy()  # noqa: E731
    energies = prediction.energy.tolist()
    energy_std = std["energy"].tolist() if "energy" in std else [None] * len(sizes)
    return [
        Estimate(
            energy=energies[k],
            energy_std=energy_std[k],
            stress=whole(prediction.stress, k),
            virial=whole(prediction.virial, k),
            stress_std=whole(std.get("stress"), k),
            members=members[k],
            violations=tuple(violations[k]),
            **{name: pieces[k] for name, pieces in each.items()},  # type: ignore[arg-type]
        )
        for k in range(len(sizes))
    ]


def _pieces(values: Tensor, sizes: list[int]) -> list[np.ndarray]:
    return [piece.numpy() for piece in torch.split(values.detach().cpu(), sizes)]


def _members(prediction: Prediction, sizes: list[int]) -> list[Members]:
    found = prediction.members
    if found is None:
        return []
    energy = found.energy.cpu().numpy()
    forces = [None] * len(sizes) if found.forces is None else _pieces(found.forces, sizes)
    stress = [None] * len(sizes) if found.stress is None else list(found.stress.cpu().numpy())
    return [Members(e, f, s) for e, f, s in zip(energy, forces, stress, strict=True)]
