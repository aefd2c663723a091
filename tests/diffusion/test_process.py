"""The Gaussian process: forward marginals, reverse steps that keep them, and the published code's trajectories."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from recbole_diffusion.diffusion.noise import GlobalNoise, ZeroNoise
from recbole_diffusion.diffusion.process import CLEAN, REVERSE_NOISE, GaussianProcess
from recbole_diffusion.diffusion.schedules import SCHEDULES, build_schedule

PARAMETERS = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02},
    "eq14": {"eq14_a": 0.3, "eq14_b": 0.01},
    "linear_var": {"variance_min": 1e-4, "variance_max": 0.4},
}
ETAS = (0.0, 0.3, 0.7, 1.0)


def process(name: str = "trunc_lin", num_steps: int = 32, reverse_noise: str = "sqrt_posterior") -> GaussianProcess:
    return GaussianProcess(build_schedule(name, num_steps, **PARAMETERS.get(name, {})), reverse_noise)


class Forbidden:
    """A noise source that must not be asked."""

    per_row = False

    def select(self, index):
        raise AssertionError("no row was to be selected")

    def normal(self, shape, *, device, dtype=torch.float32, lengths=None):
        raise AssertionError("nothing was to be drawn")


def seeded(seed: int = 0) -> GlobalNoise:
    return GlobalNoise(torch.Generator().manual_seed(seed))


# --- forward ----------------------------------------------------------------------------------------------------------


def test_sample_is_the_forward_marginal() -> None:
    gauss = process()
    x_0 = torch.tensor([[1.0, -2.0], [0.5, 4.0], [3.0, 0.0]])
    epsilon = torch.tensor([[0.1, 0.2], [-1.0, 1.0], [2.0, -3.0]])
    t = torch.tensor([0, 15, 31])
    noised = gauss.sample(x_0, t, noise=epsilon)
    bar = gauss.schedule.tables["alpha_bar"][t.numpy()][:, None]
    expected = np.sqrt(bar) * x_0.numpy() + np.sqrt(1 - bar) * epsilon.numpy()
    np.testing.assert_allclose(noised.x_t.numpy(), expected, rtol=1e-6)
    assert noised.noise is epsilon


def test_sample_draws_its_noise_from_the_source_and_says_which() -> None:
    gauss, x_0, t = process(), torch.randn(5, 3), torch.tensor([0, 3, 9, 20, 31])
    noised = gauss.sample(x_0, t, noise=seeded(4))
    drawn = torch.randn(5, 3, generator=torch.Generator().manual_seed(4))
    assert torch.equal(noised.noise, drawn)
    assert torch.equal(noised.x_t, gauss.sample(x_0, t, noise=drawn).x_t)


def test_sample_takes_further_dimensions_and_lets_the_gradient_through() -> None:
    gauss, t = process(), torch.tensor([2, 30])
    x_0 = torch.randn(2, 4, 3, requires_grad=True)
    gauss.sample(x_0, t, noise=ZeroNoise()).x_t.sum().backward()
    expected = gauss.schedule.sqrt_alpha_bar[t][:, None, None].expand(2, 4, 3)
    torch.testing.assert_close(x_0.grad, expected)


def test_noise_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise has shape \(2, 4\); it must be .*\(2, 3\)"):
        process().sample(torch.zeros(2, 3), torch.tensor([0, 1]), noise=torch.zeros(2, 4))


def test_prior_is_what_the_source_draws() -> None:
    drawn = process().prior((4, 6), device="cpu", noise=seeded(9))
    assert torch.equal(drawn, torch.randn(4, 6, generator=torch.Generator().manual_seed(9)))
    assert process().prior((2, 2), device="cpu", noise=seeded(), dtype=torch.float64).dtype == torch.float64


def test_steps_of_the_chain_compose_to_the_marginal() -> None:
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps, from x_0 on, has mean and variance of q(x_t | x_0)."""
    table = process("cosine", 20).schedule.tables
    mean, variance = 1.0, 0.0
    for slot in range(20):
        mean *= math.sqrt(1 - table["betas"][slot])
        variance = (1 - table["betas"][slot]) * variance + table["betas"][slot]
        assert mean == pytest.approx(table["sqrt_alpha_bar"][slot], rel=1e-12)
        assert math.sqrt(variance) == pytest.approx(table["sqrt_one_minus_alpha_bar"][slot], rel=1e-12)


