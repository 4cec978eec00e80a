"""Solve for the weights of a linear readout in closed form."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from ...blocks.design import Design
from ...blocks.readout import LinearReadout, prior_precision
from ...data.structure import Structure
from ...errors import ConfigError, FitError, LabelError
from ...geometry.graph import Graph, build
from ...potential import Potential, Sum
from ...predict import Prediction, predict
from ...progress import bar
from ...typing import Tensor
from .. import checkpoint
from ..design import design, learned_readout, learned_term
from ..evidence import PRIOR, combined, most_likely
from ..recipe import FitState, Stage
from ..triangle import Triangle, prior_rows, refuse_too_large

BATCH = 64
"""Atoms whose rows are made together, at least."""
OWN = {"energy": "energy_sigma", "forces": "force_sigma", "virial": "virial_sigma"}
"""Keys of ``Structure.info`` that say a sigma of that structure."""
FREE = {sigma: part for part, sigma in OWN.items()} | {"delta": PRIOR}
"""What ``evidence`` may name, and the part of the rows that it scales."""
PER_ATOM = "force_atom_sigma"
"""Key of ``Structure.arrays`` that says sigmas of the forces of its atoms."""


class Sigmas(NamedTuple):
    """How exactly labels are to be met: eV/atom, eV/Å, eV/atom."""

    energy: float
    forces: float
    virial: float


class Solve(Stage):
    """Linear least squares with a Gaussian prior: the weights of a GAP, of a ridge model or of a network's last layer.

    With rows K of energies, forces and virials, targets y less what the other terms say, and the prior precision
    ``P = L L^T`` (``K_MM`` for a sparse Gaussian process),

        w = argmin |Sigma^-1/2 (K w - y)|^2 + |L^T w|^2

    by a QR decomposition of the stacked rows (Foster et al., J. Mach. Learn. Res. 10, 857 (2009); Bartok and Csanyi,
    Int. J. Quantum Chem. 115, 1051 (2015)): the normal equations would square the condition number. Rows are made and
    folded into the triangular factor block by block, so memory is that of a few factors, however many structures
    there are.

    Args:
        energy_sigma: eV per atom; the sigma of a structure's energy is this times the square root of its atoms.
        force_sigma: eV/Å.
        virial_sigma: eV per atom, for the virial (stress times volume), times the square root of the atoms.
        config_type_sigma: other values for groups of structures:
            ``{"liquid": {"energy": 0.01, "forces": 0.2, "virial": 0.1}}``; what is not given keeps its default.
            A structure whose ``info`` has ``energy_sigma``, ``force_sigma`` or ``virial_sigma`` has those instead, as
            they are (eV, eV/Å, eV, without the root of its atoms); ``arrays["force_atom_sigma"]`` is for each atom.
        jitter: added to the diagonal of the prior precision, relative to its mean: sparse points that are nearly the
            same make it singular in double precision.
        prior: precision of the weights where the readout sets none (a ridge).
        evidence: which of ``energy_sigma``, ``force_sigma``, ``virial_sigma`` (each with all overrides, by one
            factor) and ``delta`` (of all kernels of a GAP, by one factor) are chosen to make the training data most
            likely (:mod:`epot.fit.evidence`); the given values are the start.
        checkpoint_every: seconds between checkpoints, where the fit has a folder: an interrupted one goes on from the
            last, to the same numbers.

    Raises:
        ConfigError: a sigma, the jitter or the prior is not positive, or a key of ``config_type_sigma`` is unknown.
    """

    rank: ClassVar[int] = 2

    def __init__(
        self,
        energy_sigma: float = 0.001,
        force_sigma: float = 0.02,
        virial_sigma: float = 0.02,
        config_type_sigma: Mapping[str, Mapping[str, float]] | None = None,
        jitter: float = 1e-10,
        prior: float = 1.0,
        evidence: Sequence[str] = (),
        checkpoint_every: float = 300.0,
    ) -> None:
        self.energy_sigma, self.force_sigma, self.virial_sigma = energy_sigma, force_sigma, virial_sigma
        self.config_type_sigma = (
            None if config_type_sigma is None else {k: dict(v) for k, v in config_type_sigma.items()}
        )
        self.jitter, self.prior, self.checkpoint_every = jitter, prior, checkpoint_every
        given = {"energy_sigma": energy_sigma, "force_sigma": force_sigma, "virial_sigma": virial_sigma, "prior": prior}
        for kind, values in (self.config_type_sigma or {}).items():
            for key, value in values.items():
                if key not in Sigmas._fields:
                    raise ConfigError(
                        f"Solve.config_type_sigma[{kind!r}] has the key {key!r}; expected energy, forces or virial."
                    )
                given[f"config_type_sigma[{kind!r}][{key!r}]"] = value
        for name, value in given.items():
            if not value > 0:
                raise ConfigError(
                    f"Solve.{name} is {value}; it is the error that is tolerated and must be above 0. "
                    "A label that should not be fitted is left out of the data instead."
                )
        self.evidence = [evidence] if isinstance(evidence, str) else list(evidence)
        if extra := sorted(set(self.evidence) - FREE.keys()):
            raise ConfigError(f"Solve.evidence names {', '.join(extra)}; expected some of {', '.join(FREE)}.")
        if jitter < 0:
            raise ConfigError(f"Solve.jitter is {jitter}; it must not be negative.")

    def check(self, state: FitState) -> None:
        """Whether there is something to solve for and something to solve it with.

        Raises:
            ConfigError: ``evidence`` names ``delta`` and the potential has none.
            FitError: no linear readout, or more weights than memory has room for.
            LabelError: labels that are not finite, or none at all; a sigma of a structure that is not above 0.
        """
        term = learned_term(state.potential)
        if "delta" in self.evidence and not hasattr(term, "rescale"):
            raise ConfigError(f"Solve.evidence names delta, which is of kernels; {type(term).__name__} has none.")
        self._check_memory(term)
        bad = [(s.source or f"structure {k}", p) for k, s in enumerate(state.train) for p in s.problems()]
        if bad:
            raise LabelError(
                f"{len(bad)} labels are not finite (first: {bad[0][0]}: {bad[0][1]}). Drop those structures."
            )
        if not any(s.energy is not None or s.forces is not None or s.stress is not None for s in state.train):
            raise LabelError("No training structure has energy, forces or stress: there is nothing to fit to.")

        for k, s in enumerate(state.train):
            given = {key: s.info[key] for key in OWN.values() if key in s.info}
            given |= {PER_ATOM: s.arrays[PER_ATOM]} if PER_ATOM in s.arrays else {}
            for key, value in given.items():
                if not (np.isfinite(sigma := _numbers(value)) & (sigma > 0)).all():
                    raise LabelError(
                        f"{s.source or f'structure {k}'}: {key} is {value!r}; a sigma is the error that is tolerated, "
                        "a number above 0. Leave the label out of the data instead."
                    )

    @staticmethod
    def _check_memory(term: Any) -> None:
        """The factor, the block that is folded into it with its copy, and the rows of one batch."""
        weights = len(term.readout.weight)
        if hasattr(term, "most_points"):
            weights = max(weights, term.most_points())
        need = 8.0 * weights * (2 * weights + 3 * max(weights // 2, 1024) + 4 * BATCH)
        refuse_too_large(
            need,
            f"The triangular factor of {weights} weights and its blocks",
            "Ask for fewer sparse points (model.n_sparse=...).",
        )

    def sigmas(self, structure: Structure) -> Sigmas:
        """The tolerated errors of one structure, without the square root of its atoms."""
        own = (self.config_type_sigma or {}).get(structure.config_type or "", {})
        return Sigmas(self.energy_sigma, self.force_sigma, self.virial_sigma)._replace(**own)

    def _absolute(self, structure: Structure) -> dict[str, Any]:
        """Sigmas of the labels of one structure: energy, forces (a number, or one for each component), virial."""
        root = np.sqrt(max(len(structure), 1))
        usual = self.sigmas(structure)
        found: dict[str, Any] = {"energy": usual.energy * root, "forces": usual.forces, "virial": usual.virial * root}
        found |= {n: float(_numbers(structure.info[key])) for n, key in OWN.items() if key in structure.info}
        if PER_ATOM in structure.arrays:
            found["forces"] = np.repeat(_numbers(structure.arrays[PER_ATOM]).reshape(-1), 3)
        return found

    def run(self, state: FitState) -> None:
        """Set the readout's weights, and ``state.factor`` for a posterior."""
        start = time.monotonic()
        readout = learned_readout(state.potential)
        kept = (readout.weight.detach().clone(), None if readout.bias is None else readout.bias.detach().clone())
        members, readout.member_weights = readout.member_weights, readout.member_weights[:, :0]
        try:
            with torch.no_grad():
                readout.weight.zero_()
                if readout.bias is not None:
                    readout.bias.zero_()
            precision, bias = prior_precision(state.potential), readout.bias is not None
            prior = prior_rows(precision, len(readout.weight), bias=bias, jitter=self.jitter, ridge=self.prior)
            names = ("energy", "forces", "virial") if self.evidence else ("all",)
            systems = {n: Triangle(torch.zeros_like(prior) if self.evidence else prior) for n in names}
            self._fill(state, systems)
            system, factors = systems.get("all"), {}
            if system is None:
                factors = most_likely(systems, prior, [FREE[name] for name in self.evidence])
                system, prior = combined(systems, prior, factors)
            solution = system.solve()
            if not bool(torch.isfinite(solution).all()):
                raise FitError(
                    "The linear system is singular: raise Solve.jitter (now "
                    f"{self.jitter}; 1e-8 is common), or choose fewer sparse points."
                )
            set_weights(readout, solution)
        except BaseException:
            restore(readout, kept, members)
            raise
        width = 0 if readout.bias is None else 1
        state.factor = system.factor()[width:, width:].clone()
        if (scale := factors.get(PRIOR)) is not None:
            state.factor *= learned_term(state.potential).rescale(scale)  # type: ignore[operator]
        self._report(state, system, system.log_likelihood(prior), factors, time.monotonic() - start)

    def _fill(self, state: FitState, systems: dict[str, Triangle]) -> None:
        """Add the rows of all structures, each to its system, from where the last checkpoint ends."""
        path, done, saved = state.checkpoint, 0, time.monotonic()
        found = None if path is None else checkpoint.load(path)
        if found is not None:
            for name, system in systems.items():
                system.restore(checkpoint.under(name, found[0]), found[1].get(name, {}))
            done = found[1]["structures"]
        fixed = fixed_part(state.potential)
        with bar("solving for the weights", len(state.train)) as shown:
            shown.advance(done)
            for structures in batches(state.train[k] for k in range(done, len(state.train))):
                for name, rows in self._rows(state, fixed, structures).items():
                    (systems.get(name) or systems["all"]).add(*rows)
                done += len(structures)
                shown.advance(len(structures))
                if path is not None and time.monotonic() - saved >= self.checkpoint_every:
                    states = {name: system.state() for name, system in systems.items()}
                    tensors = {k: v for n, s in states.items() for k, v in checkpoint.prefixed(n, s[0]).items()}
                    checkpoint.save(path, tensors, {n: s[1] for n, s in states.items()} | {"structures": done})
                    saved = time.monotonic()

    def _rows(self, state: FitState, fixed: Potential, structures: list[Structure]) -> dict[str, tuple]:
        """Weighted rows and targets of a few structures by label, and the sums of the logarithms of the weights."""
        potential = state.potential
        graph = build(structures, potential.cutoff, elements=potential.elements, device=state.device)
        forces = any(s.forces is not None for s in structures)
        virial = any(s.stress is not None for s in structures)
        want = ["energy"] + ["forces"] * forces + ["virial"] * virial
        base = predict(fixed, graph.within(fixed.cutoff), want)
        made = design(potential, graph, forces=forces, virial=virial)
        readout = learned_readout(potential)
        made = with_bias(made, graph, readout)
        picks, targets, weights = self._labels(structures, base)
        parts = {"energy": made.energy, "forces": made.forces, "virial": made.virial}
        found = {}
        for name, rows in parts.items():
            if rows is None or not len(picks[name]):
                continue
            rows = rows.reshape(-1, rows.shape[-1])[torch.from_numpy(picks[name])]
            weight = torch.from_numpy(weights[name])[:, None]
            target = torch.from_numpy(targets[name]) * weight[:, 0]
            found[name] = (rows.cpu().mul_(weight), target, float(weight.log().sum()))
        return found

    def _labels(self, structures: list[Structure], fixed: Prediction) -> tuple[dict[str, np.ndarray], ...]:
        """Which rows have labels, what they are less the fixed part, and one over their sigmas."""
        picks: dict[str, list] = {"energy": [], "forces": [], "virial": []}
        targets: dict[str, list] = {"energy": [], "forces": [], "virial": []}
        weights: dict[str, list] = {"energy": [], "forces": [], "virial": []}

        def put(name: str, first: int, rows: Any, values: np.ndarray, sigma: dict[str, Any]) -> None:
            rows = np.asarray(rows)
            picks[name].append(first + rows)
            targets[name].append(values)
            weights[name].append(np.broadcast_to(1 / sigma[name], len(rows)))

        atom = 0
        for k, s in enumerate(structures):
            sigma, n = self._absolute(s), len(s)
            if s.energy is not None:
                put("energy", k, [0], np.array([s.energy - float(fixed.energy[k])]), sigma)
            if s.forces is not None and fixed.forces is not None:
                left = s.forces - fixed.forces[atom : atom + n].cpu().numpy()
                put("forces", 3 * atom, np.arange(3 * n), left.ravel(), sigma)
            if s.stress is not None and fixed.virial is not None:
                left = -s.stress * s.volume - fixed.virial[k].cpu().numpy()
                upper = np.array([0, 1, 2, 4, 5, 8])
                put("virial", 9 * k, upper, ((left + left.T) / 2).ravel()[upper], sigma)
            atom += n
        join = lambda d: {n: np.concatenate(v) if v else np.zeros(0) for n, v in d.items()}  # noqa: E731
        return {n: v.astype(np.int64) for n, v in join(picks).items()}, join(targets), join(weights)

    def _report(
        self, state: FitState, system: Triangle, log_likelihood: float, factors: dict[str, float], seconds: float
    ) -> None:
        facts: dict[str, Any] = {
            "weights": system.size,
            "rows": system.rows,
            "condition": system.condition(),
            "weighted_rms": system.residual(),
            "log_likelihood": log_likelihood,
            "energy_sigma": self.energy_sigma,
            "force_sigma": self.force_sigma,
            "virial_sigma": self.virial_sigma,
            "seconds": round(seconds, 2),
        }
        if factors:
            facts["evidence_factors"] = factors
            facts |= {name: facts[name] * factors.get(FREE[name], 1.0) for name in OWN.values()}
        state.about.setdefault("fit", {})["solve"] = facts
        state.journal.write("solve", **facts)


