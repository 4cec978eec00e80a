"""SchNet weights from torch_geometric (https://github.com/pyg-team/pytorch_geometric, ``nn.SchNet``)."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence

import torch

from ..elements import to_number
from ..errors import ModelFileError
from ..models.schnet import SchNet
from ..potential import Potential, Sum
from ..terms.offsets import Offsets
from ..typing import Tensor

WANTED = {"embedding.weight", "distance_expansion.offset", "interactions.0.conv.lin1.weight", "lin1.weight"}


def matches(path: str | os.PathLike) -> bool:
    """Whether a file holds the state of such a model, as ``torch.save(model.state_dict(), path)`` writes it."""
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        return False
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever it is, it is not this
        return False
    return isinstance(state, Mapping) and set(state) >= WANTED


def load(
    path: str | os.PathLike,
    *,
    elements: Sequence[int | str] | None = None,
    mean: float = 0.0,
    std: float = 1.0,
    energy_unit: float = 1.0,
) -> Potential:
    """Read a file that ``torch.save(model.state_dict(), path)`` wrote.

    Args:
        path: of the file.
        elements, mean, std, energy_unit: of :func:`from_torch_geometric`.

    Raises:
        ModelFileError: the file cannot be read without running code from it, or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as why:
        raise ModelFileError(f"{path} is not a file of tensors that torch.save wrote: {why}") from None
    if not isinstance(state, Mapping):
        raise ModelFileError(f"{path} holds a {type(state).__name__}; expected the state_dict of a SchNet.")
    return from_torch_geometric(state, elements=elements, mean=mean, std=std, energy_unit=energy_unit)


def from_torch_geometric(
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
