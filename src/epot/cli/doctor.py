"""``epot doctor``: examine data before a fit, and a potential after it."""

import json
from typing import Annotated, Any

import typer

from ._arguments import AsJson, Model

app = typer.Typer(
    help="Examine data before a fit, and a potential after it. Example: `epot doctor data train.xyz test.xyz`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def _finish(reports: list[Any], as_json: bool) -> None:
    """Print, and exit with code 1 where there are errors."""
    if as_json:
        made = [r.to_json() for r in reports]
        print(json.dumps(made[0] if len(made) == 1 else made))
    else:
        for report in reports:
            report.show()
    if any(r.verdict == "errors" for r in reports):
        raise typer.Exit(1)


@app.command()
def data(
    files: Annotated[list[str], typer.Argument(help="Files or globs; structures that two of them share are found.")],
    as_json: AsJson = False,
) -> None:
    """Missing, absurd and inconsistent labels, units and signs, outliers, duplicates and leaks. Exit code 1 on errors.

    Example: `epot doctor data train.xyz test.xyz`
    """
    from ..data.readers import read
    from ..evaluate.doctor_data import examine

    sets = {file: read(file) for file in files}
    reports = []
    for k, (name, dataset) in enumerate(sets.items()):
        others = {other: sets[other] for other in list(sets)[k + 1 :]}
        reports.append(examine(dataset, name=name, others=others))
    _finish(reports, as_json)


@app.command()
def model(
    file: Model,
    data: Annotated[str | None, typer.Option(help="Structures of its domain, a test set say.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the verdict into the model file.")] = False,
    compiled: Annotated[bool, typer.Option("--compiled", help="Also compare with a compiled copy (a minute).")] = False,
    as_json: AsJson = False,
) -> None:
    """Derivatives, symmetries, extensivity, cutoff, dimers, energy drift, precision. Exit code 1 on errors.

    Example: `epot doctor model runs/quickstart/model.epot --data test.xyz --write`
    """
    from .. import modelfile
    from ..data.readers import read
    from ..evaluate.doctor_model import examine

    potential, about = modelfile.load(file)
    report = examine(potential, read(data) if data else (), compiled=compiled)
    if write:
        modelfile.save(file, potential, {**about, "doctor": report.to_json()})
    _finish([report], as_json)
