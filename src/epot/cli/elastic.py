"""``epot elastic``."""

import json
from typing import Annotated

import typer

from ._arguments import AsJson, Device, Model


def elastic(
    model: Model,
    source: Annotated[str, typer.Argument(help="A crystal, in any format that epot reads; a small cell.")],
    rest: Annotated[bool, typer.Option("--rest", help="First scale the cell to zero pressure (cubic).")] = False,
    index: Annotated[str, typer.Option(help="Which structure of the file.")] = "0",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Elastic constants of a crystal in GPa, with clamped and with free atoms.

    Example: `epot elastic model.epot silicon.cif --rest`
    """
    from .. import modelfile
    from ..data.readers import read
    from ..evaluate.elastic import at_rest, elastic_constants

    potential, _ = modelfile.load(model, device)
    crystal = read(source, index=index)[0]
    if rest:
        crystal = at_rest(potential, crystal, device=device)
    found = elastic_constants(potential, crystal, device=device)
    assert found.relaxed is not None
    if as_json:
        tensors = {"clamped": found.clamped.tolist(), "relaxed": found.relaxed.tolist()}
        print(json.dumps({"cell": crystal.cell.tolist()} | tensors))
        return
    lengths = ", ".join(f"{float((row**2).sum() ** 0.5):.4f}" for row in crystal.cell)
    print(f"{crystal.formula}, cell vectors {lengths} Å; GPa, order xx yy zz yz xz xy")
    for title, matrix in (("free atoms", found.relaxed), ("clamped atoms", found.clamped)):
        print(f"{title}:")
        print("\n".join("".join(f"{x:10.2f}" for x in row) for row in matrix))
