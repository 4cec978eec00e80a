"""PaiNN and SchNet weights from schnetpack (https://github.com/atomistic-machine-learning/schnetpack, version 2)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from ..elements import to_number
from ..errors import ModelFileError
from ..models.painn import PaiNN
from ..models.schnet import SchNet
from ..potential import Potential, Sum
from ..terms.offsets import Offsets
from ..typing import Tensor
from .module_pickle import Recorded, pickle_of, read_module
from .saved_state import peek

CutoffName = Literal["cosine", "polynomial"]
BASES: dict[str, Literal["gaussian", "bessel"]] = {"offsets": "gaussian", "freqs": "bessel"}
WANTED = {
    PaiNN: {"embedding.weight", "filter_net.weight", "interactions.0.interatomic_context_net.0.weight"},
    SchNet: {"embedding.weight", "interactions.0.in2f.weight", "interactions.0.filter_network.0.weight"},
}


def matches(path: str | os.PathLike) -> bool:
    """Whether a file holds such a model, as schnetpack saves it (the module), or its state."""
    state = peek(path)
    if state is None:  # not of tensors alone
        return b"schnetpack.model" in pickle_of(path)
    return "representation.embedding.weight" in state


def load(
    path: str | os.PathLike,
    *,
    elements: Sequence[int | str] | None = None,
    cutoff_function: CutoffName = "cosine",
    energy_unit: float = 1.0,
) -> Potential:
    """Read what ``torch.save`` wrote of a model: its state, or the module itself, of which nothing is executed.

    Args:
        path: of the file, such as the ``best_model`` of a training with schnetpack.
        elements, cutoff_function, energy_unit: of :func:`from_schnetpack`.

    Raises:
        ModelFileError: the file cannot be read without running code from it, or holds something else.
    """
    state = peek(path)
    if state is None:  # not of tensors alone
        state = _state(read_module(path, ("schnetpack", "torch.nn"), "a schnetpack model"))
    return from_schnetpack(state, elements=elements, cutoff_function=cutoff_function, energy_unit=energy_unit)


def _state(module: Any, at: str = "") -> dict[str, Tensor]:
    """The ``state_dict`` of a module that was read without its classes."""
    if not isinstance(module, Recorded):
        raise ModelFileError(f"The file holds a {type(module).__name__}; expected a schnetpack model.")
    activation = module.get("activation")
    name = activation.kind if isinstance(activation, Recorded) else getattr(activation, "__name__", "Identity")
    usual = "shifted_softplus" if ".filter_network." in at or ".f2out." in at else "silu"
    if name not in ("Identity", usual):
        raise ModelFileError(f"The layer {at[:-1]} has the activation {name}; expected {usual}, schnetpack's default.")
    if at == "representation.cutoff_fn." and module.kind != "CosineCutoff":
        raise ModelFileError(f"The cutoff function must be schnetpack's CosineCutoff; this model has {module.kind}.")
    found: dict[str, Tensor] = {}
    for part in ("_parameters", "_buffers"):
        found |= {at + k: v for k, v in (module.state.get(part) or {}).items() if isinstance(v, Tensor)}
    for name, child in (module.state.get("_modules") or {}).items():
        if child is not None:
            found |= _state(child, f"{at}{name}.")
    return found


def from_schnetpack(
    state: Mapping[str, Tensor],
    *,
    elements: Sequence[int | str] | None = None,
    cutoff_function: CutoffName = "cosine",
    energy_unit: float = 1.0,
) -> Potential:
    """A potential with the weights of schnetpack's ``NeuralNetworkPotential`` around its PaiNN or SchNet.

    Args:
        state: its ``state_dict()``, tensors by name (read a file with ``torch.load(path, weights_only=True)``).
        elements: those to keep of schnetpack's table; all of them if not given.
        cutoff_function: what the model was made with; the state does not tell.
        energy_unit: eV in one unit of energy of the model (0.0433641 for kcal/mol). Lengths must be Å.

    Returns:
        The :class:`~epot.models.painn.PaiNN` or :class:`~epot.models.schnet.SchNet`; where the state holds
        ``AddOffsets``, a ``Sum`` with its offsets.

    Raises:
        ModelFileError: the state is not that of such a model.
    """
    body = {k.removeprefix("representation."): v for k, v in state.items() if k.startswith("representation.")}
    head = {k.split("outnet.")[-1]: v for k, v in state.items() if ".outnet." in k}
    kind = _kind(body, head)
    rows = body["embedding.weight"]
    numbers = tuple(to_number(z) for z in elements) if elements is not None else tuple(range(1, len(rows)))
    settings = _settings(body) | {"elements": numbers, "cutoff_function": cutoff_function}
    model = (_painn if kind is PaiNN else _schnet)(body, settings)
    with torch.no_grad():
        model.embedding.weight.copy_(rows[list(numbers)])
        model.hidden.load_state_dict({"weight": head["0.weight"], "bias": head["0.bias"]})
        model.readout.weight.copy_(head["1.weight"][0])
        model.readout.bias = torch.nn.Parameter(head["1.bias"][0].clone())
        model.readout.scale.fill_(energy_unit)
    return _with_offsets(model, state, numbers, energy_unit)


def _kind(body: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> type[Potential]:
    kind = SchNet if any(".in2f." in k for k in body) else PaiNN
    if missing := sorted(WANTED[kind] - set(body)):
        raise ModelFileError(
            f"This is not the state of a schnetpack {kind.__name__}: it lacks representation.{missing[0]}."
        )
    f = body["embedding.weight"].shape[1]
    if set(head) != {"0.weight", "0.bias", "1.weight", "1.bias"} or tuple(head["0.weight"].shape) != (f // 2, f):
        raise ModelFileError(
            "The model's output must be schnetpack's default Atomwise: one hidden layer of half the features. "
            f"This one has {', '.join(f'{k} {tuple(v.shape)}' for k, v in head.items()) or 'none'}."
        )
    return kind


def _settings(body: Mapping[str, Tensor]) -> dict[str, Any]:
    """What both models have: sizes, cutoff, radial basis."""
    radial = next((v for k, v in BASES.items() if f"radial_basis.{k}" in body), None)
    if radial is None:
        raise ModelFileError("The radial basis must be schnetpack's GaussianRBF (from 0) or BesselRBF.")
    cutoff = float(body["cutoff_fn.cutoff"])
    n_radial = len(body["radial_basis.offsets" if radial == "gaussian" else "radial_basis.freqs"])
    if radial == "gaussian":
        centers = body["radial_basis.offsets"]
        wanted = torch.linspace(0, cutoff, n_radial, dtype=centers.dtype)
        if not torch.allclose(centers, wanted) or not torch.allclose(body["radial_basis.widths"], wanted[1]):
            raise ModelFileError(
                "The Gaussian centers must go from 0 to the cutoff in equal steps as wide (start=0, not trained)."
            )
    return {
        "cutoff": cutoff,
        "n_features": body["embedding.weight"].shape[1],
        "n_layers": 1 + max(int(k.split(".")[1]) for k in body if k.startswith("interactions.")),
        "n_radial": n_radial,
        "radial": radial,
    }


def _shared(body: Mapping[str, Tensor], name: str, n_layers: int) -> bool:
    """Whether all interactions have the same weights: they are all written."""
    first, last = (body[f"interactions.{k}.{name}"] for k in (0, n_layers - 1))
    return n_layers > 1 and torch.equal(first, last)


def _schnet(body: Mapping[str, Tensor], settings: dict[str, Any]) -> SchNet:
    n_layers, n_filters = settings["n_layers"], len(body["interactions.0.in2f.weight"])
    shared = _shared(body, "in2f.weight", n_layers)
    model = SchNet(
        **settings,
        n_filters=None if n_filters == settings["n_features"] else n_filters,
        shared_interactions=shared,
        readout_activation="silu",
    ).to(body["embedding.weight"].dtype)
    with torch.no_grad():
        for k, interaction in enumerate(model.distinct()):
            at = f"interactions.{k}"
            interaction.project.weight.copy_(body[f"{at}.in2f.weight"])
            for layers, name in ((interaction.filter, "filter_network"), (interaction.update, "f2out")):
                for n, layer in enumerate(layers.layers):
                    layer.load_state_dict(_dense(body, f"{at}.{name}.{n}"))
    return model


def _painn(body: Mapping[str, Tensor], settings: dict[str, Any]) -> PaiNN:
    n_layers, width = settings["n_layers"], len(body["filter_net.weight"])
    model = PaiNN(
        **settings,
        shared_interactions=_shared(body, "interatomic_context_net.0.weight", n_layers),
        shared_filters=n_layers > 1 and width == 3 * settings["n_features"],
    ).to(body["embedding.weight"].dtype)
    with torch.no_grad():
        _copy_interactions(model, body)
        _copy_filters(model, body)
    return model


def _copy_interactions(model: PaiNN, body: Mapping[str, Tensor]) -> None:
    """Schnetpack orders phi and the filters as (q, R, mu) and a as (q, mu, qmu)."""
    for k in range(len(model.messages)):
        message, update, _ = model.interaction(k)
        inner, outer = message.phi.layers
        hidden, phi = (_dense(body, f"interactions.{k}.interatomic_context_net.{n}") for n in (0, 1))
        inner.load_state_dict(hidden)
        outer.load_state_dict({part: _ordered(v, (1, 0, 2)) for part, v in phi.items()})
        hidden, a = (_dense(body, f"mixing.{k}.intraatomic_context_net.{n}") for n in (0, 1))
        update.hidden.load_state_dict(hidden)
        update.a.load_state_dict({part: _ordered(v, (0, 2)) for part, v in a.items()})
        update.a_mu.load_state_dict({part: _ordered(v, (1,)) for part, v in a.items()})
        update.mix.weight.copy_(body[f"mixing.{k}.mu_channel_mix.weight"])


def _dense(body: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {part: body[f"{name}.{part}"] for part in ("weight", "bias")}


def _ordered(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """Some thirds of the rows."""
    thirds = tensor.chunk(3)
    return torch.cat([thirds[k] for k in order])


def _copy_filters(model: PaiNN, body: Mapping[str, Tensor]) -> None:
    stacked = torch.cat([body["filter_net.weight"], body["filter_net.bias"][:, None]], 1)
    for ours, theirs in zip(model.filters, stacked.split(3 * model.n_features), strict=True):
        ours.copy_(_ordered(theirs, (1, 0, 2)).T)


def _with_offsets(model: Potential, state: Mapping[str, Tensor], numbers: tuple[int, ...], unit: float) -> Potential:
    """Postprocessing ``AddOffsets``: a mean and a table of energies per atom."""
    found = [v for k, v in state.items() if k.startswith("postprocessors.") and k.endswith((".mean", ".atomref"))]
    if not found:
        return model
    values = torch.zeros(len(numbers), dtype=torch.float64)
    for table in found:
        table = table.double().flatten()
        values += table if table.numel() == 1 else table[list(numbers)]
    return Sum(offset=Offsets(numbers, (values * unit).tolist()), body=model)
