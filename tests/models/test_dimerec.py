"""Properties of DimeRec that hold for any weights, and its loss against a plain transcription of Algorithm 1."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional

from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.models.comirec_sa import ComiRecSA
from recbole_diffusion.models.dimerec import DimeRec
from recbole_diffusion.models.dimerec_options import DimeRecOptions

from .tiny import Items, interaction

ROWS = [[3, 9, 4], [7], [1, 2, 3, 4, 5, 6, 7, 8], [11, 12], [20, 21, 22, 23, 24, 25]]
TARGETS = [5, 6, 7, 8, 9]
TINY = {"hidden_size": 16, "denoiser_hidden_sizes": [24], "MAX_ITEM_LIST_LENGTH": 8, "use_gpu": False}
EXTRACTORS = ("sa", "dr", "rule", "sasrec", "mlp")


def tiny(items: int = 51, **keys: Any) -> DimeRec:
    """A small DimeRec over `items` ids (padding included) in evaluation mode."""
    torch.manual_seed(0)
    own = {"item_init_std": 0.3, "negatives": "per_row", "n_negatives": 10, **TINY, **keys}
    return DimeRec(RunConfig("DimeRec", "tiny", (), own), Items(items)).eval()


def like(model: DimeRec, **keys: Any) -> DimeRec:
    """The same weights under other keys."""
    other = tiny(model.n_items, **keys)
    other.load_state_dict(model.state_dict())
    return other


def scores(model: DimeRec, rows: list[list[int]] = ROWS) -> Tensor:
    with torch.no_grad():
        return model.full_sort_predict(interaction(rows, [1] * len(rows)))


def gradients(model: DimeRec) -> dict[str, bool]:
    """Which parameters get a gradient from the training loss."""
    model.train()
    torch.manual_seed(1)
    model.calculate_loss(interaction(ROWS, TARGETS)).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    return {name: p.grad is not None and bool(p.grad.any()) for name, p in model.named_parameters()}


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_algorithm_1() -> None:
    """Eq. 16 to 23 and Algorithm 1 in plain operations, with the draws of the model."""
    model = tiny(reconstruction_weight=0.3, ranking_weight=2.0).train()
    batch, targets = interaction(ROWS, TARGETS), torch.tensor(TARGETS)
    torch.manual_seed(7)
    ours = model.losses(batch)
    torch.manual_seed(7)
    t = torch.randint(20, (5,))
    epsilon = torch.randn(5, 16)
    negatives = torch.randint(1, 51, (5, 10))

    table = model.item_embedding.weight
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 20, dtype=torch.float64), 0).float()
    totals = torch.zeros(3)
    for row, history in enumerate(ROWS):
        h = table[history]
        read = torch.tanh((h + model.extractor.positions[: len(history)]) @ model.extractor.hidden.weight.T)
        attention = (read @ model.extractor.attention.weight.T).softmax(0)
        g = attention.T @ h
        e_a = table[targets[row]]
        g_u = g[(g @ e_a).argmax()]
        x_0 = e_a / e_a.norm()
        v = (epsilon[row] - (epsilon[row] @ x_0) * x_0) * (1 - alpha_bar[t[row]]).sqrt()
        x_t = v.norm().cos() * x_0 + v.norm().sin() * v / v.norm()
        step = model.denoiser.step_embedding(t[row : row + 1])[0]
        denoiser = model.denoiser
        weight = torch.cat([denoiser.of_x.weight, denoiser.of_guidance.weight, denoiser.of_step.weight], dim=1)
        hidden = functional.gelu(weight @ torch.cat([x_t, g.flatten(), step]) + denoiser.of_step.bias)
        x_0_hat = denoiser.rest[0](hidden[None])[0]
        x_0_hat = x_0_hat / x_0_hat.norm()
        others = [i for i in negatives[row].tolist() if i not in history and i != TARGETS[row]]
        classes = table[[TARGETS[row], *others]]
        totals[0] -= (classes @ g_u).log_softmax(0)[0] / 5
        totals[1] += 0.3 * (x_0 - x_0_hat).square().sum() / 5
        totals[2] -= 2.0 * (classes @ x_0_hat).log_softmax(0)[0] / 5
    assert list(ours) == ["guidance", "reconstruction", "ranking"]
    torch.testing.assert_close(torch.stack(list(ours.values())), totals, rtol=1e-5, atol=1e-5)


def test_without_the_diffusion_terms_it_is_comirec() -> None:
    model = tiny(reconstruction_weight=0.0, ranking_weight=0.0, negatives="shared", n_negatives=30).train()
    keys = {"hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "n_negatives": 30, "remove_hits": True, "use_gpu": False}
    comirec = ComiRecSA(RunConfig("ComiRecSA", "tiny", (), keys), Items(51)).train()
    names = comirec.state_dict()
    comirec.load_state_dict({name: value for name, value in model.state_dict().items() if name in names})
    batch = interaction(ROWS, TARGETS)
    torch.manual_seed(3)
    expected = comirec.calculate_loss(batch)
    torch.manual_seed(3)
    loss = model.calculate_loss(batch)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.denoiser.parameters())
    expected.backward()
    torch.testing.assert_close(model.item_embedding.weight.grad, comirec.item_embedding.weight.grad)
    torch.testing.assert_close(scores(like(model, rank_by="guidance")), scores(comirec))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "terms"),
    [
        ({"guidance_weight": 0.0}, ["reconstruction", "ranking"]),
        ({"reconstruction_weight": 0.0}, ["guidance", "ranking"]),
        ({"ranking_weight": 0.0}, ["guidance", "reconstruction"]),
        ({"guidance_weight": 0.0, "reconstruction_weight": 0.0}, ["ranking"]),
        ({"guidance_weight": 0.0, "reconstruction_weight": 0.0, "noise_space": "euclidean"}, ["ranking"]),
        ({"guidance_weight": 0.0, "ranking_weight": 0.0}, ["reconstruction"]),
    ],
)
def test_ablations_leave_terms_out_and_still_train_everything(keys: dict[str, Any], terms: list[str]) -> None:
    model = tiny(**keys).train()
    assert list(model.losses(interaction(ROWS, TARGETS))) == terms
    assert all(gradients(model).values())


def test_weights_multiply_their_terms() -> None:
    batch, base = interaction(ROWS, TARGETS), tiny().train()
    torch.manual_seed(5)
    terms = base.losses(batch)
    weighted = like(base, guidance_weight=2.0, reconstruction_weight=0.3, ranking_weight=10.0).train()
    torch.manual_seed(5)
    for (name, loss), factor in zip(weighted.losses(batch).items(), (2.0, 3.0, 10.0), strict=True):
        torch.testing.assert_close(loss, factor * terms[name])


@pytest.mark.parametrize("detach_target", [False, True])
@pytest.mark.parametrize("detach_guidance", [False, True])
def test_detach_switches(detach_target: bool, detach_guidance: bool) -> None:
    """The reconstruction alone reaches the items and the extractor unless both paths are cut."""
    model = tiny(
        guidance_weight=0.0, ranking_weight=0.0, detach_target=detach_target, detach_guidance=detach_guidance
    ).train()
    found = gradients(model)
    assert found["item_embedding.weight"] is not (detach_target and detach_guidance)
    assert found["extractor.hidden.weight"] is not detach_guidance
    assert found["denoiser.of_x.weight"]


def test_unit_items_bound_the_loss_below() -> None:
    """11 classes, unit vectors, no temperature: at best ln(1 + 10 e^-2) = 0.856."""
    model = tiny(normalise_items=True, guidance_weight=0.0, reconstruction_weight=0.0)
    floor = math.log(1 + 10 * math.exp(-2))
    assert floor == pytest.approx(0.856, abs=5e-4)
    table = model.item_vectors()
    torch.testing.assert_close(table.norm(dim=1), torch.ones(51))
    best = model.ranking_losses(
        {"ranking": table[TARGETS]}, torch.tensor(TARGETS), interaction(ROWS, TARGETS)["item_id_list"]
    )
    assert bool((best["ranking"] > floor - 0.3).all())  # fewer than 10 negatives where one was met before
    sharper = like(model, normalise_items=True, temperature=0.1, guidance_weight=0.0, reconstruction_weight=0.0)
    torch.manual_seed(2)
    warm = model.calculate_loss(interaction(ROWS, TARGETS))
    torch.manual_seed(2)
    assert (sharper.calculate_loss(interaction(ROWS, TARGETS)) - warm).abs() > 1e-2


def test_negatives_are_not_of_the_history() -> None:
    """In a catalogue that is the history, the target and one more item, that one is all there is to compare with."""
    model = tiny(5, guidance_weight=0.0, reconstruction_weight=0.0, n_negatives=200)
    vectors, item_seq = torch.randn(1, 16), torch.tensor([[1, 2, 0]])
    loss = model.ranking_losses({"ranking": vectors}, torch.tensor([3]), item_seq)["ranking"]
    torch.manual_seed(0)
    table = model.item_embedding.weight
    target, other = vectors[0] @ table[3], vectors[0] @ table[4]
    counts = ((loss[0].exp() - 1) / (other - target).exp()).item()
    assert counts == pytest.approx(round(counts), abs=1e-3) and 20 < counts < 90


@pytest.mark.parametrize("keys", [{"loss": "full_softmax"}, {"negatives": "shared"}, {"negative_sampler": "in_batch"}])
def test_other_losses_train(keys: dict[str, Any]) -> None:
    assert all(gradients(tiny(**keys)).values())


# --- the parts in the model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_space", ["sphere", "euclidean"])
@pytest.mark.parametrize("guidance", EXTRACTORS)
def test_every_extractor_trains_and_ranks(guidance: str, noise_space: str) -> None:
    model = tiny(guidance=guidance, noise_space=noise_space)
    assert scores(model).shape == (5, 51)
    found = gradients(model)
    assert [name for name, there in found.items() if not there] == []


@pytest.mark.parametrize(
    "keys",
    [
        {"walk_scale": "unit"},
        {"walk_scale": "ddpm_project", "reverse_noise": "sqrt_posterior"},
        {"walk_project": False},
        {"walk_project": False, "walk_renormalise": False},
        {"train_clean_step": True},
        {"step_sampler": "lossaware"},
        {"normalise_prediction": False},
        {"guidance_fusion": "mean"},
        {"guidance_fusion": "attention"},
        {"history_encoder": "sasrec"},
        {"noise_schedule": "cosine"},
        {"denoiser_hidden_sizes": []},
        {"n_interests": 1},
        {"num_steps": 1},
        {"num_steps": 100},
        {"item_init_std": None},
        {"item_init_std": "xavier"},
        {"reverse_noise_space": "tangent"},
    ],
)
def test_every_reading_trains_and_ranks(keys: dict[str, Any]) -> None:
    model = tiny(**keys)
    assert bool(scores(model).isfinite().all())
    assert all(gradients(model).values())


def test_the_item_table_starts_as_told() -> None:
    wide = {"hidden_size": 64}
    for value, std in ((0.5, 0.5), (None, math.sqrt(2 / 64)), ("xavier", math.sqrt(2 / (2001 + 64)))):
        weight = tiny(2001, item_init_std=value, **wide).item_embedding.weight.detach()
        assert float(weight.std()) == pytest.approx(std, rel=0.02)


def test_padding_changes_nothing() -> None:
    model = tiny()
    longer = tiny(MAX_ITEM_LIST_LENGTH=13)
    state = model.state_dict()
    state["extractor.positions"] = torch.cat([state["extractor.positions"], torch.randn(5, 16)])
    longer.load_state_dict(state)
    with torch.no_grad():
        wide = longer.full_sort_predict(interaction(ROWS, TARGETS, length=13))
    torch.testing.assert_close(wide, scores(model), rtol=1e-5, atol=1e-5)


def test_one_interest_is_selected_whatever_the_target() -> None:
    model = tiny(n_interests=1, reconstruction_weight=0.0, ranking_weight=0.0)
    batch = interaction(ROWS, TARGETS)
    vectors = model.guidance_vectors(batch)
    assert vectors.shape == (5, 1, 16)
    torch.manual_seed(4)
    loss = model.calculate_loss(batch)
    torch.manual_seed(4)
    alone = model.ranking_losses({"guidance": vectors[:, 0]}, batch["item_id"], batch["item_id_list"])[
        "guidance"
    ].mean()
    torch.testing.assert_close(loss, alone)


def test_short_histories_by_rule_guide_with_zeros() -> None:
    model = tiny(guidance="rule")
    found = model.guidance(interaction(ROWS, TARGETS))
    inputs = model.denoiser_input(found)
    assert not inputs[1, 1:].any() and bool(inputs[1, 0].any())
    assert (found.vectors[1, 1:] == found.vectors[1, :1]).all()


# --- inference --------------------------------------------------------------------------------------------------------


def counted(model: DimeRec, name: str) -> list[int]:
    """Notes the calls of one of its parts."""
    calls: list[int] = []
    getattr(model, name).register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize(
    ("num_steps", "keys", "expected"),
    [(1, {}, 1), (20, {}, 20), (20, {"reverse_steps": 5}, 5), (20, {"intermediate_steps": 3}, 3)],
)
def test_the_guidance_is_computed_once(num_steps: int, keys: dict[str, Any], expected: int) -> None:
    model = tiny(num_steps=num_steps, **keys)
    extractor, denoiser = counted(model, "extractor"), counted(model, "denoiser")
    scores(model)
    assert (len(extractor), len(denoiser)) == (1, expected)


def test_user_vectors_have_unit_length_and_are_one() -> None:
    with torch.no_grad():
        users = tiny().user_vectors(interaction(ROWS, TARGETS))
    assert users.shape == (5, 1, 16)
    torch.testing.assert_close(users.norm(dim=-1), torch.ones(5, 1))


@pytest.mark.parametrize("factor", [0.2, 30.0])
def test_the_length_of_the_prediction_does_not_matter(factor: float) -> None:
    model = tiny()
    before = scores(model)
    with torch.no_grad():
        model.denoiser.rest[-1].weight.mul_(factor)
        model.denoiser.rest[-1].bias.mul_(factor)
    torch.testing.assert_close(scores(model), before, rtol=1e-5, atol=1e-5)


def test_scores_belong_to_the_row_and_the_seed() -> None:
    model = tiny(reverse_noise="sqrt_posterior", walk_scale="ddpm_project")
    first = scores(model)
    torch.testing.assert_close(scores(model), first, rtol=0, atol=0)
    alone = torch.cat([scores(model, [row]) for row in ROWS])
    torch.testing.assert_close(alone, first, rtol=1e-5, atol=1e-5)
    other = like(model, reverse_noise="sqrt_posterior", eval_seed=1)
    assert (scores(other) - first).abs().max() > 1e-3
    quiet = like(model, reverse_noise="none", rank_by="guidance", eval_seed=1)
    torch.testing.assert_close(scores(quiet), scores(like(model, rank_by="guidance")), rtol=0, atol=0)


def test_the_guidance_alone_ranks_by_its_best_vector() -> None:
    model = tiny(rank_by="guidance")
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        vectors = model.guidance_vectors(batch)
        assert vectors.shape == (5, 4, 16)
        torch.testing.assert_close(scores(model), (vectors @ model.item_embedding.weight.T).amax(1))
        single = model.predict(batch)
    torch.testing.assert_close(single, scores(model)[torch.arange(5), torch.tensor(TARGETS)])


@pytest.mark.parametrize("result", ["state", "prediction"])
def test_a_chain_that_is_cut(result: str) -> None:
    model = tiny()
    whole = scores(model)
    torch.testing.assert_close(scores(like(model, intermediate_steps=20, intermediate_result=result)), whole)
    assert (scores(like(model, intermediate_steps=2, intermediate_result=result)) - whole).abs().max() > 1e-4


def test_predict_is_an_entry_of_full_sort_predict() -> None:
    model = tiny()
    with torch.no_grad():
        single = model.predict(interaction(ROWS, TARGETS))
    torch.testing.assert_close(single, scores(model)[torch.arange(5), torch.tensor(TARGETS)], rtol=1e-5, atol=1e-5)


# --- sizes and precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", EXTRACTORS)
def test_the_smallest_batch_history_and_catalogue(guidance: str) -> None:
    model = tiny(6, guidance=guidance)  # K + 1 items and padding
    with torch.no_grad():
        assert model.full_sort_predict(interaction([[2]], [3])).shape == (1, 6)
    model.train()
    model.calculate_loss(interaction([[2]], [3])).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_zero_item_vectors_do_no_harm() -> None:
    model = tiny(item_init_std=0.0)
    found = gradients(model)
    assert found["denoiser.of_x.weight"] or found["denoiser.rest.0.bias"]


def test_reduced_precision() -> None:
    for guidance in EXTRACTORS:
        model = tiny(guidance=guidance, history_encoder="sasrec").train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.calculate_loss(interaction(ROWS, TARGETS))
            model.eval()
            assert bool(scores(model).isfinite().all())
        loss.backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_it_overfits_a_few_rows() -> None:
    model = tiny(n_negatives=30, walk_scale="unit").train()
    batch, optimizer = interaction(ROWS, TARGETS), torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
    model.eval()
    assert scores(model).argmax(1).tolist() == TARGETS


# --- keys -------------------------------------------------------------------------------------------------------------


def test_every_key_is_an_option_and_every_option_a_key() -> None:
    root = Path(__file__).resolve().parents[2]
    text = (root / "properties" / "model" / "DimeRec.yaml").read_text(encoding="utf-8")
    options = {field.name for field in dataclasses.fields(DimeRecOptions)}
    keys = set(yaml.safe_load(text.partition("# training")[0]))
    assert keys == options


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0"),
        ({"guidance_weight": 0, "reconstruction_weight": 0, "ranking_weight": 0}, "nothing to train"),
        ({"ranking_weight": -1.0}, "ranking_weight is -1"),
        ({"n_interests": 0}, "n_interests is 0"),
        ({"history_encoder": "sasrec", "n_heads": 0}, "n_heads is 0; it must be 1 or more"),
        ({"guidance": "sasrec", "n_heads": -2}, "n_heads is -2; it must be 1 or more"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"dropout_prob": 1.0}, "dropout_prob is 1"),
        ({"guidance": "gru"}, "guidance"),
    ],
)
def test_wrong_values_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(**keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"intermediate_steps": 21}, r"intermediate_steps is 21; it must lie in 1\.\.20"),
        ({"intermediate_steps": 6, "reverse_steps": 5}, r"intermediate_steps is 6; it must lie in 1\.\.5"),
        ({"reverse_eta": 2.0}, "^reverse_eta is 2"),
        ({"initialisation": "glorot", "guidance": "dr"}, "initialisation 'glorot'"),
        ({"walk_scale": "unit", "walk_angle": 4.0}, "walk_angle is 4"),
    ],
)
def test_wrong_values_of_parts_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**keys)
