"""DMI: what its equations imply, where gradients stop, and that it is its base where the diffusion has no say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_diffusion.config import RunConfig
from recbole_diffusion.diffusion.noise import RowNoise, ZeroNoise
from recbole_diffusion.errors import UserError
from recbole_diffusion.losses.negatives import Negatives
from recbole_diffusion.models.comirec_dr import ComiRecDR
from recbole_diffusion.models.comirec_sa import ComiRecSA
from recbole_diffusion.models.dmi import DMI
from recbole_diffusion.models.remi import REMI

from .tiny import Items, interaction

TINY = {"hidden_size": 16, "n_negatives": 30, "MAX_ITEM_LIST_LENGTH": 8, "use_gpu": False}
ROWS = [[3, 9, 4], [7], [1, 2, 3, 4, 5, 6, 7, 8], [11, 12], [20, 21, 22, 23, 24, 25]]
TARGETS = [5, 6, 7, 8, 9]
HISTORY_ITEMS = sorted({item for row in ROWS for item in row})
BASES = {"remi": REMI, "comirec_sa": ComiRecSA, "comirec_dr": ComiRecDR}
# targets apart from every history, so that a gradient on a history item came through the history
APART = [40, 41, 42, 43, 44]
OUTSIDE = torch.arange(31, 40)


def build(model_class: Any = DMI, items: int = 51, **keys: Any) -> Any:
    """A model over `items` ids (padding included) in evaluation mode; weights follow from torch's seed."""
    torch.manual_seed(0)
    config = RunConfig(model_class.__name__, "tiny", (), {**TINY, **keys})
    return model_class(config, Items(items)).eval()


class FixedNegatives:
    """The same negatives at every call."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __call__(self, targets: Tensor, n_items: int, places: Tensor | None = None) -> Negatives:
        return Negatives(self.ids)


def with_fixed_negatives(model: Any, ids: Tensor | None = None) -> Any:
    model.objective.sampler = FixedNegatives(torch.arange(1, 51) if ids is None else ids)
    return model


def gradients(model: Any, term: str, rows: list[list[int]] = ROWS, targets: list[int] = APART) -> dict[str, float]:
    """Largest gradient of one term of the loss by parameter; of the item table, that of the histories' rows."""
    model.zero_grad()
    with_fixed_negatives(model, OUTSIDE)
    torch.manual_seed(1)
    model.losses(interaction(rows, targets))[term].backward()
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            found[name] = 0.0
        else:
            assert bool(parameter.grad.isfinite().all()), name
            part = parameter.grad[HISTORY_ITEMS] if name == "item_embedding.weight" else parameter.grad
            found[name] = float(part.abs().max())
    return found


def reached(found: dict[str, float], start: str) -> set[bool]:
    return {value > 0 for name, value in found.items() if name.startswith(start)}


# Where gradients stop ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("denoiser", ["transformer", "mlp"])
def test_the_reconstruction_trains_the_denoiser_alone(base: str, denoiser: str) -> None:
    initialisation = "kaiming_per_item" if base == "comirec_dr" else "kaiming"
    model = build(base=base, denoiser=denoiser, initialisation=initialisation)
    found = gradients(model, "reconstruction")
    assert reached(found, "item_embedding") == {False}
    assert reached(found, "extractor") == {False}
    assert reached(found, "refinement.denoiser") == {True}
    assert (
        float(model.item_embedding.weight.grad.abs().sum() if model.item_embedding.weight.grad is not None else 0) == 0
    )


def test_ranking_trains_denoiser_and_extractor() -> None:
    found = gradients(build(), "ranking")
    assert {value > 0 for value in found.values()} == {True}


def test_routing_trains_the_extractor_alone() -> None:
    found = gradients(build(), "routing")
    assert reached(found, "extractor") == {True}
    assert reached(found, "refinement") == {False}


