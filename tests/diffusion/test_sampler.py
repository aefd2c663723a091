"""Reverse chains: the grid, the order of calls and draws, and the exact denoiser of Gaussian data."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from recbole_diffusion.diffusion.noise import GlobalNoise, RowNoise, ZeroNoise
from recbole_diffusion.diffusion.process import CLEAN, GaussianProcess
from recbole_diffusion.diffusion.sampler import ReverseSampler, time_grid
from recbole_diffusion.diffusion.schedules import build_schedule


def process(num_steps: int = 8, reverse_noise: str = "sqrt_posterior", name: str = "trunc_lin") -> GaussianProcess:
    return GaussianProcess(build_schedule(name, num_steps), reverse_noise)


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_grids_by_hand() -> None:
    assert time_grid(4) == time_grid(4, 4) == (3, 2, 1, 0)
    assert time_grid(32, 1) == (31,)
    assert time_grid(32, 2) == (31, 0)
    assert time_grid(9, 3) == (8, 4, 0)
    assert time_grid(32, 4) == (31, 21, 10, 0)  # 31, 20.67, 10.33, 0
    assert time_grid(1) == time_grid(1, 1) == (0,)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 32, 50])
def test_every_grid_descends_evenly_from_the_top_to_zero(num_steps: int) -> None:
    for reverse_steps in range(1, num_steps + 1):
        grid = time_grid(num_steps, reverse_steps)
        assert len(grid) == reverse_steps and grid[0] == num_steps - 1
        gaps = [t - s for t, s in pairwise(grid)]
        if reverse_steps > 1:
            assert grid[-1] == 0 and min(gaps) >= 1 and max(gaps) - min(gaps) <= 1
            assert np.abs(np.array(grid) - np.linspace(num_steps - 1, 0, reverse_steps)).max() < 0.5 + 1e-9


@pytest.mark.parametrize("reverse_steps", [0, -1, 33])
def test_reverse_steps_outside_the_schedule_are_refused(reverse_steps: int) -> None:
    with pytest.raises(ValueError, match=rf"reverse_steps is {reverse_steps}; it must lie in 1\.\.32"):
        time_grid(32, reverse_steps)
    with pytest.raises(ValueError, match="reverse_steps"):
        ReverseSampler(process(32), steps=reverse_steps)


def test_a_grid_of_ones_own() -> None:
    assert ReverseSampler(process(8), steps=(7, 3, 1)).grid == (7, 3, 1)
    assert ReverseSampler(process(8), steps=[5, 0]).grid == (5, 0)
    for wrong in [(8, 3), (3, 3), (1, 2), (3, -1), ()]:
        with pytest.raises(ValueError, match=r"do not descend within 7\.\.0"):
            ReverseSampler(process(8), steps=wrong)
    with pytest.raises(ValueError, match=r"^reverse_eta is 2"):
        ReverseSampler(process(8), eta=2.0)


# --- calls and draws --------------------------------------------------------------------------------------------------


class Recorded:
    """Notes what is drawn; every number is 1."""

    per_row = False

    def __init__(self) -> None:
        self.events: list[object] = []

    def select(self, index):
        return self

    def normal(self, shape, *, device, dtype=torch.float32, lengths=None):
        self.events.append(tuple(shape))
        return torch.ones(tuple(shape), device=device, dtype=dtype)


def test_denoiser_draws_first_then_the_step_and_the_last_step_draws_nothing() -> None:
    noise, condition = Recorded(), object()

    def denoiser(x_t, t, given, *, noise):
        assert given is condition
        assert t.dtype == torch.long and t.shape == (3,) and len(set(t.tolist())) == 1
        noise.events.append(("slot", t[0].item()))
        noise.normal((3, 5, 2), device="cpu")
        return torch.zeros_like(x_t)

    ReverseSampler(process(8), steps=3)(denoiser, torch.zeros(3, 2), condition, noise=noise)
    own, added = (3, 5, 2), (3, 2)
    assert noise.events == [("slot", 7), own, added, ("slot", 4), own, added, ("slot", 0), own]


def test_result_is_the_denoisers_last_output() -> None:
    outputs = []

    def denoiser(x_t, t, condition, *, noise):
        outputs.append(torch.randn_like(x_t))
        return outputs[-1]

    for steps, eta in [(None, 1.0), (3, 0.0), (1, 1.0), ((6, 2), 0.5)]:
        result = ReverseSampler(process(8), steps=steps, eta=eta)(
            denoiser, torch.randn(4, 2), None, noise=GlobalNoise()
        )
        assert result is outputs[-1]


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [None, 1, 3])
def test_an_oracle_that_knows_the_target_returns_it(steps: int | None, eta: float) -> None:
    target = torch.randn(5, 3)
    sampler = ReverseSampler(process(8), steps=steps, eta=eta)
    result = sampler(lambda x_t, t, condition, *, noise: condition, torch.randn(5, 3), target, noise=GlobalNoise())
    assert torch.equal(result, target)


def test_chain_is_the_product_of_its_steps() -> None:
    gauss = process(8, "sqrt_beta")
    x_T, weight = torch.randn(4, 3), torch.randn(3, 3) * 0.3

    def denoiser(x_t, t, condition, *, noise):
        return x_t @ weight + t[:, None] * 0.1

    result = ReverseSampler(gauss, steps=(7, 4, 0))(denoiser, x_T, None, noise=ZeroNoise())
    x_4 = gauss.step(x_T @ weight + 0.7, x_T, 7, 4, noise=None)
    x_0 = gauss.step(x_4 @ weight + 0.4, x_4, 4, 0, noise=None)
    torch.testing.assert_close(result, x_0 @ weight)


@pytest.mark.parametrize("lam", ["lam0.001", "lam0.5"])
def test_published_trajectory_through_the_sampler(shared, lam: str) -> None:
    """Playing back the published x_0 predictions gives the published code's x_t at every call, and its result."""
    golden = np.load(shared / "golden" / "tiny_diffurec.npz")
    path, predicted = golden[f"{lam}_reverse_traj"], torch.tensor(golden[f"{lam}_reverse_x0_preds"])
    calls = []

    def playback(x_t, t, condition, *, noise):
        np.testing.assert_allclose(x_t.numpy(), path[len(calls)], atol=1e-5)
        calls.append(t[0].item())
        return predicted[len(calls) - 1]

    sampler = ReverseSampler(process(8, "sqrt_beta"))
    result = sampler(playback, torch.tensor(golden["x_T"]), None, noise=ZeroNoise())
    assert calls == [7, 6, 5, 4, 3, 2, 1, 0]
    np.testing.assert_array_equal(result.numpy(), golden[f"{lam}_reverse_p_sample"])


