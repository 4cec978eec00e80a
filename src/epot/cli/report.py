"""``epot report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a fit.")],
    test: Annotated[list[Path] | None, typer.Option(help="Held-out structures; may be given several times.")] = None,
    train: Annotated[Path | None, typer.Option(help="Training structures, to be shown beside.")] = None,
    md: Annotated[list[Path] | None, typer.Option(help="Folder of a simulation; may be given several times.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file; report.html in the run's folder if not given.")] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
) -> None:
    """Write one HTML file about a fit: errors, calibration, doctor, simulations, provenance, citations.

    Example: `epot report runs/mine --test test.xyz --md runs/mine/md`
    """
    from ..data.readers import read
    from ..report.build import build

    sets = ({"train": read(train)} if train else {}) | {path.name.split(".")[0]: read(path) for path in test or []}
    print(build(run, sets=sets, md=md or (), out=out, title=title))
