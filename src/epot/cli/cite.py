"""``epot cite``."""

from pathlib import Path
from typing import Annotated

import typer


def cite(
    what: Annotated[str, typer.Argument(help="A model file, or the name of a model.")],
) -> None:
    """BibTeX of exactly the methods that a model uses.

    Example: `epot cite runs/quickstart/model.epot`
    """
    from .. import registry
    from ..fit.run import citations
    from ..modelfile import load

    if not Path(what).is_file():
        print(getattr(registry.get(what), "CITATION", "").strip())
        return
    potential, about = load(what)
    print("\n".join(dict.fromkeys([*citations(potential), *about.get("citations", [])])))