def test_rows_do_not_depend_on_their_batch() -> None:
    """With row noise a row's chain is the same alone, in another order, or among others."""
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) * 0.5

    def denoiser(x_t, t, condition, *, noise):
        own = noise.normal((len(x_t), 3, 4), device="cpu").mean(dim=1)
        return (x_t[:, None] * weight).sum(dim=2) + 0.1 * own

    def run(rows: list[int]) -> torch.Tensor:
        noise = RowNoise(rows, seed=5)
        x_T = gauss.prior((len(rows), 4), device="cpu", noise=noise)
        return ReverseSampler(gauss, eta=0.8)(denoiser, x_T, None, noise=noise)

    gauss = process(8)
    together = run([0, 1, 2, 3, 4])
    assert torch.equal(run([4, 2, 0, 3, 1]), together[[4, 2, 0, 3, 1]])
    assert torch.equal(torch.cat([run([row]) for row in range(5)]), together)
    assert not torch.allclose(together[0], together[1])


# --- Gaussian data, whose exact denoiser is known ---------------------------------------------------------------------


class GaussianData:
    """x_0 ~ N(m, v): E[x_0 | x_t] = m + w_t (x_t - sqrt(ab_t) m), w_t = v sqrt(ab_t) / (v ab_t + 1 - ab_t)."""

    def __init__(self, gauss: GaussianProcess, mean: float, variance: float) -> None:
        self.gauss, self.mean, self.variance = gauss, mean, variance

    def weights(self, slot: int) -> tuple[float, float]:
        """x_0_hat = weight x_t + offset."""
        bar = float(self.gauss.schedule.tables["alpha_bar"][slot])
        weight = self.variance * math.sqrt(bar) / (self.variance * bar + 1 - bar)
        return weight, self.mean * (1 - weight * math.sqrt(bar))

    def __call__(self, x_t, t, condition, *, noise):
        weight, offset = self.weights(int(t[0]))
        return weight * x_t + offset

    def propagate(self, grid: tuple[int, ...], eta: float, mean: float, variance: float) -> tuple[float, float]:
        """Mean and variance of the chain's result when x_T has these."""
        for t, s in zip(grid, (*grid[1:], CLEAN)):
            number = self.gauss.coefficients(t, s, eta=eta)
            weight, offset = self.weights(t)
            slope = number.x_0_weight * weight + number.x_t_weight
            mean = slope * mean + number.x_0_weight * offset
            variance = slope**2 * variance + number.noise_scale**2
        return mean, variance


