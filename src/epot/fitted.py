"""A potential together with everything that was learned about it: what a fit returns and a file holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from . import files, modelfile
from .data.readers.compressed import bare_name, writing
from .data.structure import Structure
from .data.writers import write_xyz
from .elements import names
from .errors import DataError, ModelError
from .evaluate.doctor_model import examine
from .evaluate.doctor_report import Report
from .evaluate.errors import Errors, evaluate
from .potential import Potential
from .uncertainty.calibration import Calibration
from .uncertainty.domain import Domain, warn
from .uncertainty.estimate import MAX_ATOMS, Estimate, estimates

if TYPE_CHECKING:
    import ase

    from .simulate.calculator import Calculator


class Fitted:
    """A fitted potential: predict, evaluate, simulate, save.

    Args:
        potential: what was fitted.
        about: JSON that travels with it: ``elements training domain calibration doctor fit versions citations``.
        device: where its tensors go.
    """

    def __init__(self, potential: Potential, about: dict[str, Any] | None = None, *, device: str = "cpu") -> None:
        self.potential = potential.to(device).eval()
        self.about = dict(about or {})
        self.device = device

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "cpu") -> Fitted:
        """Read a model file; nothing in it is executed.

        Raises:
            ModelFileError: it is missing, damaged, not a model file or of a newer format.
        """
        potential, about = modelfile.load(path, device)
        return cls(potential, about, device=device)

    def save(self, path: str | os.PathLike) -> Path:
        """Write a model file; the previous one stays intact until the new one is complete.

        Raises:
            ModelFileError: it could not be written.
        """
        return modelfile.save(path, self.potential, self.about)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that it was fitted to."""
        if self.potential.elements is not None:
            return self.potential.elements
        return self.domain.elements if self.domain is not None else ()

    @property
    def calibration(self) -> Calibration | None:
        """From the spread of the ensemble to standard deviations; None where the fit had no Calibrate stage."""
        return Calibration.of(self.about)

    @property
    def domain(self) -> Domain | None:
        """The ranges of the training set; None where they were not recorded."""
        return Domain.of(self.about)

    @overload
    def predict(
        self,
        structures: Structure | ase.Atoms,
        want: Iterable[str] = ...,
        *,
        uncertainty: bool = ...,
        max_atoms: int = ...,
    ) -> Estimate: ...
    @overload
    def predict(
        self, structures: Iterable, want: Iterable[str] = ..., *, uncertainty: bool = ..., max_atoms: int = ...
    ) -> list[Estimate]: ...
    def predict(
        self,
        structures: Any,
        want: Iterable[str] = ("energy", "forces"),
        *,
        uncertainty: bool = True,
        max_atoms: int = MAX_ATOMS,
    ) -> Any:
        """Energies, forces, ... with calibrated standard deviations, one by one or in batches: the same numbers.

        Args:
            structures: one :class:`Structure` or ``ase.Atoms`` gives one :class:`Estimate`; a list of them or a
                :class:`Dataset` gives a list.
            want: any of ``energy forces stress virial members``.
            uncertainty: False leaves the standard deviations out, which saves one backward pass for each
                member of the ensemble.
            max_atoms: of a batch.

        Warns:
            DomainWarning: structures lie outside the data that it was fitted to.

        Raises:
            ConfigError: ``want`` holds an unknown word.
            ModelError: ``members`` of a potential without an ensemble; stress where no structure has one.
            UnknownElementError: the potential does not know an element.
            DataError: ``structures`` is something else.
        """
        want = tuple(want)
        single = isinstance(structures, Structure) or _is_atoms(structures)
        items = _as_structures([structures] if single else structures)
        if "stress" in want and len(items) and not any(s.pbc.all() for s in items):
            raise ModelError(
                "Stress is energy per volume, and no structure here is periodic along all three axes, so that it would "
                "have a volume. Ask for 'virial' (-dE/d(strain), eV) instead."
            )
        found = list(
            estimates(
                self.potential,
                items,
                want,
                calibration=self.calibration,
                domain=self.domain,
                uncertainty=uncertainty,
                max_atoms=max_atoms,
                device=self.device,
            )
        )
        warn([list(e.violations) for e in found])
        return found[0] if single else found

    def evaluate(self, dataset: Iterable[Structure], **options: Any) -> Errors:
        """Errors on labelled structures, with how well the standard deviations describe them.

        Takes the keyword arguments of :func:`epot.evaluate.errors.evaluate`.

        Raises:
            LabelError: no structure has a label to compare with.
        """
        items = dataset if isinstance(dataset, Sequence) and not _any_atoms(dataset) else _as_structures(dataset)
        return evaluate(self.potential, self.about, items, device=self.device, **options)

    def write(self, structures: Sequence, path: str | os.PathLike, *, uncertainty: bool = True) -> dict[str, Any]:
        """Predict into extended XYZ, one batch in memory at a time; the file is complete or not there.

        Keys: ``energy forces stress energy_std forces_std stress_std`` (those that are defined), and ``outside``: why a
        structure lies outside the domain. Labels that the structures had are left out.

        Args:
            structures: :class:`Structure` or ``ase.Atoms``.
            path: ``.xyz``, or compressed (``.xyz.gz``).
            uncertainty: False leaves the standard deviations out, which is faster with an ensemble.

        Returns:
            ``n_structures`` and ``outside``, how many of them lie outside the domain; None where it is not known.

        Raises:
            DataError: another suffix, or the file cannot be written.
            UnknownElementError: the potential does not know an element.
        """
        path, items = Path(path), _as_structures(structures)
        if Path(bare_name(path)).suffix not in (".xyz", ".extxyz"):
            raise DataError(f"Predictions are written as extended XYZ; {path.name} is not .xyz (or .xyz.gz, ...).")
        periodic = any(s.pbc.all() for s in items)
        want = ("energy", "forces", "stress") if periodic else ("energy", "forces")
        found = estimates(
            self.potential, items, want, calibration=self.calibration, domain=self.domain,
            uncertainty=uncertainty, device=self.device,
        )  # fmt: skip
        facts: dict[str, Any] = {"n_structures": 0, "outside": None if self.domain is None else 0}

        def frames() -> Iterator[Structure]:
            for structure, estimate in zip(items, found, strict=True):
                facts["n_structures"] += 1
                if self.domain is not None:
                    facts["outside"] += bool(estimate.violations)
                yield _labelled(structure, estimate)

        with files.replacing(path) as beside, writing(beside, path.name.lower()) as out:
            write_xyz(frames(), out)
        return facts

    def calculator(self, **options: Any) -> Calculator:
        """An ASE calculator (:class:`epot.simulate.calculator.Calculator`, whose keyword arguments it takes)."""
        from .simulate.calculator import Calculator

        return Calculator(self.potential, self.about, **({"device": self.device} | options))

    def doctor(self, structures: Sequence = (), **options: Any) -> Report:
        """Test it: forces, stress, symmetries, smoothness, energy drift; the verdict then travels with it.

        Args:
            structures: of its domain (some test structures).
            **options: of :func:`epot.evaluate.doctor_model.examine`.
        """
        report = examine(self.potential, _as_structures(structures), **options)
        self.about["doctor"] = report.to_json()
        return report

    def cite(self) -> str:
        """BibTeX of exactly the methods that it uses."""
        found = [getattr(type(m), "CITATION", "").strip() for m in self.potential.modules()]
        return "\n".join(dict.fromkeys(text for text in found if text))

    def __repr__(self) -> str:
        terms = ", ".join(f"{k}={type(v).__name__}" for k, v in getattr(self.potential, "terms", {}).items())
        kind = "none" if self.calibration is None else self.calibration.kind
        terms = terms or type(self.potential).__name__
        return f"Fitted({terms}; elements {names(self.elements) or 'any'}; uncertainty: {kind})"


