"""Adam that goes through the rows of the item table which a batch has read, and leaves the others alone.

A row v that has a gradient g in step t of the run gets

    m_v <- b1 m_v + (1 - b1) g,   w_v <- b2 w_v + (1 - b2) g^2
    e_v <- e_v - lr m_v / (1 - b1^t) / (sqrt(w_v / (1 - b2^t)) + eps)

which is Adam's step (Kingma and Ba 2015) for these rows, and `torch.optim.SparseAdam`'s but for the place of eps. What
differs from Adam for the others: their moments do not fade and they do not move on by them, until they are read again.
Weight decay, of Adam into g and of AdamW into e_v, is that of the rows read. Every other parameter is trained by
torch's fused kernel, in the same optimiser, so that learning rate, checkpoints and loss scaling are one.

Shapes: V items, D embedding, R rows of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class _RowWise(torch.optim.Optimizer):
    decoupled = False  # weight decay beside the gradient (AdamW) instead of in it

    def __init__(self, parameters: Iterable[Tensor], **keys: Any) -> None:
        super().__init__(parameters, **keys)
        # the fused kernel would look for overflows itself, in dense gradients alone: the scaler then skips whole steps
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step: the rows of sparse gradients here, dense gradients in torch's own Adam."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    sparse.append((parameter, parameter.grad))
                    self._update_rows(parameter, parameter.grad.coalesce(), group)
                    parameter.grad = None
        super().step()
        for parameter, gradient in sparse:
            parameter.grad = gradient
        return loss

    def _update_rows(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update the rows of a table (V, D) that a coalesced gradient of R rows names."""
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=table.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        step, (beta_1, beta_2) = int(state["step"]), group["betas"]
        ids, found = gradient.indices()[0], gradient.values()
        rate, decay = float(group["lr"]), float(group["weight_decay"])
        if decay:
            rows = table.index_select(0, ids)
            if self.decoupled:
                table.index_copy_(0, ids, rows.mul_(1 - rate * decay))
            else:
                found = found.add(rows, alpha=decay)
        mean = state["exp_avg"].index_select(0, ids).lerp_(found, 1 - beta_1)
        square = state["exp_avg_sq"].index_select(0, ids).mul_(beta_2).addcmul_(found, found, value=1 - beta_2)
        state["exp_avg"].index_copy_(0, ids, mean)
        state["exp_avg_sq"].index_copy_(0, ids, square)
        size = square.sqrt_().div_(math.sqrt(1 - beta_2**step)).add_(group["eps"])
        table.index_add_(0, ids, mean.div_(size), alpha=-rate / (1 - beta_1**step))


class RowWiseAdam(_RowWise, torch.optim.Adam):
    """`torch.optim.Adam` that takes sparse gradients."""


class RowWiseAdamW(_RowWise, torch.optim.AdamW):
    """`torch.optim.AdamW` that takes sparse gradients."""

    decoupled = True


def clip_gradients(parameters: Iterable[Tensor], **limits: Any) -> None:
    """`torch.nn.utils.clip_grad_norm_` that takes sparse gradients: their rows count in the norm and are scaled.

    Args:
        parameters: with their gradients.
        limits: of `clip_grad_norm_`: max_norm, norm_type ...
    """
    clipped = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            rows = torch.zeros_like(parameter.grad.values())
            rows.grad = parameter.grad.values()  # one memory: what is scaled here is scaled there
            clipped.append(rows)
        else:
            clipped.append(parameter)
    torch.nn.utils.clip_grad_norm_(clipped, **limits)
