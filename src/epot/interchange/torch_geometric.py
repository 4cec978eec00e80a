"""SchNet and DimeNet++ from torch_geometric (https://github.com/pyg-team/pytorch_geometric, version 2)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..elements import to_number
from ..errors import ConfigError, ModelFileError
from ..models.dimenet import DimeNet, Interaction
from ..models.schnet import SchNet
from ..potential import Potential, Sum
from ..terms.offsets import Offsets
from ..typing import Tensor
from .saved_state import peek, read

WANTED = {"embedding.weight", "distance_expansion.offset", "interactions.0.conv.lin1.weight", "lin1.weight"}
"""Names in the state of a SchNet."""
MARK = "interaction_blocks.0.lin_sbf1.weight"
"""A name in the state of a DimeNet++."""
PARTS = {
    "rbf_in": "lin_rbf1", "rbf_out": "lin_rbf2", "sbf_in": "lin_sbf1", "sbf_out": "lin_sbf2", "kj": "lin_kj",
    "ji": "lin_ji", "down": "lin_down", "up": "lin_up", "skip": "lin",
}  # fmt: skip
"""Layers of an interaction of DimeNet++: here, there."""


def matches(path: str | os.PathLike) -> bool:
    """Whether a file holds the state of such a model, as ``torch.save(model.state_dict(), path)`` writes it."""
    state = peek(path)
    return state is not None and (MARK in state or set(state) >= WANTED)


def load(
    path: str | os.PathLike,
    *,
    elements: Sequence[int | str] | None = None,
    energy_unit: float = 1.0,
    mean: float | None = None,
    std: float | None = None,
    cutoff: float | None = None,
    envelope_exponent: int | None = None,
) -> Potential:
    """Read a file that ``torch.save(model.state_dict(), path)`` wrote.

    Args:
        path: of the file.
        elements: those to keep of its table; all of them if not given.
        energy_unit: eV in one unit of energy of the model. Lengths must be Å.
        mean, std: of :func:`schnet_from_state`.
        cutoff, envelope_exponent: of :func:`dimenet_from_state`.

    Raises:
        ModelFileError: the file cannot be read without running code from it, or holds something else.
        ConfigError: an option of the other model.
    """
    state = read(path, "the state_dict of a SchNet or a DimeNetPlusPlus")
    own: dict[str, Any] = {"mean": mean, "std": std}
    other: dict[str, Any] = {"cutoff": cutoff, "envelope_exponent": envelope_exponent}
    name, make = "SchNet", schnet_from_state
    if MARK in state:
        name, make, own, other = "DimeNet++", dimenet_from_state, other, own  # type: ignore[assignment]
    if wrong := [key for key, value in other.items() if value is not None]:
        raise ConfigError(f"{path} holds a {name}, which has no option {wrong[0]!r}; it has {', '.join(own)}.")
    given = {key: value for key, value in own.items() if value is not None}
    return make(state, elements=elements, energy_unit=energy_unit, **given)


def schnet_from_state(
    state: Mapping[str, Tensor],
    *,
    elements: Sequence[int | str] | None = None,
    mean: float = 0.0,
    std: float = 1.0,
    energy_unit: float = 1.0,
) -> Potential:
    """A potential with the weights of a ``torch_geometric.nn.SchNet`` that sums energies of atoms.

    The original looks at the 32 nearest neighbors only unless it is told otherwise; the potential looks at all.

    Args:
        state: its ``state_dict()``.
        elements: those to keep of its table; all of them if not given.
        mean, std: that it was made with: ``E_i = std * output + mean``. The state does not tell.
        energy_unit: eV in one unit of energy of the model. Lengths must be Å.

    Returns:
        The :class:`~epot.models.schnet.SchNet`; where there is a mean or a table of energies of free atoms, a ``Sum``
        with these offsets.

    Raises:
        ModelFileError: the state is not that of such a model.
    """
    if missing := sorted(WANTED - set(state)):
        raise ModelFileError(f"This is not the state of a torch_geometric SchNet: it lacks {missing[0]}.")
    if "atomic_mass" in state:
        raise ModelFileError("The model predicts dipole moments (dipole=True), not energies.")
    rows, centers = state["embedding.weight"], state["distance_expansion.offset"]
    numbers = tuple(to_number(z) for z in elements) if elements is not None else tuple(range(1, len(rows)))
    n_features, n_filters = rows.shape[1], len(state["interactions.0.conv.lin1.weight"])
    model = SchNet(
        numbers,
        float(centers[-1]),
        n_features,
        1 + max(int(k.split(".")[1]) for k in state if k.startswith("interactions.")),
        len(centers),
        n_filters=None if n_filters == n_features else n_filters,
    ).to(rows.dtype)
    _copy(model, state)
    with torch.no_grad():
        model.embedding.weight.copy_(rows[list(numbers)])
        model.readout.scale.fill_(std * energy_unit)
    offsets = torch.full((len(numbers),), float(mean), dtype=torch.float64)
    if "atomref.weight" in state:
        offsets += state["atomref.weight"].double()[list(numbers), 0]
    if not offsets.any():
        return model
    return Sum(offset=Offsets(numbers, (offsets * energy_unit).tolist()), body=model)


@torch.no_grad()
def _copy(model: SchNet, state: Mapping[str, Tensor]) -> None:
    dense = lambda name: {part: state[f"{name}.{part}"] for part in ("weight", "bias")}  # noqa: E731
    for k, interaction in enumerate(model.distinct()):
        at = f"interactions.{k}"
        interaction.project.weight.copy_(state[f"{at}.conv.lin1.weight"])
        for layers, names in ((interaction.filter, ("mlp.0", "mlp.2")), (interaction.update, ("conv.lin2", "lin"))):
            for layer, name in zip(layers.layers, names, strict=True):
                layer.load_state_dict(dense(f"{at}.{name}"))
    model.hidden.load_state_dict(dense("lin1"))
    model.readout.weight.copy_(state["lin2.weight"][0])
    model.readout.bias = torch.nn.Parameter(state["lin2.bias"][0].clone())


def dimenet_from_state(
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
