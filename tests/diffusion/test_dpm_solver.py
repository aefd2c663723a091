"""DPM-Solver++(2M) against closed forms, against DDIM, and against diffusers' scheduler."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from recbole_diffusion.diffusion.dpm_solver import DPMSolverPlusPlus
from recbole_diffusion.diffusion.geodesic import GeodesicWalk
from recbole_diffusion.diffusion.guidance import ClassifierFreeGuidance
from recbole_diffusion.diffusion.named_samplers import build_sampler
from recbole_diffusion.diffusion.noise import ZeroNoise
from recbole_diffusion.diffusion.process import GaussianProcess
from recbole_diffusion.diffusion.sampler import ReverseSampler
from recbole_diffusion.diffusion.schedules import build_schedule
from recbole_diffusion.diffusion.time_grids import chain_slots, half_log_snr, time_grid

SCHEDULES = ["trunc_lin", "linear_scaled", "cosine_clipped", "sqrt", "exp"]


def process(num_steps: int = 32, name: str = "trunc_lin") -> GaussianProcess:
    return GaussianProcess(build_schedule(name, num_steps), "sqrt_posterior")


class ExactDenoiser:
    """E[x_0 | x_t] of x_0 ~ N(m, v): m + v a_t / (v ab_t + 1 - ab_t) (x_t - a_t m)."""

    def __init__(self, gauss: GaussianProcess, mean: float, variance: float) -> None:
        self.alpha_bar, self.mean, self.variance = gauss.schedule.tables["alpha_bar"], mean, variance

    def __call__(self, x_t: Tensor, t: Tensor, condition: object, *, noise: object) -> Tensor:
        bar = float(self.alpha_bar[int(t[0])])
        weight = self.variance * math.sqrt(bar) / (self.variance * bar + 1 - bar)
        return self.mean + weight * (x_t - math.sqrt(bar) * self.mean)

    def solution(self, x_t: Tensor, t: int, s: int) -> Tensor:
        """The probability-flow ODE's exact x_s from x_t: x keeps its place among N(a m, v ab + 1 - ab)."""
        (bar_t, bar_s), m, v = self.alpha_bar[[t, s]], self.mean, self.variance
        scale = math.sqrt((v * bar_s + 1 - bar_s) / (v * bar_t + 1 - bar_t))
        return math.sqrt(bar_s) * m + scale * (x_t - math.sqrt(bar_t) * m)


def ode_error(sampler: str, steps: int, variance: float, lower_order_final: bool = False) -> float:
    """Error at a fixed slot of a chain of so many steps, evenly spaced in log-SNR, from the exact solution there."""
    gauss = process(4000, "cosine_clipped")
    exact = ExactDenoiser(gauss, mean=0.8, variance=variance)
    snr = half_log_snr(gauss.schedule.tables["alpha_bar"])
    first, last = int(abs(snr + 3.0).argmin()), int(abs(snr - 2.0).argmin())
    targets = torch.linspace(float(snr[first]), float(snr[last]), steps + 1)
    slots = [int(abs(snr - float(target)).argmin()) for target in targets]
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    cut = {"stop_after": steps, "early_result": "state"}
    chain = (
        ReverseSampler(gauss, slots, 0.0, **cut)
        if sampler == "ddim"
        else DPMSolverPlusPlus(gauss, slots, lower_order_final=lower_order_final, **cut)
    )
    reached = chain(exact, start, None, noise=ZeroNoise())
    return float((reached - exact.solution(start, first, slots[-1])).abs().max())


