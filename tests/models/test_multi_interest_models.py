"""Properties of ComiRec-SA, ComiRec-DR, MIND, REMI and YouTube DNN that hold for any weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.interests.multi_interest import select_interest
from recbole_diffusion.models.base import EVALUATION_ROW, VectorRecommender
from recbole_diffusion.registry import resolve_model

from .tiny import Items, interaction

NAMES = ("ComiRecSA", "ComiRecDR", "MIND", "REMI", "YouTubeDNN")
ROUTED = ("ComiRecDR", "MIND")
ROWS = [[3, 9, 4], [7], [1, 2, 3, 4, 5, 6, 7, 8], [11, 12], [20, 21, 22, 23, 24, 25]]
TARGETS = [5, 6, 7, 8, 9]
TINY = {"hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "n_negatives": 60, "use_gpu": False}
# near zero is where the port's start of the routing maps leaves them; properties are seen better further off
AWAKE = {"ComiRecDR": {"initialisation": "kaiming_per_item"}}


class CountedItems(Items):
    """Also has the targets of a training set."""

    iid_field = "item_id"

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.inter_feat = {"item_id": torch.tensor([1, 1, 1, 2, 2, 3])}


def tiny(name: str, items: int = 51, **keys: Any) -> VectorRecommender:
    """A small model over `items` ids (padding included) in evaluation mode."""
    torch.manual_seed(0)
    config = RunConfig(name, "tiny", (), {**TINY, **AWAKE.get(name, {}), **keys})
    return resolve_model(name).model_class(config, CountedItems(items)).eval()


def without_grad(model: VectorRecommender, batch: Interaction) -> Tensor:
    with torch.no_grad():
        return model.full_sort_predict(batch)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_best_over_the_interests(name: str) -> None:
    model = tiny(name)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        vectors = model.user_vectors(batch)
        expected = (vectors @ model.item_vectors().T).amax(1)
    assert vectors.shape == (5, 1 if name == "YouTubeDNN" else 4, 16)
    torch.testing.assert_close(without_grad(model, batch), expected)
    with torch.no_grad():
        entries = expected[torch.arange(5), torch.tensor(TARGETS)]
        torch.testing.assert_close(model.predict(batch), entries)


@pytest.mark.parametrize("name", ["ComiRecSA", "ComiRecDR", "MIND", "REMI"])
def test_one_interest_needs_no_choice(name: str) -> None:
    model = tiny(name, n_interests=1, loss="full_softmax")
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        ranking = model.losses(batch)["ranking"]
        vectors = model.user_vectors(batch)  # MIND's random start does not matter: softmax over one interest is 1
        scores = vectors[:, 0] @ model.item_vectors()[1:].T
        expected = torch.nn.functional.cross_entropy(scores, torch.tensor(TARGETS) - 1)
    torch.testing.assert_close(ranking, expected)


def test_the_best_over_interests_ranks_as_the_merged_lists_of_the_codes() -> None:
    """The published codes take the top N of every interest, sort the union by score and drop repeats."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(50):
        scores = torch.randn(4, 40, generator=generator)[:, 1:]  # padding out before the search, not after it
        top = scores.topk(10)
        merged = sorted(zip(top.values.flatten().tolist(), top.indices.flatten().tolist(), strict=True), reverse=True)
        listed = list(dict.fromkeys(item for _, item in merged))[:10]
        assert listed == scores.amax(0).topk(10).indices.tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("softmax", ["interest", "item"])
