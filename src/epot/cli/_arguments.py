"""Arguments that several commands have, each said once."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Argument(help="A model file.")]
Source = Annotated[str, typer.Argument(help="Structures, in any format that epot reads.")]
Index = Annotated[str | None, typer.Option(help="Which of them: 0, :100, ::10.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
