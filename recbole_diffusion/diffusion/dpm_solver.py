"""DPM-Solver++(2M): the probability-flow ODE in the log of the signal-to-noise ratio, second order, one call a step.

With x_t = a_t x_0 + s_t eps, a_t = sqrt(ab_t), s_t = sqrt(1 - ab_t), lambda_t = log(a_t / s_t) and a denoiser f that
predicts x_0, the ODE's exact solution between two slots is (Lu et al. 2022, arXiv 2211.01095, Eq. 9)

    x_s = (s_s / s_t) x_t + s_s int_{lambda_t}^{lambda_s} e^lambda f(x_lambda, lambda) dlambda

and its approximation from the slots t_{i-2}, t_{i-1} to t_i, h_i = lambda_i - lambda_{i-1}, r_i = h_{i-1} / h_i (Eq. 15
and algorithm 2)

    D_i = (1 + 1 / (2 r_i)) f(x_{i-1}, t_{i-1}) - 1 / (2 r_i) f(x_{i-2}, t_{i-2})
    x_i = (s_i / s_{i-1}) x_{i-1} - a_i (e^{-h_i} - 1) D_i

The first step has no step before it and takes D = f (Eq. 14, which is DDIM with eta = 0). So does the step to the clean
end, where h is infinite and x_0 = f: the chain ends with the denoiser's output, as every chain here. alpha_bar is that
of the discrete schedule at whole slots, where the formulas need no interpolation. Nothing is drawn but what the
denoiser draws itself. Shapes: B batch, D embedding, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.diffusion.process import CLEAN, GaussianProcess
from recbole_diffusion.diffusion.sampler import Denoiser, EarlyResult, chain_grid, cut_chain
from recbole_diffusion.diffusion.time_grids import half_log_snr


@dataclass(frozen=True)
class SolverStep:
    """x_s = x_weight x_t + prediction_weight D, D = (1 + before) f(x_t, t) - before f(x_before, t_before).

    Attributes:
        t: the slot that the step leaves.
        x_weight: s_s / s_t.
        prediction_weight: -a_s (e^{-h} - 1).
        before: 1 / (2 r), 0 for a step of first order.
    """

    t: int
    x_weight: float
    prediction_weight: float
    before: float


class DPMSolverPlusPlus:
    """Runs a denoiser down a grid of slots by DPM-Solver++(2M).

    Args:
        process: a Gaussian process; its schedule alone is used, no noise is added.
        steps: None for all T slots, a number of evenly spaced ones, or the descending slots themselves.
        order: 2, or 1 for every step of first order (DDIM with eta = 0).
        lower_order_final: whether the step to the last slot of the grid is of first order too; the step from there to
            the clean end always is.
        stop_after, early_result, steps_key: as in :class:`~recbole_diffusion.diffusion.sampler.ReverseSampler`.

    Raises:
        ValueError: a process that is not Gaussian, another order, and as ``ReverseSampler``.
    """

    def __init__(
        self,
        process: GaussianProcess,
        steps: int | Sequence[int] | None = None,
        *,
        order: int = 2,
        lower_order_final: bool = False,
        stop_after: int | None = None,
        early_result: EarlyResult | str = "state",
        steps_key: str = "reverse_steps",
    ) -> None:
        if not isinstance(process, GaussianProcess):
            raise ValueError(
                "reverse_sampler is dpm_solver_pp, which solves the equation of a Gaussian diffusion and not of a walk "
                "on the sphere; set reverse_sampler: ddim, or noise_space: euclidean"
            )
        if order not in (1, 2):
            raise ValueError(f"order is {order!r}; it must be 1 or 2")
        self.process = process
        self.grid = chain_grid(process.num_steps, steps, steps_key=steps_key)
        path = cut_chain(self.grid, stop_after, early_result)
        alpha_bar = process.schedule.tables["alpha_bar"]
        snr = half_log_snr(alpha_bar)
        self.steps: list[SolverStep] = []
        h_before: float | None = None
        for t, s in path:
            if s == CLEAN:
                self.steps.append(SolverStep(t, 0.0, 1.0, 0.0))
                break
            h = float(snr[s] - snr[t])
            to_last = lower_order_final and s == self.grid[-1]
            before = 0.0 if h_before is None or order == 1 or to_last else h / (2.0 * h_before)
            signal, noise_t, noise_s = math.sqrt(alpha_bar[s]), math.sqrt(1 - alpha_bar[t]), math.sqrt(1 - alpha_bar[s])
            self.steps.append(SolverStep(t, noise_s / noise_t, -signal * math.expm1(-h), before))
            h_before = h

    def __call__(self, denoiser: Denoiser, x_T: Tensor, condition: Any, *, noise: NoiseSource) -> Tensor:
        """The denoised x_0 (B, D).

        Args:
            denoiser: predicts x_0; called once per slot, the highest first.
            x_T: (B, D), or (B, ..., D), where the chain starts.
            condition: handed to the denoiser untouched.
            noise: the denoiser's own draws; nothing else is drawn.
        """
        x = x_T
        predicted_before: Tensor | None = None
        for step in self.steps:
            slots = torch.full((x.shape[0],), step.t, dtype=torch.long, device=x.device)
            predicted = denoiser(x, slots, condition, noise=noise)
            if step.x_weight == 0.0:
                return predicted
            mixed = predicted
            if step.before and predicted_before is not None:
                mixed = (1.0 + step.before) * predicted - step.before * predicted_before
            x = step.x_weight * x + step.prediction_weight * mixed
            predicted_before = predicted
        return x
