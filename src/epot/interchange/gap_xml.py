"""Potentials of gap_fit: an XML file with its files of sparse points becomes a :class:`epot.models.gap.GAP`.

QUIP and gap_fit (github.com/libAtoms; Klawohn et al., J. Chem. Phys. 159, 174108 (2023), doi:10.1063/5.0160898).
Energies, forces and virials are those of quippy: pairs (``distance_2b``, ``distance_Nb`` of order 2), ``angle_3b`` and
``soap``, with energies of isolated atoms; core potentials and other descriptors are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import torch

from ..elements import SYMBOLS
from ..errors import ModelFileError
from ..models.gap import GAP
from ..potential import Potential, Sum
from ..terms.offsets import Offsets
from ..typing import Tensor

SQUARED_EXPONENTIAL, DOT_PRODUCT = "1", "2"
"""``covariance_type`` in the file."""
SWITCHES = {"only_intra", "only_inter", "exponents", "tail_range", "resid_name", "xml_version"}
SOAP_ONLY = {
    "radial_scaling": 0.0, "radial_decay": 0.0, "cutoff_rate": 1.0, "cutoff_dexp": 0.0, "cutoff_scale": 1.0,
    "covariance_sigma0": 0.0, "basis_error_exponent": 10.0, "n_snap": 0.0, "central_reference_all_species": False,
    "average": False, "diagonal_radial": False, "R_mix": False, "Z_mix": False, "sym_mix": False, "nu_R": 2.0,
    "nu_S": 2.0, "normalise": True, "normalize": True,
}  # fmt: skip
"""Settings of SOAP that must have these values: the conventions of others are not known here."""


@dataclass
class Coordinate:
    """One ``gpCoordinates`` of a file."""

    facts: dict[str, str]
    descriptor: str = ""
    theta: str = ""
    alpha: list[float] = field(default_factory=list)
    cutoffs: list[float] = field(default_factory=list)


@dataclass
class Contents:
    """What a file says."""

    offsets: dict[int, float] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    potential: str = ""
    coordinates: list[Coordinate] = field(default_factory=list)


def matches(path: str | os.PathLike) -> bool:
    """Whether it looks like a potential of gap_fit."""
    path = Path(path)
    if not path.is_file() or path.suffix.lower() != ".xml":
        return False
    with path.open("rb") as file:
        return b"<GAP_params" in file.read(4096)


def load(path: str | os.PathLike, **options: Any) -> Potential:
    """Energies of isolated atoms plus a GAP.

    Args:
        path: the XML file; its files of sparse points (``*.sparseX.*``) lie beside it.
        options: none.

    Raises:
        ModelFileError: it is no such file, or damaged; a file of sparse points is missing; it has a core potential,
            or a descriptor, a covariance or a setting that is not known here.
    """
    path = Path(path)
    if options:
        raise ModelFileError(f"Reading a gap_fit file has no options; given: {', '.join(options)}.")
    found = _parse(path)
    if not found.coordinates:
        raise ModelFileError(f"{path} holds no gpCoordinates: it is not a fitted potential of gap_fit.")
    core = found.data.get("do_core", "F").upper().startswith("T") or not found.potential.strip().startswith("IP GAP")
    if core:
        raise ModelFileError(
            f"{path} adds a core potential to its GAP ({found.potential or 'do_core=T'}), and its energies without it "
            "would be wrong. Refit without a core, or evaluate it with quippy and fit a GAP to that."
        )
    kernels = [_kernel(path, c) for c in found.coordinates]
    numbers = {z for k in kernels for z in k.elements} | {z for z, e in found.offsets.items() if e != 0.0}
    elements = tuple(sorted(numbers))
    if not elements:
        raise ModelFileError(f"{path} names no element, neither with an energy of an atom nor in a descriptor.")
    merged = _merge([k for k in kernels if len(k.points)])
    body = GAP(elements, kernels=[k.config(elements) for k in merged])
    for position, (part, term) in enumerate(zip(merged, body.kernel_list(), strict=True)):
        made = [part.of(label, elements, path) for label in term.labels]
        body.set_sparse([points for points, _ in made], position)
        part.alpha = torch.cat([alpha for _, alpha in made])
    with torch.no_grad():
        body.readout.weight.copy_(torch.cat([k.alpha for k in merged]))
    return Sum(offset=Offsets(elements, [found.offsets.get(z, 0.0) for z in elements]), body=body)


def _parse(path: Path) -> Contents:
    """The parts of the file that matter. No document type, so no entities: nothing can be made to expand.

    Raises:
        ModelFileError: the file is missing, not XML, or declares a document type.
    """
    found = Contents()
    text: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        text.clear()
        if tag == "Potential":
            found.potential = attributes.get("init_args", "")
        elif tag == "GAP_data":
            found.data = attributes
        elif tag == "e0":
            found.offsets[int(attributes["Z"])] = float(attributes["value"])
        elif tag == "gpCoordinates":
            found.coordinates.append(Coordinate(attributes))
        elif tag == "sparseX":
            found.coordinates[-1].alpha.append(float(attributes["alpha"]))
            found.coordinates[-1].cutoffs.append(float(attributes["sparseCutoff"]))

    def end(tag: str) -> None:
        if tag in ("descriptor", "theta"):
            setattr(found.coordinates[-1], tag, "".join(text))
        text.clear()

    def refuse(*_: Any) -> None:
        raise ModelFileError(f"{path} declares a document type, which files of gap_fit do not; it is not read.")

    def characters(piece: str) -> None:
        if sum(map(len, text)) < 100_000:  # training structures may be embedded: they are skipped
            text.append(piece)

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, characters
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except OSError as why:
        raise ModelFileError(f"{path} cannot be read: {why}.") from why
    except (expat.ExpatError, KeyError, ValueError, IndexError) as why:
        raise ModelFileError(f"{path} is not an XML file of gap_fit, or not a complete one: {why!r}.") from why
    return found


def settings(text: str) -> tuple[str, dict[str, str]]:
    """Name and settings of a descriptor's line: ``soap cutoff=5.0 species_Z={14 6 } ...``."""
    name, _, rest = text.strip().partition(" ")
    found = re.findall(r"(\w+)=(?:\{+([^{}]*)\}+|(\S+))", rest)
    return name, {key: (braces or plain).strip() for key, braces, plain in found}


