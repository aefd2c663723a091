"""DimeRec's switches of walk, losses and chain reach what they are meant to change, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_diffusion.diffusion.process import CLEAN
from recbole_diffusion.diffusion.sphere import normalise
from recbole_diffusion.models.dimerec import DimeRec

from .test_dimerec import ROWS, TARGETS, like, tiny
from .tiny import interaction


def restored(model: DimeRec, steps: list[int], seed: int = 3) -> tuple[Tensor, Tensor, list[int], Tensor]:
    """x_0, x_t, slots and x_0_hat of a training batch for which the step sampler draws these steps."""
    seen: list[Any] = []
    model.step_sampler.sample = lambda n, **_: (torch.tensor(steps), torch.ones(n))  # type: ignore[method-assign]
    handle = model.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    batch = interaction(ROWS, TARGETS)
    torch.manual_seed(seed)
    with torch.no_grad():
        guidance = model.denoiser_input(model.guidance(batch))
        x_0, x_0_hat, t, weight = model.restore(model.item_embedding(batch["item_id"]), guidance)
    handle.remove()
    assert t.tolist() == steps and weight.tolist() == [1.0] * len(steps)
    x_t, slots, _ = seen[0]
    return x_0, x_t, slots.tolist(), x_0_hat


@pytest.mark.parametrize("noise_space", ["sphere", "euclidean"])
def test_the_clean_step_has_the_target_itself_and_a_vector_of_its_own(noise_space: str) -> None:
    """t = 0 of Algorithm 1: x_t = x_0 with the step vector of slot CLEAN; every other step is one slot later."""
    keys = {"train_clean_step": True, "noise_space": noise_space}
    model = tiny(**keys)
    x_0, x_t, slots, x_0_hat = restored(model, [0, 1, 0, 7, 20])
    assert slots == [CLEAN, 0, CLEAN, 6, 19]
    assert torch.equal(x_t[[0, 2]], x_0[[0, 2]])
    assert bool(((x_t - x_0).abs().amax(1) > 1e-3)[[1, 3, 4]].all())
    noise_of_rows = like(model, noise_space=noise_space)  # without the clean step, the same draws
    _, expected, plain_slots, plain_hat = restored(noise_of_rows, [0, 0, 0, 6, 19])
    assert plain_slots == [0, 0, 0, 6, 19]
    assert torch.equal(x_t[[1, 3, 4]], expected[[1, 3, 4]])
    assert torch.equal(x_0_hat[[1, 3, 4]], plain_hat[[1, 3, 4]])

    angle = -1.0 * 10000.0 ** (-torch.arange(8) / 7)  # slot CLEAN is -1
    waves = torch.cat([angle.sin(), angle.cos()])
    embedding = model.denoiser.step_embedding
    with torch.no_grad():
        vector = embedding.second(torch.nn.functional.gelu(embedding.first(waves)))
        torch.testing.assert_close(embedding(torch.tensor([CLEAN]))[0], vector, rtol=1e-5, atol=1e-6)
        batch = interaction(ROWS, TARGETS)
        g = model.denoiser_input(model.guidance(batch)).flatten(1)[0]
        denoiser = model.denoiser
        first = denoiser.of_x.weight @ x_0[0] + denoiser.of_guidance.weight @ g + denoiser.of_step(vector)
        hat = denoiser.rest[0](torch.nn.functional.gelu(first))
    torch.testing.assert_close(x_0_hat[0], normalise(hat) if noise_space == "sphere" else hat, rtol=1e-4, atol=1e-5)


def test_the_clean_step_is_among_those_that_are_drawn() -> None:
    def drawn(**keys: Any) -> set[int]:
        found: Tensor = tiny(num_steps=4, **keys).step_sampler.sample(500, device="cpu")[0]
        return set(found.tolist())

    assert drawn(train_clean_step=True) == {0, 1, 2, 3, 4}
    assert drawn() == {0, 1, 2, 3}


def test_the_temperature_is_of_the_restored_vector_alone() -> None:
    """L_ssm is that of x_0_hat / temperature; L_gem and L_recon are as without it."""
    terms: dict[float, dict[str, Tensor]] = {}
    model = tiny()
    for temperature in (1.0, 0.2):
        torch.manual_seed(6)
        terms[temperature] = like(model, temperature=temperature).train().losses(interaction(ROWS, TARGETS))
    for name in ("guidance", "reconstruction"):
        assert torch.equal(terms[0.2][name], terms[1.0][name])
    assert (terms[0.2]["ranking"] - terms[1.0]["ranking"]).abs() > 1e-2
    torch.manual_seed(6)
    batch, warm = interaction(ROWS, TARGETS), like(model, temperature=0.2).train()
    x_0_hat = warm.restore(warm.item_embedding(batch["item_id"]), warm.denoiser_input(warm.guidance(batch)))[1]
    by_hand = warm.ranking_losses({"ranking": 5.0 * x_0_hat}, batch["item_id"], batch["item_id_list"])["ranking"]
    torch.testing.assert_close(terms[0.2]["ranking"], by_hand.mean())


def chain(model: DimeRec, steps: int) -> tuple[Tensor, Tensor]:
    """State and prediction (B, D) after so many reverse steps, written as a loop with the model's draws."""
    batch = interaction(ROWS, TARGETS)
    noise, last = model.evaluation_noise(batch), model.process.num_steps - 1
    with torch.no_grad():
        condition = model.denoiser.condition(model.denoiser_input(model.guidance(batch)))
        x = model.process.prior((len(ROWS), 16), device="cpu", noise=noise)
        for t in range(last, last - steps, -1):
            x_0_hat = model.denoiser(x, torch.full((len(ROWS),), t), condition, noise=noise)
            prediction = model.process.step(x_0_hat, x, t, CLEAN, noise=None)
            x = model.process.step(x_0_hat, x, t, t - 1, noise=noise)
    return x, prediction


