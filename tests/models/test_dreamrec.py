"""Properties of DreamRec that hold for any weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional

from recbole_diffusion.config import RunConfig
from recbole_diffusion.diffusion.noise import ZeroNoise
from recbole_diffusion.errors import UserError
from recbole_diffusion.models.dreamrec import DreamRec, DreamRecOptions

from .tiny import Items, interaction

ROWS = [[3, 9, 4], [7], [1, 2, 3, 4, 5, 6, 7, 8], [11, 12], [20, 21, 22, 23, 24, 25]]
TARGETS = [5, 6, 7, 8, 9]
TINY = {"hidden_size": 16, "num_steps": 8, "MAX_ITEM_LIST_LENGTH": 8, "use_gpu": False}


def tiny(items: int = 51, **keys: Any) -> DreamRec:
    """A small DreamRec over `items` ids (padding included) in evaluation mode."""
    torch.manual_seed(0)
    return DreamRec(RunConfig("DreamRec", "tiny", (), {**TINY, **keys}), Items(items)).eval()


def like(model: DreamRec, **keys: Any) -> DreamRec:
    """The same weights under other keys."""
    other = tiny(model.n_items, **keys)
    other.load_state_dict(model.state_dict())
    return other


def scores(model: DreamRec, rows: list[list[int]] = ROWS, length: int = 8) -> Tensor:
    with torch.no_grad():
        return model.full_sort_predict(interaction(rows, [1] * len(rows), length))


def trained(model: DreamRec) -> dict[str, bool]:
    """Which parameters get a gradient."""
    model.train()
    torch.manual_seed(1)
    model.calculate_loss(interaction(ROWS, TARGETS)).backward()
    return {name: p.grad is not None and bool(p.grad.any()) for name, p in model.named_parameters()}


@pytest.mark.parametrize("sizes", [[], [32]])
def test_the_loss_by_hand(sizes: list[int]) -> None:
    """Mean squared error over all entries, on [x_t ; h ; d_t], with the model's draws."""
    model = tiny(denoiser_hidden_sizes=sizes, dropout_prob=0.0, condition_dropout=0.5).train()
    batch, targets = interaction(ROWS, TARGETS), torch.tensor(TARGETS)
    torch.manual_seed(4)
    loss = model.calculate_loss(batch)
    torch.manual_seed(4)
    dropped = torch.rand(5, 1) < 0.5
    t, epsilon = torch.randint(8, (5,)), torch.randn(5, 16)
    assert 0 < int(dropped.sum()) < 5
    alpha_bar = torch.tensor(model.process.schedule.tables["alpha_bar"], dtype=torch.float32)[t][:, None]
    x_0 = model.item_embedding(targets)
    x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * epsilon
    h = torch.where(dropped, model.no_condition, model.history_state(batch))
    denoiser = model.denoiser
    weight = torch.cat([denoiser.of_x.weight, denoiser.of_guidance.weight, denoiser.of_step.weight], dim=1)
    x = torch.cat([x_t, h, denoiser.step_embedding(t)], dim=1) @ weight.T + denoiser.of_step.bias
    if sizes:
        x = denoiser.rest[0](functional.gelu(x))
    torch.testing.assert_close(loss, (x - x_0).square().mean())


def test_without_strength_the_unconditional_vector_is_unused() -> None:
    model = tiny(guidance_scale=0.0)
    before = scores(model)
    with torch.no_grad():
        model.no_condition.fill_(float("nan"))
    torch.testing.assert_close(scores(model), before, rtol=0, atol=0)
    assert scores(like(model, guidance_scale=2.0)).isnan().any()


