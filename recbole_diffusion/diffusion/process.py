"""The Gaussian diffusion process: noising, its prior, and one reverse step between any two slots.

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon                                  (DDPM, equation 4)

    q_eta(x_s | x_t, x_0) = N(mean, sigma^2 I),  s < t                           (DDIM, Song et al. 2021, equation 7)
    mean    = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s - sigma^2) epsilon_t
    sigma^2 = eta^2 (1 - alpha_bar_s) / (1 - alpha_bar_t) (1 - alpha_bar_t / alpha_bar_s)        (DDIM, equation 16)
    epsilon_t = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)

eta = 1 and s = t - 1 is DDPM's posterior (DiffuRec, equations 4 and 5), eta = 0 is DDIM. Whatever eta and s, x_s given
x_0 has the forward marginal N(sqrt(alpha_bar_s) x_0, (1 - alpha_bar_s) I) when the noise is scaled by sigma.
Shapes: B batch, D embedding. Slots t run from 0 to T - 1; the clean end is :data:`CLEAN`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.diffusion.schedules import NoiseSchedule

CLEAN = -1
"""The slot of the clean end x_0, where alpha_bar is 1: one before slot 0, which already holds one step of noise."""

ReverseNoise = Literal["sqrt_beta", "sqrt_posterior", "posterior", "none"]
REVERSE_NOISE: tuple[str, ...] = get_args(ReverseNoise)


@dataclass(frozen=True)
class Noised:
    """A noised target.

    Attributes:
        x_t: (B, D) the target after t steps of noise.
        noise: (B, D) the standard normal epsilon in it.
    """

    x_t: Tensor
    noise: Tensor


@dataclass(frozen=True)
class ReverseCoefficients:
    """x_s = x_0_weight x_0 + x_t_weight x_t + noise_scale epsilon, in float64."""

    x_0_weight: float
    x_t_weight: float
    noise_scale: float


class GaussianProcess(nn.Module):
    """Noising and denoising steps of one schedule.

    Args:
        schedule: the noise schedule (T slots).
        reverse_noise: how the noise added by a reverse step is scaled (key ``reverse_noise``;
            docs/decisions/010-reverse-noise.md):
            ``sqrt_beta`` eta sqrt(1 - alpha_bar_t / alpha_bar_s), sqrt(beta_t) for s = t - 1: DiffuRec's released code;
            ``sqrt_posterior`` sigma, the standard deviation of q_eta: DDPM and DDIM;
            ``posterior`` sigma^2, a variance used as a scale: DiffuRec's equation 17 and algorithm 1 as printed;
            ``none`` nothing is added. The mean is the same in all four.

    Raises:
        ValueError: unknown ``reverse_noise``.
    """

    def __init__(self, schedule: NoiseSchedule, reverse_noise: ReverseNoise | str = "sqrt_beta") -> None:
        super().__init__()
        if reverse_noise not in REVERSE_NOISE:
            raise ValueError(f"unknown reverse_noise {reverse_noise!r} (allowed: {', '.join(REVERSE_NOISE)})")
        self.schedule = schedule
        self.reverse_noise = reverse_noise

    @property
    def num_steps(self) -> int:
        """T, the number of noising steps."""
        return self.schedule.num_steps

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"reverse_noise={self.reverse_noise!r}"

    def sample(self, x_0: Tensor, t: Tensor, *, noise: NoiseSource | Tensor) -> Noised:
        """x_t given x_0 (DDPM, equation 4; DiffuRec, equations 2 and 15).

        Args:
            x_0: (B, D), or (B, ..., D).
            t: (B,) slots, long.
            noise: where epsilon comes from, or epsilon itself, shaped like x_0.
        """
        epsilon = _drawn(noise, x_0)
        shape = (-1,) + (1,) * (x_0.dim() - 1)
        signal_scale = self.schedule.sqrt_alpha_bar[t].view(shape)
        noise_scale = self.schedule.sqrt_one_minus_alpha_bar[t].view(shape)
        return Noised(x_t=signal_scale * x_0 + noise_scale * epsilon, noise=epsilon)

    def prior(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        noise: NoiseSource,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """x_T ~ N(0, I) of ``shape``: where the reverse chain starts."""
        return noise.normal(shape, device=device, dtype=dtype)

    def coefficients(self, t: int, s: int, *, eta: float = 1.0) -> ReverseCoefficients:
        """The numbers of one reverse step from slot t to slot s (module's equations).

        Raises:
            ValueError: not 0 <= t < T, not CLEAN <= s < t, or eta outside 0..1.
        """
        if not (0 <= t < self.num_steps and CLEAN <= s < t):
            raise ValueError(
                f"a reverse step from slot {t} to slot {s} is none of this schedule: the first must lie in "
                f"0..{self.num_steps - 1}, the second below it ({CLEAN} is the clean end)"
            )
        check_eta(eta)
        alpha_bar = self.schedule.tables["alpha_bar"]
        bar_t = float(alpha_bar[t])
        bar_s = 1.0 if s == CLEAN else float(alpha_bar[s])
        kept = bar_t / bar_s  # alpha_t itself when s = t - 1
        sigma2 = eta**2 * (1.0 - bar_s) / (1.0 - bar_t) * (1.0 - kept)
        # 1 - alpha_bar_s - sigma^2, factored so that two nearly equal numbers are never subtracted.
        rest = (1.0 - bar_s) * ((1.0 - eta**2) + eta**2 * kept * (1.0 - bar_s) / (1.0 - bar_t))
        x_t_weight = math.sqrt(rest / (1.0 - bar_t))
        scale = {
            "sqrt_beta": eta * math.sqrt(1.0 - kept),
            "sqrt_posterior": math.sqrt(sigma2),
            "posterior": sigma2,
            "none": 0.0,
        }[self.reverse_noise]
        return ReverseCoefficients(
            x_0_weight=math.sqrt(bar_s) - x_t_weight * math.sqrt(bar_t),
            x_t_weight=x_t_weight,
            noise_scale=0.0 if s == CLEAN else scale,
        )

    def step(
        self,
        x_0_hat: Tensor,
        x_t: Tensor,
        t: int,
        s: int,
        *,
        eta: float = 1.0,
        noise: NoiseSource | Tensor | None,
    ) -> Tensor:
        """x_s ~ q_eta(x_s | x_t, x_0 = x_0_hat), with the noise scaled as ``reverse_noise`` says.

        Args:
            x_0_hat: (B, D) the denoiser's prediction of x_0.
            x_t: (B, D).
            t, s: slots, s < t; ``s = CLEAN`` returns ``x_0_hat`` itself.
            eta: 1 is DDPM, 0 is DDIM.
            noise: where the added noise comes from, or that noise itself (B, D); None returns the mean. Nothing is
                drawn when the scale is 0 (the last step, eta = 0, ``reverse_noise: none``).

        Raises:
            ValueError: as :meth:`coefficients`.
        """
        number = self.coefficients(t, s, eta=eta)
        if s == CLEAN:
            return x_0_hat
        mean = number.x_0_weight * x_0_hat + number.x_t_weight * x_t
        if noise is None or number.noise_scale == 0.0:
            return mean
        return mean + number.noise_scale * _drawn(noise, x_t)


def check_eta(eta: float) -> None:
    """ValueError unless 0 <= eta <= 1 (key ``reverse_eta``)."""
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"reverse_eta is {eta!r}; it must lie between 0 (DDIM, no noise) and 1 (DDPM)")


def _drawn(noise: NoiseSource | Tensor, like: Tensor) -> Tensor:
    """Standard normal noise shaped like ``like``."""
    if isinstance(noise, Tensor):
        if noise.shape != like.shape:
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}; it must be shaped as what it noises, {tuple(like.shape)}"
            )
        return noise
    return noise.normal(like.shape, device=like.device, dtype=like.dtype)
