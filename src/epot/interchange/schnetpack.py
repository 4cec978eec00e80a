"""PaiNN weights from schnetpack (https://github.com/atomistic-machine-learning/schnetpack, version 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from ..elements import to_number
from ..errors import ModelFileError
from ..models.painn import PaiNN
from ..potential import Potential, Sum
from ..terms.offsets import Offsets
from ..typing import Tensor

CutoffName = Literal["cosine", "polynomial"]
BASES: dict[str, Literal["gaussian", "bessel"]] = {"offsets": "gaussian", "freqs": "bessel"}


def from_schnetpack(
    state: Mapping[str, Tensor],
    *,
    elements: Sequence[int | str] | None = None,
    cutoff_function: CutoffName = "cosine",
    energy_unit: float = 1.0,
) -> Potential:
    """A potential with the weights of schnetpack's ``NeuralNetworkPotential`` around its PaiNN.

    Args:
        state: its ``state_dict()``, tensors by name (read a file with ``torch.load(path, weights_only=True)``).
        elements: those to keep of schnetpack's table; all of them if not given.
        cutoff_function: what the model was made with; the state does not tell.
        energy_unit: eV in one unit of energy of the model (0.0433641 for kcal/mol). Lengths must be Å.

    Returns:
        The :class:`~epot.models.painn.PaiNN`; where the state holds ``AddOffsets``, a ``Sum`` with its offsets.

    Raises:
        ModelFileError: the state is not that of such a model.
    """
    body = {k.removeprefix("representation."): v for k, v in state.items() if k.startswith("representation.")}
    head = {k.split("outnet.")[-1]: v for k, v in state.items() if ".outnet." in k}
    _refuse_others(body, head)
    rows = body["embedding.weight"]
    numbers = tuple(to_number(z) for z in elements) if elements is not None else tuple(range(1, len(rows)))
    model = _empty(body, numbers, cutoff_function)
    with torch.no_grad():
        model.embedding.weight.copy_(rows[list(numbers)])
        _copy_interactions(model, body)
        _copy_filters(model, body)
        model.hidden.load_state_dict({"weight": head["0.weight"], "bias": head["0.bias"]})
        model.readout.weight.copy_(head["1.weight"][0])
        model.readout.bias = torch.nn.Parameter(head["1.bias"][0].clone())
        model.readout.scale.fill_(energy_unit)
    return _with_offsets(model, state, numbers, energy_unit)


def _refuse_others(body: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> None:
    wanted = {"embedding.weight", "filter_net.weight", "interactions.0.interatomic_context_net.0.weight"}
    if missing := sorted(wanted - set(body)):
        raise ModelFileError(f"This is not the state of a schnetpack PaiNN: it lacks representation.{missing[0]}.")
    f = body["embedding.weight"].shape[1]
    if set(head) != {"0.weight", "0.bias", "1.weight", "1.bias"} or tuple(head["0.weight"].shape) != (f // 2, f):
        raise ModelFileError(
            "The model's output must be schnetpack's default Atomwise: one hidden layer of half the features. "
            f"This one has {', '.join(f'{k} {tuple(v.shape)}' for k, v in head.items()) or 'none'}."
        )


def _empty(body: Mapping[str, Tensor], numbers: tuple[int, ...], cutoff_function: CutoffName) -> PaiNN:
    """A model of the state's sizes and dtype."""
    n_features = body["embedding.weight"].shape[1]
    n_layers = 1 + max(int(k.split(".")[1]) for k in body if k.startswith("interactions."))
    width, n_radial = body["filter_net.weight"].shape
    radial = next((v for k, v in BASES.items() if f"radial_basis.{k}" in body), None)
    if radial is None:
        raise ModelFileError("The radial basis must be schnetpack's GaussianRBF (from 0) or BesselRBF.")
    cutoff = float(body["cutoff_fn.cutoff"])
    if radial == "gaussian":
        centers = body["radial_basis.offsets"]
        wanted = torch.linspace(0, cutoff, n_radial, dtype=centers.dtype)
        if not torch.allclose(centers, wanted) or not torch.allclose(body["radial_basis.widths"], wanted[1]):
            raise ModelFileError(
                "The Gaussian centers must go from 0 to the cutoff in equal steps as wide (start=0, not trained)."
            )
    first, last = (body[f"interactions.{k}.interatomic_context_net.0.weight"] for k in (0, n_layers - 1))
    model = PaiNN(
        numbers,
        cutoff,
        n_features=n_features,
        n_layers=n_layers,
        n_radial=n_radial,
        radial=radial,
        cutoff_function=cutoff_function,
        shared_interactions=n_layers > 1 and torch.equal(first, last),
        shared_filters=n_layers > 1 and width == 3 * n_features,
    )
    return model.to(body["embedding.weight"].dtype)


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


def _with_offsets(model: PaiNN, state: Mapping[str, Tensor], numbers: tuple[int, ...], unit: float) -> Potential:
    """Postprocessing ``AddOffsets``: a mean and a table of energies per atom."""
    found = [v for k, v in state.items() if k.startswith("postprocessors.") and k.endswith((".mean", ".atomref"))]
    if not found:
        return model
    values = torch.zeros(len(numbers), dtype=torch.float64)
    for table in found:
        table = table.double().flatten()
        values += table if table.numel() == 1 else table[list(numbers)]
    return Sum(offset=Offsets(numbers, (values * unit).tolist()), body=model)