@dataclass
class Kernel:
    """One kernel of one group, with its sparse points and weights, as :class:`GAP` takes it."""

    name: str
    options: dict[str, Any]
    group: tuple[int, ...]
    elements: set[int]
    points: Tensor
    alpha: Tensor
    species: tuple[int, ...] = ()
    others: list[Kernel] = field(default_factory=list)

    def config(self, elements: tuple[int, ...]) -> dict[str, Any]:
        labels = ["-".join(SYMBOLS[z] if z else "X" for z in k.group) for k in (self, *self.others)]
        if self.name == "soap" and labels == ["X"]:
            labels = [SYMBOLS[z] for z in elements]
        count = sum(len(k.points) for k in (self, *self.others))
        return {"name": self.name, "groups": labels, "n_sparse": count, **self.options}

    def of(self, label: str, elements: tuple[int, ...], path: Path) -> tuple[Tensor, Tensor]:
        """Sparse points and weights of one group."""
        for k in (self, *self.others):
            if "-".join(SYMBOLS[z] if z else "X" for z in k.group) in (label, "X"):
                return (k.points if k.name != "soap" else _reordered(k, elements, path)), k.alpha
        raise ModelFileError(f"{path} has no sparse points of {label}.")


def _kernel(path: Path, c: Coordinate) -> Kernel:
    """What one ``gpCoordinates`` says.

    Raises:
        ModelFileError: something about it is not known here.
    """
    name, given = settings(c.descriptor)
    make: dict[str, Callable[[Path, Coordinate, dict[str, str]], Kernel]] = {
        "distance_2b": _pairs, "distance_Nb": _pairs, "angle_3b": _triples, "soap": _soap,
    }  # fmt: skip
    if name not in make:
        raise ModelFileError(f"{path} has the descriptor {name!r}; those known here are {', '.join(make)}.")
    wanted = DOT_PRODUCT if name == "soap" else SQUARED_EXPONENTIAL
    if c.facts.get("covariance_type") != wanted:
        raise ModelFileError(
            f"{path}: the descriptor {name!r} has the covariance type {c.facts.get('covariance_type')!r}; known is "
            f"{wanted!r} ({'dot product' if wanted == DOT_PRODUCT else 'squared exponential'})."
        )
    if float(c.facts.get("signal_mean", 0)) != 0:
        raise ModelFileError(f"{path}: the descriptor {name!r} has f0={c.facts['signal_mean']}; it must be 0.")
    if odd := SWITCHES & given.keys():
        raise ModelFileError(f"{path}: the descriptor {name!r} has {', '.join(sorted(odd))}, which is not known here.")
    return make[name](path, c, given)


def _points(path: Path, c: Coordinate) -> np.ndarray:
    """Sparse points, ``(points, dimensions)``."""
    size, count = int(c.facts["dimensions"]), int(c.facts["n_sparseX"])
    if "sparseX_filename" not in c.facts:
        raise ModelFileError(f"{path} keeps its sparse points in itself; fit with sparse_separate_file=T.")
    file = path.parent / Path(c.facts["sparseX_filename"]).name
    if count and not file.is_file():
        raise ModelFileError(f"{path} needs its file of sparse points {file}; copy it beside the XML file.")
    values = np.fromstring(file.read_text(), sep="\n") if count else np.zeros(0)
    if len(values) != size * count or len(c.alpha) != count:
        raise ModelFileError(
            f"{file} holds {len(values)} numbers; {path} says {count} sparse points of {size} and has {len(c.alpha)} "
            "weights. One of them is of another fit, or not complete."
        )
    return values.reshape(count, size)


