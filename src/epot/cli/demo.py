"""``epot demo``."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ._arguments import AsJson


class What(StrEnum):
    """What there is to be shown."""

    symmetry = "symmetry"


def demo(
    what: Annotated[What, typer.Argument(help="symmetry: why descriptors are invariant, in numbers.")],
    data: Annotated[
        Path | None, typer.Option(help="Labeled structures of one molecule; without, ethanol in a force field.")
    ] = None,
    n_train: Annotated[int, typer.Option(help="Structures to train.")] = 100,
    n_test: Annotated[int, typer.Option(help="Structures to test.")] = 50,
    epochs: Annotated[int, typer.Option(help="Of each network.")] = 80,
    picture: Annotated[Path | None, typer.Option(help="Draw the result to this file (PNG, SVG, PDF).")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what symmetry is worth: models of coordinates break where molecules are turned, moved or renumbered.

    Example: `epot demo symmetry --picture symmetry.png`
    """
    from ..evaluate import demonstration

    assert what is What.symmetry  # the only one
    result = demonstration.symmetry(data, n_train=n_train, n_test=n_test, epochs=epochs, seed=seed)
    print(json.dumps(result) if as_json else demonstration.table(result))
    if picture is not None:
        path = demonstration.picture(result, picture)
        if not as_json:
            print(path)
