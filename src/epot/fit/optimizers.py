"""Optimizers: AdamW, AMSGrad, schedule-free AdamW, Muon for matrices with AdamW or AMSGrad for the rest, and SOAP."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn

from ..typing import Tensor
from .parameters import radial_parameters, split, widths

Name = Literal["adamw", "amsgrad", "schedule_free", "muon", "soap", "lbfgs"]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)."""
RATES: dict[str, float] = {"adamw": 3e-3, "amsgrad": 1e-2, "schedule_free": 1e-2, "muon": 4e-3, "soap": 3e-3}

RADIAL_RATES = dict.fromkeys(RATES, 0.1) | {"amsgrad": 1.0, "muon": 1.0}
"""Shares of the rate for radial functions; none where AMSGrad moves them at the rate of its papers, as with Muon."""


def own(potential: nn.Module) -> Name:
    """The optimizer of a potential: L-BFGS if all that is trained asks for it (``optimizer = "lbfgs"``)."""
    asks: set[str] = set()
    for parameter in (p for p in potential.parameters() if p.requires_grad):
        holders = [m for m in potential.modules() if any(q is parameter for q in m.parameters())]
        asks.add(next((str(m.optimizer) for m in holders if isinstance(getattr(m, "optimizer", None), str)), "muon"))
    return "lbfgs" if asks == {"lbfgs"} else "muon"


def make(
    name: Name, potential: nn.Module, lr: float, weight_decay: float, radial_rate: float = 1.0
) -> torch.optim.Optimizer:
    """The optimizer of a potential's trainable parameters.

    Args:
        name: ``"adamw"``, ``"amsgrad"``, ``"schedule_free"``, ``"muon"`` or ``"soap"`` (L-BFGS is in
            :mod:`epot.fit.full_batch`).
        potential: only parameters that require a gradient are taken.
        lr: learning rate. Muon's updates are scaled to the root mean square of AdamW's, so one rate serves all. That of
            AMSGrad is of weights before they are divided by the root of how many numbers they add (:func:`widths`), as
            the papers of NequIP and MACE state it (e3nn divides at every call, here the weights hold it). What Muon
            leaves follows it, too, in a potential with ``rates_by_width = True``, else AdamW at the whole rate.
        weight_decay: decoupled, on matrices only: never on biases, embeddings, norms, or a readout.
        radial_rate: share of the rate at which :func:`radial_parameters` learn. Muon leaves these: it would move all
            directions of their weights alike, and those that no distance in the data tells anything of, too.

    Returns:
        With ``share`` of each group, that of the rate.
    """
    matrices, others = split(potential)
    if name == "soap":  # it turns single matrices
        others = others + [p for p in matrices if p.dim() > 2]
        matrices = [p for p in matrices if p.dim() == 2]
    radial = {id(p) for p in radial_parameters(potential)}
    width, by_width = widths(potential), any(getattr(m, "rates_by_width", False) for m in potential.modules())
    groups: list[dict[str, Any]] = []
    for slow, share in ((False, 1.0), (True, radial_rate)):
        for some, decay, matrix in ((matrices, weight_decay, not (slow and name == "muon")), (others, 0.0, False)):
            own = [p for p in some if (id(p) in radial) == slow]
            papers = name == "amsgrad" or (name == "muon" and not matrix and by_width)
            group = {"params": own, "weight_decay": decay, "matrix": matrix, "share": share, "lr": share * lr}
            group["amsgrad"] = papers
            groups.extend(_by_width(group, width) if papers else [group])
    groups = [g for g in groups if g["params"]]
    if name in ("adamw", "amsgrad"):
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, foreach=True)
    if name == "schedule_free":
        return ScheduleFree(groups, lr=lr)
    return (Muon if name == "muon" else Soap)(groups, lr=lr)