def fixed_part(potential: Potential) -> Potential:
    """What is not solved for: the other terms of a sum; else the potential itself, whose weights are zero now."""
    if isinstance(potential, Sum):
        learned, terms = learned_term(potential), dict(potential.terms.items())
        if learned in terms.values() and len(terms) > 1:
            return Sum(**{name: term for name, term in terms.items() if term is not learned})  # type: ignore[arg-type]
    return potential


def with_bias(made: Design, graph: Graph, readout: LinearReadout) -> Design:
    """Rows of what the readout makes of the features: its scale, and a column for its bias in front."""
    scale = float(readout.scale)
    energy = made.energy.double()
    parts = [None if rows is None else rows.double() for rows in (made.forces, made.virial)]
    if readout.bias is not None:
        energy = torch.cat([graph.sizes[:, None].to(energy), energy], 1)
        parts = [None if rows is None else torch.nn.functional.pad(rows, (1, 0)) for rows in parts]
    return Design(energy * scale, *(None if rows is None else rows * scale for rows in parts))


def set_weights(readout: LinearReadout, solution: Tensor) -> None:
    """Put a solution into the readout: the bias is its first component, where there is one."""
    with torch.no_grad():
        if readout.bias is not None:
            readout.bias.copy_(solution[0])
            solution = solution[1:]
        readout.weight.copy_(solution)


def restore(readout: LinearReadout, kept: tuple[Tensor, Tensor | None], members: Tensor) -> None:
    """Undo: what a failed solve must leave behind."""
    with torch.no_grad():
        readout.weight.copy_(kept[0])
        if readout.bias is not None and kept[1] is not None:
            readout.bias.copy_(kept[1])
    readout.member_weights = members


def _numbers(value: Any) -> np.ndarray:
    """As an array of numbers; not numbers at all become NaN."""
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return np.array(np.nan)


def batches(structures: Iterable[Structure]) -> Iterator[list[Structure]]:
    """Structures in their order, a few at a time: at least :data:`BATCH` atoms."""
    held: list[Structure] = []
    for structure in structures:
        held.append(structure)
        if sum(len(s) for s in held) >= BATCH:
            yield held
            held = []
    if held:
        yield held
