"""``epot label``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ._arguments import AsJson


def label(
    source: Annotated[str, typer.Argument(metavar="IN", help="Structures to label: a file or a glob.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Extended XYZ to write: .xyz or .xyz.gz.")],
    engine: Annotated[
        str, typer.Option(help="gfn2, gfn1, pyscf, gpaw, or an ASE calculator as module:Class.")
    ] = "gfn2",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="A setting of the engine: key=value; again for more.")
    ] = None,
    options: Annotated[Path | None, typer.Option(help="YAML or JSON file with settings of the engine.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 labels in this one.")] = 1,
    properties: Annotated[
        str | None, typer.Option(help="energy,forces,stress,charges,dipole: which of them; all by default.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which a calculation is given up.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of each process.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Label at most this many now.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Label structures with a quantum-mechanical engine; killed and started again, it goes on where it was.

    Example: `epot label in.xyz out.xyz --engine gfn2 --workers 2`

    Example: `epot label in.xyz out.xyz --engine pyscf -o functional=pbe -o basis=def2-svp`
    """
    from ..data import labels
    from ..data.readers import read
    from ._options import parse

    data = labels.label(
        read(source),
        engine,
        options=parse(options, option),
        out=out,
        workers=workers,
        properties=properties.split(",") if properties else None,
        timeout=timeout,
        threads=threads,
        retry_failed=retry_failed,
        limit=limit,
    )
    facts = data.provenance
    if as_json:
        print(json.dumps(facts | {"out": str(out)}))
    else:
        print(f"{facts['labelled']} of {facts['of']} labelled with {facts['level_of_theory']}: {out}")
        for failure in facts["failed"]:
            print(f"  failed: {failure['source'] or 'structure ' + str(failure['index'])}: {failure['reason']}")
        if facts["failed"]:
            print("Try these again with --retry-failed.")
    if facts["failed"]:
        raise typer.Exit(1)
