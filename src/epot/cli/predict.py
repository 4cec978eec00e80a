"""``epot predict``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ._arguments import AsJson, Device, Index, Model, Source


def predict(
    model: Model,
    source: Source,
    out: Annotated[Path, typer.Argument(help="Extended XYZ to write: out.xyz, out.xyz.gz.")],
    index: Index = None,
    fast: Annotated[bool, typer.Option("--fast", help="Without standard deviations.")] = False,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Write energies, forces and stress of structures, with their standard deviations, as extended XYZ.

    Keys: `energy`, `forces`, `stress` (where defined), `energy_std`, `forces_std`, `stress_std`; `outside` says why a
    structure lies outside the data that the model was fitted to. Labels that the input had are not written.

    Example: `epot predict model.epot new.xyz predicted.xyz`
    """
    from ..data.readers import read
    from ..fitted import Fitted
    from ..uncertainty.domain import UNKNOWN

    facts = Fitted.load(model, device).write(read(source, index=index), out, uncertainty=not fast)
    if as_json:
        print(json.dumps(facts))
        return
    print(f"Wrote {facts['n_structures']} structures to {out}.")
    if facts["outside"] is None:
        print(f"Are they like what the model was fitted to? Note: {UNKNOWN}.")
    if facts["outside"]:
        print(f"{facts['outside']} of them lie outside the data that the model was fitted to (key `outside`).")
