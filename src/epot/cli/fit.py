"""``epot fit``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ._arguments import AsJson


def fit(
    source: Annotated[str, typer.Argument(help="Labeled structures (train.xyz), or a configuration (config.yaml).")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value: model.cutoff=6.0 descend.epochs=200")] = None,
    model: Annotated[
        str | None, typer.Option(help="A model or preset (see `epot models`), or a model.epot to start from.")
    ] = None,
    valid: Annotated[str | None, typer.Option(help="Structures to validate on; without, 10 % are held out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; the same command on it resumes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random choice.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data (descend.epochs).")] = None,
    max_time: Annotated[str | None, typer.Option(help="Of the descent: 600, 10m, 2h (descend.max_time).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a potential to labeled structures; an interrupted fit goes on when the command is repeated.

    Examples: `epot fit train.xyz --model painn --max-time 20m`, `epot fit config.yaml descend.epochs=200`
    """
    from ..fit import config as configuration

    if source.endswith((".yaml", ".yml")):
        made = configuration.read(source)
    else:
        made = {"train": source}
    words = fit_words(settings, epochs, max_time)
    given = {"model": model, "valid": valid, "out": None if out is None else str(out), "seed": seed, "device": device}
    made = configuration.override(made | {k: v for k, v in given.items() if v is not None}, words)
    state, folder = _fit(made)
    errors = state.about["fit"]["errors"]
    if as_json:
        print(json.dumps({"model": str(folder / "model.epot"), "errors": errors, "folder": str(folder)}))
        return
    show(errors, folder)


def _fit(made: dict[str, Any]) -> Any:
    """Read the data and fit."""
    from ..data.readers import read
    from ..errors import ConfigError
    from ..fit.config import STAGES
    from ..fit.run import fit as run

    if "train" not in made:
        raise ConfigError("The configuration names no training structures: give train: FILE.")
    if "model" not in made:
        raise ConfigError("Which model? Give --model NAME (see `epot models`), or model: in the configuration.")
    name = Path(made["model"]).stem if isinstance(made["model"], str) else made["model"].get("name", "model")
    name = str(name).replace(":", "-")
    folder = Path(made.get("out") or Path("runs") / f"{name}-{Path(made['train']).name.split('.')[0]}")
    state = run(
        made["model"],
        read(made["train"]),
        valid=read(made["valid"]) if made.get("valid") else None,
        stages=made.get("stages"),
        options={k: made[k] for k in STAGES if k in made},
        folder=folder,
        seed=made.get("seed", 0),
        device=made.get("device", "cpu"),
        targets=made.get("targets"),
        holdout=made.get("holdout", 0.1),
        record={"train": made["train"], "valid": made.get("valid")} | _start(made["model"]),
    )
    return state, folder


def _start(model: Any) -> dict[str, Any]:
    """What a run keeps of the file that it starts from."""
    from ..fit.config import is_file

    return {"start": str(model)} if is_file(model) else {}


def fit_words(settings: list[str] | None, epochs: int | None, max_time: str | None) -> list[str]:
    """Settings of a fit as ``key=value``, with those that have an option of their own."""
    words = list(settings or [])
    words += [f"descend.epochs={epochs}"] if epochs is not None else []
    words += [f"descend.max_time={_seconds(max_time)}"] if max_time is not None else []
    return words


def _seconds(text: str) -> float:
    """``"90"``, ``"10m"`` or ``"2h"`` in seconds."""
    from ..errors import ConfigError

    scale = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        return float(text) if scale is None else float(text[:-1]) * scale
    except ValueError:
        raise ConfigError(f"--max-time {text!r} is not a time; write 600, 10m or 2h.") from None


def show(errors: dict[str, dict[str, Any]], folder: Path) -> None:
    """A table of errors, and what to type next."""
    print(f"{'':12s}" + "".join(f"{part + ' (' + str(e['n']) + ')':>24s}" for part, e in errors.items()))
    for key, unit in (("energy", "meV/atom"), ("forces", "meV/Å"), ("stress", "meV/Å³")):
        if not any(f"{key}_rmse" in e for e in errors.values()):
            continue
        row = f"{key:12s}"
        for e in errors.values():
            rmse, mae = (1000 * e.get(f"{key}_{kind}", float("nan")) for kind in ("rmse", "mae"))
            row += f"{f'{rmse:.2f} / {mae:.2f}':>24s}"
        print(f"{row}  {unit}, RMSE / MAE")
    model = folder / "model.epot"
    print(f"\nWrote {model}. Next:")
    print(f"  epot eval {model} test.xyz              errors on structures it has not seen")
    print(f"  epot doctor model {model}               is it safe to use?")
    print(f"  epot md {model} start.xyz --temperature 300")
