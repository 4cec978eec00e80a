"""ANI networks from torchani (https://github.com/aiqm/torchani, version 2, and what version 1 wrote)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..blocks.element_networks import ElementCommittee, ElementNetworks
from ..elements import to_number
from ..errors import ConfigError, ModelFileError
from ..models.ani import ANI
from ..potential import Potential, Sum
from ..terms.offsets import Offsets
from ..typing import Tensor
from ..units import HARTREE
from .saved_state import peek, read

OLD_PREFIXES = {"aev_computer.": "potentials.nnp.", "neural_networks.": "potentials.nnp.", "potentials.2.": None}
OLD_CONSTANTS = {
    "EtaR": "radial.eta", "ShfR": "radial.shifts", "EtaA": "angular.eta", "Zeta": "angular.zeta",
    "ShfA": "angular.shifts", "ShfZ": "angular.sections",
}  # fmt: skip
AEV = "potentials.nnp.aev_computer."
NETWORKS = re.compile(
    r"potentials\.nnp\.neural_networks\.(?:members\.)?(?:(?P<member>\d+)\.)?(?:atomics\.)?(?P<element>[A-Z][a-z]?)\."
    r"(?:layers\.)?(?P<layer>\d+|final_layer)\.(?P<part>weight|bias)"
)
IGNORED = ("species_converter.", "atomic_numbers", "energy_shifter.", "neighborlist.", AEV)


class _Network(NamedTuple):
    """Weights ``(n_out, n_in)`` and biases (or None) of the layers of one network."""

    weights: list[Tensor]
    biases: list[Tensor | None]


def matches(path: str | os.PathLike) -> bool:
    """Whether a file holds the state of a torchani model, as ``torch.save(model.state_dict(), path)`` writes it."""
    state = peek(path)
    return state is not None and any(NETWORKS.fullmatch(k) for k in _renamed(state))


def load(path: str | os.PathLike, **options: Any) -> Potential:
    """Read a file that ``torch.save(model.state_dict(), path)`` wrote.

    Args:
        path: of the file.
        **options: of :func:`from_torchani`.

    Raises:
        ModelFileError: the file cannot be read without running code from it, or holds something else.
    """
    state = read(path, "the state_dict of a torchani model")
    return from_torchani(state, **options)


def from_torchani(
    state: Mapping[str, Tensor],
    *,
    activation: str | None = None,
    cutoff_function: str | None = None,
    cutoff: float | None = None,
    angular_cutoff: float | None = None,
) -> Potential:
    """A potential with the weights of a torchani model, in eV.

    A state does not tell everything. What is left out is taken to be as in torchani: with biases, as the published
    models have them, CELU and cosine cutoffs; without, as models made by ``simple_ani``, GELU and smooth ones.

    Args:
        state: its ``state_dict()``, of a single network or an ensemble.
        activation: ``"celu"`` (alpha = 0.1), ``"gelu"`` or another of
            :data:`epot.blocks.element_networks.ACTIVATIONS`.
        cutoff_function: ``"cosine"``, ``"exponential"`` (torchani's ``smooth``) or another of
            :data:`epot.features.cutoff.CUTOFFS`.
        cutoff, angular_cutoff: Å; taken from the shifts, which go to the cutoff in equal steps, if not given.

    Returns:
        ``Sum(offset=Offsets, body=ANI)``, of as many members as the ensemble has, in the precision of the weights;
        the :class:`~epot.models.ani.ANI` alone where the state holds no self energies.

    Raises:
        ModelFileError: the state is not that of such a model, or has terms beside the networks.
    """
    state = _renamed(state)
    members = _networks(state)
    elements = _elements(state, members[0])
    biased = any(b is not None for b in members[0][elements[0]].biases)
    first = members[0][elements[0]].weights[0]
    try:
        model = ANI(
            elements,
            hidden={e: [len(w) for w in members[0][e].weights[:-1]] for e in elements},
            activation=activation or ("celu" if biased else "gelu"),
            n_members=len(members),
            standardized=False,
            cutoff_function=cutoff_function or ("cosine" if biased else "exponential"),
            descriptor=_constants(state, cutoff, angular_cutoff),
        )
    except ConfigError as why:
        raise ModelFileError(f"The state does not make an ANI model: {why}") from None
    if model.descriptor.size != first.shape[1]:
        raise ModelFileError(
            f"The networks take {first.shape[1]} numbers and the symmetry functions of {len(elements)} elements are "
            f"{model.descriptor.size}: the state holds another kind of descriptor, or other elements."
        )
    model = model.to(first.dtype)
    with torch.no_grad():
        _fill(model, [[member[e] for e in elements] for member in members])
    energies = state.get("energy_shifter.self_energies")
    if energies is None:
        return model
    if energies.numel() != len(elements):
        raise ModelFileError(f"There are {energies.numel()} self energies for {len(elements)} elements.")
    return Sum(offset=Offsets(elements, (energies.double() * HARTREE).tolist()), body=model)


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of version 2 for those of version 1."""
    made = {}
    for key, value in state.items():
        key = str(key).replace("radial_terms", "radial").replace("angular_terms", "angular")
        for old, put in OLD_PREFIXES.items():
            if key.startswith(old):
                key = put + key if put else "potentials.nnp." + key.removeprefix(old)
        last = key.rsplit(".", 1)[-1]
        if key.startswith(AEV) and last in OLD_CONSTANTS:
            key = AEV + OLD_CONSTANTS[last]
        made[key] = value
    return made


def _networks(state: Mapping[str, Tensor]) -> list[dict[str, _Network]]:
    """The networks of each member by element, layers in order."""
    found: dict[int, dict[str, dict[int, dict[str, Tensor]]]] = {}
    others = []
    for key, value in state.items():
        match = NETWORKS.fullmatch(key)
        if match:
            last = match["layer"] == "final_layer"
            layers = found.setdefault(int(match["member"] or 0), {}).setdefault(match["element"], {})
            layers.setdefault(10_000 if last else int(match["layer"]), {})[match["part"]] = value
        elif not key.startswith(IGNORED):
            others.append(key)
    if not found:
        raise ModelFileError("This is not the state of a torchani model: it holds no potentials.nnp.neural_networks.")
    if others:
        raise ModelFileError(
            f"The model has more than networks on symmetry functions ({others[0]} and {len(others) - 1} others); only "
            "models without repulsion, dispersion and charges are read."
        )
    members = []
    for networks in (found[k] for k in sorted(found)):
        if set(networks) != set(found[min(found)]):
            raise ModelFileError("The members of the ensemble have networks for different elements.")
        member = {}
        for element, layers in networks.items():
            parts = [layers[k] for k in sorted(layers)]
            member[element] = _Network([p["weight"] for p in parts], [p.get("bias") for p in parts])
            if len(parts) < 2 or len(parts[-1]["weight"]) != 1:
                raise ModelFileError(f"The network of {element} must have hidden layers and one output.")
        members.append(member)
    return members


def _elements(state: Mapping[str, Tensor], networks: Mapping[str, _Network]) -> list[str]:
    """Symbols in the order of the symmetry functions."""
    numbers = state.get("atomic_numbers")
    if numbers is None:
        return list(networks)
    elements = {to_number(e): e for e in networks}
    if set(numbers.tolist()) != set(elements):
        raise ModelFileError(f"The state is of the elements {numbers.tolist()}; it has networks for {list(networks)}.")
    return [elements[z] for z in numbers.tolist()]


def _constants(state: Mapping[str, Tensor], cutoff: float | None, angular_cutoff: float | None) -> dict[str, Any]:
    """Settings of :class:`epot.features.descriptors.aev.AEV`."""
    try:
        read = {name: state[AEV + name].double().flatten().tolist() for name in OLD_CONSTANTS.values()}
    except KeyError as why:
        raise ModelFileError(f"This is not the state of a torchani model: it lacks {why}.") from None
    ends = {}
    for part, given in (("radial", cutoff), ("angular", angular_cutoff)):
        shifts = read[f"{part}.shifts"]
        if given is None and len(shifts) < 2:
            raise ModelFileError(f"The {part} cutoff does not follow from {len(shifts)} shifts: give it.")
        end = given if given is not None else shifts[0] + len(shifts) * (shifts[-1] - shifts[0]) / (len(shifts) - 1)
        ends[part] = end if given is not None else round(end, 4)  # shifts are kept in single precision
    return {
        "name": "aev",
        "cutoff": ends["radial"],
        "angular_cutoff": ends["angular"],
        "radial_eta": read["radial.eta"][0],
        "radial_shifts": read["radial.shifts"],
        "angular_eta": read["angular.eta"][0],
        "zeta": _whole(read["angular.zeta"][0]),
        "angular_shifts": read["angular.shifts"],
        "sections": read["angular.sections"],
    }


def _whole(value: float) -> float:
    return float(round(value)) if abs(value - round(value)) < 1e-6 else value


def _fill(model: ANI, members: list[list[_Network]]) -> None:
    """Put the weights in, members by elements."""
    networks = model.networks
    if isinstance(networks, ElementCommittee):
        model.scale.fill_(HARTREE)
        for k, (weights, biases) in enumerate(zip(networks.weights, networks.biases, strict=True)):
            for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):  # type: ignore[call-overload]
                for m, member in enumerate(members):
                    weight[m].copy_(member[k].weights[layer].T)
                    bias[m].copy_(_or_zero(member[k].biases[layer]))
        return
    assert isinstance(networks, ElementNetworks)
    model.readout.scale.fill_(HARTREE)
    last = []
    for layers, network in zip(networks.networks, members[0], strict=True):
        for layer, weight, bias in zip(layers, network.weights, network.biases, strict=False):  # type: ignore[call-overload]
            layer.weight.copy_(weight)
            layer.bias.copy_(_or_zero(bias))
        last += [network.weights[-1][0], _or_zero(network.biases[-1]).reshape(-1).expand(1).to(network.weights[-1])]
    model.readout.weight.copy_(torch.cat(last))


def _or_zero(bias: Tensor | None) -> Tensor:
    return torch.zeros(()) if bias is None else bias