def _labelled(structure: Structure, estimate: Estimate) -> Structure:
    """The structure with predictions as its labels, standard deviations beside them."""
    info = dict(structure.info)
    if estimate.energy_std is not None:
        info["energy_std"] = estimate.energy_std
    if estimate.stress_std is not None:
        info["stress_std"] = estimate.stress_std.ravel()
    if estimate.violations:
        info["outside"] = "; ".join(estimate.violations)
    spread = {} if estimate.forces_std is None else {"forces_std": estimate.forces_std}
    return structure.replace(
        energy=estimate.energy, forces=estimate.forces, stress=estimate.stress, charges=estimate.charges, dipole=None,
        info=info, arrays=dict(structure.arrays) | spread,
    )  # fmt: skip


def _is_atoms(value: Any) -> bool:
    return hasattr(value, "get_positions") and hasattr(value, "numbers")


def _any_atoms(values: Sequence) -> bool:
    return isinstance(values, list) and any(_is_atoms(v) for v in values)


def _as_structures(values: Any) -> Sequence[Structure]:
    """A sequence of structures, untouched where it is one already."""
    if isinstance(values, Sequence) and not isinstance(values, (str, bytes, list, tuple)):
        return values
    try:
        items = list(values)
    except TypeError:
        raise DataError(
            f"A structure, ase.Atoms or a list of them was expected, not {type(values).__name__}."
        ) from None
    made = [Structure.from_ase(v) if _is_atoms(v) else v for v in items]
    for index, item in enumerate(made):
        if not isinstance(item, Structure):
            raise DataError(f"Item {index} is a {type(item).__name__}; expected a Structure or ase.Atoms.")
    return made