def _by_width(group: dict[str, Any], widths: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Groups in which all maps are equally wide, each with its share of the rate."""
    for width in sorted({widths.get(id(p), 1) for p in group["params"]}):
        same = [p for p in group["params"] if widths.get(id(p), 1) == width]
        root = width**-0.5
        yield group | {"params": same, "share": root * group["share"], "lr": root * group["lr"]}


def orthogonalize(matrices: Tensor, steps: int = 5, precision: torch.dtype | None = None) -> Tensor:
    """Nearly ``U V^T`` of each matrix ``U S V^T``: singular values are brought to about 0.7 to 1.2.

    Args:
        matrices: ``(..., rows, columns)``.
        steps: of the Newton-Schulz iteration.
        precision: of its products; that of the matrices if not given. What the iteration leaves of the singular values
            is so rough that bfloat16 adds nothing to it (Jordan et al. 2024).
    """
    a, b, c = COEFFICIENTS
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-30)
    x = x if precision is None else x.to(precision)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def product_precision(matrices: Tensor) -> torch.dtype | None:
    """bfloat16 where the processor multiplies large float32 matrices in it, twice as fast; else None: their own."""
    measured = matrices.device.type == "cpu" and matrices.dtype == torch.float32  # not so on a GPU
    large = min(matrices.shape[-2:]) >= 128
    return torch.bfloat16 if measured and large and _multiplies_bfloat16() else None


@lru_cache(maxsize=1)
def _multiplies_bfloat16() -> bool:
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


class _MatrixOptimizer(torch.optim.Optimizer):
    """AdamW for groups with ``matrix=False``, AMSGrad with ``amsgrad=True``; a subclass does the others."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "matrix": False, "amsgrad": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients that are there."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
            if group["matrix"]:
                self._matrices(parameters, group)
            else:
                self._adam(parameters, group)

    def _matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        raise RuntimeError("a subclass says how matrices are updated")

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        grads = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            state = self.state[p]
            if not state:
                state["steps"] = 0
                for part in ("mean", "square", *(["largest"] if group["amsgrad"] else [])):
                    state[part] = torch.zeros_like(p)
            state["steps"] += 1
        steps = self.state[parameters[0]]["steps"]
        means = [self.state[p]["mean"] for p in parameters]
        squares = [self.state[p]["square"] for p in parameters]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        if group["amsgrad"]:
            largest = [self.state[p]["largest"] for p in parameters]
            torch._foreach_maximum_(largest, squares)
            squares = largest
        scale = torch._foreach_sqrt(squares)
        torch._foreach_div_(scale, math.sqrt(1 - beta2**steps))
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_addcdiv_(parameters, means, scale, -group["lr"] / (1 - beta1**steps))


class Muon(_MatrixOptimizer):
    """Momentum, orthogonalized (Jordan et al. 2024), for matrices; AdamW or AMSGrad for the rest.

    An update of shape ``(rows, columns)`` is scaled by ``0.2 sqrt(max(rows, columns))``, which gives it the root mean
    square of an AdamW update (Liu et al. 2025, https://arxiv.org/abs/2502.16982, equation 4).

    Args:
        groups: with ``matrix`` True for those that Muon takes.
        lr: learning rate of all.
        momentum: of the matrices, with Nesterov's look ahead.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, lr, betas, eps)
        self.momentum = momentum

    def _matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        shapes: dict[tuple[int, ...], list[Tensor]] = {}
        for p in parameters:
            state = self.state[p]
            if not state:
                state["mean"] = torch.zeros_like(p)
            state["mean"].lerp_(p.grad, 1 - self.momentum)  # type: ignore[arg-type]
            shapes.setdefault(tuple(p.shape), []).append(p)
        for shape, same in shapes.items():  # matrices of one shape are turned together
            ahead = torch.stack([p.grad.lerp(self.state[p]["mean"], self.momentum) for p in same])  # type: ignore[union-attr]
            scale = 0.2 * math.sqrt(max(shape[-2:]))
            turned = orthogonalize(ahead, precision=product_precision(ahead))
            for p, update in zip(same, turned.unbind(0), strict=True):
                p.add_(update, alpha=-group["lr"] * scale)


class Soap(_MatrixOptimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, https://arxiv.org/abs/2409.11321).

    Args:
        groups: with ``matrix`` True for those that are preconditioned; AdamW takes the rest.
        lr: learning rate of all.
        betas, eps: of Adam, in the rotated space too.
        every: steps between updates of the eigenbasis (one power iteration and a QR decomposition).
        largest: a side of a matrix longer than this is not rotated.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        every: int = 10,
        largest: int = 1024,
    ) -> None:
        super().__init__(groups, lr, betas, eps)
        self.every, self.largest = every, largest

    def _matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            self._one(p, group)

    def _one(self, p: Tensor, group: dict[str, Any]) -> None:
        grad, state = p.grad, self.state[p]
        assert grad is not None
        if not state:  # the first gradient only sets the eigenbasis
            state["steps"] = 0
            state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
            for side, size in zip("lr", p.shape, strict=True):
                if size <= self.largest:
                    gram = grad @ grad.mT if side == "l" else grad.mT @ grad
                    state[side] = (1 - group["betas"][1]) * gram
                    state["q" + side] = torch.linalg.eigh(gram)[1].flip(-1).contiguous()
            return
        beta1, beta2 = group["betas"]
        state["steps"] += 1
        turned = _turn(grad, state)
        state["mean"].lerp_(grad, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
        steps = state["steps"]
        scale = state["square"].sqrt().div_(math.sqrt(1 - beta2**steps)).add_(group["eps"])
        update = _turn(_turn(state["mean"], state) / scale, state, back=True)
        p.add_(update, alpha=-group["lr"] / (1 - beta1**steps))
        for side in "lr":
            if side in state:
                gram = grad @ grad.mT if side == "l" else grad.mT @ grad
                state[side].lerp_(gram, 1 - beta2)
        if steps % self.every == 0:
            _refresh(state)


class ScheduleFree(torch.optim.Optimizer):
    """AdamW that averages its iterates in place of a schedule (Defazio et al. 2024, https://arxiv.org/abs/2405.15682).

    Gradients are taken at ``y = (1 - b1) z + b1 x`` (their Eqs. 3 to 5), which is what the parameters hold:

        z <- z - lr (g / (sqrt(v / (1 - b2^t)) + eps) + weight_decay y),    x <- (1 - c) x + c z,

    v the running mean of g^2, and c the share of the highest rate so far, squared, in the sum of such squares over the
    steps. x is what to evaluate and to keep: :meth:`averages`. Of the rate only a warm-up is wanted.

    Args:
        groups: with ``weight_decay`` of each.
        lr: learning rate.
        betas: b1, how far gradients are taken from x, and b2, of v.
        eps: of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "matrix": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients that are there."""
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                if not self.state[p]:
                    begin = {"z": p.detach().clone(), "x": p.detach().clone(), "square": torch.zeros_like(p)}
                    self.state[p].update(begin, steps=0, rate=0.0, sum=0.0)
            alike: dict[int, list[Tensor]] = {}
            for p in (p for p in group["params"] if p.grad is not None):
                alike.setdefault(self.state[p]["steps"], []).append(p)
            for parameters in alike.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Of parameters with one history of rates."""
        (beta1, beta2), lr = group["betas"], group["lr"]
        first = self.state[parameters[0]]
        steps, rate = first["steps"] + 1, max(first["rate"], lr)
        total = first["sum"] + rate**2
        share = rate**2 / total if total > 0 else 0.0
        z, x, squares = ([self.state[p][k] for p in parameters] for k in ("z", "x", "square"))
        grads = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        scale = torch._foreach_sqrt(squares)
        torch._foreach_div_(scale, math.sqrt(1 - beta2**steps))
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_addcdiv_(z, grads, scale, -lr)
        if group["weight_decay"]:
            torch._foreach_add_(z, parameters, alpha=-lr * group["weight_decay"])
        torch._foreach_lerp_(x, z, share)
        torch._foreach_copy_(parameters, torch._foreach_lerp(z, x, beta1))
        for p in parameters:
            self.state[p].update(steps=steps, rate=rate, sum=total)

    def averages(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """X of each; of one that never had a gradient itself."""
        return [self.state[p]["x"] if self.state.get(p) else p.detach() for p in parameters]


def _turn(x: Tensor, state: dict[str, Any], back: bool = False) -> Tensor:
    """Into the eigenbasis ``Q_L^T X Q_R``, or back."""
    if "ql" in state:
        x = (state["ql"] if back else state["ql"].mT) @ x
    if "qr" in state:
        x = x @ (state["qr"].mT if back else state["qr"])
    return x


def _refresh(state: dict[str, Any]) -> None:
    """One power iteration toward the eigenbasis of each side, sorted; second moments follow their columns."""
    for axis, side in enumerate("lr"):
        if side not in state:
            continue
        gram, basis = state[side], state["q" + side]
        order = torch.einsum("ik,ij,jk->k", basis, gram, basis).argsort(descending=True)
        state["square"] = state["square"].index_select(axis, order)
        state["q" + side] = torch.linalg.qr(gram @ basis.index_select(1, order))[0]
