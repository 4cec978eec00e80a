"""DFT, Hartree-Fock and MP2 of molecules through PySCF.

Sun et al., J. Chem. Phys. 153, 024109 (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar, Literal

import numpy as np

from ....errors import EngineError
from ....units import BOHR, HARTREE
from ...structure import LABELS, Structure
from . import finite, unpaired


@dataclass(frozen=True)
class PySCF:
    """A molecule with a Gaussian basis set; restricted for a closed shell, unrestricted otherwise.

    Args:
        method: ``dft``, ``hf`` or ``mp2``.
        functional: of ``dft``, in PySCF's spelling ("pbe", "b3lyp", "wb97x-v").
        basis: in PySCF's spelling ("def2-svp", "6-31g*", "cc-pvdz").
        density_fit: density fitting: much faster, about 1e-5 Hartree an atom off, cancelling in differences. None:
            yes, but not for ``mp2``, whose forces PySCF has without it only.
        grid: level 0-9 of the integration grid of ``dft``.
        convergence: of the self-consistent field, Hartree.
        max_cycles: of the self-consistent field; a second-order solver takes over if they do not suffice.
        memory: MB.

    Charges are Mulliken's. Charges and dipole of ``mp2`` come from its relaxed density, with density fitting in the
    correlation part; all electrons are correlated.
    """

    method: Literal["dft", "hf", "mp2"] = "dft"
    functional: str = "pbe"
    basis: str = "def2-svp"
    density_fit: bool | None = None
    grid: int = 3
    convergence: float = 1e-9
    max_cycles: int = 100
    memory: int = 2000

    name: ClassVar[str] = "pyscf"

    @property
    def fitted(self) -> bool:
        """Whether density fitting is on."""
        return self.method != "mp2" if self.density_fit is None else self.density_fit

    @property
    def provides(self) -> tuple[str, ...]:
        if self.method == "mp2" and self.fitted:
            return ("energy", "charges", "dipole")
        return ("energy", "forces", "charges", "dipole")

    def version(self) -> str:
        try:
            return f"pyscf {metadata.version('pyscf')}"
        except metadata.PackageNotFoundError:
            raise EngineError("Engine 'pyscf' needs PySCF: pip install 'epot[qm]' (or pyscf).") from None

    @property
    def level(self) -> str:
        theory = self.functional if self.method == "dft" else self.method.upper()
        return f"{theory}/{self.basis}" + (" (density fitting)" if self.fitted else "")

    def __call__(self, structure: Structure, properties: tuple[str, ...] = LABELS) -> dict[str, Any]:
        if structure.pbc.any():
            raise EngineError("Engine 'pyscf' is for molecules; for a periodic structure take gpaw, gfn1 or gfn2.")
        two_s = unpaired(structure)
        try:
            return finite(self._compute(structure, two_s, [p for p in properties if p in self.provides]))
        except EngineError:
            raise
        except Exception as why:  # PySCF raises what its parts raise: KeyError for a basis, RuntimeError, ...
            raise EngineError(f"PySCF failed for {structure.formula}: {type(why).__name__}: {why}") from why

    def _compute(self, structure: Structure, two_s: int, properties: list[str]) -> dict[str, Any]:
        from pyscf import gto

        molecule = gto.M(
            atom=[(int(z), xyz) for z, xyz in zip(structure.numbers, structure.positions / BOHR, strict=True)],
            unit="Bohr",
            basis=self.basis,
            charge=round(structure.charge),
            spin=two_s,
            verbose=0,
            max_memory=self.memory,
        )
        field = self._field(molecule)
        correlated = self._correlated(field) if self.method == "mp2" else None
        top = field if correlated is None else correlated
        labels: dict[str, Any] = {"energy": float(top.e_tot) * HARTREE}
        if "forces" in properties:
            gradient = top.nuc_grad_method()
            if self.method == "dft":
                gradient.grid_response = True  # without it the forces miss a few meV/Å of the energy's slope
            labels["forces"] = -np.asarray(gradient.kernel()) * HARTREE / BOHR
        if "charges" in properties or "dipole" in properties:
            density = field.make_rdm1() if correlated is None else _relaxed(field)
            labels["charges"] = np.asarray(field.mulliken_pop(molecule, density, verbose=0)[1])
            labels["dipole"] = np.asarray(field.dip_moment(molecule, density, unit="AU", verbose=0)) * BOHR
        return {k: v for k, v in labels.items() if k in properties}

    def _field(self, molecule: Any) -> Any:
        """The converged self-consistent field."""
        from pyscf import dft, scf

        closed = molecule.spin == 0
        if self.method == "dft":
            field = (dft.RKS if closed else dft.UKS)(molecule, xc=self.functional)
            field.grids.level = self.grid
        else:
            field = (scf.RHF if closed else scf.UHF)(molecule)
        if self.fitted:
            field = field.density_fit()
        field.conv_tol, field.max_cycle = self.convergence, self.max_cycles
        field.kernel()
        if not field.converged:
            field = field.newton()
            field.kernel()
            if not field.converged:
                raise EngineError(
                    f"The self-consistent field did not converge in {self.max_cycles} cycles, nor by the "
                    "second-order solver: raise `max_cycles`, or look at the geometry, charge and spin."
                )
            field = field.undo_soscf() if hasattr(field, "undo_soscf") else field
        return field

    def _correlated(self, field: Any) -> Any:
        from pyscf import mp

        solver = _fitted_mp2(field) if self.fitted else mp.MP2(field)
        solver.kernel()
        return solver


def _fitted_mp2(field: Any) -> Any:
    from pyscf.mp import dfmp2_native, dfump2_native

    return (dfmp2_native.DFMP2 if field.mol.spin == 0 else dfump2_native.DFUMP2)(field)


def _relaxed(field: Any) -> np.ndarray:
    """Relaxed one-particle MP2 density in atomic orbitals, summed or per spin."""
    density = np.asarray(_fitted_mp2(field).run().make_rdm1_relaxed(ao_repr=False))
    orbitals = np.asarray(field.mo_coeff)
    if density.ndim == 2:
        return orbitals @ density @ orbitals.T
    return np.stack([c @ d @ c.T for c, d in zip(orbitals, density, strict=True)])
