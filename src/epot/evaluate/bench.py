"""Benchmarks by name: fit on the published split, print the errors beside the published rows.

A family of suites is one file in :mod:`epot.evaluate.suites` with a list ``SUITES``; published numbers lie beside it as
JSON, with where they come from.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.readers import read
from ..errors import ConfigError, DataError
from ..fit.run import fit
from ..modelfile import write_atomic
from ..potential import Potential
from ..registry import nearest
from ..units import energy as energy_unit
from .errors import evaluate

FOLDER = "epot.evaluate.suites"
RESULT = "bench.json"
N_CALIBRATION = 100
"""Test structures on which standard deviations are compared with errors: each member costs as much as the forces."""


@dataclass(frozen=True)
class Suite:
    """One benchmark: data, split, metric and published numbers.

    Attributes:
        name: as users type it, after the data.
        title: one line.
        train: file in the data directory.
        tests: name of a test to its file.
        metric: ``"rmse"`` or ``"mae"``.
        n_valid: training structures that are held out to validate, as published protocols do.
        n_train: structures to fit to, if the user does not say how many; None for all the others.
        energy: ``"energy"`` (of whole structures, meV) or ``"energy_per_atom"``.
        isolated: file of single atoms, which ``isolated=True`` of :func:`run` adds to the training set.
        rows: gives the published rows: name to ``{"values": {test: {target: number}}, "source": text}``.
        notes: what makes the comparison unlike the published one.
        properties: takes the potential and all training structures and gives more to print: ``{"text": str, ...}``.
        cut: training and test structures are of one file, the first so many of ``numpy.random.default_rng(0)``'s
            permutation of it to train (and of those the first ``n_train``), the rest to test; None for files of their
            own.
        baseline: key of an energy (eV, in ``Structure.info``) that is subtracted: what is learned is the difference.
        unit: of the energies that are shown: ``"meV"`` or ``"kcal/mol"``.
    """

    name: str
    title: str
    train: str
    tests: Mapping[str, str]
    metric: str
    n_valid: int
    n_train: int | None = None
    energy: str = "energy"
    isolated: str | None = None
    rows: Callable[[], Mapping[str, Any]] = field(default=dict)
    notes: tuple[str, ...] = ()
    properties: Callable[[Potential, Dataset], Mapping[str, Any]] | None = None
    cut: int | None = None
    baseline: str | None = None
    unit: str = "meV"


def published(name: str) -> dict[str, Any]:
    """Published numbers, from the package's own JSON."""
    return json.loads(resources.files(FOLDER).joinpath("published", f"{name}.json").read_text(encoding="utf-8"))


def suites() -> dict[str, Suite]:
    """All suites by name."""
    folder = importlib.import_module(FOLDER)
    found: dict[str, Suite] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(folder.__path__)):
        found |= {suite.name: suite for suite in importlib.import_module(f"{FOLDER}.{module}").SUITES}
    return dict(sorted(found.items()))


def get(name: str) -> Suite:
    """The suite of this name.

    Raises:
        ConfigError: there is none; the nearest is named.
    """
    known = suites()
    if name not in known:
        raise ConfigError(f"There is no suite called {name!r}; {nearest(name, known)}")
    return known[name]


