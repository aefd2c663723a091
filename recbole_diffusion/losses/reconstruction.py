"""How far a denoiser's x_0_hat is from x_0.

    euclidean   |x_0_hat - x_0|                     (DMI, Eq. 18: the root of the sum of squares)
    mse         |x_0_hat - x_0|^2 / D

The euclidean distance scales with its arguments and has gradient 0 where they are equal, its subgradient of smallest
norm; elsewhere its gradient has length 1 however close they are.

Shapes: B rows, D embedding.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

ReconstructionLoss = Literal["euclidean", "mse"]


def reconstruction_distance(x_0_hat: Tensor, x_0: Tensor, kind: ReconstructionLoss = "euclidean") -> Tensor:
    """Distance of each row, (...,) from two (..., D), in float32.

    Raises:
        ValueError: another `kind`.
    """
    difference = x_0_hat.float() - x_0.float()
    if kind == "euclidean":
        return torch.linalg.vector_norm(difference, dim=-1)
    if kind == "mse":
        return difference.square().mean(-1)
    raise ValueError(f"reconstruction_loss '{kind}' does not exist; use euclidean or mse")
