"""DreamRec's start and its whole reverse chain, against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import ZeroNoise
from recbole_diffusion.models.dreamrec import DreamRec

from .test_dreamrec import ROWS, TARGETS, like, tiny
from .tiny import interaction


def published_chain(model: DreamRec, w: float) -> Tensor:
    """x_0 (B, D): DDPM's ancestral sampling of (1 + w) f(x, h) - w f(x, none), with tables of its own.

    The denoiser is written out from its weights: one linear map of [x_t ; h ; d_t].
    """
    batch, steps, dim = interaction(ROWS, TARGETS), model.options.num_steps, model.options.hidden_size
    position = torch.linspace(1, 2 * steps + 1, steps, dtype=torch.float64)
    alpha = torch.exp(-0.1 / steps - position * 0.5 * (10 - 0.1) / steps**2)
    beta, alpha_bar = 1 - alpha, alpha.cumprod(0)
    denoiser, noise = model.denoiser, model.evaluation_noise(batch)
    weight = torch.cat([denoiser.of_x.weight, denoiser.of_guidance.weight, denoiser.of_step.weight], dim=1)
    frequency = torch.exp(-math.log(10000) / (dim // 2 - 1) * torch.arange(dim // 2))
    first, second = denoiser.step_embedding.first, denoiser.step_embedding.second

    def f(x: Tensor, h: Tensor, t: int) -> Tensor:
        wave = torch.cat([(t * frequency).sin(), (t * frequency).cos()])
        step = second(torch.nn.functional.gelu(first(wave)))
        return torch.cat([x, h, step.expand_as(x)], dim=1) @ weight.T + denoiser.of_step.bias

    state, none = model.history_state(batch), model.no_condition.expand(len(ROWS), -1)
    x = noise.normal((len(ROWS), dim), device="cpu")
    for t in reversed(range(steps)):
        before = float(alpha_bar[t - 1]) if t else 1.0
        now, b = float(alpha_bar[t]), float(beta[t])
        x_0 = (1 + w) * f(x, state, t) - w * f(x, none, t)
        x = (math.sqrt(before) * b * x_0 + math.sqrt(1 - b) * (1 - before) * x) / (1 - now)
        if t:
            x = x + math.sqrt(b * (1 - before) / (1 - now)) * noise.normal(x.shape, device="cpu")
    return x


@pytest.mark.parametrize("num_steps", [1, 2, 25])
@pytest.mark.parametrize("w", [0.0, 2.0])
def test_the_whole_chain_is_the_published_one(num_steps: int, w: float) -> None:
    model = tiny(num_steps=num_steps, guidance_scale=w)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = published_chain(model, w)
        found = model.user_vectors(interaction(ROWS, TARGETS))[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_chain_is_as_steep_and_as_noisy_as_its_keys_say() -> None:
    """Every key of the chain reaches it: each changes the result."""
    model = tiny(num_steps=25)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        base = model.user_vectors(batch)
        for keys in (
            {"guidance_scale": 1.0},
            {"reverse_steps": 5},
            {"reverse_eta": 0.0},
            {"reverse_noise": "none"},
            {"noise_schedule": "cosine_clipped"},
        ):
            other: dict[str, Any] = {"num_steps": 25, **keys}
            assert (like(model, **other).user_vectors(batch) - base).abs().max() > 1e-3, keys


def test_items_and_the_vector_of_no_history_start_as_standard_normal_draws() -> None:
    model = tiny(4001, hidden_size=64)
    table, none = model.item_embedding.weight.detach(), tiny(hidden_size=4096).no_condition.detach()
    for drawn in (table[1:].flatten(), none):
        size = drawn.numel()
        assert abs(float(drawn.mean())) < 5 / math.sqrt(size)
        assert float(drawn.std()) == pytest.approx(1.0, abs=5 / math.sqrt(2 * size))
        beyond = float((drawn.abs() > 1.96).float().mean())
        assert beyond == pytest.approx(0.05, abs=5 * math.sqrt(0.05 * 0.95 / size))
    assert float(tiny(4001, hidden_size=64, item_init_std=0.1).item_embedding.weight.detach().std()) == pytest.approx(
        0.1, rel=0.02
    )


def test_the_chain_starts_from_the_rows_own_standard_normal_draws() -> None:
    model = tiny(num_steps=3)
    seen: list[Tensor] = []
    guided = model.guided

    def watched(x_t: Tensor, *arguments: Any, **keys: Any) -> Tensor:
        seen.append(x_t)
        return guided(x_t, *arguments, **keys)

    model.guided = watched  # type: ignore[assignment]
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        model.user_vectors(batch)
        assert torch.equal(seen[0], model.evaluation_noise(batch).normal((5, 16), device="cpu"))
        model.sample_user_vectors(batch, ZeroNoise())
    assert not seen[3].any()
