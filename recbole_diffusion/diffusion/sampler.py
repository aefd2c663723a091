"""The reverse chain: from x_T ~ N(0, I) to the denoised x_0, over any descending grid of slots.

    x_0_hat = f(x_t, t, condition);  x_s ~ q_eta(x_s | x_t, x_0_hat);  ...;  the last step returns f's output

The full grid with eta = 1 is DDPM's ancestral sampling (Ho et al. 2020, algorithm 2; DiffuRec, algorithm 1);
eta = 0 on a sub-grid is DDIM (Song et al. 2021, section 4.2). Shapes: B batch, D embedding, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.diffusion.process import CLEAN, check_eta

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


def time_grid(num_steps: int, reverse_steps: int | None = None, *, key: str = "reverse_steps") -> tuple[int, ...]:
    """The slots a reverse chain visits, descending from T - 1; the step to the clean end is not among them.

    Args:
        num_steps: T.
        reverse_steps: how many slots: None for all T, 1 for (T - 1,), else evenly spaced (rounded to whole slots)
            from T - 1 to 0.
        key: the configuration key that their number stands under, for the message.

    Raises:
        ValueError: ``reverse_steps`` outside 1..T.
    """
    if reverse_steps is None:
        reverse_steps = num_steps
    if not 1 <= reverse_steps <= num_steps:
        raise ValueError(
            f"{key} is {reverse_steps!r}; it must lie in 1..{num_steps} (num_steps), or be left out for all"
        )
    if reverse_steps == 1:
        return (num_steps - 1,)
    gaps = reverse_steps - 1
    return tuple(((gaps - i) * (num_steps - 1) + gaps // 2) // gaps for i in range(reverse_steps))


class Sampler(Protocol):
    """Turns noise into a denoised x_0."""

    def __call__(self, denoiser: Denoiser, x_T: Tensor, condition: Any, *, noise: NoiseSource) -> Tensor:
        """x_0 (B, D) from x_T (B, D)."""
        ...


def build_sampler(
    name_or_class: str | Callable[..., Sampler],
    process: ReverseProcess,
    steps: int | None,
    eta: float,
    *,
    steps_key: str = "reverse_steps",
) -> Sampler:
    """The reverse sampler by the value of key ``reverse_sampler``: ``grid``, or a user's own class.

    A class is built as ``Class(process, steps=steps, eta=eta)``, as :class:`ReverseSampler` is. ``steps_key`` is the
    key that ``steps`` stands under, for messages.

    Raises:
        ValueError: an unknown name, or as :class:`ReverseSampler`.
    """
    if not isinstance(name_or_class, str):
        return name_or_class(process, steps=steps, eta=eta)
    if name_or_class != "grid":
        raise ValueError(
            f"reverse_sampler '{name_or_class}' does not exist; use grid or give a class as package.module:Class"
        )
    return ReverseSampler(process, steps=steps, eta=eta, steps_key=steps_key)


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
        self.grid: tuple[int, ...]
        if steps is None or isinstance(steps, int):
            self.grid = time_grid(process.num_steps, steps, key=steps_key)
        else:
            self.grid = tuple(int(slot) for slot in steps)
            path = (process.num_steps, *self.grid, CLEAN)
            if not self.grid or any(later >= earlier for earlier, later in pairwise(path)):
                raise ValueError(
                    f"the slots {self.grid} do not descend within {process.num_steps - 1}..0, each at most once"
                )
        calls = len(self.grid) if stop_after is None else stop_after
        if not 1 <= calls <= len(self.grid):
            raise ValueError(
                f"intermediate_steps is {stop_after!r}; it must lie in 1..{len(self.grid)}, the chain's steps "
                "(reverse_steps or num_steps), or be left out for all"
            )
        if early_result not in get_args(EarlyResult):
            allowed = " or ".join(get_args(EarlyResult))
            raise ValueError(f"intermediate_result is {early_result!r}; it must be {allowed}")
        self.steps = list(zip(self.grid, (*self.grid[1:], CLEAN), strict=True))[:calls]
        if early_result == "prediction":
            self.steps[-1] = (self.steps[-1][0], CLEAN)

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
