"""Energies of per-element networks with both derivatives by hand: few large operations, and no graph of them.

Atoms are sorted by element. What one layer computes lies in one flat array, so that activations and their derivatives
are one operation for all elements, and only matrix products are done element by element. With the arguments ``z_l`` of
layer l, its values ``a_l`` and the activation's first and second derivatives ``s_l`` and ``c_l`` there:

    z_l = W_l a_(l-1) + b_l,  E = w a_L + b,    d_L = E' w s_L,   d_(l-1) = (d_l W_l) s_(l-1),   dE/dx = d_1 W_1

A loss on forces asks for the derivative of ``<t, dE/dx>``. With ``t`` sent forward, ``z'_l = W_l a'_(l-1)`` and
``a'_l = s_l z'_l``, it is ``d_l a'_(l-1)`` by each W_l, and ``g_l c_l z'_l`` (with ``d_l = g_l s_l``) by each z_l,
which joins what a loss on energies sends backward (Pearlmutter, Neural Comput. 6, 147 (1994),
doi:10.1162/neco.1994.6.1.147). So there is one pass backward for both, and the two products of each weight's gradient
are summed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..features.engine import wanted
from ..typing import Float, Int, Tensor
from .activations import ACTIVATIONS


class Plan(NamedTuple):
    """Where numbers lie, of one set of atoms and one set of networks.

    Attributes:
        order: atoms, sorted by element.
        back: where each atom went.
        counts: atoms of each element.
        layers: element, atoms and width of each piece of each layer: of the elements that have atoms, and the layer.
        sizes: numbers in each layer.
        depths: hidden layers of each element.
        columns: of the features, the first of each element; then how many there are.
    """

    order: Int[Tensor, " atoms"]
    back: Int[Tensor, " atoms"]
    counts: list[int]
    layers: list[list[tuple[int, int, int]]]
    sizes: list[int]
    depths: list[int]
    columns: list[int]


def plan(species: Int[Tensor, " atoms"], widths: Sequence[Sequence[int]]) -> Plan:
    """The plan for atoms of these elements; ``widths`` of the hidden layers of each element."""
    order = torch.argsort(species, stable=True)
    back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    counts = torch.bincount(species, minlength=len(widths)).tolist()
    depths = [len(ws) for ws in widths]
    present = [k for k, n in enumerate(counts) if n]
    layers = [
        [(k, counts[k], widths[k][at]) for k in present if depths[k] > at]
        for at in range(max((depths[k] for k in present), default=0))
    ]
    sizes = [sum(n * w for _, n, w in layer) for layer in layers]
    columns = [sum(ws[-1] + 1 for ws in widths[:k]) for k in range(len(widths) + 1)]
    return Plan(order, back, counts, layers, sizes, depths, columns)


class _Flat:
    """One number for each unit of each atom: all of a layer at once, or of one element in it as a matrix."""

    def __init__(self, values: Tensor, where: Plan) -> None:
        self.all = values
        self.layers = values.split(where.sizes) if where.sizes else ()
        self.of = [
            {
                k: part.view(n, w)
                for part, (k, n, w) in zip(flat.split([n * w for _, n, w in layer]), layer, strict=True)
            }
            for flat, layer in zip(self.layers, where.layers, strict=True)
        ]


class _State:
    """What the passes over one evaluation share: no input and no output of theirs.

    Attributes:
        where: the plan.
        act: the activation.
        constants: weights and biases that get no gradient; None where they are inputs.
        values: ``a``.
        slopes: ``s``, once it was needed.
        sent: of each derivative of forces that goes backward now: the pass it belongs to, ``d``, ``t``, ``a'``.
    """

    def __init__(self, where: Plan, name: str, constants: Sequence[Tensor] | None) -> None:
        self.where, self.act, self.constants = where, ACTIVATIONS[name], constants
        self.values: _Flat
        self.slopes: _Flat | None = None
        self.sent: list[tuple[int, _Flat, tuple[Tensor, ...], _Flat]] = []

    def layers(self, weights: Sequence[Tensor]) -> list[list[tuple[Tensor, Tensor]]]:
        """Weight and bias of each layer, by element."""
        given = iter(weights if self.constants is None else self.constants)
        return [[(next(given), next(given)) for _ in range(depth)] for depth in self.where.depths]

    def ends(self, last: Tensor) -> list[Tensor]:
        """The readout's weights of each element, bias at the end."""
        return list(last.split([b - a for a, b in zip(self.where.columns, self.where.columns[1:], strict=False)]))

    def slopes_at(self, z: Tensor) -> _Flat:
        if self.slopes is None:
            ones = torch.ones_like(z)
            self.slopes = _Flat(self.act.slope(ones, z, self.values.all), self.where)
        return self.slopes


