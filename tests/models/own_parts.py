"""A schedule and a step sampler as a user would write them, outside the package."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def halving_schedule(num_steps: int) -> np.ndarray:
    """Every step halves what is left of the signal's variance."""
    return np.full(num_steps, 0.5)


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
