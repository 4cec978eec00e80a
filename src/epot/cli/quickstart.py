"""``epot quickstart``."""

from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that label.")] = 2,
) -> None:
    """The whole road on real input: labels, fit, checks, molecular dynamics, report. Under five minutes.

    Example: `epot quickstart --out runs/quickstart`
    """
    from ..quickstart import quickstart as run

    run(out, seed=seed, workers=workers)
