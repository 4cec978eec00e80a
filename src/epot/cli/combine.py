"""``epot combine``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ._arguments import AsJson, Device, Index


def combine(
    models: Annotated[list[Path], typer.Argument(help="Two model files or more.")],
    data: Annotated[str | None, typer.Option(help="Labeled structures that none of them was fitted to.")] = None,
    index: Index = None,
    out: Annotated[Path, typer.Option(help="The model file to write.")] = Path("committee.epot"),
    seed: Annotated[int, typer.Option(help="Of the choice among very many structures of --data.")] = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Put several models into one: the mean of all, its uncertainty their spread.

    Fits that differ in their seed alone will do. With --data the spread is calibrated (and only then shown), and the
    errors of each model and of the mean are printed.

    Example: `epot combine runs/*/model.epot --data held_out.xyz --out committee.epot`
    """
    from ..combine import combine as put_together
    from ..data.readers import read
    from ..errors import ConfigError
    from ..evaluate.errors import UNITS
    from ..fitted import Fitted

    if out.resolve() in [path.resolve() for path in models]:
        raise ConfigError(f"--out {out} is one of the models; give another name.")
    held_out = None if data is None else read(data, index=index)
    each = [Fitted.load(path, device) for path in models]
    made = put_together(each, held_out, seed=seed, device=device)
    made.save(out)
    errors = {}
    if held_out is not None:
        for name, one in zip([*map(str, models), "mean"], [*each, made], strict=True):
            found = one.evaluate(held_out, uncertainty=False, worst=0).all
            errors[name] = {k: row["rmse"] for k, row in found.items() if k != "energy"}
    limit = None if made.calibration is None else made.calibration.forces_limit
    if as_json:
        print(json.dumps({"out": str(out), "models": [str(p) for p in models], "rmse": errors, "forces_limit": limit}))
        return
    if errors:
        keys = list(errors["mean"])
        width = max(map(len, errors))
        print(f"{'RMSE':{width}s}  " + "  ".join(f"{f'{k}, {UNITS[k]}':>26s}" for k in keys))
        for name, row in errors.items():
            print(f"{name:{width}s}  " + "  ".join(f"{row[k]:26.2f}" for k in keys))
    told = "its spread was calibrated" if held_out is not None else "its spread is not calibrated: give --data for that"
    print(f"{out}: the mean of {len(models)} potentials; {told}.")
