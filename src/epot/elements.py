"""Chemical symbols and numbers, without importing ASE."""

from collections.abc import Iterable
from operator import index
from typing import SupportsIndex

from .errors import ConfigError

SYMBOLS = (  # noqa: SIM905  # 119 quoted strings would be harder to read
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
    "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr "
    "Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
N_ELEMENTS = len(SYMBOLS)


def to_number(element: str | SupportsIndex) -> int:
    """Atomic number of a symbol or number.

    Raises:
        ConfigError: there is no such element.
    """
    if isinstance(element, str):
        number = NUMBERS.get(element, 0)
    else:
        try:
            number = index(element)
        except TypeError:  # 6.5 is not an element, and neither is None
            number = 0
    if 0 < number < N_ELEMENTS:
        return number
    raise ConfigError(f"{element!r} is not a chemical element; give a symbol ('Si') or an atomic number (14).")


def names(numbers: Iterable[int]) -> str:
    """``"C, H, O"`` for messages, from atomic numbers."""
    return ", ".join(SYMBOLS[int(z)] for z in numbers)
