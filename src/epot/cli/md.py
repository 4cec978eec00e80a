"""``epot md``."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ._arguments import AsJson, Device, Model


def md(
    model: Model,
    start: Annotated[str, typer.Argument(help="Where to start: any format that epot reads.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command on it goes on where it stopped.")],
    ensemble: Annotated[str, typer.Option(help="nve, nvt (Langevin), nvt-bussi, npt or npt-shape.")] = "nvt",
    temperature: Annotated[float, typer.Option(help="K.")] = 300.0,
    pressure: Annotated[str, typer.Option(help="With its unit: 1bar, 0.5GPa.")] = "0",
    time: Annotated[str | None, typer.Option(help="How long: 500fs, 10ps, 1ns.")] = None,
    steps: Annotated[int | None, typer.Option(help="Or how many steps.")] = None,
    timestep: Annotated[float, typer.Option(help="fs.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of momenta and thermostat.")] = 0,
    frame_every: Annotated[int, typer.Option(help="Steps between frames of the trajectory.")] = 100,
    log_every: Annotated[int, typer.Option(help="Steps between rows of thermo.csv.")] = 10,
    guard: Annotated[str, typer.Option(help="Outside the training data: warn, stop or off.")] = "warn",
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Log the energy's standard deviation.")] = False,
    option: Annotated[list[str] | None, typer.Option(help="Of the integrator: friction=0.002 (1/fs).")] = None,
    index: Annotated[str, typer.Option(help="Which frame of the start file.")] = "-1",
    restart: Annotated[bool, typer.Option("--restart", help="Forget an earlier run in the folder.")] = False,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Molecular dynamics, guarded against leaving the data that the model was fitted to.

    Writes `thermo.csv`, `trajectory.xyz`, `outside.xyz` (frames to label) and `summary.json`. Options of the
    integrators: `friction` (1/fs; nvt), `relaxation` (fs; nvt-bussi, npt), `pressure_relaxation` (fs) and
    `compressibility` (Å^3/eV; npt).

    Example: `epot md model.epot start.xyz --ensemble nvt --temperature 300 --time 10ps --out runs/md`
    """
    from .. import modelfile
    from ..data.readers import read
    from ..simulate.md import run_md
    from ..uncertainty.domain import UNKNOWN
    from . import _quantities
    from ._options import parse

    potential, about = modelfile.load(model, device)
    if guard != "off" and not about.get("domain") and not as_json:
        print(f"Does the run stay inside? Note: {UNKNOWN}; the guard sees only what is broken.", file=sys.stderr)
    run = run_md(
        read(start, index=int(index))[0],
        potential,
        about=about,
        ensemble=ensemble,
        temperature=temperature,
        pressure=_quantities.pressure(pressure),
        time=None if time is None else _quantities.time(time),
        steps=steps,
        timestep=timestep,
        seed=seed,
        frame_every=frame_every,
        log_every=log_every,
        guard=guard,
        uncertainty=uncertainty,
        options=parse(None, option),
        folder=out,
        resume=not restart,
        device=device,
    )
    print(json.dumps(run.summary) if as_json else _told(run.summary, out))


def _told(summary: dict[str, Any], out: Path) -> str:
    """The summary in words, and what to type next."""
    from ..uncertainty.domain import UNKNOWN

    target = summary["temperature_target_K"]
    lines = [
        f"{summary['steps']} steps, {summary['time_ps']:g} ps of {summary['atoms']} atoms ({summary['ensemble']}).",
        f"  temperature   {summary['temperature_K']:.1f} ± {summary['temperature_std_K']:.1f} K"
        + (f" (target {target:g} K)" if target is not None else ""),
        f"  energy drift  {1000 * summary['drift_eV_per_atom_ps']:.3g} meV per atom and ps (conserved quantity)",
    ]
    if "pressure_GPa" in summary:
        lines.append(f"  pressure      {summary['pressure_GPa']:.4f} GPa, volume {summary['volume_A3']:.1f} Å^3")
    guard = summary["guard"]
    if guard["policy"] == "off":
        lines.append("  guard         off")
    elif not guard.get("knows_domain", True):
        lines.append(f"  guard         {guard['broken']} looks found it broken; whether outside: {UNKNOWN}")
    else:
        lines.append(f"  guard         {guard['outside']} looks found it outside the training data")
        lines += [f"                {count} x {reason}" for reason, count in list(summary["reasons"].items())[:3]]
    if "ns_per_day" in summary:
        lines.append(f"  speed         {summary['ns_per_day']:.3g} ns/day, {summary['ms_per_step']:.3g} ms per step")
    lines.append("Next:")
    if not guard.get("knows_domain", True):
        lines.append("  epot fit labeled.xyz --model MODEL    on some labeled frames of it: then the domain is known")
    if guard["outside"]:
        lines.append(f"  epot label {out / 'outside.xyz'} labeled.xyz    add them to the training set, fit again")
    lines.append(f"  epot predict MODEL {out / 'trajectory.xyz'} checked.xyz    uncertainty of every frame")
    return "\n".join(lines)
