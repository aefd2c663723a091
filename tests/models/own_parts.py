"""Parts as a user would write them, outside the package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def halving_schedule(num_steps: int) -> np.ndarray:
    """Every step halves what is left of the signal's variance."""
    return np.full(num_steps, 0.5)


def geometric_schedule(num_steps: int, *, beta_start: float, beta_end: float = 0.2) -> np.ndarray:
    """Every beta is the same multiple of the one before."""
    return np.geomspace(beta_start, beta_end, num_steps)


class FirstStep:
    """Trains on the cleanest step alone."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def sample(
        self, n: int, *, device: torch.device | str, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Slot 0 for every row."""
        return torch.zeros(n, dtype=torch.long, device=device), torch.ones(n, device=device)

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Nothing to learn."""


class NoNoise:
    """Trains on targets that are scaled but not noised."""

    per_row = False

    def select(self, index: object) -> NoNoise:
        """Itself."""
        return self

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Zeros."""
        return torch.zeros(tuple(shape), device=device, dtype=dtype)


class Identity:
    """A reverse sampler that returns where it starts."""

    def __init__(self, process: object, steps: int | None = None, eta: float = 1.0) -> None:
        self.process = process

    def __call__(self, denoiser: object, x_T: Tensor, condition: object, *, noise: object) -> Tensor:
        """x_T (B, D)."""
        return x_T