def test_the_error_shrinks_with_the_square_of_the_steps_and_ddims_with_the_steps() -> None:
    """Global order 2 of 2M (Lu et al. 2022, theorem B.1), order 1 of DDIM."""
    orders = {}
    for sampler in ("ddim", "2m"):
        errors = [ode_error(sampler, steps, 2.0) for steps in (16, 32, 64, 128)]
        orders[sampler] = [math.log2(before / after) for before, after in pairwise(errors)]
    assert all(0.9 < order < 1.1 for order in orders["ddim"]), orders
    assert all(1.8 < order < 2.2 for order in orders["2m"]), orders
    ddim, second, ended_first = (
        ode_error(*keys) for keys in (("ddim", 16, 0.05), ("2m", 16, 0.05), ("2m", 16, 0.05, True))
    )
    assert 3 * second < ended_first < ddim / 3


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5, None])
def test_first_order_is_ddim(name: str, steps: int | None) -> None:
    gauss = process(32, name)
    x_T, weight = torch.randn(4, 3, dtype=torch.float64), 0.3 * torch.randn(3, 3, dtype=torch.float64)

    def denoiser(x_t: Tensor, t: Tensor, condition: object, *, noise: object) -> Tensor:
        return x_t @ weight + t[:, None] * 0.1

    ddim = ReverseSampler(gauss, steps, 0.0)(denoiser, x_T, None, noise=ZeroNoise())
    first = DPMSolverPlusPlus(gauss, steps, order=1)(denoiser, x_T, None, noise=ZeroNoise())
    torch.testing.assert_close(first, ddim, rtol=1e-9, atol=1e-12)
    second = DPMSolverPlusPlus(gauss, steps)(denoiser, x_T, None, noise=ZeroNoise())
    same = steps in (1, 2)  # two slots: the first step is of first order, and so is the one to the clean end
    assert torch.allclose(second, ddim) == same


def test_two_steps_by_hand() -> None:
    """Three slots: the second step mixes two predictions with r = h_1 / h_2 (Eq. 15)."""
    gauss = process(8)
    bar = gauss.schedule.tables["alpha_bar"]
    snr = [0.5 * math.log(bar[t] / (1 - bar[t])) for t in (7, 3, 0)]
    h_1, h_2 = snr[1] - snr[0], snr[2] - snr[1]
    seen: list[Tensor] = []

    def denoiser(x_t: Tensor, t: Tensor, condition: object, *, noise: object) -> Tensor:
        seen.append(x_t)
        return torch.full_like(x_t, float(len(seen)))  # 1, 2, 3

    result = DPMSolverPlusPlus(gauss, (7, 3, 0))(denoiser, torch.zeros(1, 1, dtype=torch.float64), None, noise=None)
    x_3 = -math.sqrt(bar[3]) * (math.exp(-h_1) - 1) * 1.0
    mixed = 2.0 + h_2 / (2 * h_1) * (2.0 - 1.0)
    x_0 = math.sqrt((1 - bar[0]) / (1 - bar[3])) * x_3 - math.sqrt(bar[0]) * (math.exp(-h_2) - 1) * mixed
    assert [float(x) for x in seen] == pytest.approx([0.0, x_3, x_0])
    assert float(result) == 3.0


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("grid", ["even", "quadratic", "log_snr"])
def test_an_oracle_that_knows_the_target_returns_it_and_passes_through_its_marginals(name: str, grid: str) -> None:
    """Where the prediction is constant the ODE is solved exactly, at any step: x_s = a_s x_0 + s_s eps with one eps."""
    gauss = process(40, name)
    target, epsilon = torch.randn(2, 5, 3, dtype=torch.float64)
    bar = torch.tensor(gauss.schedule.tables["alpha_bar"])
    for steps in (1, 2, 7, None):
        passed: list[tuple[int, Tensor]] = []

        def oracle(x_t: Tensor, t: Tensor, condition: Tensor, *, noise: object) -> Tensor:
            passed.append((int(t[0]), x_t))  # noqa: B023 (called in this round alone)
            return condition

        chain = DPMSolverPlusPlus(gauss, chain_slots(grid, gauss.schedule, steps))
        start = bar[-1].sqrt() * target + (1 - bar[-1]).sqrt() * epsilon
        assert torch.equal(chain(oracle, start, target, noise=ZeroNoise()), target)
        assert [slot for slot, _ in passed] == list(chain.grid)
        for slot, x_t in passed:
            torch.testing.assert_close(x_t, bar[slot].sqrt() * target + (1 - bar[slot]).sqrt() * epsilon)


