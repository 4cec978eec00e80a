"""A whole fit: check everything, run the stages, keep what is needed to go on after an interruption."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .. import __version__, modelfile
from ..data.dataset import Dataset
from ..data.structure import Structure
from ..elements import SYMBOLS
from ..errors import ConfigError, FitError
from ..files import write_atomic
from ..memory import keep_freed
from ..potential import Potential
from ..uncertainty.domain import Domain
from . import checkpoint, checks, config, metrics
from .batches import Samples, in_order
from .journal import Journal
from .recipe import FitState, Stage

MODEL = "model.epot"
LISTED = 10_000
"""Held-out structures whose numbers ``config.yaml`` lists, at most."""
FACTOR = "#factor"
"""Name of ``state.factor`` among the tensors of a checkpoint; no parameter can have it."""
EVALUATED = 1000
"""Training structures on which the final errors are taken, at most."""


def fit(
    potential: Potential | str | os.PathLike | Mapping[str, Any],
    train: Dataset | Sequence[Structure],
    *,
    valid: Dataset | Sequence[Structure] | None = None,
    stages: Iterable[Stage | str | Mapping[str, Any]] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    folder: str | os.PathLike | None = None,
    seed: int = 0,
    device: str = "cpu",
    targets: Sequence[str] | None = None,
    holdout: float = 0.1,
    record: Mapping[str, Any] | None = None,
) -> FitState:
    """Fit a potential to labeled structures.

    Everything that can be checked is checked before the first stage starts. With a folder, the run leaves
    ``config.yaml``, ``journal.jsonl``, ``checkpoints/`` and ``model.epot`` there, and the same call on the same
    folder continues where an interrupted one stopped, with the same numbers.

    Args:
        potential: one built by hand (changed in place), the name of a model, or a configuration; or a model file
            (``.epot``) to start from, whose energies per element are corrected and whose weights are then trained on;
            see :func:`epot.fit.config.build_potential`.
        train: labeled structures. Partial labels are fine.
        valid: labeled structures to choose and calibrate by; None to hold some of ``train`` out.
        stages: see :func:`epot.fit.config.build_stages`; None for the model's own recipe.
        options: settings by stage, ``{"descend": {"epochs": 200}}``.
        folder: of the run; None keeps nothing on disk.
        seed: every random choice derives from it; no global state is read or changed.
        device: where tensors go.
        targets: of ``energy forces stress``; every structure must have them, and nothing else is fitted. None for
            all that there is.
        holdout: share of ``train`` to validate on where ``valid`` is None; whole groups. 0 for none.
        record: what else ``config.yaml`` shall hold (paths of the data).

    Returns:
        The state after the last stage: ``potential``, ``about``, ``journal``.

    Raises:
        ConfigError: an unknown name, key or stage, an impossible value, a wrong order of stages.
        DataError: no structures; labels missing or not finite (LabelError); an unknown element.
        FitError: the folder holds another fit, or a stage cannot go on.
    """
    train, given = _dataset(train), None if valid is None else _dataset(valid)
    checks.check_targets(targets)
    if not 0 <= holdout < 1:
        raise ConfigError(f"holdout is {holdout!r}; it is a share, at least 0 and below 1.")
    notes = checks.check_data(train, "training", targets)
    if given is not None:
        notes += checks.check_data(given, "validation", targets)
    elements = sorted(set(train.elements))
    every = [train] if given is None else [train, given]
    built = config.build_potential(potential, elements, seed, every).to(device)
    checks.check_elements(train, given, built.elements)
    full = train
    if given is None and holdout > 0:
        train, given = checks.hold_out(train, holdout, seed)
    if targets is not None:
        train, given = _only(train, targets), None if given is None else _only(given, targets)
    has_valid = given is not None and len(given) > 0
    plan = config.build_stages(stages, built, has_valid, options, tune=config.is_file(potential))
    folder = None if folder is None else Path(folder)
    state = FitState(built, train, given, seed, device, folder)
    settings = _settings(state, plan, full, valid is None, targets, holdout, record)
    for position, stage in enumerate(plan):
        state.stage = position
        stage.check(state)
    _claim(folder, settings)
    keep_freed()
    state.journal = Journal(folder)
    _run(state, plan, notes)
    return _finish(state, plan, settings)


def _dataset(data: Dataset | Sequence[Structure]) -> Dataset:
    if isinstance(data, Dataset):
        return data
    structures = [data] if isinstance(data, Structure) else list(data)
    wrong = next((s for s in structures if not isinstance(s, Structure)), None)
    if wrong is not None:
        kind = type(wrong).__name__
        raise ConfigError(f"A fit takes labeled Structures; it was given {kind}. Read it with epot.read().")
    return Dataset(structures)


class _Masked(Sequence[Structure]):
    """Structures without the labels that are not fitted."""

    def __init__(self, data: Dataset, drop: dict[str, None]) -> None:
        self.data, self.drop = data, drop

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        return self.data[int(index)].replace(**self.drop)


def _only(data: Dataset, targets: Sequence[str]) -> Dataset:
    drop = {t: None for t in checks.TARGETS if t not in targets}
    return Dataset(_Masked(data, drop), data.provenance) if drop else data


def _settings(
    state: FitState,
    plan: list[Stage],
    full: Dataset,
    held_out: bool,
    targets: Sequence[str] | None,
    holdout: float,
    record: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Everything that this fit depends on, as ``config.yaml`` will hold it."""
    data = {"train": checks.summary(full)}
    if state.valid is not None:
        which = {"held_out": state.valid.indices.tolist()[:LISTED]}
        data["valid"] = {"n": len(state.valid)} | which if held_out else checks.summary(state.valid)
    made = {
        "model": state.potential.config(),
        "stages": [stage.config() for stage in plan],
        "seed": state.seed,
        "device": state.device,
        "targets": None if targets is None else list(targets),
        "holdout": holdout,
        **(record or {}),
        "data": data,
        "versions": versions(),
    }
    return json.loads(json.dumps(made, default=str))


