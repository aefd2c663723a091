"""Metrics of categories and novelty: by hand, pair by pair, and in runs of ours and RecBole's models on real data."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct

from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation import item_categories, item_values
from recbole_diffusion.evaluation.collector import RankCollector
from recbole_diffusion.evaluation.item_categories import (
    CATEGORY_METRICS,
    ItemCategories,
    category_metrics,
    hit_category_union,
)
from recbole_diffusion.evaluation.item_values import novelty, self_information
from recbole_diffusion.evaluation.metrics import Ranking
from recbole_diffusion.evaluation.recbole_metrics import CATEGORIES, OWN_METRICS, Novelty
from recbole_diffusion.quick_start import evaluate, run

A, B, C = 0, 1, 2
SETS: dict[int, set[int]] = {1: {A}, 2: {A, B}, 3: set(), 4: {B}, 5: {C}, 6: {A, B}, 7: set()}


def categories_of(sets: dict[int, set[int]], n_items: int) -> ItemCategories:
    pairs = [(item, number) for item, numbers in sets.items() for number in numbers]
    items, numbers = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return ItemCategories.of(items, numbers, n_items)


def ranking_of(items: list[list[int]], targets: list[list[int]]) -> Ranking:
    flat = np.array([item for row in targets for item in row], dtype=np.int32)
    return Ranking(np.array(items, dtype=np.int32), flat, np.cumsum([0, *map(len, targets)]))


# Row 0 finds 2; row 1, with three items to rank, finds 6 and 5; row 2 finds 3, which has no category; row 3 nothing.
HAND = ranking_of([[1, 2, 3, 4], [2, 6, 5, 0], [3, 0, 0, 0], [3, 7, 1, 2]], [[2, 8], [5, 6], [3], [8]])


@pytest.mark.parametrize(
    ("name", "k", "expected"),
    [
        ("CategoryCount", 1, [1, 2, 0, 0]),
        ("CategoryCount", 2, [2, 2, 0, 0]),
        ("CategoryCount", 4, [2, 3, 0, 2]),
        ("CategoryConcentration", 1, [0, 0, 0, 0]),  # no pair
        ("CategoryConcentration", 2, [1, 0, 0, 0]),  # {a} and {a, b}; the same set; one item; two without category
        # a-ab 1, a-none 1, a-b 2, ab-none 2, ab-b 1, none-b 1; ab-ab 0, ab-c 3 twice; none-none 0, none-a 1 twice,
        # none-ab 2 twice, a-ab 1
        ("CategoryConcentration", 4, [8 / 6, 6 / 3, 0, 7 / 6]),
        ("CategoryDiversity", 1, [0, 0, 0, 0]),
        ("CategoryDiversity", 2, [1, 0, 0, 0]),
        ("CategoryDiversity", 4, [6 / 6, 2 / 3, 0, 5 / 6]),
        ("HitCategoryCount", 1, [0, 0, 0, 0]),
        ("HitCategoryCount", 2, [2, 2, 0, 0]),
        ("HitCategoryCount", 4, [2, 3, 0, 0]),
    ],
)
def test_by_hand(name: str, k: int, expected: list[float]) -> None:
    categories = categories_of(SETS, 9)
    assert category_metrics(HAND, categories, name, [k])[f"{name.lower()}@{k}"].tolist() == pytest.approx(expected)


def test_every_metric_is_tested_by_hand() -> None:
    marks = [mark for mark in test_by_hand.pytestmark if mark.name == "parametrize"]
    assert {case[0] for case in marks[0].args[1]} == set(CATEGORY_METRICS)


def test_categories_of_all_hits_by_hand() -> None:
    found = hit_category_union(HAND, categories_of(SETS, 9), [1, 2, 4])
    assert found == {"hitcategoryunion@1": 0, "hitcategoryunion@2": 2, "hitcategoryunion@4": 3}


def pair_by_pair(items: list[int], sets: dict[int, set[int]]) -> tuple[float, float]:
    """DMI's Eq. 21-23 as they are printed, on vectors of 0 and 1."""
    n = len(items)
    width = 1 + max((number for numbers in sets.values() for number in numbers), default=0)
    vectors = [[int(number in sets[item]) for number in range(width)] for item in items]
    distances = [sum(x != y for x, y in zip(*pair)) for pair in itertools.combinations(vectors, 2)]
    return sum(distances) / (n * (n - 1) / 2), sum(distance > 0 for distance in distances) / (n * (n - 1) / 2)


