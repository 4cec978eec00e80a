"""Weights of a recorded mace-torch model, put where :class:`~epot.models.mace.MACE` has them."""

from __future__ import annotations

from typing import Any

import torch

from ..blocks.coupling import coupling_paths, path_transfer
from ..blocks.radial_network import SIGMOID_GAIN, SILU_GAIN
from ..errors import ConfigError, ModelFileError
from ..models.mace import MACE
from ..typing import Tensor
from . import e3nn_weights as e3nn
from .module_pickle import Recorded


@torch.no_grad()
def fill(model: MACE, source: Recorded, head: int, scale: float) -> None:
    """Copy all weights.

    Args:
        model: of the settings of ``source``.
        source: the recorded model.
        head: which head's readouts.
        scale: eV for one unit of the readouts.

    Raises:
        ModelFileError: something has another shape than the settings say, or is of a kind that is not known.
    """
    order = torch.argsort(source.get("atomic_numbers"))
    linear = e3nn.linear(source.get("node_embedding.linear"), "node_embedding")
    _put(model.embedding.weight, linear.dense(0)[order], "node_embedding")
    transform = source.get("radial_embedding.distance_transform")
    if transform is not None:
        names = ("q", "p", "a") if transform.kind == "AgnesiTransform" else ("alpha",)
        _put(model.basis.constants, torch.stack([transform.get(n).reshape(()) for n in names]), "distance_transform")
    for k, (ours, theirs) in enumerate(zip(model.interactions, source.children("interactions"), strict=True)):
        _interaction(ours, theirs, order, f"interactions.{k}")
    for k, theirs in enumerate(source.children("products")):
        _product(model, k, theirs, order)
    _readouts(model, source, head)
    model.readout.scale.fill_(scale)


def _put(target: Tensor, value: Tensor, what: str) -> None:
    if target.shape != value.shape:
        raise ModelFileError(f"{what} is {tuple(value.shape)}; expected {tuple(target.shape)}.")
    target.copy_(value)


def _stacked(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts)


def _interaction(ours: Any, theirs: Recorded, order: Tensor, where: str) -> None:
    n_edge = ours.n_edge
    up = e3nn.linear(theirs.get("linear_up"), f"{where}.linear_up")
    degrees = len(ours.up)
    parts = [e3nn.padded(up.dense(n), (up.dense(n).shape[0], n_edge)) for n in range(degrees)]
    _put(ours.up, _stacked(parts), f"{where}.linear_up")
    ours.neighbors.settle(float(theirs.get("avg_num_neighbors")))
    nonlinear = ours.kind == "nonlinear"
    columns = _columns(ours, theirs, where)
    mixing = e3nn.linear(theirs.get("linear_1" if nonlinear else "linear"), f"{where}.linear")
    for degree, own in enumerate(ours.paths.by_result):
        rows = [_rows(mixing, columns[ours.paths.paths[n]], degree, n_edge) for n in own]
        _put(ours.mix[degree], torch.cat(rows), f"{where}.linear of degree {degree}")

    def spread(w: Tensor) -> Tensor:
        """Columns in the order of our paths."""
        own = [columns[p] for p in ours.paths.paths]
        return torch.cat([e3nn.padded(w[:, p.at : p.at + p.channels], (len(w), n_edge)) for p in own], 1)

    if nonlinear:
        _nonlinear(ours, theirs, order, spread, where)
        return
    *hidden, last = e3nn.network(theirs.get("conv_tp_weights"), f"{where}.conv_tp_weights", SILU_GAIN)
    for layer, value in zip(ours.network.layers, hidden, strict=True):
        _put(layer, value, f"{where}.conv_tp_weights")
    _put(ours.weight, spread(last), f"{where}.conv_tp_weights")
    skip = e3nn.by_element(theirs.get("skip_tp"), f"{where}.skip_tp")
    _put(ours.skip, _stacked(skip[: len(ours.skip)])[:, order], f"{where}.skip_tp")
    if ours.kind.startswith("density"):
        (density,) = e3nn.network(theirs.get("density_fn"), f"{where}.density_fn", SILU_GAIN)
        _put(ours.dense, density, f"{where}.density_fn")