def versions() -> dict[str, str]:
    """Of epot and what its numbers depend on."""
    others = {k: version(k) for k in ("torch", "numpy", "vesin")}
    return {"epot": __version__, "python": platform.python_version()} | others


def _claim(folder: Path | None, settings: dict[str, Any]) -> None:
    """Write ``config.yaml``, or compare with the one that is there.

    Raises:
        FitError: the folder holds a fit with other settings or other data.
    """
    if folder is None:
        return
    path = folder / "config.yaml"
    if path.exists():
        old = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key in ("model", "stages", "seed", "targets", "holdout"):
            _same(folder, config.first_difference(old.get(key), settings[key], key))
        for part in sorted({*old.get("data", {}), *settings["data"]}):
            before, now = ((d.get(part) or {}).get("sha256") for d in (old.get("data", {}), settings["data"]))
            _same(folder, config.first_difference(before, now, f"data.{part}.sha256"))
        return
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120)
    write_atomic(path, text.encode())


def _same(folder: Path, difference: str | None) -> None:
    if difference:
        raise FitError(
            f"{folder} holds a fit with other settings: {difference}. Use another folder, or remove this one."
        )


def _run(state: FitState, plan: list[Stage], notes: list[str]) -> None:
    """The stages that are not done yet."""
    done = _restore(state, len(plan))
    if done == 0 and (state.folder is None or not (state.folder / "checkpoints" / "stage0.safetensors").exists()):
        state.journal.truncate(0)  # what a run wrote that was killed before its first checkpoint
        sizes = {"train": len(state.train), "valid": 0 if state.valid is None else len(state.valid)}
        names = [type(stage).__name__ for stage in plan]
        state.journal.write("fit", model=state.potential.config(), stages=names, **sizes)
        for note in notes:
            state.note(note)
    for position in range(done, len(plan)):
        state.stage = position
        plan[position].run(state)
        if state.folder is not None:
            facts = {"about": state.about, "journal": len(state.journal.lines)}
            extra = {} if state.factor is None else {FACTOR: state.factor}
            checkpoint.save(_after(state.folder, position), state.potential.state_dict() | extra, facts)
            _remove(state.checkpoint)


def _after(folder: Path, position: int) -> Path:
    return folder / "checkpoints" / f"after{position}.safetensors"


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def _restore(state: FitState, n_stages: int) -> int:
    """Put back what the last finished stage left; returns how many are done."""
    if state.folder is None:
        return 0
    for position in reversed(range(n_stages)):
        found = checkpoint.load(_after(state.folder, position))
        if found is not None:
            tensors, facts = found
            state.factor = tensors.pop(FACTOR, None)
            checkpoint.restore(state.potential, tensors)
            state.potential.to(state.device)
            state.about = facts["about"]
            if not (state.folder / "checkpoints" / f"stage{position + 1}.safetensors").exists():
                state.journal.truncate(facts["journal"])
            return position + 1
    return 0


def _finish(state: FitState, plan: list[Stage], settings: dict[str, Any]) -> FitState:
    """Errors, what travels with the model, and the model file."""
    state.potential.eval()
    errors = {"train": _errors(state, state.train, state.seed)}
    if state.valid is not None and len(state.valid):
        errors["valid"] = _errors(state, state.valid, state.seed)
    known = state.potential.elements or tuple(sorted(set(state.train.elements)))
    about = state.about
    about["elements"] = [SYMBOLS[z] for z in known]
    about["training"] = settings["data"]["train"] | {"n": len(state.train)}
    domain = Domain.from_dataset(state.train, state.potential.cutoff or 5.0).to_json()
    about["domain"] = domain | (about.get("domain") or {})
    about["fit"] = about.get("fit", {}) | {"stages": settings["stages"], "seed": state.seed, "errors": errors}
    about["versions"] = settings["versions"]
    about["citations"] = citations(state.potential)
    if not state.journal.lines or state.journal.lines[-1]["event"] != "done":
        state.journal.write("done", errors=errors)
    if state.folder is not None:
        modelfile.save(state.folder / MODEL, state.potential, about)
    return state


def _errors(state: FitState, data: Dataset, seed: int) -> dict[str, int | float]:
    if len(data) > EVALUATED:
        data = data[np.sort(np.random.default_rng(seed).permutation(len(data))[:EVALUATED])]
    potential = state.potential
    samples = Samples(data, potential.cutoff, elements=potential.elements, memory=0, label="Final errors")
    return {"n": len(data)} | metrics.evaluate(potential, in_order(samples, 1024), state.device)


def citations(potential: Potential) -> list[str]:
    """BibTeX of the methods in a potential, each once."""
    texts = [getattr(type(m), "CITATION", "").strip() for m in potential.modules()]
    return list(dict.fromkeys(re.sub(r"[ \t]+\n", "\n", t) for t in texts if t))
