"""Every exception that epot raises on purpose.

::

    EpotError
    ├── DataError            a structure, file or dataset is not what it should be (also a ValueError)
    │   └── LabelError       labels are missing, not finite or of the wrong shape
    ├── ConfigError          an argument or configuration key is unknown or impossible (also a ValueError)
    ├── ModelError           a potential was asked for something that it cannot do
    │   ├── UnknownElementError   an element that the potential was never fitted to
    │   └── NotFiniteError        an energy or a force is not a finite number (also a SimulationError)
    ├── ModelFileError       a model file is corrupt, hostile or of a newer format
    ├── FitError             a fit cannot start or cannot go on
    ├── EngineError          a quantum-mechanical engine is missing or failed
    └── SimulationError      a simulation left the domain in which its potential can be trusted

A message says what was given, what was expected and what to do.
"""


class EpotError(Exception):
    """Root of the tree: ``except EpotError`` catches what epot raises on purpose."""


class DataError(EpotError, ValueError):
    """A structure, file or dataset is not what it should be."""


class LabelError(DataError):
    """Labels are missing, not finite or of the wrong shape."""


class ConfigError(EpotError, ValueError):
    """An argument or configuration key is unknown or impossible."""


class ModelError(EpotError):
    """A potential was asked for something that it cannot do."""


class UnknownElementError(ModelError, ValueError):
    """A structure holds an element that the potential was never fitted to."""


class ModelFileError(EpotError, ValueError):
    """A model file is corrupt, hostile or of a newer format."""


class FitError(EpotError):
    """A fit cannot start or cannot go on."""


class EngineError(EpotError):
    """A quantum-mechanical engine is missing or failed."""


class SimulationError(EpotError):
    """A simulation left the domain in which its potential can be trusted."""


class NotFiniteError(ModelError, SimulationError):
    """An energy or a force is not a finite number: the potential is broken, or the structure is beyond its reach."""
