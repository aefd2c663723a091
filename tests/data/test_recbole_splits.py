"""RecBole's splits as positions: the same rows in the same order as RecBole's own dataset, and impossible settings.

RecBole is given the exact rank of each interaction as its time, which float32 holds below 2^24, so that it has no false
ties; both sides then see the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_diffusion.compat import apply_patches
from recbole_diffusion.data.histories import Histories, Rows, Split, gather, group_by_user, history_spans
from recbole_diffusion.data.recbole_splits import (
    by_ratio,
    by_time_ratio,
    leave_one_out,
    normalised_shares,
    runs,
)
from recbole_diffusion.errors import UserError

LONGEST = 4
RATIOS = [[0.8, 0.1, 0.1], [8, 1, 1], [0.5, 0.25, 0.25], [0.6, 0.0, 0.4], [0.98, 0.01, 0.01], [0.34, 0.33, 0.33]]

# RecBole's own, on current pandas and numpy
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:__array_wrap__:DeprecationWarning")


@dataclass
class Both:
    """One table of interactions, with RecBole's augmented and sorted dataset and our histories of it."""

    recbole: Any
    histories: Histories
    times: np.ndarray

    @property
    def is_large(self) -> bool:
        """RecBole takes seconds to minutes to split it."""
        return len(self.histories) > 10_000


