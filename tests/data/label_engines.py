"""Calculators that misbehave, for the tests of labelling: found by import path, as a user's own would be."""

import os
import time

from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT


class Slow(EMT):
    """EMT that takes its time, and marks every calculation with a line in a file."""

    def __init__(self, seconds=0.05, log=None):
        super().__init__()
        self.seconds, self.log = seconds, log

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, list(properties), system_changes)
        time.sleep(self.seconds)
        if self.log:
            with open(self.log, "a") as out:
                out.write(f"{os.getpid()}\n")


class Faulty(EMT):
    """Raises, hangs, dies or returns NaN, as the first x coordinate says."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        print("an engine that prints on standard output")
        kind = round(float(atoms.positions[0, 0]))
        if kind == 1:
            raise RuntimeError("SCF not converged")
        if kind == 2:
            time.sleep(60)
        if kind == 3:
            os.abort()
        super().calculate(atoms, list(properties), system_changes)
        if kind == 4:
            self.results["energy"] = float("nan")