def test_with_eta_one_the_extractor_gets_nothing_from_ranking() -> None:
    """z is then the restored vector alone, whose inputs are all constants of the extractor."""
    found = gradients(build(fusion_weight=1.0), "ranking")
    assert reached(found, "extractor") == {False}
    assert reached(found, "item_embedding") == {False}
    assert reached(found, "refinement.denoiser") == {True}


@pytest.mark.parametrize(
    ("detach_condition", "by_ranking", "by_reconstruction"),
    [("always", False, False), ("reconstruction", True, False), ("never", True, True)],
)
def test_which_loss_reaches_the_items_through_the_condition(
    detach_condition: str, by_ranking: bool, by_reconstruction: bool
) -> None:
    """eta = 1 and a detached interest leave the condition as the only way to the histories' items."""
    model = build(fusion_weight=1.0, detach_condition=detach_condition)
    assert reached(gradients(model, "ranking"), "item_embedding") == {by_ranking}
    assert reached(gradients(model, "reconstruction"), "item_embedding") == {by_reconstruction}
    assert reached(gradients(model, "reconstruction"), "extractor") == {False}


def test_through_the_condition_only_kept_items_are_reached() -> None:
    model = build(fusion_weight=1.0, detach_condition="never", keep_ratio=0.4, n_interests=1)
    row = [1, 2, 3, 4, 5, 6, 7, 8]
    batch = interaction([row], [40])
    weights = model.interests(batch)[1].weights[0, 0]
    kept = {row[place] for place in weights.argsort(descending=True)[:4].tolist()}  # ceil(0.4 * 8) = 4
    with_fixed_negatives(model, OUTSIDE)
    model.losses(batch)["ranking"].backward()
    touched = set(model.item_embedding.weight.grad.abs().sum(1).nonzero().flatten().tolist())
    assert touched & set(row) == kept


def test_without_detaching_both_losses_reach_everything() -> None:
    """-GD of Table 3: nothing is detached, and z is the restored vector alone."""
    model = build(detach_interest=False, detach_condition="never", fusion_weight=1.0)
    for term in ("ranking", "reconstruction"):
        assert {value > 0 for value in gradients(model, term).values()} == {True}, term


# What is left where the diffusion has no say ------------------------------------------------------------------------


def copied_base(base: str, **keys: Any) -> tuple[Any, Any]:
    """DMI and its base with the same weights and the same negatives."""
    initialisation = "kaiming_per_item" if base == "comirec_dr" else "kaiming"
    model = with_fixed_negatives(build(base=base, initialisation=initialisation, **keys))
    plain = with_fixed_negatives(build(BASES[base], initialisation=initialisation))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name  # drawn in the same order
    return model, plain


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("keys", [{"fusion_weight": 0.0}, {"diffusion": False}], ids=["eta=0", "-diff"])
def test_it_is_its_base(base: str, keys: dict[str, Any]) -> None:
    model, plain = copied_base(base, **keys)
    batch = interaction(ROWS, TARGETS)
    terms, expected = model.losses(batch), plain.losses(batch)
    terms.pop("reconstruction", None)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(terms[name], value), name
    with torch.no_grad():
        assert torch.equal(model.full_sort_predict(batch), plain.full_sort_predict(batch))


def test_without_diffusion_there_is_no_denoiser() -> None:
    model = build(diffusion=False)
    assert not [name for name, _ in model.named_parameters() if "refinement" in name]
    with pytest.raises(ValueError, match="diffusion is False"):
        model.reconstruction(interaction(ROWS, TARGETS), torch.zeros(5, dtype=torch.long))


def test_the_regulariser_belongs_to_remi() -> None:
    batch = interaction(ROWS, TARGETS)
    assert list(build(base="remi").losses(batch)) == ["ranking", "routing", "reconstruction"]
    assert list(build(base="comirec_sa").losses(batch)) == ["ranking", "reconstruction"]
    assert list(build(base="remi", routing_weight=0.0).losses(batch)) == ["ranking", "reconstruction"]