def ranked(frame: pd.DataFrame) -> pd.DataFrame:
    """Times replaced by their rank over all users, equal times in file order; columns user_id, item_id, timestamp."""
    order = np.argsort(frame["timestamp"].to_numpy(), kind="stable")
    rank = np.empty(len(frame), dtype=np.int64)
    rank[order] = np.arange(len(frame))
    return frame.assign(timestamp=rank)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[pd.DataFrame], Both]:
    """``both(frame)``: RecBole's dataset and our histories of a table with user_id, item_id, timestamp."""

    def build(frame: pd.DataFrame) -> Both:
        import sys
        from unittest.mock import patch

        apply_patches()
        from recbole.config import Config
        from recbole.data.dataset import SequentialDataset

        folder = tmp_path_factory.mktemp("ranked")
        (folder / "ranked").mkdir()
        types = {"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}
        ranked(frame).rename(columns=types)[list(types.values())].to_csv(
            folder / "ranked" / "ranked.inter", sep="\t", index=False
        )
        settings = {
            "data_path": str(folder),
            "load_col": {"inter": list(types)},
            "MAX_ITEM_LIST_LENGTH": LONGEST,
            "normalize_all": False,
            "train_neg_sample_args": None,
            "use_gpu": False,
        }
        with patch.object(sys, "argv", ["test"]):
            dataset = SequentialDataset(Config("SASRec", "ranked", config_dict=settings))
        table = dataset.inter_feat.sort_values("timestamp", kind="stable")
        columns = {"item_id": table["item_id"].to_numpy(), "timestamp": table["timestamp"].to_numpy(np.float32)}
        histories = group_by_user(table["user_id"].to_numpy(), columns, dataset.user_num)
        dataset._change_feat_format()
        dataset.sort(by="timestamp")
        return Both(dataset, histories, histories.columns["timestamp"])

    return build


def random_tables() -> Iterator[pd.DataFrame]:
    draw = np.random.default_rng(7)
    for users, n in [(1, 6), (3, 12), (7, 40), (40, 90), (25, 600)]:
        yield pd.DataFrame(
            {
                "user_id": draw.integers(0, users, n) * 3 + 5,
                "item_id": draw.integers(10, 30, n),
                "timestamp": draw.integers(0, n // 2 + 1, n),  # many ties
            }
        )


@pytest.fixture(scope="module", params=["ml-100k", "amazon-beauty", "gowalla", *range(5)], ids=str)
def case(request: pytest.FixtureRequest, both: Callable[[pd.DataFrame], Both]) -> Both:
    """Real data and small random tables with many equal times; Gowalla is cut to 2,500 users."""
    if isinstance(request.param, int):
        return both(list(random_tables())[request.param])
    shared: Path = request.getfixturevalue("shared")
    frame = pd.read_csv(shared / "data" / request.param / f"{request.param}.inter", sep="\t", dtype=str)
    frame.columns = [column.split(":")[0] for column in frame.columns]
    frame["timestamp"] = frame["timestamp"].astype(np.float64)
    if request.param == "gowalla":
        frame = frame[frame["user_id"].isin(frame["user_id"].unique()[:2500])]
    return both(frame)


def same_rows(ours: Rows, theirs: Any, histories: Histories) -> None:
    """Users, targets, times and histories of every row, in order."""
    found = theirs.inter_feat
    np.testing.assert_array_equal(histories.users(ours.target), found["user_id"].numpy())
    begin, length = history_spans(histories, ours.target, LONGEST)
    np.testing.assert_array_equal(length, found["item_length"].numpy())
    for field in ("item_id", "timestamp"):
        column = histories.columns[field]
        np.testing.assert_array_equal(column[ours.target], found[field].numpy())
        np.testing.assert_array_equal(gather(column, begin, length, LONGEST), found[f"{field}_list"].numpy())


def same_split(ours: Split, theirs: list[Any], histories: Histories) -> None:
    for rows, part in zip((ours.train, ours.valid, ours.test), theirs, strict=True):
        assert rows.stop is None
        same_rows(rows, part, histories)


@pytest.mark.parametrize("mode", ["valid_and_test", "valid_only", "test_only"])
def test_leave_one_out_is_recboles(case: Both, mode: str) -> None:
    theirs = case.recbole.leave_one_out(group_by="user_id", leave_one_mode=mode)
    same_split(leave_one_out(case.histories, mode), theirs, case.histories)


def same_unless_empty(ours: Callable[[], Split], theirs: list[Any], ratios: list[float], histories: Histories) -> None:
    """Equal rows; where RecBole goes on with an empty part that should have rows, ours is an error."""
    if any(share > 0 and len(part) == 0 for share, part in zip(ratios, theirs, strict=True)):
        with pytest.raises(UserError, match="leaves no"):
            ours()
    else:
        same_split(ours(), theirs, histories)


@pytest.mark.parametrize("group_by_user", [True, False])
def test_by_ratio_is_recboles(case: Both, group_by_user: bool) -> None:
    for ratios in RATIOS[:1] if case.is_large else RATIOS:
        theirs = case.recbole.split_by_ratio(ratios, group_by="user_id" if group_by_user else None)
        same_unless_empty(partial(by_ratio, case.histories, ratios, group_by_user), theirs, ratios, case.histories)


def test_by_time_ratio_is_recboles(case: Both) -> None:
    for ratios in RATIOS[:1] if case.is_large else RATIOS:
        theirs = case.recbole.time_based_split(ratios, group_by="user_id")
        same_unless_empty(partial(by_time_ratio, case.histories, ratios, case.times), theirs, ratios, case.histories)


# ---- by hand ----


def of_lengths(*lengths: int) -> Histories:
    """User 1 has lengths[0] interactions and so on, one user after the other in time."""
    users = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return group_by_user(users, {"item_id": np.arange(len(users))}, len(lengths) + 1)


def test_a_time_boundary_on_whole_numbers_is_exact() -> None:
    """Nanoseconds 1 apart are one number in float64: the boundary stands between them all the same."""
    base = 1_700_000_000_000_000_000
    histories = of_lengths(11)
    times = base + np.arange(11, dtype=np.int64)
    split = by_time_ratio(histories, [0.5, 0.2, 0.3], times)
    # examples 1..10; 70 % of the way from the first to the last of the ten is 6.3: examples 1..7 lie at or below
    assert split.test.target.tolist() == [8, 9, 10]
    # int(7 * 0.5 / 0.7) = 5
    assert split.train.target.tolist() == [1, 2, 3, 4, 5]
    assert split.valid.target.tolist() == [6, 7]


def test_rows_are_as_narrow_as_the_positions_allow() -> None:
    for length, kind in ((200, np.uint8), (300, np.uint16), (70_000, np.int32)):
        histories = of_lengths(length)
        times = histories.place.astype(np.float64)
        for split in (
            leave_one_out(histories),
            by_ratio(histories, [0.8, 0.1, 0.1], True),
            by_ratio(histories, [0.8, 0.1, 0.1], False),
            by_time_ratio(histories, [0.8, 0.1, 0.1], times),
        ):
            for rows in (split.train, split.valid, split.test):
                assert rows.target.dtype == kind


def test_runs() -> None:
    histories = of_lengths(4, 6)
    begin, count = np.array([7, 0, 2, 5]), np.array([3, 0, 2, 1])
    assert runs(begin, count, histories).tolist() == [7, 8, 9, 2, 3, 5]
    assert runs(begin[:0], count[:0], histories).tolist() == []


def test_users_without_interactions_and_single_ones_give_no_row() -> None:
    split = leave_one_out(of_lengths(0, 1, 4, 0, 2))
    assert split.train.target.tolist() == [2, 6]
    assert split.valid.target.tolist() == [3]
    assert split.test.target.tolist() == [4]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            lambda h: leave_one_out(h, "valid_and_tst"),
            r"eval_args\.split\.LS must be one of valid_and_test, valid_only",
        ),
        (
            leave_one_out,
            r"longest history has 2 interactions, leave-one-out \(valid_and_test\) needs .* 4",
        ),
        (lambda h: leave_one_out(h, "test_only"), r"\(test_only\) needs at least 3"),
        (lambda h: by_ratio(h, [0.8, 0.2], True), r"eval_args\.split\.RS must be three ratios"),
        (lambda h: by_ratio(h, [0.0, 0.5, 0.5], True), r"the first above 0, got \[0\.0"),
        (lambda h: by_ratio(h, [0.8, float("nan"), 0.1], True), r"must be three ratios"),
        (lambda h: by_ratio(h, [0.8, 0.1, 0.1], True), r"RS \[0\.8, 0\.1, 0\.1\] leaves no validation row of 2"),
        (lambda h: by_time_ratio(h, [1, 1], np.zeros(5)), r"eval_args\.split\.TS must be three ratios"),
        (
            lambda h: by_time_ratio(h, [0.8, 0.1, 0.1], np.zeros(5)),
            r"TS \[0\.8, 0\.1, 0\.1\] leaves no training row of 2",
        ),
        (lambda h: by_time_ratio(of_lengths(1), [1, 1, 1], np.zeros(1)), r"no user has two interactions"),
    ],
)
def test_impossible_settings(split: Callable[[Histories], Split], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        split(of_lengths(2, 1, 2))
    assert "\n" not in str(caught.value)


def test_shares_are_divided_by_their_sum() -> None:
    assert normalised_shares([8, 1, 1], "split_ratio") == [0.8, 0.1, 0.1]
