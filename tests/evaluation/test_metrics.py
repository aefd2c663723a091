"""Metrics of rows: by hand, against RecBole's evaluator, and the definitions that other code uses."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector, Evaluator

from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation import metrics
from recbole_diffusion.evaluation.collector import RankCollector
from recbole_diffusion.evaluation.item_values import item_counts, list_means, tail_items
from recbole_diffusion.evaluation.metrics import ROW_METRICS, Ranking, popularity_numbers, row_metrics, set_order
from recbole_diffusion.evaluation.recbole_metrics import register_metrics

OF_ROWS = ["Hit", "Recall", "Precision", "MRR", "MAP", "NDCG"]
OF_LISTS = ["ItemCoverage", "GiniIndex", "ShannonEntropy", "AveragePopularity", "TailPercentage", "GAUC"]


def ranking_of(items: list[list[int]], targets: list[list[int]], **options: Any) -> Ranking:
    lengths = [len(row) for row in targets]
    flat = np.array([item for row in targets for item in row], dtype=np.int32)
    return Ranking(np.array(items, dtype=np.int32), flat, np.concatenate(([0], np.cumsum(lengths))), **options)


def values_of(name: str, ranking: Ranking, k: int) -> list[float]:
    return row_metrics(ranking, [name], [k])[f"{name.lower()}@{k}"].tolist()


def discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)


# Row 0: targets 5, 9, 2 found at ranks 2 and 4. Row 1: target 7 at rank 1. Row 2: nothing found.
HAND = ranking_of([[1, 5, 3, 9], [7, 1, 2, 3], [1, 2, 3, 4]], [[9, 5, 2], [7], [8, 9]])


@pytest.mark.parametrize(
    ("name", "k", "expected"),
    [
        ("Hit", 1, [0, 1, 0]),
        ("Hit", 4, [1, 1, 0]),
        ("Recall", 3, [1 / 3, 1, 0]),
        ("Recall", 4, [2 / 3, 1, 0]),
        ("Precision", 4, [2 / 4, 1 / 4, 0]),
        ("MRR", 1, [0, 1, 0]),
        ("MRR", 4, [1 / 2, 1, 0]),
        ("MAP", 2, [(1 / 2) / 2, 1, 0]),
        ("MAP", 4, [(1 / 2 + 2 / 4) / 3, 1, 0]),
        ("NDCG", 2, [discount(2) / (discount(1) + discount(2)), 1, 0]),
        ("NDCG", 4, [(discount(2) + discount(4)) / (discount(1) + discount(2) + discount(3)), 1, 0]),
        ("NDCGHits", 2, [discount(2) / discount(1), 1, 0]),
        ("NDCGHits", 4, [(discount(2) + discount(4)) / (discount(1) + discount(2)), 1, 0]),
        # places among the targets: 9 first, 5 second
        ("NDCGLabelOrder", 2, [discount(2) / discount(1), 1, 0]),
        ("NDCGLabelOrder", 4, [1, 1, 0]),
        # numbers below the size of a set's table, 8, stand at their own place: {1, 5} -> 1 5. In {1, 5, 3, 9} 9 % 8 = 1
        # is taken, so 9 goes to 5 * 1 + 1 = 6 -> 1 3 5 9
        ("NDCGSetOrder", 2, [discount(2) / discount(1), discount(2), 0]),
        ("NDCGSetOrder", 4, [(discount(3) + discount(4)) / (discount(1) + discount(2)), discount(4), 0]),
    ],
)
def test_by_hand(name: str, k: int, expected: list[float]) -> None:
    assert values_of(name, HAND, k) == pytest.approx(expected, abs=1e-12)


def test_every_metric_is_tested_by_hand() -> None:
    marks = [mark for mark in test_by_hand.pytestmark if mark.name == "parametrize"]
    assert {case[0] for case in marks[0].args[1]} == set(ROW_METRICS)


def test_every_metric_is_documented() -> None:
    from recbole.evaluator.register import metrics_dict

    register_metrics()
    text = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    names = {kind.__name__ for kind in metrics_dict.values()} - {"AUC", "MAE", "RMSE", "LogLoss"}
    assert [name for name in names | set(ROW_METRICS) if f"`{name}`" not in text] == []


def test_a_repeated_target_counts_once_unless_asked() -> None:
    items, targets = [[4, 6, 1]], [[4, 4, 5, 8]]
    assert values_of("Recall", ranking_of(items, targets), 3) == [1 / 3]
    assert values_of("Recall", ranking_of(items, targets, label_repeats=True), 3) == [1 / 4]
    for repeats in (False, True):  # only Recall divides by them
        ranking = ranking_of(items, targets, label_repeats=repeats)
        assert values_of("NDCG", ranking, 3) == pytest.approx([1 / sum(map(discount, (1, 2, 3)))])
        assert values_of("NDCGHits", ranking, 3) == [1]


def test_label_order_finds_a_repeated_target_twice() -> None:
    """As the code it stands for: it goes through the labels and asks of each whether it was retrieved."""
    labels, retrieved = [7, 4, 4, 5], {4, 6, 1}
    dcg, found = 0.0, 0
    for place, label in enumerate(labels):
        if label in retrieved:
            found, dcg = found + 1, dcg + 1 / math.log2(place + 2)
    ideal = sum(1 / math.log2(place + 2) for place in range(found))
    assert values_of("NDCGLabelOrder", ranking_of([[4, 6, 1]], [labels]), 3) == pytest.approx([dcg / ideal])


def test_set_order_is_pythons_and_not_the_rank() -> None:
    assert set_order([3, 1, 2]) == [1, 2, 3]
    assert set_order([9, 1]) == [9, 1]  # both belong into the place 1 of eight; the first keeps it
    assert set_order([1, 9]) == [1, 9]
    generator = np.random.default_rng(0)
    for _ in range(50):
        ids = generator.permutation(5000)[:50].tolist()
        assert set_order(ids) == list(set(ids))


def test_set_order_goes_by_the_given_numbers() -> None:
    numbers = np.array([0, 30, 2, 1])  # of items 0 to 3
    ranking = ranking_of([[1, 2]], [[1]])
    assert values_of("NDCGSetOrder", ranking, 2) == pytest.approx([discount(1)])  # {1, 2}
    numbered = ranking_of([[1, 2]], [[1]], set_ids=numbers)
    assert values_of("NDCGSetOrder", numbered, 2) == pytest.approx([discount(2)])  # {30, 2}: 30 % 8 is 6


def test_items_are_numbered_by_popularity_equal_ones_by_id() -> None:
    assert popularity_numbers(np.array([0, 2, 5, 2, 9])).tolist() == [0, 3, 2, 4, 1]


def test_the_filling_item_is_no_hit() -> None:
    ranking = ranking_of([[3, 0, 0]], [[4]])
    assert all(values_of(name, ranking, 3) == [0] for name in ROW_METRICS)


def test_a_row_without_target_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has no target"):
        ranking_of([[1], [2]], [[1], []])


def test_a_cutoff_beyond_the_kept_items_is_refused() -> None:
    with pytest.raises(ValueError, match="a cut-off of 5 needs as many items a row, there are 4"):
        row_metrics(HAND, ["Hit"], [5])


def drawn_batches(seed: int, items: int = 60) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of scores without equal ones, and one to nine targets a row, repeats among them."""
    generator = np.random.default_rng(seed)
    batches = []
    for rows in (7, 1, 12):
        scores = torch.from_numpy(generator.permuted(np.tile(np.arange(items), (rows, 1)), axis=1)).float()
        scores[:, 0] = -torch.inf
        counts = generator.integers(1, 10, rows)
        row = torch.from_numpy(np.repeat(np.arange(rows), counts))
        batches.append((scores, row, torch.from_numpy(generator.integers(1, items // 3, counts.sum()))))
    return batches


def config_with(names: list[str], **keys: Any) -> RunConfig:
    topk = [1, 3, 10, 20]
    return RunConfig("DiffuRec", "tiny", (), {"metrics": names, "topk": topk, "valid_metric": f"{names[0]}@3", **keys})


class StockCollector(Collector):
    """RecBole's collector; 1.2.1's asks numbers and counters for `.cpu()` at the end and fails on them."""

    def get_data_struct(self) -> Any:
        return self.data_struct


def metrics_by(collector: Collector, config: RunConfig, batches: Any) -> dict[str, float]:
    collector.data_struct.set("data.num_items", 60)
    collector.data_struct.set("data.count_items", Counter({item: (item * 7) % 11 + 1 for item in range(1, 60)}))
    for scores, row, item in batches:
        collector.eval_batch_collect(scores.clone(), None, row, item)
    return dict(Evaluator(config).evaluate(collector.get_data_struct()))


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_recboles_evaluator(seed: int) -> None:
    config = config_with(OF_ROWS + OF_LISTS)
    batches = drawn_batches(seed)
    theirs = metrics_by(StockCollector(config), config, batches)
    ours_through_theirs = metrics_by(RankCollector(config), config, batches)
    collector = RankCollector(config)
    collector.data_struct.set("data.num_items", 60)
    collector.data_struct.set("data.count_items", Counter({item: (item * 7) % 11 + 1 for item in range(1, 60)}))
    for scores, row, item in batches:
        collector.eval_batch_collect(scores, None, row, item)
    ours, rows = collector.evaluated(Evaluator(config))
    assert list(ours) == list(theirs)
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert ours_through_theirs == pytest.approx(theirs, abs=1e-6)
    assert rows is not None
    of_rows = [*OF_ROWS, "AveragePopularity", "TailPercentage"]
    assert set(rows.metrics) == {f"{name.lower()}@{k}" for name in of_rows for k in config["topk"]}
    assert theirs["recall@20"] > 0.2  # there is something to compare


def test_tail_and_popularity_by_hand() -> None:
    counts = item_counts({4: 9, 2: 1, 1: 3, 3: 1}, 6)
    assert counts.tolist() == [0, 3, 1, 1, 9, 0]
    assert np.flatnonzero(tail_items(counts, 0.5)).tolist() == [2, 3]
    assert np.flatnonzero(tail_items(counts, 0.1)).tolist() == [2]  # one at least, the lower id of equal ones
    assert np.flatnonzero(tail_items(counts, 3)).tolist() == [1, 2, 3]
    assert list_means(np.array([[4, 1, 0]]), counts, [1, 3]).tolist() == [[9.0, 4.0]]


@pytest.mark.parametrize("tail_ratio", [0.3, 4])
def test_the_tail_is_recboles(tail_ratio: float) -> None:
    config = config_with(["TailPercentage"], tail_ratio=tail_ratio)
    batches = drawn_batches(8)
    theirs = metrics_by(StockCollector(config), config, batches)
    collector = RankCollector(config)
    metrics_by(collector, config, batches)
    for scores, row, item in batches:
        collector.eval_batch_collect(scores, None, row, item)
    assert collector.evaluated(Evaluator(config))[0] == pytest.approx(theirs, abs=1e-6)
    assert 0 < theirs["tailpercentage@20"] < 1


def test_gauc_shares_ranks_among_equal_scores_as_recbole() -> None:
    config = config_with(["GAUC"], valid_metric="GAUC")
    batches = [(scores.div(9).floor(), row, item) for scores, row, item in drawn_batches(5)]
    for scores, _, _ in batches:
        scores[:, 0] = -torch.inf
    theirs = metrics_by(StockCollector(config), config, batches)
    assert metrics_by(RankCollector(config), config, batches) == pytest.approx(theirs, abs=1e-6)


def test_an_evaluation_starts_empty() -> None:
    config = config_with(["Hit"])
    collector, evaluator = RankCollector(config), Evaluator(config)
    first = [(scores, row, item) for scores, row, item in drawn_batches(0)]
    results = []
    for batches in (first, drawn_batches(1), first):
        for batch in batches:
            collector.eval_batch_collect(batch[0], None, batch[1], batch[2])
        results.append(collector.evaluated(evaluator)[0])
    assert results[0] == results[2] != results[1]


def test_rows_are_computed_in_pieces_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    items = generator.permuted(np.tile(np.arange(1, 31), (40, 1)), axis=1)[:, :20]
    targets = [generator.integers(1, 31, size).tolist() for size in generator.integers(1, 8, 40)]
    ranking = ranking_of(items.tolist(), targets)
    whole = row_metrics(ranking, list(ROW_METRICS), [1, 5, 20])
    monkeypatch.setattr(metrics, "PIECE", 7)
    cut = row_metrics(ranking, list(ROW_METRICS), [1, 5, 20])
    for name, values in whole.items():
        assert values.tolist() == cut[name].tolist()
        assert values.max() <= 1 + 1e-12
        assert values.min() >= 0


def test_targets_out_of_order_of_rows_are_refused() -> None:
    collector = RankCollector(config_with(["Hit"]))
    ranked = metrics_rows(np.array([[1, 2], [3, 4]], dtype=np.int32))
    with pytest.raises(ValueError, match="not in order of rows"):
        collector.collect(ranked, (torch.tensor([1, 0]), torch.tensor([1, 2])))


def metrics_rows(items: np.ndarray) -> Any:
    from recbole_diffusion.evaluation.ranking import RankedRows

    return RankedRows(items, None, np.zeros(items.shape, dtype=np.float32))


def test_our_names_are_metrics_of_a_configuration() -> None:
    config = config_with(["ndcghits", "NDCGSetOrder", "NDCGLabelOrder"], valid_metric="NDCGHits@10")
    assert config["valid_metric"].lower() == "ndcghits@10"
    assert config["valid_metric_bigger"]
    with pytest.raises(UserError, match="did you mean 'NDCGHits'"):
        config_with(["NDCGHit"])
    with pytest.raises(UserError, match="label_repeats must be True or False"):
        config_with(["Hit"], label_repeats=1)


def test_ndcg_over_hits_in_recboles_own_evaluator() -> None:
    config = config_with(["NDCGHits"])
    batches = drawn_batches(3)
    theirs = metrics_by(StockCollector(config), config, batches)
    assert theirs == pytest.approx(metrics_by(RankCollector(config), config, batches), abs=1e-9)


@pytest.mark.parametrize("name", ["NDCGLabelOrder", "NDCGSetOrder"])
def test_what_recboles_collector_lacks_is_said(name: str) -> None:
    config = config_with([name])
    batches = drawn_batches(3)
    with pytest.raises(UserError, match=f"metric {name} needs the targets themselves"):
        metrics_by(StockCollector(config), config, batches)
    assert 0 < metrics_by(RankCollector(config), config, batches)[f"{name.lower()}@20"] <= 1


def test_a_users_own_metric_under_a_known_name_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.evaluator.base_metric import TopkMetric
    from recbole.evaluator.register import metrics_dict

    class Hit(TopkMetric):
        def calculate_metric(self, dataobject: Any) -> dict[str, float]:
            hits, _ = self.used_info(dataobject)
            return {"hit@1": float(hits.sum())}

    monkeypatch.setitem(metrics_dict, "hit", Hit)
    config = config_with(["Hit"])
    collector = RankCollector(config)
    total = 0
    for scores, row, item in drawn_batches(1):
        collector.eval_batch_collect(scores, None, row, item)
        best = torch.topk(scores, 20).indices
        total += sum(int(best[r, c]) in item[row == r].tolist() for r in range(len(scores)) for c in range(20))
    assert collector.evaluated(Evaluator(config))[0] == {"hit@1": total}