# --- one reverse step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", ETAS)
def test_marginal_of_every_reverse_step_is_the_forward_marginal(name: str, eta: float) -> None:
    """x_t ~ q(x_t | x_0): a x_0 + k x_t + c eps has mean (a + k sqrt(ab_t)) x_0, variance k^2 (1 - ab_t) + c^2."""
    gauss = process(name, 24)
    bar = {CLEAN: 1.0, **dict(enumerate(gauss.schedule.tables["alpha_bar"]))}
    for s, t in combinations(range(CLEAN, 24), 2):
        number = gauss.coefficients(t, s, eta=eta)
        mean = number.x_0_weight + number.x_t_weight * math.sqrt(bar[t])
        variance = number.x_t_weight**2 * (1 - bar[t]) + number.noise_scale**2
        assert mean == pytest.approx(math.sqrt(bar[s]), abs=1e-12)
        assert variance == pytest.approx(1 - bar[s], abs=1e-12)


@pytest.mark.parametrize("grid", [(23, 22, 21, 20), (23, 11, 5, 0), (17, 3)])
def test_marginals_are_kept_along_a_whole_chain(grid: tuple[int, ...]) -> None:
    """Mean and variance given x_0 = 1.7, carried through several steps with another eta each."""
    gauss = process("trunc_lin", 24)
    bar = gauss.schedule.tables["alpha_bar"]
    mean, variance = 1.7 * math.sqrt(bar[grid[0]]), 1 - bar[grid[0]]
    for eta, (t, s) in zip((1.0, 0.4, 0.0), pairwise(grid)):
        number = gauss.coefficients(t, s, eta=eta)
        mean = number.x_0_weight * 1.7 + number.x_t_weight * mean
        variance = number.x_t_weight**2 * variance + number.noise_scale**2
        assert mean == pytest.approx(1.7 * math.sqrt(bar[s]), rel=1e-12)
        assert variance == pytest.approx(1 - bar[s], rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("t", "s"), [(31, 30), (31, 8), (9, 8), (12, 0)])
def test_marginal_of_a_drawn_reverse_step(t: int, s: int, eta: float) -> None:
    """The same with 100,000 numbers: mean within 5 standard errors, variance within 5 of its own."""
    gauss, rows, noise = process(), 100_000, seeded(31 * t + s)
    x_0 = torch.full((rows, 1), 1.5)
    x_t = gauss.sample(x_0, torch.full((rows,), t), noise=noise).x_t
    x_s = gauss.step(x_0, x_t, t, s, eta=eta, noise=noise).double()
    bar = gauss.schedule.tables["alpha_bar"][s]
    assert x_s.mean().item() == pytest.approx(1.5 * math.sqrt(bar), abs=5 * math.sqrt((1 - bar) / rows))
    assert x_s.var().item() == pytest.approx(1 - bar, rel=5 * math.sqrt(2 / rows))
    # Gaussian, not merely of the right variance: E z^4 = 3 (its standard error is sqrt(96 / rows))
    z = (x_s - x_s.mean()) / x_s.std()
    assert z.pow(4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96 / rows))


@pytest.mark.parametrize("name", SCHEDULES)
def test_ancestral_step_is_the_posterior(name: str) -> None:
    """eta = 1, s = t - 1: c1, c2 and sqrt(beta~) of DDPM."""
    gauss = process(name, 24)
    table = gauss.schedule.tables
    for t in range(24):
        number = gauss.coefficients(t, t - 1)
        assert number.x_0_weight == pytest.approx(table["posterior_mean_coef1"][t], abs=1e-12)
        assert number.x_t_weight == pytest.approx(table["posterior_mean_coef2"][t], abs=1e-12)
        assert number.noise_scale == pytest.approx(math.sqrt(table["posterior_variance"][t]), abs=1e-12)


def test_deterministic_step_keeps_the_noise() -> None:
    """eta = 0 moves along one epsilon: x_t = sample(x_0, t, eps) steps to sample(x_0, s, eps) exactly."""
    gauss, x_0, epsilon = process(), torch.randn(6, 4).double(), torch.randn(6, 4).double()

    def at(slot: int) -> torch.Tensor:
        bar = gauss.schedule.tables["alpha_bar"][slot]
        return math.sqrt(bar) * x_0 + math.sqrt(1 - bar) * epsilon

    for t, s in [(31, 30), (31, 0), (17, 4)]:
        torch.testing.assert_close(gauss.step(x_0, at(t), t, s, eta=0.0, noise=Forbidden()), at(s))


@pytest.mark.parametrize("reverse_noise", REVERSE_NOISE)
@pytest.mark.parametrize("eta", ETAS)
def test_last_step_returns_the_denoisers_output_itself(reverse_noise: str, eta: float) -> None:
    gauss, x_0_hat = process(reverse_noise=reverse_noise), torch.randn(3, 4)
    for t in (0, 7, 31):
        x_t = torch.full((3, 4), math.nan)  # would show if it entered
        assert gauss.step(x_0_hat, x_t, t, CLEAN, eta=eta, noise=Forbidden()) is x_0_hat
        number = gauss.coefficients(t, CLEAN, eta=eta)
        assert (number.x_0_weight, number.x_t_weight, number.noise_scale) == (1.0, 0.0, 0.0)


