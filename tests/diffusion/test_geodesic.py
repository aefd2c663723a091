"""The geodesic walk: on the sphere at every slot, by the published angles, reversed to unit vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_diffusion.diffusion.geodesic import GeodesicWalk
from recbole_diffusion.diffusion.noise import GlobalNoise, RowNoise, ZeroNoise
from recbole_diffusion.diffusion.process import CLEAN
from recbole_diffusion.diffusion.sampler import ReverseSampler
from recbole_diffusion.diffusion.schedules import build_schedule
from recbole_diffusion.diffusion.sphere import distance, normalise, project


def walk(num_steps: int = 20, **keys: object) -> GeodesicWalk:
    return GeodesicWalk(build_schedule("linear", num_steps, beta_start=1e-4, beta_end=0.02), **keys)  # type: ignore[arg-type]


def directions(rows: int, dim: int = 64, seed: int = 0) -> Tensor:
    return normalise(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)))


def lengths(x: Tensor) -> Tensor:
    return x.norm(dim=-1)


@pytest.mark.parametrize("keys", [{}, {"walk_scale": "unit"}, {"walk_scale": "ddpm_project"}, {"walk_project": False}])
def test_every_slot_is_on_the_sphere(keys: dict[str, object]) -> None:
    process, x_0 = walk(**keys), directions(20)
    x_t = process.sample(x_0, torch.arange(20), noise=GlobalNoise()).x_t
    torch.testing.assert_close(lengths(x_t), torch.ones(20), atol=1e-5, rtol=0)


def test_noise_that_is_not_projected_leaves_the_sphere_unless_told_otherwise() -> None:
    process, x_0 = walk(walk_project=False, walk_renormalise=False), directions(20)
    epsilon = torch.randn(20, 64)
    x_t = process.sample(x_0, torch.arange(20), noise=epsilon).x_t
    angle = process.scale * lengths(epsilon)
    cosine = (epsilon * x_0).sum(-1) / lengths(epsilon)
    torch.testing.assert_close(x_t.square().sum(-1), 1 + (2 * angle).sin() * cosine, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", ["raw", "unit"])
def test_the_angle_is_the_length_of_the_walk(scale: str) -> None:
    process, x_0 = walk(walk_scale=scale), directions(20).double()
    epsilon, t = torch.randn(20, 64, dtype=torch.float64), torch.arange(20)
    x_t = process.sample(x_0, t, noise=epsilon).x_t
    walked = process.scale[t].double() * lengths(project(x_0, epsilon)) / (math.sqrt(63) if scale == "unit" else 1)
    inside = walked <= math.pi
    assert inside.any()
    torch.testing.assert_close(distance(x_0, x_t)[inside], walked[inside], atol=1e-6, rtol=1e-6)


def test_no_noise_is_no_walk() -> None:
    x_0 = directions(4).requires_grad_()
    for scale in ("raw", "unit"):
        x_t = walk(walk_scale=scale).sample(x_0, torch.tensor([0, 5, 10, 19]), noise=torch.zeros(4, 64)).x_t
        assert torch.equal(x_t, x_0)
        (gradient,) = torch.autograd.grad(x_t.sum(), x_0)
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(("num_steps", "angle"), [(5, 1.76), (10, 2.46), (20, 3.40), (50, 5.00), (100, 6.33)])
def test_angle_of_the_noisiest_slot_as_printed(num_steps: int, angle: float) -> None:
    """sqrt(63) sqrt(1 - alpha_bar_T), for the schedule that is not rescaled: past the antipode from T = 20 on."""
    assert math.sqrt(63) * float(walk(num_steps).scale[-1]) == pytest.approx(angle, abs=0.006)


@pytest.mark.parametrize(
    ("num_steps", "step", "cosine"),
    [(20, 1, 0.997), (20, 10, -0.143), (20, 20, -0.928), (5, 5, -0.181), (100, 100, 0.851)],
)
def test_the_noisiest_slots_of_the_raw_walk_tell_where_the_target_is(num_steps: int, step: int, cosine: float) -> None:
    rows = 20_000
    x_0 = directions(rows)
    noise = GlobalNoise(torch.Generator().manual_seed(1))
    x_t = walk(num_steps).sample(x_0, torch.full((rows,), step - 1), noise=noise).x_t
    assert float((x_t * x_0).sum(-1).mean()) == pytest.approx(cosine, abs=0.004)


@pytest.mark.parametrize(
    ("scale", "cosines"), [("unit", (0.99, 0.93, 0.70, 0.37)), ("ddpm_project", (0.96, 0.77, 0.49, 0.34))]
)
def test_cosines_of_the_other_walks(scale: str, cosines: tuple[float, ...]) -> None:
    """Mean cos(x_t, x_0) at steps 2, 5, 10, 15 of T = 20."""
    rows = 20_000
    x_0 = directions(rows)
    for step, cosine in zip((2, 5, 10, 15), cosines, strict=True):
        noise = GlobalNoise(torch.Generator().manual_seed(1))
        x_t = walk(walk_scale=scale).sample(x_0, torch.full((rows,), step - 1), noise=noise).x_t
        assert float((x_t * x_0).sum(-1).mean()) == pytest.approx(cosine, abs=0.01)


@pytest.mark.parametrize("angle", [math.pi / 2, 1.0])
def test_the_unit_walk_grows_to_its_angle(angle: float) -> None:
    process, x_0 = walk(walk_scale="unit", walk_angle=angle), directions(4000)
    means = []
    for slot in range(20):
        x_t = process.sample(x_0, torch.full((4000,), slot), noise=GlobalNoise()).x_t
        means.append(float(distance(x_0, x_t).mean()))
    assert means == sorted(means)
    assert means[-1] == pytest.approx(angle, rel=0.01)


def test_the_chain_starts_on_the_sphere_or_from_the_normal_distribution() -> None:
    on = walk().prior((7, 16), device="cpu", noise=RowNoise(range(7), 3))
    off = walk(normalise_prior=False).prior((7, 16), device="cpu", noise=RowNoise(range(7), 3))
    torch.testing.assert_close(lengths(on), torch.ones(7))
    torch.testing.assert_close(normalise(off), on)
    assert float(lengths(off).mean()) > 3


@pytest.mark.parametrize("space", ["ambient", "tangent"])
@pytest.mark.parametrize("reverse_noise", ["posterior", "sqrt_posterior", "sqrt_beta", "none"])
def test_every_reverse_step_is_on_the_sphere(reverse_noise: str, space: str) -> None:
    process = walk(reverse_noise=reverse_noise, reverse_noise_space=space)
    x_t, x_0_hat = directions(6), 5 * directions(6, seed=1)
    for t, s in ((19, 18), (19, 3), (1, 0), (0, CLEAN)):
        torch.testing.assert_close(lengths(process.step(x_0_hat, x_t, t, s, noise=GlobalNoise())), torch.ones(6))


def test_a_reverse_step_is_the_posterior_divided_by_its_length() -> None:
    process = walk(reverse_noise="posterior")
    table = process.schedule.tables
    x_t, x_0_hat, epsilon = directions(3), directions(3, seed=1), torch.randn(3, 64)
    mean = float(table["posterior_mean_coef1"][9]) * x_0_hat + float(table["posterior_mean_coef2"][9]) * x_t
    literal = mean + float(table["posterior_variance"][9]) * epsilon
    torch.testing.assert_close(process.step(x_0_hat, x_t, 9, 8, noise=epsilon), normalise(literal))
    torch.testing.assert_close(process.step(x_0_hat, x_t, 9, 8, noise=None), normalise(mean))
    assert float(table["posterior_variance"][19]) == pytest.approx(0.0182, abs=5e-5)


def test_tangent_noise_walks_from_the_mean_as_far_as_it_is_long() -> None:
    process = walk(reverse_noise="sqrt_posterior", reverse_noise_space="tangent")
    x_t, x_0_hat, epsilon = directions(3), directions(3, seed=1), torch.randn(3, 64)
    mean = process.step(x_0_hat, x_t, 9, 8, noise=None)
    moved = process.step(x_0_hat, x_t, 9, 8, noise=epsilon)
    walked = math.sqrt(process.schedule.tables["posterior_variance"][9]) * lengths(project(mean, epsilon))
    torch.testing.assert_close(distance(mean, moved), walked, atol=1e-5, rtol=1e-5)


def test_the_last_step_is_the_prediction_divided_by_its_length() -> None:
    x_0_hat = 3 * directions(4)
    torch.testing.assert_close(walk().step(x_0_hat, directions(4, seed=2), 0, CLEAN, noise=GlobalNoise()), x_0_hat / 3)


@pytest.mark.parametrize(
    ("reverse_noise", "cosines"), [("sqrt_posterior", (0.22, 0.41, 0.74, 0.96)), ("none", (0.54, 0.90, 0.99, 1.0))]
)
def test_a_perfect_denoiser_meets_the_printed_angles(reverse_noise: str, cosines: tuple[float, ...]) -> None:
    """cos(x_t, x_0) of the chain at steps 15, 10, 5, 2 of T = 20, started from random directions."""
    target = directions(4000)
    seen: dict[int, float] = {}

    def perfect(x_t: Tensor, t: Tensor, condition: Tensor, *, noise: object) -> Tensor:
        seen[int(t[0]) + 1] = float((x_t * condition).sum(-1).mean())
        return condition

    noise = GlobalNoise(torch.Generator().manual_seed(9))
    process = walk(reverse_noise=reverse_noise)
    ReverseSampler(process)(perfect, process.prior(target.shape, device="cpu", noise=noise), target, noise=noise)
    assert [seen[step] for step in (15, 10, 5, 2)] == pytest.approx(cosines, abs=0.03)


def test_gradients_reach_the_target_and_are_finite() -> None:
    for keys in ({}, {"walk_scale": "unit"}, {"walk_scale": "ddpm_project"}, {"walk_project": False}):
        x_0 = directions(20).requires_grad_()
        walk(**keys).sample(x_0, torch.arange(20), noise=GlobalNoise()).x_t.square().mul(
            torch.arange(64)
        ).sum().backward()
        assert x_0.grad is not None and bool(x_0.grad.isfinite().all()) and bool((x_0.grad.abs().sum(-1) > 0).all())


def test_sizes_at_the_edge() -> None:
    for scale in ("raw", "unit", "ddpm_project"):
        process = walk(1, walk_scale=scale)
        assert torch.equal(process.step(torch.ones(1, 1), torch.ones(1, 1), 0, CLEAN, noise=None), torch.ones(1, 1))
        x_t = process.sample(torch.ones(1, 1), torch.tensor([0]), noise=GlobalNoise()).x_t
        assert x_t.shape == (1, 1) and bool(x_t.isfinite().all())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="walk_scale is 'long'"):
        walk(walk_scale="long")
    with pytest.raises(ValueError, match="reverse_noise_space is 'flat'"):
        walk(reverse_noise_space="flat")
    with pytest.raises(ValueError, match="walk_angle is 4"):
        walk(walk_scale="unit", walk_angle=4.0)
    with pytest.raises(ValueError, match="unknown reverse_noise"):
        walk(reverse_noise="loud")
    with pytest.raises(ValueError, match="noise has shape"):
        walk().sample(directions(2), torch.tensor([0, 1]), noise=torch.zeros(2, 3))


# --- chains that are cut ----------------------------------------------------------------------------------------------


def test_a_cut_chain_ends_with_its_state_or_its_prediction() -> None:
    process, x_T = walk(8), directions(3)
    outputs: list[Tensor] = []

    def denoiser(x_t: Tensor, t: Tensor, condition: object, *, noise: object) -> Tensor:
        outputs.append(2 * x_t.roll(1, 1))
        return outputs[-1]

    state = ReverseSampler(process, stop_after=3)(denoiser, x_T, None, noise=ZeroNoise())
    assert len(outputs) == 3
    x = x_T
    for t in (7, 6, 5):
        x = process.step(2 * x.roll(1, 1), x, t, t - 1, noise=None)
    torch.testing.assert_close(state, x)
    prediction = ReverseSampler(process, stop_after=3, early_result="prediction")(
        denoiser, x_T, None, noise=ZeroNoise()
    )
    torch.testing.assert_close(prediction, normalise(outputs[-1]))
    whole = ReverseSampler(process)(denoiser, x_T, None, noise=ZeroNoise())
    for early_result in ("state", "prediction"):
        cut_at_the_end = ReverseSampler(process, stop_after=8, early_result=early_result)
        torch.testing.assert_close(cut_at_the_end(denoiser, x_T, None, noise=ZeroNoise()), whole, rtol=0, atol=0)


def test_where_a_chain_cannot_be_cut() -> None:
    for steps in (0, 9):
        with pytest.raises(ValueError, match=rf"intermediate_steps is {steps}; it must lie in 1\.\.8"):
            ReverseSampler(walk(8), stop_after=steps)
    with pytest.raises(ValueError, match="intermediate_result is 'middle'; it must be state or prediction"):
        ReverseSampler(walk(8), early_result="middle")


def test_buffers_stay_out_of_the_checkpoint() -> None:
    assert walk().state_dict() == {}
    np.testing.assert_allclose(walk().scale, walk().schedule.sqrt_one_minus_alpha_bar)
