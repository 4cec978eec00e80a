"""Kernel ridge regression of whole molecules, as of Rupp et al. on Coulomb matrices.

Rupp, Tkatchenko, Müller, von Lilienfeld, Phys. Rev. Lett. 108, 058301 (2012), doi:10.1103/PhysRevLett.108.058301;
with the Laplacian kernel: Hansen et al., J. Chem. Theory Comput. 9, 3404 (2013), doi:10.1021/ct400195d.

    E(M) = sum_m alpha_m k(M, M_m)                                                          (Rupp, Eq. 2)
    k    = delta^2 exp(-|x - x'|^2 / 2 l^2)       or       delta^2 exp(-|x - x'|_1 / l)
    alpha = (K + Sigma)^-1 (E - E_0)                                                        (Rupp, Eq. 3)

``x`` describes a whole structure. ``Output.features`` are the kernels with the training structures, spread evenly over
the atoms; the readout's weights are alpha, the precision of their prior is K. With every training structure among the
points, what :class:`epot.fit.stages.solve.Solve` finds is kernel ridge regression; forces follow by differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch

from ..blocks.manhattan import manhattan
from ..blocks.readout import LinearReadout
from ..blocks.whole_structures import suited_descriptor, whole_descriptor
from ..data.structure import Structure
from ..elements import to_number
from ..errors import ConfigError, ModelError
from ..geometry.graph import Graph
from ..potential import Output, Potential
from ..registry import nearest
from ..typing import Float, Tensor


def gaussian(x: Tensor, points: Tensor, length: float | Tensor) -> Tensor:
    """``exp(-|x - p|^2 / 2 l^2)``."""
    squares = x.square().sum(1)[:, None] + points.square().sum(1) - 2 * x @ points.T
    return torch.exp(squares.clamp(min=0) / (-2 * length**2))


def laplacian(x: Tensor, points: Tensor, length: float | Tensor) -> Tensor:
    """``exp(-|x - p|_1 / l)``: it has a kink at each point."""
    return torch.exp(manhattan(x, points) / -length)


KERNELS: dict[str, Callable[[Tensor, Tensor, float | Tensor], Tensor]] = {"gaussian": gaussian, "laplacian": laplacian}


class Krr(Potential):
    """Kernel ridge regression on a descriptor of whole structures: energies of molecules near those it has seen.

    Args:
        elements: symbols or atomic numbers.
        descriptor: of whole structures: its name or configuration; what it leaves open a fit takes from the data, with
            None all of it: ``coulomb_matrix`` for molecules (and without data), ``sine_matrix`` for crystals. On QM7
            ``{"name": "coulomb_matrix", "kind": "sorted"}`` is better than eigenvalues.
        kernel: ``"laplacian"``, better for energies of many molecules, or ``"gaussian"``, smooth, for forces.
        length: l, in the unit of the descriptor (for the Laplacian, of its sum of absolute differences); None for
            the most probable one, which the fit finds (:class:`epot.fit.stages.kernel.FitKernel`).
        delta: eV; None for what the fit finds.
        n_points: training structures that kernels are taken with, at most; None for all. Memory for a fit is about
            ``40 n^2`` bytes (1.3 GB for 5681), time grows as its cube.

    Raises:
        ConfigError: an argument is out of range, or the descriptor is one of single atoms.
    """

    recipe: ClassVar[str] = "solve"
    CITATION: ClassVar[str] = """@article{Rupp2012,
  author = {Rupp, Matthias and Tkatchenko, Alexandre and M{\\"u}ller, Klaus-Robert and von Lilienfeld, O. Anatole},
  title = {Fast and Accurate Modeling of Molecular Atomization Energies with Machine Learning},
  journal = {Phys. Rev. Lett.}, volume = {108}, pages = {058301}, year = {2012}, doi = {10.1103/PhysRevLett.108.058301}
}"""

    points: Tensor
    scales: Tensor

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        descriptor: str | Mapping[str, Any] | None = None,
        kernel: Literal["laplacian", "gaussian"] = "laplacian",
        length: float | None = None,
        delta: float | None = None,
        n_points: int | None = None,
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        self.descriptor = whole_descriptor(descriptor, self.elements, "gap or linear")
        if kernel not in KERNELS:
            raise ConfigError(f"There is no kernel {kernel!r}; {nearest(kernel, KERNELS)}")
        for name, value in {"length": length, "delta": delta, "n_points": n_points}.items():
            if value is not None and not value > 0:
                raise ConfigError(f"Krr.{name} is {value}; it must be above 0.")
        self.kernel, self.length, self.delta, self.n_points = kernel, length, delta, n_points
        self.cutoff = self.descriptor.cutoff
        self.register_buffer("points", torch.zeros(0, self.descriptor.size, dtype=torch.float64))
        self.register_buffer("scales", torch.tensor([length or 1.0, delta or 1.0], dtype=torch.float64))
        self.readout = LinearReadout(0, bias=False).double()

    @classmethod
    def for_data(cls, config: Mapping[str, Any], data: Sequence[Sequence[Structure]]) -> dict[str, Any]:
        """The descriptor that the structures need, with room for the largest."""
        return {**config, "descriptor": suited_descriptor(config.get("descriptor"), data)}

    @classmethod
    def tiny(cls) -> Krr:
        """Three molecules that the Gaussian kernel compares with, and weights from a fixed generator."""
        made = cls((1, 6, 8), {"name": "coulomb_matrix", "n_atoms_max": 24}, "gaussian")
        random = torch.Generator().manual_seed(0)
        values = torch.tensor([80.0, 40.0, -8.0, 3.0, -2.0, 0.7, 0.4], dtype=torch.float64)
        points = torch.zeros(3, made.descriptor.size, dtype=torch.float64)
        points[:, :7] = values + 3 * torch.randn(3, 7, generator=random, dtype=torch.float64)
        made.set_points(points, 30.0, 1.0)
        with torch.no_grad():
            made.readout.weight.copy_(torch.randn(3, generator=random, dtype=torch.float64))
        return made

    def set_points(self, points: Float[Tensor, "points size"], length: float, delta: float) -> None:
        """Take descriptions of training structures, and the kernel's scales; weights become zero."""
        self.points = points.detach().to(self.points)
        self.scales = torch.tensor([length, delta]).to(self.scales)
        self.readout = LinearReadout(len(points), bias=False).to(self.points)
        torch.nn.init.zeros_(self.readout.weight)

    def covariance(
        self, rows: Float[Tensor, "rows size"], points: Tensor, length: float | Tensor, delta: float | Tensor
    ) -> Float[Tensor, "rows points"]:
        """``k(x, x')``, eV^2."""
        return KERNELS[self.kernel](rows, points, length) * delta**2

    @torch.no_grad()
    def precision(self) -> Float[Tensor, "points points"]:
        """K of the points, eV^2: the precision of the prior on the weights, which no file stores."""
        return self.covariance(self.points, self.points, *self.scales)

    def forward(self, graph: Graph) -> Output:
        """Energies, spread evenly over the atoms of a structure.

        Raises:
            ModelError: it has no points yet, or the descriptor cannot describe a structure.
        """
        if not len(self.points):
            raise ModelError("This Krr has no training structures yet: fit it, with the stages FitKernel and Solve.")
        rows = self.covariance(self.descriptor(graph).to(self.points), self.points, *self.scales)
        features = (rows / graph.sizes[:, None])[graph.owner]
        energy, members = self.readout(features)
        return Output(energy, members, features)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, and what a fit found."""
        length, delta = self.scales.tolist()
        return f"{super().extra_repr()}, points: {len(self.points)}, l={length:.4g}, delta={delta:.4g} eV"
