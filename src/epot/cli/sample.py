"""``epot sample``."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ._arguments import AsJson

HOW = ("rattle", "strain", "volumes", "normal_modes", "md")


def sample(
    source: Annotated[str, typer.Argument(metavar="IN", help="Parents: a file or a glob.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Extended XYZ to write: .xyz or .xyz.gz.")],
    how: Annotated[str, typer.Option(help="rattle, strain, volumes, normal_modes or md.")] = "rattle",
    n: Annotated[int, typer.Option("--n", help="Structures of each parent (of md: of each temperature).")] = 100,
    engine: Annotated[str | None, typer.Option(help="For normal_modes and md: as in `epot label`.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="A setting of the engine: key=value; again for more.")
    ] = None,
    temperature: Annotated[list[float] | None, typer.Option(help="K; again for more.")] = None,
    stdev: Annotated[float, typer.Option(help="Å, of each coordinate: rattle, strain.")] = 0.05,
    maximum: Annotated[float, typer.Option(help="Largest strain: strain.")] = 0.05,
    lowest: Annotated[float, typer.Option(help="Least volume over the parent's: volumes.")] = 0.85,
    highest: Annotated[float, typer.Option(help="Greatest volume over the parent's: volumes.")] = 1.15,
    zero_point: Annotated[bool, typer.Option("--zero-point", help="Quantum amplitudes: normal_modes.")] = False,
    timestep: Annotated[float, typer.Option(help="fs: md.")] = 1.0,
    every: Annotated[int, typer.Option(help="Steps between frames: md.")] = 20,
    workers: Annotated[int, typer.Option(help="Processes for the Hessian: normal_modes.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make structures to label from some that you have.

    Example: `epot sample in.xyz out.xyz --how normal_modes --temperature 300 --n 100 --engine gfn2`

    Example: `epot sample crystal.xyz strained.xyz --how strain --maximum 0.04 --stdev 0.08`
    """
    import numpy as np

    from ..data.labels import engines, samplers, vibrations, write
    from ..data.readers import read
    from ..registry import nearest
    from ._options import parse

    if how not in HOW:
        raise ConfigError(f"{how!r} is not a sampler; {nearest(how, HOW)}")
    kelvins = temperature or [300.0]
    rng = np.random.default_rng(seed)
    frames = []
    if how in ("normal_modes", "md") and engine is None:
        raise ConfigError(f"The sampler {how} needs an engine: add --engine gfn2 (or another).")
    made = engines.make(engine, parse(None, option)) if engine else None
    for parent in read(source):
        if how == "rattle":
            frames += samplers.rattle(parent, n, stdev=stdev, seed=rng)
        elif how == "strain":
            frames += samplers.strain(parent, n, maximum=maximum, stdev=stdev, seed=rng)
        elif how == "volumes":
            frames += samplers.volumes(parent, n, lowest=lowest, highest=highest)
        elif made is not None and how == "md":
            frames += vibrations.md(parent, made, n, temperature=kelvins, timestep=timestep, every=every, seed=rng)
        elif made is not None:
            known = vibrations.modes(vibrations.relax(parent, made), made, workers=workers)
            for kelvin in kelvins:
                frames += vibrations.normal_modes(
                    parent, made, n, temperature=kelvin, zero_point=zero_point, seed=rng, known=known
                )
    write(frames, out)
    counts = Counter(frame.config_type for frame in frames)
    if as_json:
        print(json.dumps({"out": str(out), "structures": len(frames), "config_types": counts}))
    else:
        print(f"{len(frames)} structures ({', '.join(f'{k}: {v}' for k, v in counts.items())}): {out}")
