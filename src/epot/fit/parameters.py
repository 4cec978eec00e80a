"""Which parameters of a potential are which, for its optimizer: by their shapes, and by what modules say of theirs."""

from __future__ import annotations

from torch import nn

from ..blocks.readout import LinearReadout


def split(potential: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices that mix features (they may decay, and Muon turns them), and everything else.

    A tensor of more than two axes is a stack of matrices, one for each degree, element or member of a committee.
    Embeddings are tables of vectors, and weights that act on each channel alone (of a module with ``channelwise =
    True``) are diagonals: neither maps between spaces. Biases, norms and readouts are vectors. Modules name matrices
    that are none of these, but are better not turned, in ``unturned``.
    """
    tables = {
        id(p) for m in potential.modules() if "Embedding" in type(m).__name__ for p in m.parameters(recurse=False)
    }
    tables |= {id(p) for m in potential.modules() if getattr(m, "channelwise", False) for p in m.parameters()}
    tables |= {id(p) for p in _declared(potential, "unturned")}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in potential.named_parameters():
        if not parameter.requires_grad:
            continue
        is_table = id(parameter) in tables or "embed" in name.rsplit(".", 1)[-1]
        is_matrix = parameter.dim() > 1 and min(parameter.shape[-2:]) > 1
        (matrices if is_matrix and not is_table else others).append(parameter)
    return matrices, others


def widths(potential: nn.Module) -> dict[int, int]:
    """How many numbers each map adds, by the ``id`` of its weights: last axis of a linear layer, else the last but one.

    The length of a readout; nothing for biases, and for what acts on each channel alone.
    """
    found = {id(p): p.shape[-2] for p in potential.parameters() if p.dim() > 1}
    for module in potential.modules():
        if isinstance(module, nn.Linear):
            found[id(module.weight)] = module.in_features
        elif isinstance(module, LinearReadout):
            found[id(module.weight)] = module.weight.shape[0]
        elif getattr(module, "channelwise", False):
            for parameter in module.parameters():
                found.pop(id(parameter), None)
    return found


def radial_parameters(potential: nn.Module) -> list[nn.Parameter]:
    """What makes functions of a distance alone: modules name these parts of theirs in ``radial_parameters``."""
    return _declared(potential, "radial_parameters")


def _declared(potential: nn.Module, attribute: str) -> list[nn.Parameter]:
    """Parameters in those parts of its modules that they name in an attribute of theirs."""
    found: list[nn.Parameter] = []
    for module in potential.modules():
        for part in getattr(module, attribute, ()):
            found.extend(p for n, p in module.named_parameters() if n == part or n.startswith(f"{part}."))
    return found
