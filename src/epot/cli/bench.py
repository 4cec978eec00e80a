"""``epot bench``."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ._arguments import AsJson, Device


def bench(
    suite: Annotated[str | None, typer.Argument(help="Name of a suite: 3bpa, rmd17/ethanol, ...")] = None,
    settings: Annotated[list[str] | None, typer.Argument(help="key=value: descend.batch_atoms=512 seed=3")] = None,
    model: Annotated[str, typer.Option(help="Name of a model (see `epot models`).")] = "gap",
    data: Annotated[Path, typer.Option(help="Directory with the data of the suites.")] = Path("../shared/data"),
    model_option: Annotated[list[str] | None, typer.Option(help="key=value of the model, once for each.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data (descend.epochs).")] = None,
    max_time: Annotated[str | None, typer.Option(help="Of the descent: 600, 10m, 2h.")] = None,
    n_train: Annotated[int | None, typer.Option(help="Structures to fit to, at most.")] = None,
    isolated: Annotated[bool, typer.Option("--isolated", help="Add the suite's single atoms to the fit.")] = False,
    seed: Annotated[int, typer.Option(help="Of the split and of the fit.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; the same command on it resumes.")] = None,
    device: Device = "cpu",
    show: Annotated[bool, typer.Option("--list", help="List the suites.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit on the published split of a known data set and compare with the published errors.

    Example: `epot bench 3bpa --model gap --model-option n_sparse=1000 --data ../shared/data`
    """
    from ..errors import ConfigError
    from ..evaluate import bench as benchmarks

    if show or suite is None:
        found = benchmarks.suites()
        rows = {k: {"title": s.title, "files": [s.train, *s.tests.values()]} for k, s in found.items()}
        text = "\n".join(f"{k:26s}{row['title']}\n{'':26s}{', '.join(row['files'])}" for k, row in rows.items())
        print(json.dumps(rows) if as_json else text)
        return
    from ..fit import config
    from .fit import fit_words

    words = [f"model.{word}" for word in model_option or []] + fit_words(settings, epochs, max_time)
    made = config.override({"model": model, "seed": seed}, words)
    if unused := sorted(set(made) - {"model", "seed", *config.STAGES}):
        raise ConfigError(f"`epot bench` takes settings of the model and of stages; not {', '.join(unused)}.")
    result = benchmarks.run(
        suite,
        made["model"],
        data,
        options={k: made[k] for k in config.STAGES if k in made},
        n_train=n_train,
        isolated=isolated,
        folder=out,
        seed=made["seed"],
        device=device,
        command=shlex.join(["epot", *sys.argv[1:]]),
    )
    print(json.dumps(result) if as_json else benchmarks.table(result))
