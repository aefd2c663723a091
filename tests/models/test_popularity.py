"""Popularity: counts by hand, one order for everybody, and a run where the test users are new."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from recbole_diffusion import run
from tests.contracts.building import Built, build, scores_of
from tests.contracts.cases import Case


@pytest.fixture(scope="module")
def built(small_data: Path) -> Built:
    return build(Case("Popularity"), small_data, "small", MAX_ITEM_LIST_LENGTH=5)


def test_scores_are_the_logarithms_of_the_training_rows_of_each_item(built: Built, small_data: Path) -> None:
    """Leave one out: a user's items but the first (no history), the last (test) and the one before it (validation)."""
    frame = pd.read_csv(small_data / "small" / "small.inter", sep="\t")
    counts: dict[str, int] = {}
    for items in frame.groupby("user_id:token", sort=False)["item_id:token"].apply(list):
        for item in items[1:-2]:
            counts[item] = counts.get(item, 0) + 1
    scores = scores_of(built.model, built.evaluation())
    assert (scores == scores[:1]).all()
    for item, token in enumerate(built.dataset.field2id_token["item_id"][1:], start=1):
        assert scores[0, item].item() == pytest.approx(math.log(1 + counts.get(str(token), 0)), abs=1e-6)


def test_the_loss_is_the_cross_entropy_of_the_shares(built: Built) -> None:
    batch = built.batch()
    counts = torch.zeros(built.dataset.item_num)
    for row in built.train._dataset.inter_feat["item_id"].tolist():
        counts[row] += 1
    shares = (1 + counts[1:]) / (1 + counts[1:]).sum()
    expected = -shares[batch["item_id"] - 1].log().mean()
    torch.testing.assert_close(built.model.losses(batch)["ranking"], expected)


def test_it_answers_users_it_never_saw(small_data: Path, tmp_path: Path) -> None:
    """Hits of the one most popular item among the last items of the test users, reckoned by pandas."""
    settings = {
        "protocol": "user_split_next", "split_ratio": [2, 1, 1], "user_order": "first_time", "metrics": ["Hit"],
        "topk": [1], "valid_metric": "Hit@1", "use_gpu": False, "show_progress": False, "cache": False,
    }  # fmt: skip
    result = run("Popularity", "small", settings, data_path=small_data, output=tmp_path)
    frame = pd.read_csv(small_data / "small" / "small.inter", sep="\t")
    items = frame.groupby("user_id:token", sort=False)["item_id:token"].apply(list).tolist()
    counts = pd.Series([item for own in items[:30] for item in own[1:]]).value_counts()
    assert counts.iloc[0] > counts.iloc[1]
    expected = sum(own[-1] == counts.index[0] for own in items[45:]) / 15
    assert result.test_result["hit@1"] == pytest.approx(expected, abs=1e-6)
