"""``epot describe``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ._arguments import AsJson


def describe(
    source: Annotated[str | None, typer.Argument(help="Structures, in any format that epot reads.")] = None,
    out: Annotated[Path | None, typer.Argument(help="npz to write: values, columns, structure, atom.")] = None,
    descriptor: Annotated[str, typer.Option(help="Name of a descriptor; see `epot describe --list`.")] = "soap",
    setting: Annotated[list[str] | None, typer.Option(help="key=value of the descriptor, once for each.")] = None,
    gradients: Annotated[bool, typer.Option("--gradients", help="Also the derivatives by the geometry.")] = False,
    index: Annotated[str | None, typer.Option(help="Which structures: 0, :100, ::10.")] = None,
    show: Annotated[bool, typer.Option("--list", help="List the descriptors and their settings.")] = False,
    as_json: AsJson = False,
) -> None:
    """Describe every atom (or whole structure) by a fixed descriptor.

    Example: `epot describe frames.xyz soap.npz --descriptor soap --setting cutoff=4.5 --setting l_max=4`
    """
    import io

    import numpy as np

    from ..data.readers import read
    from ..errors import ConfigError
    from ..features.describe import describe as described
    from ..files import write_atomic
    from ..fit.config import override

    if show or source is None or out is None:
        _list(as_json)
        return
    if out.suffix != ".npz":
        raise ConfigError(f"The result is written as npz; {out} does not end in .npz.")
    words = override({"model": {"name": descriptor}}, [f"model.{word}" for word in setting or []])
    made = described(words["model"], read(source, index=index), gradients=gradients)
    arrays = {k: v for k, v in vars(made).items() if v is not None}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(out, buffer.getvalue())
    facts = {"rows": made.values.shape[0], "size": made.values.shape[1], "gradients": gradients, "out": str(out)}
    print(
        json.dumps(facts) if as_json else f"{out}: {facts['rows']} rows of {facts['size']} components of {descriptor}."
    )


def _list(as_json: bool) -> None:
    from .. import registry
    from ..features.descriptor import registered

    rows: dict[str, dict[str, Any]] = {}
    for name in registered():
        kind = registry.get(name)
        settings = {k: None if p.default is p.empty else p.default for k, p in registry.parameters(kind).items()}
        rows[name] = {"title": (kind.__doc__ or "").strip().splitlines()[0], "settings": settings}
    if as_json:
        print(json.dumps(rows, default=str))
        return
    for name, row in rows.items():
        words = ", ".join(k if v is None else f"{k}={v}" for k, v in row["settings"].items())
        print(f"{name:18s}{row['title']}\n{'':18s}{words}")
