"""What a backward pass that is going on was asked for."""

from __future__ import annotations

import torch

from ..typing import Tensor


def wanted(tensor: Tensor) -> bool:
    """Whether the backward pass that is going on goes to this tensor (an energy's forces need no weights' gradient)."""
    if not tensor.requires_grad:
        return False
    try:
        return torch._C._will_engine_execute_node(torch.autograd.graph.get_gradient_edge(tensor).node)
    except (AttributeError, RuntimeError):  # another torch, or a leaf that was itself asked for
        return True