def run(
    suite: str | Suite,
    model: str | Mapping[str, Any],
    data: str | os.PathLike,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    stages: Sequence[Any] | None = None,
    n_train: int | None = None,
    isolated: bool = False,
    folder: str | os.PathLike | None = None,
    seed: int = 0,
    device: str = "cpu",
    command: str = "",
) -> dict[str, Any]:
    """Fit on the training split of a suite and compare with the published rows.

    Args:
        suite: its name.
        model: a name or a configuration.
        data: directory with the files of the suite.
        options: settings of stages, ``{"descend": {"epochs": 200}}``.
        stages: other stages than the model's own.
        n_train: structures to fit to, at most; None for as many as the suite says.
        isolated: add the single atoms of the suite to the training set.
        folder: of the run; the same call on it resumes; gets ``bench.json``.
        seed: of the split into fit and validation, and of the fit.
        device: where tensors go.
        command: what the user typed, for the record.

    Returns:
        JSON: ``suite model metrics published beats_published seconds command seed`` and what else is worth keeping.

    Raises:
        ConfigError: an unknown suite, model or setting.
        DataError: a file of the suite is not in the directory.
    """
    suite = get(suite) if isinstance(suite, str) else suite
    n_train = suite.n_train if n_train is None else n_train
    start = time.monotonic()
    train, valid = split(suite, Path(data), n_train, seed, isolated)
    tests = {name: _test(suite, Path(data), file) for name, file in suite.tests.items()}
    common: dict[str, Any] = {"stages": stages, "options": options, "folder": folder, "seed": seed, "device": device}
    state = fit(model, train, valid=valid if len(valid) else None, holdout=0.0, **common)
    fitted = time.monotonic() - start
    found = {
        name: evaluate(state.potential, state.about, test, uncertainty=False, device=device)
        for name, test in tests.items()
    }
    metrics = {name: _metrics(suite, errors) for name, errors in found.items()}
    some = {name: test[:: max(1, len(test) // N_CALIBRATION)] for name, test in tests.items()}
    spread = {name: evaluate(state.potential, state.about, test, device=device) for name, test in some.items()}
    rows = suite.rows()
    result = {
        "suite": suite.name,
        "model": model if isinstance(model, str) else dict(model),
        "metric": suite.metric,
        "units": {
            "energy": f"{suite.unit}/atom" if suite.energy == "energy_per_atom" else suite.unit,
            "forces": "meV/Å",
        },
        "metrics": metrics,
        "published": {name: row["values"] for name, row in rows.items()},
        "beats_published": {name: beats(metrics, row["values"]) for name, row in rows.items()},
        "sources": {name: row["source"] for name, row in rows.items()},
        "calibration": {name: _calibration(errors.calibration) for name, errors in spread.items()},
        "n_train": len(train),
        "n_valid": len(valid),
        "seconds": round(time.monotonic() - start, 1),
        "seconds_fit": round(fitted, 1),
        "command": command,
        "seed": seed,
        "config": state.potential.config(),
        "versions": state.about.get("versions", {}),
        "notes": list(suite.notes),
        "properties": suite.properties(state.potential, _open(Path(data), suite.train)) if suite.properties else {},
    }
    result = json.loads(json.dumps(result))
    if folder is not None:
        write_atomic(Path(folder) / RESULT, json.dumps(result, indent=1, ensure_ascii=False).encode())
    return result


def split(
    suite: Suite, data: Path, n_train: int | None = None, seed: int = 0, isolated: bool = False
) -> tuple[Dataset, Dataset]:
    """Training and validation structures: the validation ones are the first of a random order.

    Raises:
        ConfigError: ``n_train`` is not positive, or single atoms are asked for that the suite does not have.
        DataError: a file is not in the directory.
    """
    whole = _labeled(suite, _open(data, suite.train))
    if n_train is not None and n_train < 1:
        raise ConfigError(f"n_train is {n_train}; at least one structure is needed.")
    if suite.cut is not None:
        first = _permutation(whole)[: suite.cut if n_train is None else min(n_train, suite.cut)]
        return whole[np.sort(first)], whole[:0]
    order = np.random.default_rng(seed).permutation(len(whole))
    n_valid = min(suite.n_valid, len(whole) // 5)
    chosen = order[n_valid:] if n_train is None else order[n_valid : n_valid + n_train]
    train, valid = whole[np.sort(chosen)], whole[np.sort(order[:n_valid])]
    if isolated:
        if suite.isolated is None:
            raise ConfigError(f"The suite {suite.name} has no single atoms.")
        train = Dataset([*train, *_open(data, suite.isolated)], train.provenance)
    return train, valid


def _open(data: Path, name: str) -> Dataset:
    path = data / name
    if not path.is_file():
        raise DataError(
            f"{path} is not there. --data is the directory that holds {name}; `epot bench --list` shows what each "
            "suite needs."
        )
    return read(path)


def _permutation(whole: Dataset) -> np.ndarray:
    return np.random.default_rng(0).permutation(len(whole))


def _test(suite: Suite, data: Path, name: str) -> Dataset:
    whole = _labeled(suite, _open(data, name))
    return whole if suite.cut is None else whole[np.sort(_permutation(whole)[suite.cut :])]


def _labeled(suite: Suite, whole: Dataset) -> Dataset:
    """With the energies that the suite is about.

    Raises:
        DataError: a structure lacks the energy of the baseline.
    """
    if suite.baseline is None:
        return whole
    made = []
    for k, s in enumerate(whole):
        if s.energy is None or suite.baseline not in s.info:
            raise DataError(f"{s.source or f'structure {k}'} has no energy, or no {suite.baseline!r} in its info.")
        made.append(s.replace(energy=s.energy - float(s.info[suite.baseline])))
    return Dataset(made, whole.provenance)


def _metrics(suite: Suite, errors: Any) -> dict[str, float]:
    wanted = {"energy": suite.energy, "forces": "forces"}
    factor = {"energy": 0.001 / energy_unit(suite.unit) if suite.unit != "meV" else 1.0}
    found = {name: errors.all[key][suite.metric] for name, key in wanted.items() if key in errors.all}
    return {name: round(value * factor.get(name, 1.0), 4) for name, value in found.items()}


def _calibration(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    kept = ("calibration_factor", "coverage_1", "coverage_2", "spearman")
    return {target: {k: row[k] for k in kept if k in row} for target, row in found.items()}


def beats(
    metrics: Mapping[str, Mapping[str, float]], row: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, bool]]:
    """Test to target to whether the error is below the published one, where there is one."""
    return {
        test: {k: ours[k] < v for k, v in row[test].items() if v is not None and k in ours}
        for test, ours in metrics.items()
        if test in row
    }


def table(result: Mapping[str, Any]) -> str:
    """The result beside the published rows, energy / forces, as text."""
    tests = list(result["metrics"])
    name = result["model"] if isinstance(result["model"], str) else result["model"].get("name", "model")
    rows = {f"epot {name}": result["metrics"]} | dict(result["published"])
    units = result["units"]
    digits = 2 if "kcal" in units["energy"] else 1
    lines = [
        f"{result['suite']}: {result['metric'].upper()}, energy {units['energy']} / forces {units['forces']}; "
        f"{result['n_train']} structures to fit, {result['n_valid']} to validate, seed {result['seed']}, "
        f"{result['seconds']:.0f} s",
        f"{'':28s}" + "".join(f"{t:>18s}" for t in tests),
    ]
    for label, values in rows.items():
        lines.append(f"{label[:27]:28s}" + "".join(f"{_cell(values.get(t, {}), digits):>18s}" for t in tests))
    below = {n: sum(v for t in b.values() for v in t.values()) for n, b in result["beats_published"].items()}
    of = {n: sum(len(t) for t in b.values()) for n, b in result["beats_published"].items()}
    better = [n for n in below if of[n] and below[n] == of[n]]
    lines.append(f"Below in every number: {', '.join(better) or 'none'}.")
    doubtful = [n for n, source in result["sources"].items() if "from memory" in source]
    if doubtful:
        lines.append(f"From memory, check before quoting: {', '.join(doubtful)}.")
    return "\n".join([*lines, *result["notes"], *filter(None, [result["properties"].get("text")])])


def _cell(values: Mapping[str, float | None], digits: int = 1) -> str:
    shown = [("-" if values.get(k) is None else f"{values[k]:.{digits}f}") for k in ("energy", "forces")]
    return " / ".join(shown)
