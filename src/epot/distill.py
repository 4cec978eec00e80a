"""A fast potential that learns from an accurate one: from what the teacher says of structures that it made itself.

Labels of quantum mechanics are few because they are dear; those of a fitted potential cost next to nothing. A
student that learns both is nearer to its teacher (a committee, a large network, a published foundation model) than it
comes by the few labels alone, at its own cost per step. Hinton, Vinyals, Dean, arXiv:1503.02531 (2015); for
interatomic potentials Matin et al., arXiv:2502.05379 (2025).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from .data.dataset import Dataset
from .data.labels.samplers import nearest_pair
from .data.labels.task import bare
from .data.labels.vibrations import langevin
from .data.readers import read
from .data.structure import Structure
from .elements import names
from .errors import ConfigError, DataError, EpotError, UnknownElementError
from .files import write_atomic
from .fit import checks, config
from .fit.run import MODEL
from .fit.run import fit as run_fit
from .fitted import Fitted
from .potential import Committee, Potential, parts
from .progress import bar
from .simulate.calculator import Calculator
from .simulate.md import fingerprint
from .uncertainty.domain import Domain
from .uncertainty.estimate import estimates

TRAJECTORY = 50
"""Frames of a trajectory, about."""
WARM_UP = 200
"""Steps before its first frame."""
FRICTION = 0.05
"""1/fs, of the thermostat."""
CLOSEST = 0.6
"""A trajectory ends where two atoms come closer than this part of the sum of their covalent radii."""
COMPARED, APART = 50, 0.05
"""Labeled structures whose energies are compared with the teacher's, and by how much they may differ, eV per atom."""
MADE, SETTINGS = "distilled.xyz.gz", "distilled.json"
CITATION = """@article{Matin2025,
  author = {Matin, Sakib and Allen, Alice E. A. and Shinkle, Emily and Pachalieva, Aleksandra and Craven, Galen T. and
    Nebgen, Benjamin and Smith, Justin S. and Messerly, Richard and Li, Ying Wai and Tretiak, Sergei and
    Barros, Kipton and Lubbers, Nicholas},
  title = {Teacher-student training improves accuracy and efficiency of machine learning interatomic potentials},
  journal = {arXiv:2502.05379}, year = {2025}
}"""


