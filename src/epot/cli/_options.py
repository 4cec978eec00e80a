"""``--option key=value`` and option files."""

from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError


def parse(path: Path | None, pairs: list[str] | None) -> dict[str, Any]:
    """Settings from a YAML or JSON file, then from ``key=value`` pairs, whose values are read as YAML.

    Raises:
        ConfigError: the file is missing or not a mapping, or a pair has no ``=``.
    """
    found: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as why:
            raise ConfigError(f"{path} cannot be read as YAML or JSON: {why}") from None
        if not isinstance(loaded, dict):
            raise ConfigError(f"{path} holds a {type(loaded).__name__}; expected a mapping of settings.")
        found.update(loaded)
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--option {pair!r} has no '='; write key=value.")
        found[key.strip()] = yaml.safe_load(value)
    return found