def _columns(ours: Any, theirs: Recorded, where: str) -> dict[tuple[int, int, int], e3nn.Path]:
    """Their paths by degrees."""
    found = {path.degrees: path for path in e3nn.paths(theirs.get("conv_tp"), f"{where}.conv_tp")}
    missing = [p for p in ours.paths.paths if tuple(p) not in found]
    if missing:
        raise ModelFileError(f"{where} lacks the path {tuple(missing[0])} of degrees.")
    return found


def _rows(mixing: e3nn.Linear, path: e3nn.Path, degree: int, n_edge: int) -> Tensor:
    """What the results of a path are mixed by."""
    weights = [w for (i_in, _), w in sorted(mixing.maps.items()) if i_in == path.slot]
    block = torch.cat(weights, 1) * (path.factor / (2 * degree + 1) ** 0.5)
    return e3nn.padded(block, (n_edge, block.shape[1]))


def _nonlinear(ours: Any, theirs: Recorded, order: Tensor, spread: Any, where: str) -> None:
    last = _dense_layers(ours.network, theirs.get("conv_tp_weights"), f"{where}.conv_tp_weights")
    _put(ours.weight, spread(last.get("weight").T), f"{where}.conv_tp_weights")
    _put(ours.bias, spread(last.get("bias").unsqueeze(0))[0], f"{where}.conv_tp_weights")
    last = _dense_layers(ours.density_network, theirs.get("density_fn"), f"{where}.density_fn")
    for name in ("weight", "bias"):
        _put(getattr(ours.density_out, name), last.get(name), f"{where}.density_fn")
    for name, target in (("source_embedding", ours.embed_source), ("target_embedding", ours.embed_target)):
        _put(target, e3nn.linear(theirs.get(name), f"{where}.{name}").dense(0)[order], f"{where}.{name}")
    residual, skip, after = (e3nn.linear(theirs.get(k), f"{where}.{k}") for k in ("linear_res", "skip_tp", "linear_2"))
    for degree, target in enumerate(ours.residual):
        value = residual.dense(degree)
        _put(target, e3nn.padded(value, (ours.n_edge, value.shape[1])), f"{where}.linear_res")
    _put(ours.skip, _stacked([skip.dense(n) for n in range(len(ours.skip))]), f"{where}.skip_tp")
    gains = _gate(theirs.get("equivariant_nonlin"), f"{where}.equivariant_nonlin")
    value = _stacked([after.dense(n) * (gains[0] if n == 0 else gains[1]) for n in range(len(ours.mix_after))])
    _put(ours.mix_after, value, f"{where}.linear_2")
    for name in ("alpha", "beta"):
        _put(getattr(ours, name), theirs.get(name).reshape(()), f"{where}.{name}")


def _dense_layers(ours: Any, theirs: Any, where: str) -> Recorded:
    """Fill a radial network with layer norms; returns the last layer."""
    *hidden, last = theirs.children("net")
    if [m.kind for m in hidden] != ["Linear", "LayerNorm", "SiLU"] * len(ours.layers) or last.kind != "Linear":
        raise ModelFileError(f"{where} has the layers {', '.join(m.kind for m in hidden)}; expected RadialMLP's.")
    for k, (layer, norm) in enumerate(zip(ours.layers, ours.norms, strict=True)):
        if abs(hidden[3 * k + 1].get("eps") - norm.eps) > 1e-12:
            raise ModelFileError(f"{where} has a layer norm with another epsilon than {norm.eps}.")
        for name in ("weight", "bias"):
            _put(getattr(layer, name), hidden[3 * k].get(name), where)
            _put(getattr(norm, name), hidden[3 * k + 1].get(name), where)
    return last


