"""diffusers' DDPM and DDIM schedulers as an independent implementation of the same steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from recbole_diffusion.diffusion.process import CLEAN, GaussianProcess
from recbole_diffusion.diffusion.schedules import build_schedule

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed; it is an oracle for these tests only")

SCHEDULES = ["trunc_lin", "cosine", "exp"]
CLOSE = {"atol": 1e-5, "rtol": 2e-4}  # diffusers computes its coefficients in float32


def process(name: str, num_steps: int, reverse_noise: str) -> GaussianProcess:
    return GaussianProcess(build_schedule(name, num_steps), reverse_noise)


def options(gauss: GaussianProcess) -> dict:
    return {
        "num_train_timesteps": gauss.num_steps,
        "trained_betas": gauss.schedule.tables["betas"].tolist(),
        "prediction_type": "sample",
        "clip_sample": False,
    }


def numbers(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    x_0_hat, x_t = torch.randn(2, 5, 4, generator=source)
    return x_0_hat, x_t, torch.randn(5, 4, generator=torch.Generator().manual_seed(seed + 1))


@pytest.mark.parametrize("name", SCHEDULES)
def test_noising(name: str) -> None:
    gauss = process(name, 32, "none")
    oracle = diffusers.DDPMScheduler(**options(gauss))
    x_0, _, epsilon = numbers(0)
    t = torch.tensor([0, 1, 9, 20, 31])
    torch.testing.assert_close(gauss.sample(x_0, t, noise=epsilon).x_t, oracle.add_noise(x_0, epsilon, t), **CLOSE)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("reverse_noise", "variance"), [("sqrt_posterior", "fixed_small"), ("sqrt_beta", "fixed_large")]
)
@pytest.mark.parametrize("grid", [tuple(range(31, -1, -1)), (31, 20, 7, 1), (30, 0)])
def test_ancestral_steps(name: str, reverse_noise: str, variance: str, grid: tuple[int, ...]) -> None:
    gauss = process(name, 32, reverse_noise)
    oracle = diffusers.DDPMScheduler(**options(gauss), variance_type=variance)
    oracle.set_timesteps(timesteps=list(grid))
    for t, s in pairwise((*grid, CLEAN)):
        x_0_hat, x_t, epsilon = numbers(t)
        theirs = oracle.step(x_0_hat, t, x_t, generator=torch.Generator().manual_seed(t + 1)).prev_sample
        if s == CLEAN and t > 0:
            continue  # diffusers adds noise unless t = 0; the denoiser's output is the last word here
        torch.testing.assert_close(gauss.step(x_0_hat, x_t, t, s, noise=epsilon), theirs, **CLOSE)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("stride", [1, 4, 16])
def test_ddim_steps(name: str, eta: float, stride: int) -> None:
    gauss = process(name, 32, "sqrt_posterior")
    oracle = diffusers.DDIMScheduler(**options(gauss), set_alpha_to_one=True)
    oracle.set_timesteps(32 // stride)
    grid = oracle.timesteps.tolist()
    assert grid == list(range(32 - stride, -1, -stride))
    for t, s in pairwise((*grid, CLEAN)):
        x_0_hat, x_t, epsilon = numbers(t)
        theirs = oracle.step(x_0_hat, t, x_t, eta=eta, variance_noise=epsilon).prev_sample
        torch.testing.assert_close(gauss.step(x_0_hat, x_t, t, s, eta=eta, noise=epsilon), theirs, **CLOSE)
