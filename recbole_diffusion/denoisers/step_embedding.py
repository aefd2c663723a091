"""The step embedding: how a denoiser is told which slot of noise it looks at.

    d_t = W2 SiLU(W1 sin(t 1000/T))        (DiffuRec, section 4.2 and released code; Nichol and Dhariwal 2021)

with the sinusoid of Vaswani et al. 2017, cosines first. Slots are 0-based, as in the released code.
Shapes: B batch, D embedding, T steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoid(t_scaled: Tensor, dim: int) -> Tensor:
    """[cos(t w_0), ..., cos(t w_{h-1}), sin(t w_0), ..., sin(t w_{h-1})], w_j = 10000^{-j/h}, h = dim // 2.

    Args:
        t_scaled: (B,) times; whole or broken, any number type.
        dim: D; an odd one gets a last column of zeros.

    Returns:
        (B, D) float32.
    """
    half = dim // 2
    # float32 and this order of operations, as in the released code: at t = 969 the rounding of a frequency shows.
    exponent = -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t_scaled.device) / half
    angle = t_scaled.float()[:, None] * exponent.exp()
    wave = torch.cat([angle.cos(), angle.sin()], dim=1)
    return nn.functional.pad(wave, (0, dim - 2 * half))


class StepEmbedding(nn.Module):
    """t -> t 1000/T -> sinusoid -> Linear(D, 4D) -> SiLU -> Linear(4D, D).

    Args:
        dim: D.
        num_steps: T.
        rescale: stretch the slots to 0..1000 as the released code does; False feeds t itself.
    """

    waves: Tensor
    """(T, D) the sinusoid of every slot; follows from the arguments, so it is not in the ``state_dict``."""

    def __init__(self, dim: int, num_steps: int, rescale: bool = True) -> None:
        super().__init__()
        time = torch.arange(num_steps, dtype=torch.float32) * (1000.0 / num_steps if rescale else 1.0)
        self.register_buffer("waves", sinusoid(time, dim), persistent=False)
        self.first = nn.Linear(dim, 4 * dim)
        self.second = nn.Linear(4 * dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """(B, D) from slots t (B,) long, each in 0..T-1."""
        embedded: Tensor = self.second(nn.functional.silu(self.first(self.waves[t])))
        return embedded