@pytest.mark.parametrize("most", [1, 4])
def test_equal_to_the_printed_equations(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(most)
    sets = {
        item: set(generator.choice(6, generator.integers(most == 1, most + 1), replace=False).tolist())
        for item in range(1, 30)
    }
    items = np.stack([generator.permutation(np.arange(1, 30))[:12] for _ in range(25)])
    targets = [generator.integers(1, 30, 3).tolist() for _ in range(25)]
    ranking, categories = ranking_of(items.tolist(), targets), categories_of(sets, 30)
    whole = {name: category_metrics(ranking, categories, name, [5, 12]) for name in CATEGORY_METRICS}
    union = hit_category_union(ranking, categories, [5, 12])
    for k in (5, 12):
        expected = [pair_by_pair(row[:k], sets) for row in items.tolist()]
        concentration = whole["CategoryConcentration"][f"categoryconcentration@{k}"]
        diversity = whole["CategoryDiversity"][f"categorydiversity@{k}"]
        assert concentration.tolist() == pytest.approx([one for one, _ in expected])
        assert diversity.tolist() == pytest.approx([one for _, one in expected])
        if most == 1:
            assert concentration.tolist() == pytest.approx((2 * diversity).tolist())
        hits = [set(row[:k]) & set(own) for row, own in zip(items.tolist(), targets)]
        of_hits = [set().union(*(sets[item] for item in own)) for own in hits]
        assert whole["HitCategoryCount"][f"hitcategorycount@{k}"].tolist() == list(map(len, of_hits))
        assert union[f"hitcategoryunion@{k}"] == len(set().union(*of_hits))
    monkeypatch.setattr(item_categories, "ITEMS_AT_ONCE", 40)  # rows are cut, nothing changes
    for name, values in whole.items():
        for key, cut in category_metrics(ranking, categories, name, [5, 12]).items():
            assert cut.tolist() == values[key].tolist()
    assert hit_category_union(ranking, categories, [5, 12]) == union


# novelty --------------------------------------------------------------------------------------------------------------

COUNTS = np.array([0, 8, 4, 2, 2, 0])  # 16 interactions: 1, 2, 3, 3 bits; item 5 is taken to be as rare as 3 and 4


def test_self_information_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    information = self_information(COUNTS)
    assert information[1:].tolist() == [1, 2, 3, 3, 3]
    items = np.array([[1, 2, 5, 4], [2, 3, 0, 0], [3, 1, 2, 4]])
    expected = [[1, 1.5, 9 / 4], [2, 2.5, 2.5], [3, 2, 9 / 4]]
    assert novelty(items, information, [1, 2, 4]).tolist() == expected
    monkeypatch.setattr(item_values, "ROWS_AT_ONCE", 2)
    assert novelty(items, information, [1, 2, 4]).tolist() == expected


def test_novelty_in_recboles_own_evaluator() -> None:
    """RecBole's collector keeps all that it needs."""
    config = config_with(["Novelty"], "Novelty@2", topk=[1, 2])
    struct = DataStruct()
    struct.set("rec.items", torch.tensor([[1, 2], [5, 3]]))
    struct.set("data.count_items", Counter({1: 8, 2: 4, 3: 2, 4: 2}))
    assert Evaluator(config).evaluate(struct) == {"novelty@1": 2.0, "novelty@2": 2.25}


# names ----------------------------------------------------------------------------------------------------------------


def config_with(names: list[str], valid_metric: str, model: str = "DiffuRec", **keys: Any) -> RunConfig:
    return RunConfig(model, "tiny", (), {"metrics": names, "valid_metric": valid_metric, **keys})


@pytest.mark.parametrize("metric", OWN_METRICS, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("model", ["DiffuRec", "SASRec"])
def test_every_name_may_stand_alone(metric: type, model: str) -> None:
    config = config_with([metric.__name__.lower()], f"{metric.__name__}@10", model)
    assert config["valid_metric_bigger"] is (metric.__name__ != "CategoryConcentration")


def test_without_categories_recboles_own_evaluator_says_so() -> None:
    for name in (*CATEGORY_METRICS, "HitCategoryUnion"):
        with pytest.raises(UserError, match=f"metric {name} needs the categories of items"):
            Evaluator(config_with([name], f"{name}@10")).evaluate(DataStruct())


def test_items_that_fill_short_lists_are_not_counted() -> None:
    """Rows with fewer items to rank than the cut-off: coverage, Gini and entropy of the items that were ranked."""
    names = ["ItemCoverage", "GiniIndex", "ShannonEntropy"]
    config = config_with(names, "ItemCoverage@3", topk=[1, 3])
    collector = RankCollector(config)
    collector.data_struct.set("data.num_items", 5)
    scores = torch.tensor([[0.0, 4, 3, 2, 1], [0, 4, 3, 0, 0]])
    scores[scores == 0] = -torch.inf
    collector.eval_batch_collect(scores, None, torch.tensor([0, 1]), torch.tensor([1, 1]))
    result, _ = collector.evaluated(Evaluator(config))
    # listed: 1 and 2 twice, 3 once. RecBole's number of items, 5, counts the padding item; its entropy is divided by 3
    assert result["itemcoverage@1"] == pytest.approx(1 / 5)
    assert result["itemcoverage@3"] == pytest.approx(3 / 5)
    assert result["giniindex@3"] == pytest.approx(((2 * 3 - 6) * 1 + (2 * 4 - 6) * 2 + (2 * 5 - 6) * 2) / 5 / 5)
    entropy = -(2 * 0.4 * math.log(0.4) + 0.2 * math.log(0.2))
    assert result["shannonentropy@3"] == pytest.approx(entropy / 3, abs=1e-6)


# runs -----------------------------------------------------------------------------------------------------------------

NAMES = ["NDCG", *CATEGORY_METRICS, "HitCategoryUnion", "Novelty"]
MODELS: dict[str, dict[str, Any]] = {
    "DiffuRec": {"hidden_size": 8, "n_layers": 1, "n_heads": 2, "num_steps": 2, "item_init_std": 0.5},
    "SASRec": {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "n_layers": 1},
    "BPR": {"embedding_size": 8},
}
RUN = {
    "use_gpu": False, "show_progress": False, "epochs": 1, "train_batch_size": 1024, "MAX_ITEM_LIST_LENGTH": 8,
    "topk": [5, 20], "metric_decimal_place": 8, "cache": False,
}  # fmt: skip


def expected_of(table: Any, items: Path, column: str, k: int) -> dict[str, float]:
    """The metrics from the file of rows and the text of the .item file."""
    header, *lines = (line.split("\t") for line in items.read_text(encoding="utf-8").splitlines())
    place = next(place for place, field in enumerate(header) if field.split(":")[0] == column)
    words = {line[0]: set(line[place].split(" ")) for line in lines}
    numbers = {word: number for number, word in enumerate(sorted(set().union(*words.values())))}
    sets: dict[Any, set[int]] = {item: {numbers[word] for word in own} for item, own in words.items()}
    rows = [(top[:k], set(top[:k]) & set(own)) for top, own in zip(table["top_items"], table["targets"])]
    pairs = [pair_by_pair(top, sets) for top, _ in rows]
    of_hits = [set().union(*(sets[item] for item in hits)) for _, hits in rows]
    return {
        f"categorycount@{k}": float(np.mean([len(set().union(*(sets[item] for item in top))) for top, _ in rows])),
        f"categoryconcentration@{k}": float(np.mean([one for one, _ in pairs])),
        f"categorydiversity@{k}": float(np.mean([one for _, one in pairs])),
        f"hitcategorycount@{k}": float(np.mean(list(map(len, of_hits)))),
        f"hitcategoryunion@{k}": len(set().union(*of_hits)),
    }


@pytest.mark.parametrize(
    ("model", "column", "keys"),
    [
        ("DiffuRec", "class", {"protocol": "user_split_multi"}),
        ("SASRec", None, {}),
        ("BPR", "class", {}),
    ],
)
def test_on_real_data(model: str, column: str | None, keys: dict[str, Any], shared: Path, tmp_path: Path) -> None:
    settings = {**RUN, **MODELS[model], **keys, "category_field": column, "save_per_user": "parquet"}
    settings |= {"metrics": NAMES, "valid_metric": "NDCG@20"}
    result = run(model, "beauty-mini", settings, data_path=shared / "data", output=tmp_path)
    file = pyarrow.parquet.read_table(result.folder / "per_user" / "test.parquet")
    table = file.to_pydict()
    items = shared / "data" / "beauty-mini" / "beauty-mini.item"
    for k in (5, 20):
        for name, value in expected_of(table, items, column or "category", k).items():
            assert result.test_result[name] == pytest.approx(value, abs=1e-7), name
            if not name.startswith("hitcategoryunion"):
                assert np.mean(table[name]) == pytest.approx(value)
        assert f"hitcategoryunion@{k}" not in table
        assert 5 < result.test_result[f"novelty@{k}"] < 15
    assert result.test_result["hitcategoryunion@20"] > 1
    assert f'"category_field": "{column or "category"}"' in file.schema.metadata[b"recbole_diffusion"].decode()


def test_a_checkpoint_is_evaluated_with_them(shared: Path, tmp_path: Path) -> None:
    data = shared / "data"
    trained = run(
        "SASRec", "beauty-mini", {**RUN, **MODELS["SASRec"], "valid_metric": "NDCG@20"}, data_path=data, output=tmp_path
    )
    keys = {"metrics": ["CategoryDiversity", "NDCG"], "valid_metric": "CategoryDiversity@20"}
    found = evaluate(trained.folder, keys, data_path=data, output=tmp_path)
    assert found.test_result["ndcg@5"] == trained.test_result["ndcg@5"]
    assert 0 < found.test_result["categorydiversity@20"] < 1


def test_a_dataset_without_items_is_refused_before_training(small_data: Path, tmp_path: Path) -> None:
    settings = {**RUN, **MODELS["SASRec"], "metrics": ["CategoryCount"], "valid_metric": "CategoryCount@5"}
    with pytest.raises(UserError, match=r"small\.item: no such file, and metrics of categories read it; put it there"):
        run("SASRec", "small", settings, data_path=small_data, output=tmp_path / "runs")
    assert not list(tmp_path.rglob("*.*"))


def test_ours_and_recboles_novelty_go_by_the_training_rows(small_data: Path, tmp_path: Path) -> None:
    """The last two items of a user are no training rows, the first one is nobody's target."""
    settings = {**RUN, **MODELS["SASRec"], "metrics": ["Novelty"], "valid_metric": "Novelty@5", "topk": [5]}
    settings["save_per_user"] = "parquet"
    result = run("SASRec", "small", settings, data_path=small_data, output=tmp_path)
    lines = (small_data / "small" / "small.inter").read_text().splitlines()[1:]
    histories: dict[str, list[str]] = {}
    for user, item, _ in (line.split("\t") for line in lines):
        histories.setdefault(user, []).append(item)
    counts = Counter(item for history in histories.values() for item in history[1:-2])
    rarest, total = min(counts.values()), sum(counts.values())
    table = pyarrow.parquet.read_table(result.folder / "per_user" / "test.parquet").to_pydict()
    for top, value in zip(table["top_items"], table["novelty@5"]):
        bits = [-math.log2(max(counts[item], rarest) / total) for item in top[:5]]
        assert value == pytest.approx(sum(bits) / 5)


def test_resources_are_named_alike() -> None:
    assert Novelty.metric_need == ["rec.items", "data.count_items"]
    assert all(metric.metric_need == [CATEGORIES] for metric in OWN_METRICS if "Category" in metric.__name__)
