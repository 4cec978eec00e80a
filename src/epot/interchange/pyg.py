"""DimeNet++ from torch_geometric (https://github.com/pyg-team/pytorch_geometric, version 2)."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence

import torch

from ..elements import to_number
from ..errors import ModelFileError
from ..models.dimenet import DimeNet, Interaction
from ..typing import Tensor

PARTS = {
    "rbf_in": "lin_rbf1", "rbf_out": "lin_rbf2", "sbf_in": "lin_sbf1", "sbf_out": "lin_sbf2", "kj": "lin_kj",
    "ji": "lin_ji", "down": "lin_down", "up": "lin_up", "skip": "lin",
}  # fmt: skip
"""Layers of an interaction: here, there."""
MARK = "interaction_blocks.0.lin_sbf1.weight"


def matches(path: str | os.PathLike) -> bool:
    """Whether a file holds the state of a DimeNetPlusPlus, as ``torch.save(model.state_dict(), path)`` writes it."""
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        return False
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever it is, it is not this
        return False
    return isinstance(state, Mapping) and MARK in state


def load(
    path: str | os.PathLike,
    elements: Sequence[int | str] | None = None,
    cutoff: float = 5.0,
    envelope_exponent: int = 5,
    energy_unit: float = 1.0,
) -> DimeNet:
    """Read a file that ``torch.save(model.state_dict(), path)`` wrote.

    Args:
        path: of the file.
        elements: see :func:`from_pyg`, as the other options.
        cutoff: Å.
        envelope_exponent: of the model.
        energy_unit: eV.

    Raises:
        ModelFileError: the file cannot be read without running code from it, or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as why:
        raise ModelFileError(f"{path} is not a file of tensors that torch.save wrote: {why}") from None
    if not isinstance(state, Mapping):
        raise ModelFileError(f"{path} holds a {type(state).__name__}; expected a state_dict of a DimeNetPlusPlus.")
    return from_pyg(
        state, elements=elements, cutoff=cutoff, envelope_exponent=envelope_exponent, energy_unit=energy_unit
    )


def from_pyg(
    state: Mapping[str, Tensor],
    *,
    elements: Sequence[int | str] | None = None,
    cutoff: float = 5.0,
    envelope_exponent: int = 5,
    energy_unit: float = 1.0,
) -> DimeNet:
    """A potential with the weights of torch_geometric's ``DimeNetPlusPlus``.

    It rounds the roots of the spherical Bessel functions to float32, which are exact here: energies differ by about
    1e-7 of their size.

    Args:
        state: its ``state_dict()``, tensors by name.
        elements: those to keep of its table; all of them if not given.
        cutoff: Å; the state does not tell it, nor the next one.
        envelope_exponent: what the model was made with.
        energy_unit: eV in one unit of energy of the model (0.0433641 for kcal/mol). Lengths must be Å.

    Raises:
        ModelFileError: the state is not that of such a model, or of one with several outputs.
    """
    table = state.get("emb.emb.weight")
    if MARK not in state or table is None or "interaction_blocks.0.lin_down.weight" not in state:
        raise ModelFileError("This is not the state of torch_geometric's DimeNetPlusPlus with at least one block.")
    if (outputs := len(state["output_blocks.0.lin.weight"])) != 1:
        raise ModelFileError(f"The model has {outputs} outputs; only one with out_channels=1 is a potential.")
    numbers = tuple(to_number(z) for z in elements) if elements is not None else tuple(range(1, len(table)))
    if wrong := [z for z in numbers if z >= len(table)]:
        raise ModelFileError(f"The table of elements ends at {len(table) - 1}; asked for atomic number {wrong[0]}.")
    model = _empty(state, numbers, cutoff, envelope_exponent + 1)
    try:
        model.load_state_dict(_renamed(state, model, numbers, energy_unit))
    except (KeyError, RuntimeError) as why:
        raise ModelFileError(f"The state is not that of a whole DimeNetPlusPlus: {why}.") from None
    return model


def _count(state: Mapping[str, Tensor], before: str) -> int:
    """How many of a list of layers there are."""
    return len({k[len(before) :].split(".")[0] for k in state if k.startswith(before)})


def _empty(state: Mapping[str, Tensor], numbers: tuple[int, ...], cutoff: float, p: int) -> DimeNet:
    """A model of the state's sizes and dtype."""
    one, n_radial = "interaction_blocks.0.", len(state["rbf.freq"])
    n_triplet, n_features = state[f"{one}lin_down.weight"].shape
    n_basis, n_functions = state[f"{one}lin_sbf1.weight"].shape
    with torch.random.fork_rng(devices=[]):
        model = DimeNet(
            numbers,
            cutoff,
            n_features=n_features,
            n_layers=_count(state, "interaction_blocks."),
            n_triplet=n_triplet,
            n_basis=n_basis,
            n_output=len(state["output_blocks.0.lin_up.weight"]),
            l_max=n_functions // n_radial - 1,
            n_radial=n_radial,
            n_before_skip=_count(state, f"{one}layers_before_skip."),
            n_after_skip=_count(state, f"{one}layers_after_skip."),
            n_output_layers=_count(state, "output_blocks.0.lins."),
            p=p,
        )
    return model.to(state["rbf.freq"].dtype)


def _renamed(
    state: Mapping[str, Tensor], model: DimeNet, numbers: tuple[int, ...], energy_unit: float
) -> dict[str, Tensor]:
    """The state under the names that it has here."""
    made = {k: v for k, v in model.state_dict().items() if k.startswith("readout.")}
    made["frequencies"] = state["rbf.freq"]
    made["species.weight"] = state["emb.emb.weight"][list(numbers)]
    pairs = {"embedding.rbf.": "emb.lin_rbf.", "embedding.mix.": "emb.lin."}
    for k, interaction in enumerate(model.interactions):
        assert isinstance(interaction, Interaction)
        here, there = f"interactions.{k}.", f"interaction_blocks.{k}."
        pairs |= {f"{here}{a}.": f"{there}{b}." for a, b in PARTS.items()}
        for name, layers in (("before", interaction.before), ("after", interaction.after)):
            for n in range(len(layers)):
                old = f"{there}layers_{name}_skip.{n}."
                pairs |= {f"{here}{name}.{n}.first.": f"{old}lin1.", f"{here}{name}.{n}.second.": f"{old}lin2."}
    for k in range(len(model.outputs)):
        here, there = f"outputs.{k}.", f"output_blocks.{k}."
        pairs |= {f"{here}rbf.": f"{there}lin_rbf.", f"{here}up.": f"{there}lin_up."}
        pairs |= {f"{here}layers.{n}.": f"{there}lins.{n}." for n in range(model.n_output_layers)}
    for new, old in pairs.items():
        made |= {new + name[len(old) :]: value for name, value in state.items() if name.startswith(old)}
    made["readout.weight"] = torch.cat([state[f"output_blocks.{k}.lin.weight"][0] for k in range(len(model.outputs))])
    made["readout.scale"] = torch.full_like(made["readout.scale"], energy_unit)
    return made
