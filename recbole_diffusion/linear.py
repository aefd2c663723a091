"""Linear layers whose float32 products run in oneDNN on a CPU.

    y = x W^T + b;  dL/dx = g W;  dL/dW = g^T x;  dL/db = sum(g)

torch sends float32 products to MKL, which on CPUs that are not Intel's reaches less than half of what oneDNN, which
torch ships as well, reaches with the same float32 arithmetic (measured in docs/decisions/042-onednn-products.md). torch
has no public switch for it, so this module calls the operator that torch's own compiler calls, where torch has it.
Results agree to float32 rounding. Other devices, other types, autocast and traced programs (torch.export) use the
ordinary linear layer.

Where nothing is trained there are two more: GELU (tanh form) is part of the product, one pass over the memory instead
of two, and a product of few rows and a small weight, as of one user, goes the ordinary way, which costs less to call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def _onednn_product() -> Any:
    """torch's oneDNN linear operator, or None where this torch was built without it."""
    if not torch.backends.mkldnn.is_available():
        return None
    namespace = getattr(torch.ops, "mkldnn", None)
    return getattr(namespace, "_linear_pointwise", None)


_PRODUCT = _onednn_product()
FEW_ROWS, SMALL_WEIGHT = 32, 1024  # rows and outputs up to which calling oneDNN costs more than it saves


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _PRODUCT(x, weight, bias, "none", [], "")


def _in_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's operator is there and takes these."""
    return (
        _PRODUCT is not None
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and weight.dtype == torch.float32
        and x.dim() == 2
        and not torch.compiler.is_compiling()  # torch's compiler chooses the operator by itself
        and x.shape[0] > 0
    )


def product(x: Tensor, weight: Tensor) -> Tensor:
    """``x W^T`` (M, O) for x (M, I), weight (O, I) in any layout, whatever autocast says; nothing is differentiated."""
    with torch.no_grad():
        return _product(x, weight, None) if _in_onednn(x, weight) else torch.mm(x, weight.t())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        for_x = _product(gradient, weight.t(), None) if ctx.needs_input_grad[0] else None
        for_weight = None
        if ctx.needs_input_grad[1]:
            if weight.shape[0] >= weight.shape[1]:  # the faster of the two orders
                for_weight = _product(x.t(), gradient.t(), None).t().contiguous()
            else:
                for_weight = _product(gradient.t(), x.t(), None)
        return for_x, for_weight, gradient.sum(0) if ctx.needs_input_grad[2] else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` for x (M, I), weight (O, I), bias (O,) or None: (M, O)."""
    if not _in_onednn(x, weight) or torch.is_autocast_enabled("cpu"):
        return functional.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        if x.shape[0] <= FEW_ROWS and weight.shape[0] <= SMALL_WEIGHT:
            return functional.linear(x, weight, bias)
        return _product(x, weight, bias)
    result: Tensor = _Linear.apply(x, weight, bias)
    return result


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``GELU(x W^T + b)`` in its tanh form, (M, I) -> (M, O); in one pass where nothing is trained."""
    fits = _in_onednn(x, weight) and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    # asked last: a traced program, which never fits, must not depend on the number of rows
    if not fits or (x.shape[0] <= FEW_ROWS and weight.shape[0] <= SMALL_WEIGHT):
        return functional.gelu(linear(x, weight, bias), approximate="tanh")
    fused: Tensor = _PRODUCT(x, weight, bias, "gelu", [], "tanh")
    return fused


class Linear(nn.Linear):
    """`torch.nn.Linear` for two-dimensional input, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (M, I) -> (M, O)."""
        return linear(x, self.weight, self.bias)
