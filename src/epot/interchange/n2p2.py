"""Neural network potentials of n2p2 and RuNNer: a folder with ``input.nn``, ``scaling.data`` and ``weights.*.data``.

A. Singraber, J. Behler, C. Dellago, J. Chem. Theory Comput. 15, 1827 (2019), doi:10.1021/acs.jctc.8b00770;
https://github.com/CompPhysVienna/n2p2. Potentials of the second generation, which are sums of atomic energies.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..elements import to_number
from ..errors import ConfigError, ModelFileError
from ..features.descriptors.acsf import ACSF
from ..models.acsf_nn import AcsfNN
from ..potential import Potential, Sum
from ..registry import nearest
from ..terms.offsets import Offsets
from ..typing import Tensor
from ..units import ENERGY, LENGTH

CUTOFF_TYPES = {
    "1": "cosine", "2": "tanh3", "3": "unit_tanh3", "4": "exponential", "5": "poly1", "6": "poly2", "7": "poly3",
    "8": "poly4",
}  # fmt: skip
INNER = ("cosine", "exponential", "poly1", "poly2", "poly3", "poly4")
"""Cutoff functions that look at alpha; the others ignore it."""
ACTIVATIONS = {
    "t": ("tanh", 1.0), "p": ("softplus", 1.0), "s": ("sigmoid", 1.0), "r": ("relu", 1.0), "c": ("cos", 1.0),
    "l": ("identity", 1.0), "h": ("square", 1.0), "g": ("gaussian", math.sqrt(0.5)), "S": ("sigmoid", -1.0),
    "e": ("exp", -1.0),
}  # fmt: skip
"""Letter to our name, and the factor of the argument: exp(-x^2 / 2), 1 - sigmoid(x) and exp(-x) are those of others."""
SHAPES = {"p1": "poly1", "p2": "poly2", "p3": "poly3", "p4": "poly4", "e": "exponential"}


class _Function(NamedTuple):
    """A symmetry function of one element: its place in n2p2's order, and ours as configuration."""

    order: tuple
    radial: bool
    config: dict[str, Any]


