"""``10ps``, ``1bar``, ``0.5 GPa``: numbers with a unit on the command line."""

import re

from ..errors import ConfigError
from ..units import STRESS

TIMES = {"fs": 1.0, "ps": 1e3, "ns": 1e6}
PRESSURES = STRESS | {"MPa": STRESS["GPa"] / 1000, "atm": 1.01325 * STRESS["bar"]}


def time(text: str) -> float:
    """Fs.

    Raises:
        ConfigError: not a number with fs, ps or ns.
    """
    return _quantity(text, TIMES, "a time", "10ps")


def pressure(text: str) -> float:
    """eV/Å^3.

    Raises:
        ConfigError: not a number with a unit of pressure.
    """
    return _quantity(text, PRESSURES, "a pressure", "1bar")


def _quantity(text: str, units: dict[str, float], kind: str, example: str) -> float:
    found = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*", text)
    if found and float(found[1]) == 0 and not found[2]:
        return 0.0
    if found:
        for name, value in units.items():
            if name.lower() == found[2].lower():
                return float(found[1]) * value
    raise ConfigError(f"{text!r} is not {kind}; expected a number with one of {', '.join(units)}, like {example}.")
