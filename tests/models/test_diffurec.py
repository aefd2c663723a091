"""Properties of DiffuRec that hold for any weights."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import recbole_diffusion.interests.packing as packing
from recbole_diffusion.diffusion.noise import GlobalNoise, RowNoise, ZeroNoise
from recbole_diffusion.errors import UserError
from recbole_diffusion.models.base import EVALUATION_ROW
from recbole_diffusion.models.diffurec import DiffuRec

from .tiny import interaction, tiny_model

ROWS = [[3, 9, 4], [7], [1, 2, 3, 4, 5, 6, 7, 8], [11, 12], [20, 21, 22, 23, 24, 25]]
TARGETS = [5, 6, 7, 8, 9]


def reconstruct(
    model: DiffuRec, rows: list[list[int]], *, length: int = 8, t: int = 3, x_t: Tensor | None = None
) -> Tensor:
    """x_0_hat with lambda at its mean (the model must have lambda_std 0)."""
    batch = interaction(rows, [1] * len(rows), length)
    condition = model.condition(batch["item_id_list"], batch["item_length"])
    if x_t is None:
        x_t = torch.linspace(-1, 1, 16).repeat(len(rows), 1)
    with torch.no_grad():
        return model.denoiser(x_t, torch.full((len(rows),), t), condition, noise=ZeroNoise())


@pytest.mark.parametrize("mask_mode", ["query", "key"])
@pytest.mark.parametrize("approximator", ["transformer", "gru"])
@pytest.mark.parametrize("use_positions", [False, True])
def test_packing_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, mask_mode: str, approximator: str, use_positions: bool
) -> None:
    torch.manual_seed(0)
    model = tiny_model(
        lambda_mean=0.5, lambda_std=0.0, mask_mode=mask_mode, approximator=approximator, use_positions=use_positions
    )
    together = reconstruct(model, ROWS)
    for widths in ((), (3,), (4, 7)):
        monkeypatch.setitem(packing.pack.__kwdefaults__, "widths", widths)
        torch.testing.assert_close(reconstruct(model, ROWS), together, rtol=1e-5, atol=1e-6)
        one_by_one = torch.cat([reconstruct(model, [row]) for row in ROWS])
        torch.testing.assert_close(one_by_one, together, rtol=1e-5, atol=1e-6)


def test_history_is_a_set_plus_its_last_item() -> None:
    torch.manual_seed(0)
    model = tiny_model(lambda_mean=0.5, lambda_std=0.0)
    base = reconstruct(model, [[3, 9, 4, 7]])
    for order in itertools.permutations([3, 9, 4]):
        torch.testing.assert_close(reconstruct(model, [[*order, 7]]), base, rtol=1e-5, atol=1e-6)
    assert (reconstruct(model, [[3, 9, 7, 4]]) - base).abs().max() > 1e-2


def test_positions_make_the_order_matter() -> None:
    torch.manual_seed(0)
    model = tiny_model(lambda_mean=0.5, lambda_std=0.0, use_positions=True)
    assert (reconstruct(model, [[3, 9, 4, 7]]) - reconstruct(model, [[9, 3, 4, 7]])).abs().max() > 1e-3


def test_mask_mode_decides_whether_padding_is_seen() -> None:
    torch.manual_seed(0)
    short = tiny_model(lambda_std=0.0, mask_mode="query")
    key = tiny_model(lambda_std=0.0, mask_mode="key")
    longer_query = tiny_model(lambda_std=0.0, mask_mode="query", MAX_ITEM_LIST_LENGTH=13)
    longer_key = tiny_model(lambda_std=0.0, mask_mode="key", MAX_ITEM_LIST_LENGTH=13)
    for model in (key, longer_query, longer_key):
        model.load_state_dict(short.state_dict())
    rows = [[3, 9, 4]]
    torch.testing.assert_close(reconstruct(key, rows), reconstruct(longer_key, rows, length=13), rtol=1e-6, atol=1e-6)
    assert (reconstruct(short, rows) - reconstruct(longer_query, rows, length=13)).abs().max() > 1e-3
    assert (reconstruct(short, rows) - reconstruct(key, rows)).abs().max() > 1e-2


def test_without_lambda_nothing_of_the_diffusion_is_left() -> None:
    torch.manual_seed(0)
    model = tiny_model(lambda_mean=0.0, lambda_std=0.0)
    base = reconstruct(model, ROWS)
    other = reconstruct(model, ROWS, t=7, x_t=torch.randn(len(ROWS), 16))
    torch.testing.assert_close(other, base, rtol=0, atol=0)
    batch = interaction(ROWS, TARGETS)
    scores = []
    for steps in (2, 4, 8, 32):
        variant = tiny_model(lambda_mean=0.0, lambda_std=0.0, num_steps=steps)
        variant.load_state_dict(model.state_dict())
        with torch.no_grad():
            scores.append(variant.full_sort_predict(batch))
    for other_scores in scores[1:]:
        torch.testing.assert_close(other_scores, scores[0], rtol=1e-5, atol=1e-5)


def test_large_lambda_makes_the_guide_matter() -> None:
    torch.manual_seed(0)
    model = tiny_model(lambda_mean=0.5, lambda_std=0.0)
    assert (reconstruct(model, ROWS, t=7) - reconstruct(model, ROWS, t=0)).abs().max() > 1e-3


def test_the_chain_ends_at_the_denoisers_output() -> None:
    torch.manual_seed(0)
    model = tiny_model(lambda_mean=0.5, lambda_std=0.0)
    batch = interaction(ROWS, TARGETS)
    condition = model.condition(batch["item_id_list"], batch["item_length"])
    seen: list[Tensor] = []

    def watched(x_t: Tensor, t: Tensor, condition: object, *, noise: object) -> Tensor:
        seen.append(model.denoiser(x_t, t, condition, noise=noise))
        return seen[-1]

    with torch.no_grad():
        x_0 = model.sampler(watched, torch.randn(len(ROWS), 16), condition, noise=GlobalNoise())
    assert len(seen) == 8
    torch.testing.assert_close(x_0, seen[-1], rtol=0, atol=0)


@pytest.mark.parametrize("score", ["dot", "neg_sq_dist", "cosine"])
def test_predict_is_an_entry_of_full_sort_predict(score: str) -> None:
    torch.manual_seed(0)
    model = tiny_model(score=score, lambda_mean=0.5, lambda_std=0.5, num_steps=4)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        full = model.full_sort_predict(batch)
        single = model.predict(batch)
    assert full.shape == (5, 51)
    torch.testing.assert_close(single, full[torch.arange(5), torch.tensor(TARGETS)], rtol=1e-5, atol=1e-5)


def test_score_kinds_by_hand() -> None:
    from recbole_diffusion.models.base import relevance

    users, items = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0], [0.0, 2.0], [-3.0, -4.0]])
    assert relevance(users, items, "dot").tolist() == [[25.0, 8.0, -25.0]]
    assert relevance(users, items, "cosine").tolist()[0] == pytest.approx([1.0, 0.8, -1.0])
    assert relevance(users, items, "neg_sq_dist").tolist()[0] == pytest.approx([0.0, -13.0, -100.0])


def test_scores_belong_to_the_row_and_the_seed() -> None:
    torch.manual_seed(0)
    model = tiny_model(lambda_mean=0.5, lambda_std=0.5)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        first, again = model.full_sort_predict(batch), model.full_sort_predict(batch)
        alone = torch.cat([model.full_sort_predict(interaction([row], [1])) for row in ROWS])
        other = tiny_model(lambda_mean=0.5, lambda_std=0.5, eval_seed=1)
        other.load_state_dict(model.state_dict())
        elsewhere = other.full_sort_predict(batch)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.testing.assert_close(alone, first, rtol=1e-5, atol=1e-5)
    assert (elsewhere - first).abs().max() > 1e-2


def test_row_numbers_key_the_noise_when_given() -> None:
    torch.manual_seed(0)
    model = tiny_model(lambda_mean=0.5, lambda_std=0.5)
    same = interaction([[3, 9], [3, 9]], [1, 1])
    with torch.no_grad():
        by_history = model.full_sort_predict(same)
        torch.testing.assert_close(by_history[0], by_history[1], rtol=1e-5, atol=1e-6)
        same.interaction[EVALUATION_ROW] = torch.tensor([0, 1])
        by_row = model.full_sort_predict(same)
    assert (by_row[0] - by_row[1]).abs().max() > 1e-3


def test_no_eval_seed_draws_from_the_global_generator() -> None:
    torch.manual_seed(0)
    model = tiny_model(lambda_mean=0.5, lambda_std=0.5, eval_seed=None)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        torch.manual_seed(5)
        first = model.full_sort_predict(batch)
        second = model.full_sort_predict(batch)
        torch.manual_seed(5)
        third = model.full_sort_predict(batch)
    assert (first - second).abs().max() > 1e-3
    torch.testing.assert_close(first, third, rtol=0, atol=0)


def test_several_chains_are_averaged() -> None:
    torch.manual_seed(0)
    one = tiny_model(lambda_mean=0.5, lambda_std=0.5)
    three = tiny_model(lambda_mean=0.5, lambda_std=0.5, n_eval_samples=3)
    three.load_state_dict(one.state_dict())
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        chains = [one.sample_user_vectors(batch, one.evaluation_noise(batch, chain)) for chain in range(3)]
        averaged = three.user_vectors(batch)
    torch.testing.assert_close(averaged, torch.stack(chains).mean(0), rtol=1e-5, atol=1e-6)
    assert (chains[0] - chains[1]).abs().max() > 1e-3


def test_training_loss_overfits_a_few_rows() -> None:
    torch.manual_seed(0)
    model = tiny_model(item_init_std=0.1, dropout_prob=0.0, embedding_dropout_prob=0.0, num_steps=8).train()
    batch = interaction(ROWS, TARGETS)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.05
    model.eval()
    with torch.no_grad():
        assert model.full_sort_predict(batch).argmax(1).tolist() == TARGETS


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = tiny_model(use_positions=True).train()
    model.calculate_loss(interaction(ROWS, TARGETS)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert without == []


def test_target_gradient_comes_through_lambda() -> None:
    """The target's embedding is an input (x_0) besides being a class; with lambda 0 that path is closed."""
    for strength, expected in ((0.0, False), (0.5, True)):
        torch.manual_seed(0)
        model = tiny_model(lambda_mean=strength, lambda_std=0.0)
        batch = interaction([[3, 4]], [9])
        condition = model.condition(batch["item_id_list"], batch["item_length"])
        x_0 = model.item_embedding(batch["item_id"]).detach().requires_grad_()
        x_t = model.process.sample(x_0, torch.tensor([0]), noise=torch.zeros(1, 16)).x_t
        model.denoiser(x_t, torch.tensor([0]), condition, noise=ZeroNoise()).square().sum().backward()
        assert (x_0.grad is not None and bool(x_0.grad.abs().sum() > 0)) is expected