def test_small_betas_lose_no_digits() -> None:
    """1 - ab_s - sigma^2 is the difference of nearly equal numbers for small beta; c2 must come out of it unharmed."""
    gauss = GaussianProcess(build_schedule(lambda num_steps: [1e-6] * num_steps, 50), "sqrt_posterior")
    for t in range(1, 50):
        # (1-ab_{t-1}) / (1-ab_t) sqrt(alpha) with 1 - ab_t = -expm1(t log(1 - beta)), in exact enough arithmetic
        rate = math.log1p(-1e-6)
        exact = math.expm1(t * rate) / math.expm1((t + 1) * rate) * math.sqrt(1 - 1e-6)
        assert gauss.coefficients(t, t - 1).x_t_weight == pytest.approx(exact, rel=1e-8)


# --- reverse_noise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "s"), [(5, 4), (31, 30), (20, 3)])
@pytest.mark.parametrize("eta", ETAS)
def test_scales_of_the_added_noise(t: int, s: int, eta: float) -> None:
    bar = process().schedule.tables["alpha_bar"]
    sigma2 = eta**2 * (1 - bar[s]) / (1 - bar[t]) * (1 - bar[t] / bar[s])
    expected = {
        "sqrt_posterior": math.sqrt(sigma2),
        "posterior": sigma2,
        "sqrt_beta": eta * math.sqrt(1 - bar[t] / bar[s]),
        "none": 0.0,
    }
    numbers = {name: process(reverse_noise=name).coefficients(t, s, eta=eta) for name in REVERSE_NOISE}
    assert set(expected) == set(REVERSE_NOISE)
    for name, scale in expected.items():
        assert numbers[name].noise_scale == pytest.approx(scale, rel=1e-12, abs=1e-15)
    # the mean is the posterior mean in all of them
    assert len({(number.x_0_weight, number.x_t_weight) for number in numbers.values()}) == 1


def test_neighbouring_scales_are_beta_and_the_posterior_variance() -> None:
    table = process().schedule.tables
    for t in range(1, 32):
        scale = {name: process(reverse_noise=name).coefficients(t, t - 1).noise_scale for name in REVERSE_NOISE}
        assert scale["sqrt_beta"] ** 2 == pytest.approx(table["betas"][t], rel=1e-12)
        assert scale["sqrt_posterior"] ** 2 == pytest.approx(table["posterior_variance"][t], rel=1e-12)
        assert scale["posterior"] == pytest.approx(table["posterior_variance"][t], rel=1e-12)
        assert scale["posterior"] < scale["sqrt_posterior"] < scale["sqrt_beta"]


@pytest.mark.parametrize("reverse_noise", REVERSE_NOISE)
def test_step_is_mean_plus_scaled_noise(reverse_noise: str) -> None:
    gauss, epsilon = process(reverse_noise=reverse_noise), torch.randn(3, 4)
    x_0_hat, x_t = torch.randn(3, 4), torch.randn(3, 4)
    number = gauss.coefficients(9, 8, eta=0.6)
    mean = number.x_0_weight * x_0_hat + number.x_t_weight * x_t
    torch.testing.assert_close(gauss.step(x_0_hat, x_t, 9, 8, eta=0.6, noise=None), mean)
    torch.testing.assert_close(gauss.step(x_0_hat, x_t, 9, 8, eta=0.6, noise=ZeroNoise()), mean)
    stepped = gauss.step(x_0_hat, x_t, 9, 8, eta=0.6, noise=epsilon)
    torch.testing.assert_close(stepped, mean + number.noise_scale * epsilon)


def test_nothing_is_drawn_where_nothing_is_added() -> None:
    x_0_hat, x_t = torch.ones(2, 3), torch.zeros(2, 3)
    process(reverse_noise="none").step(x_0_hat, x_t, 9, 8, noise=Forbidden())
    process(reverse_noise="sqrt_beta").step(x_0_hat, x_t, 9, 8, eta=0.0, noise=Forbidden())
    with pytest.raises(AssertionError, match="nothing was to be drawn"):
        process(reverse_noise="sqrt_beta").step(x_0_hat, x_t, 9, 8, noise=Forbidden())


def test_sqrt_beta_exceeds_the_marginal_by_what_the_decision_page_says() -> None:
    """docs/decisions/010: the variance is too large by beta_t^2 alpha_bar_{t-1} / (1 - alpha_bar_t)."""
    gauss = process(reverse_noise="sqrt_beta")
    table = gauss.schedule.tables
    for t in range(1, 32):
        number = gauss.coefficients(t, t - 1)
        variance = number.x_t_weight**2 * (1 - table["alpha_bar"][t]) + number.noise_scale**2
        excess = table["betas"][t] ** 2 * table["alpha_bar_prev"][t] / (1 - table["alpha_bar"][t])
        assert variance - (1 - table["alpha_bar"][t - 1]) == pytest.approx(excess, abs=1e-12)