def _gate(gate: Any, where: str) -> tuple[float, float]:
    """Their factors of the two activations in the gate, in units of ours."""
    if gate.kind == "GatedEquivariantBlock":
        functions = [gate.get(k).__name__ for k in ("_act_scalar", "_act_gate")]
        if functions != ["silu", "sigmoid"] or gate.get("_layout_is_ir_mul"):
            raise ModelFileError(f"{where} gates with {' and '.join(functions)}; expected silu and sigmoid.")
        return gate.get("_scalar_cst") / SILU_GAIN, gate.get("_gate_cst") / SIGMOID_GAIN
    found = (("act_scalars", "silu", SILU_GAIN), ("act_gates", "sigmoid", SIGMOID_GAIN))
    silu, sigmoid = (e3nn.activation(gate.get(f"{k}.acts.0"), name, where) / gain for k, name, gain in found)
    return silu, sigmoid


def _product(model: MACE, layer: int, theirs: Recorded, order: Tensor) -> None:
    ours: Any = model.products[layer]
    where = f"products.{layer}"
    linear = e3nn.linear(theirs.get("linear"), f"{where}.linear")
    _put(ours.mix, _stacked([linear.dense(n) for n in range(len(ours.mix))]), f"{where}.linear")
    targets = iter(ours.powers.weights)
    for degree in ours.powers.l_out:
        contraction = theirs.get(f"symmetric_contractions.contractions.{degree}")
        if not isinstance(contraction, Recorded) or contraction.kind != "Contraction":
            raise ModelFileError(f"{where} has no contraction to degree {degree} of mace-torch's own kind.")
        for power in range(1, contraction.get("correlation") + 1):
            target, weight = next(targets), _weights(contraction, power)
            turn = _turned(model, contraction.get(f"U_matrix_{power}"), degree, power, where)
            weight = weight if ours.agnostic else weight[order]
            _put(target, torch.einsum("pk,zkc->zpc", turn.to(weight), weight), f"{where} of power {power}")


def _weights(contraction: Recorded, power: int) -> Tensor:
    """``(elements, paths, channels)``; the highest power's are kept apart, the others' follow in falling order."""
    highest = contraction.get("correlation")
    return contraction.get("weights_max" if power == highest else f"weights.{highest - power - 1}")


def _turned(model: MACE, couplings: Tensor, degree: int, power: int, where: str) -> Tensor:
    """Their paths in terms of ours: mace-torch has had two sets, and the file says which by its tensors."""
    try:
        return path_transfer(couplings, model.max_ell, degree, power, model.reduced_couplings)
    except ConfigError as why:
        raise ModelFileError(f"{where}: {why}") from None


def uses_reduced(contraction: Recorded, max_ell: int) -> bool:
    """Whether a contraction has fewer paths than all ways to couple."""
    power = contraction.get("correlation")
    return contraction.get(f"U_matrix_{power}").shape[-1] != len(coupling_paths(max_ell, 0, power))


def _readouts(model: MACE, source: Recorded, head: int) -> None:
    """Rows of all layers' readouts, one after another, as far as they belong to a head."""
    *before, last = source.children("readouts")
    rows = [e3nn.linear(r.get("linear"), "readouts").dense(0)[:, head] for r in before]
    if model.hidden is None:
        rows.append(e3nn.linear(last.get("linear"), "readouts").dense(0)[:, head])
    else:
        own = slice(head * model.n_readout, (head + 1) * model.n_readout)
        gain = e3nn.activation(last.get("non_linearity.acts.0"), "silu", "the last readout") / SILU_GAIN
        _put(model.hidden, e3nn.linear(last.get("linear_1"), "readouts").dense(0)[:, own], "the last readout")
        if model.second is not None:
            middle = e3nn.linear(last.get("linear_mid"), "readouts")
            _put(model.second.weight, middle.dense(0)[own, own].T * gain, "the last readout")
            _put(model.second.bias, middle.biases[0][own], "the last readout")
        rows.append(e3nn.linear(last.get("linear_2"), "readouts").dense(0)[own, head] * gain)
    _put(model.readout.weight, torch.cat(rows), "the readouts")