def distill(
    teacher: Fitted | str | os.PathLike,
    data: Dataset | Sequence[Structure],
    model: str | os.PathLike | Mapping[str, Any] | Potential,
    *,
    temperatures: Iterable[float] = (300.0,),
    n: int = 2000,
    timestep: float = 1.0,
    every: int = 20,
    labels: bool = True,
    valid: Dataset | Sequence[Structure] | None = None,
    holdout: float = 0.1,
    folder: str | os.PathLike | None = None,
    seed: int = 0,
    device: str = "cpu",
    **options: Any,
) -> Fitted:
    """Fit a student to labeled structures and to what a teacher says of many more.

    The teacher runs Langevin dynamics from structures of ``data``, at each temperature, and labels frames of it
    (members of a committee run trajectories in turn, the labels are its means). The student is fitted to these and to
    the labels that ``data`` have. It is validated and calibrated on held-out structures of ``data`` where these have
    labels, else on held-out trajectories of the teacher: on what the teacher says then, not on the truth.

    Args:
        teacher: a fitted potential or a model file; a committee of several fits is a good one.
        data: structures to start from, with labels or without.
        model: the student, as :func:`epot.fit.run.fit` takes it.
        temperatures: K, of the dynamics: what the student shall be used at.
        n: structures to make, about.
        timestep: fs.
        every: steps between frames.
        labels: False takes nothing from ``data`` but where to start: for labels of another level of theory.
        valid: labeled structures to validate and calibrate on.
        holdout: share of the labeled structures for that, where ``valid`` is None.
        folder: of the run; the same call continues an interrupted one. The structures stay there, too
            (``distilled.xyz.gz``).
        seed: every random choice derives from it.
        device: where both are.
        **options: of :func:`epot.fit.run.fit` (``options``, ``stages``, ``targets``, ``record``).

    Returns:
        The student. Its domain is that of the labeled structures and of those made ones that lie inside the teacher's
        domain: where the teacher guesses, its student does not know better. (Where nothing does, that of ``data``.)

    Raises:
        ConfigError: an impossible value, a wrong setting of the fit; another run in the folder; labels that are not of
            the teacher's level of theory.
        DataError: no structure to start from; no frame could be made.
        UnknownElementError: the teacher does not know an element.
    """
    teacher = teacher if isinstance(teacher, Fitted) else Fitted.load(teacher, device)
    data = data if isinstance(data, Dataset) else Dataset(list(data))
    data = data if labels else Dataset([bare(s) for s in data])
    kelvins = [float(t) for t in temperatures]
    _check(teacher, data, kelvins, n, timestep, every)
    real = Dataset([s for s in data if any(s.has(target) for target in checks.TARGETS)])
    every_one = [data] if valid is None else [data, valid]
    elements = sorted(set(data.elements))
    config.build_stages(  # a wrong setting is refused before the teacher works for minutes
        options.get("stages"), config.build_potential(model, elements, seed, every_one), True, options.get("options")
    )
    _check_labels(teacher, real)
    folder = None if folder is None else Path(folder)
    settings = {
        "teacher": fingerprint(teacher.potential), "data": checks.fingerprint(data), "temperatures": kelvins,
        "n": n, "timestep": timestep, "every": every, "seed": seed,
    }  # fmt: skip
    made = _kept(folder, settings) or _make(teacher, data, kelvins, n, timestep, every, seed, folder, settings)
    train: Dataset = real
    if valid is None and len(real) and holdout > 0:
        train, valid = checks.hold_out(real, holdout, seed)
    learned = Dataset([*train, *made])
    state = run_fit(
        model, learned, valid=valid, holdout=holdout if valid is None else 0.0, folder=folder, seed=seed,
        device=device, **options,
    )  # fmt: skip
    inside = [*real, *(s for s in made if not s.info["outside"])]
    about = state.about
    domain = Domain.from_dataset(inside or data, state.potential.cutoff or 5.0)
    about["domain"] = domain.with_limit(about["domain"].get("forces_std")).to_json()
    about["distilled"] = settings | {
        "made": len(made), "outside": len(made) + len(real) - len(inside), "labeled": len(real),
        "teacher": {k: teacher.about[k] for k in ("training", "combined", "versions") if k in teacher.about},
    }  # fmt: skip
    about["citations"] = [*about.get("citations", []), CITATION]
    student = Fitted(state.potential, about, device=device)
    if folder is not None:
        student.save(folder / MODEL)
    return student


