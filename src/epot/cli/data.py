"""``epot data``: look at, pack, split, convert and fetch data."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ._arguments import AsJson

app = typer.Typer(
    help="Look at, pack, split, convert and fetch data. Example: `epot data info train.xyz.gz`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Sources = Annotated[list[str], typer.Argument(help="Files or globs: extended XYZ, HDF5, ASE databases, npz, outputs.")]
Keys = Annotated[
    list[str] | None, typer.Option("--key", help="Which key holds a label: `energy=REF_energy`; `stress=`: not read.")
]
Units = Annotated[list[str] | None, typer.Option("--unit", help="`energy=kcal/mol`, `length=Bohr`, `stress=GPa`.")]
StressSign = Annotated[str | None, typer.Option(help="A positive stress means `tension` (ASE) or `compression`.")]
VirialSign = Annotated[str | None, typer.Option(help="A positive virial means `compression` (QUIP) or `tension`.")]
StressOrder = Annotated[str | None, typer.Option(help="Of six numbers: `voigt` (xx yy zz yz xz xy) or `vasp`.")]
Format = Annotated[str | None, typer.Option("--format", help="Where the name does not say it: `extxyz`, `vasp-out`.")]
Index = Annotated[str | None, typer.Option(help="Which structures: `0:100`, `::10`.")]


def _pairs(given: list[str] | None, option: str) -> dict[str, Any]:
    from ..errors import ConfigError

    made: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{option} {text} is not of the form name=value.")
        made[name] = value or None
    return made


def _labels(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of how labels are read; it takes them as one mapping, ``labels``."""
    options = {
        "keys": Keys, "units": Units, "stress_sign": StressSign, "virial_sign": VirialSign, "stress_order": StressOrder,
    }  # fmt: skip

    def run(**given: Any) -> None:
        labels = {name: given.pop(name) for name in options}
        labels |= {"keys": _pairs(labels["keys"], "--key"), "units": _pairs(labels["units"], "--unit")}
        command(**given, labels=labels)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "labels"]
    more = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=a) for n, a in options.items()
    ]
    every = sorted([*own, *more], key=lambda p: p.kind)
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in every}
    return run


def _said(provenance: dict[str, Any]) -> str:
    """How the labels were read, one line each."""
    lines = []
    for label, entry in provenance.get("keys", {}).items():
        if "keys" not in entry:  # several kinds of files
            lines += [f"{label}: " + ", ".join(entry)]
            continue
        keys = ", ".join(f"`{key}`" for key in entry["keys"])
        unit = f" in {entry['unit']} ({entry['unit_from']})" if "unit" in entry else ""
        sign = (
            f", {entry['sign']}" + (f" ({entry['sign_from']})" if "sign_from" in entry else "")
            if "sign" in entry
            else ""
        )
        lines.append(f"{label:16s} from {keys}{unit}{sign}")
    return "\n".join(lines)


@app.command()
@_labels
def info(
    sources: Sources,
    format: Format = None,
    index: Index = None,
    verify: Annotated[bool, typer.Option(help="Compare a packed file with its checksums.")] = False,
    as_json: AsJson = False,
    *,
    labels: dict[str, Any],
) -> None:
    """What is in the data: counts, elements, labels and how they were read, ranges, closest approaches.

    Example: `epot data info train.xyz.gz --key energy=REF_energy`
    """
    from ..data.readers import read

    found = read(sources, index=index, format=format, **labels)
    if verify and hasattr(found._source, "verify"):
        found._source.verify()
    statistics = found.statistics()
    if as_json:
        facts = {"sha256": found.sha256(), "provenance": found.provenance, "statistics": statistics.to_json()}
        print(json.dumps(facts, default=str))
        return
    print(statistics)
    print(_said(found.provenance))


@app.command()
@_labels
def pack(
    files: Annotated[list[str], typer.Argument(help="Files or globs to read, and last the packed file to make (.h5).")],
    format: Format = None,
    batch: Annotated[int, typer.Option(min=1, help="Structures per commit: what a kill may lose.")] = 1000,
    as_json: AsJson = False,
    *,
    labels: dict[str, Any],
) -> None:
    """Pack data into one HDF5 file that is read from disk piece by piece. The same command continues after a kill.

    Example: `epot data pack train.xyz.gz train.h5`
    """
    from ..data.packing import pack
    from ..data.readers import Rules
    from ..errors import ConfigError

    if len(files) < 2 or not files[-1].endswith((".h5", ".hdf5")):
        raise ConfigError("Name what to read and then the file to make: epot data pack train.xyz.gz train.h5")
    rules = Rules(**labels)
    made = pack(files[:-1], files[-1], rules=rules, format=format, batch=batch)
    _done(made, files[-1], as_json)