def test_hard_negatives_belong_to_remi() -> None:
    batch = interaction(ROWS, TARGETS)
    values = {}
    for base in ("remi", "comirec_sa"):
        for hardness in (0.0, 10.0):
            model = with_fixed_negatives(build(base=base, hardness=hardness, diffusion=False))
            values[base, hardness] = float(model.losses(batch)["ranking"].detach())
    assert values["remi", 10.0] > values["remi", 0.0] + 0.01
    assert values["comirec_sa", 10.0] == values["comirec_sa", 0.0] == pytest.approx(values["remi", 0.0], rel=1e-6)


# Losses by hand ------------------------------------------------------------------------------------------------------


def test_terms_written_out() -> None:
    """Eq. 7, 13, 14, 18 and 19 on one row, the denoiser taken as it is."""
    model = with_fixed_negatives(build(base="comirec_sa", fusion_weight=0.3, reconstruction_weight=7.0))
    noise = torch.randn(1, 16)
    model.refinement.noise = _Given(noise)
    model.step_sampler = _AlwaysSlot(4)
    batch = interaction([[3, 9, 4, 8, 2]], [40])
    with torch.no_grad():
        terms = model.losses(batch)
        items, interests = model.interests(batch)
        target = model.item_embedding.weight[40]
        best = int((interests.vectors[0] @ target).argmax())
        v = interests.vectors[0, best]
        bar = float(model.refinement.process.schedule.alpha_bar[4])
        x_t = bar**0.5 * v + (1 - bar) ** 0.5 * noise[0]
        keep = torch.zeros(1, 1, 8, dtype=torch.bool)
        keep[0, 0, interests.weights[0, best].argsort(descending=True)[:2]] = True  # ceil(0.4 * 5)
        denoiser = model.refinement.denoiser
        restored = denoiser(x_t[None, None], torch.tensor([4]), denoiser.prepare(items, keep), noise=ZeroNoise())[0, 0]
        z = 0.3 * restored + 0.7 * v
        logits = torch.cat([(z @ target)[None], model.item_embedding.weight[1:51] @ z])
    torch.testing.assert_close(terms["reconstruction"], 7.0 * (restored - v).norm(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms["ranking"], logits.logsumexp(0) - logits[0], rtol=1e-5, atol=1e-6)


class _Given:
    """Noise that is given."""

    per_row = False

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def normal(self, shape: Any, *, device: Any, dtype: Any = torch.float32, lengths: Any = None) -> Tensor:
        assert tuple(shape) == tuple(self.noise.shape)
        return self.noise


class _AlwaysSlot:
    """One slot for every row."""

    def __init__(self, slot: int) -> None:
        self.slot = slot

    def sample(self, n: int, *, device: Any, generator: Any = None) -> tuple[Tensor, Tensor]:
        return torch.full((n,), self.slot), torch.ones(n)

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Nothing."""


def test_the_last_step_alone_may_train() -> None:
    model = build(step_sampler="last")
    seen: list[Tensor] = []
    restore = model.refinement.restore
    model.refinement.restore = lambda *arguments: seen.append(arguments[-1]) or restore(*arguments)
    model.losses(interaction(ROWS, TARGETS))
    assert seen[0].tolist() == [9] * 5


# Inference -----------------------------------------------------------------------------------------------------------


def loop_over_interests(model: Any, batch: Any, noise: Callable[[int], Any]) -> Tensor:
    """Algorithm 2 as printed: one interest after the other, keys and values projected in every step."""
    refinement = model.refinement
    process, eta = refinement.process, refinement.fusion_weight
    items, interests = model.interests(batch)
    results = []
    for k in range(interests.vectors.shape[1]):
        v, weights = interests.vectors[:, k], interests.weights[:, k]
        kept = torch.zeros(len(v), 1, items.shape[1], dtype=torch.bool)
        for row, n in enumerate(batch["item_length"].tolist()):
            count = max(1, int(-(-(2 * n) // 5)))  # ceil(0.4 n)
            kept[row, 0, weights[row, :n].argsort(descending=True, stable=True)[:count]] = True
        bar = float(process.schedule.tables["alpha_bar"][-1])
        x = bar**0.5 * v + (1 - bar) ** 0.5 * noise(k)
        for t in reversed(range(process.num_steps)):
            condition = refinement.denoiser.prepare(items, kept)
            x_0 = refinement.denoiser(x[:, None], torch.full((len(v),), t), condition, noise=ZeroNoise())[:, 0]
            c1 = float(process.schedule.tables["posterior_mean_coef1"][t])
            c2 = float(process.schedule.tables["posterior_mean_coef2"][t])
            x = c1 * x_0 + c2 * x
        results.append(eta * x + (1 - eta) * v)
    return torch.stack(results, 1)


@pytest.mark.parametrize("denoiser", ["transformer", "mlp"])
@pytest.mark.parametrize("n_interests", [1, 4])
def test_the_chain_of_k_queries_is_algorithm_2(denoiser: str, n_interests: int) -> None:
    model = build(denoiser=denoiser, n_interests=n_interests, num_steps=5)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        drawn = model.evaluation_noise(batch).normal((5, n_interests, 16), device="cpu")
        expected = loop_over_interests(model, batch, lambda k: drawn[:, k])
        torch.testing.assert_close(model.user_vectors(batch), expected, rtol=1e-5, atol=1e-5)


def test_the_history_is_projected_once_a_chain() -> None:
    model = build(num_steps=6)
    calls: list[str] = []
    denoiser = model.refinement.denoiser
    prepare, forward = denoiser.prepare, denoiser.forward
    denoiser.prepare = lambda *arguments: calls.append("prepare") or prepare(*arguments)
    denoiser.forward = lambda *arguments, **keywords: calls.append("step") or forward(*arguments, **keywords)
    with torch.no_grad():
        model.user_vectors(interaction(ROWS, TARGETS))
    assert calls == ["prepare", *["step"] * 6]


def test_scores_are_the_best_of_the_interests() -> None:
    model = build()
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        single = model.predict(batch)
        by_interest = model.user_vectors(batch) @ model.item_embedding.weight.T
    torch.testing.assert_close(scores, by_interest.amax(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(single, scores[torch.arange(5), torch.tensor(TARGETS)], rtol=1e-5, atol=1e-6)
    assert isinstance(model.evaluation_noise(batch), RowNoise)


@pytest.mark.parametrize("keys", [{}, {"reverse_noise": "sqrt_posterior"}, {"base": "comirec_dr"}, {"denoiser": "mlp"}])
def test_a_rows_scores_are_its_own(keys: dict[str, Any]) -> None:
    """Alone, in another order, padded further: the same; another seed: not."""
    if keys.get("base") == "comirec_dr":
        keys = {**keys, "initialisation": "kaiming_per_item"}
    model = build(variance_scale=50.0, **keys)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        together = model.full_sort_predict(batch)
        alone = torch.cat([model.full_sort_predict(interaction([row], [1], len(row))) for row in ROWS])
        turned = model.full_sort_predict(interaction(ROWS[::-1], TARGETS))
        again = model.full_sort_predict(batch)
        model.options = replace(model.options, eval_seed=7)
        other = model.full_sort_predict(batch)
    assert torch.equal(again, together)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(turned.flip(0), together, rtol=1e-5, atol=1e-5)
    assert (other - together).abs().max() > 1e-3


def test_without_start_noise_the_chain_is_deterministic() -> None:
    model = build(start_noise=False, eval_seed=None)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        torch.manual_seed(3)
        first = model.full_sort_predict(batch)
        assert torch.equal(model.full_sort_predict(batch), first)


def test_several_chains_are_averaged_and_few_steps_are_few() -> None:
    model = build(variance_scale=50.0)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        chains = [model.sample_user_vectors(batch, model.evaluation_noise(batch, chain)) for chain in range(3)]
        model.options = replace(model.options, n_eval_samples=3)
        torch.testing.assert_close(model.user_vectors(batch), torch.stack(chains).mean(0), rtol=1e-5, atol=1e-6)
    assert build(reverse_steps=2, reverse_eta=0.0).refinement.sampler.grid == (9, 0)


def test_one_step_back_from_the_first_slot_is_the_denoisers_output() -> None:
    model = build(num_steps=1, fusion_weight=1.0, start_noise=False)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        items, interests = model.interests(batch)
        refinement = model.refinement
        bar = refinement.process.schedule.alpha_bar[0]
        from recbole_diffusion.interests.pruning import kept_items

        condition = refinement.denoiser.prepare(items, kept_items(interests.weights, batch["item_length"], 0.4))
        t = torch.zeros(5, dtype=torch.long)
        expected = refinement.denoiser(bar.sqrt() * interests.vectors, t, condition, noise=ZeroNoise())
        torch.testing.assert_close(model.user_vectors(batch), expected, rtol=1e-6, atol=1e-6)


# Pruning and the rest of the switches --------------------------------------------------------------------------------


def test_items_that_are_pruned_do_not_reach_the_restored_interest() -> None:
    """A change of a pruned item's value alone; the weights, which it also has a part in, are held."""
    model = build(n_interests=2)
    batch = interaction([[1, 2, 3, 4, 5, 6, 7, 8]], [40])
    with torch.no_grad():
        items, interests = model.interests(batch)
        pruned = interests.weights[0].amax(0).argmin()
        assert bool((interests.weights[0].argsort(descending=True)[:, :4] != pruned).all())
        moved = items.clone()
        moved[0, pruned] += 100.0
        chain = [
            model.refinement.chain(
                interests.vectors,
                model.refinement.condition(interests, tokens, batch["item_length"]),
                noise=ZeroNoise(),
            )
            for tokens in (items, moved)
        ]
    torch.testing.assert_close(chain[1], chain[0], rtol=0, atol=0)


def test_without_pruning_every_item_is_seen() -> None:
    batch = interaction([[1, 2, 3, 4, 5, 6, 7, 8], [7]], [40, 41])
    all_kept, half, same = build(keep_ratio=1.0), build(keep_ratio=0.4), build(keep_ratio=0.999)
    with torch.no_grad():
        scores = [model.full_sort_predict(batch) for model in (all_kept, half, same)]
    torch.testing.assert_close(scores[2], scores[0], rtol=0, atol=0)  # ceil(0.999 * 8) = 8
    assert (scores[1][0] - scores[0][0]).abs().max() > 1e-4
    torch.testing.assert_close(
        scores[1][1], scores[0][1], rtol=1e-6, atol=1e-6
    )  # of one item there is nothing to prune


@pytest.mark.parametrize(
    "keys",
    [
        {"denoiser": "mlp"},
        {"norm": "post"},
        {"query_residual": False},
        {"final_norm": True},
        {"step_input": "add_to_query"},
        {"n_layers": 2},
        {"hidden_act": "relu"},
        {"rescale_steps": False},
        {"noise_schedule": "linear"},
        {"variance_scale": 2.0},
        {"first_beta": 1e-5},
        {"base": "comirec_dr", "initialisation": "kaiming_per_item"},
        {"use_positions": False},
        {"fusion_weight": 0.5},
        {"reverse_noise": "sqrt_posterior"},
    ],
    ids=str,
)
def test_each_switch_changes_the_scores(keys: dict[str, Any]) -> None:
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        torch.testing.assert_close(build().full_sort_predict(batch), build().full_sort_predict(batch), rtol=0, atol=0)
        assert (build(**keys).full_sort_predict(batch) - build().full_sort_predict(batch)).abs().max() > 1e-6


@pytest.mark.parametrize(
    "keys", [{"loss": "full_softmax"}, {"reconstruction_loss": "mse"}, {"detach_weights": True}, {"remove_hits": True}]
)
def test_each_switch_of_the_loss_gives_finite_terms(keys: dict[str, Any]) -> None:
    terms = build(**keys).losses(interaction(ROWS, TARGETS))
    assert all(bool(value.isfinite()) for value in terms.values())


# Schedules -----------------------------------------------------------------------------------------------------------


def schedule(**keys: Any) -> dict[str, Any]:
    return build(**keys).refinement.process.schedule.tables


def test_equation_8_as_printed() -> None:
    """Values computed apart: T = 10, .0001 -> .004, s = 1."""
    tables = schedule()
    variance = 1.0 - tables["alpha_bar"]
    assert variance[0] == pytest.approx(1e-4) and variance[-1] == pytest.approx(4e-3)
    assert variance[1:] - variance[:-1] == pytest.approx([3.9e-3 / 9] * 9)
    assert tables["betas"][1] == pytest.approx(4.33377e-4, rel=1e-5)
    assert tables["posterior_mean_coef1"][[0, 1, 9]] == pytest.approx([1.0, 0.812541, 0.108527], rel=1e-5)
    assert tables["posterior_mean_coef2"][[0, 1, 9]] == pytest.approx([0.0, 0.187459, 0.891473], rel=1e-5)


def test_equation_8_of_beta() -> None:
    """80 steps up to .008: more steps are more noise, as section 4.5.1 says they are."""
    tables = schedule(noise_schedule="linear", num_steps=80, variance_max=0.008)
    assert tables["betas"][[0, -1]] == pytest.approx([1e-4, 8e-3])
    assert 1.0 - tables["alpha_bar"][-1] == pytest.approx(0.277381, abs=1e-6)
    assert 1.0 - schedule(num_steps=80)["alpha_bar"][-1] == pytest.approx(4e-3)
    doubled = schedule(noise_schedule="linear", variance_scale=2.0)["betas"]
    assert doubled[[0, -1]] == pytest.approx([2e-4, 8e-3])


@pytest.mark.parametrize("name", ["linear_var", "linear"])
def test_a_single_step_has_all_the_noise(name: str) -> None:
    assert schedule(noise_schedule=name, num_steps=1)["alpha_bar"][0] == pytest.approx(1.0 - 4e-3)


def test_the_first_beta_may_be_given() -> None:
    tables, printed = schedule(first_beta=1e-5), schedule()
    assert tables["betas"][0] == 1e-5
    assert list(tables["betas"][1:]) == list(printed["betas"][1:])


def test_without_variance_nothing_is_noised() -> None:
    """s -> 0 in the forward process: the noised interest is the interest."""
    model = build(variance_scale=1e-12)
    x_0 = torch.randn(4, 16)
    x_t = model.refinement.process.sample(x_0, torch.tensor([0, 3, 6, 9]), noise=torch.randn(4, 16)).x_t
    torch.testing.assert_close(x_t, x_0, rtol=0, atol=1e-5)


def test_a_users_own_schedule() -> None:
    tables = schedule(noise_schedule="tests.models.own_parts:halving_schedule")
    assert tables["alpha_bar"][0] == 0.5


# Copying -------------------------------------------------------------------------------------------------------------


class _Copies(torch.nn.Module):
    """Returns what it is given."""

    def prepare(self, tokens: Tensor, keep: Tensor) -> None:
        return None

    def forward(self, x_t: Tensor, t: Tensor, condition: None, *, noise: Any) -> Tensor:
        return x_t


def test_a_denoiser_that_copies_scores_as_copying() -> None:
    model = build()
    model.refinement.denoiser = _Copies()
    batch = interaction(ROWS, TARGETS)
    found = model.reconstruction(batch, torch.tensor([0, 2, 4, 6, 9]))
    torch.testing.assert_close(found.restored, found.copied, rtol=0, atol=0)
    assert found.copied.shape == (5,)


def test_copying_scores_what_the_noise_is_worth() -> None:
    """E |x_t - x_0| is about sqrt((1 - ab_t) D) where the signal is hardly scaled."""
    model = build(hidden_size=256, n_heads=4)
    rows = [[1 + i % 40, 2 + i % 40] for i in range(200)]
    found = model.reconstruction(interaction(rows, [3] * 200), torch.full((200,), 9))
    assert float(found.copied.mean()) == pytest.approx((4e-3 * 256) ** 0.5, rel=0.02)


def test_training_logs_the_reconstruction_beside_copying(caplog: pytest.LogCaptureFixture) -> None:
    model = build().train()
    with caplog.at_level(logging.INFO, logger="recbole_diffusion.models.interest_refinement"):
        sums = torch.zeros(2)
        for seed in range(3):
            torch.manual_seed(seed)
            terms = model.losses(interaction(ROWS, TARGETS))
            sums[0] += float(terms["reconstruction"].detach()) / 5.0 / 3
        model.eval()
        model.eval()
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert f"{float(sums[0]):.4f}" in message
    assert "left as they are" in message


# Edges ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_the_smallest_data_in_bf16(base: str) -> None:
    """A batch of one row with one item, as many items as interests and one more."""
    model = build(base=base, items=6, n_negatives=3).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(interaction([[2]], [4]))
    loss.backward()
    assert bool(loss.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert bool(model.full_sort_predict(interaction([[2]], [4])).isfinite().all())


@pytest.mark.parametrize(
    "keys", [{}, {"denoiser": "mlp"}, {"base": "comirec_dr", "initialisation": "kaiming_per_item"}]
)
def test_it_overfits_a_few_rows(keys: dict[str, Any]) -> None:
    model = build(dropout_prob=0.0, routing_weight=0.0, n_negatives=50, num_steps=4, **keys).train()
    batch = interaction(ROWS, APART)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert model.full_sort_predict(batch)[:, 1:].argmax(1).add(1).tolist() == APART


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_heads": 3}, "hidden_size 16 is not a multiple of n_heads 3"),
        ({"keep_ratio": 0.0}, "keep_ratio is 0.0"),
        ({"fusion_weight": 1.5}, "fusion_weight is 1.5"),
        ({"n_interests": 0}, "n_interests is 0"),
        ({"dropout_prob": 1.0}, "dropout_prob is 1.0"),
        ({"reconstruction_weight": -1.0}, "reconstruction_weight is -1.0"),
        ({"hardness": -1.0}, "hardness is -1.0"),
        ({"hardness": -1.0, "base": "comirec_sa"}, "hardness is -1.0"),  # which reads none
        ({"variance_max": 0.00001}, "variance"),
        ({"variance_scale": 0.0}, r"variance_scale \* variance_min = 0 to variance_scale \* variance_max = 0;"),
        (
            {"variance_scale": 0.0, "noise_schedule": "linear"},
            r"variance_min = 0 to variance_scale \* variance_max = 0;",
        ),
        ({"variance_max": 0.00001, "noise_schedule": "linear"}, r"variance_min = 0\.0001 to .* = 1e-05;"),
        ({"variance_scale": 250.0, "noise_schedule": "linear"}, r"variance_max = 1;"),
        ({"variance_scale": 0.0, "noise_schedule": "linear", "num_steps": 1}, r"variance_min = 0 to"),
        ({"noise_schedule": "linearvar"}, "linear_var"),
        ({"noise_schedule": "eq14"}, "'eq14' needs eq14_a, eq14_b, for which this model has no key"),
        ({"noise_schedule": "tests.models.own_parts:geometric_schedule"}, "needs beta_start, for which this model"),
        ({"step_sampler": "first"}, "uniform"),
        ({"base": "mind"}, "base"),
        ({"base": "comirec_dr", "initialisation": "glorot"}, "initialisation"),
        ({"initialisation": "normal"}, "initialisation"),
        ({"reverse_steps": 11}, "reverse_steps"),
        ({"detach_condition": "loss"}, "detach_condition"),
    ],
)
def test_wrong_values_name_the_key(keys: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        build(**keys)
