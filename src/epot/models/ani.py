"""ANI: one dense network for each element on atomic environment vectors, as a single potential or a committee.

J. S. Smith, O. Isayev, A. E. Roitberg, Chem. Sci. 8, 3192 (2017), doi:10.1039/C6SC05720A: ``E = sum_i NN_Z(i)(G_i)``
(Eq. 1). Widths are those of ANI-1x (J. Chem. Phys. 148, 241733 (2018), doi:10.1063/1.5023802) and ANI-2x (J. Chem.
Theory Comput. 16, 4192 (2020), doi:10.1021/acs.jctc.0c00121). Energies of free atoms are a term of their own
(:class:`epot.terms.offsets.Offsets`). The published models are committees of eight, whose energy is the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ..blocks.element_networks import ElementCommittee, ElementNetworks
from ..blocks.readout import LinearReadout
from ..blocks.standardize import Standardize
from ..elements import SYMBOLS, to_number
from ..errors import ConfigError
from ..features.descriptor import make
from ..geometry.graph import Graph
from ..potential import Output, Potential, Shared
from ..typing import Tensor

WIDTHS: dict[str, dict[str, tuple[int, ...]]] = {
    "1x": {"H": (160, 128, 96), "C": (144, 112, 96), "N": (128, 112, 96), "O": (128, 112, 96)},
    "2x": {
        "H": (256, 192, 160), "C": (224, 192, 160), "N": (192, 160, 128), "O": (192, 160, 128),
        "S": (160, 128, 96), "F": (160, 128, 96), "Cl": (160, 128, 96),
    },
}  # fmt: skip
"""Hidden layers of the published models, by element."""
OTHERS = {"1x": (128, 112, 96), "2x": (160, 128, 96)}
"""Those of elements that the published models do not have."""

LEAST = 0.1
"""Scales of standardized symmetry functions, as share of the largest: what hardly varies in the data stays small."""


class ANI(Potential):
    """ANI: per-element networks on ANI's symmetry functions.

    Args:
        elements: symbols or atomic numbers.
        layout: ``"1x"`` or ``"2x"``: constants of the symmetry functions and, with ``hidden="published"``, widths.
        hidden: hidden layers: the same for all elements, or by symbol, or ``"published"``.
        activation: ``"gelu"``, ``"silu"``; ``"celu"`` in the published models, whose second derivative jumps.
        n_members: more than 1 makes a committee: that many networks for each element, each fitted by itself; the
            energy is their mean.
        standardized: symmetry functions are shifted and scaled by their statistics over the training set, for each
            element by itself; the published models are not.
        cutoff_function: of the symmetry functions: ``"exponential"`` is smooth; ``"cosine"`` in the published models.
        descriptor: what replaces the symmetry functions of ``layout``, by name or configuration; of the latter what is
            left out is taken from the arguments above.

    Raises:
        ConfigError: an impossible value.
    """

    recipe: ClassVar[str] = "descend"
    pairwise = True
    CITATION: ClassVar[str] = """@article{Devereux2020,
  author = {Devereux, Christian and Smith, Justin S. and Huddleston, Kate K. and Barros, Kipton and Zubatyuk, Roman
    and Isayev, Olexandr and Roitberg, Adrian E.},
  title = {Extending the Applicability of the {ANI} Deep Learning Molecular Potential to Sulfur and Halogens},
  journal = {J. Chem. Theory Comput.}, volume = {16}, pages = {4192}, year = {2020}, doi = {10.1021/acs.jctc.0c00121}
}"""

    scale: Tensor

    def __init__(
        self,
        elements: Sequence[int | str] = (1, 6, 7, 8),
        layout: Literal["1x", "2x"] = "2x",
        hidden: str | Sequence[int] | Mapping[str, Sequence[int]] = (128, 96, 64),
        activation: str = "gelu",
        n_members: int = 1,
        standardized: bool = True,
        cutoff_function: str = "exponential",
        descriptor: str | Mapping[str, Any] = "aev",
    ) -> None:
        super().__init__()
        self.elements = tuple(to_number(z) for z in elements)
        if n_members < 1:
            raise ConfigError(f"ANI needs at least one member; given: {n_members}.")
        self.layout, self.activation, self.n_members, self.cutoff_function = (
            layout,
            activation,
            n_members,
            cutoff_function,
        )
        self.hidden = _widths(hidden, layout, self.elements)
        settings = {"name": descriptor} if isinstance(descriptor, str) else dict(descriptor)
        if settings.get("name") == "aev":
            settings = {"layout": layout, "cutoff_function": cutoff_function} | settings
        self.descriptor = make(settings, self.elements).float()
        if self.descriptor.whole:
            raise ConfigError(f"ANI needs a descriptor of atoms; {settings.get('name')!r} describes whole structures.")
        self.cutoff, self.standardized = self.descriptor.cutoff, standardized
        n = len(self.descriptor.elements)
        self.standardize = Standardize(n, self.descriptor.size, LEAST).float() if standardized else None
        widths = {k: self.hidden[SYMBOLS[z]] for k, z in enumerate(self.elements)}
        sizes = (len(self.elements), self.descriptor.size, widths, activation)
        self.committee = n_members > 1
        if self.committee:
            self.networks: nn.Module = ElementCommittee(n_members, *sizes)
            self.register_buffer("scale", torch.ones(()))
        else:
            networks = ElementNetworks(*sizes)
            self.networks, self.readout = networks, LinearReadout(networks.size, bias=False)

    @classmethod
    def tiny(cls) -> ANI:
        return cls((1, 6, 8), hidden=(8, 6), descriptor={"name": "aev"} | TINY)

    def forward(self, graph: Graph) -> Output:
        rows, species = self.descriptor(graph), self.descriptor.species(graph)
        if self.standardize is not None:
            rows = self.standardize(rows, species)
        if isinstance(self.networks, ElementNetworks):
            where = graph._once(f"networks {self.hidden} {self.elements}", partial(self.networks.plan, species))
            energy, features = self.networks.energies(rows, self.readout.weight, where, graph.first_order)
            members = self.readout(features)[1] if self.readout.n_members else None
            return Output(energy * self.readout.scale, members, features)
        copies = rows.expand(self.n_members, *rows.shape)
        members = self.networks(copies, species) * self.scale
        return Output(members.mean(1), members, shared=Shared((rows,), (copies,)))


TINY = {"cutoff": 4.2, "angular_cutoff": 3.6, "radial_shifts": 5, "angular_shifts": 3, "sections": 3}


def _widths(
    hidden: str | Sequence[int] | Mapping[str, Sequence[int]], layout: str, elements: tuple[int, ...]
) -> dict[str, list[int]]:
    """Hidden layers by symbol."""
    symbols = [SYMBOLS[z] for z in elements]
    if isinstance(hidden, str):
        if hidden != "published" or layout not in WIDTHS:
            raise ConfigError(f"ANI's hidden layers are 'published', widths, or widths by symbol; given: {hidden!r}.")
        hidden = {s: WIDTHS[layout].get(s, OTHERS[layout]) for s in symbols}
    if not isinstance(hidden, Mapping):
        hidden = dict.fromkeys(symbols, hidden)
    if missing := [s for s in symbols if s not in hidden]:
        raise ConfigError(f"ANI has no hidden layers for {', '.join(missing)}; there are those of {', '.join(hidden)}.")
    return {s: [int(w) for w in hidden[s]] for s in symbols}
