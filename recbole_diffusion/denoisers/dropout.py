"""Dropout whose masks come from 16 random bits an element.

Inverted dropout (Srivastava et al. 2014): ``y = x * m / (1 - p)``, ``m ~ Bernoulli(1 - p)``. On a CPU the Bernoulli
draw of one float per element costs more than the layer it regularises; 16 bits per element cost a quarter of that. The
drop probability is therefore a multiple of 2^-16 (0.1 becomes 0.100006), and the scale is the inverse of that very
number, so the expectation stays exact. On other devices the library's own dropout is used.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 1 << 16


def keep_scale(shape: torch.Size, probability: float, dtype: torch.dtype) -> Tensor:
    """Draw a CPU tensor of `shape` that is 0 with `probability` and ``1 / (1 - probability)`` otherwise.

    The draw uses torch's global CPU generator.
    """
    dropped = min(max(round(probability * LEVELS), 0), LEVELS - 1)
    count = shape.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[:count].view(shape)
    kept = torch.empty(shape, dtype=dtype)
    torch.ge(bits, dropped - LEVELS // 2, out=kept)
    return kept.mul_(LEVELS / (LEVELS - dropped))


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Inverted dropout of `x` (any shape); the identity outside training or for probability 0."""
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, probability, True)
    return x * keep_scale(x.shape, probability, x.dtype)


def residual_dropout(residual: Tensor, x: Tensor, probability: float, training: bool) -> Tensor:
    """``residual + dropout(x)`` in one pass over the memory; both of one shape."""
    if not training or probability == 0.0:
        return residual + x
    if x.device.type != "cpu":
        return residual + functional.dropout(x, probability, True)
    return torch.addcmul(residual, x, keep_scale(x.shape, probability, x.dtype))