def energies(
    x: Float[Tensor, "atoms n_in"],
    last: Float[Tensor, " size"],
    weights: Sequence[Tensor],
    where: Plan,
    name: str,
    once: bool = False,
) -> tuple[Float[Tensor, " atoms"], Float[Tensor, "atoms size"]]:
    """Outputs of the networks, and what they are linear in.

    Args:
        x: what the networks of each atom are given.
        last: weights of the readout: for each element, those of its last hidden layer and a bias.
        weights: weight and bias of each hidden layer of each element in turn.
        where: :func:`plan`.
        name: of the activation, one of :data:`ACTIVATIONS`.
        once: the weights will get no gradient.

    Returns:
        Energies, and features as :meth:`epot.blocks.element_networks.ElementNetworks.forward` gives them.
    """
    state = _State(where, name, weights if once else None)
    made = _Energies.apply(x, last.detach() if once else last, state, *(() if once else weights))
    return made[0], made[2]


class _Energies(torch.autograd.Function):
    """Energies, the arguments of all activations (which the derivative below is a function of), and features."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, last: Tensor, state: _State, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        where = state.where
        parts = list(x.index_select(0, where.order).split(where.counts))
        z = _Flat(x.new_empty(sum(where.sizes)), where)
        state.values = a = _Flat(torch.empty_like(z.all), where)
        layers, ends = state.layers(weights), state.ends(last)
        found = [x.new_zeros(0)] * len(parts)
        features = x.new_zeros(len(x), where.columns[-1])
        for at, layer in enumerate(where.layers):
            for k, _, _ in layer:
                weight, bias = layers[k][at]
                torch.addmm(bias, parts[k], weight.t(), out=z.of[at][k])
            state.act.value(z.layers[at], a.layers[at])
            for k, _, width in layer:
                parts[k] = a.of[at][k]
                if at == where.depths[k] - 1:
                    found[k] = torch.addmv(ends[k][width:], parts[k], ends[k][:width])
                    start, atoms = where.columns[k], where.order.split(where.counts)[k]
                    features.narrow(1, start, width).index_copy_(0, atoms, parts[k])
                    features.select(1, start + width).index_fill_(0, atoms, 1.0)
        ctx.save_for_backward(x, last, z.all, *weights)
        ctx.state = state
        return torch.cat(found).index_select(0, where.back), z.all, features

    @staticmethod
    def backward(ctx: Any, by_energy: Tensor | None, by_z: Tensor | None, by_features: Tensor | None) -> Any:
        x, last, z, *weights = ctx.saved_tensors
        state, inputs = ctx.state, (x, last, *weights)
        asked = [wanted(x), wanted(last), any(wanted(w) for w in weights)]  # the third: all weights, or none
        if torch.is_grad_enabled():
            if by_z is None and by_features is None and asked == [True, False, False]:
                return _Slopes.apply(by_energy, z, last, state, *weights), None, None, *(None for _ in weights)
            return _by_autograd(inputs, asked, state, (by_energy, by_z, by_features))
        return _backward(state, inputs, asked, z, (by_energy, by_z, by_features))


def _backward(
    state: _State, inputs: tuple[Tensor, ...], asked: list[bool], z: Tensor, grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """The pass backward through the networks."""
    (x, last, *weights), where, (by_energy, by_z, by_features) = inputs, state.where, grads
    layers, ends = state.layers(weights), state.ends(last)
    zero = x.new_zeros(())
    energy = (zero.expand(len(x)) if by_energy is None else by_energy).index_select(0, where.order).split(where.counts)
    back = _Flat(torch.empty_like(z), where)
    extra = None if by_z is None else by_z.split(where.sizes)
    arguments, values = z.split(where.sizes) if where.sizes else (), state.values.layers
    rows = x.new_empty(len(x), x.shape[1]) if asked[0] else None
    row_parts = rows.split(where.counts) if rows is not None else ()
    for at in reversed(range(len(where.layers))):
        for k, _, width in where.layers[at]:
            if at == where.depths[k] - 1:
                torch.mul(energy[k].unsqueeze(1), ends[k][:width], out=back.of[at][k])
                if by_features is not None:
                    own = by_features.narrow(1, where.columns[k], width)
                    back.of[at][k] += own.index_select(0, where.order.split(where.counts)[k])
        flat = back.layers[at]
        if state.slopes is not None:
            flat.mul_(state.slopes.layers[at])
        else:
            flat.copy_(state.act.slope(flat, arguments[at], values[at]))
        if extra is not None:
            flat.add_(extra[at])
        for k, _, _ in where.layers[at]:
            if at:
                torch.mm(back.of[at][k], layers[k][at][0], out=back.of[at - 1][k])
            elif rows is not None:
                torch.mm(back.of[at][k], layers[k][at][0], out=row_parts[k])
    by_x = None if rows is None else rows.index_select(0, where.back)
    by_last = _by_last(state, energy, last) if asked[1] else None
    by_weights: Sequence[Tensor | None] = [None] * len(weights)
    if asked[2]:
        by_weights = _by_weights(state, x, back)
    return by_x, by_last, None, *by_weights


def _by_last(state: _State, energy: Sequence[Tensor], last: Tensor) -> Tensor:
    """Of the readout: the sum of what it is multiplied with."""
    where, found = state.where, torch.zeros_like(last)
    for k, depth in enumerate(where.depths):
        if where.counts[k]:
            start, values = where.columns[k], state.values.of[depth - 1][k]
            torch.mv(values.t(), energy[k], out=found[start : start + values.shape[1]])
            found[start + values.shape[1]] = energy[k].sum()
    return found


def _by_weights(state: _State, x: Tensor, back: _Flat) -> list[Tensor | None]:
    """Of weights and biases, with what derivatives of forces have left in this pass."""
    where, now = state.where, torch._C._current_graph_task_id()
    parts = x.index_select(0, where.order).split(where.counts)
    sent, state.sent = [s[1:] for s in state.sent if s[0] == now], []
    found: list[Tensor | None] = []
    for k, depth in enumerate(where.depths):
        if not where.counts[k]:
            found += [None, None] * depth
            continue
        for at in range(depth):
            own = back.of[at][k]
            total = own.t().mm(state.values.of[at - 1][k] if at else parts[k])
            for d, t, a in sent:
                total.addmm_(d.of[at][k].t(), a.of[at - 1][k] if at else t[k])
            found += [total, own.sum(0)]
    return found


class _Slopes(torch.autograd.Function):
    """``dE/dx`` as a function of ``z`` and the weights, for a loss on forces."""

    @staticmethod
    def forward(ctx: Any, by_energy: Tensor, z: Tensor, last: Tensor, state: _State, *weights: Tensor) -> Tensor:
        where, slopes = state.where, state.slopes_at(z)
        layers, ends = state.layers(weights), state.ends(last)
        energy = by_energy.index_select(0, where.order).split(where.counts)
        g, d = _Flat(torch.empty_like(z), where), _Flat(torch.empty_like(z), where)
        rows = z.new_empty(len(where.order), layers[0][0][0].shape[1])
        parts = rows.split(where.counts)
        for at in reversed(range(len(where.layers))):
            for k, _, width in where.layers[at]:
                if at == where.depths[k] - 1:
                    torch.mul(energy[k].unsqueeze(1), ends[k][:width], out=g.of[at][k])
            torch.mul(g.layers[at], slopes.layers[at], out=d.layers[at])
            for k, _, _ in where.layers[at]:
                torch.mm(d.of[at][k], layers[k][at][0], out=g.of[at - 1][k] if at else parts[k])
        ctx.save_for_backward(by_energy, z, last, *weights)
        ctx.state, ctx.d = state, d
        ctx.bent = g.all.mul_(state.act.bend(z, state.values.all, slopes.all))
        return rows.index_select(0, where.back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        by_energy, z, last, *weights = ctx.saved_tensors
        state = ctx.state
        where, slopes, layers = state.where, state.slopes_at(z), state.layers(weights)
        start = tangent.index_select(0, where.order).split(where.counts)
        moved, a = _Flat(torch.empty_like(z), where), _Flat(torch.empty_like(z), where)
        for at, layer in enumerate(where.layers):
            for k, _, _ in layer:
                torch.mm(a.of[at - 1][k] if at else start[k], layers[k][at][0].t(), out=moved.of[at][k])
            torch.mul(moved.layers[at], slopes.layers[at], out=a.layers[at])
        if any(wanted(w) for w in weights):
            state.sent.append((torch._C._current_graph_task_id(), ctx.d, start, a))
        ends = [a.of[depth - 1][k] if where.counts[k] else None for k, depth in enumerate(where.depths)]
        change = by_last = None
        if wanted(by_energy):
            pairs = zip(ends, state.ends(last), strict=True)
            found = [z.new_zeros(0) if end is None else end.mv(w[:-1]) for end, w in pairs]
            change = torch.cat(found).index_select(0, where.back)
        if wanted(last):
            by_last, energy = torch.zeros_like(last), by_energy.index_select(0, where.order).split(where.counts)
            for k, end in enumerate(ends):
                if end is not None:
                    torch.mv(end.t(), energy[k], out=by_last[where.columns[k] : where.columns[k] + end.shape[1]])
        return change, moved.all.mul_(ctx.bent), by_last, None, *(None for _ in weights)


def _by_autograd(
    inputs: tuple[Tensor, ...], asked: list[bool], state: _State, grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Derivatives that can be differentiated as often as anyone likes, of the same networks by ordinary operations."""
    (x, last, *weights), where = inputs, state.where
    layers, ends = state.layers(weights), state.ends(last)
    parts = list(x.index_select(0, where.order).split(where.counts))
    arguments, values = [], [parts]
    for at, layer in enumerate(where.layers):
        z = {k: nn.functional.linear(parts[k], *layers[k][at]) for k, _, _ in layer}
        arguments += [z[k].reshape(-1) for k, _, _ in layer]
        parts = [state.act.plain(z[k]) if k in z else part for k, part in enumerate(parts)]
        values.append(parts)
    tops = [parts[k] if n else x.new_zeros(0, len(ends[k]) - 1) for k, n in enumerate(where.counts)]
    features = torch.block_diag(*(nn.functional.pad(t, (0, 1), value=1.0) for t in tops))
    features = features.index_select(0, where.back)
    outputs = (features @ last, torch.cat(arguments or [x.new_zeros(0)]), features)
    used = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
    asked = [*asked[:2], *(asked[2] and w.requires_grad for w in weights)]
    sources = [t for t, yes in zip(inputs, asked, strict=True) if yes]
    found = iter(
        torch.autograd.grad([o for o, _ in used], sources, [g for _, g in used], create_graph=True, allow_unused=True)
        if used and sources
        else [None] * len(sources)
    )
    by_x, by_last, *by_weights = [next(found) if yes else None for yes in asked]
    return by_x, by_last, None, *by_weights