def test_one_step_is_the_denoisers_output_and_nothing_is_drawn() -> None:
    class Refuses(ZeroNoise):
        def normal(self, *arguments: object, **keywords: object) -> Tensor:
            raise AssertionError("a deterministic chain draws nothing")

    outputs: list[Tensor] = []

    def denoiser(x_t: Tensor, t: Tensor, condition: object, *, noise: object) -> Tensor:
        outputs.append(torch.randn_like(x_t))
        return outputs[-1]

    for steps in (1, 3, None):
        result = DPMSolverPlusPlus(process(8), steps)(denoiser, torch.randn(4, 2), None, noise=Refuses())
        assert result is outputs[-1]


def test_cut_chains() -> None:
    """`state` ends with x_s of the whole chain, `prediction` with the prediction that step was made with."""
    gauss, start = process(16), torch.randn(3, 2, dtype=torch.float64)
    exact = ExactDenoiser(gauss, 0.5, 0.2)
    states: list[Tensor] = []
    predictions: list[Tensor] = []

    def watched(x_t: Tensor, t: Tensor, condition: object, *, noise: object) -> Tensor:
        states.append(x_t)
        predictions.append(exact(x_t, t, condition, noise=noise))
        return predictions[-1]

    DPMSolverPlusPlus(gauss, 6)(watched, start, None, noise=ZeroNoise())
    for calls in range(1, 6):
        state = DPMSolverPlusPlus(gauss, 6, stop_after=calls)(exact, start, None, noise=ZeroNoise())
        cut = DPMSolverPlusPlus(gauss, 6, stop_after=calls, early_result="prediction")
        torch.testing.assert_close(state, states[calls])
        torch.testing.assert_close(cut(exact, start, None, noise=ZeroNoise()), predictions[calls - 1])
    with pytest.raises(ValueError, match=r"intermediate_steps is 7; it must lie in 1\.\.6"):
        DPMSolverPlusPlus(gauss, 6, stop_after=7)


def test_a_guided_denoiser_is_a_denoiser() -> None:
    """Guidance of a linear denoiser by (1 + w) c - w n is the denoiser of that condition, so the chains agree."""
    gauss, x_T = process(20), torch.randn(4, 3, dtype=torch.float64)
    given, none, w = torch.randn(4, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64), 1.5

    def denoiser(x_t: Tensor, t: Tensor, condition: Tensor, *, noise: object) -> Tensor:
        return 0.4 * x_t + condition

    chain = DPMSolverPlusPlus(gauss, 5)
    guided = chain(ClassifierFreeGuidance(denoiser, w), x_T, torch.cat((given, none)), noise=ZeroNoise())
    torch.testing.assert_close(guided, chain(denoiser, x_T, (1 + w) * given, noise=ZeroNoise()))


def test_names_build_samplers() -> None:
    gauss, weight = process(12), torch.randn(2, 2)

    def denoiser(x_t: Tensor, t: Tensor, condition: object, *, noise: object) -> Tensor:
        return x_t @ weight

    def result(name: str, eta: float = 1.0) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        from recbole_diffusion.diffusion.noise import GlobalNoise

        return build_sampler(name, gauss, 4, eta)(denoiser, torch.ones(2, 2), None, noise=GlobalNoise(generator))

    assert torch.equal(result("ddpm"), result("grid")) and torch.equal(result("ddim"), result("grid", 0.0))
    assert not torch.equal(result("ddpm"), result("ddim"))
    torch.testing.assert_close(
        result("dpm_solver_pp"), DPMSolverPlusPlus(gauss, 4)(denoiser, torch.ones(2, 2), None, noise=ZeroNoise())
    )
    for name in ("ddpm", "ddim", "dpm_solver_pp"):
        with pytest.raises(ValueError, match=f"^reverse_eta is 0.5, but reverse_sampler: {name} has none"):
            build_sampler(name, gauss, 4, 0.5)
    with pytest.raises(ValueError, match="'heun' does not exist; use grid, ddpm, ddim, dpm_solver_pp or give a class"):
        build_sampler("heun", gauss, 4, 1.0)
    with pytest.raises(ValueError, match=r"^reverse_sampler is dpm_solver_pp.* a walk on the sphere; set .*: ddim"):
        build_sampler("dpm_solver_pp", GeodesicWalk(build_schedule("trunc_lin", 12)), 4, 1.0)
    with pytest.raises(ValueError, match="intermediate_steps is 2, which a reverse_sampler of one's own"):
        build_sampler(ReverseSampler, gauss, 4, 1.0, stop_after=2)
    with pytest.raises(ValueError, match="order is 3"):
        DPMSolverPlusPlus(gauss, 4, order=3)