def _faded(path: Path, c: Coordinate) -> Tensor:
    """Sparse points of pairs and triples, with their cutoff functions."""
    return torch.from_numpy(np.column_stack([_points(path, c), np.array(c.cutoffs).reshape(-1)]))


def _distances(c: Coordinate, given: dict[str, str]) -> dict[str, Any]:
    return {
        "cutoff": float(given.get("cutoff", 0)),
        "cutoff_width": float(given.get("cutoff_transition_width", 0.5)),
        "theta": [float(t) for t in c.theta.split()],
        "delta": float(c.facts["signal_variance"]),
    }


def _pairs(path: Path, c: Coordinate, given: dict[str, str]) -> Kernel:
    if int(given.get("order", 2)) != 2:
        raise ModelFileError(f"{path} has distance_Nb of order {given['order']}; known here is order 2.")
    group = tuple(int(z) for z in given.get("Z", f"{given.get('Z1', 0)} {given.get('Z2', 0)}").split())
    alpha = torch.tensor(c.alpha, dtype=torch.float64)
    return Kernel("distance_2b", _distances(c, given), group, set(group) - {0}, _faded(path, c), alpha)


def _triples(path: Path, c: Coordinate, given: dict[str, str]) -> Kernel:
    z, a, b = (int(given.get(key, 0)) for key in ("Z", "Z1", "Z2"))
    alpha = torch.tensor(c.alpha, dtype=torch.float64)
    return Kernel("angle_3b", _distances(c, given), (a, z, b), {z, a, b} - {0}, _faded(path, c), alpha)


def _soap(path: Path, c: Coordinate, given: dict[str, str]) -> Kernel:
    for key, usual in SOAP_ONLY.items():
        value = given.get(key)
        now = None if value is None else value.upper().startswith("T") if isinstance(usual, bool) else float(value)
        if now is not None and now != usual:
            raise ModelFileError(f"{path}: its SOAP has {key}={value}; known here is {usual}.")
    zeta = float(c.facts.get("zeta", given.get("zeta", 1)))
    if zeta != int(zeta):
        raise ModelFileError(f"{path}: its SOAP has zeta={zeta}; known here are whole numbers.")
    center = int(given.get("Z", 0))
    species = tuple(int(z) for z in given.get("species_Z", str(center)).split())
    options = {
        "cutoff": float(given["cutoff"]), "cutoff_width": float(given.get("cutoff_transition_width", 0.5)),
        "n_max": int(given["n_max"]), "l_max": int(given["l_max"]), "zeta": int(zeta),
        "sigma": float(given.get("atom_sigma", given.get("atom_gaussian_width", 0.5))),
        "center_weight": float(given.get("central_weight", 1.0)), "delta": float(c.facts["signal_variance"]),
    }  # fmt: skip
    size = (options["l_max"] + 1) * (k := len(species) * options["n_max"]) * (k + 1) // 2 + 1
    if int(c.facts["dimensions"]) != size:
        raise ModelFileError(
            f"{path}: its SOAP has {c.facts['dimensions']} components, not the {size} of n_max, l_max and "
            f"{len(species)} species: it is compressed, or of another version."
        )
    points = torch.from_numpy(_points(path, c)[:, :-1])  # the last is covariance_sigma0
    alpha = torch.tensor(c.alpha, dtype=torch.float64)
    return Kernel("soap", options, (center,), {center, *species} - {0}, points, alpha, species)


def _reordered(k: Kernel, elements: tuple[int, ...], path: Path) -> Tensor:
    """Power spectra with l outermost and species in the order of ``elements``; QUIP has l innermost."""
    if set(k.species) != set(elements):
        have, all_ = (", ".join(SYMBOLS[z] for z in s) for s in (k.species, elements))
        raise ModelFileError(f"{path}: a SOAP sees neighbors of {have} only; the potential has {all_}.")
    n_max, degrees = k.options["n_max"], k.options["l_max"] + 1
    channels = len(elements) * n_max
    rows, columns = np.tril_indices(channels)
    full = torch.zeros(len(k.points), degrees, channels, channels, dtype=torch.float64)
    values = k.points.view(len(k.points), -1, degrees).transpose(1, 2)
    full[:, :, rows, columns] = values
    full[:, :, columns, rows] = values
    order = [k.species.index(z) * n_max + n for z in elements for n in range(n_max)]
    return full[:, :, order][:, :, :, order][:, :, rows, columns].reshape(len(k.points), -1)


def _place(k: Kernel) -> tuple[int, ...]:
    """Its group, whichever way round it is written."""
    return min(k.group, k.group[::-1])


def _merge(kernels: list[Kernel]) -> list[Kernel]:
    """Kernels that differ in their group alone become one: their descriptor is made once."""
    made: list[Kernel] = []
    for k in kernels:
        same = [m for m in made if (m.name, m.options) == (k.name, k.options)]
        same = [m for m in same if _place(k) not in [_place(o) for o in (m, *m.others)]]
        if same and 0 not in k.group + same[0].group:
            same[0].others.append(k)
        else:
            made.append(k)
    return made