@pytest.mark.parametrize("noise_space", ["sphere", "euclidean"])
def test_a_cut_chain_ends_with_its_state_or_with_its_prediction(noise_space: str) -> None:
    keys = {"noise_space": noise_space, "reverse_noise": "sqrt_posterior"}
    model = tiny(**keys)
    state, prediction = chain(model, 3)
    assert (state - prediction).abs().max() > 0.1
    for result, expected in (("state", state), ("prediction", prediction)):
        with torch.no_grad():
            cut = like(model, intermediate_steps=3, intermediate_result=result, **keys)
            found = cut.user_vectors(interaction(ROWS, TARGETS))[:, 0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def starts(model: DimeRec) -> Tensor:
    """What the first call of the denoiser sees, (B, D)."""
    seen: list[Tensor] = []
    model.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        model.user_vectors(interaction(ROWS, TARGETS))
    return seen[0]


def test_the_prior_is_normalised_or_not() -> None:
    model = tiny()
    drawn = model.evaluation_noise(interaction(ROWS, TARGETS)).normal((5, 16), device="cpu")
    torch.testing.assert_close(starts(model), normalise(drawn))
    assert torch.equal(starts(like(model, normalise_prior=False)), drawn)
    assert torch.equal(starts(like(model, noise_space="euclidean")), drawn)


@pytest.mark.parametrize("angle", [0.4, math.pi / 2])
def test_the_walk_ends_at_its_angle(angle: float) -> None:
    model = tiny(walk_scale="unit", walk_angle=angle, hidden_size=512)
    x_0, x_t, _, _ = restored(model, [19] * 5)
    found = (x_0 * x_t).sum(1).clamp(-1, 1).acos()
    assert float(found.mean()) == pytest.approx(angle, rel=0.05)


@pytest.mark.parametrize("noise_space", ["sphere", "euclidean"])
def test_eta_zero_draws_nothing_after_the_start(noise_space: str) -> None:
    keys = {"noise_space": noise_space, "reverse_noise": "sqrt_posterior"}

    def draws(eta: float) -> int:
        model, count = tiny(reverse_eta=eta, **keys), 0
        batch = interaction(ROWS, TARGETS)
        noise = model.evaluation_noise(batch)

        class Counted:
            per_row = True

            def normal(self, *arguments: Any, **keywords: Any) -> Tensor:
                nonlocal count
                count += 1
                return noise.normal(*arguments, **keywords)

        with torch.no_grad():
            model.sample_user_vectors(batch, Counted())  # type: ignore[arg-type]
        return count

    assert draws(1.0) == 20  # the start and every step but the last
    assert draws(0.0) == 1