# --- refusals and housekeeping ----------------------------------------------------------------------------------------


def test_unknown_reverse_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown reverse_noise 'beta'.*sqrt_beta, sqrt_posterior, posterior, none"):
        process(reverse_noise="beta")


@pytest.mark.parametrize(("t", "s"), [(32, 3), (-1, -1), (3, 3), (3, 4), (3, -2)])
def test_slots_that_are_no_reverse_step_are_refused(t: int, s: int) -> None:
    with pytest.raises(ValueError, match=f"from slot {t} to slot {s} .*0..31"):
        process().step(torch.zeros(1, 2), torch.zeros(1, 2), t, s, noise=None)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_outside_zero_to_one_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=r"^reverse_eta is .* between 0"):
        process().step(torch.zeros(1, 2), torch.zeros(1, 2), 3, 2, eta=eta, noise=None)


def test_a_model_that_holds_a_process_saves_nothing_of_it() -> None:
    holder = torch.nn.Module()
    holder.process = process()
    assert holder.state_dict() == {}
    assert holder.to("meta").process.schedule.sqrt_alpha_bar.device.type == "meta"


# --- against the published code ---------------------------------------------------------------------------------------


def test_sampling_scale_equals_that_of_the_published_code(shared) -> None:
    """Golden p_sample_log_variance: log beta_t from slot 1 on (slot 0 adds nothing, its entry is never used)."""
    golden = np.load(shared / "golden" / "schedules.npz")
    for key in ("trunc_lin_T8", "trunc_lin_T32", "cosine_T32", "sqrt_T32", "trunc_cos_T32", "pw_lin_T32"):
        name, steps = key.split("_T")
        gauss = process(name, int(steps), "sqrt_beta")
        published = np.exp(golden[f"{key}_p_sample_log_variance"])
        np.testing.assert_allclose(published[1:], gauss.schedule.tables["betas"][1:], rtol=1e-12, atol=1e-12)
        ours = [gauss.coefficients(t, t - 1).noise_scale ** 2 for t in range(1, int(steps))]
        np.testing.assert_allclose(ours, published[1:], rtol=1e-12, atol=1e-12)


def test_noising_equals_that_of_the_published_code(shared) -> None:
    golden = np.load(shared / "golden" / "tiny_diffurec.npz")
    gauss, (x_0, t, noise) = process(num_steps=8), (torch.tensor(golden[k]) for k in ("target_emb", "t", "noise"))
    np.testing.assert_allclose(gauss.sample(x_0, t, noise=noise).x_t.numpy(), golden["x_t"], atol=1e-6)


@pytest.mark.parametrize("lam", ["lam0.001", "lam0.5"])
def test_posterior_mean_equals_that_of_the_published_code(shared, lam: str) -> None:
    golden = np.load(shared / "golden" / "tiny_diffurec.npz")
    gauss = process(num_steps=8)
    x_0, x_t, t = (torch.tensor(golden[k]) for k in (f"{lam}_x0", "x_t", "t"))
    schedule = gauss.schedule
    mean = schedule.posterior_mean_coef1[t][:, None] * x_0 + schedule.posterior_mean_coef2[t][:, None] * x_t
    np.testing.assert_allclose(mean.numpy(), golden[f"{lam}_posterior_mean"], atol=1e-6)
    for row, slot in enumerate(t.tolist()):
        stepped = gauss.step(x_0[row : row + 1], x_t[row : row + 1], slot, slot - 1, noise=None)
        np.testing.assert_allclose(stepped[0].numpy(), golden[f"{lam}_posterior_mean"][row], atol=1e-6)


@pytest.mark.parametrize("lam", ["lam0.001", "lam0.5"])
def test_reverse_trajectory_equals_that_of_the_published_code(shared, lam: str) -> None:
    """From the published x_0 predictions, every step of the published noise-free trajectory."""
    golden = np.load(shared / "golden" / "tiny_diffurec.npz")
    path, predicted = torch.tensor(golden[f"{lam}_reverse_traj"]), torch.tensor(golden[f"{lam}_reverse_x0_preds"])
    gauss = process(num_steps=8, reverse_noise="sqrt_beta")
    for call, t in enumerate(range(7, -1, -1)):
        stepped = gauss.step(predicted[call], path[call], t, t - 1, noise=ZeroNoise())
        np.testing.assert_allclose(stepped.numpy(), path[call + 1].numpy(), atol=1e-6)
    np.testing.assert_array_equal(path[-1].numpy(), golden[f"{lam}_reverse_p_sample"])
