"""``epot models``."""

import json
from typing import Annotated

import typer

from ._arguments import AsJson


def models(
    name: Annotated[str | None, typer.Argument(help="One model: its arguments with their defaults.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, or the arguments of one.

    Example: `epot models painn`
    """
    from .. import registry

    if name is None:
        found = {n: (registry.get(n).__doc__ or "").strip().splitlines()[0] for n in registry.names()}
        print(json.dumps(found) if as_json else "\n".join(f"{n:12s} {text}" for n, text in found.items()))
        return
    kind = registry.get(name)
    arguments = {k: None if p.default is p.empty else p.default for k, p in registry.parameters(kind).items()}
    if as_json:
        print(json.dumps({"name": name, "arguments": arguments}, default=str))
        return
    print((kind.__doc__ or "").strip() + "\n\nArguments and defaults:")
    for key, value in arguments.items():
        print(f"  {key} = {value!r}")
