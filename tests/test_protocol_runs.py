"""Runs from configuration to result by each protocol: the numbers of rows, what is recorded, and filter_seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_diffusion import evaluate, run
from recbole_diffusion.errors import UserError

QUICK = {
    "epochs": 1, "embedding_size": 8, "hidden_size": 8, "loss_type": "CE", "metrics": ["Recall", "Hit"],
    "topk": [5, 39], "valid_metric": "Recall@5", "MAX_ITEM_LIST_LENGTH": 6, "use_gpu": False, "show_progress": False,
    "cache": False,
}  # fmt: skip


def outcome(small_data: Path, tmp_path: Path, **settings: Any) -> tuple[dict[str, Any], str]:
    """result.json and the log of a run of RecBole's GRU4Rec on `small`."""
    result = run("GRU4Rec", "small", {**QUICK, **settings}, data_path=small_data, output=tmp_path)
    facts = json.loads((result.folder / "result.json").read_text(encoding="utf-8"))
    return facts, (result.folder / "run.log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lengths(small_data: Path) -> list[int]:
    """Interactions of each user, users in the order of the file."""
    frame = pd.read_csv(small_data / "small" / "small.inter", sep="\t")
    return frame.groupby("user_id:token", sort=False).size().tolist()


def test_user_split_multi(small_data: Path, tmp_path: Path, lengths: list[int]) -> None:
    facts, log = outcome(
        small_data, tmp_path, protocol="user_split_multi", split_ratio=[2, 1, 1], user_order="first_time"
    )
    rows = sum(max(length - 4, 0) for length in lengths[:30])
    assert f"protocol user_split_multi: {rows} training, 15 validation, 15 test rows" in log
    assert "leave-one-out" not in log
    assert facts["protocol"] == {
        "protocol": "user_split_multi", "split_ratio": [2, 1, 1], "user_order": "first_time", "min_history": None,
        "one_cut_per_user": False, "filter_seen": False, "repeatable": True,
        "eval_args": {"mode": {"valid": "full", "test": "full"}}, "topk": [5, 39], "label_repeats": False,
        "category_field": None, "eval_seed": 2023, "MAX_ITEM_LIST_LENGTH": 6,
    }  # fmt: skip
    assert facts["test_result"]["hit@5"] >= facts["test_result"]["recall@5"]


def test_user_split_next_with_seen_items_out(small_data: Path, tmp_path: Path, lengths: list[int]) -> None:
    """39 of 40 items are ranked: with seen items out, every target that is new is found, and no other."""
    frame = pd.read_csv(small_data / "small" / "small.inter", sep="\t")
    items = frame.groupby("user_id:token", sort=False)["item_id:token"].apply(list).tolist()
    settings = {"protocol": "user_split_next", "split_ratio": [2, 1, 1], "user_order": "first_time"}
    facts, log = outcome(small_data, tmp_path, **settings, filter_seen=True)
    assert f"{sum(length - 1 for length in lengths[:30])} training, 15 validation, 15 test rows" in log
    new = [own[-1] not in own[:-1] for own in items[45:]]
    assert facts["protocol"]["filter_seen"] is True
    assert facts["test_result"]["hit@39"] == pytest.approx(sum(new) / 15, abs=1e-6)


def test_global_time(small_data: Path, tmp_path: Path) -> None:
    """Users of `small` come 1000 seconds apart: a date within one history has a single user around it."""
    begin = 1_300_000_000 + 30 * 1000
    dates = [begin + 2, begin + 4]
    facts, log = outcome(small_data, tmp_path, protocol="global_time", split_time=dates, time_target="successive")
    assert "2 validation, " in log
    assert f"before {dates[0]} train" in log
    assert "test: 29 of 30 users have no interaction before the part and are left out" in log
    assert facts["protocol"]["split_time"] == dates
    assert "split_ratio" not in facts["protocol"]


@pytest.mark.parametrize(
    ("settings", "without"),
    [
        ({"protocol": "user_split_next", "split_ratio": [9, 0, 1]}, "valid_result"),
        ({"protocol": "user_split_multi", "split_ratio": [8, 2, 0]}, "test_result"),
        ({"eval_args": {"split": {"LS": "test_only"}}}, "valid_result"),
        ({"eval_args": {"split": {"LS": "valid_only"}}}, "test_result"),
    ],
    ids=str,
)
def test_a_part_that_is_not_asked_for_is_empty(
    small_data: Path, tmp_path: Path, settings: dict[str, Any], without: str
) -> None:
    facts, _ = outcome(small_data, tmp_path, **settings)
    other = {"valid_result": "test_result", "test_result": "valid_result"}[without]
    assert facts[without] == {}
    assert set(facts[other]) == {"recall@5", "recall@39", "hit@5", "hit@39"}


def test_a_checkpoint_keeps_its_split(small_data: Path, tmp_path: Path) -> None:
    settings = {"protocol": "user_split_next", "split_ratio": [2, 1, 1]}
    first = run("GRU4Rec", "small", {**QUICK, **settings}, data_path=small_data, output=tmp_path)
    again = evaluate(first.folder, output=tmp_path)
    assert (again.valid_result, again.test_result) == (first.valid_result, first.test_result)
    evaluate(first.folder, {"eval_target": "all_positions"}, output=tmp_path)
    with pytest.raises(UserError, match=r"split_seed: 5 .* differs from 1230"):
        evaluate(first.folder, {"split_seed": 5}, output=tmp_path)


def test_a_split_that_the_data_cannot_have_is_one_line(small_data: Path, tmp_path: Path) -> None:
    settings = {"protocol": "global_time", "split_time": ["2011-01-01", "2031-01-01"]}
    with pytest.raises(UserError, match=r"split_time .* leaves no training row; times run from 1300000000 to 13000590"):
        outcome(small_data, tmp_path, **settings)


def test_a_checkpoint_keeps_its_interactions_and_its_split(small_data: Path, tmp_path: Path) -> None:
    """Other interactions, or another order, could make a test target of what trained; another mode may be asked."""
    split = {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}}
    trained = run("GRU4Rec", "small", {**QUICK, **split}, data_path=small_data, output=tmp_path)
    for key, value in (("time_precision", "float32"), ("rm_dup_inter", "last"), ("item_inter_num_interval", "[2,inf)")):
        with pytest.raises(UserError, match=f"{key}: .* differs from"):
            evaluate(trained.folder, {key: value}, output=tmp_path)
    sampled = {"mode": {"valid": "uni10", "test": "uni10"}}
    result = evaluate(trained.folder, {"eval_args": sampled, "topk": [5]}, output=tmp_path)
    facts = json.loads((result.folder / "result.json").read_text(encoding="utf-8"))
    assert facts["protocol"]["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}
    assert facts["protocol"]["eval_args"]["mode"] == sampled["mode"]


@pytest.mark.parametrize(
    "keys",
    [
        {"protocol": "user_split_next", "eval_target": "all_positions"},
        {"protocol": "global_time", "time_target": "successive"},
    ],
    ids=str,
)
def test_several_rows_of_a_user_need_full_ranking(small_data: Path, tmp_path: Path, keys: dict[str, Any]) -> None:
    mode = {"eval_args": {"mode": {"valid": "uni10", "test": "uni10"}}}
    with pytest.raises(UserError, match="RecBole joins the rows of a user where items are sampled"):
        run("GRU4Rec", "small", {**QUICK, **keys, **mode}, data_path=small_data, output=tmp_path)


def test_a_vector_for_each_user_is_warned_of_where_users_are_apart(small_data: Path, tmp_path: Path) -> None:
    settings = {**QUICK, "protocol": "user_split_next", "split_ratio": [2, 1, 1]}
    for model, warned in (("GRU4Rec", False), ("HGN", True)):
        own = {key: value for key, value in settings.items() if key != "hidden_size" or model == "GRU4Rec"}
        result = run(model, "small", own, data_path=small_data, output=tmp_path)
        log = (result.folder / "run.log").read_text(encoding="utf-8")
        assert ("has a vector for every user" in log) is warned


def test_missing_item_features_are_one_line(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SASRecF needs the item features"):
        own = {key: value for key, value in QUICK.items() if key != "embedding_size"}
        run("SASRecF", "small", {**own, "n_heads": 2}, data_path=small_data, output=tmp_path)
