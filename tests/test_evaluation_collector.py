"""The collector against RecBole's own, and full-ranking metrics by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector, Evaluator

from recbole_diffusion.config import RunConfig
from recbole_diffusion.evaluation.collector import RankCollector


def metrics_of(
    collector: Collector, config: RunConfig, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, float]:
    for scores, targets in batches:
        collector.eval_batch_collect(scores, None, torch.arange(len(targets)), targets)
    return dict(Evaluator(config).evaluate(collector.get_data_struct()))


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig(
        "DiffuRec",
        "tiny",
        (),
        {"metrics": ["Hit", "NDCG", "MRR", "Recall"], "topk": [1, 3, 5], "valid_metric": "MRR@5"},
    )


def test_same_as_recboles(config: RunConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(rows, 30, generator=generator), torch.randint(1, 30, (rows,), generator=generator))
        for rows in (8, 5)
    ]
    assert metrics_of(RankCollector(config), config, batches) == metrics_of(Collector(config), config, batches)


def test_several_positives_go_to_recboles(config: RunConfig) -> None:
    scores = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    rows, items = torch.tensor([0, 0, 1, 2]), torch.tensor([3, 4, 5, 6])
    results = []
    for collector in (RankCollector(config), Collector(config)):
        collector.eval_batch_collect(scores, None, rows, items)
        results.append(dict(Evaluator(config).evaluate(collector.get_data_struct())))
    assert results[0] == results[1]


def test_metrics_by_hand(config: RunConfig) -> None:
    scores = torch.tensor([[0.0, 9, 8, 7, 6, 5], [0.0, 1, 2, 3, 4, 5]])
    result = metrics_of(RankCollector(config), config, [(scores, torch.tensor([1, 3]))])  # ranks 1 and 3
    assert result["hit@1"] == 0.5
    assert result["hit@3"] == 1.0
    assert result["ndcg@3"] == pytest.approx((1 + 0.5) / 2, abs=1e-6)
    assert result["mrr@5"] == pytest.approx((1 + 1 / 3) / 2, abs=1e-6)


def test_the_published_metric_agrees(shared: Path) -> None:
    """HR and NDCG of the published DiffuRec code on six rows (its README in the reference folder)."""
    with np.load(shared / "golden" / "tiny_diffurec.npz") as file:
        scores, labels = torch.from_numpy(file["metric_scores"]), torch.from_numpy(file["metric_labels"])[:, 0].long()
        expected = file["metric_values_HR5_HR10_HR20_NDCG5_NDCG10_NDCG20"]
    settings = RunConfig("DiffuRec", "tiny")
    result = metrics_of(RankCollector(settings), settings, [(scores.float(), labels)])
    ours = [result[name] for name in ("hit@5", "hit@10", "hit@20", "ndcg@5", "ndcg@10", "ndcg@20")]
    assert ours == pytest.approx(expected.tolist(), abs=1e-6)
