"""Units: eV, Å, e, amu, fs inside; anything else is converted by a reader or a writer, here.

Values are CODATA 2018 (the ones ASE 3.29 uses by default are CODATA 2014; the difference is
below 1e-8 relative and is tested).
"""

from .errors import ConfigError

EV = 1.0
ANGSTROM = 1.0
HARTREE = 27.211386245988
RYDBERG = HARTREE / 2
BOHR = 0.529177210903
KCAL_MOL = 0.0433641042  # thermochemical calorie, 4.184 J
KJ_MOL = 0.0103642697
GPA = 1 / 160.21766339999997  # eV/Å^3
KBAR = GPA / 10
DEBYE = 0.2081943327  # e Å
KB = 8.617333262e-5  # eV / K

ENERGY = {
    "eV": EV, "meV": 1e-3, "Hartree": HARTREE, "Ha": HARTREE, "Ry": RYDBERG,
    "kcal/mol": KCAL_MOL, "kJ/mol": KJ_MOL,
}  # fmt: skip
LENGTH = {"Å": ANGSTROM, "A": ANGSTROM, "Angstrom": ANGSTROM, "Bohr": BOHR, "bohr": BOHR, "nm": 10.0}
STRESS = {"eV/Å^3": 1.0, "eV/A^3": 1.0, "GPa": GPA, "kbar": KBAR, "kB": KBAR, "bar": KBAR / 1000}


def energy(name: str) -> float:
    """Factor that turns an energy in unit ``name`` into eV."""
    return _factor(name, ENERGY, "energy")


def length(name: str) -> float:
    """Factor that turns a length in unit ``name`` into Å."""
    return _factor(name, LENGTH, "length")


def force(name: str) -> float:
    """Factor that turns a force in unit ``energy/length`` (``"kcal/mol/A"``) into eV/Å."""
    numerator, _, denominator = name.rpartition("/")
    return energy(numerator) / length(denominator)


def stress(name: str) -> float:
    """Factor that turns a stress in unit ``name`` into eV/Å^3."""
    return _factor(name, STRESS, "stress")


def _factor(name: str, table: dict[str, float], kind: str) -> float:
    for known, value in table.items():
        if name.lower() == known.lower():
            return value
    raise ConfigError(f"{name!r} is not a unit of {kind} that epot knows; use one of {', '.join(table)}.")
