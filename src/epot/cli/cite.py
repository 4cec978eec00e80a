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
    from ..modelfile import load

    kinds = [type(m) for m in load(what)[0].modules()] if Path(what).is_file() else [registry.get(what)]
    texts = [getattr(kind, "CITATION", "").strip() for kind in kinds]
    print("\n".join(dict.fromkeys(text for text in texts if text)))