def test_padding_as_a_class_is_a_switch() -> None:
    torch.manual_seed(0)
    with_padding = tiny_model(lambda_mean=0.0, lambda_std=0.0)
    without = tiny_model(lambda_mean=0.0, lambda_std=0.0, ce_include_padding=False)
    without.load_state_dict(with_padding.state_dict())
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        scores = with_padding.full_sort_predict(batch)
        rows, targets = torch.arange(5), torch.tensor(TARGETS)
        all_classes = (scores.logsumexp(1) - scores[rows, targets]).mean()
        items_only = (scores[:, 1:].logsumexp(1) - scores[rows, targets]).mean()
        assert float(with_padding.calculate_loss(batch)) == pytest.approx(float(all_classes), abs=1e-5)
        assert float(without.calculate_loss(batch)) == pytest.approx(float(items_only), abs=1e-5)


def test_reverse_steps_and_validation_steps() -> None:
    torch.manual_seed(0)
    model = tiny_model(num_steps=8, reverse_steps=4, valid_reverse_steps=1)
    calls: list[int] = []
    forward = model.denoiser.forward

    def counted(*args: object, **kwargs: object) -> Tensor:
        calls.append(1)
        return forward(*args, **kwargs)

    model.denoiser.forward = counted  # type: ignore[method-assign,assignment]
    batch = interaction([[3, 4]], [9])
    with torch.no_grad():
        model.user_vectors(batch)
        assert len(calls) == 4
        model.validating = True
        model.user_vectors(batch)
    assert len(calls) == 5