class _Settings:
    """Keywords of an ``input.nn`` with the words that follow them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, list[list[str]]] = {}
        for line in _text(path).splitlines():
            words = line.split("#")[0].split()
            if words:
                self.lines.setdefault(words[0], []).append(words[1:])

    def __contains__(self, key: str) -> bool:
        return key in self.lines

    def words(self, key: str) -> list[str]:
        if key not in self.lines:
            raise ModelFileError(f"{self.path} has no {key}: it is not complete.")
        return self.lines[key][-1]

    def number(self, key: str, default: float) -> float:
        return float(self.words(key)[0]) if key in self.lines else default


def matches(path: str | os.PathLike) -> bool:
    """Whether a path is a folder of n2p2 (or the ``input.nn`` in one)."""
    path = Path(path)
    return path.name == "input.nn" if path.is_file() else (path / "input.nn").is_file()


def load(path: str | os.PathLike, *, length_unit: str = "bohr", energy_unit: str = "Ha") -> Potential:
    """The potential of a folder, in float64.

    Args:
        path: the folder.
        length_unit: of the data that it was fitted to; the files do not say.
        energy_unit: likewise.

    Returns:
        ``Sum(offset=Offsets, body=AcsfNN)``.

    Raises:
        ModelFileError: a file is missing or damaged, or the potential is of a kind that is not a sum of networks on
            symmetry functions.
        ConfigError: an unknown unit.
    """
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    for unit, known in ((length_unit, LENGTH), (energy_unit, ENERGY)):
        if unit not in known:
            raise ConfigError(f"{unit!r} is no unit that is known here; {nearest(unit, known)}")
    length, energy = LENGTH[length_unit], ENERGY[energy_unit]
    settings = _Settings(folder / "input.nn")
    _refuse_others(settings)
    elements = sorted(to_number(s) for s in settings.words("elements"))
    _need(folder, ["scaling.data", *(f"weights.{z:03d}.data" for z in elements)])
    functions = {z: _functions(settings, z, length) for z in elements}
    layers, letters = _layers(settings)
    model = _empty(settings, elements, functions, layers, letters)
    descriptor: Any = model.descriptor
    place = {f: k for k, (_, f) in enumerate(descriptor.functions)}
    known = descriptor.radial_functions + descriptor.angular_functions
    configs = [*descriptor.radial, *descriptor.angular]
    scaling = _table(folder / "scaling.data", 6, settings)
    column = 0
    for k, z in enumerate(elements):
        columns = [place[known[configs.index(f.config)]] for f in functions[z]]
        _standardize(model, k, columns, scaling[scaling[:, 0] == k + 1], settings)
        column = _weights(model, k, column, columns, folder / f"weights.{z:03d}.data", letters, settings)
    model.readout.scale.fill_(energy / settings.number("conv_energy", 1.0))
    free = {to_number(s): float(e) for s, e in settings.lines.get("atom_energy", [])}
    offsets = [(settings.number("mean_energy", 0.0) + free.get(z, 0.0)) * energy for z in elements]
    return Sum(offset=Offsets(elements, offsets), body=model)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as why:
        raise ModelFileError(f"{path} cannot be read: {why}") from None


def _need(folder: Path, names: Sequence[str]) -> None:
    if missing := [n for n in names if not (folder / n).is_file()]:
        raise ModelFileError(f"{folder} lacks {', '.join(missing)}: an n2p2 potential is these files and input.nn.")


def _refuse_others(settings: _Settings) -> None:
    """Whatever is not a sum of one network for each element on its symmetry functions."""
    generation = next((settings.words(k)[0] for k in ("nnp_generation", "nnp_type") if k in settings), "2")
    if generation not in ("2", "2G-HDNNP", "0"):
        raise ModelFileError(
            f"{settings.path} is a potential of generation {generation}: its energy has electrostatics of charges that "
            "networks (and, from the fourth, equilibration over the whole structure) give. Only potentials of the "
            "second generation, sums of atomic energies, can be read."
        )
    mode = settings.words("committee_mode")[0] if "committee_mode" in settings else "disabled"
    if mode != "disabled":
        raise ModelFileError(f"{settings.path} is a committee ({mode}): load the folder of each member by itself.")
    for key in settings.lines:
        if key.startswith(("element_", "global_symfunction")) and key.endswith("_short"):
            raise ModelFileError(f"{settings.path} uses {key}, which is not read: write it out for each element.")


def _functions(settings: _Settings, number: int, length: float) -> list[_Function]:
    """Symmetry functions of an element in the order in which n2p2 sorts them."""
    found = []
    for words in settings.lines.get("symfunction_short", []):
        try:
            if to_number(words[0]) == number:
                found.append(_function(words[1], words[2:], length))
        except ModelFileError:
            raise
        except (IndexError, ValueError, KeyError):
            line = " ".join(words)
            raise ModelFileError(f"{settings.path}: this symmetry function is not understood: {line}") from None
    if not found:
        raise ModelFileError(f"{settings.path} has no symmetry functions of element {number}.")
    return sorted(found, key=lambda f: f.order)


def _function(kind: str, words: list[str], length: float) -> _Function:
    angular = kind in ("3", "9", "21", "22")
    if not angular and kind not in ("2", "20"):
        raise ModelFileError(
            f"Symmetry functions of type {kind} are not read; types 2, 3, 9 and, with compact support, 20, 21, 22 are."
        )
    n = 2 if angular else 1
    at = sorted(to_number(s) for s in words[:n])
    config: dict[str, Any] = {"neighbors": at}
    if kind in ("20", "21", "22"):
        shape = words[-1]
        left, right, *angles = (float(w) for w in words[n:-1])
        config |= {"left": left * length, "cutoff": right * length, "shape": SHAPES[shape.removesuffix("a")]}
        config |= {"asymmetric": shape.endswith("a")}
        config |= {"angles": angles, "closed": kind == "21"} if angular else {}
        return _Function((int(kind), shape, *at, right, left, *angles), not angular, config)
    values = [float(w) for w in words[n:]]
    if not angular:
        eta, center, right = values
        config |= {"eta": eta / length**2, "center": center * length, "cutoff": right * length}
        return _Function((2, right, eta, center, *at), True, config)
    eta, sign, zeta, right, center = (*values, 0.0)[:5]
    config |= {"eta": eta / length**2, "zeta": zeta, "lambda": sign, "center": center * length}
    config |= {"cutoff": right * length, "closed": kind == "3"}
    return _Function((int(kind), right, eta, center, zeta, sign, *at), False, config)


def _layers(settings: _Settings) -> tuple[list[int], list[str]]:
    """Widths of the hidden layers, and their letters."""
    n = int(settings.words("global_hidden_layers_short")[0])
    widths, letters = settings.words("global_nodes_short"), settings.words("global_activation_short")
    if len(widths) != n or len(letters) != n + 1:
        raise ModelFileError(f"{settings.path}: {n} hidden layers need {n} widths and {n + 1} activations.")
    if letters[-1] != "l" or set(letters) - set(ACTIVATIONS):
        raise ModelFileError(f"{settings.path}: activations {' '.join(letters)} are not read; the last has to be l.")
    if len({ACTIVATIONS[a][0] for a in letters[:-1]}) > 1:
        raise ModelFileError(f"{settings.path}: the hidden layers have different activations ({' '.join(letters)}).")
    return [int(w) for w in widths], letters[:-1]


def _empty(
    settings: _Settings,
    elements: list[int],
    functions: dict[int, list[_Function]],
    layers: list[int],
    letters: list[str],
) -> AcsfNN:
    """A model of the right sizes; its descriptor has the functions of all elements, each once."""
    radial: list[dict] = []
    angular: list[dict] = []
    for f in (f for z in elements for f in functions[z]):
        kept = radial if f.radial else angular
        if f.config not in kept:
            kept.append(f.config)
    kind, *alpha = settings.words("cutoff_type")
    if kind not in CUTOFF_TYPES:
        raise ModelFileError(f"{settings.path}: cutoff_type {kind} is not read; types 1 to 8 are.")
    fade = CUTOFF_TYPES[kind]
    inner = float(alpha[0]) if alpha and fade in INNER else 0.0
    descriptor = ACSF(elements, max(f["cutoff"] for f in radial + angular), radial, angular, fade, inner).config()
    with torch.random.fork_rng(devices=[]):
        model = AcsfNN(elements, descriptor, layers, ACTIVATIONS[letters[0]][0])
    torch.nn.init.zeros_(model.readout.weight)
    return model.double()


def _standardize(model: AcsfNN, k: int, columns: list[int], rows: np.ndarray, settings: _Settings) -> None:
    """``scale_min + (G - reference) * (scale_max - scale_min) / spread``, as a mean and a scale."""
    if len(rows) != len(columns):
        raise ModelFileError(
            f"{settings.path.parent / 'scaling.data'} has {len(rows)} rows for element {k + 1}; "
            f"input.nn has {len(columns)} symmetry functions."
        )
    rows = rows[np.argsort(rows[:, 1])]
    least, most, mean, sigma = rows[:, 2:6].T
    low, high = settings.number("scale_min_short", 0.0), settings.number("scale_max_short", 1.0)
    centered = "center_symmetry_functions" in settings
    if "scale_symmetry_functions_sigma" in settings:
        reference, spread = mean, sigma / (high - low)
    elif "scale_symmetry_functions" in settings:
        reference, spread = (mean if centered else least), (most - least) / (high - low)
    else:
        reference, spread, low = (mean if centered else np.zeros_like(mean)), np.ones_like(mean), 0.0
    spread = np.where(spread == 0, 1.0, spread)  # a function that never varied
    model.standardize.mean[k, columns] = torch.from_numpy(reference - low * spread)
    model.standardize.scale[k, columns] = torch.from_numpy(spread)


@torch.no_grad()
def _weights(
    model: AcsfNN, k: int, column: int, columns: list[int], path: Path, letters: list[str], settings: _Settings
) -> int:
    """Copy the network of an element; ``column`` is where its part of the readout starts. Returns where it ends."""
    layers: Any = model.networks.networks[k]
    sizes = [len(columns), *(layer.out_features for layer in layers), 1]
    found = _connections(path, sizes, settings)
    if "normalize_nodes" in settings:
        found = [(w / n, b / n) for (w, b), n in zip(found, sizes, strict=False)]
    for place, (layer, (weight, bias), letter) in enumerate(zip(layers, found, letters, strict=False)):
        factor = ACTIVATIONS[letter][1]
        layer.bias.copy_(bias * factor)
        if place:
            layer.weight.copy_(weight * factor)
        else:
            layer.weight.zero_()
            layer.weight[:, columns] = weight * factor
    last = torch.cat([found[-1][0][0], found[-1][1]])
    model.readout.weight[column : column + len(last)] = last
    return column + len(last)


def _connections(path: Path, sizes: list[int], settings: _Settings) -> list[tuple[Tensor, Tensor]]:
    """Weights ``(out, in)`` and biases of every layer; all of them must be there."""
    weights = [torch.full((b, a), math.nan, dtype=torch.float64) for a, b in zip(sizes, sizes[1:], strict=False)]
    biases = [torch.full((b,), math.nan, dtype=torch.float64) for b in sizes[1:]]
    try:
        for words in _rows(path):
            value, kind, place = float(words[0]), words[1], [int(w) - 1 for w in words[4::2]]
            layer = int(words[3])
            if kind == "a":
                weights[layer][int(words[6]) - 1, place[0]] = value
            else:
                biases[layer - 1][place[0]] = value
    except (IndexError, ValueError):
        raise ModelFileError(f"{path} does not fit the networks of {settings.path}: {' '.join(words)}") from None
    if any(bool(t.isnan().any()) for t in (*weights, *biases)):
        shape = "-".join(str(s) for s in sizes)
        raise ModelFileError(f"{path} is not complete: {settings.path} has networks of {shape} units.")
    return list(zip(weights, biases, strict=True))


def _rows(path: Path) -> list[list[str]]:
    lines = (line.split("#")[0].split() for line in _text(path).splitlines())
    return [words for words in lines if words]


def _table(path: Path, columns: int, settings: _Settings) -> np.ndarray:
    """Numbers of ``scaling.data``: element, function, minimum, maximum, mean, sigma."""
    try:
        rows = [[float(w) for w in words] for words in _rows(path)]
    except ValueError as why:
        raise ModelFileError(f"{path} is damaged: {why}") from None
    rows = [r for r in rows if len(r) == columns]
    if not rows:
        raise ModelFileError(f"{path} has no rows of {columns} numbers, as {settings.path} needs them.")
    return np.array(rows)
