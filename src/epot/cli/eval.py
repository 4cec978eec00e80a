"""``epot eval``."""

import json
from typing import Annotated

import typer

from ._arguments import AsJson, Device, Index, Model


def eval(  # noqa: A001
    model: Model,
    source: Annotated[str, typer.Argument(help="Labeled structures, in any format that epot reads.")],
    index: Index = None,
    worst: Annotated[int, typer.Option(help="How many of the worst structures to list.")] = 5,
    fast: Annotated[bool, typer.Option("--fast", help="Without standard deviations.")] = False,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Errors of a model on labeled structures: by element, by config_type, and whether its uncertainty foresees them.

    Example: `epot eval runs/quickstart/model.epot test.xyz`
    """
    from ..data.readers import read
    from ..fitted import Fitted

    errors = Fitted.load(model, device).evaluate(read(source, index=index), worst=worst, uncertainty=not fast)
    print(json.dumps(errors.to_json()) if as_json else errors.table())
