"""Classifier-free guidance: a denoiser that was also trained without its condition, pushed away from that answer.

    x_0_hat = (1 + w) f(x_t, t, h) - w f(x_t, t, none)              (Ho and Salimans 2022, Eq. 6; DreamRec)

Training replaces h by a learned vector `none` with probability p (:func:`drop_condition`). w = 0 is the denoiser
itself, which is then called without `none`. The guided denoiser is a denoiser: any sampler takes it.

Shapes: B batch, D embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.diffusion.sampler import Denoiser
from recbole_diffusion.keyed_draws import current_draws


def drop_condition(condition: Tensor, none: Tensor, probability: float) -> Tensor:
    """Each row's condition, or ``none`` with this probability.

    Drawn from torch's global generator, or from the batch's keyed draws.

    Args:
        condition: (B, D).
        none: (D,) what stands for no condition.
        probability: p; 0 draws nothing and returns ``condition`` itself.

    Raises:
        ValueError: p outside 0 .. 1.
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"the probability of dropping the condition is {probability}; it must lie in 0 .. 1")
    if probability == 0.0:
        return condition
    draws = current_draws()
    if draws is None:
        dropped = torch.rand(len(condition), 1, device=condition.device) < probability
    else:
        dropped = draws.uniform(len(condition), 1, device=condition.device) < probability
    return torch.where(dropped, none.to(condition.dtype), condition)


def with_and_without(condition: Tensor, none: Tensor, scale: float) -> Tensor:
    """What a guided denoiser's condition is made from: the rows' conditions, then ``none`` for each of them.

    Args:
        condition: (B, D).
        none: (D,).
        scale: w; 0 needs no second half.

    Returns:
        (2 B, D), or ``condition`` itself.
    """
    if scale == 0.0:
        return condition
    return torch.cat((condition, none.to(condition.dtype).expand_as(condition)))


class ClassifierFreeGuidance:
    """A denoiser with guidance of strength w; both answers come from one call with twice the rows.

    Args:
        denoiser: takes conditions of any number of rows and draws no noise of its own. One that has `repeats_rows` is
            given x_t and t once, for it repeats by itself what it has computed of them.
        scale: w, 0 or more.

    Raises:
        ValueError: w below 0.
    """

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        if scale < 0.0:
            raise ValueError(f"guidance_scale is {scale}; it must be 0 (no guidance) or more")
        self.denoiser = denoiser
        self.scale = scale

    def __call__(self, x_t: Tensor, t: Tensor, condition: Any, *, noise: NoiseSource) -> Tensor:
        """x_0_hat (B, D).

        Args:
            x_t: (B, D).
            t: (B,) slots.
            condition: made from :func:`with_and_without`: 2 B rows, B where w is 0.
            noise: not drawn from here.
        """
        if self.scale == 0.0:
            return self.denoiser(x_t, t, condition, noise=noise)
        if getattr(self.denoiser, "repeats_rows", False):
            both = self.denoiser(x_t, t, condition, noise=noise)
        else:
            both = self.denoiser(torch.cat((x_t, x_t)), torch.cat((t, t)), condition, noise=noise)
        conditioned, unconditioned = both.view(2, *x_t.shape).unbind()
        return conditioned + self.scale * (conditioned - unconditioned)