@app.command()
@_labels
def convert(
    files: Annotated[list[str], typer.Argument(help="Files or globs to read, and last the file to write (.xyz, .h5).")],
    format: Format = None,
    index: Index = None,
    as_json: AsJson = False,
    *,
    labels: dict[str, Any],
) -> None:
    """Read anything, write extended XYZ (plain, .gz, .xz, .zst) or packed HDF5, in eV and Å.

    Example: `epot data convert "runs/*/OUTCAR" train.xyz.gz`
    """
    from ..data.readers import read
    from ..errors import ConfigError

    if len(files) < 2:
        raise ConfigError("Name what to read and then the file to write: epot data convert OUTCAR train.xyz")
    found = read(files[:-1], index=index, format=format, **labels)
    found.write(files[-1])
    _done(found, files[-1], as_json)


def _done(made: Any, path: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"file": path, "structures": len(made), "provenance": made.provenance}, default=str))
        return
    print(_said(made.provenance))
    print(f"{path}: {len(made)} structures")


@app.command()
@_labels
def split(
    sources: Sources,
    fractions: Annotated[str, typer.Option(help="Fractions or numbers of structures.")] = "0.8,0.1,0.1",
    by: Annotated[str, typer.Option(help="`random`, `group`, `config_type` or `farthest`.")] = "random",
    seed: Annotated[int, typer.Option(help="Of the shuffling.")] = 0,
    out: Annotated[
        str, typer.Option(help="Where to: `{part}` becomes train, valid, test (or 0, 1, ...).")
    ] = "{part}.xyz",
    format: Format = None,
    as_json: AsJson = False,
    *,
    labels: dict[str, Any],
) -> None:
    """Divide data into disjoint files, and write down how (`split.json` beside them).

    Example: `epot data split all.xyz.gz --fractions 0.8,0.1,0.1 --by group --out "{part}.xyz.gz"`
    """
    from ..data.readers import read
    from ..errors import ConfigError
    from ..files import write_atomic

    try:
        parts = [float(f) if "." in f else int(f) for f in fractions.split(",")]
    except ValueError:
        raise ConfigError(f"--fractions {fractions} is not a list of numbers, like 0.8,0.1,0.1 or 1000,200.") from None
    if "{part}" not in out:
        raise ConfigError(f"--out {out} needs {{part}} in it, which becomes train, valid, test.")
    made = read(sources, format=format, **labels).split(*parts, seed=seed, by=by)
    names = {1: ["train"], 2: ["train", "test"], 3: ["train", "valid", "test"]}.get(len(made))
    names = names or [str(k) for k in range(len(made))]
    records = []
    for name, part in zip(names, made, strict=True):
        path = part.write(out.replace("{part}", name))
        records.append({"file": str(path), "sha256": part.sha256()} | part.provenance["split"][-1])
    write_atomic(Path(out.replace("{part}", "split")).with_name("split.json"), json.dumps(records, indent=1).encode())
    print(json.dumps(records) if as_json else "\n".join(f"{r['file']}: {r['structures']} structures" for r in records))


@app.command()
def catalog(
    name: Annotated[str | None, typer.Argument(help="One data set: everything about it.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the public data sets that epot knows, with licence, citation and where they are.

    Example: `epot data catalog 3bpa`
    """
    from ..data import catalog as known

    if name is None:
        entries = known.entries()
        if as_json:
            print(json.dumps(entries))
        else:
            print("\n".join(f"{n:18s} {e['title']} ({e['licence']})" for n, e in entries.items()))
        return
    print(json.dumps(known.entry(name), indent=None if as_json else 1, ensure_ascii=False))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data set of `epot data catalog`.")],
    folder: Annotated[Path, typer.Option("--to", help="Where to.")] = Path("data"),
) -> None:
    """Download a public data set, checking what arrives; needs a network.

    Example: `epot data fetch 3bpa --to data`
    """
    from ..data import catalog as known

    for path in known.fetch(name, folder):
        print(path)
