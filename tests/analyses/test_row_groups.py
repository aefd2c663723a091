"""Groups of rows by hand."""

from __future__ import annotations

import numpy as np

from recbole_diffusion.analyses.row_groups import RankedTargets, head_items, length_groups, span
from recbole_diffusion.evaluation.metrics import row_metrics


def test_head_items() -> None:
    """Ten items, the padding apart: two are head; of the three that train 5 times the first ones."""
    counts = np.array([99, 1, 5, 0, 5, 5, 2, 2, 0, 1, 3])
    assert np.flatnonzero(head_items(counts, 0.2)).tolist() == [2, 4]
    assert np.flatnonzero(head_items(counts, 0.3)).tolist() == [2, 4, 5]
    assert np.flatnonzero(head_items(np.array([0, 1, 2]), 0.2)).tolist() == [2]


def test_length_groups() -> None:
    lengths = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert length_groups(lengths, 5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    many = np.array([3, 3, 3, 3, 3, 3, 3, 4, 9, 9])  # percentiles 20, 40, 60 are 3, 80 is 4
    assert length_groups(many, 5).tolist() == [0] * 7 + [3] + [4] * 2
    assert (span(many), span([3])) == ("3-9", "3")


def test_metrics_of_the_targets_of_a_group() -> None:
    """Two rows of two targets: items 1, 2 at ranks 1 and 3, items 1, 3 at ranks 5 and none; head is item 1."""
    targets = RankedTargets(np.array([1, 2, 1, 3]), np.array([1, 3, 5, 0]), np.array([0, 0, 1, 1]))
    ranking, rows = targets.ranking(4, 4, label_repeats=False)
    found = row_metrics(ranking, ["Hit", "Recall", "NDCG"], [4])
    assert rows.tolist() == [0, 1]
    assert found["hit@4"].tolist() == [1, 0]
    assert found["recall@4"].tolist() == [1, 0]
    assert np.allclose(found["ndcg@4"], [(1 + 0.5) / (1 + 1 / np.log2(3)), 0])
    tail, rows = targets.where(np.isin(targets.targets, [2, 3])).ranking(4, 4, label_repeats=False)
    found = row_metrics(tail, ["Hit", "Recall", "NDCG"], [2, 4])
    assert rows.tolist() == [0, 1]
    assert found["recall@2"].tolist() == [0, 0]
    assert found["recall@4"].tolist() == [1, 0]
    assert np.allclose(found["ndcg@4"], [0.5, 0])
    only, rows = targets.where(targets.targets == 3).ranking(4, 4, label_repeats=False)
    assert rows.tolist() == [1]
    assert row_metrics(only, ["MRR"], [4])["mrr@4"].tolist() == [0]
