"""Label structures with an engine: a campaign that survives being killed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, EngineError
from ...progress import Bar, bar
from ...registry import nearest
from ..dataset import Dataset
from ..structure import LABELS, Structure
from . import pool
from .campaign import Campaign, key_of
from .engines import Engine, make, settings
from .task import bare

SUFFIXES = (".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz")


def label(
    structures: Iterable[Structure],
    engine: str | Engine,
    *,
    options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int = 1,
    properties: Sequence[str] | None = None,
    timeout: float | None = None,
    threads: int = 1,
    retry_failed: bool = False,
    limit: int | None = None,
) -> Dataset:
    """Label structures with a quantum-mechanical engine.

    Every label is committed to ``OUT.campaign`` as it comes: a kill loses those in flight, the same call goes on from
    there. A failed calculation is recorded with its reason and does not stop the others.

    Args:
        structures: what to label; labels that they already carry are dropped.
        engine: a name (see :func:`epot.data.labels.make`) or an engine.
        options: the engine's settings.
        out: extended XYZ file (``.xyz``, ``.xyz.gz``) to write when all is done; None to only return the labels.
        workers: processes; 0 labels in this one, where a crash or hang of the engine is not caught.
        properties: which labels (``energy``, ``forces``, ``stress``, ``charges``, ``dipole``); None for all that the
            engine has. Where a structure cannot have one (stress of a molecule) it is left out.
        timeout: seconds after which a calculation is given up; needs ``workers`` of at least 1.
        threads: of each worker's linear algebra.
        retry_failed: try again what failed before.
        limit: label at most this many now; what has labels then is written.

    Returns:
        The labelled structures in the order given, without those that failed; ``provenance`` holds the level of
        theory, the settings and, under ``failed``, the index and reason of each failure.

    Raises:
        ConfigError: an unknown engine, option or property, or ``out`` holds labels of other settings.
        EngineError: the engine's program is missing, or not one structure could be labelled.
    """
    made = make(engine, options)
    wanted = _wanted(made, properties)
    if timeout is not None and workers == 0:
        raise ConfigError("A timeout needs a process to kill: give workers=1 or more.")
    path = None if out is None else _out(out)
    frames = [bare(s) for s in structures]
    facts = settings(made) | {"properties": list(wanted)}
    store = None if path is None else path.with_name(path.name + ".campaign")
    with Campaign(store, facts) as campaign:
        keys = [key_of(frame, campaign.settings) for frame in frames]
        done, failed = campaign.state()
        skip = done if retry_failed else done | failed.keys()
        todo = {key: frame for key, frame in zip(keys, frames, strict=True) if key not in skip}
        tasks = list(todo.items())[:limit]
        if tasks:
            _work(campaign, tasks, made, wanted, workers=workers, timeout=timeout, threads=threads)
        data = _gather(campaign, frames, keys, made, facts)
    if frames and not len(data) and not (limit is not None and len(tasks) < len(todo)):
        reason = data.provenance["failed"][0]["reason"]
        raise EngineError(f"{made.name} labelled none of the {len(frames)} structures; the first: {reason}")
    if path is not None:
        write(data, path)
    return data


def _wanted(engine: Engine, properties: Sequence[str] | None) -> tuple[str, ...]:
    if properties is None:
        return engine.provides
    for name in properties:
        if name not in LABELS:
            raise ConfigError(f"{name!r} is not a label; {nearest(name, LABELS)}")
        if name not in engine.provides:
            raise ConfigError(
                f"Engine {engine.name!r} with these settings gives {', '.join(engine.provides)}, not {name}."
            )
    return tuple(name for name in LABELS if name in {*properties, "energy"})


def _out(out: str | os.PathLike[str]) -> Path:
    path = Path(out)
    if not path.name.endswith(SUFFIXES):
        raise ConfigError(f"{path.name} is not an extended XYZ file: let its name end with {', '.join(SUFFIXES)}.")
    if path.parent and not path.parent.is_dir():
        raise ConfigError(f"There is no folder {path.parent}: make it first.")
    return path


def _work(
    campaign: Campaign,
    tasks: list[tuple[str, Structure]],
    engine: Engine,
    wanted: tuple[str, ...],
    *,
    workers: int,
    timeout: float | None,
    threads: int,
) -> None:
    version = engine.version()
    failures = 0
    with bar(f"labelling with {engine.name}", len(tasks)) as shown:
        answers = pool.run(tasks, engine, wanted, workers=workers, timeout=timeout, threads=threads)
        try:
            for key, answer in answers:
                campaign.put(key, answer, version)
                failures += "reason" in answer
                _step(shown, failures)
        finally:
            answers.close()  # type: ignore[attr-defined]


def _step(shown: Bar, failures: int) -> None:
    shown.advance()
    if failures:
        shown.note(f"{failures} failed")


def _gather(
    campaign: Campaign, frames: list[Structure], keys: list[str], engine: Engine, facts: dict[str, Any]
) -> Dataset:
    done, failed = campaign.state()
    labelled, versions = [], set()
    for frame, key in zip(frames, keys, strict=True):
        if key in done:
            labels, version = campaign.get(key)
            versions.add(version)
            level = f"{engine.level} ({version})"
            info = dict(frame.info) | {"level_of_theory": level}
            labelled.append(frame.replace(**labels, info=info))
    failures = [
        {"index": i, "source": f.source, "formula": f.formula, "reason": failed[k]}
        for i, (f, k) in enumerate(zip(frames, keys, strict=True))
        if k in failed
    ]
    provenance = {
        "level_of_theory": engine.level,
        "engine": json.loads(json.dumps(facts)),
        "versions": sorted(versions),
        "labelled": len(labelled),
        "of": len(frames),
        "failed": failures,
        "seconds": round(campaign.seconds(), 3),
    }
    return Dataset(labelled, provenance)


def write(structures: Iterable[Structure], path: str | os.PathLike[str]) -> Path:
    """Write extended XYZ (gzipped if the name ends with ``.gz``), at once or not at all: a kill leaves the old file.

    Units and conventions are epot's and ASE's: eV, eV/Å, eV/Å^3 with tension positive, e, e Å.
    """
    import gzip

    from ase.io import extxyz

    path = _out(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(name, "wt", encoding="utf-8") as stream:
            for structure in structures:
                extxyz.write_extxyz(stream, [structure.to_ase()])
        with open(name, "rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
