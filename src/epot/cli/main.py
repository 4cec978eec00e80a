"""``epot``: one command a file, found by looking into this folder."""

import importlib
import pkgutil
import sys

import typer

from ..errors import EpotError

app = typer.Typer(
    name="epot",
    help="From quantum-mechanical reference data to molecular dynamics that can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _register() -> None:
    folder = importlib.import_module("epot.cli")
    for module in sorted(m.name for m in pkgutil.iter_modules(folder.__path__)):
        if module != "main" and not module.startswith("_"):
            found = importlib.import_module(f"epot.cli.{module}")
            name = module.rstrip("_")  # import_.py: a word that Python keeps to itself
            if isinstance(getattr(found, "app", None), typer.Typer):
                app.add_typer(found.app, name=name)
            else:
                app.command(name=name)(getattr(found, module))


def main() -> None:
    """Run; an error that epot raises on purpose is one message on standard error and exit code 1."""
    _register()
    try:
        app()
    except EpotError as why:
        print(f"epot: {why}", file=sys.stderr)
        raise SystemExit(1) from None