# --- grids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("grid", ["quadratic", "log_snr"])
def test_grids_descend_from_the_top_to_zero(name: str, grid: str) -> None:
    for num_steps in (21, 32, 100):
        schedule = build_schedule(name, num_steps)
        assert chain_slots(grid, schedule, None) == tuple(range(num_steps - 1, -1, -1))
        for steps in range(3, num_steps + 1):
            slots = chain_slots(grid, schedule, steps)
            assert isinstance(slots, tuple) and len(slots) == steps
            assert slots[0] == num_steps - 1 and slots[-1] == 0
            assert all(later < earlier for earlier, later in pairwise(slots))
        assert [chain_slots(grid, schedule, steps) for steps in (1, 2)] == [1, 2]


def test_grids_by_hand() -> None:
    schedule = build_schedule("linear_scaled", 101)
    assert chain_slots("quadratic", schedule, 5) == (100, 56, 25, 6, 0)  # 100 (i/4)^2: 56.25, 25, 6.25
    assert chain_slots("even", schedule, 5) == 5 and time_grid(101, 5) == (100, 75, 50, 25, 0)
    snr = half_log_snr(schedule.tables["alpha_bar"])
    slots = chain_slots("log_snr", schedule, 5)
    assert isinstance(slots, tuple)
    wanted = [snr[-1] + (snr[0] - snr[-1]) * part / 4 for part in range(5)]
    nearest = [min(range(101), key=lambda slot, aim=aim: abs(snr[slot] - aim)) for aim in wanted]
    assert all(abs(slot - near) <= 1 for slot, near in zip(slots, nearest, strict=True))
    assert chain_slots([90, 4], schedule, None) == chain_slots((90, 4), schedule, 2) == (90, 4)


def test_grids_that_cannot_be() -> None:
    schedule = build_schedule("trunc_lin", 32)
    with pytest.raises(ValueError, match=r"^reverse_grid: the slots \(3, 7\) do not descend"):
        chain_slots([3, 7], schedule, None)
    with pytest.raises(ValueError, match=r"^reverse_grid lists 2 slots, but valid_reverse_steps is 4"):
        chain_slots([7, 3], schedule, 4, key="valid_reverse_steps")
    with pytest.raises(ValueError, match=r"^reverse_grid is 'cubic'; it must be one of even, quadratic, log_snr"):
        chain_slots("cubic", schedule, 4)
    with pytest.raises(ValueError, match=r"^reverse_steps is 33; it must lie in 1\.\.32"):
        chain_slots("log_snr", schedule, 33)


# --- an independent implementation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 5, 10])
def test_diffusers_scheduler_takes_the_same_steps(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed; it is an oracle here only")
    gauss = process(32)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=32,
        trained_betas=gauss.schedule.tables["betas"].tolist(),
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
        lower_order_final=False,
        final_sigmas_type="zero",
    )
    slots = time_grid(32, steps)
    scheduler.set_timesteps(timesteps=list(slots))
    weight = 0.3 * torch.randn(3, 3, generator=torch.Generator().manual_seed(1))

    def denoiser(x_t: Tensor, t: Tensor, condition: object, *, noise: object) -> Tensor:
        return torch.tanh(x_t @ weight + 0.05 * t[:, None])

    x = start = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    for t in scheduler.timesteps:
        slot = torch.full((4,), int(t))
        x = scheduler.step(denoiser(x, slot, None, noise=None), t, x).prev_sample
        if int(t) == slots[-1]:
            break
    result = DPMSolverPlusPlus(gauss, steps)(denoiser, start, None, noise=ZeroNoise())
    torch.testing.assert_close(result, x, rtol=1e-4, atol=1e-5)
