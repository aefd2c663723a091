"""The reverse chain: from x_T ~ N(0, I) to the denoised x_0, over any descending grid of slots.

    x_0_hat = f(x_t, t, condition);  x_s ~ q_eta(x_s | x_t, x_0_hat);  ...;  the last step returns f's output

The full grid with eta = 1 is DDPM's ancestral sampling (Ho et al. 2020, algorithm 2; DiffuRec, algorithm 1);
eta = 0 on a sub-grid is DDIM (Song et al. 2021, section 4.2). Shapes: B batch, D embedding, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.diffusion.process import CLEAN, check_eta
from recbole_diffusion.diffusion.time_grids import checked_grid, time_grid

__all__ = [
    "Denoiser",
    "EarlyResult",
    "ReverseProcess",
    "ReverseSampler",
    "Sampler",
    "chain_grid",
    "cut_chain",
    "time_grid",
]

EarlyResult = Literal["state", "prediction"]


class ReverseProcess(Protocol):
    """What a chain needs of a diffusion process: :class:`GaussianProcess` has it, and :class:`GeodesicWalk`."""

    @property
    def num_steps(self) -> int:
        """T."""
        ...

    def step(
        self, x_0_hat: Tensor, x_t: Tensor, t: int, s: int, *, eta: float = 1.0, noise: NoiseSource | Tensor | None
    ) -> Tensor:
        """x_s (B, D) from x_t (B, D) and the prediction x_0_hat (B, D)."""
        ...


class Denoiser(Protocol):
    """A network that predicts x_0."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Any, *, noise: NoiseSource) -> Tensor:
        """x_0_hat (B, D) from x_t (B, D), slots t (B,) long and ``condition``; its own draws come from ``noise``."""
        ...


class Sampler(Protocol):
    """Turns noise into a denoised x_0."""

    def __call__(self, denoiser: Denoiser, x_T: Tensor, condition: Any, *, noise: NoiseSource) -> Tensor:
        """x_0 (B, D) from x_T (B, D)."""
        ...


def chain_grid(
    num_steps: int, steps: int | Sequence[int] | None, *, steps_key: str = "reverse_steps"
) -> tuple[int, ...]:
    """The slots that a chain visits, from what a sampler takes as ``steps``.

    Args:
        num_steps: T.
        steps: None for all T slots, a number of evenly spaced ones, or the descending slots themselves.
        steps_key: the key that a number stands under, for the message.

    Raises:
        ValueError: as :func:`time_grid` and :func:`checked_grid`.
    """
    if steps is None or isinstance(steps, int):
        return time_grid(num_steps, steps, key=steps_key)
    return checked_grid(steps, num_steps)


def cut_chain(
    grid: Sequence[int], stop_after: int | None = None, early_result: EarlyResult | str = "state"
) -> list[tuple[int, int]]:
    """The steps (from slot, to slot) of a chain over a grid, ended after ``stop_after`` of them where that is given.

    Raises:
        ValueError: ``stop_after`` outside 1 .. number of slots, an unknown ``early_result``.
    """
    calls = len(grid) if stop_after is None else stop_after
    if not 1 <= calls <= len(grid):
        raise ValueError(
            f"intermediate_steps is {stop_after!r}; it must lie in 1..{len(grid)}, the chain's steps "
            "(reverse_steps or num_steps), or be left out for all"
        )
    if early_result not in get_args(EarlyResult):
        allowed = " or ".join(get_args(EarlyResult))
        raise ValueError(f"intermediate_result is {early_result!r}; it must be {allowed}")
    steps = list(zip(grid, (*grid[1:], CLEAN), strict=True))[:calls]
    if early_result == "prediction":
        steps[-1] = (steps[-1][0], CLEAN)
    return steps


class ReverseSampler:
    """Runs a denoiser down a grid of slots.

    Args:
        process: the diffusion process.
        steps: None for all T slots, a number of evenly spaced ones, or the descending slots themselves (x_T then
            holds the noise of the first).
        eta: 1 is ancestral sampling (DDPM), 0 is deterministic (DDIM).
        stop_after: end the chain after so many calls of the denoiser; None or all of the grid's for the whole chain.
        early_result: what a chain that is cut ends with: its ``state`` x_s after the last step, or the ``prediction``
            x_0_hat that the step was made with.
        steps_key: the key that a number of ``steps`` stands under, for the message.

    Raises:
        ValueError: ``steps`` as in :func:`time_grid`, slots that do not descend within 0..T-1, eta outside 0..1,
            ``stop_after`` outside 1 .. number of slots, an unknown ``early_result``.
    """

    def __init__(
        self,
        process: ReverseProcess,
        steps: int | Sequence[int] | None = None,
        eta: float = 1.0,
        *,
        stop_after: int | None = None,
        early_result: EarlyResult | str = "state",
        steps_key: str = "reverse_steps",
    ) -> None:
        check_eta(eta)
        self.process = process
        self.eta = eta
        self.grid = chain_grid(process.num_steps, steps, steps_key=steps_key)
        self.steps = cut_chain(self.grid, stop_after, early_result)

    def __call__(self, denoiser: Denoiser, x_T: Tensor, condition: Any, *, noise: NoiseSource) -> Tensor:
        """The denoised x_0 (B, D).

        Args:
            denoiser: called once per slot, the highest first.
            x_T: (B, D) where the chain starts.
            condition: handed to the denoiser untouched.
            noise: draws of one step, in this order: the denoiser's own, then the step's (none for the last step).
        """
        x = x_T
        for t, s in self.steps:
            slots = torch.full((x.shape[0],), t, dtype=torch.long, device=x.device)
            x_0_hat = denoiser(x, slots, condition, noise=noise)
            x = self.process.step(x_0_hat, x, t, s, eta=self.eta, noise=noise)
        return x
