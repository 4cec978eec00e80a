"""An ASE calculator of any potential: :class:`Calculator`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes

from ..elements import names
from ..errors import ModelError, UnknownElementError
from ..geometry.graph import Graph
from ..memory import keep_freed
from ..potential import Potential, has_members
from ..predict import Prediction, predict
from ..uncertainty.calibration import Calibration
from .skin import SkinPairs, equal

VOIGT = [0, 4, 8, 5, 2, 1]  # xx yy zz yz xz xy, ASE's order
SPREAD = ("energy_std", "forces_std", "stress_std")


class Calculator(AseCalculator):
    """Energy, forces, stress and, calibrated, their standard deviations, for :class:`ase.Atoms`.

    One evaluation gives everything: asking for the stress after the forces costs nothing. The total charge
    is read from ``atoms.info["charge"]`` (0 without).

    Results, in ASE's units: ``energy`` and ``free_energy`` (the same), ``forces``, ``energies`` (per atom),
    ``stress`` (Voigt; only of cells that are periodic along all three axes, else
    ``PropertyNotImplementedError``), ``charges`` (of potentials that have them), ``energy_std``,
    ``forces_std (atoms, 3)`` and ``stress_std`` (of potentials with an ensemble and a calibration; computed when
    asked for through ``get_property``, or always with ``uncertainty=True``).

    Args:
        potential: any.
        about: what travelled with it in the model file; ``about["calibration"]`` scales the ensemble's spread.
        device: where it runs; the potential is moved there.
        skin: Å, added to the cutoff so that neighbor lists live longer (:mod:`epot.simulate.skin`). It
            changes the speed, never a result. 0 searches neighbors at every step.
        uncertainty: compute the standard deviations at every step.

    Raises:
        ModelError: ``uncertainty=True`` for a potential that has none.

    While it runs it raises :class:`~epot.errors.UnknownElementError` for an element that the potential was
    never fitted to, :class:`~epot.errors.NotFiniteError` where an energy or a force is not a finite number,
    :class:`~epot.errors.SimulationError` where two atoms meet, and never passes such values on.
    """

    implemented_properties = ["energy", "free_energy", "forces", "energies", "stress", "charges", *SPREAD]

    def __init__(
        self,
        potential: Potential,
        about: Mapping[str, Any] | None = None,
        *,
        device: str | torch.device = "cpu",
        skin: float = 0.5,
        uncertainty: bool = False,
    ) -> None:
        super().__init__()
        keep_freed()
        self.potential = potential.to(device)
        self.about = dict(about or {})
        self.uncertainty = uncertainty
        self.calibration = Calibration.of(self.about)
        self.pairs = SkinPairs(potential.cutoff, skin, device)
        self.graph: Graph | None = None
        self._checked: bytes | None = None
        self._charge = 0.0
        if uncertainty and not self.has_uncertainty:
            raise ModelError(self._no_uncertainty())

    @property
    def has_uncertainty(self) -> bool:
        """Whether standard deviations can be had: an ensemble or a constant, and a calibration."""
        return self.calibration is not None

    @property
    def has_ensemble(self) -> bool:
        """Whether the potential has members, of which the spread is what was calibrated."""
        if self.calibration is not None and self.calibration.kind != "ensemble":
            return False
        return has_members(self.potential)

    def check_state(self, atoms: ase.Atoms, tol: float = 0.0) -> list[str]:
        """What changed since the last call: compared exactly, and only what the energy depends on."""
        last = self.atoms
        if last is None:
            return list(all_changes)
        same = {
            "numbers": equal(last.numbers, atoms.numbers),
            "positions": np.array_equal(last.positions, atoms.positions),
            "cell": np.array_equal(last.cell.array, atoms.cell.array),
            "pbc": equal(last.pbc, atoms.pbc),
            "initial_charges": _charge(atoms) == self._charge,
        }
        return [name for name, unchanged in same.items() if not unchanged]

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute; :class:`ase.Atoms` calls this when something changed."""
        if atoms is not None:
            self.atoms = atoms.copy()
        atoms = self.atoms
        if atoms is None:
            raise ModelError("There are no atoms to compute: set `atoms.calc` to this calculator and ask the atoms.")
        self.results = {}
        periodic = bool(atoms.pbc.all())
        self._refuse(properties, periodic)
        self._check_elements(atoms.numbers)
        self._charge = _charge(atoms)
        self.graph = self.pairs.graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, self._charge)
        want = {"energy", "forces", "stress"} if periodic else {"energy", "forces"}
        spread = self.uncertainty or any(name in SPREAD for name in properties)
        if spread and self.has_ensemble:
            want |= {"members"}
        prediction = predict(self.potential, self.graph, want)
        self.results = self._results(prediction)
        if spread and self.calibration is not None:
            self._add_spread(self.calibration.std(prediction, self.graph.sizes))

    def _refuse(self, properties: Sequence[str], periodic: bool) -> None:
        if not periodic and any(name.startswith("stress") for name in properties):
            raise PropertyNotImplementedError(
                "Stress is energy per volume and these atoms are not periodic along all three axes, so they have no "
                "volume. Set pbc=True with a cell, or ask epot.predict.predict for 'virial': -dE/d(strain), eV."
            )
        if not self.has_uncertainty and any(name in SPREAD for name in properties):
            raise PropertyNotImplementedError(self._no_uncertainty())

    def _no_uncertainty(self) -> str:
        return (
            "This potential has no calibrated uncertainty: fit it with the stages Posterior and Calibrate "
            "(`epot fit` does), and pass the model file's `about` to the calculator."
        )

    def _check_elements(self, numbers: np.ndarray) -> None:
        """Once per composition."""
        key = numbers.tobytes()
        if self.potential.elements is None or key == self._checked:
            return
        if unknown := sorted(set(numbers.tolist()) - set(self.potential.elements)):
            raise UnknownElementError(
                f"These atoms hold {names(unknown)}; the potential knows {names(sorted(self.potential.elements))}. "
                "Fit one on data that holds these elements."
            )
        self._checked = key

    def _results(self, prediction: Prediction) -> dict[str, Any]:
        assert prediction.forces is not None  # noqa: S101 (asked for)
        energy = float(prediction.energy)
        results: dict[str, Any] = {
            "energy": energy,
            "free_energy": energy,
            "energies": _array(prediction.atom_energies),
            "forces": _array(prediction.forces),
        }
        if prediction.stress is not None:
            results["stress"] = _voigt(prediction.stress)
        if prediction.charges is not None:
            results["charges"] = _array(prediction.charges)
        return results

    def _add_spread(self, std: Mapping[str, torch.Tensor]) -> None:
        if "energy" in std:
            self.results["energy_std"] = float(std["energy"])
        if "forces" in std:
            self.results["forces_std"] = _array(std["forces"])
        if "stress" in std:
            self.results["stress_std"] = _voigt(std["stress"])


def _charge(atoms: ase.Atoms) -> float:
    return float(atoms.info.get("charge", 0.0))


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def _voigt(stress: torch.Tensor) -> np.ndarray:
    return _array(stress).reshape(9)[VOIGT]
