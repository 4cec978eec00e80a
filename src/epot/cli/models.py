"""``epot models``."""

import json
from typing import Annotated

import typer

from ._arguments import AsJson


def models(
    name: Annotated[str | None, typer.Argument(help="One model or preset: its arguments with their defaults.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models and their presets, or the arguments of one.

    Examples: `epot models painn`, `epot models mace:small`
    """
    from .. import registry

    if name is None:
        found = _listed()
        print(json.dumps(found) if as_json else "\n".join(f"{n:18s} {text}" for n, text in found.items()))
        return
    kind = registry.get(name)
    arguments = {k: None if p.default is p.empty else p.default for k, p in registry.parameters(kind).items()}
    chosen = {k: v for k, v in registry.expand(name).items() if k in arguments}
    if as_json:
        print(json.dumps({"name": name, "arguments": arguments | chosen}, default=str))
        return
    print((kind.__doc__ or "").strip() + f"\n\nArguments {'of ' + name if ':' in name else 'and defaults'}:")
    for key, value in (arguments | chosen).items():
        print(f"  {key} = {value!r}" + (f"  (default {arguments[key]!r})" if key in chosen else ""))
    if ":" not in name and registry.presets(kind):
        print(f"\nPresets, for example `epot fit train.xyz --model {name}:{next(iter(registry.presets(kind)))}`:")
        for preset, (about, _) in registry.presets(kind).items():
            print(f"  {name + ':' + preset:18s} {about}")


def _listed() -> dict[str, str]:
    """One line each, presets after their model."""
    from .. import registry

    found: dict[str, str] = {}
    for name in registry.names():
        kind = registry.get(name)
        found[name] = (kind.__doc__ or "").strip().splitlines()[0]
        found |= {f"{name}:{preset}": "  " + about for preset, (about, _) in registry.presets(kind).items()}
    return found