def test_exact_denoiser_carries_the_mean_at_every_slot() -> None:
    """From E x_t = sqrt(ab_t) m every step, any eta and any grid, gives E x_s = sqrt(ab_s) m; its end is m."""
    for reverse_noise in ("sqrt_posterior", "sqrt_beta", "posterior", "none"):
        gauss = process(32, reverse_noise)
        data = GaussianData(gauss, mean=-1.3, variance=0.4)
        start = math.sqrt(gauss.schedule.tables["alpha_bar"][31]) * data.mean
        for eta in (0.0, 0.5, 1.0):
            for steps in (None, 1, 2, 5):
                mean, _ = data.propagate(time_grid(32, steps), eta, start, 1.0)
                assert mean == pytest.approx(-1.3, rel=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("mean", "variance"), [(0.7, 0.3), (-2.0, 1.0), (0.0, 2.5)])
def test_exact_denoiser_recovers_mean_and_variance(mean: float, variance: float, eta: float) -> None:
    """From x_T ~ N(0, 1) the result's moments are the data's, up to an error that halves when T doubles."""
    errors = []
    for num_steps in (250, 500, 1000, 2000):
        gauss = process(num_steps, name="linear_scaled")
        data = GaussianData(gauss, mean, variance)
        got_mean, got_variance = data.propagate(time_grid(num_steps), eta, 0.0, 1.0)
        assert got_mean == pytest.approx(mean, abs=0.01 * max(1.0, abs(mean)))
        errors.append(abs(got_variance - variance))
    assert errors[-1] < 0.01 * variance
    assert all(later < 0.6 * earlier for earlier, later in pairwise(errors))


def test_sqrt_beta_is_exact_for_standard_normal_data_and_sqrt_posterior_for_a_point() -> None:
    """DDPM, section 3.2: the two choices are the optimal ones at the two extremes."""
    grid = time_grid(32)
    normal = GaussianData(process(32, "sqrt_beta"), mean=0.0, variance=1.0)
    bar = normal.gauss.schedule.tables["alpha_bar"]
    # x_t stays standard normal down to slot 0; the last step then outputs the posterior mean, variance ab_1
    assert normal.propagate(grid, 1.0, 0.0, 1.0) == pytest.approx((0.0, bar[0]), rel=1e-12)
    shrunk = GaussianData(process(32, "sqrt_posterior"), mean=0.0, variance=1.0).propagate(grid, 1.0, 0.0, 1.0)
    assert shrunk[1] < bar[0] - 0.05
    point = GaussianData(process(32, "sqrt_posterior"), mean=3.0, variance=0.0)
    assert point.propagate(grid, 1.0, 0.0, 1.0) == (3.0, 0.0)


@pytest.mark.parametrize(("steps", "eta"), [(None, 1.0), (None, 0.0), (20, 0.5)])
def test_drawn_chains_have_the_propagated_moments(steps: int | None, eta: float) -> None:
    rows, gauss = 40_000, process(100, name="linear_scaled")
    data = GaussianData(gauss, mean=0.7, variance=0.3)
    noise = GlobalNoise(torch.Generator().manual_seed(11))
    sampler = ReverseSampler(gauss, steps=steps, eta=eta)
    result = sampler(data, gauss.prior((rows, 1), device="cpu", noise=noise), None, noise=noise).double()
    mean, variance = data.propagate(sampler.grid, eta, 0.0, 1.0)
    assert result.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / rows))
    assert result.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / rows))
    assert (mean, variance) == pytest.approx((0.7, 0.3), abs=0.1)  # 20 of 100 steps are coarse
