"""GemNet weights from the reference code (https://github.com/TUM-DAML/gemnet_pytorch)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..blocks.gemnet_layers import scaling_factors, settle
from ..elements import to_number
from ..errors import ConfigError, ModelFileError
from ..models.gemnet import GemNet
from ..typing import Tensor
from .saved_state import peek, read

MARKS = ("rbf_basis.frequencies", "mlp_cbf3.weight", "atom_emb.embeddings.weight")
NAMES = (
    (r"^frequencies$", "rbf_basis.frequencies"),
    (r"^first_edges\.", "edge_emb.dense."),
    (r"^rbf_triplet\.", "mlp_rbf3."),
    (r"^rbf_quadruplet\.", "mlp_rbf4."),
    (r"^rbf_atom\.", "mlp_rbf_h."),
    (r"^rbf_out\.", "mlp_rbf_out."),
    (r"^cbf_triplet$", "mlp_cbf3.weight"),
    (r"^cbf_quadruplet$", "mlp_cbf4.weight"),
    (r"^sbf_quadruplet$", "mlp_sbf4.weight"),
    (r"^interactions\.", "int_blocks."),
    (r"^outputs\.", "out_blocks."),
    (r"\.skip\.", ".dense_ca."),
    (r"\.triplets\.dense\.", ".trip_interaction.dense_ba."),
    (r"\.triplets\.bilinear\.", ".trip_interaction.mlp_cbf."),
    (r"\.triplets\.scale_sum\.", ".trip_interaction.scale_cbf_sum."),
    (r"\.triplets\.", ".trip_interaction."),
    (r"\.quadruplets\.dense\.", ".quad_interaction.dense_db."),
    (r"\.quadruplets\.bilinear\.", ".quad_interaction.mlp_sbf."),
    (r"\.quadruplets\.scale_sum\.", ".quad_interaction.scale_sbf_sum."),
    (r"\.quadruplets\.", ".quad_interaction."),
    (r"(_interaction)\.(rbf|cbf)\.", r"\1.mlp_\2."),
    (r"\.down\.", ".down_projection."),
    (r"\.up\.same\.", ".up_projection_ca."),
    (r"\.up\.opposite\.", ".up_projection_ac."),
    (r"\.(before|after)_skip\.", r".layers_\1_skip."),
    (r"\.after_concat\.", ".residual_m."),
    (r"\.concat\.", ".concat_layer.dense."),
    (r"(out_blocks\.\d+|atom_update)\.rbf\.", r"\1.dense_rbf."),
    (r"(out_blocks\.\d+|atom_update)\.dense\.", r"\1.layers.0."),
    (r"\.factor$", ".scale_factor"),
)
"""From our names to theirs, applied one after another."""


def matches(path: str | os.PathLike) -> bool:
    """Whether a file holds the state of a GemNet, as its ``save_weights(path)`` writes it."""
    state = peek(path)
    return state is not None and all(name in state for name in MARKS)


def load(
    path: str | os.PathLike,
    *,
    elements: Sequence[int | str] | None = None,
    cutoff: float = 5.0,
    int_cutoff: float = 10.0,
    envelope: int = 5,
    energy_unit: float = 1.0,
) -> GemNet:
    """Read a file that the reference code's ``save_weights(path)`` wrote. Arguments as in :func:`from_gemnet`.

    Raises:
        ModelFileError: the file cannot be read without running code from it, or holds something else.
    """
    state = read(path, "the state_dict of a GemNet")
    return from_gemnet(
        state, elements=elements, cutoff=cutoff, int_cutoff=int_cutoff, envelope=envelope, energy_unit=energy_unit
    )


def from_gemnet(
    state: Mapping[str, Tensor],
    *,
    elements: Sequence[int | str] | None = None,
    cutoff: float = 5.0,
    int_cutoff: float = 10.0,
    envelope: int = 5,
    energy_unit: float = 1.0,
) -> GemNet:
    """A GemNet-T or GemNet-Q with the weights and scaling factors of the reference code.

    Args:
        state: its ``state_dict()``. The scaling factors are in it.
        elements: those to keep of its table; all 93 if not given.
        cutoff: Å, of edges; like the next two it is not in the state.
        int_cutoff: Å, of the pairs in the middle of quadruplets.
        envelope: exponent.
        energy_unit: eV in one unit of energy of the model. Lengths must be Å.

    Raises:
        ModelFileError: the state is not that of such a model, or of one that predicts forces directly.
    """
    theirs = {re.sub(r"\.linear\.(weight|bias)$", r".\1", k): v for k, v in state.items()}
    theirs = {k: v for k, v in theirs.items() if ".seq_energy." not in k}  # a second name of the same layers
    direct = [k for k in theirs if re.search(r"\.(seq_forces|out_forces)\.|out_blocks\.\d+\.scale_rbf\.", k)]
    if direct:
        raise ModelFileError(
            f"The state is of a GemNet that predicts forces directly ({direct[0]}): they are not the derivative of an "
            "energy. Only GemNet-T and GemNet-Q are read."
        )
    numbers = tuple(range(1, 94)) if elements is None else tuple(to_number(z) for z in elements)
    try:
        reach = int_cutoff if "mlp_sbf4.weight" in theirs else cutoff
        model = GemNet(numbers, reach, envelope=envelope, **_sizes(theirs, cutoff))
    except KeyError as why:
        raise ModelFileError(f"This is not the state of a GemNet of the reference code: it lacks {why}.") from None
    except ConfigError as why:
        raise ModelFileError(f"The state does not make a GemNet: {why}") from None
    _fill(model.to(theirs[MARKS[1]].dtype), theirs, numbers)
    with torch.no_grad():
        model.readout.scale.fill_(energy_unit)
    settle(scaling_factors(model))
    return model


def _sizes(theirs: Mapping[str, Tensor], cutoff: float) -> dict[str, Any]:
    """Arguments of :class:`GemNet` from shapes and names."""

    def layers(prefix: str) -> int:
        found = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        return max((int(m[1]) + 1 for k in theirs if (m := found.match(k))), default=0)

    degrees, radial, cbf = theirs["mlp_cbf3.weight"].shape
    trip = "int_blocks.0.trip_interaction"
    sizes: dict[str, Any] = {
        "n_layers": layers("int_blocks"), "n_radial": radial, "n_spherical": degrees, "n_cbf": cbf,
        "n_atom": theirs["atom_emb.embeddings.weight"].shape[1], "n_edge": len(theirs["edge_emb.dense.weight"]),
        "n_rbf": len(theirs["mlp_rbf3.weight"]), "n_triplet": len(theirs[f"{trip}.down_projection.weight"]),
        "n_bilinear": theirs[f"{trip}.mlp_cbf.weight"].shape[2],
        "n_before_skip": layers("int_blocks.0.layers_before_skip"),
        "n_after_skip": layers("int_blocks.0.layers_after_skip"), "n_concat": layers("int_blocks.0.residual_m"),
        "n_atom_layers": layers("out_blocks.0.layers") - 1,
    }  # fmt: skip
    if "mlp_sbf4.weight" in theirs:
        quad = "int_blocks.0.quad_interaction"
        sizes |= {"quadruplets": True, "dihedral": "published"}
        sizes |= {"edge_cutoff": cutoff, "n_sbf": theirs["mlp_sbf4.weight"].shape[2]}
        sizes["n_quadruplet"] = len(theirs[f"{quad}.down_projection.weight"])
        sizes["n_bilinear_quadruplet"] = theirs[f"{quad}.mlp_sbf.weight"].shape[2]
    return sizes


@torch.no_grad()
def _fill(model: GemNet, theirs: Mapping[str, Tensor], numbers: Sequence[int]) -> None:
    left = set(theirs)

    def take(name: str) -> Tensor:
        left.discard(name)
        if name not in theirs:
            raise ModelFileError(f"This is not the state of a GemNet of the reference code: it lacks {name}.")
        return theirs[name]

    heads = [take(f"out_blocks.{k}.out_energy.weight") for k in range(len(model.outputs))]
    if any(len(head) != 1 for head in heads):
        raise ModelFileError(f"The model has {len(heads[0])} targets; only one, an energy, is read.")
    model.readout.weight.copy_(torch.cat(heads, 1)[0])
    model.embedding.weight.copy_(take("atom_emb.embeddings.weight")[[z - 1 for z in numbers]])
    tensors = dict(model.named_parameters()) | {k: v for k, v in model.named_buffers() if k.endswith(".factor")}
    for name, ours in tensors.items():
        if name.startswith(("readout.", "embedding.")):
            continue
        value = _ordered(name, take(_their_name(name)), model.n_spherical, model.n_radial)
        if value.shape != ours.shape:
            raise ModelFileError(f"{_their_name(name)} has the shape {tuple(value.shape)}, not {tuple(ours.shape)}.")
        ours.copy_(value)
    if left:
        raise ModelFileError(f"The state holds what a GemNet has no place for: {sorted(left)[0]} ({len(left)} in all).")


def _their_name(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    name = re.sub(r"\.residuals\.(\d+)\.", lambda m: f".layers.{int(m[1]) + 1}.", name)
    return name.replace(".first.", ".dense_mlp.0.").replace(".second.", ".dense_mlp.1.")


def _ordered(name: str, value: Tensor, degrees: int, radial: int) -> Tensor:
    """Theirs has bilinear weights (feature, basis, out), m in the order 0 .. l, -l .. -1, and one flat basis."""
    if name.endswith(".bilinear.weight"):
        return value.permute(2, 1, 0).flatten(1)
    if name == "cbf_quadruplet":
        return value.t().reshape(degrees, radial, -1)
    if name == "sbf_quadruplet":
        rows = [k * k + (m if m >= 0 else 2 * k + 1 + m) for k in range(degrees) for m in range(-k, k + 1)]
        return value[rows]
    return value