def test_the_chain_is_guided() -> None:
    """One step from x_T: (1 + w) f(x, h) - w f(x, none)."""
    model = tiny(guidance_scale=3.0, reverse_steps=1)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        noise = model.evaluation_noise(batch)
        x_T = noise.normal((5, 16), device="cpu")
        t = torch.full((5,), 7)

        def answer(h: Tensor) -> Tensor:
            return model.denoiser(x_T, t, model.denoiser.condition(h[:, None]), noise=ZeroNoise())

        state, none = model.history_state(batch), model.no_condition.expand(5, -1)
        expected = 4 * answer(state) - 3 * answer(none)
        torch.testing.assert_close(model.user_vectors(batch)[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_rows_without_history_do_not_train_its_encoder() -> None:
    found = trained(tiny(condition_dropout=1.0))
    assert found["no_condition"]
    assert not any(there for name, there in found.items() if name.startswith("encoder."))
    kept = trained(tiny(condition_dropout=0.0))
    assert not kept["no_condition"]
    assert all(there for name, there in kept.items() if name != "no_condition")
    assert all(trained(tiny(condition_dropout=0.5)).values())


def test_the_history_state_does_not_draw() -> None:
    model = tiny()
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        torch.testing.assert_close(model.history_state(batch), model.history_state(batch), rtol=0, atol=0)
        wide = model.history_state(interaction(ROWS, TARGETS, length=8))
        alone = torch.cat([model.history_state(interaction([row], [1], length=len(row))) for row in ROWS])
    torch.testing.assert_close(alone, wide, rtol=1e-5, atol=1e-5)


def test_the_last_step_returns_the_guided_prediction() -> None:
    model = tiny()
    outputs: list[Tensor] = []
    guided = model.guided

    def watched(*args: Any, **keys: Any) -> Tensor:
        outputs.append(guided(*args, **keys))
        return outputs[-1]

    model.guided = watched  # type: ignore[assignment]
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        users = model.user_vectors(batch)
    assert len(outputs) == 8
    torch.testing.assert_close(users[:, 0], outputs[-1], rtol=0, atol=0)


def test_the_condition_is_computed_once() -> None:
    model, calls = tiny(), []
    for part in (*model.encoder.blocks, model.denoiser.step_embedding.first):
        part.register_forward_pre_hook(lambda *_: calls.append(1))
    scores(model)
    assert len(calls) == 2


def test_scores_belong_to_the_row_and_the_seed() -> None:
    model = tiny()
    first = scores(model)
    alone = torch.cat([scores(model, [row], length=len(row)) for row in ROWS])
    torch.testing.assert_close(alone, first, rtol=1e-4, atol=1e-4)
    assert (scores(like(model, eval_seed=1)) - first).abs().max() > 1e-2
    with torch.no_grad():
        single = model.predict(interaction(ROWS, TARGETS))
    torch.testing.assert_close(single, first[torch.arange(5), torch.tensor(TARGETS)], rtol=1e-4, atol=1e-4)


def test_it_overfits_a_few_rows() -> None:
    model = tiny(dropout_prob=0.0, detach_target=True, denoiser_hidden_sizes=[64]).train()
    batch, optimizer = interaction(ROWS, TARGETS), torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
    model.eval()
    assert (
        scores(like(model, denoiser_hidden_sizes=[64], guidance_scale=0.5, score="neg_sq_dist")).argmax(1).tolist()
        == TARGETS
    )


@pytest.mark.parametrize("detach", [False, True])
def test_a_target_moves_by_the_error_only_if_it_is_not_detached(detach: bool) -> None:
    """Targets that no history has get a gradient from the squared error, or none at all."""
    model = tiny(detach_target=detach, dropout_prob=0.0).train()
    model.calculate_loss(interaction([[1, 2]] * 3, [30, 31, 32])).backward()
    gradient = model.item_embedding.weight.grad
    assert gradient is not None
    assert bool(gradient[30:33].abs().sum(1).gt(0).all()) is not detach
    assert bool(gradient[1:3].abs().sum(1).gt(0).all())


def test_the_error_draws_targets_together_unless_they_are_detached() -> None:
    """What nothing in the loss prevents: trained with their gradient, targets come to lie near each other."""
    spread = {}
    for detach in (False, True):
        model = tiny(detach_target=detach, dropout_prob=0.0).train()
        targets = model.item_embedding.weight[TARGETS]
        before = targets.var(0).sum().item()
        batch, optimizer = interaction(ROWS, TARGETS), torch.optim.Adam(model.parameters(), lr=0.05)
        torch.manual_seed(2)
        for _ in range(100):
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
        spread[detach] = model.item_embedding.weight[TARGETS].var(0).sum().item() / before
    assert spread[False] < 0.1
    assert spread[True] > 0.5


@pytest.mark.parametrize(
    "keys",
    [
        {"detach_target": True},
        {"n_layers": 2, "n_heads": 2},
        {"noise_schedule": "linear", "beta_end": 0.1},
        {"noise_schedule": "cosine_clipped"},
        {"num_steps": 1},
        {"step_sampler": "lossaware"},
    ],
)
def test_every_reading_trains_and_ranks(keys: dict[str, Any]) -> None:
    model = tiny(condition_dropout=0.5, **keys)
    assert bool(scores(model).isfinite().all())
    assert all(trained(model).values())


def test_the_smallest_batch_history_and_catalogue_in_reduced_precision() -> None:
    model = tiny(3).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(interaction([[1]], [2]))
        assert bool(scores(model.eval(), [[1]]).isfinite().all())
    loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_every_key_is_an_option_and_every_option_a_key() -> None:
    root = Path(__file__).resolve().parents[2]
    text = (root / "properties" / "model" / "DreamRec.yaml").read_text(encoding="utf-8")
    options = {field.name for field in dataclasses.fields(DreamRecOptions)}
    assert set(yaml.safe_load(text.partition("# training")[0])) == options


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"condition_dropout": 1.5}, "condition_dropout is 1.5"),
        ({"dropout_prob": 1.0}, "dropout_prob is 1"),
        ({"num_steps": 0}, "num_steps is 0"),
    ],
)
def test_wrong_values_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(**keys)
    with pytest.raises(ValueError, match="guidance_scale is -1"):
        tiny(guidance_scale=-1.0)