def test_blocks_that_are_computed_again_change_nothing_but_what_is_kept() -> None:
    rows = interaction([[1, 2, 3], [4, 5], [6, 7, 8, 9]], [5, 6, 7])
    found = {}
    for choice in ("never", "always"):
        torch.manual_seed(0)
        model = tiny_model(activation_checkpointing=choice, dropout_prob=0.3, n_layers=3).train()
        kept: list[int] = []

        def keep(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model.calculate_loss(rows)
        loss.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        found[choice] = (loss, gradients, torch.rand(3), sum(kept))
    (loss, gradients, drawn, kept_all), (again, gradients_again, drawn_again, kept_less) = found.values()
    assert torch.equal(loss, again) and torch.equal(drawn, drawn_again)
    assert all(torch.equal(gradient, gradients_again[name]) for name, gradient in gradients.items())
    assert kept_less < kept_all / 2


@pytest.mark.parametrize(
    ("loss", "choice", "again"),
    [("full", "auto", False), ("chunked", "auto", True), ("chunked", "never", False), ("sampled", "always", True)],
)
def test_blocks_are_computed_again_where_the_loss_spares_memory(loss: str, choice: str, again: bool) -> None:
    assert tiny_model(loss=loss, activation_checkpointing=choice).denoiser.recompute is again


def test_gru_reads_the_order() -> None:
    torch.manual_seed(0)
    model = tiny_model(lambda_std=0.0, approximator="gru", n_layers=1)
    assert (reconstruct(model, [[3, 9, 4, 7]]) - reconstruct(model, [[9, 3, 4, 7]])).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_heads": 3}, "hidden_size 16 is not a multiple of n_heads 3"),
        ({"noise_schedule": "trunclin"}, "trunc_lin"),
        ({"noise_schedule": "linear_scaled"}, "num_steps"),
        ({"noise_schedule": "eq14"}, "eq14_a"),
        ({"step_sampler": "unifrom"}, "uniform"),
        ({"noise": "gausian"}, "use gaussian"),
        ({"reverse_sampler": "dim"}, "use grid, ddpm, ddim, dpm_solver_pp"),
        ({"mask_mode": "none"}, "mask_mode"),
        ({"reverse_noise": "sqrt"}, "reverse_noise"),
        ({"lambda_std": -1.0}, "lambda_std"),
        ({"reverse_steps": 9}, "^reverse_steps is 9"),
        ({"valid_reverse_steps": 40}, r"^valid_reverse_steps is 40; it must lie in 1\.\.8"),
        ({"reverse_eta": 2.0}, "^reverse_eta is 2"),
        ({"activation_checkpointing": "always", "approximator": "gru"}, "activation_checkpointing is always, but"),
    ],
)
def test_wrong_values_name_the_key(keys: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        tiny_model(**keys)


def test_a_users_own_parts() -> None:
    model = tiny_model(
        noise_schedule="tests.models.own_parts:halving_schedule",
        step_sampler="tests.models.own_parts:FirstStep",
        noise="tests.models.own_parts:NoNoise",
        reverse_sampler="tests.models.own_parts:Identity",
    )
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():  # the sampler returns its start, which the rows' noise gives
        start = model.evaluation_noise(batch).normal((5, 16), device="cpu")
        torch.testing.assert_close(model.user_vectors(batch)[:, 0], start)
    assert float(model.noise.normal((2, 3), device="cpu").abs().sum()) == 0.0
    torch.testing.assert_close(model.process.schedule.alpha_bar[0], torch.tensor(0.5))
    model.train()
    loss = model.calculate_loss(interaction(ROWS, TARGETS))
    assert bool(torch.isfinite(loss))


def test_evaluation_noise_is_the_rows_own() -> None:
    model = tiny_model()
    noise = model.evaluation_noise(interaction(ROWS, TARGETS))
    assert isinstance(noise, RowNoise)
    assert len(noise) == len(ROWS)
