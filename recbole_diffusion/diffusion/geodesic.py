"""The geodesic walk: a diffusion on the unit sphere, noised along great circles and reversed with DDPM's posterior.

    eps_x = eps - (eps . x_0) x_0,  v = s_t eps_x,  x_t = exp_{x_0}(v) = cos(|v|) x_0 + sin(|v|) v / |v|
    x_s   = mu~(x_t, x_0_hat) + sigma_t eps', divided by its length

(DimeRec, Li et al., WSDM 2025, Algorithm 1 lines 5 to 7 and Algorithm 2 line 6.) The scale s_t of the walk:

    raw           s_t = sqrt(1 - alpha_bar_t), as printed. |eps_x| is near sqrt(D - 1), so for D = 64 the mean angle is
                  7.9 s_t radians: it passes the equator at 1 - alpha_bar = 0.04, the antipode at 0.16, and is back at
                  x_0 at 0.63. The noisiest slots then tell where x_0 is.
    unit          s_t = phi sqrt((1 - alpha_bar_t) / (1 - alpha_bar_T)) / sqrt(D - 1): the mean angle grows with t and
                  ends at phi; at pi/2 slot T - 1 looks like a random direction, where serving starts.
    ddpm_project  no walk: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, divided by its length, which are the
                  angles that a reverse chain with `reverse_noise: sqrt_posterior` goes through.

docs/decisions/074-geodesic-walk.md says what the paper leaves open. Shapes: B batch, D embedding, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.diffusion.process import CLEAN, GaussianProcess, Noised, ReverseNoise
from recbole_diffusion.diffusion.schedules import NoiseSchedule
from recbole_diffusion.diffusion.sphere import exponential, normalise, project

WalkScale = Literal["raw", "unit", "ddpm_project"]
ReverseNoiseSpace = Literal["ambient", "tangent"]


class GeodesicWalk(nn.Module):
    """Noising and denoising steps of one schedule on the unit sphere.

    Args:
        schedule: the noise schedule (T slots).
        reverse_noise: how the noise added by a reverse step is scaled; see :class:`GaussianProcess`. DimeRec's
            Algorithm 2 prints ``posterior``.
        walk_scale: ``raw``, ``unit`` or ``ddpm_project``; see the module.
        walk_angle: phi, the mean angle at the last slot, with ``unit`` alone.
        walk_project: whether the noise is projected to the tangent space before it is walked along. Algorithm 1's
            comment says that it is a tangent vector, its line draws any vector.
        walk_renormalise: whether x_t is divided by its length where the noise was not projected and it has left the
            sphere.
        normalise_prior: whether the chain starts on the sphere; section 4.4 starts it from N(0, I) itself.
        reverse_noise_space: ``ambient`` adds the noise to the mean and normalises (Algorithm 2); ``tangent`` normalises
            the mean and walks from there along the noise's tangent part.

    Raises:
        ValueError: an unknown name, or an angle outside 0 .. pi.
    """

    scale: Tensor
    """(T,) s_t, for ``unit`` without its factor 1 / sqrt(D - 1)."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        reverse_noise: ReverseNoise | str = "posterior",
        *,
        walk_scale: WalkScale | str = "raw",
        walk_angle: float = math.pi / 2,
        walk_project: bool = True,
        walk_renormalise: bool = True,
        normalise_prior: bool = True,
        reverse_noise_space: ReverseNoiseSpace | str = "ambient",
    ) -> None:
        super().__init__()
        for key, value, allowed in (
            ("walk_scale", walk_scale, get_args(WalkScale)),
            ("reverse_noise_space", reverse_noise_space, get_args(ReverseNoiseSpace)),
        ):
            if value not in allowed:
                raise ValueError(f"{key} is {value!r}; it must be one of {', '.join(allowed)}")
        if not 0.0 < walk_angle <= math.pi:
            raise ValueError(f"walk_angle is {walk_angle}; it must be above 0 and at most pi (pi/2 is the equator)")
        self.flat = GaussianProcess(schedule, reverse_noise)
        self.walk_scale, self.walk_angle = walk_scale, walk_angle
        self.walk_project, self.walk_renormalise = walk_project, walk_renormalise
        self.normalise_prior, self.reverse_noise_space = normalise_prior, reverse_noise_space
        noise_scale = schedule.tables["sqrt_one_minus_alpha_bar"]
        if walk_scale == "unit":
            noise_scale = walk_angle * noise_scale / noise_scale[-1]
        self.register_buffer("scale", torch.tensor(noise_scale, dtype=torch.float32), persistent=False)

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule."""
        return self.flat.schedule

    @property
    def num_steps(self) -> int:
        """T, the number of noising steps."""
        return self.flat.num_steps

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"walk_scale={self.walk_scale!r}, walk_project={self.walk_project}"

    def sample(self, x_0: Tensor, t: Tensor, *, noise: NoiseSource | Tensor) -> Noised:
        """x_t given x_0 (DimeRec, Algorithm 1, line 7).

        Args:
            x_0: (B, D) unit vectors.
            t: (B,) slots, long.
            noise: where epsilon comes from, or epsilon itself, (B, D).

        Returns:
            x_t (B, D) and the standard normal epsilon, before any projection.
        """
        if self.walk_scale == "ddpm_project":
            noised = self.flat.sample(x_0, t, noise=noise)
            return Noised(x_t=normalise(noised.x_t), noise=noised.noise)
        epsilon = noise
        if not isinstance(epsilon, Tensor):
            epsilon = epsilon.normal(x_0.shape, device=x_0.device, dtype=x_0.dtype)
        elif epsilon.shape != x_0.shape:
            raise ValueError(
                f"noise has shape {tuple(epsilon.shape)}; it must be {tuple(x_0.shape)}, as what it noises"
            )
        direction = project(x_0, epsilon) if self.walk_project else epsilon
        scale = self.scale[t][:, None]
        if self.walk_scale == "unit":
            scale = scale / math.sqrt(max(1, x_0.shape[-1] - self.walk_project))
        x_t = exponential(x_0, scale * direction)
        if not self.walk_project and self.walk_renormalise:
            x_t = normalise(x_t)
        return Noised(x_t=x_t, noise=epsilon)

    def prior(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        noise: NoiseSource,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Where the reverse chain starts, of ``shape``: a random direction, or N(0, I) without ``normalise_prior``."""
        x_T = self.flat.prior(shape, device=device, noise=noise, dtype=dtype)
        return normalise(x_T) if self.normalise_prior else x_T

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
        """x_s of unit length from x_t and the prediction of x_0 (DimeRec, Algorithm 2, line 6).

        Args:
            x_0_hat: (B, D) the denoiser's prediction of x_0.
            x_t: (B, D).
            t, s: slots, s < t; ``s = CLEAN`` returns ``x_0_hat`` divided by its length.
            eta: 1 is DDPM, 0 is DDIM.
            noise: where the added noise comes from, or that noise itself (B, D); None adds none. Nothing is drawn
                when its scale is 0.

        Raises:
            ValueError: as :meth:`GaussianProcess.coefficients`.
        """
        number = self.flat.coefficients(t, s, eta=eta)
        if s == CLEAN:
            return normalise(x_0_hat)
        if noise is None or number.noise_scale == 0.0:
            return normalise(self.flat.step(x_0_hat, x_t, t, s, eta=eta, noise=None))
        if self.reverse_noise_space == "ambient":
            return normalise(self.flat.step(x_0_hat, x_t, t, s, eta=eta, noise=noise))
        mean = normalise(self.flat.step(x_0_hat, x_t, t, s, eta=eta, noise=None))
        if not isinstance(noise, Tensor):
            noise = noise.normal(x_t.shape, device=x_t.device, dtype=x_t.dtype)
        return exponential(mean, project(mean, number.noise_scale * noise))