def test_padding_and_the_batch_do_not_matter(name: str, softmax: str) -> None:
    keys = {"routing_softmax": softmax} if name in ROUTED else {}
    model = tiny(name, **keys)
    whole = without_grad(model, interaction(ROWS, TARGETS))
    one_by_one = torch.cat(
        [without_grad(model, interaction([row], [1], length=len(row))) for row in ROWS]  # trimmed to the row
    )
    torch.testing.assert_close(one_by_one, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softmax", ["interest", "item"])
def test_routing_over_items_depends_on_the_padded_length(softmax: str) -> None:
    """`item`: padding takes softmax mass. `interest`: it does not."""
    short, long = (tiny("ComiRecDR", routing_softmax=softmax, MAX_ITEM_LIST_LENGTH=length) for length in (3, 8))
    maps = dict(long.state_dict())
    maps["extractor.votes"] = maps["extractor.votes"][:3]
    short.load_state_dict(maps)
    batch = interaction([[3, 9, 4], [7]], [1, 1], length=3)
    apart = (without_grad(short, batch) - without_grad(long, batch)).abs().max()
    assert (apart < 1e-5) == (softmax == "interest")


@pytest.mark.parametrize(
    ("name", "keys", "sees_order"),
    [
        ("ComiRecSA", {}, True),
        ("ComiRecSA", {"use_positions": False}, False),
        ("REMI", {}, True),
        ("ComiRecDR", {}, True),
        ("YouTubeDNN", {}, False),
        ("YouTubeDNN", {"hidden_layers": [7, 5], "bias": True}, False),
    ],
)
def test_who_sees_the_order_of_a_history(name: str, keys: dict[str, Any], sees_order: bool) -> None:
    model = tiny(name, **keys)
    batch = interaction([[3, 9, 4, 7], [7, 4, 9, 3]], [1, 1])
    scores = without_grad(model, batch)
    assert ((scores[0] - scores[1]).abs().max() > 1e-5) == sees_order


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = tiny(name).train()
    loss = model.calculate_loss(interaction(ROWS, TARGETS))
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_overfits_a_few_rows(name: str) -> None:
    keys = {"routing_weight": 0.0} if name == "REMI" else {}
    model = tiny(name, loss="full_softmax", **keys).train()
    targets = torch.tensor([31, 32, 33, 34, 35])  # in no history: an interest made of one item scores that item high
    batch = interaction(ROWS, targets.tolist())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.6  # a squashed vector is shorter than 1, so the routed models cannot reach 0
    with torch.no_grad():  # only the interest that the target picks is trained; others may score other items higher
        _, user = select_interest(model.eval().user_vectors(batch), model.item_vectors()[targets])
        assert torch.equal((user @ model.item_vectors().T).argmax(1), targets)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_smallest_cases_are_finite(name: str, precision: torch.dtype) -> None:
    """A batch of one, a history of one item, a catalogue of K + 1 items; also with all item vectors at zero."""
    for std in (None, 0.0):
        model = tiny(name, items=6, item_init_std=std, n_interests=4) if name != "YouTubeDNN" else tiny(name, items=6)
        model.train()
        batch = interaction([[2]], [3])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = model.calculate_loss(batch)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        assert torch.isfinite(without_grad(model.eval(), batch)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampler", ["uniform", "log_uniform", "in_batch"])
@pytest.mark.parametrize("correction", [False, True])
def test_every_sampler_trains(name: str, sampler: str, correction: bool) -> None:
    model = tiny(name, negative_sampler=sampler, log_q_correction=correction, remove_hits=True).train()
    loss = model.calculate_loss(interaction(ROWS, TARGETS))
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", NAMES)
def test_sampling_every_item_is_the_full_softmax(name: str) -> None:
    keys = {"hardness": 0.0} if name == "REMI" else {}
    if name == "MIND":
        keys = {"routing_init": "fixed"}
    full = tiny(name, loss="full_softmax", **keys)
    sampled = tiny(name, negative_sampler="log_uniform", n_negatives=50, remove_hits=True, **keys)
    sampled.load_state_dict(full.state_dict())
    batch = interaction(ROWS, TARGETS)
    torch.testing.assert_close(full.losses(batch)["ranking"], sampled.losses(batch)["ranking"])


def test_remi_without_its_additions_is_comirec_sa() -> None:
    remi, base = tiny("REMI", hardness=0.0, routing_weight=0.0), tiny("ComiRecSA")
    base.load_state_dict(remi.state_dict())
    batch = interaction(ROWS, TARGETS)
    torch.manual_seed(3)
    first = remi.losses(batch)
    torch.manual_seed(3)
    second = base.losses(batch)
    assert list(first) == ["ranking"]
    torch.testing.assert_close(first["ranking"], second["ranking"])
    torch.testing.assert_close(without_grad(remi, batch), without_grad(base, batch))


def test_remis_routing_term_written_out() -> None:
    batch = interaction(ROWS, TARGETS)
    model = tiny("REMI", routing_weight=3.0)
    weights = torch.zeros(5, 4, 8)
    with torch.no_grad():
        weights[:] = model.interests(batch).weights  # type: ignore[operator]
    lengths = torch.tensor([len(row) for row in ROWS])

    def penalty(centre: str) -> float:
        total = 0.0
        for row in range(5):
            n = 8 if centre == "padded" else int(lengths[row])
            for attention in weights[row]:
                c = attention[:n] - attention[:n].mean()
                total += float((c @ c / 16) ** 2)
        return total

    assert float(model.losses(batch)["routing"].detach()) == pytest.approx(3 * penalty("padded"), rel=1e-4)
    mean = tiny("REMI", routing_weight=3.0, routing_reduction="mean")
    assert float(mean.losses(batch)["routing"].detach()) == pytest.approx(3 * penalty("padded") / 5, rel=1e-4)
    items = tiny("REMI", routing_weight=3.0, routing_centre="items")
    assert float(items.losses(batch)["routing"].detach()) == pytest.approx(3 * penalty("items"), rel=1e-4)
    trimmed = interaction(ROWS[:2], TARGETS[:2], length=3)
    padded = interaction(ROWS[:2], TARGETS[:2], length=8)
    torch.testing.assert_close(model.losses(trimmed)["routing"], model.losses(padded)["routing"])


def test_mind_reads_out_the_best_interest_or_a_mixture() -> None:
    batch = interaction(ROWS, TARGETS)
    losses = {}
    for power in ("max", 0, 1, 2):
        model = tiny("MIND", routing_init="fixed", loss="full_softmax", label_attention_power=power)
        losses[power] = float(model.losses(batch)["ranking"].detach())
    assert len({round(loss, 5) for loss in losses.values()}) == 4
    model = tiny("MIND", routing_init="fixed", loss="full_softmax")
    with torch.no_grad():
        vectors = model.user_vectors(batch)
        targets = torch.tensor(TARGETS)
        best = (vectors @ model.item_vectors()[targets][:, :, None]).squeeze(2).argmax(1)
        scores = vectors[torch.arange(5), best] @ model.item_vectors()[1:].T
        expected = torch.nn.functional.cross_entropy(scores, targets - 1)
    assert losses["max"] == pytest.approx(float(expected), rel=1e-5)


def test_minds_start_belongs_to_the_row() -> None:
    model = tiny("MIND")
    twice = interaction([[3, 9, 4], [3, 9, 4]], [1, 1])
    by_history = without_grad(model, twice)
    torch.testing.assert_close(by_history[0], by_history[1])
    twice.interaction[EVALUATION_ROW] = torch.tensor([0, 1])
    by_row = without_grad(model, twice)
    assert (by_row[0] - by_row[1]).abs().max() > 1e-6
    torch.testing.assert_close(without_grad(model, twice), by_row)
    other = tiny("MIND", eval_seed=7)
    assert (without_grad(other, twice) - by_row).abs().max() > 1e-6
    fixed = tiny("MIND", routing_init="fixed")
    scores = without_grad(fixed, twice)
    torch.testing.assert_close(scores[0], scores[1])
    assert "extractor.start" in fixed.state_dict()


def test_mind_without_eval_seed_draws_from_the_global_generator() -> None:
    model = tiny("MIND", eval_seed=None)
    batch = interaction(ROWS, TARGETS)
    torch.manual_seed(1)
    first = without_grad(model, batch)
    second = without_grad(model, batch)
    torch.manual_seed(1)
    torch.testing.assert_close(without_grad(model, batch), first, rtol=0, atol=0)
    assert (second - first).abs().max() > 1e-6


def test_minds_missing_interests_change_no_score() -> None:
    model = tiny("MIND", adaptive_interests=True, routing_init="fixed")
    with torch.no_grad():
        vectors = model.user_vectors(interaction([[7], [1, 2, 3, 4, 5, 6, 7, 8]], [1, 1]))
    torch.testing.assert_close(vectors[0], vectors[0, :1].expand(4, 16))  # one item, one interest
    assert not torch.allclose(vectors[1, 2], vectors[1, 0])  # eight items, three interests
    torch.testing.assert_close(vectors[1, 3], vectors[1, 0])


def test_youtube_is_a_linear_map_of_the_mean() -> None:
    model = tiny("YouTubeDNN", bias=True)
    table = model.item_vectors().detach()
    layer = model.tower[0]  # type: ignore[index]
    mean = table[torch.tensor([3, 9, 4])].mean(0)
    with torch.no_grad():
        expected = layer.weight @ mean + layer.bias
        torch.testing.assert_close(model.user_vectors(interaction([[3, 9, 4]], [1]))[0, 0], expected)
        relu = tiny("YouTubeDNN", hidden_layers=[7, 5])
        assert [type(part).__name__ for part in relu.tower] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]  # type: ignore[union-attr]


def test_youtubes_padding_leaks_on_demand() -> None:
    clean, leaking = tiny("YouTubeDNN"), tiny("YouTubeDNN", pad_leak=True)
    table = clean.item_vectors().detach()
    batch = interaction([[3, 9, 4]], [1], length=3)
    with torch.no_grad():
        expected = clean.tower((table[[3, 9, 4]].sum(0) + 5 * table[0])[None] / 3)  # type: ignore[operator]
        torch.testing.assert_close(leaking.user_vectors(batch)[:, 0], expected)
        assert not torch.allclose(clean.user_vectors(batch)[:, 0], expected)


@pytest.mark.parametrize("name", NAMES)
def test_items_start_at_kaimings_deviation(name: str) -> None:
    table = tiny(name, items=4001).item_vectors()
    assert table.std().item() == pytest.approx(math.sqrt(2 / 16), rel=0.02)
    assert tiny(name, items=4001, item_init_std=0.02).item_vectors().std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("ComiRecSA", {"n_interests": 0}, "n_interests is 0"),
        ("ComiRecSA", {"negative_sampler": "popular"}, "use one of uniform"),
        ("ComiRecSA", {"loss": "bpr"}, "sampled_softmax"),
        ("ComiRecSA", {"initialisation": "normal"}, "kaiming"),
        ("ComiRecSA", {"item_init_std": -1.0}, "item_init_std"),
        ("ComiRecDR", {"routing_softmax": "interests"}, "interest"),
        ("ComiRecDR", {"routing_iterations": 0}, "routing_iterations is 0"),
        ("MIND", {"label_attention_power": 0.5}, "label_attention_power is 0.5"),
        ("REMI", {"hardness": -1.0}, "hardness is -1.0"),
        ("REMI", {"routing_weight": -1.0}, "routing_weight"),
        ("YouTubeDNN", {"hidden_layers": [0]}, "hidden_layers"),
    ],
)
def test_wrong_values_name_the_key(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        tiny(name, **keys)


def test_counts_are_read_only_where_they_are_needed() -> None:
    config = RunConfig("ComiRecSA", "tiny", (), TINY)
    resolve_model("ComiRecSA").model_class(config, Items(51))  # which has no interactions
    with pytest.raises(AttributeError):
        resolve_model("ComiRecSA").model_class(
            RunConfig("ComiRecSA", "tiny", (), {**TINY, "negative_sampler": "log_uniform"}), Items(51)
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dataset", "length"), [("amazon-beauty", 20), ("gowalla", 40), ("amazon-books", 20)])
def test_paper_settings(name: str, dataset: str, length: int) -> None:
    config = RunConfig(name, dataset, (), {"preset": "paper"})
    assert (config["protocol"], config["one_cut_per_user"], config["valid_metric"]) == (
        "user_split_multi",
        False,
        "Recall@50",
    )
    assert (config["MAX_ITEM_LIST_LENGTH"], config["train_batch_size"], config["hidden_size"]) == (length, 128, 64)
    stop = {"amazon-beauty": 20, "gowalla": 10, "amazon-books": 5}[dataset]  # the code's 50 of 200 to 1,000 iterations
    assert (config["n_negatives"], config["stopping_step"]) == (10 * 128, stop)
    if name in ROUTED:
        assert config["routing_softmax"] == ("interest" if dataset == "amazon-books" else "item")
    if name == "REMI":
        assert (config["hardness"], config["routing_weight"]) == ({"amazon-books": 10.0}.get(dataset, 1.0), 100.0)
    elif dataset == "amazon-books":  # ComiRec's own code
        assert (config["negative_sampler"], config["log_q_correction"], config["remove_hits"]) == (
            "log_uniform",
            True,
            True,
        )