def _check(teacher: Fitted, data: Dataset, temperatures: Sequence[float], n: int, timestep: float, every: int) -> None:
    """Refuse what cannot be before anything starts."""
    if not temperatures or not all(0 < t < math.inf for t in temperatures):
        raise ConfigError(f"temperatures are {list(temperatures)}; expected kelvin, one or more, above 0.")
    for name, value in (("n", n), ("every", every)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; expected 1 or more.")
    if not 0 < timestep < math.inf:
        raise ConfigError(f"timestep is {timestep}; expected femtoseconds, more than 0.")
    if not any(len(s) > 1 for s in data):
        raise DataError("There is no structure to start from: distillation needs one of two atoms or more.")
    unknown = set(data.elements) - set(teacher.elements or data.elements)
    if unknown:
        raise UnknownElementError(
            f"The structures hold {names(sorted(unknown))}; the teacher knows {names(sorted(teacher.elements))}, and "
            "cannot teach what it does not know. Leave these structures out, or take another teacher."
        )


def _check_labels(teacher: Fitted, real: Dataset) -> None:
    """Refuse energies that count from elsewhere than the teacher's: no function fits both."""
    known = [s for s in real if s.energy is not None and len(s) > 1][:COMPARED]
    if not known:
        return
    found = estimates(
        teacher.potential,
        known,
        ("energy",),
        uncertainty=False,
        device=teacher.device,
        label="Labels beside the teacher",
    )
    apart = float(np.mean([(e.energy - s.energy) / len(s) for s, e in zip(known, found, strict=True)]))  # type: ignore[operator]
    if abs(apart) > APART:
        raise ConfigError(
            f"The teacher's energies lie {apart:+.3g} eV per atom from the labels, in the mean of {len(known)} "
            f"structures (at most {APART} is taken for an error): they are of another level of theory, or count from "
            "other atoms. "
            "Give --no-labels (labels=False) to take these structures as starts only, or fit the teacher on to them "
            "first."
        )


def _kept(folder: Path | None, settings: Mapping[str, Any]) -> list[Structure] | None:
    """What an earlier call made in this folder.

    Raises:
        ConfigError: it was made with other settings.
    """
    if folder is None or not (folder / SETTINGS).exists():
        return None
    old = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    difference = config.first_difference(old.get("settings"), dict(settings), "distill")
    if difference:
        raise ConfigError(
            f"{folder} holds a distillation with other settings: {difference}. Use another folder, or remove this one."
        )
    return list(read(folder / MADE))


def _make(
    teacher: Fitted,
    data: Dataset,
    temperatures: Sequence[float],
    n: int,
    timestep: float,
    every: int,
    seed: int,
    folder: Path | None,
    settings: Mapping[str, Any],
) -> list[Structure]:
    """Frames of the teacher's dynamics with the teacher's labels, and whether they lie outside its domain.

    Members of a committee take turns in running trajectories: where they are taken from is no matter of precision, and
    what each says of them is the committee's.
    """
    runners = parts(teacher.potential) if isinstance(teacher.potential, Committee) else [teacher.potential]
    rng = np.random.default_rng(seed)
    parents = [s for s in data if len(s) > 1]
    wanted = min(len(parents), math.ceil(n / (TRAJECTORY * len(temperatures))))
    starts = [(parents[k], t) for k in rng.permutation(len(parents))[:wanted] for t in temperatures]
    frames, short, why = [], 0, ""
    size = math.ceil(n / len(starts))
    with bar("Dynamics of the teacher", (WARM_UP + size * every) * len(starts)) as shown:
        for (parent, kelvin), source, runner in zip(starts, rng.spawn(len(starts)), cycle(runners), strict=False):
            found: list[Structure] = []
            try:
                calculator = Calculator(runner, device=teacher.device)
                for frame in _trajectory(calculator, parent, kelvin, size, timestep, every, source, shown):
                    found.append(frame)
            except EpotError as error:  # it flew apart: what it made before is kept
                why = str(error)
            short += len(found) < size
            frames += found
    if not frames:
        raise DataError(
            f"No trajectory of the teacher reached its first frame at {', '.join(f'{t:g}' for t in temperatures)} K"
            f"{': ' + why if why else ', for atoms came too close'}. Take a lower temperature or a shorter timestep."
        )
    made = _labeled(teacher, frames)
    if folder is not None:
        Dataset(made).write(folder / MADE)
        outside = sum(s.info["outside"] for s in made)
        facts = {"settings": dict(settings), "made": len(made), "ended_early": short, "outside": outside}
        write_atomic(folder / SETTINGS, json.dumps(facts, indent=2).encode())
        return list(read(folder / MADE))  # as a call that goes on will find them, to the last digit
    return made


def _trajectory(
    calculator: Calculator,
    parent: Structure,
    temperature: float,
    n: int,
    timestep: float,
    every: int,
    rng: np.random.Generator,
    shown: Any,
) -> Iterator[Structure]:
    """Frames without labels, until two atoms come too close."""
    group = f"{parent.group or parent.formula}_distilled_{rng.integers(16**6):06x}"
    limit = min(CLOSEST, 0.95 * nearest_pair(parent))

    def forces(structure: Structure) -> dict[str, Any]:
        calculator.calculate(structure.to_ase(), ["forces"])
        return calculator.results

    start = bare(parent)
    moves = langevin(start, forces, temperature, timestep, FRICTION, rng)
    for count, positions in enumerate(islice(moves, WARM_UP + n * every), 1):
        shown.advance()
        if count <= WARM_UP or (count - WARM_UP) % every:
            continue
        frame = start.replace(positions=positions)
        if nearest_pair(frame, limit) < limit:
            return
        yield frame.replace(config_type=f"distilled_{temperature:g}K", group=group, info={})


def _labeled(teacher: Fitted, frames: Sequence[Structure]) -> list[Structure]:
    want = ("energy", "forces", "stress") if any(s.pbc.all() for s in frames) else ("energy", "forces")
    found = estimates(
        teacher.potential, frames, want, calibration=teacher.calibration, domain=teacher.domain,
        uncertainty=teacher.domain is not None and teacher.domain.forces_std is not None,
        device=teacher.device, label="Labels of the teacher",
    )  # fmt: skip
    return [
        s.replace(energy=e.energy, forces=e.forces, stress=e.stress, info={"outside": bool(e.violations)})
        for s, e in zip(frames, found, strict=True)
    ]
