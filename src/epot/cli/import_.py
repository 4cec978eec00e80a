"""``epot import``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ._arguments import AsJson


def import_(
    path: Annotated[Path, typer.Argument(help="A file or folder of another code.")],
    out: Annotated[Path, typer.Option(help="The model file to write.")] = Path("model.epot"),
    format: Annotated[str | None, typer.Option(help="Which code's; found from the content if not given.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="key=value of the format, once for each.")] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a potential of another code into a model file.

    Reads the folder of an n2p2 network, the XML file of a GAP, the weights of a torchani or a NeuralIL model, a
    checkpoint of mace-torch (a published model, say), models of schnetpack (SchNet, PaiNN), torch_geometric (SchNet,
    DimeNet++) and gemnet_pytorch.

    Examples: `epot import nnp-data/ --out water.epot`, `epot import mace-mh-1.model --option head=omat_pbe`
    """
    from .. import interchange
    from ..elements import names
    from ..fitted import Fitted
    from ._options import parse

    kind = format or interchange.find(path)
    potential = interchange.load(path, kind, **parse(None, option))
    Fitted(potential, {"imported": {"format": kind, "source": path.name}}).save(out)
    terms = {n: type(t).__name__ for n, t in getattr(potential, "terms", {"body": potential}).items()}
    facts = {
        "format": kind,
        "out": str(out),
        "elements": names(potential.elements or ()),
        "cutoff": round(float(potential.cutoff), 6),
        "terms": terms,
        "parameters": sum(p.numel() for p in potential.parameters()),
    }
    if as_json:
        print(json.dumps(facts))
        return
    parts = " + ".join(terms.values())
    print(
        f"{out}: {parts} for {facts['elements']}, cutoff {facts['cutoff']:.4g} Å, {facts['parameters']} parameters, "
        f"from {kind} ({path})."
    )
